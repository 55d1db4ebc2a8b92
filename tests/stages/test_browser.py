"""A `universal` file really plays in a browser: time goes on, there is a picture of the right size, and no error."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.browser import chromium, played
from tests.support.clips import clip, make
from tests.support.matrix import ROWS, Row, shown
from tidegate.model import ProfileName
from tidegate.stages import Workbench

pytestmark = [pytest.mark.ci, pytest.mark.skipif(chromium() is None, reason="there is no chromium")]

WATCHED = {
    "h264+aac ts": (160, 120),
    "anamorphic": (256, 144),
    "hdr pq": (160, 120),
    "variable rate, encoded": (160, 120),
    "interlaced": (160, 120),
    "odd size": (160, 120),
    "three tracks": (160, 120),
    "cover art": (160, 120),
    "srt": (160, 120),
    "h264 full range": (160, 120),
}
OFTEN = ("h264+aac ts", "anamorphic", "cover art")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow) for name in WATCHED]
)
def test_a_universal_file_plays(name: str, bench: Workbench, clips: Path) -> None:
    [row] = [row for row in ROWS if row.name == name]
    facts = played(_universal(row, bench, clips))
    assert facts["how"] == "played", facts
    assert (facts["width"], facts["height"]) == WATCHED[name], "as it is shown, not as it is stored"
    assert facts["at"] > 1 and facts["error"] is None
    assert facts["frames"] > 5 and facts["seconds"] == pytest.approx(4, abs=0.5)


def test_the_browser_tells_what_it_cannot_play(clips: Path) -> None:
    """Otherwise the test above could not fail."""
    facts = played(clip(clips, "mpeg2_mp2_mpg", seconds=2))
    assert facts["how"] != "played"


def _universal(row: Row, bench: Workbench, clips: Path) -> Path:
    source = make(clips, f"browser-{row.name.replace(' ', '-')}", row.recipe, seconds=4, size=row.size)
    return shown(bench, row.name, source, ProfileName.UNIVERSAL).path

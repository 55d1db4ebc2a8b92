"""A transcode that needs more than its rung allows: the next smaller picture, told, and kept by the next run."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import imageio_ffmpeg
import psutil
import pytest

from tests.support.aftermath import (
    end_of,
    failure_told,
    left_running,
    marked_processes,
    unfinished_files,
    wait_in,
    witness,
    works,
)
from tests.support.clips import clip
from tests.support.command import Command

LARGE = "854x480"
SHORT_OF_MEMORY = 'echo "[error] Error while filtering: Cannot allocate memory" >&2; exit 1'


@pytest.fixture
def film(clips: Path) -> Path:
    """A picture that has to be encoded, higher than two rungs."""
    return clip(clips, "vp9_opus_webm", seconds=2, size=LARGE)


def greedy(folder: Path, *, above: int, and_then: str = ":") -> Path:
    """The real ffmpeg, but short of memory for every encoded picture of more than `above` lines.

    `and_then` is what the shell does before it encodes a smaller one.
    """
    lines = '$(echo "$*" | sed -n "s/.*scale=[-0-9]*:\\([0-9]*\\).*/\\1/p")'
    before = (
        f'case "$*" in *libx264*) lines={lines}\n'
        f'  if [ "${{lines:-9999}}" -gt {above} ]; then {SHORT_OF_MEMORY}; fi; {and_then} ;;\nesac'
    )
    return witness(folder, before=before)


def encoded(tool: Path) -> list[str]:
    """Each encoding that was begun."""
    return [call for call in works(tool) if "libx264" in call]


def height(document: Mapping[str, Any]) -> int:
    return int(document["output"]["video"]["height"])


def artifacts(api: str, flow_run: str, kind: str) -> list[str]:
    """What the Prefect UI shows beside a run."""
    wanted = {"flow_runs": {"id": {"any_": [flow_run]}}, "artifacts": {"type": {"any_": [kind]}}}
    answer = httpx.post(f"{api}/artifacts/filter", json=wanted)
    return [artifact["data"] for artifact in answer.raise_for_status().json()]


@pytest.mark.first
def test_what_does_not_fit_into_memory_is_made_smaller_and_stays_so(
    command: Command, film: Path, tmp_path: Path, prefect_server: str
) -> None:
    tool = greedy(tmp_path, above=300)
    command.environment["TIDEGATE_TOOLS_FFMPEG"] = str(tool)
    ended = command.run(str(film))
    assert ended.code == 0, ended.stderr
    assert height(ended.document) == 240
    assert [(tried["resolver"], tried["rendition"], tried["failure"]) for tried in ended.document["tried"]] == [
        ("transcode", "720p", "memory_exhausted"),
        ("transcode", "360p", "memory_exhausted"),
    ], "480p would make it no smaller"
    assert [finding["code"] for finding in ended.document["findings"]] == ["stepped_down"]
    assert ended.document["output"]["aim"] == {"rung": "worst", "height": 240}
    assert "Stepping down to a picture of 240 lines" in ended.stderr
    assert "given up" in Path(ended.document["report"]["html"]).read_text()
    [told] = artifacts(prefect_server, str(ended.document["flow_run_id"]), "markdown")
    assert told.startswith("# transcode to mp4") and "memory" in told and "at most 240 lines" in told
    begun = len(encoded(tool))
    again = command.run(str(film))
    assert height(again.document) == 240 and again.document["stages"]["remux"]["cached"]
    assert len(encoded(tool)) == begun, "what stands is not tried again from the top"
    assert left_running(command) == [] and unfinished_files(command) == []


def test_where_nothing_smaller_fits_the_run_fails_and_says_what_was_tried(
    command: Command, film: Path, tmp_path: Path
) -> None:
    command.environment["TIDEGATE_TOOLS_FFMPEG"] = str(greedy(tmp_path, above=0))
    ended = command.run(str(film))
    failure = failure_told(ended, code=1, kind="memory_exhausted")
    assert failure["stage"] == "remux"
    assert [tried["rendition"] for tried in ended.document["tried"]] == ["720p", "360p"]
    assert list(command.output.rglob("*.mp4")) == []


@pytest.mark.slow
def test_a_run_that_is_killed_below_goes_on_below(command: Command, film: Path, tmp_path: Path) -> None:
    tool = greedy(tmp_path, above=300, and_then="sleep 600")
    command.environment["TIDEGATE_TOOLS_FFMPEG"] = str(tool)
    with command.started(str(film)) as process:
        wait_in(process, lambda: any(re.search(r"scale=\d+:240", call) for call in encoded(tool)))
        process.send_signal(signal.SIGKILL)
    begun = len(encoded(tool))
    greedy(tmp_path, above=300)
    ended = command.run(str(film))
    assert ended.code == 0, ended.stderr
    assert height(ended.document) == 240
    assert [bool(re.search(r"scale=\d+:240", call)) for call in encoded(tool)[begun:]] == [True]
    assert len(ended.document["tried"]) == 2, "the report tells the whole story"


def test_an_explicit_rung_caps_the_picture_and_begins_there(command: Command, film: Path, tmp_path: Path) -> None:
    tool = greedy(tmp_path, above=400)
    command.environment["TIDEGATE_TOOLS_FFMPEG"] = str(tool)
    ended = command.run(str(film), "--quality", "360p")
    assert ended.code == 0, ended.stderr
    assert height(ended.document) == 360 and ended.document["tried"] == []
    assert len(encoded(tool)) == 1


def test_sound_alone_cannot_be_made_smaller(command: Command, clips: Path, tmp_path: Path) -> None:
    """A film whose sound alone is encoded: a smaller picture would only cost more."""
    film = tmp_path / "film.mkv"
    words = ["-i", str(clip(clips, seconds=2)), "-c:v", "copy", "-c:a", "libopus", str(film)]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *words], check=True)
    tool = witness(tmp_path, before=f'case "$*" in *"-c:a aac"*) {SHORT_OF_MEMORY} ;; esac')
    command.environment["TIDEGATE_TOOLS_FFMPEG"] = str(tool)
    ended = command.run(str(film))
    failure_told(ended, code=1, kind="memory_exhausted")
    assert ended.document["tried"] == []


CAP_BYTES = 200_000_000
"""Less than x264 needs for 1080 lines (some 250 MB), and more than for 480 (some 110 MB)."""
TICK_SECONDS = 0.5


@pytest.mark.parametrize("guard", ["auto", pytest.param("sampling", marks=pytest.mark.slow)])
def test_a_memory_cap_below_the_need_is_kept_and_the_transcode_completes_smaller(
    guard: str, command: Command, clips: Path
) -> None:
    film = clip(clips, "mpeg4_mp3_avi", seconds=4, size="1920x1080")
    command.environment |= {
        "TIDEGATE_PROCESS_MEMORY_CAP": str(CAP_BYTES),
        "TIDEGATE_PROCESS_MEMORY_GUARD": guard,
        "TIDEGATE_PROCESS_TICK": str(TICK_SECONDS),
        "TIDEGATE_PROCESS_SAMPLE_EVERY": "0.1",
    }
    with command.started(str(film)) as process:
        held = watched(command, process)
        ended = end_of(process, seconds=120)
    assert ended.code == 0, ended.stderr
    # The next smaller picture is tried first, not the one after it.
    steps = {720: {"rung": "720p", "height": 720}, 480: {"rung": "480p", "height": 480}}
    assert ended.document["output"]["aim"] == steps[height(ended.document)]
    tried, *_ = ended.document["tried"]
    assert len(ended.document["tried"]) == (1 if height(ended.document) == 720 else 2)
    assert (tried["resolver"], tried["failure"]) == ("transcode", "memory_exhausted")
    assert f"cap of {CAP_BYTES / 1e6:.0f} MB" in tried["message"]
    assert max(size for _, size in held) > CAP_BYTES / 2, "the tool was seen"
    assert longest_above(held, CAP_BYTES * 1.1) <= TICK_SECONDS


def watched(command: Command, process: subprocess.Popen[str]) -> list[tuple[float, int]]:
    """Until the command ends: (time, resident bytes of every ffmpeg of it), as somebody else sees it."""
    held = []
    while process.poll() is None:
        sizes = []
        for one in marked_processes(command):
            with contextlib.suppress(psutil.Error):
                if "ffmpeg" in one.name():
                    sizes.append(one.memory_info().rss)
        held.append((time.monotonic(), sum(sizes)))
        time.sleep(0.02)
    return held


def longest_above(held: list[tuple[float, int]], limit: float) -> float:
    """The longest stretch, in seconds, in which every look found more than `limit`."""
    longest, since = 0.0, None
    for at, size in held:
        since = (since or at) if size > limit else None
        longest = max(longest, at - since if since else 0.0)
    return longest

"""A detector is one entry: its filter, its lines, and what they mean."""

from __future__ import annotations

import sys

import anyio
import pytest

from tests.stages.conftest import Made
from tidegate.model import ProfileName, Quality
from tidegate.stages import Workbench, analyze, remux
from tidegate.stages.detectors import DETECTORS, Detector, Reading, line_filter


def test_a_new_detector_gets_the_lines_that_it_says(
    bench: Workbench, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(lines: list[str], length: float) -> Reading:
        return Reading(values={"lines": float(sum("mean:" in line for line in lines))})

    picture = Detector("picture", "video", "showinfo", read, r"Parsed_showinfo.* mean:")
    monkeypatch.setattr(sys.modules[analyze.__module__], "DETECTORS", (*DETECTORS, picture))
    media = anyio.run(remux, bench, made("h264_aac_mp4"), ProfileName.UNIVERSAL, Quality.AUTO, "new-detector")
    found = anyio.run(analyze, bench, media, "new-detector").of("picture")
    assert found is not None and found.state == "done"
    assert found.values["lines"] == media.media.video.frames  # type: ignore[union-attr]


def test_lines_of_a_detector_that_does_not_run_are_not_kept() -> None:
    by_name = {detector.name: detector for detector in DETECTORS}
    line = "[silencedetect @ 0x55] silence_start: 1.5"
    assert line_filter([by_name["silence"]])(line)
    assert not line_filter([by_name["black"], by_name["loudness"]])(line)

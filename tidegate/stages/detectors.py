"""What the analysis looks for: one `Detector` for each question, all answered in one decode pass.

A new detector is one entry in `DETECTORS`: an ffmpeg filter, which of its lines are kept, and a function that reads
them. The analyze stage chains the filters and hands each detector the lines of the whole pass.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from tidegate.model import Detection, Interval

BLACK_SECONDS = 0.5
"""Shortest black stretch that is reported."""
FREEZE_SECONDS = 2.0
"""Shortest frozen stretch that is reported."""
SILENCE_SECONDS = 1.0
"""Shortest silent stretch that is reported."""

RANGE_SECONDS = 60.0
"""Below it a loudness range says little (EBU Tech 3342 §2)."""
SHORT = "less than a minute was measured: its loudness range is not meaningful"

_NUMBER = r"(-?\d+(?:\.\d+)?(?:e-?\d+)?)"


@dataclass(frozen=True)
class Reading:
    """What a detector has read from the lines."""

    intervals: tuple[Interval, ...] = ()
    values: dict[str, float] | None = None
    remark: str = ""
    """What a reader of the values must know."""


@dataclass(frozen=True)
class Detector:
    """One question to the picture or the sound."""

    name: str
    kind: Literal["video", "audio"]
    filter: str
    """An ffmpeg filter that passes its input on unchanged."""
    read: Callable[[list[str], float], Reading]
    """From the pass's lines and the media's length in seconds."""
    says: str
    """A regular expression of the lines that `read` needs; the others are not kept, however long the film is."""

    def detection(self, lines: list[str], length: float) -> Detection:
        found = self.read(lines, length)
        return Detection(
            detector=self.name, state="done", reason=found.remark, intervals=found.intervals, values=found.values or {}
        )


def line_filter(detectors: Iterable[Detector]) -> Callable[[str], bool]:
    """Whether any of these detectors reads a line."""
    says = [re.compile(detector.says) for detector in detectors]
    return lambda line: any(pattern.search(line) for pattern in says)


def _stretches(name: str, kind: Literal["video", "audio"], options: str) -> Detector:
    """ffmpeg's filters `NAMEdetect` log `NAME_start: 1.5` and `NAME_end: 2.5`."""
    # From the beginning of the line: a title in the file may hold the same words further on.
    begin = rf"^\[(?:Parsed_)?{name}detect\w* @ .*{name}_"

    def read(lines: list[str], length: float) -> Reading:
        starts, ends = (_numbers(lines, rf"{begin}{edge}:\s*{_NUMBER}") for edge in ("start", "end"))
        return Reading(_intervals(starts, ends, length))

    return Detector(name, kind, f"{name}detect={options}", read, rf"{begin}(?:start|end):")


def _loudness(lines: list[str], length: float) -> Reading:
    """ffmpeg prints the summary once for each time the graph was set up: the last one counts."""
    read = {
        "integrated_lufs": _numbers(lines, rf"^\s*I:\s+{_NUMBER} LUFS"),
        "loudness_range_lu": _numbers(lines, rf"^\s*LRA:\s+{_NUMBER} LU\b"),
        "true_peak_dbtp": _numbers(lines, rf"^\s*Peak:\s+{_NUMBER} dBFS"),
    }
    measured = {name: values[-1] for name, values in read.items() if values and math.isfinite(values[-1])}
    return Reading(values=measured, remark=SHORT if length < RANGE_SECONDS else "")


def _numbers(lines: Iterable[str], pattern: str) -> list[float]:
    found = re.compile(pattern)
    return [float(match[1]) for line in lines if (match := found.search(line))]


def _intervals(starts: list[float], ends: list[float], length: float) -> tuple[Interval, ...]:
    """Starts with their ends; one that is still open when the media ends, ends with it."""
    closed = [*ends, *[length] * (len(starts) - len(ends))]
    return tuple(
        Interval(start_seconds=max(0.0, start), end_seconds=min(end, length) if length else end)
        for start, end in zip(starts, closed, strict=False)
    )


DETECTORS: tuple[Detector, ...] = (
    _stretches("black", "video", f"d={BLACK_SECONDS}:pix_th=0.10"),
    _stretches("freeze", "video", f"n=-60dB:d={FREEZE_SECONDS}"),
    _stretches("silence", "audio", f"n=-50dB:d={SILENCE_SECONDS}"),
    Detector("loudness", "audio", "ebur128=peak=true:framelog=verbose", _loudness, r"^\s*(?:I|LRA|Peak):"),
)
"""Loudness and true peak after EBU R 128 / ITU-R BS.1770, as ffmpeg's ebur128 measures them."""

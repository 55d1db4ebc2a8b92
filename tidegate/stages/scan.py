"""Are the pictures whole, or two fields each? Found out by looking at them: what the header says is often wrong.

The remux stage asks where the answer matters. One short run of ffmpeg with its filter `idet` over a few samples; a
sample that cannot be decoded tells nothing, and the header is believed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from tidegate.errors import Extra, TidegateError
from tidegate.events import Note, ignore_events
from tidegate.media.ffmpeg import Toolchain, file_url, global_arguments, input_restrictions, run_ffmpeg
from tidegate.model import DownloadResult, MediaInfo, StreamInfo
from tidegate.resilience.deadline import process_seconds
from tidegate.stages.workbench import Workbench

SAMPLES, SAMPLE_SECONDS = 4, 5.0
"""How many samples, evenly spread, and how long each is."""

SURE = 10
"""How many times as many pictures must show fields as show none, where the header says that there are none."""
Scan = Literal["progressive", "tff", "bff"]

IDET_SUMMARY = r"Multi frame detection: TFF:\s*(\d+) BFF:\s*(\d+) Progressive:\s*(\d+)"


async def look_at_samples(
    bench: Workbench, toolchain: Toolchain, source: DownloadResult, memory_cap_bytes: int | None
) -> MediaInfo:
    """Its media, with what samples of the pictures show. Samples that fail leave it to the header."""
    video = source.media.video
    assert video is not None  # noqa: S101
    path = bench.store.path(source.asset, source.asset.tracks[video.track])
    lines: list[str] = []
    limits = bench.settings.process
    try:
        await run_ffmpeg(
            sample_arguments(toolchain, path, video, source.media.length_seconds),
            stage="remux",
            limits=limits,
            deadline_seconds=process_seconds(limits, source.asset.size_bytes),
            media_seconds=None,
            observe=ignore_events,
            memory_cap_bytes=memory_cap_bytes,
            on_stderr=lambda line: lines.append(line) if "detection:" in line else None,
        )
    except TidegateError as error:
        if Extra.SAMPLE not in error.policy.goes_without:
            raise
        bench.observe(Note(f"remux: no sample of the pictures could be looked at: {error.message}", "warning"))
    scan = scan_of(lines, header_says_whole=video.field_order == "progressive")
    seen = video.model_copy(update={"scan": scan})
    streams = tuple(seen if stream.index == video.index else stream for stream in source.media.streams)
    return source.media.model_copy(update={"streams": streams})


def sample_arguments(toolchain: Toolchain, source: Path, video: StreamInfo, length: float | None) -> list[str]:
    """The command line: each sample is an input of its own, so that nothing between them is decoded."""
    inputs, outputs = [], []
    for number, at in enumerate(sample_places(length or 0.0)):
        # All inputs are decoded at once; with a thread for each core they would hold as many pictures each.
        inputs += [*("-threads", "1", "-ss", f"{at:.3f}", "-t", f"{SAMPLE_SECONDS:g}"), *input_restrictions()]
        inputs += ["-i", file_url(source)]
        place = video.index if video.place is None else video.place
        outputs += ["-map", f"{number}:{place}", "-vf", "idet", "-f", "null", "-"]
    return [*global_arguments(toolchain.ffmpeg), *inputs, *outputs]


def sample_places(length: float) -> list[float]:
    """Where the samples begin, in seconds; a short film is one."""
    if length <= SAMPLES * SAMPLE_SECONDS:
        return [0.0]
    return [(length - SAMPLE_SECONDS) * number / SAMPLES for number in range(SAMPLES)]


def scan_of(lines: Iterable[str], *, header_says_whole: bool = False) -> Scan | None:
    """By the majority of the pictures that showed anything; None when none did. Against a header that says that they
    are whole, a simple majority is not enough.

    Interlaced pictures agree on their first field. Fine patterns and captions, which idet takes for fields, do not:
    a progressive test card was called 47 times top first, 45 times bottom first and 8 times whole.
    """
    found = [[int(number) for number in match.groups()] for line in lines if (match := re.search(IDET_SUMMARY, line))]
    top, bottom, whole = (sum(column) for column in zip(*found, strict=True)) if found else (0, 0, 0)
    if not top + bottom + whole:
        return None
    others = (SURE if header_says_whole else 1) * whole
    if max(top, bottom) <= max(others, 2 * min(top, bottom)):
        return "progressive"
    return "tff" if top > bottom else "bff"

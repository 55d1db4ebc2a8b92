"""What it costs to hold tools to their files and off the network: 20 small items, with and without.

An item is what a small source costs in tools: a probe, a copy by ffmpeg, and a look at every frame of the result. The
shorter the film, the more of its time is the start of processes, so this is the worst case.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio

from benchmarks.pairs import Pairs, measure
from tests.support.clips import clip
from tidegate.events import ignore_events
from tidegate.media.ffmpeg import Toolchain, base_arguments, file_url, run_ffmpeg
from tidegate.media.inspect import inspect
from tidegate.settings import ProcessSettings, ToolSettings

ITEMS = 20
"""Each a pair of its own, one after the other: a busy machine drifts within seconds."""


def results() -> Iterator[Pairs]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        film, out = clip(folder, "h264_aac_mp4", seconds=2), folder / "work" / "out.mkv"
        out.parent.mkdir()
        yield measure(
            f"{ITEMS} small items (probe, copy, decode), their tools confined ÷ not confined",
            lambda: anyio.run(_item, film, out, ProcessSettings()),
            lambda: anyio.run(_item, film, out, ProcessSettings(confine="off")),
            goal=1.05,
            pairs=ITEMS,
        )


async def _item(film: Path, out: Path, limits: ProcessSettings) -> None:
    ffmpeg = Toolchain.find(ToolSettings()).ffmpeg
    await inspect(film, "header", limits, 60.0, stage="probe", observe=ignore_events)
    argv = [*base_arguments(ffmpeg, film), "-c", "copy", file_url(out)]
    await run_ffmpeg(
        argv,
        stage="remux",
        limits=limits,
        deadline_seconds=60.0,
        media_seconds=2.0,
        observe=ignore_events,
        outputs=(out,),
        memory_cap_bytes=1_000_000_000,
    )
    await inspect(out, "frames", limits, 60.0, stage="remux", observe=ignore_events)

"""What believing no exit code costs: a result inspected, whole or in samples, beside one bare decode by ffmpeg."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from benchmarks.pairs import Pairs, measure
from tests.support.clips import clip
from tidegate.events import ignore_events
from tidegate.media.ffmpeg import Toolchain
from tidegate.media.inspect import inspect
from tidegate.settings import ProcessSettings, ToolSettings

SECONDS = 60
TIMES = 10
"""How often the film of the sampled inspection repeats it: only long ones are sampled."""


def results() -> Iterator[Pairs]:
    with tempfile.TemporaryDirectory() as folder:
        tool = Toolchain.find(ToolSettings()).ffmpeg
        short = clip(Path(folder), seconds=SECONDS, size="1280x720")
        long = Path(folder) / "long.mp4"
        repeat = ["-stream_loop", str(TIMES - 1), "-i", str(short), "-map", "0", "-c", "copy", str(long)]
        subprocess.run([str(tool), "-nostdin", "-v", "error", *repeat], check=True)
        for film, seconds, depth, goal in ((short, SECONDS, "frames", 1.5), (long, TIMES * SECONDS, "sampled", 1.0)):
            streams = ["-map", "0:v", "-map", "0:a", "-f", "null", "-"]
            yield measure(
                f"verification of {seconds} s of 720p, {depth}, ÷ one decode by ffmpeg",
                partial(_inspect, film, depth),
                partial(subprocess.run, [str(tool), "-nostdin", "-v", "error", "-i", str(film), *streams], check=True),
                goal=goal,
                pairs=5,
            )


def _inspect(film: Path, depth: Literal["frames", "sampled"]) -> None:
    asyncio.run(inspect(film, depth, ProcessSettings(), 600.0, stage="remux", observe=ignore_events))

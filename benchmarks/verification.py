"""What believing no exit code costs: every frame of a result inspected, beside one bare decode of it by ffmpeg."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.pairs import Pairs, measure
from tests.support.clips import clip
from tidegate.events import unobserved
from tidegate.process.ffmpeg import Toolchain
from tidegate.process.inspect import inspect
from tidegate.settings import ProcessSettings, ToolSettings

SECONDS = 60


def results() -> Iterator[Pairs]:
    with tempfile.TemporaryDirectory() as folder:
        source = clip(Path(folder), seconds=SECONDS, size="1280x720")
        tool = Toolchain.find(ToolSettings()).ffmpeg
        bare = [
            str(tool),
            "-nostdin",
            "-v",
            "error",
            "-i",
            str(source),
            "-map",
            "0:v",
            "-map",
            "0:a",
            "-f",
            "null",
            "-",
        ]
        for depth, goal in (("frames", 1.5), ("sampled", 1.0)):
            yield measure(
                f"verification of {SECONDS} s of 720p, {depth}, ÷ one decode by ffmpeg",
                lambda depth=depth: asyncio.run(_inspected(source, depth)),  # type: ignore[misc]
                lambda: subprocess.run(bare, check=True),
                goal=goal,
                pairs=5,
            )


async def _inspected(path: Path, depth: str) -> None:
    await inspect(path, depth, ProcessSettings(), 600.0, stage="remux", observe=unobserved)  # type: ignore[arg-type]

"""What supervision costs: the same transcode under `run_ffmpeg` and run bare."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.pairs import Pairs, measure
from tests.support.clips import clip
from tidegate.events import unobserved
from tidegate.process.ffmpeg import Toolchain, base_arguments, file_url, run_ffmpeg
from tidegate.settings import ProcessSettings, ToolSettings

SECONDS = 60


def results() -> Iterator[Pairs]:
    with tempfile.TemporaryDirectory() as folder:
        source = clip(Path(folder), seconds=SECONDS, size="1280x720")
        output = Path(folder) / "out.mp4"
        toolchain = Toolchain.find(ToolSettings())
        words = ["-c:v", "libx264", "-preset", "veryfast", "-c:a", "aac", "-f", "mp4", file_url(output)]
        ours = [*base_arguments(toolchain.ffmpeg, source), *words]
        bare = [str(toolchain.ffmpeg), "-nostdin", "-v", "error", "-y", "-i", str(source), *words]
        yield measure(
            "supervised ffmpeg ÷ bare ffmpeg",
            lambda: asyncio.run(_supervised(ours, output)),
            lambda: subprocess.run(bare, check=True),
            goal=1.03,
            pairs=9,
        )


async def _supervised(argv: list[str], output: Path) -> None:
    await run_ffmpeg(
        argv,
        stage="remux",
        limits=ProcessSettings(),
        deadline_seconds=600,
        media_seconds=SECONDS,
        observe=unobserved,
        outputs=(output,),
    )

"""What supervision costs: the same transcode under `run_ffmpeg` and run bare; and what its monitor costs by itself."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.pairs import Pairs, measure
from tests.support.clips import clip
from tidegate.events import ignore_events
from tidegate.media.ffmpeg import Toolchain, base_arguments, file_url, run_ffmpeg
from tidegate.process.supervise import Job, run
from tidegate.settings import ProcessSettings, ToolSettings

SECONDS = 30
CAP_BYTES = 8 * 1024**3
"""Of the rung 720p: with it, the monitor looks twice a second where it enforces the cap by itself."""
WATCHED_SECONDS = 30
"""How long a child is watched to learn what watching costs."""
TIMES = 3


def results() -> Iterator[Pairs]:
    with tempfile.TemporaryDirectory() as folder:
        source = clip(Path(folder), seconds=SECONDS, size="1280x720")
        output = Path(folder) / "out.mp4"
        toolchain = Toolchain.find(ToolSettings())
        words = ["-c:v", "libx264", "-preset", "veryfast", "-c:a", "aac", "-f", "mp4", file_url(output)]
        ours = [*base_arguments(toolchain.ffmpeg, source), *words]
        bare = [str(toolchain.ffmpeg), "-nostdin", "-v", "error", "-y", "-i", str(source), *words]
        for guard in ("cgroup", "sampling"):
            limits = ProcessSettings(memory_guard=guard)
            yield measure(
                f"supervised ffmpeg, its memory capped by {guard} ÷ bare ffmpeg",
                lambda limits=limits: asyncio.run(_supervised(ours, output, limits)),  # type: ignore[misc]
                lambda: subprocess.run(bare, check=True),
                goal=1.02,
                pairs=7,
            )


def figures() -> Iterator[Figure]:
    """Watched by a monitor that samples twice a second, and by none, in processes of their own."""
    on = [_watching("on") for _ in range(TIMES)]
    off = [_watching("off") for _ in range(TIMES)]
    cpu = statistics.median(one["cpu"] for one in on) - statistics.median(one["cpu"] for one in off)
    memory = statistics.median(one["memory"] for one in on) - statistics.median(one["memory"] for one in off)
    yield Figure("processor time of the monitor, in % of a core", 100 * cpu / WATCHED_SECONDS, "%", goal=1.0)
    yield Figure("memory of the monitor", memory / 1024**2, "MB", goal=20.0)


async def _supervised(argv: list[str], output: Path, limits: ProcessSettings) -> None:
    await run_ffmpeg(
        argv,
        stage="remux",
        limits=limits,
        deadline_seconds=600,
        media_seconds=SECONDS,
        observe=ignore_events,
        outputs=(output,),
        memory_cap_bytes=CAP_BYTES,
    )


def _watching(supervision: str) -> dict[str, float]:
    argv = [sys.executable, "-m", "benchmarks.supervised_ffmpeg", supervision]
    told: dict[str, float] = json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)
    return told


def _watch(supervision: str) -> None:
    """Watch an ffmpeg that encodes slowly, and tell what this process needed for it."""
    limits = ProcessSettings(memory_guard="sampling", supervision=supervision)  # type: ignore[arg-type]
    picture = f"testsrc2=size=640x360:rate=25:duration={WATCHED_SECONDS}"
    words = ["-nostdin", "-v", "error", "-re", "-f", "lavfi", "-i", picture, "-c:v", "libx264", "-f", "null", "-"]
    job = Job("ffmpeg", [str(Toolchain.find(ToolSettings()).ffmpeg), *words], 600.0, memory_cap_bytes=CAP_BYTES)
    before = os.times()
    asyncio.run(run(job, limits))
    after = os.times()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"cpu": after.user + after.system - before.user - before.system, "memory": memory}))


if __name__ == "__main__":
    _watch(sys.argv[1])

"""A transcode in chunks against the same one whole, and what more workers would make of it.

The peer is our own stage with chunks switched off; both verify what they made. The scaling is simulated: each chunk's
time is measured alone on one thread, and the chunks are then dealt to so many workers; the look at the film before,
the join and the verification after it do not get shorter.
"""

from __future__ import annotations

import heapq
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import anyio
import imageio_ffmpeg
from pydantic import SecretStr

from benchmarks.command_start import ROOT
from benchmarks.figures import Figure, plot
from benchmarks.pairs import Pairs, measure
from tests.support.clips import PICTURE, SOUND, Recipe, lavfi, make
from tidegate import stages
from tidegate.events import Observer
from tidegate.model import DownloadResult, ProbeResult, ProfileName, Quality, RemuxResult, Source
from tidegate.settings import ProcessSettings, Settings, StoreSettings, ToolSettings
from tidegate.stages import Workbench
from tidegate.stages.chunks.job import ChunkFile, ChunkJob
from tidegate.stages.chunks.job import make as make_chunk
from tidegate.transfer.resolvers.base import WHOLE_FILE

SECONDS, SIZE = 240, "1280x720"
CHUNK_SECONDS = 60
SHORT_CHUNK_SECONDS = 10
"""Of the simulation, so that sixteen workers have something to do."""
WORKERS = (1, 2, 4, 8, 16)
PICTURE_FILE = ROOT / "docs" / "benchmarks-chunks.svg"
FILM = Recipe(
    ".mkv",
    lavfi(PICTURE, SOUND),
    ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p10le", "-g", "50", "-c:a", "libopus"),
)


def results() -> Iterator[Pairs]:
    with tempfile.TemporaryDirectory() as folder:
        source = _downloaded(Path(folder))
        yield measure(
            f"a film of {SECONDS} s at 720p transcoded in chunks of {CHUNK_SECONDS} s ÷ whole",
            lambda: _transcoded(Path(folder), source, CHUNK_SECONDS),
            lambda: _transcoded(Path(folder), source, 0),
            goal=1.05,
            pairs=5,
            warm_up=0,
        )


def figures() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        source = _downloaded(Path(folder))
        alone = _OneByOne()
        started = time.perf_counter()
        _transcoded(Path(folder), source, SHORT_CHUNK_SECONDS, alone)
        around = time.perf_counter() - started - sum(alone.seconds)
    taken = {workers: around + makespan(alone.seconds, workers) for workers in WORKERS}
    times_faster = [(float(workers), taken[1] / seconds) for workers, seconds in taken.items()]
    plot(PICTURE_FILE, "transcode in chunks, simulated workers", times_faster, ("workers", "times as fast as one"))
    yield Figure(f"before and after {len(alone.seconds)} pieces: look, join, verify", around, "s")
    for workers, faster in times_faster:
        yield Figure(f"simulated: {workers:.0f} workers of one thread", faster, "× one")


def makespan(seconds: Sequence[float], workers: int) -> float:
    """How long so many workers take for pieces that they take up in their order."""
    free_at = [0.0] * workers
    for each in seconds:
        heapq.heapreplace(free_at, free_at[0] + each)
    return max(free_at)


class _OneByOne:
    """An executor that makes every piece alone, on one thread, and notes how long it took."""

    name = "one by one"
    workers = 1

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def threads_each(self, threads: int) -> int:
        return 1

    async def run(
        self,
        jobs: Sequence[ChunkJob],
        observe: Callable[[ChunkJob], Observer],
        on_done: Callable[[ChunkJob, ChunkFile], None],
    ) -> None:
        for job in jobs:
            started = time.perf_counter()
            on_done(job, await make_chunk(job, observe(job)))
            self.seconds.append(time.perf_counter() - started)


def _bench(folder: Path, chunk_seconds: float, executor: _OneByOne | None = None) -> Workbench:
    settings = Settings(
        store=StoreSettings(home=folder / "home"),
        process=ProcessSettings(chunk_seconds=chunk_seconds),
        tools=ToolSettings(ffmpeg=imageio_ffmpeg.get_ffmpeg_exe()),
    )
    return Workbench(settings, executor=executor)


def _downloaded(folder: Path) -> DownloadResult:
    film = make(folder, "film", FILM, seconds=SECONDS, size=SIZE)

    async def run() -> DownloadResult:
        bench, source = _bench(folder, 0), Source(url=SecretStr(film.as_uri()))
        identity, _ = await stages.identify(bench, source)
        probe = ProbeResult(
            identity=identity, resolver="local", renditions=(WHOLE_FILE,), preview=None, recorded_at=datetime.now(UTC)
        )
        return await stages.download(bench, source, probe, WHOLE_FILE, identity.key)

    return anyio.run(run)


def _transcoded(folder: Path, source: DownloadResult, chunk_seconds: float, executor: _OneByOne | None = None) -> None:
    bench = _bench(folder, chunk_seconds, executor)
    bench.home.clear_scratch("bench")
    result: RemuxResult = anyio.run(stages.remux, bench, source, ProfileName.UNIVERSAL, Quality.AUTO, "bench")
    assert result.chunks is not None and bool(result.chunks.planned) == bool(chunk_seconds), result.chunks

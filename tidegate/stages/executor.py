"""Who makes the chunks of a transcode: this host, or others.

The transcode stage hands all chunks that are missing to one executor. Whoever it is: a chunk is made by
`chunks.job.make`, which records it before it tells; the first failure ends the others; and nothing of them runs when
`run` returns. `tasks/dask.py` has one that spreads them over a Dask cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import anyio

from tidegate.errors import reason_of
from tidegate.events import Observer
from tidegate.settings import ProcessSettings
from tidegate.stages.chunks.job import ChunkFile, ChunkJob, make

THREADS_OF_A_WORKER = 4
"""Beyond it one more thread gains less than a second worker does; but a crash costs one chunk for each worker."""


class Executor(Protocol):
    """Makes the chunks of a transcode, here or elsewhere."""

    @property
    def name(self) -> str:
        """For the record: "local"."""

    @property
    def workers(self) -> int:
        """How many chunks it makes at once; of a cluster, known once it has run."""

    def threads_each(self, threads: int) -> int:
        """How many of an encoder's threads each of them may have."""

    async def run(
        self,
        jobs: Sequence[ChunkJob],
        observe: Callable[[ChunkJob], Observer],
        on_done: Callable[[ChunkJob, ChunkFile], None],
    ) -> None:
        """Make all of them. `observe` gives the observer of a job; `on_done` hears of each as it is recorded.

        Raises:
            TidegateError: the first failure; chunks that were recorded stay.
        """


class LocalExecutor:
    """Children of this process: so many workers that all threads have work, and no more.

    The sound needs a thread only now and then, and is made beside the first chunks, as it would be in a whole file.
    """

    name = "local"

    def __init__(self, workers: int) -> None:
        self.workers = workers

    @classmethod
    def of(cls, limits: ProcessSettings, threads: int) -> LocalExecutor:
        """As set, or one worker for every THREADS_OF_A_WORKER threads."""
        wanted = limits.chunk_workers or max(1, threads // THREADS_OF_A_WORKER)
        return cls(min(wanted, threads))

    def threads_each(self, threads: int) -> int:
        return max(1, threads // self.workers)

    async def run(
        self,
        jobs: Sequence[ChunkJob],
        observe: Callable[[ChunkJob], Observer],
        on_done: Callable[[ChunkJob, ChunkFile], None],
    ) -> None:
        places = anyio.Semaphore(self.workers)

        async def in_turn(job: ChunkJob) -> None:
            async with places:
                on_done(job, await make(job, observe(job)))

        async def beside(job: ChunkJob) -> None:
            on_done(job, await make(job, observe(job)))

        try:
            async with anyio.create_task_group() as group:
                for job in jobs:
                    group.start_soon(beside if job.frames is None else in_turn, job)
        except BaseExceptionGroup as failures:
            raise reason_of(failures) from None

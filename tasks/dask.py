"""Chunks of a transcode on other hosts: an executor that hands them to a Dask cluster through Prefect's task runner.

`tasks/remux.py` uses it where `TIDEGATE_PROCESS_CHUNK_CLUSTER` names a scheduler. Each worker runs its ffmpeg under
supervision, in a scratch folder that all hosts share, and records the chunk itself; what is recorded is done, whoever
dies. A worker that dies loses its chunk to another one; a run that ends, or dies, takes its workers' ffmpeg along.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext, TaskRunContext

from tidegate.errors import (
    BadInput,
    ProcessKilled,
    ServerUnavailable,
    TidegateError,
    ToolMissing,
    as_failure,
    reason_of,
)
from tidegate.events import Advance, Event, Note, Observer
from tidegate.stages import Workbench
from tidegate.stages.chunks.job import ChunkFile, ChunkJob, make
from tidegate.stages.cluster import is_encrypted, is_far_and_open, who_gets_in

if TYPE_CHECKING:
    from prefect_dask.task_runners import DaskTaskRunner

LOOK_SECONDS = 0.5
"""How often the run looks at its chunks, and a worker whether its chunk is still wanted."""
UNWANTED_SECONDS = 60.0
"""A worker gives its chunk up when the run has shown no life for so long: it was killed, or its host is gone."""
NO_WORKER_SECONDS = 120.0
"""How long a run waits for a cluster in which no worker is left."""
GOODBYE_SECONDS = 20.0
"""How long a run that ends waits for its workers to end their ffmpeg."""
CONNECT_SECONDS = 10
CERTIFICATE = ("ca-file", "client.cert", "client.key")
"""What Dask has to be told before it can speak to a scheduler over TLS; below `distributed.comm.tls`."""


def with_cluster(bench: Workbench) -> Workbench:
    """The workbench with the executor that its settings ask for."""
    address = bench.settings.process.chunk_cluster
    if address is None or bench.executor is not None:
        return bench
    if is_far_and_open(address):
        warning = (
            f"The Dask cluster at {address} asks nobody who he is: {who_gets_in(address)} can run code on its workers"
        )
        bench.observe(Note(f"{warning}; let it speak tls:// (docs/stages/transcode.md)", "warning"))
    return replace(bench, executor=DaskExecutor(address))


class DaskExecutor:
    """An `Executor` that hands chunks to the workers of a Dask cluster."""

    name = "dask"

    def __init__(self, address: str) -> None:
        self.address = address
        self.workers = 0
        """Known once it has run."""

    def threads_each(self, threads: int) -> int:
        """A worker is taken for a host of its own, like this one."""
        return threads

    async def run(
        self,
        jobs: Sequence[ChunkJob],
        observe: Callable[[ChunkJob], Observer],
        on_done: Callable[[ChunkJob, ChunkFile], None],
    ) -> None:
        """As `Executor.run` says.

        Raises:
            ServerUnavailable: the scheduler does not answer, or no worker is left.
            ProcessKilled: chunks killed one worker after the other.
        """
        wanted = jobs[0].folder / f"wanted-{secrets.token_hex(4)}"
        wanted.touch()
        runner = _runner(self.address)
        futures: dict[str, Any] = {}
        try:
            await to_thread.run_sync(_begin, runner, jobs, wanted, futures)
            await self._watch(runner, jobs, futures, wanted, observe, on_done)
        finally:
            wanted.unlink(missing_ok=True)
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(_end, runner, list(futures.values()))

    async def _watch(
        self,
        runner: DaskTaskRunner,
        jobs: Sequence[ChunkJob],
        futures: dict[str, Any],
        wanted: Path,
        observe: Callable[[ChunkJob], Observer],
        on_done: Callable[[ChunkJob, ChunkFile], None],
    ) -> None:
        open_jobs = {job.key: job for job in jobs}
        alone_since: float | None = None
        while open_jobs:
            workers = await to_thread.run_sync(_workers, runner)
            self.workers = max(self.workers, workers)
            alone_since = None if workers else alone_since or time.monotonic()
            if alone_since is not None and time.monotonic() - alone_since > NO_WORKER_SECONDS:
                raise ServerUnavailable(
                    f"The cluster at {self.address} has had no worker for {NO_WORKER_SECONDS:.0f} s"
                )
            for key, job in list(open_jobs.items()):
                if futures[key].wrapped_future.done():
                    file = await to_thread.run_sync(_result, job, futures[key])
                    on_done(job, file)
                    del open_jobs[key]
                else:
                    _tell(job, observe(job))
            await to_thread.run_sync(wanted.touch)
            await anyio.sleep(LOOK_SECONDS if open_jobs else 0.0)


def _runner(address: str) -> DaskTaskRunner:
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise ToolMissing("TIDEGATE_PROCESS_CHUNK_CLUSTER needs prefect-dask: pip install 'tidegate[dask]'") from error
    _require_certificate(address)
    return DaskTaskRunner(address=address, client_kwargs={"timeout": CONNECT_SECONDS, "set_as_default": False})


def _require_certificate(address: str) -> None:
    """Without one Dask fails with words about a context that is missing.

    Raises:
        BadInput: the cluster speaks TLS, and Dask's own settings name no certificate for us.
    """
    if not is_encrypted(address):
        return
    from dask import config

    missing = [name for name in CERTIFICATE if not config.get(f"distributed.comm.tls.{name}", None)]
    if missing:
        variables = ", ".join(f"DASK_DISTRIBUTED__COMM__TLS__{_as_variable(name)}" for name in missing)
        raise BadInput(f"The cluster at {address} wants a certificate: set {variables}, or Dask's own settings file")


def _as_variable(name: str) -> str:
    return name.replace(".", "__").replace("-", "_").upper()


def _begin(runner: DaskTaskRunner, jobs: Sequence[ChunkJob], wanted: Path, futures: dict[str, Any]) -> None:
    """Connect, and hand all chunks over. Blocking, in a thread and so in a context of its own."""
    _travel_light()
    runner.__enter__()  # type: ignore[no-untyped-call]
    try:
        for job in jobs:
            futures[job.key] = runner.submit(chunk, {"job": job, "wanted": wanted})
    except OSError as error:
        raise ServerUnavailable(f"The Dask scheduler at {runner.address} does not answer: {error}") from error


def _travel_light() -> None:
    """Prefect sends the run's context along: the task with its workbench, whose locks cannot be sent, and the flow with
    its parameters, which are nobody's business there. The run that the chunks belong to is enough."""
    TaskRunContext.__var__.set(None)  # type: ignore[arg-type]
    run = FlowRunContext.get()
    if run is not None:
        FlowRunContext.__var__.set(run.model_copy(update={"flow": _chunks, "parameters": {}}))


def _end(runner: DaskTaskRunner, futures: Sequence[Any]) -> None:
    """Wait for the workers to notice that nothing is wanted any more, and disconnect. Blocking."""
    until = time.monotonic() + GOODBYE_SECONDS
    with contextlib.suppress(Exception):  # a cluster that is gone has nothing to wait for
        while futures and time.monotonic() < until and _busy(runner):
            time.sleep(LOOK_SECONDS)
    with contextlib.suppress(Exception):
        runner.__exit__(None, None, None)


def _busy(runner: DaskTaskRunner) -> bool:
    processing: dict[str, Any] = runner.client.processing()  # type: ignore[no-untyped-call]
    return any(processing.values())


def _workers(runner: DaskTaskRunner) -> int:
    with contextlib.suppress(Exception):
        return len(runner.client.ncores())  # type: ignore[no-untyped-call]
    return 0


def _result(job: ChunkJob, future: Any) -> ChunkFile:
    """The chunk that a worker made.

    Raises:
        TidegateError: its failure.
    """
    try:
        result = future.result(raise_on_failure=False)
    except Exception as error:
        raise ProcessKilled(f"{job.title} was lost with its workers: {error}") from error
    if isinstance(result, BaseException):
        raise result if isinstance(result, TidegateError) else as_failure(result)
    return ChunkFile.model_validate(result)


def _progress_of(job: ChunkJob) -> Path:
    return job.folder / f"{job.key}.progress"


def _tell(job: ChunkJob, observe: Observer) -> None:
    """How far a worker says it is."""
    with contextlib.suppress(OSError, ValueError):
        observe(Advance("remux", float(_progress_of(job).read_text()), job.length_seconds, "seconds"))


# --- on a worker ------------------------------------------------------------------------------------


@task(name="chunk", task_run_name="{job.title}", persist_result=False, cache_policy=NO_CACHE)
async def chunk(job: ChunkJob, wanted: Path) -> ChunkFile:
    """Make one chunk, for as long as the run that wants it lives."""
    files: list[ChunkFile] = []

    async def work() -> None:
        files.append(await make(job, _note_progress(job)))
        group.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(work)
            group.start_soon(_watch_for_end, wanted, job)
    except BaseExceptionGroup as failures:
        raise reason_of(failures) from None
    finally:
        _progress_of(job).unlink(missing_ok=True)
    return files[0]


def _note_progress(job: ChunkJob) -> Observer:
    def note(event: Event) -> None:
        if isinstance(event, Advance):
            with contextlib.suppress(OSError):
                _progress_of(job).write_text(f"{event.done:.3f}")

    return note


@flow(name="chunks", persist_result=False)
def _chunks() -> None:
    """Stands on workers for the flow that the chunks belong to."""


async def _watch_for_end(wanted: Path, job: ChunkJob) -> None:
    """Returns never.

    Raises:
        ProcessKilled: the run took its wish back, or died.
    """
    seen, at = 0, time.monotonic()
    while True:
        try:
            now = (await to_thread.run_sync(wanted.stat)).st_mtime_ns
        except FileNotFoundError:
            raise ProcessKilled(f"{job.title} is no longer wanted") from None
        if now != seen:
            seen, at = now, time.monotonic()
        if time.monotonic() - at > UNWANTED_SECONDS:
            raise ProcessKilled(f"{job.title} was given up: its run has shown no life for {UNWANTED_SECONDS:.0f} s")
        await anyio.sleep(LOOK_SECONDS)

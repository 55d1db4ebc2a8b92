"""The one way to run an external tool.

Stages call `run`. The child gets its own session, no stdin, and drained pipes; a watch looks at its progress and at
its deadline, a monitor at what it uses and at its memory cap. Whatever ends the run (the child's exit, a stall, a
limit, cancellation, an error of ours), its whole group, and whatever left the group, is gone before `run` returns.
Should this process itself be killed, the kernel kills the child.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import IO

import anyio

from tidegate.durable.children import ProcessGroup, register_child
from tidegate.errors import ProcessKilled, ProcessTimeout, StalledProcess, reason_of
from tidegate.events import ToolEnded
from tidegate.process.child import Child, end, memory_failure, spawn, wait_for_exit
from tidegate.process.job import Job, JobResult
from tidegate.process.monitor import monitor
from tidegate.process.output import Output
from tidegate.resilience.deadline import extension_seconds
from tidegate.settings import ProcessSettings

__all__ = ["DRAIN_SECONDS", "Job", "JobResult", "run"]

READ_BYTES = 64 * 1024
DRAIN_SECONDS = 2.0
"""How long the pipes may stay open after the whole group was killed; then somebody outside of it holds them."""

_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""Signals that people and kernels send; the others (SIGSEGV, SIGABRT …) are the tool's own crash."""


async def run(job: Job, limits: ProcessSettings) -> JobResult:
    """Run a tool to its own end; a non-zero exit is for the caller to read.

    Raises:
        ToolMissing: there is no such program.
        StalledProcess: no progress within the stall timeout.
        ProcessTimeout: the deadline has passed.
        MemoryExhausted: it needed more memory than its cap.
        ProcessKilled: a signal from outside ended the child.
    """
    child = spawn(job, limits)
    group = ProcessGroup(group=child.pid, started=child.born, name=job.name)
    with register_child(group):
        try:
            await _run_to_end(child)
        finally:
            try:
                await end(child)
            finally:
                job.observe(ToolEnded(job.stage, job.name, child.resource_use()))
    code = child.process.returncode
    assert code is not None  # noqa: S101  # it was reaped by `end`
    if child.exhausted:
        raise memory_failure(child, code)
    if -code in _FROM_OUTSIDE:
        name = signal.Signals(-code).name
        raise ProcessKilled(f"{job.name} was ended by {name} from outside", evidence=child.evidence(code))
    return JobResult(job, code, child.stdout, child.stderr, child.elapsed, child.resource_use(), child.monitored)


async def _run_to_end(child: Child) -> None:
    """Watch it until it has ended by itself, with its pipes drained and its group gone."""
    try:
        async with anyio.create_task_group() as siblings:
            siblings.start_soon(_watch, child)
            if child.monitored:
                siblings.start_soon(monitor, child)
            async with anyio.create_task_group() as pipes:
                pipes.start_soon(_drain, _pipe(child.process.stdout), child.stdout)
                pipes.start_soon(_drain, _pipe(child.process.stderr), child.stderr)
                await wait_for_exit(child.pid)
                child.cpu_seconds = child.tree.cpu_seconds()
                child.kill()  # the leader is a zombie, so the group's number is still ours
                pipes.cancel_scope.deadline = anyio.current_time() + DRAIN_SECONDS
            siblings.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise reason_of(group) from None


def _pipe(pipe: IO[bytes] | None) -> int:
    assert pipe is not None  # noqa: S101  # `child.spawn` asks for both
    os.set_blocking(pipe.fileno(), False)
    return pipe.fileno()


async def _drain(handle: int, output: Output) -> None:
    """Read until the pipe ends: a full pipe would block the child for ever."""
    while True:
        await anyio.wait_readable(handle)
        with contextlib.suppress(BlockingIOError):
            data = os.read(handle, READ_BYTES)
            if not data:
                output.close()
                return
            output.feed(data)


async def _watch(child: Child) -> None:
    """Look every tick: is it still moving, and is there time left?"""
    job, limits = child.job, child.limits
    share_before = 0.0
    while True:
        await anyio.sleep(limits.tick.total_seconds())
        now = job.clock()
        read, written = _input_bytes(child.pid), _output_bytes(job.outputs)
        child.progress.record(now, **job.marks(), written_bytes=written, read_bytes=read)
        elapsed = now - child.started
        if limits.supervision == "on" and child.progress.is_stalled(now):
            idle = child.progress.idle_seconds(now)
            message = f"{job.name} made no progress for {idle:.1f} s and was ended"
            raise StalledProcess(message, evidence=child.evidence(idle=idle))
        if elapsed > child.deadline:
            share = job.share()
            extended = extension_seconds(elapsed=elapsed, share=share, share_before=share_before)
            if extended is None:
                message = f"{job.name} was ended at its limit of {child.deadline:.0f} s"
                raise ProcessTimeout(message, evidence=child.evidence())
            child.deadline, share_before = extended, share or 0.0


def _input_bytes(pid: int) -> int:
    """Bytes that the process has read so far (proc(5), rchar); 0 where the kernel does not tell.

    With +faststart ffmpeg rewrites the whole file after the last frame: no progress line, and no growth either, for
    minutes. But it reads. Bytes written are no such sign: the progress report itself is written.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/io").read_text().split()[1])
    return 0


def _output_bytes(outputs: tuple[Path, ...]) -> int:
    sizes = 0
    for path in outputs:
        with contextlib.suppress(OSError):
            sizes += path.stat().st_size
    return sizes

"""The one way to run an external tool.

Stages call `run`. The child gets its own session, no stdin, and drained pipes; a watch looks at its progress and at
its deadline; whatever ends the run (the child's exit, a stall, the deadline, cancellation, an error of ours), its
whole process group is gone before `run` returns. Should this process itself be killed, the kernel kills the child.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import anyio

from tidegate.durable.children import ProcessGroup, marked, recorded
from tidegate.durable.owner import started_at
from tidegate.errors import (
    Evidence,
    ProcessKilled,
    ProcessTimeout,
    StalledProcess,
    ToolMissing,
    from_os_error,
    reason_of,
)
from tidegate.process.kinship import die_with_parent
from tidegate.process.output import LineSink, Output, ignore_line
from tidegate.resilience.deadline import extended_seconds
from tidegate.resilience.stall import ProgressClock
from tidegate.settings import ProcessSettings

READ_BYTES = 64 * 1024
DRAIN_SECONDS = 2.0
"""How long the pipes may stay open after the whole group was killed; then somebody outside of it holds them."""
REAP_SECONDS = 10.0
"""How long a killed child may take to go; longer means that the kernel itself cannot end it."""
POLL_SECONDS = 0.05
"""How often the child is looked at where the kernel does not tell: without pidfd, or while somebody traces it."""

_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""Signals that people and kernels send; the others (SIGSEGV, SIGABRT …) are the tool's own crash."""


@dataclass
class Job:
    """One run of a tool."""

    name: str
    """For messages: "ffmpeg"."""
    argv: list[str]
    deadline_seconds: float
    outputs: tuple[Path, ...] = ()
    """Files whose growth counts as progress: a muxer is silent while it rewrites its output."""
    marks: Callable[[], dict[str, float]] = dict
    """The latest progress marks, as the job's own parser has them."""
    share: Callable[[], float | None] = lambda: None
    """How much of the work is done, 0 to 1; None where nobody can tell, and then the deadline is final."""
    on_stdout: LineSink = ignore_line
    on_stderr: LineSink = ignore_line
    environment: Mapping[str, str] | None = None
    """What its environment has beyond ours."""
    folder: Path | None = None
    """Where it runs; None: here."""
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class Finished:
    """A child that ended by itself."""

    job: Job = field(repr=False)
    exit_code: int
    """As a shell tells it, but −N for signal N."""
    stdout: Output
    stderr: Output
    seconds: float

    @property
    def evidence(self) -> Evidence:
        return _evidence(self.job, self.stderr, self.seconds, self.exit_code)


async def run(job: Job, limits: ProcessSettings) -> Finished:
    """Run a tool to its own end; a non-zero exit is for the caller to read.

    Raises:
        ToolMissing: there is no such program.
        StalledProcess: no progress within the stall timeout.
        ProcessTimeout: the deadline has passed.
        ProcessKilled: a signal from outside ended the child.
    """
    stdout, stderr = Output(job.on_stdout), Output(job.on_stderr)
    started = job.clock()
    child = _spawn(job)
    group = ProcessGroup(group=child.pid, started=started_at(child.pid) or 0, name=job.name)
    with recorded(group):
        try:
            await _watched(job, child, limits, stdout, stderr, started)
        finally:
            await _end(child, limits)
    seconds = job.clock() - started
    assert child.returncode is not None  # noqa: S101  # _exited has returned
    if -child.returncode in _FROM_OUTSIDE:
        name = signal.Signals(-child.returncode).name
        evidence = _evidence(job, stderr, seconds, child.returncode)
        raise ProcessKilled(f"{job.name} was ended by {name} from outside", evidence=evidence)
    return Finished(job, child.returncode, stdout, stderr, seconds)


async def _watched(
    job: Job,
    child: subprocess.Popen[bytes],
    limits: ProcessSettings,
    stdout: Output,
    stderr: Output,
    started: float,
) -> None:
    """Until the child has ended by itself, with its pipes drained and its group gone."""
    try:
        async with anyio.create_task_group() as siblings:
            siblings.start_soon(_watch, job, child.pid, limits, stderr, started)
            async with anyio.create_task_group() as pipes:
                pipes.start_soon(_drain, _pipe(child.stdout), stdout)
                pipes.start_soon(_drain, _pipe(child.stderr), stderr)
                await _exited(child.pid)
                _signal_group(child, signal.SIGKILL)  # the leader is a zombie, so the group's number is still ours
                pipes.cancel_scope.deadline = anyio.current_time() + DRAIN_SECONDS
            siblings.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise reason_of(group) from None


def _spawn(job: Job) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            job.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, **(job.environment or {}), **marked()},
            cwd=job.folder,
            # Without it a SIGKILL of this process leaves the tool running, writing into a file that the next run owns.
            preexec_fn=die_with_parent,
        )
    except FileNotFoundError as error:
        raise ToolMissing(f"{job.name} is not installed at {job.argv[0]}") from error
    except OSError as error:
        raise from_os_error(error, f"starting {job.name}") from error


def _pipe(pipe: IO[bytes] | None) -> int:
    assert pipe is not None  # noqa: S101  # _spawn asks for both
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


async def _exited(pid: int) -> None:
    """Wait until the child has ended, without reaping it."""
    try:
        handle = os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, an old kernel, or a sandbox that forbids it
        while not _is_zombie(pid):  # noqa: ASYNC110  # there is nothing to wait on
            await anyio.sleep(POLL_SECONDS)
        return
    try:
        await anyio.wait_readable(handle)
    finally:
        os.close(handle)


def _is_zombie(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


async def _watch(job: Job, pid: int, limits: ProcessSettings, stderr: Output, started: float) -> None:
    """Look every tick: is it still moving, and is there time left?"""
    progress = ProgressClock(started, limits.startup_grace, limits.stall_timeout)
    limit, share_before = job.deadline_seconds, 0.0
    while True:
        await anyio.sleep(limits.tick.total_seconds())
        now = job.clock()
        progress.record(now, **job.marks(), written_bytes=_written(job.outputs), read_bytes=_read(pid))
        elapsed = now - started
        if progress.stalled(now):
            idle = progress.idle_seconds(now)
            evidence = _evidence(job, stderr, elapsed, None, idle)
            raise StalledProcess(f"{job.name} made no progress for {idle:.1f} s and was ended", evidence=evidence)
        if elapsed > limit:
            share = job.share()
            extended = extended_seconds(elapsed=elapsed, share=share, share_before=share_before)
            if extended is None:
                evidence = _evidence(job, stderr, elapsed, None)
                raise ProcessTimeout(f"{job.name} was ended at its limit of {limit:.0f} s", evidence=evidence)
            limit, share_before = extended, share or 0.0


def _read(pid: int) -> int:
    """Bytes that the process has read so far (proc(5), rchar); 0 where the kernel does not tell.

    With +faststart ffmpeg rewrites the whole file after the last frame: no progress line, and no growth either, for
    minutes. But it reads. Bytes written are no such sign: the progress report itself is written.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/io").read_text().split()[1])
    return 0


def _written(outputs: tuple[Path, ...]) -> int:
    sizes = 0
    for path in outputs:
        with contextlib.suppress(OSError):
            sizes += path.stat().st_size
    return sizes


async def _end(child: subprocess.Popen[bytes], limits: ProcessSettings) -> None:
    """TERM, wait, KILL, to the group; then reap. Runs shielded; a second Ctrl-C that breaks the shield still kills."""
    try:
        if not _is_zombie(child.pid):
            with anyio.CancelScope(shield=True), anyio.move_on_after(limits.end_grace.total_seconds()):
                _signal_group(child, signal.SIGTERM)
                _signal_group(child, signal.SIGCONT)  # a stopped process acts on TERM only once it goes on
                await _exited(child.pid)
    finally:
        _signal_group(child, signal.SIGKILL)
        try:
            with anyio.CancelScope(shield=True), anyio.move_on_after(REAP_SECONDS):
                # A child in an uninterruptible system call (a dead network disk) must not take the event loop along.
                await _exited(child.pid)
                while child.poll() is None:  # noqa: ASYNC110  # whoever traces it (strace, a debugger) is told first
                    await anyio.sleep(POLL_SECONDS)
        finally:
            child.poll()
            for pipe in (child.stdout, child.stderr):
                if pipe is not None:
                    pipe.close()


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal the child's group; only while the child is not reaped, so that the number cannot be somebody else's."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)


def _evidence(job: Job, stderr: Output, seconds: float, exit_code: int | None, idle: float | None = None) -> Evidence:
    return Evidence(
        command=tuple(job.argv),
        exit_code=exit_code,
        output_head=stderr.head,
        output_tail=stderr.tail,
        waited_seconds=idle,
        resources={"seconds": round(seconds, 3)},
        notes={name: f"{value:g}" for name, value in job.marks().items()},
    )

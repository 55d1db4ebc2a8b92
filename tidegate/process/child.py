"""A child process from its birth to its end, and everything by which it can be ended.

The supervisor starts it with `spawn` and always calls `end`. After that nothing of it is left: no process of its group
or of any other that carries its mark, no descriptor, no control group. Should this process be killed, the kernel kills
the child; what that one had started is found by its mark (`leftovers`) or in its control group (`cgroup`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import psutil

from tidegate.durable.children import mark_variable
from tidegate.durable.owner import start_of
from tidegate.errors import Evidence, MemoryExhausted, PermissionRefused, ToolMissing, from_os_error
from tidegate.model import ResourceUse
from tidegate.process.cgroup import MemoryGroup
from tidegate.process.confine import Confinement
from tidegate.process.environment import child_environment
from tidegate.process.job import Job, evidence_of, memory_cap
from tidegate.process.kinship import CHILD_MARK, born_into, end_strays
from tidegate.process.output import Output
from tidegate.process.rights import escapes_by_privilege, rights_of
from tidegate.process.tree import Tree
from tidegate.process.usage import MemoryGuard, Sample, Use
from tidegate.resilience.stall import ProgressClock
from tidegate.settings import ProcessSettings

REAP_SECONDS = 10.0
"""How long a killed child may take to go; longer means that the kernel itself cannot end it."""
POLL_SECONDS = 0.05
"""How often the child is looked at where the kernel does not tell: without pidfd, or while somebody traces it."""
MEMORY_BACKED = frozenset({"tmpfs", "ramfs", "devtmpfs"})
"""File systems whose files a control group counts as memory of whoever writes them, and cannot give back."""


@dataclass
class Child:
    """One child, what is known of it so far, and everything by which it can be ended."""

    job: Job
    limits: ProcessSettings
    process: subprocess.Popen[bytes]
    mark: str
    started: float
    group: MemoryGroup | None
    stdout: Output
    stderr: Output
    born: int = 0
    monitored: bool = False
    exhausted: bool = False
    """Whether the kernel killed for want of memory; known at the end."""
    deadline: float = 0.0
    """As it is now: it is extended while the work advances."""
    use: Use = field(default_factory=Use)
    cpu_seconds: float = 0.0
    ended_after: float | None = None
    alone: bool = False
    """Whether it has ended and nothing that it started is left: nothing can come any more."""

    def __post_init__(self) -> None:
        self.born = start_of(self.pid) or 0
        self.deadline = self.job.deadline_seconds
        self.monitored = self.limits.supervision == "on"
        self.progress = ProgressClock(self.started, self.limits.startup_grace, self.limits.stall_timeout)
        self.tree = Tree(self.pid, self.mark, self.group.members if self.group else None)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def elapsed(self) -> float:
        return self.job.clock() - self.started if self.ended_after is None else self.ended_after

    @property
    def cap_bytes(self) -> int | None:
        return memory_cap(self.job, self.limits)

    @property
    def enforced_by(self) -> MemoryGuard:
        if self.group:
            return "cgroup"
        return "sampling" if self.cap_bytes is not None and self.monitored else "none"

    def resource_use(self) -> ResourceUse:
        return self.use.total(
            self.elapsed, cap_bytes=self.cap_bytes, enforced_by=self.enforced_by, cpu_seconds=self.cpu_seconds
        )

    def evidence(self, exit_code: int | None = None, idle: float | None = None) -> Evidence:
        return evidence_of(self.job, self.stderr, self.resource_use(), exit_code, idle)

    def signal(self, number: signal.Signals) -> None:
        """To its group; only while it is not reaped, so that the number cannot be somebody else's."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def kill(self) -> bool:
        """SIGKILL to its group and to whatever has left the group. Whether anything of the latter was there."""
        self.signal(signal.SIGKILL)
        if self.alone:
            return False
        if self.group:
            self.group.kill()
        # Twice, because one that forked and ended while it was looked for hides its child from the first look.
        found = end_strays(self.mark, self.born) or end_strays(self.mark, self.born)
        self.alone = not found and is_zombie(self.pid)
        return found


def spawn(job: Job, limits: ProcessSettings) -> Child:
    """Start it.

    Raises:
        ToolMissing: there is no such program.
        HostFailure: the system does not start it, or does not let it be confined.
    """
    group, mark = _memory_group(job, limits), secrets.token_hex(8)
    started, process = job.clock(), None
    try:
        process = _start(job, limits, mark, group)
    except FileNotFoundError as error:
        raise ToolMissing(f"{job.name} is not installed at {job.argv[0]}") from error
    except OSError as error:
        raise from_os_error(error, f"starting {job.name}", job.argv[0]) from error
    except subprocess.SubprocessError as error:  # what runs between fork and exec has failed
        raise PermissionRefused(
            f"The system does not let {job.name} be confined",
            hint="TIDEGATE_PROCESS_CONFINE=off starts tools without it; `python -m flows.doctor` says what works here",
        ) from error
    finally:
        if group and (process is None or not (group.members() or is_zombie(process.pid))):
            group.remove()  # nothing was started, or we may make groups, but not move a process into one
            group = None
    return Child(job, limits, process, mark, started, group, Output(job.on_stdout), Output(job.on_stderr))


def _start(job: Job, limits: ProcessSettings, mark: str, group: MemoryGroup | None) -> subprocess.Popen[bytes]:
    environment = {
        **child_environment(os.environ, network=job.network != "none", more=limits.more_names),
        **(job.environment or {}),
        **mark_variable(),
        CHILD_MARK: mark,
    }
    confinement = _confinement(job, limits, environment)
    handle = group.open() if group else None
    try:
        return subprocess.Popen(
            job.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=environment,
            cwd=job.folder,
            # Without it a SIGKILL of this process leaves the tool running, writing into a file that the next run owns.
            preexec_fn=born_into(handle, confined=confinement.put_on if confinement else None),
        )
    finally:
        if handle is not None:
            os.close(handle)
        if confinement is not None:
            confinement.close()


def _confinement(job: Job, limits: ProcessSettings, environment: Mapping[str, str]) -> Confinement | None:
    """What the kernel is to forbid it; None where nothing is, or a program could not start then."""
    if limits.confine == "off" or sys.platform != "linux" or escapes_by_privilege(job.argv[0]):
        return None
    return Confinement(rights_of(job, limits, environment), job.network)


def _memory_group(job: Job, limits: ProcessSettings) -> MemoryGroup | None:
    """A control group for a job with a cap, where there may be one."""
    cap = memory_cap(job, limits)
    if cap is None or limits.memory_guard == "sampling" or any(map(_in_memory, job.outputs)):
        return None
    return MemoryGroup.make(cap)


def _in_memory(path: Path) -> bool:
    """Whether a file written there takes memory for as long as it exists."""
    kinds = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    mounts = (str(folder) for folder in path.absolute().parents)
    return next((kinds[mount] for mount in mounts if mount in kinds), "") in MEMORY_BACKED


async def wait_for_exit(pid: int) -> None:
    """Wait until the child has ended, without reaping it."""
    try:
        handle = os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, an old kernel, or a sandbox that forbids it
        while not is_zombie(pid):  # noqa: ASYNC110  # there is nothing to wait on
            await anyio.sleep(POLL_SECONDS)
        return
    try:
        await anyio.wait_readable(handle)
    finally:
        os.close(handle)


def is_zombie(pid: int) -> bool:
    """Whether it has ended, and nobody has reaped it."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


async def end(child: Child) -> None:
    """TERM, wait, KILL, to the group; then reap. Runs shielded; a second Ctrl-C that breaks the shield still kills."""
    process = child.process
    try:
        if not is_zombie(child.pid):
            with anyio.CancelScope(shield=True), anyio.move_on_after(child.limits.end_grace.total_seconds()):
                child.signal(signal.SIGTERM)
                child.signal(signal.SIGCONT)  # a stopped process acts on TERM only once it goes on
                await wait_for_exit(child.pid)
    finally:
        child.kill()
        try:
            with anyio.CancelScope(shield=True), anyio.move_on_after(REAP_SECONDS):
                # A child in an uninterruptible system call (a dead network disk) must not take the event loop along.
                await wait_for_exit(child.pid)
                while child.kill():  # noqa: ASYNC110  # what left the group, until the last of it is gone
                    await anyio.sleep(POLL_SECONDS)
                child.ended_after = child.elapsed
                while process.poll() is None:  # noqa: ASYNC110  # whoever traces it (strace, a debugger) is told first
                    await anyio.sleep(POLL_SECONDS)
                await _clear_group(child)
        finally:
            process.poll()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
            if child.group:
                child.group.remove()


async def _clear_group(child: Child) -> None:
    """Read what the kernel has counted, then remove the group; its last member may still be on its way out."""
    if child.group:
        child.exhausted = child.group.was_exhausted()
        if child.exhausted or not child.use.samples:
            note_peak(child)
        while not child.group.remove():  # nobody tells when it is empty
            child.group.kill()
            await anyio.sleep(POLL_SECONDS)


def note_peak(child: Child) -> None:
    """The kernel's own count of a child that was killed before a look saw how much it had."""
    most = child.group.peak_bytes() if child.group else None
    if most and most > child.use.peak_memory_bytes:
        child.use.add(Sample(child.elapsed, most, 0.0))


def memory_failure(child: Child, exit_code: int | None) -> MemoryExhausted:
    """The failure of a child that was at its cap."""
    cap = (child.cap_bytes or 0) / 1e6
    message = f"{child.job.name} needed more memory than its cap of {cap:.0f} MB and was ended"
    return MemoryExhausted(message, evidence=child.evidence(exit_code))

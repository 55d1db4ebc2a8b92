"""Which process owns something, told from any other that ever ran.

The ledger's attempts, secret files and the record of `make serve` carry an owner. After a crash one question matters,
`is_provably_gone`: yes means that nobody is at work any more; anything uncertain means no, and time decides.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path

import psutil

from tidegate.model import Value

INITIAL_NAMESPACE = 0xEFFFFFFC
"""Inode of the PID namespace that a kernel starts with (PROC_PID_INIT_INO of linux/proc_ns.h)."""


class Owner(Value):
    """One process: its host, the boot of that host, its PID namespace, its number and its start there."""

    host: str
    boot: str
    namespace: int
    """Inode of the PID namespace; 0 where the system has none."""
    pid: int
    started: int
    """Clock ticks from the boot to its start; where the kernel does not tell, hundredths of a second of its epoch."""


def this_process() -> Owner:
    """Who we are. Not cached: a forked child is somebody else."""
    pid = os.getpid()
    return Owner(host=_host(), boot=_boot(), namespace=_namespace(), pid=pid, started=start_of(pid) or 0)


def is_provably_gone(owner: Owner, here: Owner, started: Callable[[int], int | None] | None = None) -> bool:
    """Whether the owner has certainly ended, as seen from the process `here`.

    Containers share a boot id and see other processes under other numbers: within one PID namespace the process table
    knows, and a boot of the same host ended everything that the one before had started. Of all others nothing is known.
    `started` gives the start of a living process, None when there is none; by default it asks the kernel.
    """
    if owner.host != here.host:
        return False
    if owner.boot != here.boot:
        return owner.namespace == here.namespace and here.namespace in (INITIAL_NAMESPACE, 0)
    if owner.namespace != here.namespace:
        return False
    if started is not None:
        return started(owner.pid) != owner.started
    return start_of(owner.pid) != owner.started and not _is_hidden(owner.pid)


def start_of(pid: int) -> int | None:
    """The start of the living process of that number; None when there is none. A zombie does not live."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else _start_by_psutil(pid)
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])


def _is_hidden(pid: int) -> bool:
    """Whether another user's process of that number lives, of which `hidepid` (proc(5)) lets us learn nothing."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return not os.access(f"/proc/{pid}/stat", os.R_OK)
    except OSError:
        return False
    return False


def _start_by_psutil(pid: int) -> int | None:
    try:
        return int(psutil.Process(pid).create_time() * 100)
    except psutil.Error:
        return None


def _host() -> str:
    """`TIDEGATE_HOST_ID`, else name and machine id: cloned machines share the one, renamed ones keep the other."""
    host = os.environ.get("TIDEGATE_HOST_ID")
    return host or f"{platform.node()}-{_read('/etc/machine-id')[:8]}"


def _boot() -> str:
    """`TIDEGATE_BOOT_ID`, else the kernel's."""
    return os.environ.get("TIDEGATE_BOOT_ID") or _read("/proc/sys/kernel/random/boot_id") or str(psutil.boot_time())


def _namespace() -> int:
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""

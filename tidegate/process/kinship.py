"""What belongs to a child: its end with ours, the group that it is born into, and everything that it started.

The supervisor and the command's own server start their children with it: a SIGKILL of this process would otherwise
leave a tool running, writing into files that the next run owns. Linux only; elsewhere it does nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable

from tidegate.durable.owner import start_of

CHILD_MARK = "TIDEGATE_CHILD"
"""The environment variable that a supervised child and everything below it carry: a number of its own."""

_PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""

_libc = ctypes.CDLL(None)  # here, because nothing may be loaded between fork and exec


def die_with_parent() -> None:
    """Runs in the child, between fork and exec: the kernel sends it SIGKILL when the thread that started it ends."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def born_into(group: int | None, *, confined: Callable[[], None] | None) -> Callable[[], None]:
    """What runs in a child between fork and exec: it dies with us, leaves no core dump, becomes a member of the control
    group whose open list of members is `group` before it uses memory, and is `confined` last of all."""

    def begin() -> None:
        die_with_parent()
        # A core dump holds links and film. Where dumps go to a program, it is told of this limit and keeps to it.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if group is not None:
            with contextlib.suppress(OSError):  # where it may not, the supervisor sees that it is no member
                os.write(group, b"0")
        if confined is not None:
            confined()

    return begin


def strays(mark: str, since: int) -> list[int]:
    """Living processes that carry a child's mark, wherever they went. `since` is the child's start, as `start_of`
    tells it: what was there before cannot be below it, and is not looked at."""
    if sys.platform != "linux":
        return []
    born = (pid for pid in _numbers() if pid != os.getpid() and (start_of(pid) or -1) >= since)
    return [pid for pid in born if carries(pid, mark)]


def carries(pid: int, mark: str) -> bool:
    """Whether this process carries a child's mark, as far as we may see."""
    return f"{CHILD_MARK}={mark}".encode() in environment_of(pid)


def end_strays(mark: str, since: int) -> bool:
    """SIGKILL to each of them. Whether there were any; one that was just being forked is found by the next call."""
    found = strays(mark, since)
    for pid in found:
        with contextlib.suppress(OSError):
            _kill_by_handle(pid, mark)
    return bool(found)


def _kill_by_handle(pid: int, mark: str) -> None:
    """By a handle, behind which no other process of the same number can come."""
    try:
        handle = os.pidfd_open(pid)
    except (AttributeError, PermissionError, NotImplementedError):  # an old kernel, or a sandbox that forbids it
        os.kill(pid, signal.SIGKILL)
        return
    try:
        if carries(pid, mark):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    finally:
        os.close(handle)


def _numbers() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208  # a path each costs as much again


def environment_of(pid: int) -> list[bytes]:
    """The variables of a process as it was started, each `NAME=value`; none where we may not look."""
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:  # noqa: PTH123  # a path each costs as much again
            return file.read().split(b"\0")
    except OSError:
        return []

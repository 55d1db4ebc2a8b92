"""What a killed run left running on this host, and its end.

Recovery and maintenance call it with the attempt's record. Only processes that carry the attempt's mark are ended, so a
number that meanwhile belongs to somebody else does no harm; doing it twice does none either.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import psutil

from tidegate.durable.children import ATTEMPT_VARIABLE
from tidegate.durable.owner import Owner, start_of
from tidegate.process.kinship import environment_of

LOOK_AGAIN_SECONDS = 0.05
GONE_SECONDS = 5.0
"""How long killed processes are looked for; longer means that the kernel itself cannot end them."""


def end_leftovers(attempt: str, grace_seconds: float) -> tuple[str, ...]:
    """End every process of this host that carries the attempt's mark: TERM, wait, KILL. Gives their names. Blocking."""
    found = {process.pid: _name(process) for process in _processes_of(attempt)}
    until = time.monotonic() + grace_seconds
    _signal(_processes_of(attempt), signal.SIGTERM, signal.SIGCONT)
    while _processes_of(attempt) and time.monotonic() < until:
        time.sleep(LOOK_AGAIN_SECONDS)
    until = time.monotonic() + GONE_SECONDS
    while (left := _processes_of(attempt)) and time.monotonic() < until:  # one that was just forked was not among them
        _signal(left, signal.SIGKILL)
        time.sleep(LOOK_AGAIN_SECONDS)
    return tuple(found.values())


def marks() -> frozenset[str]:
    """The attempts whose mark some process of this host carries."""
    begin = f"{ATTEMPT_VARIABLE}=".encode()
    found = [entry for process in _processes() for entry in environment_of(process.pid) if entry.startswith(begin)]
    return frozenset(entry.removeprefix(begin).decode(errors="replace") for entry in found)


def end_owner(owner: Owner, grace_seconds: float) -> bool:
    """Wait for a run's process of this host to leave by itself, then kill it. Whether it had to be. Blocking.

    By KILL and not by TERM: on TERM it would tell Prefect of a crash that somebody has already seen to.
    """
    until = time.monotonic() + grace_seconds
    while start_of(owner.pid) == owner.started:
        if time.monotonic() >= until:
            _signal(_itself(owner), signal.SIGKILL)
            return True
        time.sleep(LOOK_AGAIN_SECONDS)
    return False


def _signal(processes: list[psutil.Process], *numbers: signal.Signals) -> None:
    for process in processes:
        for number in numbers:
            with contextlib.suppress(psutil.Error, OSError):
                process.send_signal(number)  # psutil checks that the number is still the same process


def _processes_of(attempt: str) -> list[psutil.Process]:
    wanted = f"{ATTEMPT_VARIABLE}={attempt}".encode()
    return [process for process in _processes() if wanted in environment_of(process.pid)]


def _itself(owner: Owner) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        if start_of(owner.pid) == owner.started:
            return [psutil.Process(owner.pid)]
    return []


def _processes() -> Iterator[psutil.Process]:
    for pid in psutil.pids():
        if pid != os.getpid() and start_of(pid) is not None:
            with contextlib.suppress(psutil.Error):
                yield psutil.Process(pid)


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return process.name()
    return "?"

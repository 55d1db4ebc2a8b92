"""Named points at which a process can be made to die, to prove that the next one goes on from there.

The modules that write, rename, store and publish say where they are with `crash_point`, so a stage that is built on
them is swept with no code of its own; `docs/crash-testing.md` tells how. Nothing happens unless the environment asks:

    TIDEGATE_CRASH_LOG=FILE     append the name of every point reached, one a line; processes may share the file
    TIDEGATE_CRASH_AT=NAME#N    SIGKILL this process when it reaches the point for the Nth time (1 by default)
    TIDEGATE_CRASH_ONCE=MARKER  but only if this file could be made: once in the life of a run, whoever goes on with it
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

_RANDOM = re.compile(r"[0-9a-f]{8,}")
"""Digests, addresses, keys and references: what would give the same point another name in the next run."""


def crash_point(point: str, *about: str) -> None:
    """Say that this point is reached. Each `{}` of `point` takes one of `about`, hex numbers in it as `*`.

    >>> crash_point("write {}: synced", path.name)
    """
    if _plan is not None:
        _plan.pass_point(point.format(*(_RANDOM.sub("*", word) for word in about)))


@dataclass
class _Plan:
    """What the environment asks for."""

    log: int | None
    point: str
    time: int
    marker: Path | None
    _seen: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self | None:
        log, at, once = (environment.get(f"TIDEGATE_CRASH_{name}") for name in ("LOG", "AT", "ONCE"))
        if not (log or at):
            return None
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644) if log else None
        point, _, number = (at or "").rpartition("#")
        if not number.isdigit():
            point, number = at or "", "1"
        return cls(handle, point, int(number), Path(once) if once else None)

    def pass_point(self, name: str) -> None:
        with self._lock:  # stages work in threads
            self._seen[name] += 1
            if self.log is not None:
                os.write(self.log, f"{name}\n".encode())
            if (name, self._seen[name]) == (self.point, self.time) and self._first():
                os.kill(os.getpid(), signal.SIGKILL)

    def _first(self) -> bool:
        if self.marker is None:
            return True
        try:
            os.close(os.open(self.marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        except FileExistsError:
            return False
        return True


_plan = _Plan.of(os.environ)

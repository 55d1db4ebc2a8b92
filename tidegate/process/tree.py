"""The processes below a child, as the kernel shows them: memory, processor time, bytes of the disks.

The monitor samples it. It reads /proc through psutil and changes nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tidegate.process.kinship import carries
from tidegate.process.usage import Sample
from tidegate.resilience.load import Load


@dataclass
class Tree:
    """The processes below a child, and what they used: also those that have ended since."""

    pid: int
    mark: str = ""
    """By which those are known that left session and family."""
    members: Callable[[], Iterable[int]] | None = None
    """Who knows them all without looking for them: a control group. None: they are found by descent."""
    _seen: set[int] = field(default_factory=set)
    """Numbers that were looked at: only new ones are, or every look would cost as much as the host has processes."""
    _found: set[int] = field(default_factory=set)
    _known: dict[int, psutil.Process] = field(default_factory=dict)
    _cpu: dict[int, float] = field(default_factory=dict)
    _io: dict[int, tuple[int, int]] = field(default_factory=dict)
    _cpu_before: float = 0.0
    _seconds_before: float = 0.0

    def sample(self, seconds: float, machine: Load) -> Sample:
        """One look."""
        memory = sum(map(self._look, self._processes()))
        cpu, passed = sum(self._cpu.values()), seconds - self._seconds_before
        percent = 100 * max(cpu - self._cpu_before, 0.0) / passed if passed > 0 else 0.0
        self._cpu_before, self._seconds_before = cpu, seconds
        read, written = (sum(each) for each in zip((0, 0), *self._io.values(), strict=True))
        return Sample(seconds, memory, percent, read, written, machine)

    def memory_bytes(self) -> int:
        """Resident bytes now, at a glance: of those that the last look found, and of what they have started since.

        What left session and family is found by the next look.
        """
        if self.members is None:
            self._add_children()
        pids = self._found if self.members is None else self.members()
        return sum(map(self._resident, pids))

    def cpu_seconds(self) -> float:
        """Of the whole life of a child that has ended and was not reaped yet, and of what it has waited for."""
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(self.pid).cpu_times()
            return float(times.user + times.system + times.children_user + times.children_system)
        return 0.0

    def _processes(self) -> list[psutil.Process]:
        pids = self._descendants() if self.members is None else self.members()
        return [process for pid in pids if (process := self._process(pid))]

    def _descendants(self) -> set[int]:
        pids = set(psutil.pids())
        self._found = (self._found & pids) | {self.pid}
        for pid in sorted(pids - self._seen):  # a parent comes before its children, but where numbers wrap around
            if _session(pid) == self.pid or self._parent(pid) in self._found or carries(pid, self.mark):
                self._found.add(pid)
        self._seen = pids
        return self._found

    def _add_children(self) -> None:
        """Those of each one's first thread, which the kernel lists without a search."""
        unasked = list(self._found)
        while unasked:
            children = set(_children(unasked.pop())) - self._found
            self._found |= children
            unasked.extend(children)

    def _resident(self, pid: int) -> int:
        with contextlib.suppress(psutil.Error, OSError):
            known = self._known.get(pid) or self._known.setdefault(pid, psutil.Process(pid))
            return int(known.memory_info().rss)
        return 0

    def _parent(self, pid: int) -> int | None:
        with contextlib.suppress(psutil.Error):
            return psutil.Process(pid).ppid()
        return None

    def _process(self, pid: int) -> psutil.Process | None:
        with contextlib.suppress(psutil.Error):
            known = self._known.get(pid)
            if known is None or not known.is_running():
                self._known[pid] = known = psutil.Process(pid)
            return known
        return None

    def _look(self, process: psutil.Process) -> int:
        """Its resident bytes; the rest of what it used is noted."""
        with contextlib.suppress(psutil.Error, OSError):
            with process.oneshot():
                memory, times = process.memory_info().rss, process.cpu_times()
            self._cpu[process.pid] = times.user + times.system
            self._io[process.pid] = _disk(process)
            return int(memory)
        return 0


def _disk(process: psutil.Process) -> tuple[int, int]:
    try:
        counted = process.io_counters()
    except (psutil.Error, OSError, AttributeError):  # macOS does not tell
        return 0, 0
    return counted.read_bytes, counted.write_bytes


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has ended, or the kernel keeps no such list
        return []


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None

"""What samples of a process tree come to: sums, a thinned curve, alerts and a trend. Pure.

The monitor feeds it. It gets samples with their times and never looks at a clock, so a day of them is judged in a
millisecond. Nothing here is kept; after a crash a fresh monitor starts with the fresh try.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from tidegate.events import NoteLevel
from tidegate.model import ResourceUse
from tidegate.resilience.load import IDLE, Load

MEMORY_ALERT = 0.8
CPU_ALERT = 0.9
ELAPSED_ALERT = 0.8
CALM_AGAIN = 0.1
"""How far a value must fall below its alert before it can raise it again."""
TREND_POINTS = 5.0
"""Percentage points of its limit by which memory must rise from sample to sample to be a trend."""
TREND_SAMPLES = 3
MOST_POINTS = 60
"""Of the curve that is kept."""
MOST_ALERTS = 50

AlertKind = Literal["memory_of_cap", "memory_of_machine", "cpu", "elapsed", "trend"]
QUIET: frozenset[AlertKind] = frozenset({"cpu"})
"""Alerts for logs only: an encoder is there to use all processors."""
Point = tuple[float, int, float]
MemoryGuard = Literal["cgroup", "sampling", "none"]


@dataclass(frozen=True)
class Sample:
    """One look at the tree, and at the machine."""

    seconds: float
    """Since its start."""
    memory_bytes: int
    cpu_percent: float
    """Of one core, since the sample before."""
    read_bytes: int = 0
    written_bytes: int = 0
    machine: Load = IDLE


@dataclass(frozen=True)
class Limits:
    """What a sample is measured against."""

    machine_bytes: int
    cap_bytes: int | None = None
    deadline_seconds: float | None = None

    @property
    def memory_bytes(self) -> int:
        """The nearer end of memory."""
        return min(self.cap_bytes or self.machine_bytes, self.machine_bytes)


def shares(sample: Sample, limits: Limits) -> dict[AlertKind, tuple[float, float]]:
    """Kind of alert → how much of its limit is used (0 to 1), and from where on that is worth a warning."""
    found: dict[AlertKind, tuple[float, float]] = {
        "memory_of_machine": (sample.machine.memory, MEMORY_ALERT),
        "cpu": (sample.machine.cpu, CPU_ALERT),
    }
    if limits.cap_bytes:
        found["memory_of_cap"] = (sample.memory_bytes / limits.cap_bytes, MEMORY_ALERT)
    if limits.deadline_seconds:
        found["elapsed"] = (sample.seconds / limits.deadline_seconds, ELAPSED_ALERT)
    return found


def trend(samples: Sequence[Sample], limits: Limits) -> float | None:
    """Seconds until memory is at its limit, should it go on like this; None where it does not rise fast.

    Fast is by more than TREND_POINTS from each of the last samples to the next, TREND_SAMPLES times.
    """
    if len(samples) <= TREND_SAMPLES:
        return None
    last = samples[-TREND_SAMPLES - 1 :]
    points = [100.0 * sample.memory_bytes / limits.memory_bytes for sample in last]
    if any(after - before <= TREND_POINTS for before, after in itertools.pairwise(points)):
        return None
    per_second = (points[-1] - points[0]) / max(last[-1].seconds - last[0].seconds, 1e-9)
    return max(0.0, (100.0 - points[-1]) / per_second)


def thin_out(points: Sequence[Point], most: int = MOST_POINTS) -> tuple[Point, ...]:
    """At most so many points: of neighbours the one with more memory, so that the peak is never lost."""
    kept = list(points)
    while len(kept) > most:
        pairs = (kept[begin : begin + 2] for begin in range(0, len(kept), 2))
        kept = [max(pair, key=lambda point: point[1]) for pair in pairs]
    return tuple(kept)


@dataclass(frozen=True)
class Alert:
    """Something to warn of."""

    kind: AlertKind
    text: str

    @property
    def level(self) -> NoteLevel:
        return "detail" if self.kind in QUIET else "warning"


@dataclass
class Alerts:
    """Which alerts are raised: each is told once, and again only after its value has been calm in between."""

    raised: set[AlertKind] = field(default_factory=set)

    def look(self, samples: Sequence[Sample], limits: Limits) -> list[Alert]:
        """What is to be told after the last of `samples`."""
        sample = samples[-1]
        alerts = []
        for kind, (share, alert) in shares(sample, limits).items():
            if kind not in self.raised and share > alert:
                self.raised.add(kind)
                alerts.append(Alert(kind, _alert_text(kind, sample, limits)))
            elif share < alert - CALM_AGAIN:
                self.raised.discard(kind)
        end = trend(samples, limits)
        if end is None:
            self.raised.discard("trend")
        elif "trend" not in self.raised:
            self.raised.add("trend")
            whose = "its cap" if limits.cap_bytes else "what the machine has"
            alerts.append(Alert("trend", f"memory rises fast: at {whose} in about {end:.0f} s"))
        return alerts


def _alert_text(kind: AlertKind, sample: Sample, limits: Limits) -> str:
    match kind:
        case "memory_of_cap":
            return f"it uses {_mb(sample.memory_bytes)} of the {_mb(limits.cap_bytes or 0)} MB of memory that it may"
        case "memory_of_machine":
            return f"{sample.machine.memory:.0%} of this machine's memory is in use"
        case "cpu":
            return f"{sample.machine.cpu:.0%} of this machine's processors is in use"
        case _:
            return f"{sample.seconds:.0f} s of the {limits.deadline_seconds or 0:.0f} s that it may take have passed"


def _mb(size_bytes: int) -> int:
    return round(size_bytes / 1e6)


@dataclass
class Use:
    """Adds samples up, in bounded memory however long it takes."""

    samples: int = 0
    peak_memory_bytes: int = 0
    peak_cpu_percent: float = 0.0
    last: Sample | None = None
    alerts: list[str] = field(default_factory=list)
    _points: list[Point] = field(default_factory=list)
    _byte_seconds: float = 0.0
    _cpu_seconds: float = 0.0

    def add_alert(self, alert: str) -> None:
        """Keep it for the report; a value that goes up and down for days fills no memory."""
        if len(self.alerts) < MOST_ALERTS:
            self.alerts.append(alert)

    def add(self, sample: Sample) -> None:
        before = self.last
        passed = sample.seconds - (before.seconds if before else 0.0)
        held = (before.memory_bytes + sample.memory_bytes) / 2 if before else sample.memory_bytes
        self._byte_seconds += held * passed
        self._cpu_seconds += sample.cpu_percent / 100 * passed
        self.samples += 1
        self.peak_memory_bytes = max(self.peak_memory_bytes, sample.memory_bytes)
        self.peak_cpu_percent = max(self.peak_cpu_percent, sample.cpu_percent)
        self._points.append((round(sample.seconds, 1), sample.memory_bytes, round(sample.cpu_percent, 1)))
        if len(self._points) > 4 * MOST_POINTS:
            self._points = list(thin_out(self._points, 2 * MOST_POINTS))
        self.last = sample

    def total(
        self, seconds: float, *, cap_bytes: int | None, enforced_by: MemoryGuard, cpu_seconds: float | None = None
    ) -> ResourceUse:
        """What it comes to. `cpu_seconds`: what the kernel counted in all, where that is known."""
        used = max(cpu_seconds or 0.0, self._cpu_seconds)
        return ResourceUse(
            seconds=round(seconds, 3),
            samples=self.samples,
            peak_memory_bytes=self.peak_memory_bytes,
            mean_memory_bytes=round(self._byte_seconds / self.last.seconds) if self.last and self.last.seconds else 0,
            peak_cpu_percent=round(self.peak_cpu_percent, 1),
            mean_cpu_percent=round(100 * used / seconds, 1) if seconds > 0 else 0.0,
            read_bytes=self.last.read_bytes if self.last else 0,
            written_bytes=self.last.written_bytes if self.last else 0,
            curve=thin_out(self._points),
            alerts=tuple(self.alerts),
            memory_cap_bytes=cap_bytes,
            enforced_by=enforced_by,
        )

"""Is something still moving? Two pure clocks, one for transfers and one for processes.

The transfer and process layers feed them from their own tick; they never wait for a byte or a line. They hold no
state worth keeping: after a crash a fresh clock starts with the fresh try.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta


@dataclass
class SpeedWindow:
    """The bytes gained in the last `window`, judged against a minimum speed.

    An average since the start never trips on a drip after a fast beginning, and a read timeout is reset by any byte.
    A moving window does neither: it forgets bytes and time together, so a transfer that recovers is left alone.
    """

    window: timedelta
    minimum_speed: int
    """Bytes per second."""
    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def record(self, now: float, total_bytes: int) -> None:
        """Note that `total_bytes` had come by `now` (seconds of a monotonic clock)."""
        self._samples.append((now, total_bytes))
        edge = now - self.window.total_seconds()
        while len(self._samples) > 1 and self._samples[1][0] <= edge:
            self._samples.popleft()

    def speed(self) -> float:
        """Bytes per second over the samples at hand; 0 before the second sample."""
        (first_at, first), (last_at, last) = self._samples[0], self._samples[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else 0.0

    def is_stalled(self) -> bool:
        """Whether a whole window has been seen, and was slower than the minimum."""
        seen = self._samples[-1][0] - self._samples[0][0]
        return seen >= self.window.total_seconds() and self.speed() < self.minimum_speed


@dataclass
class ProgressClock:
    """When a process last got anywhere: stalled when now − max(start + grace, last progress) > stall (DESIGN §5)."""

    started: float
    startup_grace: timedelta
    stall_timeout: timedelta
    last_progress: float | None = None
    _furthest: dict[str, float] = field(default_factory=dict)

    def record(self, now: float, **marks: float) -> bool:
        """Note the latest marks (out_time_us, frame, size_bytes …); only an advance of one of them is progress."""
        advanced = [name for name, value in marks.items() if value > self._furthest.get(name, 0)]
        self._furthest.update({name: marks[name] for name in advanced})
        if advanced:
            self.last_progress = now
        return bool(advanced)

    def idle_seconds(self, now: float) -> float:
        """Seconds since the process last had a reason to be quiet."""
        allowed_until = self.started + self.startup_grace.total_seconds()
        return now - max(allowed_until, self.last_progress or allowed_until)

    def is_stalled(self, now: float) -> bool:
        return self.idle_seconds(now) > self.stall_timeout.total_seconds()

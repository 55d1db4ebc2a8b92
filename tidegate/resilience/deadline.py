"""How long may it take? The rules of DESIGN §5 as pure functions of sizes, speeds and limits.

Stages ask before and while they work. Nothing here reads a clock, so an hour-long policy is tested in a millisecond.
"""

from __future__ import annotations

from datetime import timedelta

from tidegate.resilience.load import IDLE, Load, load_factor
from tidegate.resilience.stall import SpeedWindow
from tidegate.settings import ProcessSettings

SAFETY = 1.5
"""How much longer than projected something may take."""
SPEED_WINDOW = timedelta(minutes=1)
"""Over how long a download's present speed is taken."""

ADVANCE = 0.05
"""How much of the whole a process must have done since its last limit to be given another."""
LONGEST_EXTENSION = timedelta(days=3)
"""Where even a process that advances is ended."""
OUTER_GUARD = timedelta(seconds=60)
"""How far beyond its inner limit a task's own timeout lies (DESIGN §2)."""


def download_seconds(
    *,
    least: timedelta,
    elapsed: float,
    remaining_bytes: int | None,
    speed: float,
    minimum_speed: int,
    load: Load = IDLE,
    factor: float = 1.0,
) -> float | None:
    """Seconds since its start that a download may take; None while it is fast enough to have no limit.

    max(least, elapsed + remaining ÷ speed × 1.5), and no limit at or above the minimum speed: a fixed limit kills
    healthy 30 GB files. An unknown length counts as nothing remaining. Times the rung's `factor`, and more while the
    machine is busy with others.
    """
    if speed >= minimum_speed:
        return None
    projected = elapsed + (remaining_bytes or 0) / speed * SAFETY if speed > 0 else 0.0
    return max(least.total_seconds(), projected) * factor * load_factor(load)


class DownloadSpeed:
    """The speed of the last minute in which bytes could have come.

    A minute by the clock also holds the wait at a gate, a pause that the source asked for and a live source's silence.
    Each of them has a limit of its own, and none says how long the rest will take; so they are left out.
    """

    def __init__(self, minimum_speed: int, window: timedelta = SPEED_WINDOW) -> None:
        self._window = SpeedWindow(window, minimum_speed)
        self._seen = 0.0
        self._looked_at: float | None = None

    def record(self, now: float, total_bytes: int, *, could_come: bool) -> None:
        """Note that `total_bytes` had come by `now`, and whether any could have since the last look."""
        if could_come and self._looked_at is not None:
            self._seen += now - self._looked_at
        if could_come or self._looked_at is None:
            self._window.record(self._seen, total_bytes)
        self._looked_at = now

    def speed(self) -> float | None:
        """Bytes per second; None before a whole window was seen: what has just begun is not judged."""
        return self._window.speed() if self._seen >= self._window.window.total_seconds() else None


def slower_of(window_speed: float, received_bytes: int, elapsed: float) -> float:
    """The speed that a projection may trust: the lower of the last minute's and of the whole attempt's mean."""
    return min(window_speed, received_bytes / elapsed if elapsed > 0 else 0.0)


def process_seconds(limits: ProcessSettings, input_bytes: int, factor: float = 1.0) -> float:
    """Seconds that processing or analysing a file may take: 20 min + 1 min per 10^9 bytes, at most 2 h, times the
    rung's `factor`."""
    wanted = limits.base_timeout + timedelta(minutes=input_bytes / 1e9)
    return min(wanted, limits.longest_timeout).total_seconds() * factor


def extension_seconds(*, elapsed: float, share: float | None, share_before: float) -> float | None:
    """The next limit, in seconds since its start, for a process that has reached its limit; None when it must end.

    It goes on while its end comes nearer: at least ADVANCE of the whole since the last limit. A healthy film on a slow
    host is not killed at 99 %, one that crawls is; there are at most 1 ÷ ADVANCE extensions, and none past the longest.
    `share` is how much of the media is done (0 to 1); None where nobody can tell.
    """
    longest = LONGEST_EXTENSION.total_seconds()
    if share is None or share - share_before < ADVANCE or elapsed >= longest:
        return None
    return min(elapsed / min(share, 1.0) * SAFETY, longest)


def publish_seconds(size_bytes: int) -> float:
    """Seconds that publishing may take: 5 min + 1 min per 10^9 bytes."""
    return timedelta(minutes=5 + size_bytes / 1e9).total_seconds()


def outer_seconds(inner_seconds: float) -> float:
    """The task timeout that stands around an inner limit, in seconds."""
    return inner_seconds + OUTER_GUARD.total_seconds()

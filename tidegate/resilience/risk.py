"""How near is a process to the end that a limit of time would make of it? Pure.

The supervisor asks at every tick; logs and progress show it.
"""

from __future__ import annotations

from tidegate.events import Risk

LEVELS: tuple[tuple[float, Risk], ...] = ((0.5, "low"), (0.8, "medium"), (0.95, "high"))
"""Below which share of a limit which level; at or above the last it is critical."""
WORTH_TELLING: tuple[Risk, ...] = ("high", "critical")


def risk_level(*, elapsed: float, deadline: float, idle: float, stall: float) -> Risk:
    """By the nearer of the two ends: the deadline, and the stall clock. All in seconds."""
    share = max(_share(elapsed, deadline), _share(idle, stall))
    return next((level for below, level in LEVELS if share < below), "critical")


def rises_to_tell(before: Risk, now: Risk) -> bool:
    """Whether somebody should hear of it: it has become high or critical, and was less."""
    order: tuple[Risk, ...] = ("low", "medium", "high", "critical")
    return now in WORTH_TELLING and order.index(now) > order.index(before)


def _share(spent: float, limit: float) -> float:
    if limit <= 0:
        return 1.0 if spent > 0 else 0.0
    return max(spent, 0.0) / limit

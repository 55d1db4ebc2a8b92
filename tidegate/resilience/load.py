"""How busy this machine is, and what that means for limits of time.

The download's watch and the process monitor ask. What it costs to ask is some microseconds; nothing is kept that a
crash could lose.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import psutil

BUSY_MEMORY = 0.8
BUSY_CPU = 0.9
BUSY_FACTOR = 1.25
"""How much longer something may take while others need the machine too (DESIGN §5)."""


@dataclass(frozen=True)
class Load:
    """Of the whole machine, 0 to 1."""

    memory: float = 0.0
    cpu: float = 0.0


IDLE = Load()


def load_factor(load: Load) -> float:
    """By what a limit of time is multiplied while the machine is like this."""
    return BUSY_FACTOR if load.memory > BUSY_MEMORY or load.cpu > BUSY_CPU else 1.0


@dataclass
class LoadMeter:
    """Samples the machine. One for each who asks: processor time counts from the sample before."""

    _busy: float = field(default_factory=lambda: _times()[0])
    _total: float = field(default_factory=lambda: _times()[1])

    def sample(self) -> Load:
        (busy, total), memory = _times(), psutil.virtual_memory()
        passed = total - self._total
        cpu = min(max((busy - self._busy) / passed, 0.0), 1.0) if passed > 0 else 0.0
        self._busy, self._total = busy, total
        return Load(memory=1 - memory.available / memory.total, cpu=cpu)


def _times() -> tuple[float, float]:
    """Seconds that the processors were busy, and all seconds, since the boot."""
    times = psutil.cpu_times()._asdict()
    # The kernel counts a guest's time as the host's user time already.
    total = sum(seconds for name, seconds in times.items() if not name.startswith("guest"))
    return total - times["idle"] - times.get("iowait", 0.0), total

"""One process that is kept alive: started again when it ends, after a pause that grows with each short life.

`deployments/serve.py` keeps its server and its worker with it. It owns nothing on disk, and the process that it keeps
dies with this one, so a crash leaves nothing to clear up.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
LONG_LIFE_SECONDS = 60.0
"""A process that lived so long has not failed at its start: the pauses begin anew."""


def pause_after(lived_seconds: float, last_pause_seconds: float | None) -> float:
    """How long to wait before a process that has ended is started again."""
    if last_pause_seconds is None or lived_seconds >= LONG_LIFE_SECONDS:
        return FIRST_PAUSE_SECONDS
    return min(last_pause_seconds * 2, LONGEST_PAUSE_SECONDS)


@dataclass
class Silence:
    """How long a process that lives has not answered."""

    limit_seconds: float
    since: float | None = None

    def is_too_long(self, answers: bool, now: float) -> bool:
        """Note an answer, or that there was none; whether it is hung by now."""
        if answers:
            self.since = None
            return False
        if self.since is None:
            self.since = now
        return now - self.since >= self.limit_seconds


@dataclass
class SupervisedProcess:
    """A process, and when it was or will be started. `look` is called again and again, on the main thread."""

    name: str
    start: Callable[[], subprocess.Popen[bytes]]
    tell: Callable[[str], None]
    process: subprocess.Popen[bytes] | None = None
    _due: float = 0.0
    _started: float = field(default=0.0)
    _pause: float | None = None

    def look(self, now: float) -> None:
        """Start it when it is due; when it has ended, say so and make it due."""
        if self.process is None:
            if now >= self._due:
                self.process, self._started = self.start(), now
            return
        code = self.process.poll()
        if code is None:
            return
        self._pause = pause_after(now - self._started, self._pause)
        self._due = now + self._pause
        self.process = None
        self.tell(f"{self.name} ended ({describe_exit(code)}); starting it again in {self._pause:.0f} s")

    def kill(self) -> None:
        """End it without asking; the next look finds it ended."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self, patience_seconds: float) -> None:
        """End it for good: ask, wait, then kill."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process = None


def describe_exit(code: int) -> str:
    """How a process ended, for a person."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"

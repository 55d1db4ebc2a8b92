"""One clock for several processes, moved by a test while they run: libfaketime, told by a file.

The processes that get `Clock.environment` see the time of day that the test sets; their monotonic clock is the real
one, so nothing inside them times out early. Tests skip visibly where the library is not installed.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.command import ROOT

LIBRARIES = tuple(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
SEEN_AFTER_SECONDS = 1
"""How soon a process notices that the file has changed."""
SLEEP = """import threading
import time

time.sleep = lambda seconds: threading.Event().wait(seconds) and None
"""
"""libfaketime takes an absolute sleep on the monotonic clock for one on the other: after a jump it is EINVAL."""


def missing() -> str | None:
    """Why there is no such clock here; None where there is one."""
    return None if LIBRARIES else "libfaketime is not installed (Debian: apt-get install faketime)"


@dataclass
class Clock:
    """Ahead of the real one by so many seconds."""

    file: Path
    ahead_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._modules.mkdir(parents=True)
        (self._modules / "sitecustomize.py").write_text(SLEEP)
        self.move_to(self.ahead_seconds)

    @property
    def _modules(self) -> Path:
        return self.file.with_name("python")

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_CACHE_DURATION": str(SEEN_AFTER_SECONDS),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
            "PYTHONPATH": f"{self._modules}{os.pathsep}{ROOT}",
        }

    @property
    def now(self) -> float:
        return time.time() + self.ahead_seconds

    def move_to(self, ahead_seconds: float) -> None:
        self.ahead_seconds = ahead_seconds
        beside = self.file.with_suffix(".new")
        beside.write_text(f"+{ahead_seconds:.3f}\n")
        beside.replace(self.file)

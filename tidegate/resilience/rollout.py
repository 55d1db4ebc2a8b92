"""Which way a piece of work takes while a new one is being rolled out: the full path, or the plain one. Pure.

The download stage asks for its transfer. The same work always takes the same path, also after a crash and on another
host, so that what an earlier try left fits.
"""

from __future__ import annotations

from typing import Literal

from tidegate.model import fingerprint

Path = Literal["full", "plain"]

_STEPS = 10_000


def path_of(setting: str, work_key: str, part: str = "transfer") -> Path:
    """The path of this work. `setting` is a path, or the share of work that takes the full one, such as `25%`.

    The share only grows with the number: work that took the full path at 25 % takes it at 50 % too.
    """
    if setting in ("full", "plain"):
        return setting  # type: ignore[return-value]  # one of both, as just seen
    share = int(setting.removesuffix("%")) * _STEPS // 100
    place = int(fingerprint(part, work_key)[:8], 16) % _STEPS
    return "full" if place < share else "plain"

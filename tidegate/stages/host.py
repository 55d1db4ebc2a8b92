"""What this host has for a film, and so what work on it begins with: the one place that asks for memory and cores.

Stages, tasks and flows call it; `resilience.quality` decides, with the numbers passed in. It keeps nothing.
"""

from __future__ import annotations

import os

import psutil

from tidegate.model import Aim, Quality
from tidegate.resilience.quality import Rung, cap_bytes, first_aim, rung_of, threads_for


def available_bytes() -> int:
    """Memory that new work finds now."""
    return psutil.virtual_memory().available


def aim_for(quality: Quality, media_seconds: float | None) -> Aim:
    """What this host begins with for a film of this length."""
    return first_aim(quality, available_bytes(), media_seconds)


def encoder_threads(aim: Aim) -> int:
    """How many threads an encoder gets here."""
    return threads_for(rung_of(aim.rung), os.cpu_count() or 1, available_bytes())


def cap_bytes_of(rung: Rung) -> int:
    """What the tools of a rung may hold together here."""
    return cap_bytes(rung, psutil.virtual_memory().total)

"""The rungs of quality: what each may cost, which one the host's memory allows, and what comes below (DESIGN §6).

Admission asks what work should find, the remux stage what it may take, the fallback subflows what to try next. Pure:
memory and cores are handed in, so every host is tested on one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tidegate.model import Aim, Quality

MB = 1000 * 1000
LEAST_MEMORY_BYTES = 512 * MB
"""What even the smallest work needs."""
LOWEST_HEIGHT = 240
"""Height in pixels of a transcode that stepped down to `worst`."""
LONG_MEDIA_SECONDS = ((240 * 60, 1.5), (120 * 60, 1.3))
"""Beyond this length the available memory counts as that much less."""
MACHINE_SHARE = 0.9
"""How much of the machine's memory one tool may hold, whatever its rung."""
FEW_THREADS = ((1024 * MB, 2), (2048 * MB, 4), (4096 * MB, 6))
"""Up to this much available memory an encoder gets no more threads than that: each holds frames of its own."""


@dataclass(frozen=True)
class Rung:
    """One row of the table."""

    quality: Quality
    memory_cap_bytes: int
    """What the process tree may hold; enforced, not only stated."""
    wanted_bytes: int
    """What should be available before a transcode begins."""
    timeout_factor: float
    """Times the processing limit."""
    threads: int
    """Of an encoder, at most."""
    height: int
    """What a transcode that stepped down to it makes, in pixels."""
    recommended: bool = True
    """Whether `auto` may choose it; the highest are taken only when somebody asks for them."""


RUNGS: tuple[Rung, ...] = (
    Rung(Quality.P2160, 16384 * MB, 6144 * MB, 1.0, 8, 2160, recommended=False),
    Rung(Quality.P1080, 12288 * MB, 6144 * MB, 1.0, 8, 1080, recommended=False),
    Rung(Quality.P720, 8192 * MB, 6144 * MB, 1.0, 8, 720),
    Rung(Quality.P480, 4096 * MB, 3072 * MB, 0.8, 6, 480),
    Rung(Quality.P360, 2048 * MB, 1536 * MB, 0.6, 4, 360),
    Rung(Quality.WORST, 1024 * MB, LEAST_MEMORY_BYTES, 0.5, 2, LOWEST_HEIGHT),
)
"""Highest first."""

_BY_QUALITY = {rung.quality: rung for rung in RUNGS}


def rung_of(quality: Quality) -> Rung:
    """The row of a rung; for `best` the highest, since it asks for whatever there is.

    Raises:
        KeyError: `auto` is no rung: `recommend_rung` makes it one.
    """
    return RUNGS[0] if quality is Quality.BEST else _BY_QUALITY[quality]


def recommend_rung(available_bytes: int, media_seconds: float | None) -> Quality:
    """The highest rung that the memory allows; the longer the media, the less it allows."""
    divisor = next((factor for longer, factor in LONG_MEDIA_SECONDS if (media_seconds or 0.0) > longer), 1.0)
    fits = (r.quality for r in RUNGS if r.recommended and available_bytes / divisor >= r.wanted_bytes)
    return next(fits, Quality.WORST)


def first_aim(quality: Quality, available_bytes: int, media_seconds: float | None) -> Aim:
    """What a transcode begins with: the rung that was asked for, or the one that the memory recommends. `auto` never
    makes a picture smaller: only a rung that somebody asked for caps its height."""
    if quality is Quality.AUTO:
        return Aim(rung=recommend_rung(available_bytes, media_seconds))
    return Aim(rung=rung_of(quality).quality)


def next_aim(aim: Aim, height: int | None) -> Aim | None:
    """The next smaller target after one of `height` pixels that could not be made; None when there is none.

    The rung whose limits held is itself the next one where its picture is smaller than the one that failed. Rungs that
    would not make the picture smaller are passed over: with less memory the same work fails again.
    """
    smaller = (r for r in rungs_from(aim.rung) if height is not None and r.height < height)
    return next((Aim(rung=rung.quality, height=rung.height) for rung in smaller), None)


def rungs_from(quality: Quality) -> Iterator[Rung]:
    """This rung and those after it, from the top down."""
    return iter(RUNGS[RUNGS.index(rung_of(quality)) :])


def cap_bytes(rung: Rung, machine_bytes: int) -> int:
    """What a tree may hold on this machine: the rung's cap, and never so much that the machine itself has none left."""
    return min(rung.memory_cap_bytes, int(machine_bytes * MACHINE_SHARE))


def rung_below_height(height: int) -> Rung | None:
    """The highest rung that makes a picture of less than `height` pixels when a person asks for it."""
    return next((rung for rung in RUNGS if (rung.quality.height or height) < height), None)


def memory_for(quality: Quality, *, transcode: bool, available_bytes: int, media_seconds: float | None) -> int:
    """Bytes of memory that the work should find. A copy needs the least; so does `auto` at the rung it recommends."""
    if not transcode:
        return LEAST_MEMORY_BYTES
    if quality in (Quality.AUTO, Quality.BEST):
        quality = recommend_rung(available_bytes, media_seconds)
    return rung_of(quality).wanted_bytes


def threads_for(rung: Rung, cores: int, available_bytes: int) -> int:
    """Threads of an encoder: as the rung allows, no more than cores, and few where there is little memory."""
    few = next((threads for limit, threads in FEW_THREADS if available_bytes <= limit), rung.threads)
    return max(1, min(rung.threads, cores, few))

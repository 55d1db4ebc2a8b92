"""May heavy work begin? Needs against what the host has, as pure functions (DESIGN §6).

`stages/admission.py` measures, asks here and waits. Nothing is reserved in a crash's way: memory and disk are looked
at, slots are held by leases.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tidegate.model import Quality

MB = 1024 * 1024
STORE_FACTOR, OUTPUT_FACTOR = 3, 1
"""How many times a source's size must be free on the store's volume, and on the output's."""
LEAST_MEMORY_BYTES = 512 * MB
"""What even the smallest work needs."""
MEMORY_BYTES = {
    Quality.P720: 6144 * MB,
    Quality.P480: 3072 * MB,
    Quality.P360: 1536 * MB,
    Quality.WORST: LEAST_MEMORY_BYTES,
}
"""What a transcode to a rung is recommended to have, highest first."""
LONG_MEDIA_SECONDS = ((240 * 60, 1.5), (120 * 60, 1.3))
"""Beyond this length the available memory counts as that much less."""


@dataclass(frozen=True)
class Needs:
    """What a stage wants before it begins."""

    memory_bytes: int = 0
    disk_bytes: dict[str, int] = field(default_factory=dict)
    """By the path of a folder on the volume."""
    slot: bool = False
    """Whether it is heavy processing, of which a host does only so much at once."""


@dataclass(frozen=True)
class Volume:
    """A file system, in bytes."""

    free: int
    total: int


def recommended_rung(available_bytes: int, media_seconds: float | None) -> Quality:
    """The highest rung that the memory allows; the longer the media, the less it allows."""
    divisor = next((factor for longer, factor in LONG_MEDIA_SECONDS if (media_seconds or 0.0) > longer), 1.0)
    fits = (rung for rung, wanted in MEMORY_BYTES.items() if available_bytes / divisor >= wanted)
    return next(fits, Quality.WORST)


def memory_for(quality: Quality, *, transcode: bool, available_bytes: int, media_seconds: float | None) -> int:
    """Bytes of memory that the work should find. A copy needs the least; so does `auto` at the rung it recommends."""
    if not transcode:
        return LEAST_MEMORY_BYTES
    if quality in (Quality.AUTO, Quality.BEST):
        return MEMORY_BYTES[recommended_rung(available_bytes, media_seconds)]
    return MEMORY_BYTES.get(quality, MEMORY_BYTES[Quality.P720])


def too_small(needs: Needs, volumes: dict[str, Volume]) -> str | None:
    """What can never be had here, however long one waits."""
    for folder, wanted in needs.disk_bytes.items():
        if wanted > volumes[folder].total:
            return f"{_gb(wanted)} of disk at {folder}, whose volume has {_gb(volumes[folder].total)} in all"
    return None


def missing(needs: Needs, available_bytes: int, volumes: dict[str, Volume]) -> str | None:
    """What is missing now, in words; None when the work may begin as far as memory and disk go."""
    if available_bytes < needs.memory_bytes:
        return f"{_gb(needs.memory_bytes)} of memory ({_gb(available_bytes)} available)"
    for folder, wanted in needs.disk_bytes.items():
        if volumes[folder].free < wanted:
            return f"{_gb(wanted)} of disk at {folder} ({_gb(volumes[folder].free)} free)"
    return None


def _gb(size: int) -> str:
    return f"{size / 1000**3:.1f} GB" if size >= 1000**3 // 10 else f"{size / 1000**2:.1f} MB"

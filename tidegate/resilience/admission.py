"""May heavy work begin? Needs against what the host has, as pure functions (DESIGN §6).

`stages/admission.py` measures, asks here and waits. Nothing is reserved in a crash's way: memory and disk are looked
at, slots are held by leases.
"""

from __future__ import annotations

from dataclasses import dataclass, field

STORE_FACTOR, OUTPUT_FACTOR = 3, 1
"""How many times a source's size must be free on the store's volume, and on the output's."""


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


def too_small(needs: Needs, volumes: dict[str, Volume]) -> str | None:
    """What can never be had here, however long one waits."""
    for folder, wanted in needs.disk_bytes.items():
        if wanted > volumes[folder].total:
            return f"{_gb(wanted)} of disk at {folder}, whose volume has {_gb(volumes[folder].total)} in all"
    return None


def shortage_of(needs: Needs, available_bytes: int, volumes: dict[str, Volume]) -> str | None:
    """What is missing now, in words; None when the work may begin as far as memory and disk go."""
    if available_bytes < needs.memory_bytes:
        return f"{_gb(needs.memory_bytes)} of memory ({_gb(available_bytes)} available)"
    for folder, wanted in needs.disk_bytes.items():
        if volumes[folder].free < wanted:
            return f"{_gb(wanted)} of disk at {folder} ({_gb(volumes[folder].free)} free)"
    return None


def _gb(size: int) -> str:
    return f"{size / 1000**3:.1f} GB" if size >= 1000**3 // 10 else f"{size / 1000**2:.1f} MB"

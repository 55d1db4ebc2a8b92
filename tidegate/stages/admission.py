"""Before heavy work: is there a slot, memory and disk for it?

The tasks enter `admit` before a stage that has to do its work. A run that may not begin waits visibly, names what it
waits for, and fails clearly at its limit; after a crash its slot is free, because its lease is.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio

from tidegate.durable.ledger.lease import Lease, current_lease
from tidegate.errors import AdmissionRefused, DiskFull
from tidegate.events import Note
from tidegate.resilience.admission import Needs, Volume, shortage_of, too_small
from tidegate.settings import AdmissionSettings
from tidegate.stages.host import available_bytes
from tidegate.stages.workbench import Workbench


@contextlib.asynccontextmanager
async def admit(bench: Workbench, needs: Needs) -> AsyncIterator[None]:
    """Wait until the host has what is needed; hold a slot for the length of the block if one is needed.

    Raises:
        AdmissionRefused: it had not for as long as a run may wait.
        DiskFull: a volume is too small ever to have it.
    """
    lease = current_lease()
    limits = bench.settings.admission
    shortage = await _shortage(needs, lease, limits)
    if shortage is not None:
        await _wait(bench, needs, lease, shortage)
    try:
        yield
    finally:
        if needs.slot and lease is not None:
            await lease.free_slot()


async def _wait(bench: Workbench, needs: Needs, lease: Lease | None, shortage: str) -> None:
    limits, shown = bench.settings.admission, ""
    until = time.monotonic() + limits.limit.total_seconds()
    with contextlib.ExitStack() as waiting:
        shortage_now: str | None = shortage
        while shortage_now is not None:
            if time.monotonic() >= until:
                raise AdmissionRefused(f"After {limits.limit} the host still had no {shortage_now}")
            if _kind_of(shortage_now) != shown:
                shown = _kind_of(shortage_now)
                bench.observe(Note(f"Waiting for {shortage_now}"))
                waiting.close()
                if lease is not None:
                    waiting.enter_context(lease.note_wait(shortage_now))
            await anyio.sleep(bench.settings.ledger.poll.total_seconds())
            shortage_now = await _shortage(needs, lease, limits)


async def _shortage(needs: Needs, lease: Lease | None, limits: AdmissionSettings) -> str | None:
    """What is missing. The slot comes last: nobody holds one while waiting for something else."""
    needs = _by_volume(needs)
    volumes = {folder: _volume(folder) for folder in needs.disk_bytes}
    never = too_small(needs, volumes)
    if never is not None:
        raise DiskFull(f"This needs {never}")
    shortage = shortage_of(needs, available_bytes(), volumes)
    if shortage is None and needs.slot and lease is not None:
        holders = await lease.take_slot(limits)
        if holders:
            return f"processing slot: {limits.slots} of {limits.slots} are taken by {_names(holders)}"
    return shortage


def _names(holders: tuple[object, ...]) -> str:
    return ", ".join(str(getattr(holder, "title", holder)) for holder in holders)


def _kind_of(shortage: str) -> str:
    """The same want in other numbers is no news."""
    return shortage.partition("(")[0].partition(":")[0]


def _by_volume(needs: Needs) -> Needs:
    """The same needs, with those of folders on one volume added up."""
    wanted: dict[str, int] = {}
    first_of: dict[int, str] = {}
    for folder, size in needs.disk_bytes.items():
        first = first_of.setdefault(_nearest_folder(folder).stat().st_dev, folder)
        wanted[first] = wanted.get(first, 0) + size
    return replace(needs, disk_bytes=wanted)


def _volume(folder: str) -> Volume:
    usage = shutil.disk_usage(_nearest_folder(folder))
    return Volume(free=usage.free, total=usage.total)


def _nearest_folder(folder: str) -> Path:
    """The folder, or the one above it in which it will be made."""
    path = Path(folder)
    return next(place for place in (path, *path.absolute().parents) if place.exists())

"""What of the home may go, and the going.

The maintain flow takes an `inventory`, asks `what_may_go` (pure, the clock is an argument) and has `clear` remove that.
A crash on the way leaves whole things, `.tmp` folders that the next look finds, or a stage record whose asset is gone,
which no stage believes.

An asset goes before the records that name it. The other way round a run that looks in between would find no record,
make the asset again, see it lying there already, and lose it from under its new record; and an asset that cannot be
removed would have lost its checkpoint for nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from tidegate.durable.clearing import WORK, NotRemoved, Removal, RemovalRefusal, Removed, Stamp, remove
from tidegate.durable.home import Home
from tidegate.durable.inventory import Inventory, Scratch, StoredAsset, StoredResult, Weight
from tidegate.durable.lock import acquire, release_at_end
from tidegate.durable.threads import check_cancellation
from tidegate.errors import TidegateError
from tidegate.events import Note, NoteLevel, Observer
from tidegate.settings import SpaceSettings

SETTLED = timedelta(hours=1)
"""What is younger may still be in the making: an asset whose record is about to be written, a temporary file."""
MISSED = timedelta(days=1)
"""How long a record waits for an asset that is not there: its disk may only be away for a while."""
BEYOND_THE_FLOOR = 1.1
"""How far above the floor clearing goes once it has begun, so that it does not begin anew at every look."""


class RemovalReason(StrEnum):
    """Why something may go."""

    LEFTOVER = "left over by work that was cut short"
    EXPIRED = "scratch that nobody went on with in time"
    FLOOR = "the volume has less free space than it must have"
    UNNAMED = "no checkpoint names it"
    QUOTA = "the assets take more than their quota, and it was used longest ago"
    ASSET_GONE = "the asset that it names is gone"
    UNREADABLE = "nobody can read it"
    AGED = "it is older than checkpoints get, and nothing stands on it"


@dataclass(frozen=True)
class PlannedRemoval:
    """One thing that may go."""

    path: Path
    why: RemovalReason
    bytes: int
    """An estimate of what becomes free."""
    seen: Stamp
    work_key: str | None = None
    """Of scratch: whose it is."""
    address: str | None = None
    """Of an asset its own; of a record that of the asset that must be gone first."""
    last_used: datetime | None = None
    """Of an asset."""


def free_bytes(home: Home) -> int:
    """What is free on the volume of the assets. Blocking."""
    folder = home.assets if home.assets.exists() else home.root
    return shutil.disk_usage(folder).free


def what_may_go(
    found: Inventory,
    settings: SpaceSettings,
    live: frozenset[str],
    live_assets: frozenset[str],
    free_bytes: int,
    now: datetime,
) -> tuple[PlannedRemoval, ...]:
    """What may go, in the order in which it must; pure.

    `live` are the work keys of live attempts, `live_assets` the addresses that those stand on (see
    `assets_used_since` and `assets_named_in` of the inventory), `free_bytes` what is free on the volume of the assets,
    `now` an aware moment.
    """
    choice = _Choice(found, settings, live, live_assets, now)
    choice.plan_expired_scratch()
    choice.plan_leftovers()
    choice.plan_unnamed_assets()
    choice.plan_beyond_quota()
    choice.plan_below_floor(free_bytes)
    choice.plan_stale_records()
    return choice.planned


def unmet(
    found: Inventory, planned: Collection[PlannedRemoval], settings: SpaceSettings, free_bytes: int
) -> tuple[str, ...]:
    """Which limits will not be kept although all of `planned` goes, in words for a person; pure."""
    lines = []
    going = {one.path for one in planned}
    staying = sum(asset.weight.bytes for asset in found.assets if asset.path not in going)
    if settings.assets_bytes is not None and staying > settings.assets_bytes:
        lines.append(
            f"The assets that checkpoints, live runs and published reports need take {staying} bytes; "
            f"their quota is {settings.assets_bytes}"
        )
    free = free_bytes + sum(one.bytes for one in planned)
    if free < settings.free_bytes:
        lines.append(f"About {free} bytes will be free; {settings.free_bytes} should be, and the rest is needed")
    return tuple(lines)


class _FreedBytes:
    """Adds up what removing things frees on one volume: a file counts when its last name goes."""

    def __init__(self, volume: int) -> None:
        self.bytes = 0
        self._volume = volume
        self._names: Counter[int] = Counter()

    def add(self, weight: Weight) -> int:
        """Count one thing more; returns what it adds."""
        if weight.volume != self._volume:
            return 0
        freed = weight.own_bytes
        for inode, here, links, size in weight.shared:
            self._names[inode] += here
            freed += size if self._names[inode] == links else 0
        self.bytes += freed
        return freed

    def take_back(self, weight: Weight) -> None:
        """Undo an `add`."""
        if weight.volume != self._volume:
            return
        self.bytes -= weight.own_bytes
        for inode, here, links, size in weight.shared:
            self.bytes -= size if self._names[inode] == links else 0
            self._names[inode] -= here


class _Choice:
    """One decision, rule by rule; see `docs/space.md`. It looks at values only."""

    def __init__(
        self,
        found: Inventory,
        settings: SpaceSettings,
        live: frozenset[str],
        live_assets: frozenset[str],
        now: datetime,
    ) -> None:
        self._found = found
        self._settings = settings
        self._live = live
        self._now = now
        self._freed = _FreedBytes(found.volume)
        self._idle = sorted((one for one in found.scratch if one.work_key not in live), key=lambda one: one.changed)
        self._oldest_first = sorted(found.assets, key=lambda asset: (asset.last_used, asset.address))
        self._there = frozenset(asset.address for asset in found.assets)
        self._needed = live_assets | _names_in_live_scratch(found, live) | _names_in_reports(found)
        self._records = _by_name(found.records)
        self._named = frozenset(self._records).union(*(one.names for one in found.scratch))
        self._gone: set[str] = set()
        """Addresses of the assets that are to go."""
        self._planned: dict[Path, PlannedRemoval] = {}

    @property
    def planned(self) -> tuple[PlannedRemoval, ...]:
        return tuple(self._planned.values())

    def plan_expired_scratch(self) -> None:
        for scratch in self._idle:
            if self._older(scratch.changed, self._settings.scratch_age):
                self._plan_scratch(scratch, RemovalReason.EXPIRED)

    def plan_leftovers(self) -> None:
        for one in self._found.leftovers:
            if one.work_key in self._live or not self._older(one.changed, SETTLED):
                continue
            if self._planned.keys().isdisjoint(one.path.parents):  # else it goes with its folder
                self._plan(one.path, RemovalReason.LEFTOVER, one.weight, one.seen, work_key=one.work_key)

    def plan_unnamed_assets(self) -> None:
        """Where no record can be read, what they would name is not known; only time speaks then."""
        if not self._found.records_seen:
            return
        age = SETTLED if self._found.records else max(SETTLED, self._settings.checkpoint_age)
        for asset in self._candidates_besides(self._needed | self._named):
            if self._older(asset.last_used, age):
                self._plan_asset(asset, RemovalReason.UNNAMED)

    def plan_beyond_quota(self) -> None:
        quota = self._settings.assets_bytes
        if quota is None:
            return
        kept = self._needed | self._young_assets() | self._assets_of_fresh_checkpoints()
        staying = sum(asset.weight.bytes for asset in self._oldest_first if asset.address not in self._gone)
        for asset in self._candidates_besides(kept):
            if staying <= quota:
                return
            self._plan_asset(asset, RemovalReason.QUOTA)
            staying -= asset.weight.bytes

    def plan_below_floor(self, free_bytes: int) -> None:
        if free_bytes >= self._settings.free_bytes:
            return
        wanted = self._settings.free_bytes * BEYOND_THE_FLOOR - free_bytes
        for scratch in self._idle:
            if self._freed.bytes >= wanted:
                return
            if scratch.path not in self._planned and scratch.weight.volume == self._found.volume:
                self._plan_scratch(scratch, RemovalReason.FLOOR)
        for asset in self._candidates_besides(self._needed | self._young_assets()):
            if self._freed.bytes >= wanted:
                return
            self._plan_asset(asset, RemovalReason.FLOOR)

    def plan_stale_records(self) -> None:
        """The records of assets that this decision leaves alone: those of the others went with them."""
        for record in self._found.records:
            if record.path in self._planned:
                continue
            if not record.readable:
                if self._older(record.made, SETTLED):
                    self._plan(record.path, RemovalReason.UNREADABLE, record.weight, record.seen)
            elif not record.names:
                if self._older(record.made, self._settings.checkpoint_age) and not record.stands:
                    self._plan(record.path, RemovalReason.AGED, record.weight, record.seen)
            elif missing := self._absent_asset_of(record):
                self._plan(record.path, RemovalReason.ASSET_GONE, record.weight, record.seen, address=missing)

    def _absent_asset_of(self, record: StoredResult) -> str | None:
        """An asset that the record names and that is gone for good. An empty store may be a disk that is not there."""
        age = min(MISSED, self._settings.checkpoint_age) if self._found.assets else self._settings.checkpoint_age
        if not self._found.assets_seen or not self._older(record.made, age):
            return None
        return next((name for name in sorted(record.names - self._there) if not self._is_hidden(name)), None)

    def _is_hidden(self, address: str) -> bool:
        name = address.partition(":")[2]
        return not self._found.hidden.isdisjoint({name, name[:2]})

    def _candidates_besides(self, kept: frozenset[str]) -> list[StoredAsset]:
        """What is left to take, the one used longest ago first."""
        staying = kept | self._gone
        return [asset for asset in self._oldest_first if asset.address not in staying]

    def _young_assets(self) -> frozenset[str]:
        """Assets whose records may be about to be written."""
        young = (asset for asset in self._found.assets if not self._older(asset.last_used, SETTLED))
        return frozenset(asset.address for asset in young) - self._named

    def _assets_of_fresh_checkpoints(self) -> frozenset[str]:
        """Assets that a checkpoint within its age protects; a part's journal is one too."""
        age = self._settings.checkpoint_age
        records = (one.names for one in self._found.records if not self._older(one.made, age))
        journals = (one.names for one in self._found.scratch if not self._older(one.changed, age))
        return frozenset().union(*records, *journals)

    def _older(self, moment: datetime, age: timedelta) -> bool:
        return self._now - moment > age

    def _plan_scratch(self, scratch: Scratch, why: RemovalReason) -> None:
        """The folder, and with it what was to go in it."""
        for one in self._found.leftovers:
            if scratch.path in one.path.parents and one.path in self._planned:
                del self._planned[one.path]
                self._freed.take_back(one.weight)
        self._plan(scratch.path, why, scratch.weight, scratch.seen, work_key=scratch.work_key)

    def _plan_asset(self, asset: StoredAsset, why: RemovalReason) -> None:
        """The asset, then the records that name it, for the reason that the module opens with."""
        self._gone.add(asset.address)
        self._plan(asset.path, why, asset.weight, asset.seen, address=asset.address, last_used=asset.last_used)
        for record in self._records.get(asset.address, ()):
            if record.path not in self._planned:
                self._plan(record.path, RemovalReason.ASSET_GONE, record.weight, record.seen, address=asset.address)

    def _plan(
        self,
        path: Path,
        why: RemovalReason,
        weight: Weight,
        seen: Stamp,
        *,
        work_key: str | None = None,
        address: str | None = None,
        last_used: datetime | None = None,
    ) -> None:
        self._planned[path] = PlannedRemoval(path, why, self._freed.add(weight), seen, work_key, address, last_used)


def _by_name(records: Iterable[StoredResult]) -> dict[str, list[StoredResult]]:
    found: dict[str, list[StoredResult]] = {}
    for record in records:
        for name in record.names:
            found.setdefault(name, []).append(record)
    return found


def _names_in_live_scratch(found: Inventory, live: frozenset[str]) -> frozenset[str]:
    return frozenset().union(*(one.names for one in found.scratch if one.work_key in live))


def _names_in_reports(found: Inventory) -> frozenset[str]:
    """Assets that a report leads to, and those that hold the last copy of a file that it tells of."""
    digests = frozenset().union(*(report.digests for report in found.reports))
    last_copies = {a.address for a in found.assets if any(track.digest in digests for track in a.tracks)}
    return last_copies.union(*(report.names for report in found.reports))  # type: ignore[return-value]


def clear(
    home: Home, planned: Iterable[PlannedRemoval], needed: Callable[[PlannedRemoval], bool], observe: Observer
) -> tuple[Removal, ...]:
    """Remove what is planned, in its order, and tell of each. Blocking: call it in a thread.

    `needed` is asked right before each removal whether somebody has come to need it meanwhile; of scratch twice, the
    second time when nobody can claim its work any more. When it cannot tell (it raises a `TidegateError`), everything
    that is left stays.
    """
    done: list[Removal] = []
    for one in planned:
        check_cancellation()
        try:
            removal = _removal(home, one, needed)
        except TidegateError as error:
            observe(Note(f"Clearing stopped, because nobody can tell what is needed: {error.message}", "warning"))
            break
        observe(_note_of(removal, one))
        done.append(removal)
    return tuple(done)


def _removal(home: Home, one: PlannedRemoval, needed: Callable[[PlannedRemoval], bool]) -> Removal:
    if needed(one):
        return NotRemoved(one.path, one.why, RemovalRefusal.NEEDED)
    if one.work_key is not None:
        return _removal_alone(home, one, one.work_key, needed)
    if one.why is RemovalReason.ASSET_GONE and one.address is not None and _is_stored(home, one.address):
        return NotRemoved(one.path, one.why, RemovalRefusal.NEEDED, "the asset that it names is there")
    if one.why is RemovalReason.LEFTOVER and _is_being_filled(home.root / one.path):
        return NotRemoved(one.path, one.why, RemovalRefusal.NEEDED, "a run is filling it")
    return remove(home.root, one.path, one.why, one.seen)


def _removal_alone(home: Home, one: PlannedRemoval, work_key: str, needed: Callable[[PlannedRemoval], bool]) -> Removal:
    """Remove scratch while no run of this host is at it; one that comes to claim the work meanwhile waits."""
    lock = home.lock(work_key)
    try:
        with release_at_end(_lock_scratch(lock, work_key), lock):
            if needed(one):
                return NotRemoved(one.path, one.why, RemovalRefusal.NEEDED)
            if one.path == lock.relative_to(home.root):
                return Removed(one.path, one.bytes, one.why)  # it goes with the end of this block
            return remove(home.root, one.path, one.why, one.seen)
    except BlockingIOError:
        return NotRemoved(one.path, one.why, RemovalRefusal.NEEDED, "a run is working on it")
    except FileNotFoundError:
        return NotRemoved(one.path, one.why, RemovalRefusal.GONE)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # no lock fits on the disk: nobody else's does either
            return remove(home.root, one.path, one.why, one.seen)
        return NotRemoved(one.path, one.why, RemovalRefusal.FAILED, str(error))


def _lock_scratch(lock: Path, work_key: str) -> int:
    """As `acquire`, for a lock that is one: no link in its place is followed."""
    if not WORK.fullmatch(work_key) or lock.is_symlink():
        raise OSError(errno.EINVAL, "there is no such lock")
    return acquire(lock)


def _is_being_filled(folder: Path) -> bool:
    """Whether a living process holds an unfinished folder; see `unfinished`. Nobody locks one that was left."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def _is_stored(home: Home, address: str) -> bool:
    name = address.partition(":")[2]
    return os.path.lexists(home.assets / name[:2] / name)


def _note_of(removal: Removal, one: PlannedRemoval) -> Note:
    facts = {"path": str(one.path), "why": one.why.name.lower(), "bytes": removal.bytes}
    if isinstance(removal, Removed):
        return Note(f"Removed {one.path} ({removal.bytes} bytes): {one.why}", facts=facts)
    facts["refusal"] = removal.refusal.value
    message = f"{one.path} stays ({removal.refusal.value}{': ' if removal.detail else ''}{removal.detail})"
    return Note(message, _LEVEL_OF_REFUSAL.get(removal.refusal, "info"), facts)


_LEVEL_OF_REFUSAL: dict[RemovalRefusal, NoteLevel] = {
    RemovalRefusal.OUTSIDE: "error",
    RemovalRefusal.LINKED: "warning",
    RemovalRefusal.MOUNTED: "warning",
    RemovalRefusal.FAILED: "warning",
}
"""How loudly it is said that something stays; the rest is as it should be."""

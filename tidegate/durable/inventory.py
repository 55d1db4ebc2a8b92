"""What lies in the home: assets, scratch, stage records, leftovers, and the reports that were published.

The maintain flow takes one and hands it to `space.what_may_go`. Looking changes nothing, opens nothing that could
block, follows no link below our own folders, and lists only what has a name that Tidegate gives. What cannot be looked
at, after a crash or for any other reason, is noted, and nothing is concluded from it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tidegate.durable.clearing import ASSET, LOCK, RESULT_FILE, SET_ASIDE, SHARD, WORK, Stamp, disk_bytes
from tidegate.durable.home import Home
from tidegate.durable.store import MANIFEST
from tidegate.durable.threads import check_cancellation
from tidegate.model import Track

LARGEST_JSON_BYTES = 64 * 1024 * 1024
"""No record, journal or report of ours comes near; what is larger is not read."""

_ADDRESS = re.compile(r"blake3:[0-9a-f]{64}")
_IN_THE_STORE = re.compile(r"/assets/[0-9a-f]{2}/([0-9a-f]{64})(?:/|$)")


@dataclass(frozen=True)
class Weight:
    """How much disk something takes, and how much of it removing it would free."""

    volume: int = 0
    own_bytes: int = 0
    """Of files that have no other name."""
    shared: tuple[tuple[int, int, int, int], ...] = ()
    """Of each file with several names: inode, how many of them are here, how many there are, and its bytes."""

    @property
    def bytes(self) -> int:
        return self.own_bytes + sum(size for _, _, _, size in self.shared)


@dataclass(frozen=True)
class StoredAsset:
    """An asset as it lies in the store. Paths are relative to the home, here and below."""

    address: str
    path: Path
    weight: Weight
    last_used: datetime
    seen: Stamp
    tracks: tuple[Track, ...] = ()
    """From its manifest; none where that cannot be read."""


@dataclass(frozen=True)
class Scratch:
    """The scratch folder of one piece of work."""

    work_key: str
    path: Path
    weight: Weight
    changed: datetime
    """The latest change of anything in it."""
    seen: Stamp
    names: frozenset[str] = frozenset()
    """Addresses of assets that its journals name."""


@dataclass(frozen=True)
class StoredResult:
    """One persisted stage result."""

    path: Path
    weight: Weight
    made: datetime
    seen: Stamp
    names: frozenset[str] = frozenset()
    readable: bool = True
    stands: bool = False
    """Whether the folder that it says was published is there."""


@dataclass(frozen=True)
class Leftover:
    """Something half made or half removed, or the lock of a process that was killed."""

    path: Path
    weight: Weight
    changed: datetime
    seen: Stamp
    work_key: str | None = None
    """Whose it is, where that can be told."""


@dataclass(frozen=True)
class Report:
    """A report that was published and is still there."""

    folder: Path
    names: frozenset[str]
    """Addresses of the assets that it leads to."""
    digests: frozenset[str] = frozenset()
    """Of files that it tells of and that are not beside it: the store may hold their last copy."""


@dataclass(frozen=True)
class Inventory:
    """What was found."""

    assets: tuple[StoredAsset, ...] = ()
    scratch: tuple[Scratch, ...] = ()
    records: tuple[StoredResult, ...] = ()
    leftovers: tuple[Leftover, ...] = ()
    reports: tuple[Report, ...] = ()
    volume: int = 0
    """The device that the assets lie on; only what lies there too can help against its floor."""
    assets_seen: bool = True
    """Whether the folder of the assets could be looked into; otherwise nothing is concluded from what is not there."""
    records_seen: bool = True
    """The same of the records."""
    hidden: frozenset[str] = frozenset()
    """Shards, and addresses without their `blake3:`, behind links or other volumes or unreadable: not ours to remove,
    and not missing either."""
    notes: tuple[str, ...] = ()
    """What could not be looked at, for people."""


def inventory(home: Home, published: Iterable[Path] = ()) -> Inventory:
    """Look at everything in the home. `published` are the folders where something was ever published. Blocking.

    Records before assets: a stage stores first and records then, so what a record names here was stored before.
    """
    notes: list[str] = []
    records = _Survey(home.root, "results", notes)
    found_records = tuple(_survey_results(records))
    scratch = _Survey(home.root, "scratch", notes)
    found_scratch = tuple(_survey_scratch(scratch))
    assets = _Survey(home.root, "assets", notes)
    found_assets = tuple(_survey_assets(assets))
    return Inventory(
        assets=found_assets,
        scratch=found_scratch,
        records=found_records,
        leftovers=(*records.leftovers, *scratch.leftovers, *assets.leftovers),
        reports=tuple(_read_reports(published, notes)),
        volume=assets.volume or home.root.stat().st_dev,
        assets_seen=assets.seen,
        records_seen=records.seen and not records.hidden,
        hidden=frozenset(assets.hidden),
        notes=tuple(notes),
    )


def assets_used_since(found: Inventory, moment: datetime) -> frozenset[str]:
    """Addresses of the assets that were stored or used since then.

    With the start of the oldest live attempt this holds every asset that a live attempt stands on, whatever stage it
    is in, because each asset is touched before its checkpoint is believed.
    """
    return frozenset(asset.address for asset in found.assets if asset.last_used >= moment)


def assets_named_in(found: Inventory, records: Collection[str]) -> frozenset[str]:
    """Addresses of the assets that these stage records name; `records` are the names of their files."""
    return frozenset().union(*(one.names for one in found.records if one.path.name in records))


@dataclass
class _Survey:
    """A survey of one of our own folders; what it meets besides things of its kind."""

    root: Path
    top: str
    notes: list[str]
    leftovers: list[Leftover] = field(default_factory=list)
    hidden: set[str] = field(default_factory=set)
    seen: bool = False
    volume: int = 0

    def entries(self, *names: str) -> Iterator[tuple[str, os.stat_result]]:
        """Names and facts of what lies in a folder below, links unfollowed; what vanishes meanwhile is left out."""
        folder = self.root.joinpath(self.top, *names)
        try:
            if not names:
                self.volume = folder.stat().st_dev
            found = sorted(entry.name for entry in folder.iterdir())
        except OSError as error:
            if names or folder.is_symlink() or not isinstance(error, FileNotFoundError):
                self.hide(error, *names)
            else:
                self.seen = True  # there is none yet: as good as an empty one
            return
        self.seen = self.seen or not names
        for name in found:
            check_cancellation()
            try:
                yield name, (folder / name).lstat()
            except FileNotFoundError:
                continue
            except OSError as error:
                self.hide(error, *names, name)

    def hide(self, error: OSError, *names: str) -> None:
        """Note something that cannot be looked at: nothing is known of what it holds."""
        self.notes.append(f"{self.path(*names)} cannot be looked at: {error.strerror or error}")
        self.hidden.update(names[-1:])

    def path(self, *names: str) -> Path:
        return Path(self.top, *names)

    def whole(self, *names: str) -> Path:
        """The path to look at it with."""
        return self.root.joinpath(self.top, *names)

    def leave(self, found: os.stat_result, *names: str, work_key: str | None = None) -> None:
        """Note something left over."""
        with contextlib.suppress(FileNotFoundError):
            weight, changed = weigh(self.whole(*names))
            self.leftovers.append(Leftover(self.path(*names), weight, changed, Stamp.of(found), work_key))


def _survey_results(survey: _Survey) -> Iterator[StoredResult]:
    for name, found in survey.entries():
        if not stat.S_ISREG(found.st_mode):
            continue
        if RESULT_FILE.fullmatch(name):
            try:
                yield _read_result(survey, name, found)
            except FileNotFoundError:
                continue
            except OSError as error:
                survey.hide(error, name)
        elif SET_ASIDE.fullmatch(name):
            survey.leave(found, name)


def _read_result(survey: _Survey, name: str, found: os.stat_result) -> StoredResult:
    """What Prefect wrote: JSON that holds the JSON of `{"__class__": …, "data": …}` as a string.

    Raises:
        OSError: it cannot be read, which says nothing about what it holds.
    """
    path, weight, written = survey.path(name), _weight_of(found), _moment_of_change(found)
    try:
        data = json.loads(_read_json(survey.whole(name))["result"])["data"]
        made = min(_moment_of_text(data.get("recorded_at"), written), written)
        names, stands = frozenset(_addresses(data)), _may_stand(data.get("folder"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return StoredResult(path, weight, written, Stamp.of(found), readable=False)
    return StoredResult(path, weight, made, Stamp.of(found), names, stands=stands)


def _may_stand(folder: object) -> bool:
    """Whether a folder that was published is there, or may be: one that cannot be looked at is not gone."""
    try:
        return isinstance(folder, str) and Path(folder).is_dir()
    except OSError:
        return True


def _survey_scratch(survey: _Survey) -> Iterator[Scratch]:
    for name, found in survey.entries():
        if WORK.fullmatch(name) and stat.S_ISDIR(found.st_mode):
            with contextlib.suppress(FileNotFoundError):
                if found.st_dev == survey.volume:
                    yield _read_scratch(survey, name, found)
        elif LOCK.fullmatch(name) and stat.S_ISREG(found.st_mode):
            survey.leave(found, name, work_key=name.partition(".")[0])
        elif SET_ASIDE.fullmatch(name):
            survey.leave(found, name)


def _read_scratch(survey: _Survey, key: str, found: os.stat_result) -> Scratch:
    names: set[str] = set()
    for path in _files_below(survey.whole(key)):
        if path.suffix == ".journal":
            with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
                names.update(_addresses(_read_json(path)))
        elif path.suffix == ".partial" or SET_ASIDE.fullmatch(path.name):
            with contextlib.suppress(FileNotFoundError):
                survey.leave(path.lstat(), *path.relative_to(survey.whole()).parts, work_key=key)
    weight, changed = weigh(survey.whole(key))
    return Scratch(key, survey.path(key), weight, changed, Stamp.of(found), frozenset(names))


def _survey_assets(survey: _Survey) -> Iterator[StoredAsset]:
    for shard, found in survey.entries():
        if not SHARD.fullmatch(shard):
            continue
        if not stat.S_ISDIR(found.st_mode) or found.st_dev != survey.volume:
            survey.hidden.add(shard)
        else:
            yield from _survey_shard(survey, shard)


def _survey_shard(survey: _Survey, shard: str) -> Iterator[StoredAsset]:
    for name, found in survey.entries(shard):
        if SET_ASIDE.fullmatch(name):
            survey.leave(found, shard, name)
        elif ASSET.fullmatch(name):
            if not stat.S_ISDIR(found.st_mode) or found.st_dev != survey.volume:
                survey.hidden.add(name)
                continue
            with contextlib.suppress(FileNotFoundError):
                yield _read_asset(survey, shard, name, found)


def _read_asset(survey: _Survey, shard: str, name: str, found: os.stat_result) -> StoredAsset:
    folder = survey.whole(shard, name)
    weight, _ = weigh(folder)
    used, seen = _moment_of_change(found), Stamp.of(found)
    return StoredAsset(f"blake3:{name}", survey.path(shard, name), weight, used, seen, _read_tracks(folder))


def _read_tracks(folder: Path) -> tuple[Track, ...]:
    try:
        return tuple(Track.model_validate(track) for track in _read_json(folder / MANIFEST))
    except (OSError, ValueError, TypeError, RecursionError):
        return ()


def _read_reports(published: Iterable[Path], notes: list[str]) -> Iterator[Report]:
    for folder in sorted(set(published)):
        path = folder / "report.json"
        try:
            report = _read_json(path)
            if report["status"] == "completed":
                yield _report_of(folder, report)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            notes.append(f"{path} cannot be read, so nothing is known to need what it tells of: {error}")


def _report_of(folder: Path, report: dict[str, Any]) -> Report:
    names = (match[1] for text in _texts(report) for match in _IN_THE_STORE.finditer(text))
    output = report.get("output") or {}
    beside = folder / Path(output.get("path") or "").name
    missing = not (beside.is_file() and beside.stat().st_size == output.get("size_bytes"))
    digests = frozenset({output["digest"]}) if missing and output.get("digest") else frozenset()
    return Report(folder, frozenset(f"blake3:{name}" for name in names), digests)


def weigh(path: Path) -> tuple[Weight, datetime]:
    """The weight of a file or tree and the latest change in it. Links are not followed, mounts not entered."""
    top = path.lstat()
    own, latest = 0, top.st_mtime
    here: Counter[tuple[int, int, int]] = Counter()
    for found in (top, *(found for _, found in _walk(path, top))):
        latest = max(latest, found.st_mtime)
        if stat.S_ISDIR(found.st_mode) or found.st_nlink == 1:
            own += disk_bytes(found)
        else:
            here[found.st_ino, found.st_nlink, disk_bytes(found)] += 1
    shared = tuple((inode, count, links, size) for (inode, links, size), count in sorted(here.items()))
    return Weight(top.st_dev, own, shared), datetime.fromtimestamp(latest, UTC)


def _walk(path: Path, top: os.stat_result) -> Iterator[tuple[Path, os.stat_result]]:
    """Everything below; what vanishes or cannot be looked at is left out."""
    waiting = [path] if stat.S_ISDIR(top.st_mode) else []
    while waiting:
        with contextlib.suppress(OSError):
            for inner in list(waiting.pop().iterdir()):
                with contextlib.suppress(OSError):
                    found = inner.lstat()
                    if stat.S_ISDIR(found.st_mode) and found.st_dev == top.st_dev:
                        waiting.append(inner)
                    yield inner, found


def _files_below(path: Path) -> list[Path]:
    return [inner for inner, found in _walk(path, path.lstat()) if stat.S_ISREG(found.st_mode)]


def _read_json(path: Path) -> Any:
    """What a JSON file holds. Whatever else has its name, a pipe for example, keeps nobody waiting.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, or far too large.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST_JSON_BYTES:
            raise ValueError("no plain file of a plausible size")
        return json.loads(file.read())


def _addresses(value: Any) -> Iterator[str]:
    """The addresses of all assets in a stage's result or a journal, whatever stage it is of."""
    if isinstance(value, dict):
        address = value.get("address")
        if isinstance(address, str) and _ADDRESS.fullmatch(address):
            yield address
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _addresses(inner)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _moment_of_text(text: object, otherwise: datetime) -> datetime:
    moment = datetime.fromisoformat(text) if isinstance(text, str) else otherwise
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _moment_of_change(found: os.stat_result) -> datetime:
    return datetime.fromtimestamp(found.st_mtime, UTC)


def _weight_of(found: os.stat_result) -> Weight:
    return Weight(found.st_dev, disk_bytes(found) if found.st_nlink == 1 else 0)

"""Deleting, inside our own folders and nowhere else.

`space.clear` removes through here whatever maintenance decided; what cannot or must not be removed comes back as a
value, and the caller goes on with the rest. A folder is renamed to a `.tmp` name before it is emptied, so after a crash
it is there whole or is a leftover that the next look finds.

Where a path leads is decided by descriptors, one component after the other, never by its text: a link that somebody
plants between looking and deleting leads nowhere. Only the four top folders themselves may be links, because a person
may keep the assets on another disk; below them no link is followed, no mount is entered, and nothing goes whose name
is not one that Tidegate gives.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePath
from typing import Self

from tidegate.durable.crash_points import crash_point

STAT_BLOCK_BYTES = 512
"""The unit of `st_blocks`, whatever the file system's own blocks are."""

_MARK = r"\.[0-9a-f]{8}\.tmp"
"""How the names of `atomic.temporary_sibling` end."""

WORK = re.compile(r"[0-9a-f]{32}")
LOCK = re.compile(r"[0-9a-f]{32}\.lock")
SHARD = re.compile(r"[0-9a-f]{2}")
ASSET = re.compile(r"[0-9a-f]{64}")
RESULT_FILE = re.compile(r"[a-z_]+-r\d+-[0-9a-f]{32}\.json|[0-9a-f]{32}")
"""`stage-r1-<fingerprint>.json`, and the random names under which Prefect keeps what a task raised."""
SECRET_FILE = re.compile(r"[0-9a-f]{16}\.json")
SET_ASIDE = re.compile(rf"\..+{_MARK}")
"""Half made, or half removed."""

OWN_NAMES: dict[str, tuple[tuple[re.Pattern[str], ...], ...]] = {
    "scratch": ((WORK,), (LOCK,), (SET_ASIDE,)),
    "assets": ((SHARD, ASSET), (SHARD, SET_ASIDE)),
    "results": ((RESULT_FILE,), (SET_ASIDE,)),
    "secrets": ((SECRET_FILE,), (SET_ASIDE,)),
}
"""Our own folders, and the names that things have in them. What lies below such a thing is ours too."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class RemovalRefusal(StrEnum):
    """Why something was not removed."""

    OUTSIDE = "outside"
    """It is not below one of our own folders, or has no name that we give."""
    LINKED = "linked"
    """A symbolic link stands on the way to it."""
    MOUNTED = "mounted"
    """Another volume is mounted there."""
    NEEDED = "needed"
    """Somebody turned out to need it."""
    CHANGED = "changed"
    """It was used or written since it was looked at."""
    GONE = "gone"
    """Somebody else removed it."""
    FAILED = "failed"
    """The operating system refused."""


@dataclass(frozen=True)
class Removed:
    """What was removed."""

    path: Path
    bytes: int
    """Bytes of disk that became free: a file with another name elsewhere frees none."""
    why: str


@dataclass(frozen=True)
class NotRemoved:
    """What is still there, at least in part."""

    path: Path
    why: str
    """Why it was to go."""
    refusal: RemovalRefusal
    detail: str = ""
    bytes: int = 0
    """What was freed before it went wrong."""


Removal = Removed | NotRemoved


@dataclass(frozen=True)
class Stamp:
    """Tells whether a file or folder is still what it was."""

    inode: int
    mtime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Self:
        return cls(found.st_ino, found.st_mtime_ns)


class _Refused(Exception):
    def __init__(self, refusal: RemovalRefusal, detail: str) -> None:
        super().__init__(detail)
        self.refusal = refusal


@dataclass
class _Tally:
    """What came of emptying one folder."""

    device: int
    bytes: int = 0
    trouble: list[_Refused] = field(default_factory=list)


def remove(root: Path, path: Path, why: str, seen: Stamp | None = None) -> Removal:
    """Remove a file, link or tree of the home `root`; `path` is relative to it, or absolute and below it.

    A link goes itself, never what it leads to. With `seen`, only what is still as it was then goes.
    """
    tally = _Tally(device=0)
    try:
        *way, name = _way_to(root, path)
        with _open_folder(root, way) as folder:
            tally.device = os.fstat(folder).st_dev
            _take_away(folder, name, seen, tally)
    except _Refused as refused:
        return NotRemoved(path, why, refused.refusal, str(refused), tally.bytes)
    except FileNotFoundError:
        return NotRemoved(path, why, RemovalRefusal.GONE, "", tally.bytes)
    except (OSError, ValueError, RecursionError) as error:  # a name with a zero byte; a tree deeper than any of ours
        return NotRemoved(path, why, RemovalRefusal.FAILED, str(error), tally.bytes)
    return Removed(path, tally.bytes, why)


def disk_bytes(found: os.stat_result) -> int:
    """The disk space of a file or folder, in bytes."""
    return found.st_blocks * STAT_BLOCK_BYTES


def _way_to(root: Path, path: Path) -> tuple[str, ...]:
    """The names from `root` to `path`, by text; whether they lead there is for the descriptors to say.

    Raises:
        _Refused: it is not ours.
    """
    try:
        inside: PurePath = path.relative_to(root) if path.is_absolute() else path
    except ValueError as error:
        raise _Refused(RemovalRefusal.OUTSIDE, f"{path} is not below {root}") from error
    if ".." in inside.parts:
        raise _Refused(RemovalRefusal.OUTSIDE, f"{path} leads upwards")
    top, *names = inside.parts or ("",)
    for shape in OWN_NAMES.get(top, ()):
        if len(names) >= len(shape) and all(part.fullmatch(name) for part, name in zip(shape, names, strict=False)):
            return top, *names
    raise _Refused(RemovalRefusal.OUTSIDE, f"{path} is no name that Tidegate gives")


@contextlib.contextmanager
def _open_folder(root: Path, way: list[str]) -> Iterator[int]:
    """A descriptor of the folder at the end of the way.

    Raises:
        _Refused: a link or another volume stands on it.
        OSError: it cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        folder = _close_with(stack, os.open(root, _FOLDER))
        folder = _close_with(stack, os.open(way[0], _FOLDER, dir_fd=folder))  # the one link that may be followed
        device = os.fstat(folder).st_dev
        for name in way[1:]:
            folder = _close_with(stack, _enter(folder, name, device))
        yield folder


def _enter(folder: int, name: str, device: int) -> int:
    """A descriptor of the folder `name`, on this device and itself no link; see `_open_folder` for what it raises."""
    try:
        inner = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and stat.S_ISLNK(_stat(folder, name).st_mode):
            raise _Refused(RemovalRefusal.LINKED, f"{name} is a symbolic link") from error
        raise
    if os.fstat(inner).st_dev != device:
        os.close(inner)
        raise _Refused(RemovalRefusal.MOUNTED, f"another volume is mounted at {name}")
    return inner


def _take_away(folder: int, name: str, seen: Stamp | None, tally: _Tally) -> None:
    found = _stat(folder, name)
    if seen is not None and Stamp.of(found) != seen:
        raise _Refused(RemovalRefusal.CHANGED, f"{name} was used or written since")
    crash_point("remove {}: begun", name)
    if not stat.S_ISDIR(found.st_mode):
        _unlink(folder, name, found, tally)
    else:
        os.close(_enter(folder, name, tally.device))  # a mount is refused before anything is renamed
        aside = _set_aside(folder, name)
        crash_point("remove {}: set aside", name)
        _remove_folder(folder, aside, tally)
    crash_point("remove {}: done", name)
    if tally.trouble:
        raise tally.trouble[0]


def _set_aside(folder: int, name: str) -> str:
    """Give a folder a name that nobody takes for a result; returns the name that it has now."""
    if SET_ASIDE.fullmatch(name):
        return name
    aside = f".{name}.{secrets.token_hex(4)}.tmp"
    try:
        os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG):
            raise
        return name  # even a longer name may not fit on a full disk, and then removing must not fail of all things
    return aside


def _remove_folder(folder: int, name: str, tally: _Tally) -> None:
    """Empty and remove a folder. What stands in the way is told to the tally, and the rest goes all the same."""
    try:
        inner = _enter(folder, name, tally.device)
        try:
            for entry in os.listdir(inner):  # noqa: PTH208  # pathlib knows no descriptors
                _remove_entry(inner, entry, tally)
            size = disk_bytes(os.fstat(inner))
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=folder)
        tally.bytes += size
    except FileNotFoundError:
        return
    except _Refused as refused:
        tally.trouble.append(refused)
    except OSError as error:
        tally.trouble.append(_Refused(RemovalRefusal.FAILED, f"{name}: {error.strerror}"))


def _remove_entry(folder: int, name: str, tally: _Tally) -> None:
    try:
        found = _stat(folder, name)
        if not stat.S_ISDIR(found.st_mode):
            _unlink(folder, name, found, tally)
            return
    except FileNotFoundError:
        return
    except OSError as error:
        tally.trouble.append(_Refused(RemovalRefusal.FAILED, f"{name}: {error.strerror}"))
        return
    _remove_folder(folder, name, tally)


def _unlink(folder: int, name: str, found: os.stat_result, tally: _Tally) -> None:
    os.unlink(name, dir_fd=folder)
    if found.st_nlink == 1:
        tally.bytes += disk_bytes(found)


def _stat(folder: int, name: str) -> os.stat_result:
    return os.stat(name, dir_fd=folder, follow_symlinks=False)


def _close_with(stack: contextlib.ExitStack, handle: int) -> int:
    stack.callback(os.close, handle)
    return handle

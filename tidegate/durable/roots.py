"""Which folders of this host a deployed run may read from and publish into.

`flows/roots.py` makes the roots of a run; the flow asks before it touches a path, the local resolver again of the file
that it has opened, and publish again of the folder that it is about to swap in. A run by hand has none: whoever types
a command may read what they may read. Nothing is kept, and a refused run leaves nothing.

A path is judged by what it really is, with every `..` and symbolic link followed. `refusal_reason` decides and is pure.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from tidegate.durable.home import is_own
from tidegate.errors import PathRefused

SETTING = "TIDEGATE_ROOTS"
SYSTEM_FOLDERS = (Path("/proc"), Path("/sys"), Path("/dev"), Path("/etc"), Path("/boot"))
"""Where no media lies. A root that lies above them does not reach into them; one inside them does."""


class PathRefusal(StrEnum):
    """Why a path is refused."""

    OUTSIDE = "it lies outside the folders that deployed runs may use"
    HIDDEN = "hidden files and folders are no media"
    SYSTEM = "it belongs to the system"
    OWN = "Tidegate keeps its own things there"


@dataclass(frozen=True)
class Folders:
    """Folders that may be read, and those among them that may be written."""

    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()

    def __add__(self, other: Folders) -> Folders:
        return Folders(self.readable + other.readable, self.writable + other.writable)


@dataclass(frozen=True)
class Roots:
    """What one deployed run may use."""

    given: tuple[Path, ...]
    """The folders that may be read and written."""
    homes: tuple[Path, ...]
    """Of these what Tidegate keeps for itself is neither read nor written, whatever else is allowed."""
    named: tuple[Path, ...] = ()
    """What the setting names already; a refusal prints them along with what is missing."""
    used: Callable[[], Folders] = field(default=Folders)
    """What runs before this one have used; asked only where the rest allows it not. Blocking."""

    def require_readable(self, path: Path) -> None:
        """Whether this file may be a source. Blocking.

        Raises:
            PathRefused: it may not.
        """
        self._require(path, path.parent, "read", lambda folders: folders.readable)

    def require_writable(self, folder: Path) -> None:
        """Whether results may be published into this folder. Blocking.

        Raises:
            PathRefused: they may not.
        """
        self._require(folder, folder, "publish into", lambda folders: folders.writable)

    def require_same(self, handle: int, path: Path) -> None:
        """Whether an open file may be a source: a link may have been put in its place since `path` was judged.

        Raises:
            PathRefused: it may not.
        """
        self.require_readable(_path_of(handle, path))

    def _require(self, path: Path, folder: Path, verb: str, of: Callable[[Folders], tuple[Path, ...]]) -> None:
        real, homes = real_path(path), tuple(map(real_path, self.homes))
        why = refusal_reason(real, map(real_path, self.given), homes)
        if why is PathRefusal.OUTSIDE or why is PathRefusal.HIDDEN:
            why = refusal_reason(real, (*map(real_path, self.given), *of(self.used())), homes)
        if why is not None:
            raise self._refusal(path, real, real if folder == path else real.parent, verb, why)

    def _refusal(self, path: Path, real: Path, folder: Path, verb: str, why: PathRefusal) -> PathRefused:
        shown = _printable(path) if real == path else f"{_printable(path)}, which is {_printable(real)}"
        message = f"A deployed run may not {verb} {shown}: {why}"
        if why is PathRefusal.OWN:
            return PathRefused(message, hint="give a folder of its own; what runs have published may be read there")
        return PathRefused(
            f"{message}. To allow it: {self._line(folder)}",
            hint="set that line where make serve, or the worker, is started, and start it again",
        )

    def _line(self, folder: Path) -> str:
        """The whole line to set; a folder whose name holds the separator is allowed by the one above it."""
        while os.pathsep in str(folder):
            folder = folder.parent
        folders = dict.fromkeys((*map(_printable, self.named), _printable(folder)))
        return f"{SETTING}={shlex.quote(os.pathsep.join(folders))}"


def refusal_reason(path: Path, roots: Iterable[Path], homes: Iterable[Path]) -> PathRefusal | None:
    """Why nobody may use this path; None where it may be used. All of them are real paths."""
    if any(is_own(path, home) for home in homes):
        return PathRefusal.OWN
    verdicts = [_why_out_of_reach(path, root) for root in roots if path.is_relative_to(root)]
    if not verdicts:
        return PathRefusal.OUTSIDE
    return None if None in verdicts else verdicts[0]


def _why_out_of_reach(path: Path, root: Path) -> PathRefusal | None:
    if any(part.startswith(".") for part in path.relative_to(root).parts):
        return PathRefusal.HIDDEN
    if any(path.is_relative_to(area) and not root.is_relative_to(area) for area in SYSTEM_FOLDERS):
        return PathRefusal.SYSTEM
    return None


def real_path(path: Path) -> Path:
    """The path as it really is, also of what does not exist (yet). A loop of links stays as it is named; of two slashes
    at the beginning, which mean one here and are kept as two, one goes."""
    real = os.path.realpath(path)
    return Path(f"/{real.lstrip('/')}") if real.startswith("//") else Path(real)


def folder_in_place(folder: Path, child: str) -> Path | None:
    """The folder that a run has used, as it really is; None where a link now stands in its place, and leads to a folder
    without what that run had there."""
    real = real_path(folder)
    return real if real == folder or (os.path.lexists(real / child) and not (real / child).is_symlink()) else None


def is_too_wide(folder: Path) -> bool:
    """Whether a folder says nothing about what is meant: a service is often started in `/`."""
    return folder == folder.parent


def _path_of(handle: int, path: Path) -> Path:
    """Where an open file lies."""
    try:
        return Path(str(Path(f"/proc/self/fd/{handle}").readlink()).removesuffix(" (deleted)"))
    except OSError:  # no such file system: whether the path leads to this file
        real = real_path(path)
        if not os.path.samestat(real.lstat(), os.fstat(handle)):
            raise PathRefused(f"{_printable(path)} was replaced while it was opened") from None
        return real


def _printable(path: Path) -> str:
    return os.fsencode(path).decode(errors="replace")

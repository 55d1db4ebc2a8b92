"""Closing a home that an earlier version, or a person, has left open to other users of the machine.

Commands call `close_home` when they begin and say what it returns; `flows/doctor_home.py` tells what is left. It only
ever takes rights away, and only where that is the owner's own affair: a home that is shared with a group, and one that
belongs to somebody else, stay as they are. A crash half-way leaves the rest to the next command.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tidegate.durable.home import DEFAULT_OUTPUT, Home
from tidegate.durable.private import OTHERS, Permissions, permissions_of, share_reason

_LISTABLE = 0o044
"""Bits by which others may list a folder. Without them it is a passage to what is published in it, and stays one."""
_SIGNS = ("*.meta.json", "*.err.log", "report.json")
"""What a published folder has."""


@dataclass(frozen=True)
class HomeAccess:
    """How a home stands to other users."""

    root: Permissions
    shared: str | None
    """Why it counts as shared on purpose."""
    somebody_elses: bool
    open_parts: tuple[Path, ...]
    """Private folders and files that others may look into."""
    outputs: tuple[Path, ...]
    """Folders in it that hold what was published."""

    @property
    def to_be_closed(self) -> bool:
        return not (self.shared or self.somebody_elses)


def home_access(home: Home) -> HomeAccess | None:
    """How the home stands; None where there is none yet."""
    try:
        root = permissions_of(home.root)
    except OSError:
        return None
    open_parts = tuple(path for path in home.parts() if _is_open(path))
    outputs = tuple(outputs_in(home)) if root.mode & OTHERS else ()
    return HomeAccess(root, share_reason(root), root.owner != os.geteuid(), open_parts, outputs)


def close_home(home: Home) -> tuple[str, ...]:
    """Take from others what they need not see; gives a line for each kind of thing that was done."""
    try:
        root = permissions_of(home.root)
    except OSError:
        return ()
    if share_reason(root) or root.owner != os.geteuid():
        return ()
    lines = []
    closed = [path for path in home.parts() if _close(path)]
    if closed:
        lines.append(f"Other users of this machine could read ledger, results or logs in {home.root}: no longer.")
    if root.mode & _LISTABLE and not any(outputs_in(home)):
        with contextlib.suppress(OSError):
            home.root.chmod(root.mode & ~OTHERS)
            lines.append(f"{home.root} was {stat.filemode(root.mode | stat.S_IFDIR)}; it is its owner's alone now.")
    return tuple(lines)


def close_file(path: Path) -> bool:
    """Take a file from others, unless it is shared on purpose or somebody else's; says whether that changed it."""
    return _close(path)


def outputs_in(home: Home) -> Iterator[Path]:
    """Folders of the home in which something was published: by their look, and by what the ledger says."""
    seen = set()
    for folder in _not_private(home):
        if folder.name == DEFAULT_OUTPUT or _holds_results(folder):
            seen.add(folder)
            yield folder
    for published in _folders_in_ledger(home):
        top = home.root / published.relative_to(home.root).parts[0]
        if top not in seen and not home.is_private(top) and published.is_dir():
            seen.add(top)
            yield top


def _not_private(home: Home) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for path in sorted(home.root.iterdir()):
            if not home.is_private(path) and not path.name.startswith(".") and path.is_dir():
                yield path


def _holds_results(folder: Path) -> bool:
    """Whether it is a published folder, or holds some one or two levels down."""
    return any(next(folder.glob(level + sign), None) for level in ("", "*/", "*/*/") for sign in _SIGNS)


def _folders_in_ledger(home: Home) -> list[Path]:
    """What the ledger in the home knows as published in it. Read without SQLAlchemy: commands ask when they begin. And
    without making a log and an index where nobody is writing, which would stay."""
    how = "mode=ro" if home.ledger.with_name(f"{home.ledger.name}-wal").exists() else "mode=ro&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(f"{home.ledger.as_uri()}?{how}", uri=True, timeout=1)) as ledger:
            rows = ledger.execute("SELECT folder FROM publications").fetchall()
    except (sqlite3.Error, ValueError):
        return []
    return [folder for (text,) in rows if home.root in (folder := Path(text)).parents]


def _is_open(path: Path) -> bool:
    with contextlib.suppress(OSError):
        found = permissions_of(path)
        return found.open_to_others and share_reason(found) is None
    return False


def _close(path: Path) -> bool:
    """Whether it was open and is not any more."""
    try:
        found = permissions_of(path)
        if not found.open_to_others or found.owner != os.geteuid() or share_reason(found):
            return False
        path.chmod(found.mode & ~OTHERS)
    except OSError:
        return False
    return True

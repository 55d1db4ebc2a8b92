"""Folders that somebody is filling, told from those that a crash left.

The asset store prepares in one and renames it when it is whole. It is locked for as long as its process lives, so
whoever finds one unlocked knows that nobody will finish it; where folders cannot be locked nothing is cleared.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tidegate.durable import private
from tidegate.durable.atomic import temporary_sibling
from tidegate.durable.lock import still_there


@contextlib.contextmanager
def prepare_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, for the length of the block; what lies under its name then is removed."""
    folder, handle = _make_and_lock(target)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def clear_leftovers(parent: Path) -> None:
    """Remove the unfinished folders in `parent` that nobody is filling any more."""
    for folder in parent.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            handle = _open(folder)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def _make_and_lock(target: Path) -> tuple[Path, int]:
    """Make and lock it. In between somebody may take it for abandoned; then another one is made."""
    while True:
        folder = temporary_sibling(target)
        private.make_folder(folder)
        with contextlib.suppress(FileNotFoundError):
            handle = _open(folder)
            if _try_to_lock(handle) and still_there(handle, folder):
                return folder, handle
            os.close(handle)


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _try_to_lock(handle: int) -> bool:
    """Whether nobody else holds it; true as well where folders cannot be locked."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True

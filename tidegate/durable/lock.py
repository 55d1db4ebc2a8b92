"""One process at a time for one piece of work on this host.

A part file is its own lock; where the ledger is a SQLite file, a lock file guards each work key while it is claimed and
while a result becomes visible. The kernel frees both when the process ends, however it ends, so no lock goes stale and
none has to be timed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio

from tidegate.durable import private

LOCK_POLL_SECONDS = 0.5
"""How often a run looks whether the one before it is done."""


def acquire(path: Path) -> int:
    """Open (or create) and lock a file; closing the descriptor frees it.

    Raises:
        BlockingIOError: another process holds it, or it was moved away between opening and locking.
        OSError: it cannot be opened.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, private.file_mode(path))
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not still_there(handle, path):
            raise BlockingIOError(f"{path} was taken away between opening and locking it")
    except BaseException:
        os.close(handle)
        raise
    return handle


async def acquire_when_free(path: Path, on_wait: Callable[[], None]) -> int:
    """As `acquire`, but waits for another process; `on_wait` is called once when it has to."""
    waited = False
    while True:
        try:
            return acquire(path)
        except BlockingIOError:
            if not waited:
                on_wait()
                waited = True
            await anyio.sleep(LOCK_POLL_SECONDS)


@contextlib.contextmanager
def release_at_end(handle: int, path: Path) -> Iterator[None]:
    """Give up a lock, and its file, at the end of the block."""
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        os.close(handle)


def still_there(handle: int, path: Path) -> bool:
    """Whether the locked file is the one of that name: the run before may just have moved or removed it."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False

"""`python -m flows.serving APP --fd N`: the process of a Prefect server, as `flows/server.py` launches it.

It does what uvicorn does, and two things that need the process itself. It starts alone on its database, because two
servers that migrate one SQLite file at once knock each other out. With `--users FILE` it ends by itself once no process
holds that file's lock any more, so a command that was killed leaves no server behind. After a crash nothing is left:
the kernel frees both locks.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import unquote

import uvicorn

LOOK_SECONDS = 0.5
END_SECONDS = 10.0
"""How long a server may take to end by itself."""
STARTS_TRIED = 4
TRIED = "TIDEGATE_SERVER_STARTS"
"""How often this process has begun anew."""
RACES = ("database is locked", "already exists", "UNIQUE constraint failed", "duplicate column")
"""What a start says that met somebody else's migrations on the same database, such as those of `prefect server start`,
which knows nothing of our lock."""


class Server(uvicorn.Server):
    """Begins its work alone on its database, and again where it was not."""

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        complaints = _Complaints()
        logging.getLogger("uvicorn.error").addHandler(complaints)
        try:
            async with alone(start_lock(database_url()), lambda: self.should_exit):
                await super().startup(sockets)  # type: ignore[arg-type]
        except SystemExit:
            if complaints.tell_of_a_race() and int(os.environ.get(TRIED, "1")) < STARTS_TRIED:
                await asyncio.sleep(random.uniform(0.5, 3))  # noqa: S311
                _begin_anew()
            raise


class _Complaints(logging.Handler):
    """What uvicorn had to say of a start that failed: the application's traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += self.format(record)

    def tell_of_a_race(self) -> bool:
        return any(sign in self.text for sign in RACES)


def main() -> None:
    """Serve until told to end, or until nobody is left."""
    words = _parser().parse_args()
    if words.users is not None:
        threading.Thread(target=end_when_unused, args=(words.users,), daemon=True).start()
    Server(uvicorn.Config(words.app, factory=True, fd=words.fd, log_level="error", lifespan="on")).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows.serving")
    parser.add_argument("app", help="module:function that makes the application")
    parser.add_argument("--fd", type=int, required=True, help="the socket that it listens on")
    parser.add_argument("--users", type=Path, help="the file whose lock its users hold")
    return parser


def end_when_unused(users: Path) -> None:
    """Wait until nobody holds the lock, then end this process. Whoever comes meanwhile waits until it has ended."""
    with contextlib.suppress(OSError):  # the home is gone: nobody can come any more
        handle = os.open(users, os.O_RDWR)
        while not _is_mine(handle):
            time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _is_mine(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.asynccontextmanager
async def alone(lock: Path | None, given_up: Callable[[], bool] = lambda: False) -> AsyncIterator[None]:
    """While no other server of ours starts on the same database.

    Raises:
        SystemExit: this one was told to end while it waited for another.
    """
    if lock is None:
        yield
        return
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _is_mine(handle):
            print(f"waits for another server that starts on the same database ({lock})", flush=True)  # noqa: T201
        while not _is_mine(handle):
            if given_up():
                sys.exit()
            await asyncio.sleep(0.1)
        yield
    finally:
        os.close(handle)


def database_url() -> str:
    """Where this server keeps its data, as Prefect has been told."""
    from prefect.settings import get_current_settings

    url = get_current_settings().server.database.connection_url
    return url.get_secret_value() if url else ""


def start_lock(url: str) -> Path | None:
    """The lock beside a database that is a file; PostgreSQL's migrations wait for each other. Pure."""
    scheme, _, place = url.partition(":///")
    path = unquote(place.partition("?")[0])
    if not scheme.startswith("sqlite") or path in ("", ":memory:") or path.startswith("file:"):
        return None
    return Path(path).with_name(f".{Path(path).name}.start.lock")


def _begin_anew() -> None:
    """The same process with the same socket, from its beginning."""
    os.environ[TRIED] = str(int(os.environ.get(TRIED, "1")) + 1)
    os.execv(sys.executable, sys.orig_argv)  # noqa: S606


if __name__ == "__main__":
    main()

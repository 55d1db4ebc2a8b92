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
import resource
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import unquote

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

LOOK_SECONDS = 0.5
END_SECONDS = 10.0
"""How long a server may take to end by itself."""
HEAD_SECONDS = 20.0
"""How long a connection may take until the head of its next request is there."""
FETCH_SECONDS = 60.0
"""How long a client may fetch nothing of an answer that waits for it."""
FILES = 65_536
"""How many connections and files it may have open, where the system allows it."""
STARTS_TRIED = 4
TRIED = "TIDEGATE_SERVER_STARTS"
"""How often this process has begun anew."""
RACES = ("database is locked", "already exists", "UNIQUE constraint failed", "duplicate column")
"""What a start says that met somebody else's migrations on the same database, such as those of `prefect server start`,
which knows nothing of our lock."""


OF_STRANGERS = ("Invalid HTTP request received.", "Unsupported upgrade request.")
"""What uvicorn says of a request that it cannot read, or not as it was meant."""


class PatientServer(uvicorn.Server):
    """Begins its work alone on its database, and again where it was not."""

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        complaints = _Complaints()
        logging.getLogger("uvicorn.error").addHandler(complaints)
        try:
            async with start_alone(start_lock(database_url()), lambda: self.should_exit):
                await super().startup(sockets)  # type: ignore[arg-type]
        except SystemExit:
            if complaints.tell_of_a_race() and int(os.environ.get(TRIED, "1")) < STARTS_TRIED:
                await asyncio.sleep(random.uniform(0.5, 3))  # noqa: S311
                _begin_anew()
            raise


class Patient(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
    """One connection, which is cut where the head of a request does not come, or the answer is not fetched. uvicorn
    waits for both for ever."""

    _head: asyncio.TimerHandle | None = None
    _fetching: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._wait_for_a_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_at_work():
            self._end_the_wait()
        elif self._head is None:
            self._wait_for_a_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._is_at_work():  # the next request may have come already
            self._wait_for_a_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._fetching = self.loop.call_later(FETCH_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel_timer(self._fetching)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_the_wait()
        _cancel_timer(self._fetching)
        super().connection_lost(exc)

    def _is_at_work(self) -> bool:
        """On a request, or as a WebSocket, which has a protocol of its own."""
        return self.transport.get_protocol() is not self or bool(self.cycle and not self.cycle.response_complete)

    def _wait_for_a_head(self) -> None:
        self._end_the_wait()
        self._head = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _end_the_wait(self) -> None:
        _cancel_timer(self._head)
        self._head = None


def _cancel_timer(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def keep_silent_about_strangers() -> None:
    """Anybody can send what is no request, as often as he likes: a line for each would fill the disk."""
    logging.getLogger("uvicorn.error").addFilter(lambda record: record.msg not in OF_STRANGERS)


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
    words = _server_parser().parse_args()
    if words.users is not None:
        threading.Thread(target=end_after_last_user, args=(words.users,), daemon=True).start()
    allow_connections()
    keep_silent_about_strangers()
    config = uvicorn.Config(words.app, factory=True, fd=words.fd, log_level="error", lifespan="on", http=Patient)
    PatientServer(config).run()


def allow_connections() -> None:
    """The usual limit of 1,024 files is used up by one program that opens connections and says nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _server_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows.serving")
    parser.add_argument("app", help="module:function that makes the application")
    parser.add_argument("--fd", type=int, required=True, help="the socket that it listens on")
    parser.add_argument("--users", type=Path, help="the file whose lock its users hold")
    return parser


def end_after_last_user(users: Path) -> None:
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
async def start_alone(lock: Path | None, is_given_up: Callable[[], bool] = lambda: False) -> AsyncIterator[None]:
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
            if is_given_up():
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

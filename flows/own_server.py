"""The short-lived Prefect server of a home: shared by all commands that run at the same time, gone after the last one.

`flows/server.py` joins it where no other server is to be had, and leaves it at the end. Each command holds a shared
lock on a file for as long as it lives, and takes it before it looks; the server ends itself once it gets that lock for
itself alone. So a killed command leaves no server behind, the end of the one that started it takes nothing from the
others, and nobody finds a server that is just ending. The log is the server's own: it holds a lock on it, and only logs
without one are cleared away. Commands of another host, container, user, version or Prefect database have one of
their own.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from flows.configuration import prefect_home, server_variables
from flows.request import require_writable
from tidegate.durable import private
from tidegate.durable.atomic import write_atomic
from tidegate.durable.lock import still_there
from tidegate.durable.owner import Owner, is_provably_gone, start_of, this_process
from tidegate.errors import DiskFull, ServerUnavailable, TidegateError, from_os_error
from tidegate.model import Value

END_SECONDS = 12.0
"""How long a server may take to end before it is killed."""
LOGS_KEPT = 10
FOLDERS_KEPT_SECONDS = 24 * 3600.0
QUOTED_LINES = 3
QUOTED_CHARACTERS = 600
ERROR = re.compile(r"[\w.]*(Error|Exception)\b")
"""How the last line of a traceback begins."""
FULL = ("disk is full", "No space left on device", "Disk quota exceeded")


class Record(Value):
    """The server that was started last."""

    api_url: str
    owner: Owner
    """Its process."""
    log: Path


Launch = Callable[[Path, Path], tuple[str, int]]
"""Starts a server with a log and the file of its users; gives its address and process."""


@dataclass
class OwnServer:
    """A user's part in it."""

    folder: Path
    users: int
    """The descriptor that holds the lock."""
    record: Record
    is_starter: bool

    @property
    def has_ended(self) -> bool:
        return is_provably_gone(self.record.owner, this_process())

    def failure(self) -> TidegateError:
        """Why it did not start, as its log tells."""
        reason = last_lines(self.record.log)
        if any(sign in _tail(self.record.log) for sign in FULL):
            return DiskFull(f"The Prefect server did not start, see {self.record.log}: {reason}")
        return ServerUnavailable(
            f"The Prefect server did not start, see {self.record.log}" + (f": {reason}" if reason else ""),
            hint="look at what the message quotes from its log",
        )

    def leave(self) -> None:
        """Give up the lock; the last one to go ends the server, and who comes meanwhile waits for its end."""
        try:
            fcntl.flock(self.users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # others use it, or it is ending by itself
            os.close(self.users)
            return
        try:
            _end_server(self.record.owner)
            with contextlib.suppress(OSError):
                _record_in(self.folder).unlink()
        finally:
            os.close(self.users)


def join(home: Path, password: str, launch: Launch) -> OwnServer:
    """Find the server of this home that has this password, or start it.

    Raises:
        BadInput: Prefect's own home cannot be written.
        TidegateError: this home cannot, or the server cannot be started.
    """
    folder = home / "servers" / identity(password)
    try:
        users = _hold(folder)
        try:
            with _hold_door(folder):
                living = _read_record(folder)
                record = living or _start(home, folder, launch)
        except BaseException:
            os.close(users)
            raise
    except OSError as error:
        raise from_os_error(error, "starting a Prefect server", folder) from error
    return OwnServer(folder, users, record, is_starter=living is None)


def identity(password: str) -> str:
    """What two commands must have in common to share a server."""
    here = this_process()
    common = [here.host, here.boot, here.namespace, _network(), os.getuid()]
    ours = [version("prefect"), password, os.fspath(prefect_home().absolute()), sorted(server_variables().items())]
    return hashlib.sha256(json.dumps([common, ours]).encode()).hexdigest()[:16]


def last_lines(log: Path) -> str:
    """What a log ends with, in one line: its errors, if it names any, without the calls that led to them."""
    lines = [line.strip() for line in _tail(log).splitlines() if line.strip()]
    errors = [line for line in lines if ERROR.match(line)]
    return " / ".join((errors or lines)[-QUOTED_LINES:])[:QUOTED_CHARACTERS]


def _tail(log: Path) -> str:
    with contextlib.suppress(OSError):
        return log.read_text(errors="replace")[-20_000:]
    return ""


def _network() -> int:
    """Loopback is another one in each network namespace."""
    with contextlib.suppress(OSError):
        return Path("/proc/self/ns/net").stat().st_ino
    return 0


def _hold(folder: Path) -> int:
    """The users' lock, shared. Waits for a server that is just ending."""
    while True:
        private.make_folder(folder)
        try:
            handle = private.opener(str(folder / "users"), os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:  # somebody has just cleared the folder away
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
            if still_there(handle, folder / "users"):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


@contextlib.contextmanager
def _hold_door(folder: Path) -> Iterator[None]:
    """One after another: who comes second finds what the first one has started."""
    with open(folder / "door", "ab", opener=private.opener) as door:  # Path.open takes no opener
        fcntl.flock(door, fcntl.LOCK_EX)
        yield


def _record_in(folder: Path) -> Path:
    return folder / "server.json"


def _read_record(folder: Path) -> Record | None:
    try:
        record = Record.model_validate_json(_record_in(folder).read_bytes())
    except (OSError, ValueError):
        return None
    return None if is_provably_gone(record.owner, this_process()) else record


def _start(home: Path, folder: Path, launch: Launch) -> Record:
    with contextlib.suppress(OSError):  # what is wrong with it is told next
        private.make_folder(prefect_home())
    require_writable(prefect_home(), "PREFECT_HOME")
    _clear_logs(home / "logs")
    _clear_folders(folder)
    log = home / "logs" / f"server-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}.log"
    api_url, pid = launch(log, folder / "users")
    owner = this_process().model_copy(update={"pid": pid, "started": start_of(pid) or 0})
    record = Record(api_url=api_url, owner=owner, log=log)
    try:
        write_atomic(_record_in(folder), record.model_dump_json(indent=2).encode())
    except BaseException:
        _end_server(owner)
        raise
    return record


def _end_server(owner: Owner) -> None:
    """Ask it, wait, kill it."""
    for number, patience in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, 1.0)):
        until = time.monotonic() + patience
        if not _lives(owner):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(owner.pid, number)
        while _lives(owner) and time.monotonic() < until:
            time.sleep(0.02)


def _lives(owner: Owner) -> bool:
    """A child is over when it can be waited for: its main thread may have ended while others still run."""
    if start_of(owner.pid) not in (owner.started, None):
        return False
    try:
        return os.waitpid(owner.pid, os.WNOHANG)[0] == 0
    except ChildProcessError:  # most users are not its parent
        return start_of(owner.pid) == owner.started


def _clear_logs(logs: Path) -> None:
    """All but the latest ones; a log to which a server writes is locked."""
    for log in sorted(logs.glob("server-*.log"), reverse=True)[LOGS_KEPT:]:
        with contextlib.suppress(OSError), log.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            log.unlink()


def _clear_folders(folder: Path) -> None:
    """Those of other versions, boots or containers, which nobody has used for a day."""
    for other in folder.parent.iterdir():
        users = other / "users"
        with contextlib.suppress(OSError):
            if other == folder or time.time() - users.stat().st_mtime < FOLDERS_KEPT_SECONDS:
                continue
            with users.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(other)

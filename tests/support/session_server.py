"""One Prefect server for all processes of a session of tests: starting one takes seconds, and an idle one takes its
share of a core.

Whoever comes first starts it, whoever goes last ends it. Each user holds a lock, so one that was killed does not count.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flows import server
from flows.port import listener_on
from tests.support import prefect_database
from tests.support.command import wait_until
from tests.support.leaks import MARK

START_SECONDS = 120.0


@contextmanager
def shared(folder: Path) -> Iterator[str]:
    """The API address of the server that all who name this folder share; it has a database of its own."""
    folder.mkdir(exist_ok=True)
    with (folder / "users").open("ab") as users:
        try:
            with _alone(folder):
                fcntl.flock(users, fcntl.LOCK_SH)
                api = _running(folder) or _started(folder)
            yield api
        finally:
            with _alone(folder):
                _end_if_last(folder, users.fileno())


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One after another: nobody starts it while another ends it."""
    with (folder / "door").open("ab") as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        yield


def _running(folder: Path) -> str | None:
    with suppress(OSError):
        api = (folder / "api").read_text()
        return api if server.is_up(api, server.PATIENCE_SECONDS) else None
    return None


def _started(folder: Path) -> str:
    environment = {
        **os.environ,
        "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "0",
        MARK: "session",
    }
    environment.pop("PREFECT_API_URL", None)
    prefect_database.laid_into(folder)
    with listener_on(0) as free:
        api, port = server.address_of(free), free.getsockname()[1]
    argv = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log, start_new_session=True)
    (folder / "pid").write_text(str(process.pid))
    wait_until(
        lambda: server.is_up(api), seconds=START_SECONDS, what=f"for the Prefect server, see {folder}/server.log"
    )
    (folder / "api").write_text(api)
    return api


def _end_if_last(folder: Path, users: int) -> None:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    (folder / "api").unlink(missing_ok=True)
    with suppress(FileNotFoundError, ProcessLookupError):  # nobody reads its database again
        os.killpg(int((folder / "pid").read_text()), signal.SIGKILL)

"""A real PostgreSQL of our own: Debian's binaries, a private cluster in a temporary folder, a database for each test.

Fixtures start one a session. It listens on a free port, runs as an unprivileged user, and trades durability for speed;
it ends with the tests, also when those are killed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
"""Debian's; the newest first."""
UNPRIVILEGED = ("postgres", "nobody")
"""Whom root may be instead: PostgreSQL refuses to run as root."""
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200", "autovacuum=off")
KEEPER = '"$@" & read -r _; kill -INT $!; wait $!; rm -rf "$0"'
"""Ends the server and removes its folder when its stdin ends, and that ends with the tests, even when they are killed.

No child of theirs: the server's processes would look like leaks to every test that looks for its children.
"""
PATIENCE_SECONDS = 60.0


@dataclass
class Cluster:
    """One server with its databases."""

    folder: Path
    host: str
    port: int
    user: str
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def url(self, database: str, *, host: str | None = None, port: int | None = None) -> str:
        """For SQLAlchemy; by another address where a proxy or another network stands between."""
        return f"postgresql+psycopg://{self.user}@{host or self.host}:{port or self.port}/{database}"

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """The name of a new, empty database; it is gone after the block, whoever is still connected."""
        name = f"test_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name}")
        try:
            yield name
        finally:
            self.run(f"DROP DATABASE {name} WITH (FORCE)")

    def run(self, statement: str, database: str = "postgres") -> str:
        """What psql prints for one statement: bare rows."""
        argv = [_binary("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", self.host, "-p", str(self.port)]
        done = subprocess.run(
            [*argv, "-U", self.user, "-d", database, "-c", statement], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def missing() -> str | None:
    """Why no cluster can be had here; None when one can."""
    if not BINARIES:
        return "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    if os.geteuid() == 0 and _unprivileged() is None:
        return "PostgreSQL does not run as root, and there is no other user"
    return None


@contextlib.contextmanager
def cluster(listen: str = "127.0.0.1") -> Iterator[Cluster]:
    """A running server. `listen`: one address of this host (of another network namespace's side, for two hosts)."""
    account = _unprivileged() if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="tidegate-postgres-", dir="/tmp"))  # a socket's path must be short
    user = account.pw_name if account else pwd.getpwuid(os.geteuid()).pw_name
    try:
        if account:
            os.chown(folder, account.pw_uid, account.pw_gid)
        made = subprocess.run(
            [_binary("initdb"), "-D", folder / "data", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
            capture_output=True,
            text=True,
            cwd=folder,
            **_as(account),
        )
        assert made.returncode == 0, made.stderr
        with (folder / "data" / "pg_hba.conf").open("a") as access:
            access.write("host all all samenet trust\n")
        with _served(folder, listen, account) as port:
            yield Cluster(folder, listen, port, user)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _served(folder: Path, listen: str, account: pwd.struct_passwd | None) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind((listen, 0))
        port = int(probe.getsockname()[1])
    settings = (*FAST, f"listen_addresses={listen}", f"port={port}", f"unix_socket_directories={folder}")
    argv = [_binary("postgres"), "-D", folder / "data", *(word for one in settings for word in ("-c", one))]
    alive = folder / "data" / "postmaster.pid"
    with (folder / "log").open("wb") as log:
        keeper = subprocess.Popen(
            ["setsid", "--fork", "sh", "-c", KEEPER, folder, *argv],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=folder,
            **_as(account),
        )
    assert keeper.stdin is not None
    try:
        ready = [_binary("pg_isready"), "-q", "-h", listen, "-p", str(port)]
        _until(lambda: subprocess.run(ready).returncode == 0, folder / "log")
        yield port
    finally:
        keeper.stdin.close()
        keeper.wait()
        _until(lambda: not alive.exists(), folder / "log")


def _until(condition: Callable[[], bool], log: Path) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)


def _binary(name: str) -> str:
    return str(BINARIES[0] / name)


def _unprivileged() -> pwd.struct_passwd | None:
    for name in UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


def _as(account: pwd.struct_passwd | None) -> dict[str, object]:
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

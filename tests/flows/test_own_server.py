"""The short-lived server of a home: one for all commands at once, whoever of them comes, goes or is killed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from flows import own_server, server, serving
from flows.own_server import Record
from flows.port import listener_on
from tests.support import prefect_database
from tests.support.clips import clip
from tests.support.command import ROOT, Command, wait_until
from tests.support.disks import fill, volume
from tests.support.leaks import MARK, end_children, marking, wait_until_childless

pytestmark = pytest.mark.ci


UP_SECONDS = 200.0
GONE_SECONDS = 30.0

USER = """
import json, sys
from pathlib import Path
from flows import health, server
from tidegate.errors import TidegateError
server.DEFAULT_API = "http://127.0.0.1:9/api"
try:
    found = server.attach(Path(sys.argv[1]), lambda line: print(line, file=sys.stderr))
    found.wait()
except TidegateError as error:
    print(json.dumps({"type": error.type, "message": error.message}), flush=True)
    raise SystemExit(1)
version = health.answer(found.api_url, "admin/version", 30, found.client)
print(json.dumps({"api": found.api_url, "version": version}), flush=True)
sys.stdin.read()
found.stop()
"""
"""A command without its work: it uses the server until its standard input ends."""


@dataclass
class Place:
    """A home, Prefect's home, and users of the server in them."""

    folder: Path
    mark: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "tidegate"

    @property
    def prefect(self) -> Path:
        return self.folder / "prefect"

    def user(self, home: Path | None = None, **told: str) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        own = {"HOME": str(self.folder), "PREFECT_HOME": str(self.prefect), "PYTHONPATH": str(ROOT), MARK: self.mark}
        return subprocess.Popen(
            [sys.executable, "-c", USER, str(home or self.home)],
            env={**kept, **own, **self.environment, **told},
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def logs(self) -> list[Path]:
        return sorted((self.home / "logs").glob("server-*.log"))

    def servers(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if "flows.serving" in process.cmdline() and process.environ().get(MARK) == self.mark:
                    found.append(process)
        return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]

    def is_free(self) -> bool:
        """Whether nobody is left: no server, no lock."""
        for users in self.home.glob("servers/*/users"):
            with users.open("ab") as file, contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                continue
            return False
        return self.servers() == []


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """With a database, which takes a server longer to make than the rest of its start."""
    with marking() as mark:
        prefect_database.laid_into(tmp_path / "prefect")
        yield Place(tmp_path, mark)
        end_children(mark)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Place]:
    """Where nobody has ever been."""
    with marking() as mark:
        yield Place(tmp_path, mark)
        end_children(mark)


def said(user: subprocess.Popen[str]) -> dict[str, str]:
    assert user.stdout is not None
    told: dict[str, str] = json.loads(user.stdout.readline())
    return told


def leave(user: subprocess.Popen[str]) -> int:
    assert user.stdin is not None
    user.stdin.close()
    return user.wait(GONE_SECONDS)


def test_twenty_commands_at_one_moment_share_one_server_and_the_last_one_ends_it(fresh: Place) -> None:
    """On a database that has to be made: six servers at once knocked each other out in its migrations."""
    users = [fresh.user() for _ in range(20)]
    told = [said(user) for user in users]
    assert {one.get("version") for one in told} == {server.version("prefect")}, told
    assert len({one["api"] for one in told}) == len(fresh.servers()) == len(fresh.logs()) == 1
    late = fresh.user()  # one that finds it warm
    assert said(late)["api"] == told[0]["api"]
    assert [leave(user) for user in users] == [0] * 20
    assert len(fresh.servers()) == 1, "one uses it still"
    assert leave(late) == 0
    assert fresh.is_free(), "and the last one to go has waited for its end"


def test_a_killed_starter_takes_nothing_from_the_others_and_the_last_killed_one_leaves_nothing(place: Place) -> None:
    starter = place.user()
    wait_until(place.servers, seconds=UP_SECONDS, what="for the server")
    other = place.user()
    time.sleep(1)
    os.killpg(starter.pid, signal.SIGKILL)  # while it starts, and with all that is in its session
    told = said(other)
    assert told["version"] == server.version("prefect")
    third = place.user()
    assert said(third)["api"] == told["api"]
    for one in (other, third):
        os.killpg(one.pid, signal.SIGINT)  # Ctrl-C is not for the server
        assert len(place.servers()) == 1
        os.killpg(one.pid, signal.SIGKILL)
    wait_until(place.is_free, seconds=GONE_SECONDS, what="for the end of the server")
    again = place.user()
    assert said(again)["version"] == server.version("prefect"), "its record is believed by nobody"
    assert leave(again) == 0
    assert len(place.logs()) in (2, 3), "one for them, one for the last; and one that its starter took along at once"


@pytest.mark.slow
def test_who_comes_while_the_last_one_goes_gets_a_server_that_stays(place: Place) -> None:
    first = place.user()
    said(first)
    assert first.stdin is not None
    first.stdin.close()
    others = [place.user() for _ in range(3)]
    told = [said(other) for other in others]
    assert {one.get("version") for one in told} == {server.version("prefect")}
    assert len({one["api"] for one in told}) == 1
    assert first.wait(GONE_SECONDS) == 0
    time.sleep(2 * serving.LOOK_SECONDS)
    assert len(place.servers()) == 1
    assert [leave(other) for other in others] == [0] * 3 and place.is_free()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_homes_that_share_one_prefect_home_start_one_after_another(fresh: Place) -> None:
    """And one of them as `make serve` starts its server."""
    with listener_on(0) as listener, ExitStack() as stack:
        before = dict(os.environ)
        stack.callback(lambda: (os.environ.clear(), os.environ.update(before)))
        os.environ.update({"PREFECT_HOME": str(fresh.prefect), "HOME": str(fresh.folder)})
        served = server.launch(listener, fresh.folder / "server.log", fresh.folder / "served", {})
        stack.callback(served.kill)
        users = [fresh.user(fresh.folder / f"home-{number}") for number in range(3)]
        told = [said(user) for user in users]
        assert {one.get("version") for one in told} == {server.version("prefect")}, told
        assert len({one["api"] for one in told}) == 3
        api = server.address_of(listener)
        wait_until(lambda: server.is_up(api), seconds=UP_SECONDS, what="for the server of make serve")
        assert served.poll() is None
        assert [leave(user) for user in users] == [0] * 3


@pytest.mark.slow
def test_a_start_that_meets_foreign_migrations_begins_anew(place: Place) -> None:
    """`prefect server start` knows nothing of our lock."""
    foreign = sqlite3.connect(place.prefect / "prefect.db", isolation_level=None)
    foreign.execute("PRAGMA user_version")
    foreign.execute("BEGIN EXCLUSIVE")
    user = place.user(PREFECT_SERVER_DATABASE_TIMEOUT="1")
    wait_until(lambda: [log for log in place.logs() if b"locked" in log.read_bytes()], seconds=UP_SECONDS)
    foreign.execute("ROLLBACK")
    assert said(user).get("version") == server.version("prefect")
    assert len(place.logs()) == 1, "the same process, with the same socket and log"
    assert leave(user) == 0


def test_a_server_that_does_not_start_is_told_to_all_with_the_last_lines_of_its_own_log(place: Place) -> None:
    place.environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = "sqlite+aiosqlite:////nowhere/at/all.db"
    users = [place.user() for _ in range(3)]
    told = [said(user) for user in users]
    assert {one["type"] for one in told} == {"server_unavailable"}, told
    for one in told:
        assert "/nowhere/at" in one["message"], "what its log says is quoted"
        [named] = [log for log in place.logs() if str(log) in one["message"]]
        assert "/nowhere/at" in named.read_text()
    assert [user.wait(GONE_SECONDS) for user in users] == [1] * 3
    wait_until(place.is_free, seconds=GONE_SECONDS)


@pytest.mark.parametrize("name", ["tidegate", "prefect"])
def test_a_full_disk_at_the_start_is_told_as_such(name: str, fresh: Place) -> None:
    with volume(fresh.folder / name, "size=2m") as small:
        fill(small)
        user = fresh.user()
        told = said(user)
        assert told["type"] == "disk_full", told
        assert "No space left" in told["message"] or "disk is full" in told["message"]
        assert user.wait(GONE_SECONDS) == 1
        wait_until(fresh.is_free, seconds=GONE_SECONDS)


def test_a_disk_that_is_full_half_way_through_the_migrations_is_told_as_such(fresh: Place) -> None:
    with volume(fresh.prefect, "size=300k"):
        told = said(fresh.user())
        assert told["type"] == "disk_full", told
        assert "disk is full" in told["message"]


@pytest.mark.parametrize("kind", ["file", "below a file"])
def test_a_prefect_home_that_cannot_be_written_is_told_at_once(kind: str, command: Command, clips: Path) -> None:
    (command.home / "file").touch()
    del command.environment["PREFECT_API_URL"]
    command.environment["PREFECT_HOME"] = str(command.home / ("file" if kind == "file" else "file/below"))
    ended = command.run(str(clip(clips)))
    assert (ended.code, ended.failure["type"]) == (2, "bad_input")
    assert "PREFECT_HOME" in ended.failure["message"] and "Traceback" not in ended.stderr
    assert wait_until_childless(command.mark) == []


def identity(monkeypatch: pytest.MonkeyPatch, **told: str) -> str:
    with monkeypatch.context() as now:
        for name, value in told.items():
            now.setenv(name, value)
        return own_server.identity("user:password")


def test_another_database_version_or_password_is_another_server(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = identity(monkeypatch)
    assert usual == identity(monkeypatch, PREFECT_LOGGING_LEVEL="DEBUG")
    others = [
        identity(monkeypatch, PREFECT_HOME="/elsewhere"),
        identity(monkeypatch, PREFECT_API_DATABASE_CONNECTION_URL="sqlite+aiosqlite:////a.db"),
        identity(monkeypatch, PREFECT_SERVER_DATABASE_CONNECTION_URL="sqlite+aiosqlite:////a.db"),
        identity(monkeypatch, TIDEGATE_HOST_ID="another"),
        own_server.identity("user:another"),
    ]
    (nobody / "prefect.toml").write_text('[server.database]\nconnection_url = "sqlite+aiosqlite:////b.db"\n')
    others.append(identity(monkeypatch))
    (nobody / "prefect.toml").unlink()
    monkeypatch.setattr(own_server, "version", lambda _: "3.9.0")
    others.append(identity(monkeypatch))
    assert len({usual, *others}) == len(others) + 1


def test_only_old_logs_that_nobody_writes_are_cleared_away(nobody: Path) -> None:
    """A log was unlinked under its server once, and what it said was lost."""
    logs = nobody / "logs"
    logs.mkdir()
    many = [logs / f"server-20260101-0000{number:02}-a.log" for number in range(own_server.LOGS_KEPT + 3)]
    for log in many:
        log.write_text("once\n")
    with many[0].open("ab") as living:
        fcntl.flock(living, fcntl.LOCK_SH)
        own_server._clear_logs(logs)
    assert sorted(logs.iterdir()) == [many[0], *many[3:]]


def test_folders_of_others_that_nobody_uses_are_cleared_after_a_day(nobody: Path) -> None:
    names = ("own", "old", "old-and-used", "young")
    folders = {name: nobody / "servers" / name for name in names}
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        (folder / "users").touch()
        if name != "young":
            os.utime(folder / "users", (0, 0))
    with (folders["old-and-used"] / "users").open("ab") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        own_server._clear_folders(folders["own"])
    assert {name for name, folder in folders.items() if folder.exists()} == {"own", "old-and-used", "young"}


@pytest.mark.parametrize("content", ["", "{", '{"api_url": "x"}', "[]"])
def test_a_torn_record_is_believed_by_nobody(content: str, nobody: Path) -> None:
    (nobody / "server.json").write_text(content)
    assert own_server._read_record(nobody) is None


def test_the_record_of_a_process_that_is_gone_is_believed_by_nobody(nobody: Path) -> None:
    """Its number may be another's by now."""
    owner = own_server.this_process()
    for started, believed in ((owner.started, True), (owner.started - 1, False)):
        record = Record(api_url="x", owner=owner.model_copy(update={"started": started}), log=nobody)
        (nobody / "server.json").write_text(record.model_dump_json())
        assert (own_server._read_record(nobody) is not None) is believed


@pytest.mark.parametrize(
    ("url", "lock"),
    [
        ("sqlite+aiosqlite:////a/prefect.db", "/a/.prefect.db.start.lock"),
        ("sqlite+aiosqlite:////a/my%20own.db?timeout=3", "/a/.my own.db.start.lock"),
        ("sqlite+aiosqlite:///:memory:", None),
        ("sqlite+aiosqlite:///file:x?mode=memory", None),
        ("postgresql+asyncpg://user@host/prefect", None),
        ("postgresql+asyncpg:///prefect", None),
        ("", None),
    ],
)
def test_the_lock_of_a_start_lies_beside_a_database_that_is_a_file(url: str, lock: str | None) -> None:
    assert serving.start_lock(url) == (None if lock is None else Path(lock))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_real_commands_at_once_all_work_cold_and_warm(command: Command, clips: Path) -> None:
    del command.environment["PREFECT_API_URL"]
    command.limits["TIDEGATE_TRANSFER_REQUEST_TIMEOUT"] = "60"
    source = str(clip(clips))
    for temperature in ("cold", "warm"):
        with ExitStack() as stack:
            words = (source, "--until", "probe", "--refresh")
            started = [stack.enter_context(command.started(*words)) for _ in range(20)]
            ended = [(process.wait(800), process.communicate()[1][-500:]) for process in started]
        assert [one for one in ended if one[0] != 0] == [], temperature
    assert wait_until_childless(command.mark, GONE_SECONDS) == []

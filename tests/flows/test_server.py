"""The server that a command talks to: found past every proxy, and typed when it cannot be had."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flows import access, health, server, site
from flows.server import Server, attach, found
from tests.support import prefect_database
from tests.support.bare_client import ask
from tests.support.prefects_answers import answering
from tidegate.errors import ServerUnavailable


@pytest.mark.parametrize(
    ("listed", "expected"),
    [(None, "127.0.0.1,localhost,::1"), ("host.example", "host.example,127.0.0.1,localhost,::1"), ("*", "*")],
)
def test_loopback_is_spared_the_proxy_and_what_was_listed_stays(
    listed: str | None, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        if listed:
            monkeypatch.setenv(name, listed)
        else:
            monkeypatch.setenv(name, "")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(ServerUnavailable):
        attach(tmp_path, print)
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == expected


def api_at(port: int) -> str:
    return f"http://127.0.0.1:{port}/api"


def test_the_server_that_make_serve_recorded_comes_before_the_usual_address(
    nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering() as usual, answering() as served:
        monkeypatch.setattr(server, "DEFAULT_API", api_at(usual))
        assert found(nobody) == Server(api_at(usual))
        site.record(nobody, api_at(served))
        assert found(nobody) == Server(api_at(served))
        site.forget(nobody)
        assert found(nobody) == Server(api_at(usual))


def test_what_is_named_or_configured_comes_before_what_is_recorded(
    nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering() as named, answering() as configured, answering() as served:
        site.record(nobody, api_at(served))
        (nobody / "prefect.toml").write_text(f'[api]\nurl = "{api_at(configured)}"\n')
        assert found(nobody) == Server(api_at(configured), where=f"api.url in {nobody / 'prefect.toml'}")
        monkeypatch.setenv("PREFECT_API_URL", api_at(named))
        assert found(nobody) == Server(api_at(named), where="PREFECT_API_URL")


@pytest.mark.parametrize("written", ["http://127.0.0.1:{}/api", "http://localhost:{}/api/", None])
def test_the_password_of_the_home_is_found_for_the_server_of_its_make_serve(
    written: str | None, nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However its address is named: a person has it in a profile since before there was a password."""
    with answering(login=access.login_of(nobody)) as served:
        site.record(nobody, api_at(served), ours=True)
        if written:
            (nobody / "prefect.toml").write_text(f'[api]\nurl = "{written.format(served)}"\n')
        assert attach(nobody, print).api_url == api_at(served)
        assert os.environ["PREFECT_API_AUTH_STRING"] == access.login_of(nobody)
        if written:
            monkeypatch.setenv("PREFECT_API_AUTH_STRING", "")
            monkeypatch.setenv("PREFECT_API_URL", written.format(served))
            assert attach(nobody, print).api_url == api_at(served)
            assert os.environ["PREFECT_API_AUTH_STRING"] == access.login_of(nobody)


def test_the_password_of_the_home_is_said_to_no_other_server(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    access.login_of(nobody)
    with answering(login="somebody:else", heard=heard) as usual, answering(heard=heard) as named:
        monkeypatch.setattr(server, "DEFAULT_API", api_at(usual))
        assert found(nobody) is None
        assert not access.stands_open(api_at(usual)) and access.stands_open(api_at(named))
        monkeypatch.setenv("PREFECT_API_URL", api_at(named))
        assert attach(nobody, print) == Server(api_at(named), where="PREFECT_API_URL")
    assert heard == [] and "PREFECT_API_AUTH_STRING" not in os.environ


def test_a_password_of_ones_own_is_used_and_an_empty_one_opens_nothing(
    nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", " ")
    assert access.for_server(nobody)["PREFECT_SERVER_API_AUTH_STRING"] == access.home_login(nobody)
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING")
    (nobody / "prefect.toml").write_text('[server.api]\nauth_string = "my:own"\n')
    assert access.for_server(nobody)["PREFECT_SERVER_API_AUTH_STRING"] == "my:own"
    assert access.for_client(nobody)["PREFECT_API_AUTH_STRING"] == "my:own"


def test_the_password_is_made_once_for_its_owner_and_an_empty_file_is_told(nobody: Path) -> None:
    login = access.login_of(nobody)
    assert access.login_of(nobody) == login and len(login) > 32
    assert access.password_file(nobody).stat().st_mode & 0o777 == 0o600
    access.password_file(nobody).write_text("\n")
    with pytest.raises(ServerUnavailable, match=r"no password in .*server\.password; remove it"):
        access.login_of(nobody)
    access.password_file(nobody).unlink()
    access.password_file(nobody).mkdir()
    with pytest.raises(ServerUnavailable, match=r"server\.password can tell it; set PREFECT_API_AUTH_STRING"):
        access.login_of(nobody)


def test_a_named_server_that_is_busy_is_waited_for(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(seconds=2 * server.PROBE_SECONDS) as busy:
        monkeypatch.setenv("PREFECT_API_URL", api_at(busy))
        assert found(nobody) == Server(api_at(busy), where="PREFECT_API_URL")


def test_the_record_of_a_make_serve_that_was_killed_is_not_believed(nobody: Path) -> None:
    """Somebody else may have the port by now."""
    with answering() as port:
        recording = f"from pathlib import Path; from flows import site; site.record(Path('.'), {api_at(port)!r})"
        subprocess.run([sys.executable, "-c", recording], check=True)
        assert site.path_in(nobody).exists()
        assert found(nobody) is None


def test_the_record_of_another_host_does_not_send_the_password_to_this_ones_loopback(
    nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The home is shared; whoever listens here at that port is not our server."""
    heard: list[str] = []
    access.login_of(nobody)
    with answering(login="a:trap", heard=heard) as port:
        monkeypatch.setenv("TIDEGATE_HOST_ID", "another")
        for ours in (True, False):
            site.record(nobody, api_at(port), ours=ours)
            monkeypatch.setenv("TIDEGATE_HOST_ID", "this one")
            assert found(nobody) is None
            monkeypatch.setenv("PREFECT_API_URL", api_at(port))
            with pytest.raises(ServerUnavailable, match="HTTP 401"):
                found(nobody)
            monkeypatch.delenv("PREFECT_API_URL")
            monkeypatch.setenv("TIDEGATE_HOST_ID", "another")
        assert heard == []
        site.record(nobody, "http://prefect.example/api")
        monkeypatch.setenv("TIDEGATE_HOST_ID", "this one")
        assert site.read(nobody) is not None


@pytest.mark.parametrize("content", ["", "{", '{"api_url": "http://127.0.0.1:9/api"}', "[]"])
def test_a_torn_record_is_none(content: str, nobody: Path) -> None:
    site.path_in(nobody).write_text(content)
    assert site.read(nobody) is None


def test_a_server_of_another_version_and_any_other_program_are_left_alone(nobody: Path) -> None:
    with answering("3.0.0") as other:
        site.record(nobody, api_at(other))
        assert found(nobody) is None
    with socket.socket() as silent:  # accepts, and never says a word
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        site.record(nobody, api_at(silent.getsockname()[1]))
        assert found(nobody) is None


def assert_closed(port: int, login: str) -> None:
    """Whose name, page or password is wrong gets nothing; `tests/deployments/test_doors.py` has the attacks."""
    host, password = ("Host", f"127.0.0.1:{port}"), ("Authorization", access.basic(login))
    settings = ("GET", "/api/admin/settings")
    assert ask(port, *settings, [host])[0] == 401
    assert ask(port, *settings, [("Host", f"evil.example:{port}"), password])[0] == 421
    assert ask(port, *settings, [host, password, ("Origin", "null")])[0] == 403
    assert ask(port, *settings, [host, password])[0] == 200
    assert ask(port, "POST", "/api/variables/", [host], {"name": "new", "value": "x"})[0] == 401
    assert not access.stands_open(f"http://127.0.0.1:{port}/api")


def test_a_server_of_our_own_gets_the_settings_that_make_it_safe_and_ends_with_us(
    nobody: Path,
) -> None:
    prefect_database.laid_into(nobody / "prefect")
    there = attach(nobody, print)
    try:
        there.wait()
        assert there.own is not None and there.api_url == os.environ["PREFECT_API_URL"]
        process = psutil.Process(there.own.record.owner.pid)
        assert process.environ()["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"] == "flows.leases"
        assert os.environ["PREFECT_API_AUTH_STRING"] == access.home_login(nobody)
        settings = health.answer(there.api_url, "admin/settings", 60, there.client)
        assert settings["server"]["concurrency"]["lease_storage"] == "flows.leases"
        assert health.answer(there.api_url, "admin/settings", 60) is None, "only with the password"
        assert there.ui_url is None
        assert_closed(int(there.api_url.rsplit(":", 1)[1].split("/")[0]), access.login_of(nobody))
    finally:
        there.stop()
    assert not process.is_running()


STOPPING = """
import os, signal, subprocess, sys, threading
from pathlib import Path
from flows.own_server import OwnServer, Record
from flows.server import Server
from tidegate.durable.owner import start_of, this_process
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, lambda *_: "
    "(time.sleep(1), exit())); print(flush=True); time.sleep(60)"], stdout=subprocess.PIPE)
child.stdout.readline()
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
folder = Path(sys.argv[1])
owner = this_process().model_copy(update={"pid": child.pid, "started": start_of(child.pid)})
record = Record(api_url="http://127.0.0.1:9/api", owner=owner, log=folder / "log")
users = os.open(folder / "users", os.O_RDWR | os.O_CREAT)
Server(record.api_url, own=OwnServer(folder, users, record, is_starter=True)).stop()
print("stopped", start_of(child.pid) is None)
"""


def test_an_impatient_ctrl_c_does_not_stop_the_stopping(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", STOPPING, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=30,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, "stopped True"), ended.stderr

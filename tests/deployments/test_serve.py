"""`make serve`: one command, a whole site; killed in any part, it is whole again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from deployments import parts, serve
from flows import access, server, site
from flows.port import listener_on
from flows.site import POOL
from tests.support.clips import bulk_clip, clip
from tests.support.command import ROOT, wait_until
from tests.support.leaks import MARK, children, end_children, marking, wait_until_childless
from tests.support.origin import Origin, Resource
from tests.support.prefects_answers import answering
from tests.support.site import CLIPS, asked, started_site
from tidegate.durable.lock import acquire
from tidegate.errors import BadInput

pytestmark = pytest.mark.ci


UP_SECONDS = 120.0


class Served:
    """`python -m deployments.serve` in a home of its own, started in a folder that is not ours."""

    def __init__(self, folder: Path, mark: str, **environment: str) -> None:
        self.home = folder / "tidegate"
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir(exist_ok=True)
        self.folder = folder
        self.logs: list[Path] = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"},
            "HOME": str(folder),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "TIDEGATE_HOME": str(self.home),
            "TIDEGATE_NETWORK_ALLOW": "127.0.0.1",
            "TIDEGATE_ROOTS": os.pathsep.join(map(str, (folder, CLIPS))),
            "PYTHONPATH": str(ROOT),
            MARK: mark,
            **environment,
        }
        self.ui_url = f"http://127.0.0.1:{self.port}"
        self.api_url = f"{self.ui_url}/api"

    def asked(self, method: str, path: str, **what: Any) -> Any:
        """What the API answers to one who knows the password."""
        return asked(method, f"{self.api_url}/{path}", access.login_of(self.home), **what)

    def start(self, *words: str, program: Sequence[str] = ("-m", "deployments.serve")) -> subprocess.Popen[bytes]:
        self.logs.append(self.folder / f"serve-{len(self.logs)}.log")
        with self.logs[-1].open("wb") as output:
            return subprocess.Popen(
                [sys.executable, *program, *(words or ("--port", str(self.port)))],
                env=self.environment,
                cwd=self.elsewhere,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def told(self, start: int = -1) -> str:
        """What it has printed, the last one that was started unless told."""
        return " ".join(self.logs[start].read_text().split())

    def wait_for(self, words: str, start: int = -1) -> None:
        wait_until(lambda: words in self.told(start), seconds=UP_SECONDS, what=f"for {words!r} in {self.logs[start]}")

    def part(self, word: str) -> psutil.Process:
        """The living server or worker."""
        found = [process for process in children(self.environment[MARK]) if word in process.cmdline()]
        assert len(found) == 1, found
        return found[0]

    def trigger(self, source: str) -> str:
        """An ingest, as the UI's form begins one."""
        parameters = {"source": {"url": source}, "output_dir": str(self.folder / "out")}
        told = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        deployment = self.deployments()["ingest"]["id"]
        return str(self.asked("POST", f"deployments/{deployment}/create_flow_run", json=told)["id"])

    def state(self, run: str) -> dict[str, Any]:
        return dict(self.asked("GET", f"flow_runs/{run}")["state"])

    def wait_for_the_end(self, run: str, seconds: float = UP_SECONDS) -> None:
        """Crashed is no end: recovery goes on from there."""
        ends = ("COMPLETED", "FAILED", "CANCELLED")
        wait_until(lambda: self.state(run)["type"] in ends, seconds=seconds, what=f"for {run} to end")
        assert self.state(run)["type"] == "COMPLETED", self.state(run)["message"]

    def times_started(self, run: str) -> int:
        states = self.asked("GET", "flow_run_states/", params={"flow_run_id": run})
        return sum(state["type"] == "RUNNING" for state in states)

    def deployments(self) -> dict[str, dict[str, Any]]:
        told = self.asked("POST", "deployments/filter", json={})
        return {deployment["name"]: deployment for deployment in told}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with marking() as mark:
        yield Served(tmp_path, mark)
        end_children(mark)


def ended(process: subprocess.Popen[bytes], with_signal: signal.Signals) -> int:
    process.send_signal(with_signal)
    return process.wait(60)


def test_it_brings_up_everything_keeps_it_alive_and_ends_it(served: Served, clips: Path) -> None:
    process = served.start()
    served.wait_for(f"Prefect UI: {served.ui_url}")

    with urllib.request.urlopen(served.ui_url, timeout=10) as page:
        assert b"<!DOCTYPE html>" in page.read()
    with urllib.request.urlopen(f"{served.ui_url}/ui-settings", timeout=10) as told_to_the_ui:
        assert json.load(told_to_the_ui)["api_url"] == "/api"
    told = served.deployments()
    assert set(told) == {"ingest", "batch", "recover", "maintain", "ingest-docker"}
    assert [schedule["active"] for name in ("recover", "maintain") for schedule in told[name]["schedules"]] == [
        True
    ] * 2
    assert len(served.asked("POST", "automations/filter", json={})) == 1

    second = served.start()
    assert second.wait(60) == 0
    assert f'PREFECT_API_AUTH_STRING="$(cat {access.password_file(served.home)})"' in served.told(0)
    for log in (*served.logs, *(served.home / "logs").iterdir()):
        assert access.login_of(served.home) not in log.read_text()
    assert f"Already served by process {process.pid}. Prefect UI: {served.ui_url}" in served.told()

    served.part("worker").kill()
    served.wait_for("The worker ended (SIGKILL); starting it again in 1 s", start=0)
    served.part("flows.serving").kill()
    served.wait_for("The Prefect server ended (SIGKILL); starting it again in 1 s", start=0)
    wait_until(lambda: server.is_up(served.api_url), seconds=UP_SECONDS, what="for the server again")

    run = served.trigger(str(clip(clips)))
    served.wait_for_the_end(run)

    assert ended(process, signal.SIGTERM) == 0
    assert wait_until_childless(served.environment[MARK]) == []
    assert not site.path_in(served.home).exists()


@pytest.mark.slow
def test_killed_it_takes_its_parts_along_and_a_second_start_is_whole_again(served: Served) -> None:
    process = served.start()
    served.wait_for("Ctrl-C ends it")
    ended(process, signal.SIGKILL)
    assert wait_until_childless(served.environment[MARK], 30) == []
    assert site.path_in(served.home).exists()

    again = served.start()
    served.wait_for("Ctrl-C ends it")
    assert ended(again, signal.SIGINT) == 0
    assert wait_until_childless(served.environment[MARK]) == []


SLOWLY = "throttle 512K, ok"
SLOW_BYTES = 16 * 1024 * 1024
"""Half a minute."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_outlives_a_killed_make_serve_and_the_next_one_sees_it_end(served: Served, clips: Path) -> None:
    with Origin({"film.mp4": Resource(bulk_clip(clips, SLOW_BYTES), story=SLOWLY)}) as origin:
        process = served.start()
        served.wait_for("Ctrl-C ends it")
        run = served.trigger(origin.url("film.mp4"))
        wait_until(lambda: origin.bytes_sent("film.mp4") > SLOW_BYTES / 8, seconds=UP_SECONDS, what="for the download")

        ended(process, signal.SIGKILL)
        again = served.start()
        served.wait_for("Ctrl-C ends it")

        served.wait_for_the_end(run, seconds=300)
        assert served.times_started(run) == 1
        assert ended(again, signal.SIGTERM) == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_that_ctrl_c_interrupts_goes_on_by_itself_at_the_next_start(served: Served, clips: Path) -> None:
    with Origin({"film.mp4": Resource(bulk_clip(clips, SLOW_BYTES), story=SLOWLY)}) as origin:
        process = served.start()
        served.wait_for("Ctrl-C ends it")
        run = served.trigger(origin.url("film.mp4"))
        wait_until(lambda: origin.bytes_sent("film.mp4") > SLOW_BYTES / 8, seconds=UP_SECONDS, what="for the download")

        assert ended(process, signal.SIGINT) == 0
        assert "1 run was interrupted; recovery goes on" in served.told()
        assert wait_until_childless(served.environment[MARK]) == []
        again = served.start()
        served.wait_for("Ctrl-C ends it")

        served.wait_for_the_end(run, seconds=400)  # two minutes until the scheduled recover
        assert served.times_started(run) == 2
        assert ended(again, signal.SIGTERM) == 0


IMPATIENT = """
import sys
from deployments import serve
serve.HEALTH_SECONDS, serve.HUNG_SECONDS = 1.0, 15.0
sys.exit(serve.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_server_that_lives_and_does_not_answer_is_started_again(served: Served) -> None:
    process = served.start(program=("-c", IMPATIENT))
    served.wait_for("Ctrl-C ends it")
    hung = served.part("flows.serving")
    hung.suspend()
    served.wait_for("The Prefect server ended (SIGKILL); starting it again")
    wait_until(lambda: server.is_up(served.api_url), seconds=UP_SECONDS, what="for the server again")
    assert not hung.is_running()
    assert ended(process, signal.SIGTERM) == 0


@pytest.mark.slow
def test_a_server_that_is_there_gets_a_worker_and_stays(tmp_path: Path) -> None:
    with started_site(tmp_path / "there", worker=False) as there:
        served = Served(tmp_path, there.mark, PREFECT_API_URL=there.api_url, **there.password())
        process = served.start("--port", str(there.port))
        served.wait_for(f"Using the Prefect server at {there.api_url}")
        served.wait_for("Ctrl-C ends it")
        workers = lambda: there.post(f"work_pools/{POOL}/workers/filter")  # noqa: E731
        wait_until(workers, seconds=60, what="for the worker")
        assert ended(process, signal.SIGTERM) == 0
        assert there.answers()


QUIET = Console(quiet=True)


def test_a_port_that_was_asked_for_and_is_taken_is_an_error(nobody: Path) -> None:
    with answering("0.1") as port, pytest.raises(BadInput, match=f"Port {port} is taken"):
        serve.find_place(nobody, port, QUIET)


def test_the_usual_port_taken_by_another_program_means_the_next_one(
    nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering("0.1") as port:
        monkeypatch.setattr(serve, "PORT", port)
        place = serve.find_place(nobody, None, QUIET)
        assert place.listener is not None
        with place.listener:
            assert port < place.listener.getsockname()[1] < port + serve.PORTS_TRIED


def test_a_prefect_server_of_our_version_on_the_port_is_used(nobody: Path) -> None:
    with answering() as port:
        assert serve.find_place(nobody, port, QUIET) == serve.Place(f"http://127.0.0.1:{port}/api", None)


def test_a_terminal_is_told_the_password_and_a_log_where_it_stands(
    nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, login = serve.Place("http://127.0.0.1:4200/api", None), access.login_of(nobody)
    shown = "\n".join(serve._way_in(place, nobody, Console(force_terminal=True)))
    logged = "\n".join(serve._way_in(place, nobody, Console(force_terminal=False)))
    assert login in shown and login not in logged
    for told in (shown, logged):
        assert str(access.password_file(nobody)) in told
        assert "export PREFECT_API_URL=http://127.0.0.1:4200/api PREFECT_API_AUTH_STRING=" in told
        assert "curl --config -" in told and "curl --user" not in told  # everybody sees the words of a command
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "my:own")
    assert "my:own" not in "".join(serve._way_in(place, nobody, Console(force_terminal=True)))


def test_nobody_else_gets_the_port_at_the_address_that_browsers_take_localhost_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with listener_on(0) as listener, socket.socket(socket.AF_INET6) as other:
        place, there = serve.Place(server.address_of(listener), listener), ("::1", listener.getsockname()[1])
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with serve._other_loopback(place, Console()):
            with pytest.raises(OSError, match="in use"):
                other.bind(there)
            with socket.create_connection(("localhost", there[1])) as client:  # as a browser does: the next address
                assert client.getpeername()[0] == "127.0.0.1"
        assert capsys.readouterr().out == ""
        other.bind(there)
        other.listen()
        with serve._other_loopback(place, Console()):
            told = " ".join(capsys.readouterr().out.split())
        assert "Another program has this port at the address ::1" in told and place.ui_url in told


def test_a_worker_has_a_temporary_folder_that_nobody_else_can_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect's worker makes `runner_storage` there, and does not start where that is somebody else's."""
    monkeypatch.delenv("TMPDIR", raising=False)
    started: list[dict[str, str]] = []
    monkeypatch.setattr(parts, "_start", lambda words, log, told: started.append(told))
    old, new = tmp_path / "temporary" / "old", tmp_path / "temporary" / "new"
    for folder, age in ((old, 8), (new, 1)):
        (folder / "deep").mkdir(parents=True)
        os.utime(folder, (0, time.time() - age * 86400))
    parts.start_worker("http://127.0.0.1:9/api", tmp_path / "log", {}, tmp_path)
    assert started[0]["TMPDIR"] == str(tmp_path / "temporary")
    assert new.exists() and not old.exists()
    monkeypatch.setenv("TMPDIR", "/somewhere")
    parts.start_worker("http://127.0.0.1:9/api", tmp_path / "log", {}, tmp_path)
    assert "TMPDIR" not in started[1]


def test_a_server_that_stands_open_is_used_and_told(nobody: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with answering() as port, answering(login="my:own") as closed:
        serve.find_place(nobody, port, Console())
        assert "That server has no password" in " ".join(capsys.readouterr().out.split())
        with pytest.raises(BadInput, match="set PREFECT_API_AUTH_STRING to use it"):
            serve.find_place(nobody, closed, Console())


def test_a_lock_without_an_answer_is_told_and_not_waited_for_for_ever(
    nobody: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server, "STARTUP_SECONDS", 0.1)
    monkeypatch.setenv("TIDEGATE_HOME", str(nobody))
    handle = acquire(nobody / "serve.lock")
    try:
        assert serve.main([]) == serve.FAILED
    finally:
        os.close(handle)
    assert "Another make serve" in capsys.readouterr().out

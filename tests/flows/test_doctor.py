"""`python -m flows.doctor` sees what is missing, and says what to do: against a real server, ledger and store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.doctor import AUTOMATION
from tests.support.command import Command
from tests.support.site import Site, started_site
from tidegate.process.confine import kernel_features

pytestmark = pytest.mark.ci


def doctor(environment: dict[str, str], folder: Path) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "flows.doctor", "--json"],
        env=environment, cwd=folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def said(told: dict[str, Any], subject: str) -> list[tuple[str, str]]:
    return [(one["level"], one["message"]) for one in told["findings"] if one["subject"] == subject]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with started_site(tmp_path_factory.mktemp("doctor"), worker=False, schedules=True) as site:
        yield site


def test_without_a_worker_it_is_red_and_with_one_it_is_not(site: Site) -> None:
    code, told = doctor(site.env(), site.home)
    assert code == 1 and told["level"] == "red"
    [(level, message)] = said(told, "worker")
    assert level == "red" and "none is online" in message

    site.start_worker()
    code, told = doctor(site.env(), site.home)
    assert code == 0, [one for one in told["findings"] if one["level"] == "red"]
    assert said(told, "worker")[0][0] == "green"
    for subject in ("ffmpeg", "encoder", "store", "home", "ledger", "clock", "setting", "automation", "slots"):
        assert {level for level, _ in said(told, subject)} == {"green"}, (subject, said(told, subject))


def test_a_schedule_that_is_off_is_red(site: Site) -> None:
    deployment = site.get("deployments/name/recover/recover")
    [schedule] = deployment["schedules"]
    address = f"deployments/{deployment['id']}/schedules/{schedule['id']}"
    site.patch(address, {"active": False})
    try:
        code, told = doctor(site.env(), site.home)
    finally:
        site.patch(address, {"active": True})
    assert code == 1
    assert ("red", "has no active schedule") in said(told, "recover")


def test_a_missing_automation_is_yellow(site: Site) -> None:
    asked = {"automations": {"name": {"any_": [AUTOMATION]}}}
    [automation] = site.post("automations/filter", asked)
    address = f"automations/{automation['id']}"
    site.patch(address, {"enabled": False})
    try:
        _, told = doctor(site.env(), site.home)
    finally:
        site.patch(address, {"enabled": True})
    [(level, message)] = said(told, "automation")
    assert level == "yellow" and "switched off" in message


def test_a_setting_that_hurts_is_told_with_what_would_be_better(site: Site) -> None:
    _, told = doctor(site.env() | {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "600"}, site.home)
    [(level, message)] = said(told, "setting")
    assert level == "yellow" and "PREFECT_FLOWS_HEARTBEAT_FREQUENCY is 600" in message


def test_without_any_server_it_says_that_nothing_recovers_by_itself(command: Command) -> None:
    environment = {name: value for name, value in command.env().items() if name != "PREFECT_API_URL"}
    code, told = doctor(environment, command.home)
    assert code == 0
    assert [level for level, _ in said(told, "server")] in (["yellow"], ["green"])  # somebody may serve on port 4200
    assert {level for level, _ in said(told, "recover")} >= {"yellow"}


def test_a_server_that_is_named_and_away_is_red(command: Command) -> None:
    code, told = doctor(command.env() | {"PREFECT_API_URL": "http://127.0.0.1:9/api"}, command.home)
    assert code == 1
    [(level, message)] = said(told, "server")
    assert level == "red" and "does not answer" in message


def test_a_missing_tool_and_a_home_that_cannot_be_written_are_red(command: Command) -> None:
    nowhere = command.home / "file"
    nowhere.write_text("")
    told_to = {"TIDEGATE_TOOLS_FFMPEG": "/nowhere/ffmpeg", "TIDEGATE_HOME": str(nowhere / "below")}
    code, told = doctor(command.env() | told_to, command.home)
    assert code == 1
    assert said(told, "tools")[0][0] == "red" and said(told, "store")[0][0] == "red"


def test_a_value_that_cannot_be_understood_is_told_and_nothing_else(command: Command) -> None:
    code, told = doctor(command.env() | {"TIDEGATE_ADMISSION_SLOTS": "none"}, command.home)
    assert code == 1
    assert [one["subject"] for one in told["findings"]] == ["settings"]


def test_for_people_it_prints_lines_and_what_to_do(command: Command) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.doctor"],
        env=command.env() | {"PREFECT_API_URL": "http://127.0.0.1:9/api"}, cwd=os.fspath(command.home),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "● red" in done.stdout and "→" in done.stdout and "● green" in done.stdout
    assert done.stdout.splitlines()[-1] == f"Not ready: {done.stdout.count('● red')} point must be fixed (red)."


def test_what_is_optional_is_called_so_and_the_last_line_is_the_verdict(command: Command) -> None:
    environment = {name: value for name, value in command.env().items() if name != "PREFECT_API_URL"}
    done = subprocess.run(
        [sys.executable, "-m", "flows.doctor"],
        env=environment, cwd=os.fspath(command.home), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    *_, last = done.stdout.splitlines()
    assert done.returncode == 0 and last.startswith("Ready. "), done.stdout
    assert "recover: has not run for 24 h (normal without `make serve`)" in done.stdout
    assert "→ optional: `make serve`" in done.stdout


@pytest.mark.slow
def test_a_server_that_wants_a_token_against_forged_requests_is_no_reason_to_be_red(tmp_path: Path) -> None:
    with started_site(
        tmp_path, {"PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true"}, worker=False, schedules=True
    ) as site:
        _, told = doctor(site.env(), site.home)
    assert [message for level, message in said(told, "prefect") if level == "red"] == []
    assert said(told, "automation")[0][0] == "green"


@pytest.mark.parametrize("kind", ["file", "below a file"])
def test_a_prefect_home_that_cannot_be_written_is_red(kind: str, command: Command) -> None:
    (command.home / "file").touch()
    environment = {name: value for name, value in command.env().items() if name != "PREFECT_API_URL"}
    environment["PREFECT_HOME"] = str(command.home / ("file" if kind == "file" else "file/below"))
    _, told = doctor(environment, command.home)
    if said(told, "server")[0][0] == "yellow":  # somebody may serve on port 4200
        [(level, message)] = said(told, "prefect")
        assert level == "red" and "PREFECT_HOME" in message


def test_it_says_how_far_tools_are_confined(command: Command) -> None:
    environment = command.env() | {"TIDEGATE_PROCESS_CONFINE": "on"}
    _, told = doctor(environment, command.home)
    [(level, message)] = said(told, "confinement")
    assert level == ("green" if kernel_features().whole else "yellow"), message
    _, told = doctor(environment | {"TIDEGATE_PROCESS_CONFINE": "off"}, command.home)
    assert [level for level, _ in said(told, "confinement")] == ["yellow"]


@pytest.mark.skipif(not kernel_features().landlock, reason="this kernel has no Landlock")
def test_an_ffmpeg_that_runs_only_without_confinement_is_told_with_the_cure(command: Command, tmp_path: Path) -> None:
    """Its library lies where nobody would look for one."""
    library, tool = tmp_path / "elsewhere" / "part", tmp_path / "bin" / "ffmpeg"
    for path in (library, tool):
        path.parent.mkdir()
    library.write_text("ffmpeg version 9.9")
    tool.write_text(f"#!/bin/sh\nexec cat {library}\n")
    tool.chmod(0o755)
    environment = command.env() | {"TIDEGATE_TOOLS_FFMPEG": str(tool)}
    code, told = doctor(environment, command.home)
    [(level, message)] = said(told, "ffmpeg")
    assert (code, level) == (1, "red") and "only without confinement" in message
    assert any("TIDEGATE_PROCESS_ALLOW" in one["do"] for one in told["findings"])
    _, told = doctor(environment | {"TIDEGATE_PROCESS_ALLOW": str(library.parent)}, command.home)
    assert said(told, "ffmpeg") == [("green", f"ffmpeg version 9.9 ({tool})")]

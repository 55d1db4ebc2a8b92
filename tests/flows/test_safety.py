"""The settings that make runs safe are ones that Prefect reads, and a person's own stand."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows import safety
from flows.safety import SETTINGS, Setting, environment, hurtful
from tests.support.clips import clip
from tests.support.command import Command

CI = ("CI", "GITHUB_", "GITLAB_", "BUILD_", "JENKINS", "TF_", "TRAVIS", "BUILDKITE", "CIRCLE", "CODEBUILD", "TEAMCITY")

IN_FORCE = """
import json, sys
from prefect.settings import get_current_settings
told = {}
for path in json.loads(sys.argv[1]):
    value = get_current_settings()
    for name in path.split("."):
        value = getattr(value, name)
    told[path] = value
print(json.dumps(told))
"""


@pytest.fixture
def untold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder and a Prefect of which nobody has said anything."""
    for name in list(os.environ):
        if name.startswith("PREFECT_") or name == "DO_NOT_TRACK":
            monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def in_force(told: dict[str, str]) -> dict[str, Any]:
    """What Prefect makes of these variables, by path."""
    paths = json.dumps([setting.path for setting in SETTINGS])
    done = subprocess.run(
        [sys.executable, "-c", IN_FORCE, paths], env={**os.environ, **told}, capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_prefect_reads_every_one_and_takes_its_value(untold: Path) -> None:
    told = in_force({setting.name: setting.value for setting in SETTINGS})
    assert {path: str(value).lower() for path, value in told.items()} == {
        setting.path: setting.value for setting in SETTINGS
    }


@pytest.mark.parametrize(
    ("setting", "older"),
    [(setting, older) for setting in SETTINGS for older in setting.older],
    ids=lambda it: getattr(it, "path", it),
)
def test_prefect_still_reads_the_older_names(setting: Setting, older: str, untold: Path) -> None:
    assert str(in_force({older: "31"})[setting.path]) == "31"


def test_everybody_is_told_what_they_read(untold: Path) -> None:
    assert environment("server").keys() == {
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE",
        "PREFECT_SERVER_ANALYTICS_ENABLED",
        "DO_NOT_TRACK",
    }
    assert "PREFECT_FLOWS_HEARTBEAT_FREQUENCY" in environment("run")
    assert "PREFECT_CLIENT_MAX_RETRIES" in environment("worker")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (".env", "export PREFECT_FLOWS_HEARTBEAT_FREQUENCY='45'\n"),
        ("prefect.toml", "[flows]\nheartbeat_frequency = 45\n"),
        ("pyproject.toml", "[tool.prefect.flows]\nheartbeat_frequency = 45\n"),
        ("prefect/profiles.toml", 'active = "x"\n[profiles.x]\nPREFECT_FLOWS_HEARTBEAT_FREQUENCY = "45"\n'),
    ],
)
def test_what_a_person_wrote_into_a_file_of_prefects_stands(file: str, content: str, untold: Path) -> None:
    (untold / "prefect").mkdir()
    (untold / file).write_text(content)
    told = environment("run")
    assert "PREFECT_FLOWS_HEARTBEAT_FREQUENCY" not in told
    assert in_force(told)["flows.heartbeat_frequency"] == 45


@pytest.mark.parametrize("name", ["PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "PREFECT_RUNNER_HEARTBEAT_FREQUENCY"])
def test_what_a_person_set_in_the_environment_stands(name: str, untold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "45")
    assert "PREFECT_FLOWS_HEARTBEAT_FREQUENCY" not in environment("run")


def test_what_is_in_force_is_what_a_person_said_else_what_we_say(untold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (untold / "prefect.toml").write_text("[client]\nmax_retries = 9\n")
    monkeypatch.setenv("PREFECT_RUNNER_HEARTBEAT_FREQUENCY", "45")
    told = safety.effective("run")
    assert told["PREFECT_CLIENT_MAX_RETRIES"] == "9"
    assert told["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "45"
    assert told["PREFECT_EVENTS_WORKER_MAX_QUEUE_SIZE"] == "10000"
    assert "PREFECT_SERVER_ANALYTICS_ENABLED" not in told
    assert hurtful(told, "run") == []


def test_our_own_settings_hurt_nobody() -> None:
    assert hurtful({setting.name: setting.value for setting in SETTINGS}) == []


def test_prefects_defaults_hurt() -> None:
    hurt = {finding.name for finding in hurtful({})}
    assert hurt == {setting.name for setting in SETTINGS if setting.path != "server.analytics_enabled"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "180"),
        ("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "None"),
        ("PREFECT_RUNNER_HEARTBEAT_FREQUENCY", "90"),
        ("PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE", "prefect.server.concurrency.lease_storage.memory"),
        ("PREFECT_CLIENT_MAX_RETRIES", "0"),
        ("PREFECT_EVENTS_WORKER_MAX_QUEUE_SIZE", "0"),
        ("PREFECT_TASKS_RUNNER_THREAD_POOL_MAX_WORKERS", "None"),
        ("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "20"),
    ],
)
def test_a_setting_known_to_hurt_is_found_with_what_would_be_better(name: str, value: str) -> None:
    good = {setting.name: setting.value for setting in SETTINGS if name not in (setting.name, *setting.older)}
    [finding] = hurtful({**good, name: value})
    assert finding.value == value
    assert finding.better in {setting.value for setting in SETTINGS}
    assert finding.why


def test_only_what_a_reader_reads_is_held_against_it() -> None:
    assert {finding.name for finding in hurtful({}, "server")} == {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"}


def test_a_client_outlives_a_server_that_is_away_for_three_minutes() -> None:
    [retries] = [setting for setting in safety.SETTINGS if setting.path == "client.max_retries"]
    shortest = sum(2**number for number in range(1, int(retries.value) + 1)) * 0.8  # Prefect's jitter is 20 %
    assert shortest >= 180


@pytest.mark.parametrize("reader", ["server", "worker", "run"])
def test_nobody_of_ours_tells_how_it_is_used(reader: safety.Reader, untold: Path) -> None:
    assert environment(reader)["DO_NOT_TRACK"] == "1"


@pytest.mark.parametrize(
    ("name", "value"),
    [("DO_NOT_TRACK", "0"), ("PREFECT_SERVER_ANALYTICS_ENABLED", "true"), ("PREFECT_SERVER_ANALYTICS_ENABLED", "0")],
)
def test_what_a_person_said_about_telemetry_stands(
    name: str, value: str, untold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert "DO_NOT_TRACK" not in environment("run") and "PREFECT_SERVER_ANALYTICS_ENABLED" not in environment("run")


def test_the_first_run_by_hand_says_nothing_of_usage_data(command: Command, clips: Path) -> None:
    """Prefect says it at a terminal only, once in each `PREFECT_HOME`, and not where it takes itself for a CI job."""
    seen, terminal = pty.openpty()
    kept = {name: value for name, value in command.env().items() if not name.startswith(CI) and name != "DO_NOT_TRACK"}
    words = ["--until", "probe", "--output-dir", str(command.output)]
    argv = [sys.executable, "-m", "flows.run", str(clip(clips)), *words]
    process = subprocess.Popen(argv, env=kept, cwd=command.home, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    told = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while some := os.read(seen, 4096):
            told += some
    os.close(seen)
    assert process.wait(60) == 0 and b"probe" in told
    assert b"usage data" not in told
    assert not (command.home / "prefect" / ".sdk_telemetry" / "notice_shown").exists()

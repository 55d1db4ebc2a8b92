"""Which variables reach a tool: those of the list, and not the keys of whoever runs it. Looked at in real children."""

from __future__ import annotations

import sys

import anyio
import pytest

from tidegate.errors import BadInput
from tidegate.process.confine import NetworkAccess
from tidegate.process.environment import child_environment
from tidegate.process.job import Job
from tidegate.process.supervise import run
from tidegate.settings import ProcessSettings, Settings

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "1",
    "GITHUB_TOKEN": "2",
    "PREFECT_API_KEY": "3",
    "PREFECT_API_AUTH_STRING": "4",
    "PREFECT_SERVER_API_AUTH_STRING": "5",
    "TIDEGATE_LEDGER_URL": "postgresql://somebody:secret@127.0.0.1/x",
    "TIDEGATE_HOME": "/nowhere",
    "SSH_AUTH_SOCK": "/nowhere",
    "LD_PRELOAD": "",
    "FFREPORT": "file=/nowhere/report",
    "PYTHONPATH": "/nowhere",
}
USEFUL = {
    "LANG": "C.UTF-8",
    "LC_TIME": "C",
    "TZ": "Europe/Oslo",
    "CUDA_VISIBLE_DEVICES": "1",
    "LIBVA_DRIVER_NAME": "iHD",
    "LD_LIBRARY_PATH": "/opt/x/lib",
}
OUTSIDE = {
    "https_proxy": "http://somebody:secret@127.0.0.1:9",
    "NO_PROXY": "localhost",
    "SSL_CERT_FILE": "/nowhere.pem",
    "REQUESTS_CA_BUNDLE": "/nowhere.pem",
    "DOTNET_ROOT": "/opt/dotnet",
}


def environment_of(network: NetworkAccess, more: str = "") -> dict[str, str]:
    """The environment of a real child."""
    program = "import os; [print(f'{k}={v}') for k, v in os.environ.items()]"
    job = Job("it", [sys.executable, "-I", "-c", program], 30.0, network=network)
    lines: list[str] = []
    job.on_stdout = lines.append
    assert anyio.run(run, job, ProcessSettings(environment=more)).exit_code == 0
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture(autouse=True)
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SECRETS | USEFUL | OUTSIDE).items():
        monkeypatch.setenv(name, value)


def test_no_key_of_ours_reaches_a_tool() -> None:
    for network in ("none", "any"):
        assert not SECRETS.keys() & environment_of(network).keys()  # type: ignore[arg-type]


def test_language_graphics_and_libraries_reach_every_tool() -> None:
    found = environment_of("none")
    assert {name: found.get(name) for name in USEFUL} == USEFUL


def test_the_way_out_reaches_only_those_that_go_out() -> None:
    assert not OUTSIDE.keys() & environment_of("none").keys(), "a proxy's address may hold a password"
    found = environment_of("any")
    assert {name: found.get(name) for name in OUTSIDE} == OUTSIDE


def test_more_names_are_let_through_by_setting() -> None:
    found = environment_of("none", "GITHUB_TOKEN, AWS_*")
    assert SECRETS.keys() & found.keys() == {"GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY"}


@pytest.mark.parametrize("value", ["A=B", "*", "A B", "1A", "A*B", "A,,B C"])
def test_what_is_no_name_is_bad_input(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_PROCESS_ENVIRONMENT", value)
    with pytest.raises(BadInput, match="TIDEGATE_PROCESS_ENVIRONMENT"):
        Settings.load()


@pytest.mark.parametrize("value", ["relative", "/", "/a:b", "//"])
def test_what_is_no_folder_is_bad_input(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_PROCESS_ALLOW", value)
    with pytest.raises(BadInput, match="TIDEGATE_PROCESS_ALLOW"):
        Settings.load()


def test_a_pattern_stands_for_the_beginning_of_a_name_only() -> None:
    assert child_environment({"MY_LC_ALL": "x", "LC_ALL": "y"}, network=False) == {"LC_ALL": "y"}

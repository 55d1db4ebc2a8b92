"""The doctor's look at who gets in where: each trouble is said with the line that cures it, and the line cures it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from flows.doctor_home import doors
from flows.findings import Finding, Level
from tidegate.durable.home import Home
from tidegate.durable.ledger import Ledger
from tidegate.settings import LedgerSettings, Settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    home = Home(tmp_path / "tidegate")
    Ledger.open(LedgerSettings(), home).close()
    monkeypatch.setenv("TIDEGATE_HOME", str(home.root))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    for path in (tmp_path, *tmp_path.parents[:-2]):
        path.chmod(0o755)
    return home


def found(subject: str) -> list[Finding]:
    return [one for one in doors(Settings.load()) if one.subject == subject]


def levels(subject: str) -> list[Level]:
    return [one.level for one in found(subject)]


def cure(finding: Finding) -> None:
    """Do what it says."""
    match = re.search("`(.+?)`", finding.do)
    assert match is not None, finding
    subprocess.run(match.group(1), shell=True, check=True)


def test_a_home_as_we_make_it_is_green(home: Home) -> None:
    assert {one.level for one in doors(Settings.load())} == {Level.GREEN}


def test_an_open_home_and_an_open_ledger_are_red_until_cured(home: Home) -> None:
    home.root.chmod(0o755)
    home.ledger.chmod(0o644)
    troubles = found("home")
    assert [one.level for one in troubles] == [Level.RED, Level.RED]
    for trouble in troubles:
        cure(trouble)
    assert levels("home") == [Level.GREEN]


def test_a_shared_home_is_told_and_never_tightened(home: Home) -> None:
    home.root.chmod(0o2770)
    [told] = found("home")
    assert told.level is Level.YELLOW and "shared with a group" in told.message
    assert home.root.stat().st_mode & 0o7777 == 0o2770
    command = re.search("`(?:setfacl [^;]+; )?(.+?)`", told.do)
    assert command is not None
    subprocess.run(command.group(1), shell=True, check=True)
    assert levels("home") == [Level.GREEN]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_somebody_elses_home_is_told(home: Home) -> None:
    os.chown(home.root, 65534, 65534)
    assert levels("home")[0] is Level.YELLOW
    assert "belongs to" in found("home")[0].message


def test_films_in_the_home_are_told_with_what_closes_it(home: Home) -> None:
    (home.root / "media" / "film-1234").mkdir(parents=True)
    home.root.chmod(0o755)
    told = found("home")[-1]
    assert told.level is Level.YELLOW and "media" in told.message
    cure(told.model_copy(update={"do": told.do.partition("or only")[2]}))
    assert levels("home") == [Level.GREEN]
    assert home.root.stat().st_mode & 0o777 == 0o711


def test_films_that_a_closed_home_keeps_from_their_readers_are_told(home: Home) -> None:
    (home.root / "media").mkdir(mode=0o755)
    [told] = found("output")
    assert told.level is Level.YELLOW and "media servers" in told.message
    cure(told)
    assert levels("output") == [Level.GREEN]


def test_an_open_database_of_prefects_is_red_where_others_can_come_to_it(home: Home, tmp_path: Path) -> None:
    database = tmp_path / "prefect" / "prefect.db"
    database.parent.mkdir(mode=0o755)
    database.touch(0o644)
    [told] = found("database")
    assert told.level is Level.RED
    cure(told)
    assert levels("database") == [Level.GREEN]
    database.chmod(0o644)
    database.parent.chmod(0o700)
    assert levels("database") == [Level.GREEN]


@pytest.mark.parametrize(
    ("address", "level"), [("tcp://192.0.2.7:8786", "yellow"), ("tcp://127.0.0.1:1", "yellow"), ("tls://a:1", "green")]
)
def test_a_cluster_that_asks_nobody_is_told(
    address: str, level: str, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_PROCESS_CHUNK_CLUSTER", address)
    assert levels("dask") == [Level(level)]

"""Who can read what: a home is its owner's alone, what is published is as the umask says; real commands, real users."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.ingest import ingest
from flows.request import SourceRequest
from tests.support.clips import clip
from tests.support.command import Command
from tests.support.leaks import marking

pytestmark = pytest.mark.ci


NOBODY = 65534
TEAM = 54321
"""A group that is nobody's usual one."""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@pytest.fixture
def street() -> Iterator[Path]:
    """A folder that everybody can enter; pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(prefix="tidegate-street-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def at_home(street: Path, prefect_server: str) -> Iterator[Command]:
    """The real command, in a home that others can reach."""
    folder = street / "me"
    folder.mkdir(mode=0o755)
    with marking() as mark:
        environment = {"PREFECT_API_URL": prefect_server, "HOME": str(folder), "PREFECT_HOME": str(folder / "prefect")}
        yield Command(folder, street / "out", environment, mark, umask=0o022)


def home_of(command: Command) -> Path:
    return command.home / "tidegate"


def modes(folder: Path) -> dict[str, int]:
    """Mode by path, of the folder and all below it."""
    return {
        str(path.relative_to(folder.parent)): stat.S_IMODE(path.stat().st_mode)
        for path in (folder, *sorted(folder.rglob("*")))
        if not path.is_symlink()
    }


def open_to_others(folder: Path) -> dict[str, str]:
    return {name: oct(mode) for name, mode in modes(folder).items() if mode & 0o077}


def loosened(folder: Path) -> None:
    """As an earlier version made it under umask 022."""
    for path in (folder, *folder.rglob("*")):
        with suppress(FileNotFoundError):
            path.chmod(0o755 if path.is_dir() else 0o644)


def as_nobody(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True, errors="replace"
    )


def readable_by_nobody(folder: Path) -> list[str]:
    """Files below the folder that a stranger can read."""
    found = as_nobody("/usr/bin/find", str(folder), "-type", "f", "-readable")
    return sorted(found.stdout.split())


def film(command: Command) -> Path:
    [found] = command.output.glob("*/*.mp4")
    return found


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o027, 0o077])
def test_what_is_kept_is_its_owners_and_what_is_published_is_as_the_umask_says(
    umask: int, command: Command, clips: Path
) -> None:
    command = replace(command, umask=umask, output=command.home / "shown" / "films")
    done = command.run(str(clip(clips)), "--header", "X-Token: secret")

    assert done.code == 0, done.stderr
    assert open_to_others(home_of(command)) == {}
    assert {"ledger.db", "results", "assets", "scratch", "secrets"} <= {
        path.name for path in home_of(command).iterdir()
    }
    published = modes(command.home / "shown")
    assert len(published) > 5
    for name, mode in published.items():
        folder = (command.home / name).is_dir()
        assert mode == (0o777 if folder else 0o666) & ~umask, name


@pytest.mark.slow
def test_the_database_of_a_server_of_ours_and_its_log_are_their_owners_too(command: Command, clips: Path) -> None:
    command.environment.pop("PREFECT_API_URL")
    command = replace(command, umask=0o000)

    done = command.run(str(clip(clips)), "--until", "probe", timeout=240)

    assert done.code == 0, done.stderr
    prefect = command.home / "prefect"
    assert modes(prefect)["prefect"] == 0o700
    databases = {name: mode for name, mode in modes(prefect).items() if ".db" in name}
    assert databases and set(databases.values()) == {0o600}, databases
    assert open_to_others(home_of(command)) == {}
    assert "no longer" not in done.stderr


@as_root
def test_a_stranger_reads_the_film_and_nothing_of_the_home(at_home: Command, clips: Path) -> None:
    assert at_home.run(str(clip(clips))).code == 0

    assert as_nobody("/bin/ls", str(home_of(at_home))).returncode != 0
    assert as_nobody("/bin/cat", str(home_of(at_home) / "ledger.db")).returncode != 0
    assert readable_by_nobody(home_of(at_home)) == []
    assert str(film(at_home)) in readable_by_nobody(at_home.output)


@as_root
def test_a_home_of_an_earlier_version_is_closed_by_the_next_command_and_said_once(
    at_home: Command, clips: Path
) -> None:
    assert at_home.run(str(clip(clips))).code == 0
    loosened(home_of(at_home))
    assert str(home_of(at_home) / "ledger.db") in readable_by_nobody(home_of(at_home))

    first, second = at_home.run(str(clip(clips))), at_home.run(str(clip(clips)))

    assert (first.code, second.code) == (0, 0)
    assert f"{home_of(at_home)} was drwxr-xr-x; it is its owner's alone now." in first.stderr
    assert "other users" not in second.stderr.lower() and "alone now" not in second.stderr
    assert readable_by_nobody(home_of(at_home)) == []
    assert stat.S_IMODE((home_of(at_home) / "ledger.db").stat().st_mode) == 0o600


@as_root
@pytest.mark.slow
def test_films_that_an_earlier_version_put_into_the_home_can_still_be_read_and_nothing_else(
    at_home: Command, clips: Path
) -> None:
    inside = replace(at_home, output=home_of(at_home) / "shows" / "new")
    assert inside.run(str(clip(clips))).code == 0
    loosened(home_of(at_home))

    again = inside.run(str(clip(clips)))

    assert again.code == 0, again.stderr
    assert "could read ledger, results or logs" in again.stderr
    assert stat.S_IMODE(home_of(at_home).stat().st_mode) == 0o755
    readable = readable_by_nobody(home_of(at_home))
    assert str(film(inside)) in readable
    assert all("/shows/new/" in name for name in readable), readable


@as_root
@pytest.mark.slow
def test_a_film_that_is_put_into_a_new_home_by_hand_can_be_read_and_nothing_else_seen(
    at_home: Command, clips: Path
) -> None:
    inside = replace(at_home, output=home_of(at_home) / "films")
    assert inside.run(str(clip(clips))).code == 0
    assert inside.run(str(clip(clips)), "--refresh").code == 0  # it is not closed by the next command either

    assert as_nobody("/bin/cat", str(film(inside))).returncode == 0
    assert as_nobody("/bin/ls", str(home_of(at_home))).returncode != 0
    assert readable_by_nobody(home_of(at_home) / "ledger.db") == []
    assert readable_by_nobody(home_of(at_home) / "results") == []


def test_nothing_is_published_into_a_private_part_of_the_home(command: Command, clips: Path) -> None:
    refused = replace(command, output=home_of(command) / "results" / "films").run(str(clip(clips)))
    assert refused.code == 2
    assert "private part" in refused.failure["message"]


@as_root
def test_a_home_that_is_shared_with_a_group_stays_shared_and_what_is_new_in_it_too(
    at_home: Command, clips: Path
) -> None:
    home = home_of(at_home)
    home.mkdir()
    os.chown(home, 0, TEAM)
    home.chmod(0o2770)

    done = replace(at_home, umask=0o002).run(str(clip(clips)))

    assert done.code == 0, done.stderr
    assert "alone now" not in done.stderr
    assert modes(home)["tidegate"] == 0o2770
    others = {name: oct(mode) for name, mode in modes(home).items() if mode & 0o007 and "/scratch/" not in name}
    assert others == {}
    for name in ("ledger.db", "results", "assets"):
        found = (home / name).stat()
        assert found.st_gid == TEAM
        assert found.st_mode & 0o060 == 0o060, name


@as_root
def test_somebody_elses_home_is_left_as_it_is(at_home: Command, clips: Path) -> None:
    home = home_of(at_home)
    home.mkdir()
    home.chmod(0o755)
    os.chown(home, NOBODY, NOBODY)

    assert at_home.run(str(clip(clips))).code == 0

    assert (home.stat().st_uid, stat.S_IMODE(home.stat().st_mode)) == (NOBODY, 0o755)


def ingested(source: Path) -> Path:
    """Where a run that names no folder has published."""

    async def run() -> Any:
        state: Any = await ingest(SourceRequest(url=str(source)), return_state=True)
        return await state.aresult()

    outcome = asyncio.run(run())
    return Path(outcome.published.folder)


def test_a_deployed_run_publishes_beside_the_home(
    attached: None, tmp_path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "tidegate"))
    assert ingested(clip(clips)).parent == tmp_path / "tidegate-output" / "media"


Prepare = Callable[[Path, pytest.MonkeyPatch], Path]


def _told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIDEGATE_OUTPUT", str(tmp_path / "srv"))
    return tmp_path / "srv" / "media"


def _as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tidegate" / "media").mkdir(parents=True)
    return tmp_path / "tidegate" / "media"


@pytest.mark.parametrize("prepare", [_told, _as_before])
def test_or_where_it_is_told_to_or_where_an_earlier_version_did(
    prepare: Prepare, attached: None, tmp_path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "tidegate"))
    expected = prepare(tmp_path, monkeypatch)
    assert ingested(clip(clips)).parent == expected

"""Who may read what is made, whose sharing is respected, and where runs publish: told from values and real folders."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.storage import PrivateFiles
from tidegate.durable import private
from tidegate.durable.closing import close_home, home_access, outputs_in
from tidegate.durable.home import Home
from tidegate.durable.ledger import Ledger
from tidegate.durable.private import Permissions, share_reason
from tidegate.errors import DiskFull
from tidegate.settings import LedgerSettings


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o002, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def stands(
    mode: int, *, group: int = 1000, usual: int | None = 1000, own: bool = True, **more: bool | int
) -> Permissions:
    told = {"owner": 1000, "access_list": False, "umask": 0o022, **more}
    return Permissions(mode=mode, group=group, usual_group=usual, private_group=own, **told)  # type: ignore[arg-type]


SHARED = {
    "setgid": (stands(0o2750), "setgid"),
    "an access list": (stands(0o750, access_list=True), "access control list"),
    "another group": (stands(0o750, group=2000), "usual"),
    "a group that may write though the umask says no": (stands(0o770), "may write"),
    "a group of several people that may write": (stands(0o775, own=False, umask=0o002), "may write"),
}
NOT_SHARED = {
    "closed": stands(0o700),
    "closed, with the group of the folder above": stands(0o2700, group=2000),
    "closed, with an access list that lets nobody in": stands(0o700, access_list=True),
    "as umask 022 makes it": stands(0o755),
    "as umask 002 makes it where each user has a group": stands(0o775, umask=0o002),
}


@pytest.mark.parametrize("name", SHARED)
def test_a_folder_counts_as_shared_on_purpose_by(name: str) -> None:
    one, why = SHARED[name]
    assert why in (share_reason(one) or "")


@pytest.mark.parametrize("name", NOT_SHARED)
def test_and_not_where_it_is(name: str) -> None:
    assert share_reason(NOT_SHARED[name]) is None


def test_the_umask_is_read_without_setting_it(umask: int) -> None:
    assert private.umask() == umask


def test_the_home_is_closed_and_its_parents_are_as_the_umask_says(umask: int, tmp_path: Path) -> None:
    home = Home(tmp_path / "srv" / "tidegate")
    home.make()
    assert (mode_of(home.root.parent), mode_of(home.root)) == (0o777 & ~umask, 0o700)


def test_the_ledger_is_closed_from_its_first_byte_and_so_are_its_log_and_index(umask: int, tmp_path: Path) -> None:
    home = Home(tmp_path / "tidegate")
    ledger = Ledger.open(LedgerSettings(), home)
    with sqlite3.connect(home.ledger) as reader:
        reader.execute("SELECT count(*) FROM attempts").fetchall()  # keeps the log open
        ledger.now()
        files = {path.name: mode_of(path) for path in home.root.iterdir()}
    assert files == {"ledger.db": 0o600, "ledger.db-wal": 0o600, "ledger.db-shm": 0o600}


def test_a_ledger_that_is_begun_anew_is_closed_as_well(umask: int, tmp_path: Path) -> None:
    home = Home(tmp_path / "tidegate")
    home.make()
    home.ledger.write_bytes(b"no database at all, but long enough to be taken for one" * 100)
    assert Ledger.open(LedgerSettings(), home).moved_aside is not None
    assert mode_of(home.ledger) == 0o600 and mode_of(home.root / "ledger.db.repair") == 0o600


def test_a_record_of_prefects_is_closed_and_whole_or_not_at_all(umask: int, small_volume: Path) -> None:
    files = PrivateFiles(basepath=str(small_volume / "results"))
    files.write_path("probe.json", b"old")
    with pytest.raises(DiskFull):
        files.write_path("probe.json", b"x" * 64 * 1024 * 1024)
    assert (small_volume / "results" / "probe.json").read_bytes() == b"old"
    assert [path.name for path in (small_volume / "results").iterdir()] == ["probe.json"]
    assert mode_of(small_volume / "results" / "probe.json") == 0o600


@pytest.fixture
def old(tmp_path: Path) -> Home:
    """A home as an earlier version made it under umask 022."""
    home = Home(tmp_path / "tidegate")
    for name in ("results", "secrets", "scratch", "logs", "assets"):
        (home.root / name).mkdir(parents=True)
    Ledger.open(LedgerSettings(), home).close()
    for path in (home.root, *home.root.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return home


def test_an_open_home_is_closed_once(old: Home) -> None:
    assert len(close_home(old)) == 2
    assert close_home(old) == ()
    assert {mode_of(path) & 0o077 for path in (old.root, *old.root.iterdir())} == {0}


@pytest.mark.parametrize("mode", [0o2755, 0o775])
def test_a_shared_home_is_not_touched(mode: int, old: Home) -> None:
    before = os.umask(0o022)
    os.umask(before)
    old.root.chmod(mode)
    os.umask(0o022)
    try:
        assert close_home(old) == ()
    finally:
        os.umask(before)
    assert mode_of(old.root) == mode


def test_somebody_elses_home_is_not_touched(old: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert close_home(old) == ()
    found = home_access(old)
    assert found is not None and found.somebody_elses
    assert mode_of(old.root) == 0o755


@pytest.mark.parametrize("place", ["media", "shows/film-1234", "shows/new/film-1234", "film-1234"])
def test_a_home_that_holds_what_was_published_stays_open_and_its_private_parts_do_not(place: str, old: Home) -> None:
    folder = old.root / place
    folder.mkdir(parents=True)
    (folder / "film.meta.json").write_text("{}")
    close_home(old)
    assert mode_of(old.root) == 0o755
    assert {mode_of(path) & 0o077 for path in old.parts()} == {0}


def test_what_the_ledger_knows_as_published_counts_however_deep_it_lies(old: Home) -> None:
    folder = old.root / "a" / "b" / "c" / "d" / "film-1234"
    folder.mkdir(parents=True)
    Ledger.open(LedgerSettings(), old).add_publication(folder, "0" * 32)
    assert list(outputs_in(old)) == [old.root / "a"]


def test_a_folder_that_holds_something_else_does_not_keep_the_home_open(old: Home) -> None:
    (old.root / "prefect" / "storage").mkdir(parents=True)
    (old.root / "prefect" / "prefect.db").touch()
    close_home(old)
    assert mode_of(old.root) == 0o700


def test_runs_publish_beside_the_home(tmp_path: Path) -> None:
    home = Home(tmp_path / "tidegate")
    home.make()
    assert home.outputs(Path("media"), None) == tmp_path / "tidegate-output" / "media"
    assert home.outputs(Path("results"), None) == tmp_path / "tidegate-output" / "results"
    assert home.outputs(Path("media"), tmp_path / "srv") == tmp_path / "srv" / "media"
    assert home.outputs(tmp_path / "elsewhere", None) == tmp_path / "elsewhere"
    (home.root / "media").mkdir()
    assert home.outputs(Path("media/new"), None) == home.root / "media" / "new"
    assert home.outputs(Path("other"), None) == tmp_path / "tidegate-output" / "other"


def test_a_home_that_is_a_volume_of_its_own_keeps_them(small_volume: Path) -> None:
    assert Home(small_volume).outputs(Path("media"), None) == small_volume / "media"

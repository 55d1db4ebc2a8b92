"""Deleting stays inside our own folders, whatever somebody put there, and says what became of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.durable.test_crash import crashes
from tests.support.leaks import leftovers, open_descriptors
from tidegate.durable.clearing import NotRemoved, Removal, RemovalRefusal, Removed, Stamp, remove

KEY, OTHER = "0" * 32, "1" * 32
ASSET = "ab" + "c" * 62
RECORD = f"download-r1-{KEY}.json"
PRECIOUS = "a person's holiday film"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with one thing of each kind in it."""
    root = tmp_path / "home"
    fill(root / "scratch" / KEY / "source")
    fill(root / "assets" / ASSET[:2] / ASSET)
    for name in (f"results/{RECORD}", "secrets/0123456789abcdef.json", "secrets/identity.key", "ledger.db"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("{}")
    return root


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder that is none of ours; whatever a test does, it must be whole afterwards."""
    folder = tmp_path / "elsewhere"
    for inner in (folder, folder / KEY, folder / "source", folder / ASSET):
        inner.mkdir()
        (inner / "film.mp4").write_text(PRECIOUS)
    before = everything_in(folder)
    yield folder
    assert everything_in(folder) == before


def test_a_tree_goes_and_what_it_took_is_told(home: Path) -> None:
    folder = home / "scratch" / KEY
    taken = blocks(folder)
    assert remove(home, Path("scratch", KEY), "too old") == Removed(Path("scratch", KEY), taken, "too old")
    assert not folder.exists() and list((home / "scratch").iterdir()) == []
    assert taken >= 64 * 1024


def test_single_files_go_by_relative_and_by_absolute_path(home: Path) -> None:
    assert isinstance(remove(home, Path("results", RECORD), "stale"), Removed)
    assert isinstance(remove(home, home / "secrets" / "0123456789abcdef.json", "unneeded"), Removed)
    assert list((home / "results").iterdir()) == []
    assert [path.name for path in (home / "secrets").iterdir()] == ["identity.key"]


def test_something_inside_a_thing_of_ours_can_go_alone(home: Path) -> None:
    assert isinstance(remove(home, Path("scratch", KEY, "source", "film.part"), "left over"), Removed)
    assert (home / "scratch" / KEY / "source" / "film.journal").exists()


def test_a_file_with_another_name_frees_nothing_and_keeps_its_bytes(home: Path) -> None:
    """A part in scratch is linked into the store; either name may go first."""
    part, track = home / "scratch" / KEY / "source" / "film.part", home / "assets" / ASSET[:2] / ASSET / "source"
    track.hardlink_to(part)
    alone = blocks(home / "assets" / ASSET[:2] / ASSET) - blocks(track)
    removed = remove(home, Path("assets", ASSET[:2], ASSET), "over the quota")
    assert isinstance(removed, Removed) and removed.bytes == alone
    assert part.stat().st_size == 64 * 1024
    size = blocks(part)
    removed = remove(home, Path("scratch", KEY, "source", "film.part"), "left over")
    assert isinstance(removed, Removed) and removed.bytes == size


def test_what_is_gone_already_is_told_and_is_no_failure(home: Path) -> None:
    refused(remove(home, Path("scratch", OTHER), "too old"), RemovalRefusal.GONE)
    refused(remove(home, Path("assets", "ff", "f" * 64), "unnamed"), RemovalRefusal.GONE)
    refused(remove(home / "nowhere", Path("scratch", KEY), "too old"), RemovalRefusal.GONE)


def test_what_was_used_since_it_was_looked_at_stays(home: Path) -> None:
    folder = home / "assets" / ASSET[:2] / ASSET
    seen = Stamp.of(folder.stat())
    os.utime(folder, (1, 1))
    refused(remove(home, Path("assets", ASSET[:2], ASSET), "over the quota", seen), RemovalRefusal.CHANGED)
    assert (folder / "film.part").exists()
    assert isinstance(remove(home, Path("assets", ASSET[:2], ASSET), "…", Stamp.of(folder.stat())), Removed)


def test_another_thing_of_the_same_name_is_not_what_was_looked_at(home: Path) -> None:
    folder = home / "assets" / ASSET[:2] / ASSET
    seen = Stamp.of(folder.stat())
    folder.rename(home / "kept")
    fill(folder)
    os.utime(folder, ns=(seen.mtime_ns, seen.mtime_ns))
    refused(remove(home, Path("assets", ASSET[:2], ASSET), "over the quota", seen), RemovalRefusal.CHANGED)


# --- nowhere else -----------------------------------------------------------------------------------

ESCAPES = [
    "",
    ".",
    "..",
    "/",
    "/etc/passwd",
    "../elsewhere",
    f"scratch/../../elsewhere/{KEY}",
    f"scratch/{KEY}/../../../elsewhere",
    f"scratch/{KEY}/..",
    "scratch",
    "assets",
    "assets/ab",
    "results",
    "secrets",
    "ledger.db",
    "secrets/identity.key",
    "results/notes.json",
    "scratch/film",
    f"assets/abc/{ASSET}",
    f"scratch/{KEY}\n",
    f"elsewhere/{KEY}",
]


@pytest.mark.parametrize("path", ESCAPES)
def test_what_is_not_ours_is_refused(path: str, home: Path, elsewhere: Path) -> None:
    before = everything_in(home)
    refused(remove(home, Path(path), "…"), RemovalRefusal.OUTSIDE)
    refused(remove(home, home / path, "…"), RemovalRefusal.OUTSIDE)
    assert everything_in(home) == before


def test_a_name_that_no_system_knows_is_a_failure_like_others(home: Path) -> None:
    refused(remove(home, Path("scratch", KEY, "a\0b"), "…"), RemovalRefusal.FAILED)


@given(
    parts=st.lists(
        st.sampled_from(
            ["..", ".", "", "/", "scratch", "assets", "results", "elsewhere", "link", KEY, "ab", ASSET, "source", "~"]
        ),
        max_size=7,
    ),
    absolute=st.booleans(),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_path_whatsoever_leads_outside(parts: list[str], absolute: bool, home: Path, elsewhere: Path) -> None:
    for link in (home / "scratch" / "link", home / "assets" / "link", home / "scratch" / KEY / "link"):
        link.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            link.symlink_to(elsewhere)
    before = everything_in(elsewhere)
    path = Path("/".join(parts))
    remove(home, home / path if absolute else path, "…")
    assert everything_in(elsewhere) == before
    assert (home / "ledger.db").exists()
    assert all((home / top).is_dir() for top in ("scratch", "assets", "results", "secrets"))


# --- links ------------------------------------------------------------------------------------------


def test_a_link_goes_itself_and_not_what_it_leads_to(home: Path, elsewhere: Path) -> None:
    link, file = home / "scratch" / OTHER, home / "results" / f"probe-r1-{OTHER}.json"
    link.symlink_to(elsewhere)
    file.symlink_to(elsewhere / "film.mp4")
    for path in (link, file):
        assert isinstance(remove(home, path, "…"), Removed)
        assert not path.is_symlink()


def test_nothing_is_removed_behind_a_link(home: Path, elsewhere: Path) -> None:
    (home / "scratch" / OTHER).symlink_to(elsewhere)
    (home / "assets" / "cc").symlink_to(elsewhere)
    (home / "scratch" / KEY / "other").symlink_to(elsewhere)
    (elsewhere / ("cc" + "c" * 62)).mkdir()
    try:
        for path in (f"scratch/{OTHER}/source", f"assets/cc/cc{'c' * 62}", f"scratch/{KEY}/other/film.mp4"):
            refused(remove(home, Path(path), "…"), RemovalRefusal.LINKED)
    finally:
        (elsewhere / ("cc" + "c" * 62)).rmdir()


def test_links_inside_a_tree_go_with_it_and_their_targets_stay(home: Path, elsewhere: Path) -> None:
    folder = home / "scratch" / KEY
    (folder / "source" / "film").symlink_to(elsewhere / "film.mp4")
    (folder / "output").symlink_to(elsewhere)
    (folder / "up").symlink_to("..")
    (folder / "nowhere").symlink_to("/nonexistent")
    assert isinstance(remove(home, folder, "…"), Removed)
    assert not folder.exists() and (home / "scratch").is_dir()


def test_a_whole_top_folder_may_lie_on_another_disk(home: Path, elsewhere: Path, tmp_path: Path) -> None:
    """It is a person who moves it there; below it everything is as strict as at home."""
    disk = tmp_path / "disk"
    (home / "assets").rename(disk)
    (home / "assets").symlink_to(disk)
    (disk / "cc").symlink_to(elsewhere)
    (disk / "photos").mkdir()
    refused(remove(home, Path("assets", "photos"), "…"), RemovalRefusal.OUTSIDE)
    refused(remove(home, Path("assets", "cc", "c" * 64), "…"), RemovalRefusal.LINKED)
    assert isinstance(remove(home, Path("assets", ASSET[:2], ASSET), "…"), Removed)
    assert sorted(path.name for path in disk.iterdir()) == ["ab", "cc", "photos"]


def test_a_top_folder_that_leads_to_everything_loses_nothing_but_what_has_our_names(
    home: Path, elsewhere: Path
) -> None:
    """The worst link there is: somebody's whole home in the place of ours."""
    (home / "results").rename(home / "old")
    (home / "results").symlink_to(elsewhere)
    (elsewhere / "letters.json").write_text(PRECIOUS)
    try:
        for path in ("results/film.mp4", "results/letters.json", "results/source/film.mp4"):
            refused(remove(home, Path(path), "…"), RemovalRefusal.OUTSIDE)
    finally:
        (elsewhere / "letters.json").unlink()


def test_links_that_are_planted_while_a_tree_is_being_removed_lead_nowhere(home: Path, elsewhere: Path) -> None:
    """Folder and link change places as fast as they can, at the top of the tree and inside it."""
    stop = threading.Event()
    places = [home / "scratch" / KEY / "source", home / "scratch" / KEY, home / "assets" / "ab"]

    def plant() -> None:
        while not stop.is_set():
            for place in places:
                with contextlib.suppress(OSError):
                    place.symlink_to(elsewhere) if not place.exists() else None
                with contextlib.suppress(OSError):
                    if place.is_symlink():
                        place.unlink()
                    fill(place if place.name != "ab" else place / ASSET)

    planter = threading.Thread(target=plant)
    planter.start()
    removed = rounds = 0
    until = time.monotonic() + 120
    try:
        while (rounds < 400 or removed < 50) and time.monotonic() < until:
            rounds += 1
            for path in (
                f"scratch/{KEY}/source",
                f"scratch/{KEY}",
                f"assets/ab/{ASSET}",
                f"scratch/{KEY}/source/film.mp4",
            ):
                removed += isinstance(remove(home, Path(path), "…"), Removed)
    finally:
        stop.set()
        planter.join()
    assert removed >= 50, "the race was run"


# --- trouble ----------------------------------------------------------------------------------------


def test_another_volume_in_a_tree_is_not_entered(home: Path) -> None:
    inner = home / "scratch" / KEY / "source" / "disk"
    inner.mkdir()
    with mounted(inner):
        (inner / "film.mp4").write_text(PRECIOUS)
        result = remove(home, Path("scratch", KEY), "too old")
        refused(result, RemovalRefusal.MOUNTED)
        [film] = (home / "scratch").rglob("film.mp4")
        assert film.read_text() == PRECIOUS
        assert result.bytes >= 64 * 1024, "the rest went, and is told"
        assert not list((home / "scratch").rglob("film.part"))
        film.unlink()
        mount = film.parent
    assert isinstance(remove(home, next((home / "scratch").iterdir()), "left over"), Removed)
    assert not mount.exists()


def test_a_volume_in_the_place_of_a_thing_of_ours_is_not_touched(home: Path) -> None:
    folder = home / "scratch" / KEY
    with mounted(folder):
        (folder / "film.mp4").write_text(PRECIOUS)
        refused(remove(home, Path("scratch", KEY), "too old"), RemovalRefusal.MOUNTED)
        refused(remove(home, Path("scratch", KEY, "film.mp4"), "too old"), RemovalRefusal.MOUNTED)
        assert (folder / "film.mp4").read_text() == PRECIOUS
    assert (folder / "source" / "film.part").exists()


def test_a_store_that_cannot_be_written_refuses_and_loses_nothing(home: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk):
        fill(disk / KEY)
        before = everything_in(disk)
        (home / "scratch").rename(home / "old")
        (home / "scratch").symlink_to(disk)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        refused(remove(home, Path("scratch", KEY), "too old"), RemovalRefusal.FAILED)
        refused(remove(home, Path("scratch", KEY, "film.part"), "too old"), RemovalRefusal.FAILED)
        assert everything_in(disk) == before


def test_a_full_disk_is_no_obstacle(home: Path, small_volume: Path) -> None:
    fill(small_volume / KEY)
    (home / "scratch").rename(home / "old")
    (home / "scratch").symlink_to(small_volume)
    with (small_volume / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    assert isinstance(remove(home, Path("scratch", KEY), "too old"), Removed)
    assert [path.name for path in small_volume.iterdir()] == ["ballast"]


def test_nothing_stays_open(home: Path, elsewhere: Path) -> None:
    before = open_descriptors()
    (home / "assets" / "cc").symlink_to(elsewhere)
    for path in (f"scratch/{KEY}", f"assets/cc/{ASSET}", f"assets/ff/{ASSET}", f"results/{RECORD}", "../x"):
        remove(home, Path(path), "…")
    assert open_descriptors() == before


# --- a process that dies on the way -----------------------------------------------------------------


def test_a_tree_is_whole_or_set_aside_at_every_point_and_the_next_one_clears_the_rest(home: Path) -> None:
    folder, store = home / "assets" / ASSET[:2] / ASSET, home / "assets"

    def prepare() -> None:
        for left in leftovers(store, ("*.tmp",)):
            assert isinstance(remove(home, Path("assets", left), "left over"), Removed)
        assert leftovers(store, ("*.tmp",)) == []
        fill(folder)

    outcomes = set()
    for _ in crashes(lambda: remove(home, Path("assets", ASSET[:2], ASSET), "…") and None, prepare):
        there = sorted(path.name for path in folder.glob("*"))
        assert there in ([], ["film.journal", "film.part"]), "half of an asset under its address"
        outcomes.add((bool(there), bool(leftovers(store, ("*.tmp",)))))
    assert outcomes == {(True, False), (False, True), (False, False)}


def fill(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "film.part").write_bytes(b"x" * 64 * 1024)
    (folder / "film.journal").write_text("{}")


def blocks(path: Path) -> int:
    """What `du` says, in bytes."""
    return 1024 * int(subprocess.run(["du", "-sk", str(path)], capture_output=True, check=True).stdout.split()[0])


def everything_in(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused(removal: Removal, refusal: RemovalRefusal) -> None:
    assert isinstance(removal, NotRemoved), removal
    assert removal.refusal is refusal, removal


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """An empty volume at `folder`; skips visibly where one may not be mounted."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tidegate-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a mount needs root and the right to mount")
    device = folder.stat().st_dev
    try:
        yield
    finally:  # the folder may have another name by now
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for point in points:
            with contextlib.suppress(OSError):
                if Path(point).stat().st_dev == device:
                    subprocess.run(["umount", "-l", point], check=True)

"""Which paths a deployed run may use: by table, and with real links on a real disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tidegate.durable.roots import Folders, PathRefusal, Roots, folder_in_place, is_too_wide, real_path, refusal_reason
from tidegate.errors import PathRefused

HOME = Path("/home/you/.local/share/tidegate")
SERVED = Path("/home/you/tidegate")
ROOTS = (HOME, SERVED, Path("/srv/media"), Path("/home/you"), Path("/"))[:3]


@pytest.mark.parametrize(
    ("path", "roots", "why"),
    [
        ("/srv/media/film.mp4", ROOTS, None),
        ("/srv/media", ROOTS, None),
        ("/home/you/tidegate/in/film.mp4", ROOTS, None),
        (f"{HOME}/media/film.mp4", ROOTS, None),
        (f"{HOME}/films", ROOTS, None),
        ("/srv/media-of-others/film.mp4", ROOTS, PathRefusal.OUTSIDE),
        ("/srv", ROOTS, PathRefusal.OUTSIDE),
        ("/etc/shadow", ROOTS, PathRefusal.OUTSIDE),
        ("/proc/self/environ", ROOTS, PathRefusal.OUTSIDE),
        ("/home/you/.ssh/id_rsa", ROOTS, PathRefusal.OUTSIDE),
        # A root that lies above them does not reach into what is hidden, or the system's; one inside them does.
        ("/home/you/.ssh/id_rsa", [Path("/home/you")], PathRefusal.HIDDEN),
        ("/home/you/.config/autostart", [Path("/home/you")], PathRefusal.HIDDEN),
        ("/home/you/tidegate/.env", ROOTS, PathRefusal.HIDDEN),
        ("/home/you/.films/a.mp4", [Path("/home/you/.films")], None),
        ("/home/you/.films/.a.mp4", [Path("/home/you/.films")], PathRefusal.HIDDEN),
        ("/home/you/.films/a.mp4", [Path("/home/you"), Path("/home/you/.films")], None),
        ("/etc/shadow", [Path("/")], PathRefusal.SYSTEM),
        ("/proc/1/environ", [Path("/")], PathRefusal.SYSTEM),
        ("/dev/sda", [Path("/")], PathRefusal.SYSTEM),
        ("/etc/films/a.mp4", [Path("/etc/films")], None),
        ("/mnt/a.mp4", [Path("/")], None),
        # What Tidegate keeps for itself, whoever allows it.
        *((f"{HOME}/{own}", [HOME, Path("/"), HOME / "secrets"], PathRefusal.OWN) for own in (
            "secrets/0123456789abcdef.json", "secrets", "ledger.db", "ledger.db-wal", "ledger.db-journal",
            "server.password", ".server.password.1f.tmp", "server.json", "server.log", "serve.lock", "logs/worker.log",
            "results/a", "assets/ab/abc/source", "scratch", "SECRETS/0123456789abcdef.json", "Ledger.DB", "",
        )),
    ],
)  # fmt: skip
def test_a_path_is_judged_by_its_place(path: str, roots: tuple[Path, ...], why: PathRefusal | None) -> None:
    assert refusal_reason(Path(path), roots, [HOME]) is why


def test_only_the_root_of_all_folders_says_nothing() -> None:
    assert is_too_wide(Path("/")) and not is_too_wide(Path("/srv"))


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A root with a film in it, and a secret beside it."""
    (tmp_path / "allowed" / "in").mkdir(parents=True)
    (tmp_path / "allowed" / "in" / "film.mp4").write_bytes(b"film")
    (tmp_path / "home").mkdir()
    (tmp_path / "id_rsa").write_bytes(b"secret")
    return tmp_path


def roots_in(disk: Path, used: Folders | None = None) -> Roots:
    return Roots((disk / "allowed",), (disk / "home",), (Path("/srv/films"),), lambda: used or Folders())


def test_links_and_dots_are_followed_before_a_path_is_judged(disk: Path) -> None:
    roots = roots_in(disk)
    (disk / "allowed" / "in" / "link.mp4").symlink_to("film.mp4")
    (disk / "allowed" / "out.mp4").symlink_to(disk / "id_rsa")
    (disk / "allowed" / "up").symlink_to("..")
    (disk / "beside").symlink_to(disk / "allowed")
    for good in ("allowed/in/film.mp4", "allowed/in/link.mp4", "beside/in/film.mp4", "allowed/up/allowed/in/film.mp4"):
        roots.require_readable(disk / good)
        roots.require_readable(Path(f"/{disk / good}"))
    for bad in (
        "allowed/out.mp4",
        "allowed/up/id_rsa",
        "allowed/../id_rsa",
        "allowed/in/../../id_rsa",
        "id_rsa",
        "nothing-here",
    ):
        with pytest.raises(PathRefused):
            roots.require_readable(disk / bad)
        with pytest.raises(PathRefused):
            roots.require_writable(disk / bad)


def test_the_refusal_prints_the_whole_line_with_what_is_set_already(disk: Path) -> None:
    (disk / "a b:c").mkdir()
    (disk / "a b").mkdir()
    (disk / "allowed" / "link").symlink_to(disk / "a b")
    for asked, line in {
        disk / "id_rsa": f"TIDEGATE_ROOTS=/srv/films:{disk}",
        disk / "allowed" / "link" / "film.mp4": f"TIDEGATE_ROOTS='/srv/films:{disk}/a b'",
        disk / "a b:c" / "film.mp4": f"TIDEGATE_ROOTS=/srv/films:{disk}",
    }.items():
        with pytest.raises(PathRefused) as refused:
            roots_in(disk).require_readable(asked)
        assert refused.value.message.endswith(f"To allow it: {line}")
    with pytest.raises(PathRefused) as refused:
        roots_in(disk).require_writable(disk / "a b")
    assert refused.value.message.endswith(f"TIDEGATE_ROOTS='/srv/films:{disk}/a b'")


def test_what_tidegate_keeps_for_itself_has_no_line_that_would_allow_it(disk: Path) -> None:
    for own in ("secrets/a.json", "ledger.db", "."):
        with pytest.raises(PathRefused) as refused:
            Roots((disk,), (disk / "home",), (disk / "home",)).require_readable(disk / "home" / own)
        assert "TIDEGATE_ROOTS" not in refused.value.message + refused.value.hint


def test_folders_that_were_used_are_asked_for_last_and_sources_are_only_read(disk: Path) -> None:
    asked = []

    def used() -> Folders:
        asked.append(1)
        return Folders(readable=(disk / "watched", disk / "out"), writable=(disk / "out",))

    roots = Roots((disk / "allowed",), (disk / "home",), used=used)
    roots.require_readable(disk / "allowed" / "in" / "film.mp4")
    assert asked == []
    roots.require_readable(disk / "watched" / "film.mp4")
    roots.require_writable(disk / "out")
    with pytest.raises(PathRefused):
        roots.require_writable(disk / "watched")


def test_a_used_folder_that_was_swapped_for_a_link_counts_no_more(disk: Path) -> None:
    out = disk / "out"
    assert folder_in_place(out, "film-1fde2049") == out, "nothing there any more is no harm"
    out.symlink_to(disk / "allowed")
    assert folder_in_place(out, "film-1fde2049") is None, "a link, to where that run has published nothing"
    (disk / "allowed" / "film-1fde2049").symlink_to(disk)
    assert folder_in_place(out, "film-1fde2049") is None
    (disk / "allowed" / "film-1fde2049").unlink()
    (disk / "allowed" / "film-1fde2049").mkdir()
    assert folder_in_place(out, "film-1fde2049") == disk / "allowed", "a link that was there already: somebody's NAS"


def test_a_file_that_was_swapped_for_a_link_is_judged_by_what_was_opened(disk: Path) -> None:
    film = disk / "allowed" / "in" / "film.mp4"
    roots = roots_in(disk)
    good = os.open(film, os.O_RDONLY)
    bad = os.open(disk / "id_rsa", os.O_RDONLY)
    try:
        roots.require_same(good, film)
        with pytest.raises(PathRefused):
            roots.require_same(bad, film)
        film.unlink()
        roots.require_same(good, film)
    finally:
        os.close(good)
        os.close(bad)


def test_a_loop_of_links_is_judged_like_any_other_name(disk: Path) -> None:
    (disk / "allowed" / "loop").symlink_to("loop")
    roots_in(disk).require_readable(disk / "allowed" / "loop")
    assert real_path(disk / "allowed" / "loop") == disk / "allowed" / "loop"

"""Files and folders are there whole or not at all, also on a full disk."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.support.leaks import open_descriptors
from tidegate.durable import atomic
from tidegate.durable.atomic import copy_file, swap_in, temporary_sibling, write_atomic, write_public
from tidegate.errors import DiskFull, TidegateError

BIG = os.urandom(1024 * 1024)


def below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def made(folder: Path, **files: bytes) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_small_file_is_written_into_folders_that_are_made_for_it(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "b" / "note.json", b"{}")
    assert below(tmp_path) == {"a/b/note.json": b"{}"}


def test_a_file_is_replaced_and_whoever_has_the_old_one_open_still_reads_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    write_atomic(path, b"old")
    with path.open("rb") as reader:
        write_atomic(path, b"new and longer")
        assert reader.read() == b"old"
    assert below(tmp_path) == {"note.json": b"new and longer"}


def test_a_file_is_its_owners_alone_and_a_published_one_is_as_the_umask_says(tmp_path: Path) -> None:
    write_atomic(tmp_path / "kept" / "note", b"x")
    write_public(tmp_path / "shown" / "note", b"x")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("kept", "kept/note", "shown", "shown/note")]
    assert modes == [0o700, 0o600, 0o777 & ~umask(), 0o666 & ~umask()]


def test_a_full_disk_keeps_the_old_content_and_leaves_nothing_else(small_volume: Path) -> None:
    write_atomic(small_volume / "note", b"old")
    descriptors = open_descriptors()
    with pytest.raises(DiskFull, match="writing note"):
        write_atomic(small_volume / "note", BIG)
    assert below(small_volume) == {"note": b"old"}
    assert open_descriptors() == descriptors


def test_a_folder_in_the_way_is_a_failure_of_ours_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "note").mkdir()
    with pytest.raises(TidegateError, match="writing note"):
        write_atomic(tmp_path / "note", b"x")
    assert list(tmp_path.iterdir()) == [tmp_path / "note"]


def test_a_copy_is_byte_for_byte_equal_and_no_hard_link(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(BIG)
    copy_file(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two").read_bytes() == BIG
    (tmp_path / "two").write_bytes(b"edited")
    assert (tmp_path / "one").read_bytes() == BIG


def test_a_copy_never_overwrites(tmp_path: Path) -> None:
    made(tmp_path / "f", one=b"1", two=b"2")
    with pytest.raises(FileExistsError):
        copy_file(tmp_path / "f" / "one", tmp_path / "f" / "two")
    assert below(tmp_path / "f") == {"one": b"1", "two": b"2"}


def test_a_copy_that_fills_the_disk_leaves_nothing(small_volume: Path, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(BIG)
    with pytest.raises(OSError, match="No space"):
        copy_file(tmp_path / "one", small_volume / "two")
    assert list(small_volume.iterdir()) == []


def test_a_folder_is_swapped_in_where_there_was_none(tmp_path: Path) -> None:
    swap_in(made(tmp_path / "prepared", film=b"1"), tmp_path / "film")
    assert below(tmp_path) == {"film/film": b"1"}


def test_a_folder_takes_the_place_of_another_whole_and_the_old_one_is_gone(tmp_path: Path) -> None:
    target = made(tmp_path / "film", film=b"old", err=b"old only")
    swap_in(made(temporary_sibling(target), film=b"new"), target)
    assert below(tmp_path) == {"film/film": b"new"}
    assert list(tmp_path.iterdir()) == [target]


def test_where_names_cannot_be_exchanged_the_result_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file system without RENAME_EXCHANGE is not to be had here: its answer is given in its place.
    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    target = made(tmp_path / "film", film=b"old")
    swap_in(made(temporary_sibling(target), film=b"new"), target)
    assert below(tmp_path) == {"film/film": b"new"}
    assert list(tmp_path.iterdir()) == [target]


def test_a_temporary_name_lies_beside_its_target_hidden_and_never_twice_the_same(tmp_path: Path) -> None:
    one, two = (temporary_sibling(tmp_path / "film.mp4") for _ in range(2))
    assert one != two and one.parent == two.parent == tmp_path
    assert one.name.startswith(".") and one.suffix == ".tmp"


def umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask

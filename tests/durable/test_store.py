"""An asset in the store is whole, or it is known not to be; it is never half there."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from tidegate.durable.store import MANIFEST, AssetStore, describe
from tidegate.errors import DiskFull, StoreUnavailable
from tidegate.model import Asset


@pytest.fixture
def store(tmp_path: Path) -> AssetStore:
    return AssetStore(tmp_path / "assets")


def files(folder: Path, **contents: bytes) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    made = {f"{name}.bin": folder / f"{name}.made" for name in contents}
    for path, content in zip(made.values(), contents.values(), strict=True):
        path.write_bytes(content)
    return made


def put(store: AssetStore, tmp_path: Path, **contents: bytes) -> Asset:
    return store.put(files(tmp_path / "made", **contents))


def overwrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def test_what_is_put_is_whole_and_lies_where_its_address_says(store: AssetStore, tmp_path: Path) -> None:
    asset = put(store, tmp_path, film=b"film", words=b"words")
    assert store.whole(asset)
    assert store.path(asset).read_bytes() == b"film"
    assert store.path(asset, asset.tracks[1]).read_bytes() == b"words"
    address = asset.address.removeprefix("blake3:")
    assert store.folder(asset) == store.root / address[:2] / address
    assert json.loads((store.folder(asset) / MANIFEST).read_text()) == [t.model_dump() for t in asset.tracks]


def test_files_are_moved_in_and_no_temporary_folder_stays(store: AssetStore, tmp_path: Path) -> None:
    asset = put(store, tmp_path, film=b"film")
    assert list((tmp_path / "made").iterdir()) == []
    assert list(store.folder(asset).parent.iterdir()) == [store.folder(asset)]


def test_the_same_content_has_the_same_address_and_any_difference_another(store: AssetStore, tmp_path: Path) -> None:
    first = put(store, tmp_path, film=b"film", words=b"w")
    assert put(store, tmp_path, film=b"film", words=b"w") == first
    others = [
        put(store, tmp_path, film=b"filn", words=b"w"),
        put(store, tmp_path, movie=b"film", words=b"w"),
        put(store, tmp_path, words=b"w", film=b"film"),
        put(store, tmp_path, film=b"film"),
    ]
    assert len({asset.address for asset in [first, *others]}) == 5


def test_putting_what_is_there_already_changes_nothing(store: AssetStore, tmp_path: Path) -> None:
    asset = put(store, tmp_path, film=b"film")
    before = store.path(asset).stat()
    put(store, tmp_path, film=b"film")
    assert os.path.samestat(store.path(asset).stat(), before)
    assert list(store.folder(asset).parent.iterdir()) == [store.folder(asset)]


@pytest.mark.parametrize("place", [0, 50_000, 99_999])
def test_one_flipped_byte_anywhere_makes_an_asset_not_whole(place: int, store: AssetStore, tmp_path: Path) -> None:
    content = bytearray(os.urandom(100_000))
    asset = put(store, tmp_path, film=bytes(content))
    content[place] ^= 1
    overwrite(store.path(asset), bytes(content))
    assert not store.whole(asset)


def test_a_missing_a_short_and_a_grown_track_make_an_asset_not_whole(store: AssetStore, tmp_path: Path) -> None:
    for damage in (Path.unlink, lambda path: overwrite(path, b"word"), lambda path: overwrite(path, b"words!")):
        asset = put(store, tmp_path, film=b"film", words=b"words")
        assert store.whole(asset)
        damage(store.path(asset, asset.tracks[1]))
        assert not store.whole(asset)


def test_an_asset_that_was_never_put_is_not_whole(store: AssetStore, tmp_path: Path) -> None:
    assert not store.whole(describe(files(tmp_path / "made", film=b"film")))


def test_a_damaged_asset_is_replaced_by_the_next_put_of_the_same_content(store: AssetStore, tmp_path: Path) -> None:
    asset = put(store, tmp_path, film=b"film", words=b"words")
    overwrite(store.path(asset), b"FILM")
    store.path(asset, asset.tracks[1]).unlink()
    assert put(store, tmp_path, film=b"film", words=b"words") == asset
    assert store.whole(asset)
    assert list(store.folder(asset).parent.iterdir()) == [store.folder(asset)]


def test_tracks_may_be_written_by_nobody_and_read_by_their_owner(store: AssetStore, tmp_path: Path) -> None:
    asset = put(store, tmp_path, film=b"film", words=b"words")
    modes = [stat.S_IMODE(store.path(asset, track).stat().st_mode) for track in asset.tracks]
    assert modes == [0o400, 0o400]


def test_an_asset_survives_json(store: AssetStore, tmp_path: Path) -> None:
    asset = put(store, tmp_path, film=b"film")
    assert store.whole(Asset.model_validate_json(asset.model_dump_json()))


def test_a_file_that_cannot_be_read_is_a_failure_of_ours(store: AssetStore, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="hashing an asset"):
        store.put({"film.bin": tmp_path / "absent"})
    assert not store.root.exists()


def test_a_full_disk_is_told_and_no_half_asset_lies_under_its_address(small_volume: Path) -> None:
    store = AssetStore(small_volume / "assets")
    made = files(small_volume / "made", film=b"film")
    asset = describe(made)
    filler = small_volume / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(1024 * 1024))
    with pytest.raises(DiskFull, match="storing an asset"):
        store.place(asset, made)
    assert not store.folder(asset).exists()
    filler.unlink()
    assert store.whole(store.put(files(small_volume / "made", film=b"film")))

"""What a killed process was filling is cleared away by the next one; what a living one fills is not."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.support.forked import Pipe, forked
from tidegate.durable.store import AssetStore, describe
from tidegate.durable.unfinished import clear_leftovers, prepare_folder


def filling(target: Path, pipe: Pipe) -> None:
    with prepare_folder(target) as folder:
        (folder / "film").write_bytes(b"half")
        pipe.say(folder)
        pipe.hear()


def test_a_folder_of_a_living_process_stays_and_that_of_a_killed_one_goes(tmp_path: Path) -> None:
    with forked(lambda pipe: filling(tmp_path / "film", pipe)) as child:
        folder = Path(child.hear())
        clear_leftovers(tmp_path)
        assert (folder / "film").read_bytes() == b"half"
        child.send(signal.SIGKILL)
        child.wait()
        clear_leftovers(tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_only_unfinished_folders_go(tmp_path: Path) -> None:
    (tmp_path / "film").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".note.tmp").write_text("a file")
    (tmp_path / ".link.tmp").symlink_to(tmp_path / "film")
    clear_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"film", ".hidden", ".note.tmp", ".link.tmp"}


def test_storing_clears_what_a_killed_run_left_beside_the_asset(tmp_path: Path) -> None:
    store, film = AssetStore(tmp_path / "assets"), tmp_path / "film.mp4"
    film.write_bytes(b"film")
    shard = store.folder(describe({"media.mp4": film})).parent
    shard.mkdir(parents=True)
    with (
        forked(lambda pipe: filling(shard / "other", pipe)) as living,
        forked(lambda pipe: filling(shard / "another", pipe)) as killed,
    ):
        kept, gone = Path(living.hear()), Path(killed.hear())
        killed.send(signal.SIGKILL)
        killed.wait()
        asset = store.put({"media.mp4": film})
        assert store.whole(asset)
        assert (kept.exists(), gone.exists()) == (True, False)

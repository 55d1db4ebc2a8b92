"""A process that dies before any of its system calls: what a reader and the next run find then.

Each case runs in a fork that ends by `os._exit` when Python is about to make its nth call to the outside (a profile
function counts them), for every n until the work gets through. Nothing is imitated; only the moment of death is chosen.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import FrameType

import pytest

from tests.support.leaks import leftovers
from tidegate.durable.atomic import swap_in, write_atomic
from tidegate.durable.store import AssetStore, describe
from tidegate.errors import DiskFull
from tidegate.model import Identity
from tidegate.settings import TransferSettings
from tidegate.transfer.file.part import Part

OUTSIDE = frozenset({"posix", "fcntl", "_io", "io"})
"""Modules whose functions, and whose files' methods, reach the operating system."""
CRASHED, DONE = 99, 0


def crashes(work: Callable[[], None], prepare: Callable[[], None]) -> Iterator[int]:
    """Prepare and run the work again and again, dying before its first call, its second, and so on to its end."""
    for number in count():
        prepare()
        code = ended_before(number, work)
        assert code in (CRASHED, DONE), f"the work itself failed when it was to die before call {number}"
        yield number
        if code == DONE:
            assert number >= 3, "the hook saw nothing of the work"
            return


def ended_before(number: int, work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        seen = 0

        def die_at_last(frame: FrameType, event: str, called: object) -> None:
            nonlocal seen
            if event == "c_call" and reaches_outside(called):
                if seen == number:
                    os._exit(CRASHED)
                seen += 1

        try:
            sys.setprofile(die_at_last)
            work()
            os._exit(DONE)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def reaches_outside(called: object) -> bool:
    of_a_file = isinstance(getattr(called, "__self__", None), io.IOBase)
    return of_a_file or getattr(called, "__module__", None) in OUTSIDE


def results(folder: Path) -> set[str]:
    """Names that somebody could take for a result."""
    return {path.name for path in folder.iterdir() if not path.name.endswith(".tmp")}


def test_a_file_is_the_old_or_the_new_one_at_every_point(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    found = set()
    for _ in crashes(lambda: write_atomic(path, b"new" * 1000), lambda: path.write_bytes(b"old") and None):
        found.add(path.read_bytes())
        assert results(tmp_path) == {"journal"}
    assert found == {b"old", b"new" * 1000}


def test_a_folder_is_the_old_or_the_new_one_at_every_point(tmp_path: Path) -> None:
    target, prepared = tmp_path / "film-0a", tmp_path / ".film-0a.1234.tmp"

    def prepare() -> None:
        for folder, text in ((target, "old"), (prepared, "new")):
            folder.mkdir(exist_ok=True)
            for name in ("film.mp4", "report.json"):
                (folder / name).write_text(text)

    found = set()
    for _ in crashes(lambda: swap_in(prepared, target), prepare):
        texts = {path.read_text() for path in target.iterdir()}
        assert len(texts) == 1 and len(list(target.iterdir())) == 2, "a mixture"
        assert results(tmp_path) == {"film-0a"}
        found |= texts
    assert found == {"old", "new"}


def test_an_asset_is_there_whole_or_not_at_all_at_every_point(tmp_path: Path) -> None:
    store, made = AssetStore(tmp_path / "assets"), tmp_path / "film.mp4"
    made.write_bytes(b"film" * 1000)
    asset = describe({"media.mp4": made})

    def prepare() -> None:
        made.write_bytes(b"film" * 1000)
        folder = store.folder(asset)
        if folder.exists():
            folder.rename(tmp_path / f"gone-{len(list(tmp_path.iterdir()))}")

    for _ in crashes(lambda: store.put({"media.mp4": made}) and None, prepare):
        assert store.whole(asset) == store.folder(asset).exists()
        made.write_bytes(b"film" * 1000)
        assert store.put({"media.mp4": made}) == asset
        assert store.whole(asset), "what a crash left keeps nobody from storing it again"


def test_a_part_never_claims_a_byte_that_is_not_its_own_at_any_point(tmp_path: Path) -> None:
    identity = Identity(url="http://origin/film.mp4", name="film.mp4", size_bytes=3000, etag='"one"', ranges=True)
    limits = TransferSettings(checkpoint_bytes=1000)
    whole = bytes(range(250)) * 12

    def work() -> None:
        part = Part.open(tmp_path, identity, limits)
        while part.received_bytes < len(whole):
            part.write(whole[part.received_bytes :][:300], now=0.0)
        part.finish(end_is_certain=True)
        part.close()

    def forget() -> None:
        for path in tmp_path.iterdir():
            path.unlink()

    reached = set()
    for _ in crashes(work, forget):
        part = Part.open(tmp_path, identity, limits)
        assert part.read(0, 3000) == whole[: part.received_bytes]
        assert not part.complete or part.received_bytes == len(whole)
        reached.add(part.received_bytes)
        part.close()
    assert {0, len(whole)} < reached


def test_a_disk_that_is_full_at_the_last_moment_leaves_the_bytes_where_they_were(small_volume: Path) -> None:
    """Only the manifest does not fit any more; the film was fetched for hours."""
    film = small_volume / "film.mp4"
    store = AssetStore(small_volume / "assets")
    with film.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"film" * 1024):
            pass
    size = film.stat().st_size
    with pytest.raises(DiskFull):
        store.put({"media.mp4": film})
    assert film.stat().st_size == size
    assert leftovers(store.root, ("*.tmp",)) == []

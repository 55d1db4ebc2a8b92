"""Blocks on their way to the disk, by one thread or two: none is lost, none changed, and no failure is passed over."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from pathlib import Path

import pytest

from tests.support.disks import volume
from tests.support.origin import Origin, Resource, Synthetic
from tests.transfer.test_fetch import downloads, fetched
from tidegate.errors import DiskFull
from tidegate.settings import TransferSettings
from tidegate.transfer import settle
from tidegate.transfer.settle import BLOCK_BYTES, BLOCKS_AHEAD, Settling

MIB = 1024 * 1024


class Disk:
    """Takes blocks, refuses the one at `full_at`, and waits for `gate` before each."""

    def __init__(self, full_at: int | None = None) -> None:
        self.held = bytearray()
        self.full_at = full_at
        self.gate = threading.Event()
        self.gate.set()
        self.threads: set[int] = set()

    def settle(self, position: int, block: memoryview) -> None:
        self.gate.wait()
        self.threads.add(threading.get_ident())
        if position == self.full_at:
            raise OSError("full")
        assert position == len(self.held), "in their order"
        self.held += block


def passed(whole: bytes, disk: Disk, beside_from: int, broken: threading.Event, sizes: random.Random) -> None:
    """What a reading thread does, in blocks of any size; from `beside_from` on with a second thread."""
    at = 0
    with Settling(disk.settle, broken.set) as settling:
        while at < len(whole):
            if at >= beside_from and not settling.beside:
                settling.go_beside()
            block = settling.block()
            count = min(sizes.randint(1, BLOCK_BYTES), len(whole) - at)
            block[:count] = whole[at : at + count]
            settling.give(at, block, count)
            at += count


@pytest.mark.parametrize("seed", range(20))
def test_what_was_given_is_settled_when_it_is_left(seed: int) -> None:
    draw = random.Random(seed)
    whole, disk = draw.randbytes(12 * BLOCK_BYTES), Disk()
    passed(whole, disk, draw.choice([0, 3 * BLOCK_BYTES, len(whole)]), threading.Event(), draw)
    assert disk.held == whole


def test_a_second_thread_settles_once_it_is_asked_to() -> None:
    whole, disk = random.Random(1).randbytes(12 * BLOCK_BYTES), Disk()
    passed(whole, disk, 4 * BLOCK_BYTES, threading.Event(), random.Random(1))
    assert len(disk.threads) == 2 and threading.get_ident() in disk.threads
    assert not [one for one in threading.enumerate() if one.name == "settle"], "it is gone"


@pytest.mark.parametrize("beside_from", [0, 100 * BLOCK_BYTES])
def test_a_disk_that_refuses_is_told_to_the_reader(beside_from: int) -> None:
    whole, broken = bytes(40 * BLOCK_BYTES), threading.Event()
    with pytest.raises(OSError, match="full"):
        passed(whole, Disk(full_at=0), beside_from, broken, random.Random(2))
    assert broken.is_set() == (beside_from == 0), "a read that waits is ended, where another thread is reading"


def test_the_failure_of_the_last_block_is_no_success() -> None:
    disk = Disk(full_at=BLOCK_BYTES)
    with pytest.raises(OSError, match="full"), Settling(disk.settle, lambda: None) as settling:
        settling.go_beside()
        for position in (0, BLOCK_BYTES):
            settling.give(position, settling.block(), BLOCK_BYTES)


def test_a_cancellation_stays_one_although_the_disk_refuses() -> None:
    disk = Disk(full_at=0)
    with pytest.raises(asyncio.CancelledError), Settling(disk.settle, lambda: None) as settling:
        settling.go_beside()
        settling.give(0, settling.block(), 1)
        raise asyncio.CancelledError


def test_no_more_than_so_much_waits_for_a_slow_disk() -> None:
    disk = Disk()
    disk.gate.clear()
    with Settling(disk.settle, lambda: None) as settling:
        settling.go_beside()
        for number in range(BLOCKS_AHEAD + 1):
            settling.give(number, settling.block(), 1)
        waiting = threading.Thread(target=settling.block, daemon=True)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive(), "no block is free"
        disk.gate.set()
        waiting.join(5)
        assert not waiting.is_alive()
    assert len(disk.held) == BLOCKS_AHEAD + 1


# --- in a transfer -----------------------------------------------------------------------------------------------


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> list[Settling]:
    """Who has gone beside."""
    went: list[Settling] = []
    go = settle.Settling.go_beside
    monkeypatch.setattr(settle.Settling, "go_beside", lambda self: (went.append(self), go(self)))
    return went


@pytest.mark.usefixtures("nothing_left")
def test_a_fast_line_takes_a_second_thread_and_what_it_brings_is_whole(tmp_path: Path, beside: list[Settling]) -> None:
    film = Synthetic(96 * MIB, seed=3)
    with Origin({"clip.mp4": Resource(film, story="40M drop, ok")}) as origin:
        result = fetched(origin, tmp_path, TransferSettings(backoff_base=0.05, connections=1))
        ranges = [request.range for request in downloads(origin)]
    assert result.failure is None
    assert hashlib.sha256(result.bytes).digest() == hashlib.sha256(film.read(0, film.size)).digest()
    assert len(beside) == 2, "in both tries"
    assert ranges == [None, f"bytes={40 * MIB}-"], "all that came before the drop was settled"


@pytest.mark.usefixtures("nothing_left")
def test_a_slow_line_needs_none(tmp_path: Path, beside: list[Settling]) -> None:
    with Origin({"clip.mp4": Resource(Synthetic(24 * MIB, seed=3), story="throttle 12M")}) as origin:
        assert fetched(origin, tmp_path, TransferSettings(connections=1)).failure is None
    assert beside == []


@pytest.mark.usefixtures("nothing_left")
def test_a_disk_that_is_full_behind_the_line_is_the_failure(tmp_path: Path, beside: list[Settling]) -> None:
    film = Synthetic(96 * MIB, seed=3)
    with (
        Origin({"clip.mp4": Resource(film, story="no-length")}) as origin,
        volume(tmp_path / "disk", "size=40m") as disk,
    ):
        result = fetched(origin, disk, TransferSettings(connections=1, tries=1))
        assert isinstance(result.failure, DiskFull) and beside
        left = result.bytes
    assert left and left == film.read(0, len(left))

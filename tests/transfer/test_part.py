"""The part and its journal after every kind of crash: never a byte more than the journal vouches for.

A crash is a real one: a child of this process writes and ends by `os._exit` at the named point.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from tests.support.disks import volume
from tests.support.leaks import open_descriptors
from tidegate.errors import DiskFull
from tidegate.events import Event, Note, ignore_events
from tidegate.model import Identity
from tidegate.settings import TransferSettings
from tidegate.transfer.file.part import UNHURRIED_BYTES, UNHURRIED_SECONDS, Part, open_part

KIB = 1024
IDENTITY = Identity(url="http://origin/clip.mp4", name="clip.mp4", size_bytes=1000 * KIB, etag='"one"', ranges=True)
OTHER = IDENTITY.model_copy(update={"etag": '"two"'})
LIMITS = TransferSettings(checkpoint_bytes=64 * KIB, checkpoint_interval=timedelta(hours=1))


def opened(folder: Path, identity: Identity = IDENTITY) -> Part:
    return Part.open(folder, identity, LIMITS)


def in_a_process_that_crashes(work: Callable[[], None]) -> None:
    """Run it in a child that ends without any cleanup."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def journal(folder: Path) -> Path:
    return folder / "source.journal"


def left_by(folder: Path, *, journaled: bytes, beyond: bytes = b"") -> None:
    """A part as a crashed process left it: some bytes journaled, some only written."""

    def work() -> None:
        part = opened(folder)
        part.write(journaled, now=0.0)
        part.checkpoint()
        part._checkpointed_at = 1.0
        part.write(beyond, now=1.0)

    in_a_process_that_crashes(work)


def test_a_part_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    left_by(tmp_path, journaled=b"a" * 1000)
    part = opened(tmp_path)
    assert (part.received_bytes, part.complete) == (1000, False)
    part.write(b"b" * 10, now=0.0)
    part.close()
    assert part.path.read_bytes() == b"a" * 1000 + b"b" * 10


def test_bytes_beyond_the_journal_are_cut_off(tmp_path: Path) -> None:
    """They were written, but nothing says that they were synced: the disk may hold anything there."""
    left_by(tmp_path, journaled=b"a" * 1000, beyond=b"?" * 500)
    assert (tmp_path / "source.part").stat().st_size == 1500
    part = opened(tmp_path)
    assert part.received_bytes == 1000
    assert part.path.stat().st_size == 1000
    part.close()


def test_a_journal_that_promises_more_than_the_disk_holds_is_not_believed(tmp_path: Path) -> None:
    left_by(tmp_path, journaled=b"a" * 1000)
    os.truncate(tmp_path / "source.part", 999)
    part = opened(tmp_path)
    assert (part.received_bytes, part.path.stat().st_size) == (0, 0)
    part.close()


@pytest.mark.parametrize(
    "torn", [b"", b"{", b"null", b"[]", b"\xff\xfe\x00", b'{"identity": {}}', b'{"received_bytes": 1000}']
)
def test_a_torn_journal_means_begin_at_zero(torn: bytes, tmp_path: Path) -> None:
    left_by(tmp_path, journaled=b"a" * 1000)
    journal(tmp_path).write_bytes(torn)
    part = opened(tmp_path)
    assert (part.received_bytes, part.path.stat().st_size) == (0, 0)
    part.close()


def test_every_cut_of_a_journal_means_begin_at_zero(tmp_path: Path) -> None:
    left_by(tmp_path, journaled=b"a" * 1000)
    whole = journal(tmp_path).read_bytes()
    for length in range(0, len(whole), 7):
        journal(tmp_path).write_bytes(whole[:length])
        part = opened(tmp_path)
        assert part.received_bytes == 0
        part.close()


def test_a_lost_journal_means_begin_at_zero(tmp_path: Path) -> None:
    left_by(tmp_path, journaled=b"a" * 1000)
    journal(tmp_path).unlink()
    part = opened(tmp_path)
    assert part.received_bytes == 0
    part.close()


def test_a_journal_one_checkpoint_behind_costs_only_that_checkpoint(tmp_path: Path) -> None:
    left_by(tmp_path, journaled=b"a" * 1000)
    behind = journal(tmp_path).read_bytes()
    part = opened(tmp_path)
    part.write(b"b" * 1000, now=0.0)
    part.checkpoint()
    part.close()
    journal(tmp_path).write_bytes(behind)
    part = opened(tmp_path)
    assert part.received_bytes == 1000
    assert part.read(0, 2000) == b"a" * 1000
    part.close()


@pytest.mark.parametrize(
    "change", [{"etag": '"two"'}, {"size_bytes": 5}, {"url": "http://origin/other.mp4"}, {"etag": None}]
)
def test_another_identity_never_continues_these_bytes(change: dict[str, object], tmp_path: Path) -> None:
    left_by(tmp_path, journaled=b"a" * 1000)
    part = opened(tmp_path, IDENTITY.model_copy(update=change))
    assert (part.received_bytes, part.path.stat().st_size) == (0, 0)
    part.close()


def test_coming_back_to_the_first_identity_does_not_bring_its_bytes_back(tmp_path: Path) -> None:
    left_by(tmp_path, journaled=b"a" * 1000)
    for identity in (OTHER, IDENTITY):
        part = opened(tmp_path, identity)
        assert part.received_bytes == 0
        part.close()


def test_a_part_is_journaled_after_enough_bytes_and_after_enough_time(tmp_path: Path) -> None:
    limits = LIMITS.model_copy(update={"checkpoint_interval": timedelta(seconds=10)})
    part = Part.open(tmp_path, IDENTITY, limits)
    part.checkpoint(now=100.0)

    def journaled_after(size: int, now: float) -> int:
        part.write(bytes(size), now)
        received: int = json.loads(journal(tmp_path).read_text())["received_bytes"]
        return received

    assert journaled_after(KIB, 101.0) == 0
    assert journaled_after(KIB, 110.0) == 2 * KIB
    assert journaled_after(63 * KIB, 111.0) == 2 * KIB
    assert journaled_after(KIB, 112.0) == 66 * KIB
    part.close()


def test_a_source_that_leaves_time_is_journaled_more_often(tmp_path: Path) -> None:
    part = Part.open(tmp_path, IDENTITY, TransferSettings())
    part.checkpoint(now=0.0)
    part.write(bytes(UNHURRIED_BYTES - 1), 0.0)
    assert not part.checkpoint_is_due(UNHURRIED_SECONDS), "a slow one that brought little"
    part.write(b"1", UNHURRIED_SECONDS / 2)
    assert not part.checkpoint_is_due(UNHURRIED_SECONDS / 2), "a fast one: more at once costs less"
    assert part.checkpoint_is_due(UNHURRIED_SECONDS)
    part.close()


def test_a_complete_part_stays_complete(tmp_path: Path) -> None:
    part = opened(tmp_path)
    part.write(b"a" * 10, now=0.0)
    part.finish(end_is_certain=True)
    part.close()
    part = opened(tmp_path)
    assert (part.complete, part.end_is_certain, part.received_bytes) == (True, True, 10)
    part.close()


def test_a_restart_is_durable_before_other_bytes_come(tmp_path: Path) -> None:
    left_by(tmp_path, journaled=b"a" * 1000)

    def restart_and_crash() -> None:
        part = opened(tmp_path)
        part.restart()
        os.pwrite(part._file, b"b" * 1000, 0)

    in_a_process_that_crashes(restart_and_crash)
    part = opened(tmp_path)
    assert part.received_bytes == 0
    part.close()


# --- what nothing but its age speaks for -----------------------------------------------------------

BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
BARE = IDENTITY.model_copy(update={"etag": None})


def begun_and_reopened(folder: Path, identity: Identity, later: timedelta) -> Part:
    """A part of 1000 bytes, opened again by a run that begins so much later and trusts it for an hour."""
    part = Part.open(folder, identity, LIMITS, now=BEGUN)
    part.write(b"a" * 1000, now=0.0)
    part.checkpoint()
    part.close()
    return Part.open(folder, identity, LIMITS, trust=timedelta(hours=1), now=BEGUN + later)


@pytest.mark.parametrize(
    ("minutes", "identity", "kept"),
    [(59, BARE, 1000), (61, BARE, 0), (-5, BARE, 0), (61, IDENTITY, 1000), (60 * 24 * 365, IDENTITY, 1000)],
)
def test_only_a_source_with_a_validator_continues_a_part_of_any_age(
    minutes: int, identity: Identity, kept: int, tmp_path: Path
) -> None:
    part = begun_and_reopened(tmp_path, identity, timedelta(minutes=minutes))
    assert (part.received_bytes, part.path.stat().st_size) == (kept, kept)
    part.close()


def test_going_on_makes_a_part_no_younger_and_beginning_again_does(tmp_path: Path) -> None:
    part = begun_and_reopened(tmp_path, BARE, timedelta(minutes=50))
    part.checkpoint()
    assert json.loads(journal(tmp_path).read_text())["begun_at"] == "2026-01-01T00:00:00Z"
    part.restart()
    assert json.loads(journal(tmp_path).read_text())["begun_at"] == "2026-01-01T00:50:00Z"
    part.close()


def test_a_journal_without_a_date_is_too_old(tmp_path: Path) -> None:
    begun_and_reopened(tmp_path, BARE, timedelta(0)).close()
    told = json.loads(journal(tmp_path).read_text())
    del told["begun_at"]
    journal(tmp_path).write_text(json.dumps(told))
    part = opened(tmp_path, BARE)
    assert part.received_bytes == 0
    part.close()


# --- one process at a time -------------------------------------------------------------------------


def test_a_part_that_another_process_holds_is_not_opened_and_leaks_nothing(tmp_path: Path) -> None:
    told, tell = os.pipe()
    wait, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        held = opened(tmp_path)
        held.write(b"a" * 1000, now=0.0)
        held.checkpoint()
        os.write(tell, b"x")
        os.read(wait, 1)
        os._exit(0)
    try:
        os.read(told, 1)
        before = open_descriptors()
        with pytest.raises(BlockingIOError):
            opened(tmp_path)
        assert open_descriptors() == before
        assert (tmp_path / "source.part").stat().st_size == 1000, "the other's bytes were touched"
    finally:
        os.write(go, b"x")
        os.waitpid(pid, 0)
        for end in (told, tell, wait, go):
            os.close(end)
    part = opened(tmp_path)
    assert part.received_bytes == 1000
    part.close()


def test_a_second_run_waits_visibly_and_goes_on_when_the_first_is_done(tmp_path: Path) -> None:
    told: list[Event] = []

    async def run() -> None:
        first = opened(tmp_path)

        async def release() -> None:
            while not told:  # noqa: ASYNC110  # what it waits for has no event
                await anyio.sleep(0.01)
            first.write(b"a" * 10, now=0.0)
            first.checkpoint()
            first.close()

        async with anyio.create_task_group() as group:
            group.start_soon(release)
            async with open_part(tmp_path, IDENTITY, LIMITS, told.append) as second:
                assert second.received_bytes == 10

    anyio.run(run)
    [note] = told
    assert isinstance(note, Note)
    assert "waiting" in note.message


def test_a_part_is_released_whatever_happens_to_its_user(tmp_path: Path) -> None:
    async def fail() -> None:
        async with open_part(tmp_path, IDENTITY, LIMITS, ignore_events):
            raise ZeroDivisionError

    before = open_descriptors()
    with pytest.raises(ZeroDivisionError):
        anyio.run(fail)
    assert open_descriptors() == before
    opened(tmp_path).close()


def test_a_lock_won_on_a_file_that_has_moved_away_meanwhile_touches_no_byte_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the part and locking it, the run before may have moved it into the store."""
    part = opened(tmp_path)
    part.write(b"a" * 1000, now=0.0)
    part.finish(end_is_certain=True)
    stored = tmp_path / "stored"
    lock = fcntl.flock

    def lock_after_the_other_is_done(handle: int, operation: int) -> None:
        if not stored.exists():
            part.path.rename(stored)
            part.close()
        lock(handle, operation)

    monkeypatch.setattr("tidegate.durable.lock.fcntl.flock", lock_after_the_other_is_done)
    with pytest.raises(BlockingIOError):
        opened(tmp_path)
    assert stored.read_bytes() == b"a" * 1000
    second = opened(tmp_path)
    assert (second.received_bytes, second.path.exists()) == (0, True)
    assert stored.read_bytes() == b"a" * 1000
    second.close()


def test_a_part_that_the_store_shares_is_never_cut_under_it(tmp_path: Path) -> None:
    part = opened(tmp_path)
    part.write(b"a" * 1000, now=0.0)
    part.finish(end_is_certain=True)
    stored = tmp_path / "stored"
    stored.hardlink_to(part.path)
    part.restart()
    part.write(b"b" * 10, now=0.0)
    assert stored.read_bytes() == b"a" * 1000
    assert part.path.read_bytes() == b"b" * 10
    part.close()


def test_reserved_space_makes_a_part_no_longer_and_goes_when_it_is_left(tmp_path: Path) -> None:
    part = opened(tmp_path)
    part.reserve()
    if part.allocated_bytes == 0:
        pytest.skip("this file system reserves nothing")
    assert part.allocated_bytes >= 1000 * KIB and part.path.stat().st_size == 0
    part.write(b"a" * 10, now=0.0)
    part.restart()
    assert part.allocated_bytes >= 1000 * KIB, "the bytes that come instead need it too"
    part.close()
    assert part.path.stat().st_blocks * 512 < 64 * KIB


def test_space_that_is_not_there_is_refused_and_nothing_of_it_kept(tmp_path: Path) -> None:
    with volume(tmp_path / "disk", "size=512k") as disk:
        part = opened(disk)
        part.write(b"a" * 10, now=0.0)
        with pytest.raises(DiskFull):
            part.reserve()
        assert part.allocated_bytes < 64 * KIB
        assert part.path.read_bytes() == b"a" * 10
        part.close()

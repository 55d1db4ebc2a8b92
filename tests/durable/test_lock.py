"""One process at a time, and a dead one holds nothing: proven with real second processes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import anyio
import pytest

from tests.support.forked import Pipe, forked, many
from tests.support.leaks import open_descriptors
from tidegate.durable.lock import acquire, acquire_when_free, release_at_end


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "work.lock"


def hold_until_told(path: Path, pipe: Pipe) -> None:
    with release_at_end(acquire(path), path):
        pipe.say("holds")
        pipe.hear()


def wait_for_it(path: Path, pipe: Pipe) -> None:
    async def wait() -> None:
        with release_at_end(await acquire_when_free(path, lambda: pipe.say("waits")), path):
            pipe.say("holds")

    asyncio.run(wait())


def test_a_second_process_waits_says_so_once_and_goes_on_when_the_first_is_done(path: Path) -> None:
    with forked(lambda pipe: hold_until_told(path, pipe)) as first:
        assert first.hear() == "holds"
        with forked(lambda pipe: wait_for_it(path, pipe)) as second:
            assert second.hear() == "waits"
            with pytest.raises(BlockingIOError):
                acquire(path)
            time.sleep(1.5)  # it looks again, and says nothing
            first.say("go")
            assert second.hear() == "holds"
            assert (first.wait(), second.wait()) == (0, 0)
    assert not path.exists()


def test_a_killed_holder_frees_the_lock_and_the_waiter_goes_on(path: Path) -> None:
    with forked(lambda pipe: hold_until_told(path, pipe)) as first:
        assert first.hear() == "holds"
        with forked(lambda pipe: wait_for_it(path, pipe)) as second:
            assert second.hear() == "waits"
            first.kill()
            assert second.hear() == "holds"
            assert second.wait() == 0
    assert not path.exists()


def test_a_stopped_holder_still_holds(path: Path) -> None:
    with forked(lambda pipe: hold_until_told(path, pipe)) as first:
        assert first.hear() == "holds"
        first.send(signal.SIGSTOP)
        with pytest.raises(BlockingIOError):
            acquire(path)


def test_many_at_once_hold_it_one_after_the_other(path: Path, tmp_path: Path) -> None:
    """Each removes the file as it leaves: who had opened that one must not take it for the lock."""
    inside, times = tmp_path / "inside", tmp_path / "times"

    def work(pipe: Pipe) -> None:
        pipe.hear()
        for _ in range(30):
            while True:
                try:
                    handle = acquire(path)
                    break
                except BlockingIOError:
                    time.sleep(0.001)
            with release_at_end(handle, path):
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails if somebody else is inside
                with times.open("a") as file:
                    file.write(".")
                inside.unlink()

    with many(work, 4) as children:
        for child in children:
            child.say("go")
        assert [child.wait() for child in children] == [0] * 4
    assert len(times.read_text()) == 120
    assert not path.exists()


def test_a_failure_inside_frees_the_lock_and_leaves_neither_file_nor_descriptor(path: Path) -> None:
    before = open_descriptors()
    with pytest.raises(ValueError, match="inside"), release_at_end(acquire(path), path):
        raise ValueError("inside")
    assert not path.exists()
    assert open_descriptors() == before


def test_giving_up_waiting_leaves_the_holder_its_lock(path: Path) -> None:
    async def give_up() -> None:
        waited = anyio.Event()
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                await acquire_when_free(path, waited.set)
                raise AssertionError("two hold it at once")

            group.start_soon(wait)
            await waited.wait()
            group.cancel_scope.cancel()

    handle = acquire(path)
    before = open_descriptors()
    try:
        asyncio.run(give_up())
        assert open_descriptors() == before
        assert path.exists()
        with pytest.raises(BlockingIOError):
            acquire(path)
    finally:
        os.close(handle)


def test_a_file_from_a_run_that_died_is_taken_over(path: Path) -> None:
    path.touch()
    os.close(acquire(path))
    os.close(acquire(path))


def test_a_lock_whose_file_somebody_removed_can_be_given_up(path: Path) -> None:
    before = open_descriptors()
    with release_at_end(acquire(path), path):
        path.unlink()
    assert open_descriptors() == before


def test_what_cannot_be_opened_is_said_and_leaves_no_descriptor(tmp_path: Path) -> None:
    before = open_descriptors()
    with pytest.raises(FileNotFoundError):
        acquire(tmp_path / "no folder" / "work.lock")
    assert open_descriptors() == before

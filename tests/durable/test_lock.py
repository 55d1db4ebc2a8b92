"""One process at a time, and a dead one holds nothing: proven with real second processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from tests.support.command import ROOT
from tests.support.leaks import open_descriptors
from tidegate.durable.lock import acquire, exclusive

HOLDER = """
import asyncio, sys
from pathlib import Path
from tidegate.durable.lock import exclusive

async def hold():
    async with exclusive(Path(sys.argv[1]), lambda: print("waits", flush=True)):
        print("holds", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(hold())
print("done", flush=True)
"""
"""Holds the lock until a line comes in, or the process ends."""

PATIENCE_SECONDS = 30.0


@contextmanager
def contender(path: Path) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-c", HOLDER, str(path)]
    process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def let_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scratch" / "work.lock"


def test_a_second_process_waits_says_so_once_and_goes_on_when_the_first_is_done(path: Path) -> None:
    with contender(path) as first:
        assert says(first) == "holds"
        with contender(path) as second:
            assert says(second) == "waits"
            with pytest.raises(BlockingIOError):
                acquire(path)
            let_go(first)
            assert says(first) == "done"
            assert says(second) == "holds"
            let_go(second)
            assert says(second) == "done"
    assert list(path.parent.iterdir()) == []


def test_a_killed_holder_frees_the_lock_and_the_waiter_goes_on(path: Path) -> None:
    with contender(path) as first:
        assert says(first) == "holds"
        with contender(path) as second:
            assert says(second) == "waits"
            first.send_signal(signal.SIGKILL)
            assert says(second) == "holds"
            let_go(second)
            assert says(second) == "done"
    assert list(path.parent.iterdir()) == []


def test_a_stopped_holder_still_holds(path: Path) -> None:
    with contender(path) as first:
        assert says(first) == "holds"
        first.send_signal(signal.SIGSTOP)
        with pytest.raises(BlockingIOError):
            acquire(path)


def test_many_at_once_hold_it_one_after_the_other(path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    async def work(number: int) -> None:
        async with exclusive(path, lambda: None):
            inside.append(number)
            most.append(len(inside))
            await anyio.sleep(0.01)
            inside.remove(number)

    async def all_of_them() -> None:
        with anyio.fail_after(PATIENCE_SECONDS):
            async with anyio.create_task_group() as group:
                for number in range(4):
                    group.start_soon(work, number)

    asyncio.run(all_of_them())
    assert most == [1, 1, 1, 1]
    assert not path.exists()


def test_a_failure_inside_frees_the_lock_and_leaves_neither_file_nor_descriptor(path: Path) -> None:
    before = open_descriptors()

    async def fail() -> None:
        async with exclusive(path, lambda: None):
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        asyncio.run(fail())
    assert not path.exists()
    assert open_descriptors() == before


def test_giving_up_waiting_leaves_the_holder_its_lock(path: Path) -> None:
    async def give_up() -> None:
        waited = anyio.Event()
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                async with exclusive(path, waited.set):
                    raise AssertionError("two hold it at once")

            group.start_soon(wait)
            await waited.wait()
            group.cancel_scope.cancel()

    path.parent.mkdir(parents=True)
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
    path.parent.mkdir(parents=True)
    path.touch()
    os.close(acquire(path))
    os.close(acquire(path))

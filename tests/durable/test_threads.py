"""A thread hears that nobody waits for it any more, and whoever was cancelled waits until it has heard."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import anyio
import pytest

from tidegate.durable.threads import check_cancellation, in_thread

SOON = 60.0
"""Seconds after which a thread that does not hear anything gives up by itself, and the test fails."""


class Reader:
    """Work that goes on until it is no longer wanted."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.ended = threading.Event()

    def work(self) -> str:
        self.began.set()
        until = time.monotonic() + SOON
        try:
            while time.monotonic() < until:
                check_cancellation()
                time.sleep(0.01)
        finally:
            time.sleep(0.3)  # what it was writing is its own to clear away
            self.ended.set()
        return "nobody stopped me"


async def begun(reader: Reader) -> None:
    while not reader.began.is_set():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def cancelled_as_by_ctrl_c(call: Callable[[], Awaitable[object]], reader: Reader) -> None:
    task = asyncio.ensure_future(call())
    await begun(reader)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def cancelled_by_a_scope(call: Callable[[], Awaitable[object]], reader: Reader) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await begun(reader)
        group.cancel_scope.cancel()


Cancel = Callable[[Callable[[], Awaitable[object]], Reader], Awaitable[None]]
CANCELS: list[Cancel] = [cancelled_as_by_ctrl_c, cancelled_by_a_scope]


@pytest.mark.parametrize("cancel", CANCELS)
def test_a_cancelled_caller_waits_until_its_thread_has_heard_and_cleared_up(cancel: Cancel) -> None:
    reader = Reader()

    async def scene() -> None:
        await cancel(lambda: in_thread(reader.work), reader)
        assert reader.ended.is_set(), "a lock that the caller holds would be free under a thread that still writes"

    asyncio.run(scene())


@pytest.mark.parametrize("cancel", CANCELS)
def test_a_thread_that_cannot_ask_is_ended_by_what_it_is_blocked_on(cancel: Cancel) -> None:
    reader, broken = Reader(), threading.Event()

    def blocked() -> None:
        reader.began.set()
        assert broken.wait(SOON)
        reader.ended.set()

    async def call() -> None:
        async with anyio.create_task_group() as siblings:
            siblings.start_soon(breaks_at_its_end)
            await in_thread(blocked, give_up=broken.set)

    async def breaks_at_its_end() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            broken.set()

    async def scene() -> None:
        await cancel(call, reader)
        assert reader.ended.is_set()

    asyncio.run(scene())


def test_a_second_ctrl_c_waits_no_longer() -> None:
    reader, release = Reader(), threading.Event()

    def deaf() -> None:
        reader.began.set()
        release.wait(SOON)

    async def scene() -> None:
        task = asyncio.ensure_future(in_thread(deaf))
        await begun(reader)
        task.cancel()
        await asyncio.sleep(0.1)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(task), SOON / 2)
        release.set()

    asyncio.run(scene())


def test_work_that_has_not_begun_when_it_is_cancelled_never_does() -> None:
    began: list[int] = []

    async def scene() -> None:
        task = asyncio.ensure_future(in_thread(lambda: began.append(1)))
        await asyncio.sleep(0)  # it is on its way to a thread
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, SOON / 2)

    asyncio.run(scene())
    assert began == []


def test_results_and_failures_come_through() -> None:
    async def scene() -> None:
        assert await in_thread(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await in_thread(divmod, 7, 0)

    asyncio.run(scene())


def test_a_thread_of_nobody_is_always_wanted() -> None:
    check_cancellation()

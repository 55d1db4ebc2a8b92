"""Blocking work in a thread that hears when nobody waits for it any more.

Stages, transfers and tasks hash, copy and store whole films this way. A thread cannot be ended from outside: it has to
ask, block by block, and whoever is cancelled waits for it, so no lock is given up under a thread that still works.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

from anyio import CancelScope, from_thread, to_thread

T = TypeVar("T")


async def in_thread(work: Callable[..., T], *arguments: object, give_up: Callable[[], None] = lambda: None) -> T:
    """The result of blocking `work`, which calls `check_cancellation` now and then.

    `give_up` is called when the caller is cancelled, and makes a `work` return that is blocked where it cannot ask.
    """
    errand = _Errand(asyncio.get_running_loop())
    token = _errand.set(errand)
    try:
        return await to_thread.run_sync(lambda: errand.run(work, arguments))
    except asyncio.CancelledError:
        # Ctrl-C cancels the asyncio task itself, past anyio's shield; a second one ends this wait too.
        if errand.give_up():
            give_up()
            with CancelScope(shield=True):
                await errand.ended.wait()
        raise
    finally:
        errand.give_up()
        _errand.reset(token)


def check_cancellation() -> None:
    """Does nothing, unless the run that waits for this thread was cancelled.

    Raises:
        CancelledError: it was.
    """
    errand = _errand.get()
    if errand is None:
        return
    if errand.unwanted.is_set():
        raise asyncio.CancelledError
    # A cancelled scope of anyio's waits for the thread before anybody here hears of it.
    from_thread.check_cancelled()


class _Errand:
    """One piece of work, seen from both sides."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.unwanted = threading.Event()
        self.ended = asyncio.Event()
        self._loop = loop
        self._begun = False
        self._lock = threading.Lock()

    def run(self, work: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        """In the thread."""
        with self._lock:
            if self.unwanted.is_set():
                raise asyncio.CancelledError
            self._begun = True
        try:
            return work(*arguments)
        finally:
            with contextlib.suppress(RuntimeError):  # the loop is closed: a second Ctrl-C, and nobody waits
                self._loop.call_soon_threadsafe(self.ended.set)

    def give_up(self) -> bool:
        """In the event loop: nobody wants the result. Whether the thread is at work, and has to be waited for."""
        with self._lock:
            self.unwanted.set()
            return self._begun and not self.ended.is_set()


_errand: ContextVar[_Errand | None] = ContextVar("errand", default=None)

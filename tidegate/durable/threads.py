"""Blocking work in a thread that hears when nobody waits for it any more.

Stages and tasks hash and copy whole films this way. A thread cannot be ended from outside: it has to ask, block by
block. What it was writing is its own to clear away.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

from anyio import from_thread, to_thread

T = TypeVar("T")

_given_up: ContextVar[threading.Event | None] = ContextVar("given_up", default=None)


async def in_thread(work: Callable[..., T], *arguments: object) -> T:
    """The result of blocking `work`, which calls `still_wanted` now and then."""
    given_up = threading.Event()
    token = _given_up.set(given_up)
    try:
        return await to_thread.run_sync(work, *arguments)
    except BaseException:
        given_up.set()
        raise
    finally:
        _given_up.reset(token)


def still_wanted() -> None:
    """Does nothing, unless the run that waits for this thread was cancelled.

    anyio's own `check_cancelled` sees its cancel scopes only. Ctrl-C cancels the asyncio task itself: the thread would
    read the rest of the film while the command waits for it to end.

    Raises:
        CancelledError: it was.
    """
    given_up = _given_up.get()
    if given_up is None:
        return
    if given_up.is_set():
        raise asyncio.CancelledError
    from_thread.check_cancelled()

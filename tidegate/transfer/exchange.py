"""What a source looks like to the transfer engine, and how the event loop talks to it.

Resolvers implement `Exchange`: blocking, on one connection, used from a worker thread. The engine wraps each call in
`call_within`, which keeps the request timeout and can end a thread that is blocked in the kernel. It holds no state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Protocol, TypeVar

import anyio
from anyio import to_thread

from tidegate.errors import RequestTimeout
from tidegate.model import Identity

T = TypeVar("T")


class Body(AbstractContextManager["Body", None], Protocol):
    """Bytes of the source from `start` on; closed by leaving its context."""

    start: int
    """Where the bytes begin. 0 although more was asked for: the source does not serve ranges."""
    total_bytes: int | None
    """Size of the whole source, where it says so."""
    identity: Identity
    """What the source says of itself with these bytes."""
    end_is_certain: bool
    """Whether an early end would be noticed: a length or a last chunk was announced."""

    def __iter__(self) -> Iterator[bytes]: ...


class Exchange(Protocol):
    """One conversation with a source. All methods block, except `abort`."""

    requests: int
    """How often the source was asked so far, redirects included."""

    def identify(self) -> Identity:
        """Ask what the source is, with one request at most."""
        ...

    def open(self, start: int, stop: int | None, expected: Identity, *, conditional: bool = True) -> Body:
        """Begin to read at `start` (up to and without `stop`).

        `conditional`: let the source decide whether it is still what it was. Without, its answer must prove that.

        Raises:
            SourceChanged: the source is no longer what `expected` says.
            TidegateError: any other failure of the tree that a source can raise.
        """
        ...

    def abort(self) -> None:
        """Make a blocked call or read of this exchange fail at once. From any thread, any number of times."""
        ...


Connect = Callable[[], Exchange]
"""Makes a fresh exchange: after a stall or a cut nothing of the old connection is trusted."""


async def call_within(limit: timedelta, exchange: Exchange, call: Callable[[], T]) -> T:
    """Run a blocking `call` of `exchange` in a thread, for at most `limit`.

    On time-out or cancellation the thread is not waited for: it may sit in a name lookup that nothing can break.
    The exchange is aborted, so the thread ends by itself and what it opened is closed.

    Raises:
        RequestTimeout: `limit` has passed.
    """
    try:
        with anyio.fail_after(limit.total_seconds()):
            return await to_thread.run_sync(call, abandon_on_cancel=True)
    except TimeoutError as error:
        exchange.abort()
        raise RequestTimeout(f"No answer within {limit.total_seconds():g} s") from error
    except BaseException:
        exchange.abort()
        raise

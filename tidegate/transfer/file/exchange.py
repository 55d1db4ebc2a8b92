"""What a source looks like to the fetch loop: something that says what it is, and gives bytes from an offset on.

`http`, `places` and the local resolver have an `Exchange` each; the fetch loop makes one for each connection. Waiting
is done in the event loop, in the gate of the origin; only `Body.readinto` blocks, and is called from a worker thread.
An exchange holds no state that a crash could lose.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from tidegate.model import Identity


class Body(Protocol):
    """Bytes of the source from `start` on."""

    start: int
    """Where the bytes begin. 0 although more was asked for: the source does not serve ranges."""
    partial: bool
    """Whether the source answered with a range, as it was asked to."""
    total_bytes: int | None
    """Size of the whole source, where it says so."""
    identity: Identity
    """What the source says of itself with these bytes."""
    end_is_certain: bool
    """Whether an early end would be noticed: a length or a last chunk was announced."""

    @property
    def waited_seconds(self) -> float:
        """Grows while a read waits for the source; not while it is at work with what came."""
        ...

    def readinto(self, buffer: memoryview) -> int:
        """Take what is there, at least one byte; 0 at the end. Blocks."""
        ...

    def report_bytes(self, bytes_so_far: int) -> None:
        """Tell the gate how many bytes this body has brought. Quick; from any thread."""
        ...


class Exchange(Protocol):
    """One conversation with a source; a fresh one for each try."""

    @property
    def last_identity(self) -> Identity | None:
        """What the last good answer said of the source, even if it was not what was expected."""
        ...

    @property
    def requests(self) -> int:
        """How often the source was asked so far, redirects included."""
        ...

    async def identify(self, *, retry: bool = False) -> Identity:
        """Ask what the source is, with one request at most."""
        ...

    def open(
        self, start: int, stop: int | None, expected: Identity, *, conditional: bool = True, retry: bool = False
    ) -> AbstractAsyncContextManager[Body]:
        """Begin to read at `start` (up to and without `stop`); the body is closed by leaving the context.

        `conditional`: let the source decide whether it is still what it was. Without, its answer must prove that.
        What is raised inside the context counts as this try's failure. `retry`: it is not the first, for statistics.

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

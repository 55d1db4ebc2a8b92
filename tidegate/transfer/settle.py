"""Blocks between the line and the disk: settled where they were received, or by a thread beside that.

A crew's reading thread puts what it receives through a `Settling`. Where one thread can do it all, it does: a block is
written and hashed while it is in the processor's cache. On a fast line that has to be decrypted as well, that thread is
the limit; a second one then settles one block while the next is received. Nothing is vouched for before it is settled,
so a crash costs what it would have cost without.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

BLOCK_BYTES = 512 * 1024
"""How much is received and written at once, where as much is there. What is larger falls out of the processor's cache
between the two."""
BLOCKS_AHEAD = 4
"""How many blocks may wait to be settled."""

Settle = Callable[[int, memoryview], None]
"""Write the block at its place and do what else belongs to that. Blocking."""


class Settling:
    """For one body, in the thread that reads it. On leaving, all blocks are settled, or the failure is raised."""

    def __init__(self, settle: Settle, broken: Callable[[], None]) -> None:
        """`broken` is called from the other thread when settling has failed there, to end a read that waits."""
        self._settle = settle
        self._broken = broken
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[tuple[int, memoryview, int] | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._free.put(memoryview(bytearray(BLOCK_BYTES)))

    @property
    def beside(self) -> bool:
        """Whether a second thread settles."""
        return self._thread is not None

    def go_beside(self) -> None:
        """Settle in a second thread from now on."""
        for _ in range(BLOCKS_AHEAD):
            self._free.put(memoryview(bytearray(BLOCK_BYTES)))
        self._thread = threading.Thread(target=self._settle_all, name="settle", daemon=True)
        self._thread.start()

    def block(self) -> memoryview:
        """A block to receive into; waits for one where the disk is behind. Raises what settling has raised."""
        self._raise_failure()
        block = self._free.get()
        self._raise_failure()
        return block

    def give(self, position: int, block: memoryview, count: int) -> None:
        """The first `count` bytes of the block have come and belong at `position`."""
        if self._thread is not None:
            self._full.put((position, block, count))
            return
        self._settle(position, block[:count])
        self._free.put(block)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._thread is not None:
            self._full.put(None)
            self._thread.join()
        if error is None or isinstance(error, Exception):  # a cancellation stays one
            self._raise_failure()

    def _settle_all(self) -> None:
        """In the second thread."""
        while (given := self._full.get()) is not None:
            position, block, count = given
            if self._failure is None:
                try:
                    self._settle(position, block[:count])
                except BaseException as error:  # noqa: BLE001  # raised where it is waited for
                    self._failure = error
                    self._broken()
            self._free.put(block)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

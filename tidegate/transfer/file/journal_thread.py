"""The thread beside the connections of one try: it journals the part when that is due, and hashes behind what came.

`ParallelTry` runs it for as long as the try lasts, and at the end saves what came. A crash costs at most what came
after its last checkpoint.
"""

from __future__ import annotations

import contextlib
import threading

import anyio

from tidegate.durable.threads import check_cancellation, in_thread
from tidegate.errors import TidegateError
from tidegate.transfer.file.state import TransferState

REST_SECONDS = 0.02
"""How long it rests when it has nothing to journal or to hash."""


class JournalThread:
    """Of one try."""

    def __init__(self, state: TransferState) -> None:
        self._state = state
        self._over = threading.Event()

    async def run(self) -> None:
        """Until `stop`.

        Raises:
            HostFailure: the disk refused.
        """
        await in_thread(self._work)

    def stop(self) -> None:
        """From any thread, any number of times."""
        self._over.set()

    async def save(self, *, spoiled: bool) -> None:
        """However the try ended: forget what is spoiled, else make it durable."""
        part = self._state.part
        # Where that cannot be written, the failure that ended the try says more.
        with anyio.CancelScope(shield=True), contextlib.suppress(OSError, TidegateError):
            if spoiled:
                await in_thread(part.restart)
            elif part.unjournaled_bytes:
                await in_thread(part.checkpoint, self._state.clock())

    def _work(self) -> None:
        while not self._over.is_set():
            check_cancellation()
            journaled = self._journal_if_due()
            hashed = self._hash_next_block()
            if not journaled and not hashed:
                self._over.wait(REST_SECONDS)

    def _journal_if_due(self) -> bool:
        part, clock = self._state.part, self._state.clock
        due = part.checkpoint_is_due(clock())
        if due:
            part.checkpoint(clock())
        return due

    def _hash_next_block(self) -> bool:
        follower, algorithms = self._state.follower, self._state.source.algorithms
        return follower is not None and follower.follow(algorithms) > 0

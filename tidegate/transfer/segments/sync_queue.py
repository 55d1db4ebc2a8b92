"""Makes finished segments durable beside the transfer: several at once cost the disk little more than one.

A track's download puts segments in; the queue syncs what has gathered, journals it, and closes the files. A crash costs
what had not been synced yet, which is bounded in number; what failed to be synced ends the transfer.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import anyio

from tidegate.durable.threads import in_thread
from tidegate.transfer.segments.journal import HeldSegment, TrackJournal
from tidegate.transfer.segments.sink import SegmentSink

MOST_WAITING = 32
"""Segments that may wait to be synced; each keeps its file open."""


class SyncQueue:
    """Segments that wait to be made durable. One for each time that a track is at work; `open_sync_queue` gives it."""

    def __init__(self, journal: TrackJournal) -> None:
        self._journal = journal
        self._waiting: list[tuple[HeldSegment, SegmentSink]] = []
        self._busy = anyio.Lock()
        self._news = anyio.Event()

    async def put(self, held: HeldSegment, sink: SegmentSink) -> None:
        """Take a finished segment over, and close its file when it is durable. Waits while too many are waiting."""
        self._waiting.append((held, sink))
        self._journal.held[held.name] = held
        self._news.set()
        if len(self._waiting) >= MOST_WAITING:
            await self.flush()

    async def flush(self) -> None:
        """Make everything durable that is waiting."""
        async with self._busy:
            batch, self._waiting = self._waiting, []
            try:
                if batch:
                    await in_thread(self._journal.keep, [(held, sink.handle) for held, sink in batch])
            finally:
                for _, sink in batch:
                    sink.close()

    async def run(self) -> None:
        """Flush whenever something is waiting, until cancelled."""
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            await self.flush()


@contextlib.asynccontextmanager
async def open_sync_queue(journal: TrackJournal) -> AsyncIterator[SyncQueue]:
    """A queue at work. However the block ends, what was finished is durable after it."""
    queue = SyncQueue(journal)
    async with anyio.create_task_group() as group:
        group.start_soon(queue.run)
        try:
            yield queue
        finally:
            with anyio.CancelScope(shield=True):
                await queue.flush()
        group.cancel_scope.cancel()

"""The body of an answer into the part: what is there already is compared, the beginning sniffed, the rest written.

Each connection of a `ParallelTry` comes here with its answer; the reading runs in a thread of its own. What was written
is journaled by the journal thread, so a crash costs what had not been synced yet.
"""

from __future__ import annotations

import time

from tidegate.durable.threads import check_cancellation
from tidegate.errors import RangeMismatch, SourceChanged, StalledTransfer, TidegateError, TruncatedBody
from tidegate.resilience.stall import SpeedWindow
from tidegate.transfer.asking.conversation import read_in_thread
from tidegate.transfer.file.connections import Connection
from tidegate.transfer.file.exchange import Body
from tidegate.transfer.file.pieces import Piece, Span
from tidegate.transfer.file.source_end import SourceEnd
from tidegate.transfer.file.state import TransferState
from tidegate.transfer.verify import ENOUGH_BYTES, SNIFF_BYTES, refuse_text

OVERLAP_BYTES = 64 * 1024
"""How much is fetched again and compared when a source has no validator to resume by."""
RECEIVE_BLOCK_BYTES = 512 * 1024
"""How much is received and written at once, where as much is there. What is larger falls out of the processor's cache
between the two."""
MOST_CHECKPOINTS_BEHIND = 4
"""After how many checkpoints' worth of bytes that are not journaled the connections wait for the disk."""
DISK_PAUSE_SECONDS = 0.02
"""How long they wait before they look again."""


class Receiver:
    """Takes the answers of one try."""

    def __init__(self, state: TransferState, end: SourceEnd) -> None:
        self._state = state
        self._source = state.source
        self._part = state.part
        self._end = end
        self.spoiled = False
        """Whether what is here contradicts what came: neither is kept."""

    def request_start(self, piece: Piece) -> int:
        """Where to ask from. Without a validator some bytes are asked for again, to see whether they are the same; but
        whether anything follows is only answered there."""
        if not self._source.by_ranges:
            return 0
        exact = self._source.identity.has_validator or self._end.asks_on
        return piece.at if exact else max(0, piece.at - OVERLAP_BYTES)

    def begin(self, piece: Piece, body: Body, *, alone: bool) -> None:
        """Look at what the answer is before anything of it is taken. `alone`: no other connection is at work.

        Raises:
            SourceChanged, RangeMismatch, TruncatedBody, LimitReached: it is none that may be taken.
        """
        self._source.add_promises(body.identity.digests)
        self._state.require_small_enough(body.total_bytes or 0)
        if self._end.is_before_what_is_here(body):
            self.spoiled = True
            raise SourceChanged("The source is shorter than what came of it", evidence=self._state.evidence)
        self._end.require_continuation(body)
        if not body.partial and body.start < piece.at:
            self._take_whole(piece, body, alone=alone)
        piece.at = body.start

    def _take_whole(self, piece: Piece, body: Body, *, alone: bool) -> None:
        """The origin answers a part with everything: a lone connection then fetches all of it."""
        if not alone:
            raise RangeMismatch("The origin answers a part with everything", evidence=self._state.evidence)
        if self._source.identity.same_validator_as(body.identity):
            self._source.conditional = False
        piece.stop = self._state.until if self._state.until is not None else self._source.size_bytes

    async def receive(self, connection: Connection, body: Body) -> None:
        """Read the body to its end, or to that of the piece.

        Raises:
            TidegateError: the piece did not come as a whole, or is not what it should be.
        """
        piece, before = connection.piece, self._part.received_bytes
        piece.window = SpeedWindow(self._state.limits.stall_timeout, self._state.limits.minimum_speed)
        piece.window.record(self._state.clock(), piece.received)
        try:
            await read_in_thread(connection.exchange.abort, self._drain, connection, body)
        except TidegateError as broken:
            if not connection.stalled:
                raise
            raise self._stall() from broken
        if self._end.is_told_by(body):
            if self._end.check(piece, body):
                self._sniff(body)
        elif self._end.must_ask_on(piece, self._part.received_bytes - before):
            connection.goes_on = True

    def _stall(self) -> StalledTransfer:
        limits = self._state.limits
        message = f"Less than {limits.minimum_speed} B/s for {limits.stall_timeout.total_seconds():g} s"
        return StalledTransfer(message, evidence=self._state.evidence)

    # --- in the thread of the connection -----------------------------------------------------------

    def _drain(self, connection: Connection, body: Body) -> None:
        piece = connection.piece
        if not self._goes_with_what_is_here(body):
            self._part.restart()
        buffer = memoryview(bytearray(RECEIVE_BLOCK_BYTES))
        while (room := self._room(piece)) > 0:
            waited = body.waited_seconds
            if not (count := body.readinto(buffer[:room])):
                break
            check_cancellation()
            piece.received += count
            body.report_bytes(piece.received)
            self._state.counts.add_block(count, body.waited_seconds - waited)
            connection.at_the_disk = True
            self._take(piece.at, buffer[:count])
            piece.at += count
            if self._part.prefix_bytes >= ENOUGH_BYTES:
                self._sniff(body)
            self._wait_for_the_disk()
            connection.at_the_disk = False

    def _goes_with_what_is_here(self, body: Body) -> bool:
        """Whether a body that has everything may be compared with what is here, instead of replacing it."""
        known, have = self._source.identity, self._part.spans
        if body.partial or not have.each or known.same_validator_as(body.identity):
            return True
        # Without a validator this is the overlap that was asked for on purpose: it begins at the first byte.
        return not known.has_validator and self._source.by_ranges and have.prefix <= OVERLAP_BYTES

    def _room(self, piece: Piece) -> int:
        """How much may be received. The last piece is read beyond its end, to see whether the body has more."""
        stop = piece.stop
        if stop is None or stop == self._source.size_bytes:
            return RECEIVE_BLOCK_BYTES
        return min(RECEIVE_BLOCK_BYTES, stop - piece.at)

    def _take(self, position: int, block: memoryview) -> None:
        """Write what is missing of a block; the rest must be what is here already."""
        end, total = position + len(block), self._source.size_bytes
        self._state.require_small_enough(end)
        if total is not None and end > total:
            self.spoiled = True
            raise TruncatedBody(f"The body is longer than announced: {end} of {total} bytes")
        for span, held in self._part.spans.cut(Span(position, end)):
            stretch = block[span.first - position : span.end - position]
            if not held:
                self._write(span.first, stretch)
            elif self._part.read(span.first, span.size) != stretch:
                self.spoiled = True
                raise SourceChanged("The source's bytes have changed since the transfer began")

    def _write(self, position: int, block: memoryview) -> None:
        self._part.write_at(position, block)
        if self._state.follower is not None:
            self._state.follower.take(position, block, self._source.algorithms)

    def _sniff(self, body: Body) -> None:
        """Look at how the source begins, once; what is no media is not kept."""
        if self._source.sniffed:
            return
        try:
            refuse_text(self._part.read(0, min(SNIFF_BYTES, self._part.prefix_bytes)), body.identity.content_type)
        except TidegateError:
            self.spoiled = True
            raise
        self._source.sniffed = True

    def _wait_for_the_disk(self) -> None:
        """A network that is faster than the disk must not run ahead of the journal without end."""
        while self._part.unjournaled_bytes > MOST_CHECKPOINTS_BEHIND * self._state.limits.checkpoint_bytes:
            check_cancellation()
            time.sleep(DISK_PAUSE_SECONDS)

"""One try of a transfer: connections that each fetch a piece, a watch on its own clock, and a thread that journals.

`Transfer` makes a `ParallelTry` for each try. It ends when nothing is missing, or with the failure that it could not do
without; what came until then is in the part and journaled, so a crash costs at most what was not journaled yet.
"""

from __future__ import annotations

import anyio

from tidegate.errors import RangeMismatch, TidegateError, is_decisive, reason_of
from tidegate.transfer.file.connections import Connection, Connections
from tidegate.transfer.file.journal_thread import JournalThread
from tidegate.transfer.file.pieces import Piece
from tidegate.transfer.file.receive import Receiver
from tidegate.transfer.file.source_end import SourceEnd
from tidegate.transfer.file.state import TransferState
from tidegate.transfer.file.watch import TransferWatch


class ParallelTry:
    """One try over as many connections as help."""

    def __init__(self, state: TransferState) -> None:
        self._state = state
        self._connections = Connections(state)
        self._end = SourceEnd(state)
        self._receiver = Receiver(state, self._end)
        self._journal = JournalThread(state)

    async def run(self) -> None:
        """Fetch what is missing.

        Raises:
            TidegateError: why not all of it came.
        """
        try:
            async with anyio.create_task_group() as siblings:
                siblings.start_soon(self._journal.run)
                async with anyio.create_task_group() as workers:
                    watch = TransferWatch(self._state, self._connections, lambda: workers.start_soon(self._join))
                    siblings.start_soon(watch.run)
                    workers.start_soon(self._work, self._connections.first_piece())
                self._journal.stop()
                siblings.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise reason_of(group, is_decisive) from group
        finally:
            self._journal.stop()
            await self._journal.save(spoiled=self._receiver.spoiled)
        self._end.finish_part()

    async def _join(self) -> None:
        """One more at work, on what the others leave to it."""
        await self._work(self._connections.next_piece())

    async def _work(self, piece: Piece | None) -> None:
        """One piece after another, until nothing is left that is worth a request."""
        while piece is not None:
            connection = self._connections.start(piece)
            try:
                with connection.scope:
                    await self._fetch(connection)
            except TidegateError as error:
                self._connections.end(connection)
                if self._is_asked_again(error, connection):
                    continue
                if error.policy.ends_the_try or not len(self._connections):
                    raise
                if not self._is_replaced(piece):
                    return
            else:
                self._connections.end(connection)
            if piece.taken_over:
                return
            if not connection.goes_on:
                piece = self._connections.next_piece()

    def _is_asked_again(self, error: TidegateError, connection: Connection) -> bool:
        """Whether the same question is worth another answer."""
        answer = connection.exchange.last_identity
        return error.policy.identifies_again and self._state.source.doubts_etag(answer, self._state.observe)

    def _is_replaced(self, piece: Piece) -> bool:
        """A connection has failed, and the others go on. Whether it is replaced: one that brought something is, one
        that the origin refused is not."""
        self._connections.hand_back(piece)
        if piece.received >= self._state.limits.gain_bytes:
            return True
        self._state.tuner.step_back(self._state.clock(), len(self._connections))
        return False

    async def _fetch(self, connection: Connection) -> None:
        """Ask for a piece and receive it, as far as the answer reaches."""
        source, piece, exchange = self._state.source, connection.piece, connection.exchange
        start = self._receiver.request_start(piece)
        stop = piece.stop if source.trust_ranges and piece.stop != source.size_bytes else None
        connection.answer_ends = stop
        retry = self._state.counts.tries > 0
        try:
            async with exchange.open(start, stop, source.identity, conditional=source.conditional, retry=retry) as body:
                self._receiver.begin(piece, body, alone=len(self._connections) == 1)
                await self._receiver.receive(connection, body)
        except RangeMismatch:
            if len(self._connections) == 1:
                source.trust_ranges = False
            raise
        finally:
            self._state.counts.requests += exchange.requests
            piece.window = None

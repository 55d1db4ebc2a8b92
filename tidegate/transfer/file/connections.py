"""The connections of one try and the pieces that they fetch: who works on what, who has stalled, who leaves.

`ParallelTry` starts and ends them, its watch measures them. All in the event loop's thread; only `Connection`'s own
marks are set by the thread that reads its body. After a crash the part's journal alone says what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio

from tidegate.resilience.stall import SpeedWindow
from tidegate.transfer.file.exchange import Exchange
from tidegate.transfer.file.pieces import Piece, next_piece
from tidegate.transfer.file.state import TransferState


@dataclass(eq=False)
class Connection:
    """One connection at work on a piece."""

    piece: Piece
    exchange: Exchange
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    answer_ends: int | None = None
    """Where the answer ends that was asked for; None: with the source."""
    stalled: bool = False
    goes_on: bool = False
    """Whether its answer ended without telling how long the source is: what follows must be asked for."""
    at_the_disk: bool = False
    """Its thread writes or waits for the disk: silence on the line is then not the origin's."""

    @property
    def is_receiving(self) -> bool:
        """Whether an answer is being read, and not only a gate, a head or the disk waited for."""
        return self.piece.window is not None and not self.at_the_disk

    @property
    def speed(self) -> float:
        """Bytes per second; 0 while no body is read."""
        return self.piece.window.speed() if self.piece.window else 0.0


class Connections:
    """Those that are at work."""

    def __init__(self, state: TransferState) -> None:
        self._state = state
        self._each: list[Connection] = []

    def __len__(self) -> int:
        return len(self._each)

    def start(self, piece: Piece) -> Connection:
        """One more, on this piece."""
        connection = Connection(piece, self._state.connect())
        self._each.append(connection)
        return connection

    def end(self, connection: Connection) -> None:
        self._each.remove(connection)

    # --- who fetches what --------------------------------------------------------------------------

    def first_piece(self) -> Piece:
        """Where a lone connection begins. All that is missing is its own, until others join it."""
        state, have, total = self._state, self._state.part.spans, self._state.source.size_bytes
        if state.until is not None:
            return Piece(have.prefix, state.until)
        if total is None or not state.source.by_ranges:
            return Piece(have.prefix, total)
        return next_piece(have, total, (), 0.0) or Piece(total, total)

    def next_piece(self) -> Piece | None:
        """What a free connection fetches; None where nothing is worth a request. Ends those whose piece it takes."""
        state, total = self._state, self._state.source.size_bytes
        if state.until is not None or total is None or not state.source.by_ranges:
            return None
        fastest = max((one.speed for one in self._each), default=0.0)
        piece = next_piece(state.part.spans, total, [one.piece for one in self._each], fastest)
        for one in self._each:
            if one.piece.taken_over:
                one.scope.cancel()
        return piece

    def retire_slowest(self) -> None:
        """The slowest connection ends; what is left of its piece goes to the others."""
        slowest = min((one for one in self._each if not one.piece.taken_over), key=lambda one: one.speed)
        slowest.piece.taken_over = True
        slowest.scope.cancel()
        self.hand_back(slowest.piece)

    def hand_back(self, piece: Piece) -> None:
        """What is left of a piece goes to the connection that comes up to it, where its answer reaches on: an origin
        that refuses a second connection may well refuse the next request too."""
        for one in self._each:
            reaches = one.answer_ends is None or (piece.stop is not None and piece.stop <= one.answer_ends)
            if one.piece is not piece and one.piece.stop == piece.at and reaches and not one.piece.taken_over:
                one.piece.stop = piece.stop
                return

    # --- how fast they are -------------------------------------------------------------------------

    def measure_speeds(self, now: float) -> None:
        """Record what each has received until now; the clock of one that is at the disk begins again."""
        for one in self._each:
            window = one.piece.window
            if window is not None and one.at_the_disk:
                one.piece.window = window = SpeedWindow(window.window, window.minimum_speed)
            if window is not None:
                window.record(now, one.piece.received)

    def are_waiting_for_bytes(self) -> bool:
        """Whether any answer is being read."""
        return any(one.is_receiving for one in self._each)

    def abort_stalls(self) -> bool:
        """Break off what has stalled; whether anything has."""
        stalled = [one for one in self._each if one.piece.window is not None and one.piece.window.is_stalled()]
        for connection in stalled:
            connection.stalled = True
            connection.exchange.abort()
        return bool(stalled)

"""Which bytes are here, which are missing, and who fetches what next. Pure interval arithmetic; the clock is passed in.

The part keeps its received bytes as `Spans`, the fetch loop deals out the rest as `Piece`s. Nothing here touches the
outside world; what survives a crash is what the part's journal says.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from tidegate.resilience.stall import SpeedWindow

KIB = 1024
MIB = 1024 * KIB
LEAST_PIECE_BYTES = MIB
"""What a further connection is worth being made for."""
ALIGN_BYTES = 64 * KIB
WORTH_SECONDS = 0.5
"""How long the rest of a piece must take for a part of it to be given to somebody else."""


class Span(NamedTuple):
    """Bytes from `first` up to, not including, `end`."""

    first: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.first


@dataclass(frozen=True)
class Spans:
    """A set of bytes: spans in order, none empty, none touching the next."""

    each: tuple[Span, ...] = ()

    @classmethod
    def of(cls, spans: Iterable[tuple[int, int]]) -> Self:
        """From any spans, in any order.

        Raises:
            ValueError: one of them ends before it begins, or begins before zero.
        """
        result = cls()
        for first, end in spans:
            if not 0 <= first <= end:
                raise ValueError(f"{first} to {end} is no span of bytes")
            result = result.plus(Span(first, end))
        return result

    @property
    def size(self) -> int:
        return sum(span.size for span in self.each)

    @property
    def prefix(self) -> int:
        """How far it reaches from the first byte without a hole."""
        return self.each[0].end if self.each and self.each[0].first == 0 else 0

    @property
    def end(self) -> int:
        """Where the last byte ends."""
        return self.each[-1].end if self.each else 0

    def plus(self, added: Span) -> Self:
        """With these bytes too."""
        if added.size <= 0:
            return self
        begin = bisect_left(self.each, added.first, key=lambda span: span.end)
        stop = begin
        first, end = added
        while stop < len(self.each) and self.each[stop].first <= end:
            first, end = min(first, self.each[stop].first), max(end, self.each[stop].end)
            stop += 1
        return type(self)((*self.each[:begin], Span(first, end), *self.each[stop:]))

    def holes(self, total: int) -> tuple[Span, ...]:
        """What is missing of the first `total` bytes."""
        ends = [0, *(span.end for span in self.each)]
        firsts = [*(span.first for span in self.each), total]
        pairs = zip(ends, firsts, strict=True)
        return tuple(Span(end, min(first, total)) for end, first in pairs if end < min(first, total))

    def cut(self, span: Span) -> Iterator[tuple[Span, bool]]:
        """The span in stretches that are either held already (True) or missing."""
        if not span.size:
            return
        position = span.first
        for held in self.each[bisect_left(self.each, span.first + 1, key=lambda one: one.end) :]:
            if held.first >= span.end:
                break
            if position < held.first:
                yield Span(position, held.first), False
            yield Span(max(position, held.first), min(held.end, span.end)), True
            position = min(held.end, span.end)
        if position < span.end:
            yield Span(position, span.end), False


@dataclass(eq=False)
class Piece:
    """A stretch that one connection fetches. Its reader moves `at`; whoever deals out pieces may lower `stop`."""

    at: int
    stop: int | None
    """None: to the end, wherever that is."""
    received: int = 0
    """Bytes that came for it, those that were here already included."""
    window: SpeedWindow | None = None
    """Its speed, while its body is read."""
    taken_over: bool = False
    """Somebody else fetches what is left of it."""

    @property
    def left(self) -> int:
        return max(0, self.stop - self.at) if self.stop is not None else 0

    def seconds_left(self, otherwise: float) -> float:
        """How long it will take, at its own speed if that is known, else at `otherwise` (bytes per second)."""
        speed = self.window.speed() if self.window else 0.0
        return self.left / max(speed or otherwise, 1.0)


def next_piece(have: Spans, total: int, active: Sequence[Piece], speed: float) -> Piece | None:
    """What a free connection fetches: a hole nobody works on, else half of the piece that would end last, else all that
    is left of a piece that crawls; None when it is not worth a request. Lowers the other's `stop`.

    `speed`: what one connection does, in bytes per second; 0 where that is not known.
    """
    claimed = have
    for piece in active:
        claimed = claimed.plus(Span(piece.at, piece.stop if piece.stop is not None else total))
    if free := claimed.holes(total):
        return Piece(free[0].first, free[0].end)
    slowest = max(
        (piece for piece in active if piece.left and not piece.taken_over),
        key=lambda piece: piece.seconds_left(speed),
        default=None,
    )
    if slowest is None or slowest.seconds_left(speed) < WORTH_SECONDS:
        return None
    stop = slowest.stop
    if slowest.left >= 2 * LEAST_PIECE_BYTES:
        middle = slowest.at + slowest.left // 2
        slowest.stop = max(middle - middle % ALIGN_BYTES, slowest.at)
        return Piece(slowest.stop, stop)
    if speed > 0 and slowest.seconds_left(speed) > 2 * (slowest.left / speed + WORTH_SECONDS):
        slowest.taken_over = True
        slowest.stop = slowest.at
        return Piece(slowest.at, stop)
    return None

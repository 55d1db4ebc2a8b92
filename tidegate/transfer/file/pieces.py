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


@dataclass
class Widening:
    """How many connections? More as long as the last ones made the whole noticeably faster.

    Against a limit per connection or a long way, each brings its own share, and as many again are tried; where the line
    is the limit, none does, and the origin is spared. Where the processor or the disk is, none is tried: a connection
    that hardly ever waits for bytes has all that it can take.
    """

    most: int
    settle_seconds: float = 0.15
    """How long the speed after a change is not looked at."""
    measure_seconds: float = 0.25
    worth_seconds: float = 1.5
    """How long the rest must take for another connection to be worth it."""
    share: float = 0.4
    """What part of equal shares the last ones must have brought."""
    fast: float = 200.0 * MIB
    """Bytes per second of a connection that nobody limits: others beside it only cost processor time."""
    waiting: float = 0.5
    """What part of its time a connection must have waited for bytes."""
    rest_seconds: float = 10.0
    """How long it is left at that when they did not; doubled each time."""
    _connections: int = 1
    _changed_at: float | None = None
    _mark: tuple[float, int, float] | None = None
    _before: tuple[int, float] | None = None
    """Connections and speed before the last ones were added."""
    _resting_until: float = 0.0

    def look(self, now: float, received: int, waited: float, connections: int, remaining: int) -> int:
        """How many to add, or to end if negative. Called now and then while bytes come.

        `waited`: seconds that all of them have waited for bytes until now.
        """
        if self._changed_at is None or connections != self._connections:
            if connections < self._connections:
                self._before = None  # one has ended by itself: no comparison holds
            self._restart(now, connections)
            return 0
        if self._mark is None:
            if now - self._changed_at >= self.settle_seconds:
                self._mark = now, received, waited
            return 0
        if now - self._mark[0] < self.measure_seconds:
            return 0
        seconds = now - self._mark[0]
        speed, waiting = (received - self._mark[1]) / seconds, (waited - self._mark[2]) / (seconds * connections)
        self._mark = now, received, waited
        return self._judge(now, speed, waiting, remaining)

    def step_back(self, now: float, connections: int) -> None:
        """The origin did not like the last one, or it failed: no more than there are, for a while."""
        self._rest(now)
        self._restart(now, connections)

    def _judge(self, now: float, speed: float, waiting: float, remaining: int) -> int:
        before, self._before = self._before, None
        if before is not None and before[0] < self._connections:
            added = self._connections - before[0]
            if speed < before[1] * (1 + self.share * added / before[0]):
                self._rest(now)
                return -added
        if self._connections >= self.most or now < self._resting_until or speed <= 0:
            return 0
        if speed / self._connections > self.fast or waiting < self.waiting:
            return 0
        if remaining < 2 * LEAST_PIECE_BYTES or remaining / speed < self.worth_seconds:
            return 0
        self._before = self._connections, speed
        return min(self._connections, self.most - self._connections)

    def _restart(self, now: float, connections: int) -> None:
        self._connections, self._changed_at, self._mark = connections, now, None

    def _rest(self, now: float) -> None:
        self._resting_until = now + self.rest_seconds
        self.rest_seconds *= 2
        self._before = None

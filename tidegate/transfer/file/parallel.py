"""One try of a transfer: connections that each fetch a piece, a watch on its own clock, and a keeper beside them.

The fetch loop makes a crew for each try. It ends when nothing is missing, or with the failure that it could not do
without; what came until then is in the part and journaled, so a crash costs at most what was not journaled yet.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from tidegate.durable.threads import check_cancellation, in_thread
from tidegate.errors import (
    DownloadDeadline,
    Evidence,
    LimitReached,
    RangeMismatch,
    SourceChanged,
    StalledTransfer,
    TidegateError,
    TruncatedBody,
    is_decisive,
    reason_of,
)
from tidegate.events import Advance, Note, Observer
from tidegate.model import Digest, Identity
from tidegate.resilience.deadline import SPEED_WINDOW, DownloadSpeed, download_seconds, slower_of
from tidegate.resilience.load import LoadMeter
from tidegate.resilience.stall import SpeedWindow
from tidegate.settings import TransferSettings
from tidegate.transfer.asking.conversation import read_in_thread
from tidegate.transfer.file.exchange import Body, Connect, Exchange
from tidegate.transfer.file.follow import Follower
from tidegate.transfer.file.part import Part
from tidegate.transfer.file.pieces import Piece, Span, Widening, next_piece
from tidegate.transfer.verify import ENOUGH_BYTES, SNIFF_BYTES, algorithms_for, refuse_text

OVERLAP_BYTES = 64 * 1024
"""How much is fetched again and compared when a source has no validator to resume by."""
BLOCK_BYTES = 512 * 1024
"""How much is received and written at once, where as much is there. What is larger falls out of the processor's cache
between the two."""
WIDE_BYTES = 8 * 1024 * 1024
"""How much must be missing for a second connection."""
LOOK_SECONDS = 0.1
"""How often the watch looks whether another connection would help."""
SHOWN_SECONDS = 1.0
"""How often progress is told, at most."""
KEEPER_SECONDS = 0.02
"""How long the keeper rests when it has nothing to journal or to hash."""
BEHIND = 4
"""After how many checkpoints' worth of bytes that are not journaled the connections wait for the disk."""


@dataclass
class TransferState:
    """What a transfer has learned and counted, over all its tries."""

    connect: Connect
    part: Part
    identity: Identity
    """What the origin that is asked says the source is."""
    limits: TransferSettings
    observe: Observer
    stage: str
    until: int | None
    promised: set[Digest]
    clock: Callable[[], float]
    started: float = 0.0
    requests: int = 0
    bytes_received: int = 0
    waited_seconds: float = 0.0
    """How long connections have waited for bytes in all; the rest of their time they were at work with them."""
    tries: int = 0
    trust_ranges: bool = True
    conditional: bool = True
    """Whether a range is asked for with If-Range: some caches answer that with everything, although nothing changed."""
    sniffed: bool = False
    widening: Widening = field(default_factory=lambda: Widening(1))
    follower: Follower | None = None
    algorithms: frozenset[str] = frozenset()
    """What the follower hashes with."""
    counting: threading.Lock = field(default_factory=threading.Lock)
    _other_etag: str | None = None

    @property
    def by_ranges(self) -> bool:
        return self.trust_ranges and self.identity.ranges

    @property
    def evidence(self) -> Evidence:
        total = self.identity.size_bytes
        return Evidence(url=self.identity.url, received_bytes=self.part.received_bytes, expected_bytes=total)

    def doubts_etag(self, answer: Identity | None) -> bool:
        """Whether an answer that differs by nothing but its ETag is worth another question: some origins make a new one
        for each answer. One that is told twice is real; once two were told, none counts any more."""
        known = self.identity
        if answer is None or not only_etag_differs(known, answer) or answer.etag == self._other_etag:
            return False
        if self._other_etag is not None:
            self.observe(Note("The source's ETag changes with each answer; it is not believed", "warning"))
            self.identity = known.model_copy(update={"etag": None})
        self._other_etag = answer.etag
        return True

    def require_small_enough(self, size: int) -> None:
        largest = self.limits.largest
        if largest is not None and size > largest:
            raise LimitReached(f"The source has more than the {largest} bytes that TIDEGATE_TRANSFER_LARGEST allows")


def only_etag_differs(known: Identity, answer: Identity) -> bool:
    """Whether everything else agrees that both are one file: size, date, digests."""
    same = known.size_bytes is not None and known.size_bytes == answer.size_bytes
    same = same and known.last_modified == answer.last_modified
    other = bool(known.etag and answer.etag and known.etag != answer.etag)
    return other and same and known.model_copy(update={"etag": answer.etag}).same_content_as(answer)


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


class ParallelTry:
    """See the module."""

    def __init__(self, state: TransferState) -> None:
        self._state = state
        self._part = state.part
        self._limits = state.limits
        self._team: list[Connection] = []
        self._load = LoadMeter()
        self._spoiled = False
        """Whether what is here contradicts what came: neither is kept."""
        self._all_was_sent = False
        """Whether a body has ended that says nothing of the size: what is here is everything."""
        self._end_is_certain = True
        self._asked_on = False
        """Whether the last question was what follows the end of an answer that told no size."""
        self._scraps = 0
        """How many such answers in a row have brought next to nothing."""

    async def run(self) -> None:
        """Fetch what is missing.

        Raises:
            TidegateError: why not all of it came.
        """
        over = threading.Event()
        try:
            async with anyio.create_task_group() as siblings:
                siblings.start_soon(in_thread, self._keep, over)
                async with anyio.create_task_group() as workers:
                    siblings.start_soon(self._watch, workers)
                    workers.start_soon(self._work, self._first_piece())
                over.set()
                siblings.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise reason_of(group, is_decisive) from group
        finally:
            over.set()
            await self._keep_what_came()
        self._finish()

    # --- who fetches what --------------------------------------------------------------------------

    def _first_piece(self) -> Piece:
        """Where a lone connection begins. All that is missing is its own, until others join it."""
        have, total = self._part.spans, self._state.identity.size_bytes
        if self._state.until is not None:
            return Piece(have.prefix, self._state.until)
        if total is None or not self._state.by_ranges:
            return Piece(have.prefix, total)
        return next_piece(have, total, (), 0.0) or Piece(total, total)

    def _next_piece(self) -> Piece | None:
        total = self._state.identity.size_bytes
        if self._state.until is not None or total is None or not self._state.by_ranges:
            return None
        pieces = [one.piece for one in self._team]
        fastest = max((piece.window.speed() for piece in pieces if piece.window), default=0.0)
        piece = next_piece(self._part.spans, total, pieces, fastest)
        for one in self._team:
            if one.piece.taken_over:
                one.scope.cancel()
        return piece

    async def _join(self) -> None:
        """One more at work, on what the others leave to it."""
        await self._work(self._next_piece())

    async def _work(self, piece: Piece | None) -> None:
        """One piece after another, until nothing is left that is worth a request."""
        while piece is not None:
            connection = Connection(piece, self._state.connect())
            self._team.append(connection)
            try:
                with connection.scope:
                    await self._fetch(connection)
            except TidegateError as error:
                self._team.remove(connection)
                if error.policy.identifies_again and self._state.doubts_etag(connection.exchange.last_identity):
                    continue
                if error.policy.ends_the_try or not self._team:
                    raise
                self._hand_back(piece)
                # The others go on. One that brought something is replaced; one that the origin refused is not.
                if piece.received < self._limits.gain_bytes:
                    self._state.widening.step_back(self._state.clock(), len(self._team))
                    return
            else:
                self._team.remove(connection)
            if piece.taken_over:
                return
            if not connection.goes_on:
                piece = self._next_piece()

    def _retire(self) -> None:
        """The slowest connection ends; what is left of its piece goes to the others."""
        able = [one for one in self._team if not one.piece.taken_over]
        slowest = min(able, key=lambda one: one.piece.window.speed() if one.piece.window else 0.0)
        slowest.piece.taken_over = True
        slowest.scope.cancel()
        self._hand_back(slowest.piece)

    def _hand_back(self, piece: Piece) -> None:
        """What is left of a piece goes to the connection that comes up to it, where its answer reaches on: an origin
        that refuses a second connection may well refuse the next request too."""
        for one in self._team:
            reaches = one.answer_ends is None or (piece.stop is not None and piece.stop <= one.answer_ends)
            if one.piece is not piece and one.piece.stop == piece.at and reaches and not one.piece.taken_over:
                one.piece.stop = piece.stop
                return

    # --- one connection ----------------------------------------------------------------------------

    async def _fetch(self, connection: Connection) -> None:
        """Ask for a piece and receive it, as far as the answer reaches."""
        state, piece, exchange = self._state, connection.piece, connection.exchange
        start = self._request_start(piece)
        stop = piece.stop if state.trust_ranges and piece.stop != state.identity.size_bytes else None
        connection.answer_ends = stop
        try:
            async with exchange.open(
                start, stop, state.identity, conditional=state.conditional, retry=state.tries > 0
            ) as body:
                self._begin(connection, body)
                await self._receive(connection, body)
        except RangeMismatch:
            if len(self._team) == 1:
                state.trust_ranges = False
            raise
        finally:
            state.requests += exchange.requests
            piece.window = None

    def _request_start(self, piece: Piece) -> int:
        """Where to ask from. Without a validator some bytes are asked for again, to see whether they are the same; but
        whether anything follows is only answered there."""
        if not self._state.by_ranges:
            return 0
        exact = self._state.identity.has_validator or self._asked_on
        return piece.at if exact else max(0, piece.at - OVERLAP_BYTES)

    def _begin(self, connection: Connection, body: Body) -> None:
        """Look at what the answer is before anything of it is taken."""
        state, piece = self._state, connection.piece
        state.promised.update(body.identity.digests)
        state.algorithms = algorithms_for(frozenset(state.promised))
        state.require_small_enough(body.total_bytes or 0)
        self._require_as_long(body)
        if not body.partial and body.start < piece.at:
            if len(self._team) > 1:
                raise RangeMismatch("The origin answers a part with everything", evidence=state.evidence)
            if state.identity.same_validator_as(body.identity):
                state.conditional = False
            piece.stop = state.until if state.until is not None else state.identity.size_bytes
        piece.at = body.start

    def _require_as_long(self, body: Body) -> None:
        """Of a source whose size is not known: is there still what is here, and can more of it be trusted?"""
        if not body.partial:
            return
        if body.total_bytes is not None and body.total_bytes < self._part.spans.end:
            self._spoiled = True
            raise SourceChanged("The source is shorter than what came of it", evidence=self._state.evidence)
        nothing_follows = body.total_bytes == body.start
        if self._asked_on and not nothing_follows and not self._state.identity.has_validator:
            # More does follow, but nothing shows that it belongs to what is here: the next try compares.
            raise TruncatedBody("The source's answer ended early", evidence=self._state.evidence)

    async def _receive(self, connection: Connection, body: Body) -> None:
        piece, before = connection.piece, self._part.received_bytes
        piece.window = SpeedWindow(self._limits.stall_timeout, self._limits.minimum_speed)
        piece.window.record(self._state.clock(), piece.received)
        try:
            await read_in_thread(connection.exchange.abort, self._drain, connection, body)
        except TidegateError as broken:
            if not connection.stalled:
                raise
            seconds = self._limits.stall_timeout.total_seconds()
            message = f"Less than {self._limits.minimum_speed} B/s for {seconds:g} s"
            raise StalledTransfer(message, evidence=self._state.evidence) from broken
        if body.partial and body.total_bytes is None and self._state.identity.size_bytes is None:
            self._ask_on(connection, self._part.received_bytes - before)
        else:
            self._check_end(piece, body)

    def _drain(self, connection: Connection, body: Body) -> None:
        """Runs in a thread: the body into the part, what is there already compared, the beginning sniffed."""
        piece = connection.piece
        if not self._goes_with_what_is_here(body):
            self._part.restart()
        buffer = memoryview(bytearray(BLOCK_BYTES))
        while (room := self._room(piece)) > 0:
            waited = body.waited_seconds
            if not (count := body.readinto(buffer[:room])):
                break
            check_cancellation()
            piece.received += count
            body.report_bytes(piece.received)
            with self._state.counting:
                self._state.bytes_received += count
                self._state.waited_seconds += body.waited_seconds - waited
            connection.at_the_disk = True
            self._take(piece.at, buffer[:count])
            piece.at += count
            if self._part.prefix_bytes >= ENOUGH_BYTES:
                self._sniff(body)
            self._wait_for_the_disk()
            connection.at_the_disk = False

    def _goes_with_what_is_here(self, body: Body) -> bool:
        """Whether a body that has everything may be compared with what is here, instead of replacing it."""
        known, have = self._state.identity, self._part.spans
        if body.partial or not have.each or known.same_validator_as(body.identity):
            return True
        # Without a validator this is the overlap that was asked for on purpose: it begins at the first byte.
        return not known.has_validator and self._state.by_ranges and have.prefix <= OVERLAP_BYTES

    def _room(self, piece: Piece) -> int:
        """How much may be received. The last piece is read beyond its end, to see whether the body has more."""
        stop = piece.stop
        if stop is None or stop == self._state.identity.size_bytes:
            return BLOCK_BYTES
        return min(BLOCK_BYTES, stop - piece.at)

    def _take(self, position: int, block: memoryview) -> None:
        end, total = position + len(block), self._state.identity.size_bytes
        self._state.require_small_enough(end)
        if total is not None and end > total:
            self._spoiled = True
            raise TruncatedBody(f"The body is longer than announced: {end} of {total} bytes")
        for span, held in self._part.spans.cut(Span(position, end)):
            piece = block[span.first - position : span.end - position]
            if not held:
                self._part.write_at(span.first, piece)
                if self._state.follower is not None:
                    self._state.follower.take(span.first, piece, self._state.algorithms)
            elif self._part.read(span.first, span.size) != piece:
                self._spoiled = True
                raise SourceChanged("The source's bytes have changed since the transfer began")

    def _sniff(self, body: Body) -> None:
        """Look at how the source begins, once; what is no media is not kept."""
        if self._state.sniffed:
            return
        try:
            refuse_text(self._part.read(0, min(SNIFF_BYTES, self._part.prefix_bytes)), body.identity.content_type)
        except TidegateError:
            self._spoiled = True
            raise
        self._state.sniffed = True

    def _wait_for_the_disk(self) -> None:
        """A network that is faster than the disk must not run ahead of the journal without end."""
        while self._part.unjournaled_bytes > BEHIND * self._limits.checkpoint_bytes:
            check_cancellation()
            time.sleep(KEEPER_SECONDS)

    def _ask_on(self, connection: Connection, gained: int) -> None:
        """A part of a source of unknown size has ended. It may be less than was asked for (RFC 9110 §15.3.7), so its
        end says nothing: only the next answer does, with a 416, the size, or everything."""
        piece = connection.piece
        if piece.stop is not None and piece.at >= piece.stop:
            return
        self._scraps = 0 if gained >= self._limits.gain_bytes else self._scraps + 1
        if self._scraps > 1:
            message = "The source answers with next to nothing, and does not say how long it is"
            raise TruncatedBody(message, evidence=self._state.evidence)
        connection.goes_on = self._asked_on = True

    def _check_end(self, piece: Piece, body: Body) -> None:
        """The body has ended, or was left: is the piece here?"""
        known = self._state.identity.size_bytes
        total = body.total_bytes if body.total_bytes is not None else known
        # An answer without length still belongs to a source whose size is known.
        self._end_is_certain = body.end_is_certain or (body.total_bytes is None and known is not None)
        if total is None:
            # Nobody has said how long it is: it ends where the body does, even before what was to be looked at.
            if piece.stop is None or piece.at < piece.stop:
                self._all_was_sent = True
                self._sniff(body)
            return
        stop = total if piece.stop is None else min(piece.stop, total)
        if piece.at < stop and not piece.taken_over:
            received = self._part.received_bytes
            message = f"The body ended after {received} of {total} bytes"
            raise TruncatedBody(message, evidence=self._state.evidence)
        if piece.at == total:
            self._all_was_sent = True
            self._sniff(body)

    def _finish(self) -> None:
        """The connections are done: is the source here as a whole?"""
        total = self._state.identity.size_bytes
        if self._all_was_sent if total is None else self._part.prefix_bytes >= total:
            self._part.finish(end_is_certain=self._end_is_certain)

    # --- beside them -------------------------------------------------------------------------------

    def _keep(self, over: threading.Event) -> None:
        """Runs in a thread: journals when it is due, and hashes behind what has come."""
        state = self._state
        while not over.is_set():
            check_cancellation()
            due = self._part.checkpoint_is_due(state.clock())
            if due:
                self._part.checkpoint(state.clock())
            hashed = state.follower.follow(state.algorithms) if state.follower and state.algorithms else 0
            if not due and not hashed:
                over.wait(KEEPER_SECONDS)

    async def _keep_what_came(self) -> None:
        """However the try ended: forget what is spoiled, else make it durable."""
        # Where that cannot be written, the failure that ended the try says more.
        with anyio.CancelScope(shield=True), contextlib.suppress(OSError, TidegateError):
            if self._spoiled:
                await in_thread(self._part.restart)
            elif self._part.unjournaled_bytes:
                await in_thread(self._part.checkpoint, self._state.clock())

    async def _watch(self, workers: TaskGroup) -> None:
        """The stall clocks, the deadline and the number of connections: it looks at bytes and never waits for one."""
        state, limits = self._state, self._limits
        whole = SpeedWindow(limits.stall_timeout, limits.minimum_speed)
        # No shorter than the stall clocks': a silence that they allow is none of the deadline's business.
        pace = DownloadSpeed(limits.minimum_speed, max(SPEED_WINDOW, limits.stall_timeout))
        whole.record(state.clock(), state.bytes_received)
        tick = min(limits.stall_tick, limits.stall_timeout).total_seconds()
        step = min(tick, LOOK_SECONDS)
        next_tick = state.clock() + tick
        next_show = state.clock() + min(tick, SHOWN_SECONDS)
        while True:
            await anyio.sleep(step)
            now = state.clock()
            self._clock_speeds(now)
            pace.record(now, state.bytes_received, could_come=self._waits_for_bytes())
            if now >= next_tick:
                whole.record(now, state.bytes_received)
                if not self._abort_stalls():
                    self._keep_the_deadline(pace.speed(), now)
                next_tick = now + tick
            if now >= next_show:
                self._show(whole.speed())
                next_show = now + min(tick, SHOWN_SECONDS)
            self._widen(workers, now)

    def _clock_speeds(self, now: float) -> None:
        for connection in self._team:
            window = connection.piece.window
            if window is not None and connection.at_the_disk:
                connection.piece.window = window = SpeedWindow(window.window, window.minimum_speed)
            if window is not None:
                window.record(now, connection.piece.received)

    def _waits_for_bytes(self) -> bool:
        """Whether an answer is being read, and not only a gate, a head or the disk waited for."""
        return any(one.piece.window is not None and not one.at_the_disk for one in self._team)

    def _abort_stalls(self) -> bool:
        """Break off what has stalled; whether anything has."""
        stalled = [one for one in self._team if one.piece.window is not None and one.piece.window.is_stalled()]
        for connection in stalled:
            connection.stalled = True
            connection.exchange.abort()
        return bool(stalled)

    def _keep_the_deadline(self, pace: float | None, now: float) -> None:
        if pace is None:
            return
        elapsed = now - self._state.started
        limit = download_seconds(
            least=self._limits.deadline,
            elapsed=elapsed,
            remaining_bytes=self._bytes_left(),
            speed=slower_of(pace, self._state.bytes_received, elapsed),
            minimum_speed=self._limits.minimum_speed,
            load=self._load.sample(),
        )
        if limit is not None and elapsed > limit:
            raise DownloadDeadline(f"Not complete after {elapsed:.0f} s", evidence=self._state.evidence)

    def _widen(self, workers: TaskGroup, now: float) -> None:
        """Another connection where that helps, one less where it did not."""
        state, missing = self._state, self._bytes_left()
        if not (state.until is None and state.by_ranges and state.identity.has_validator and state.sniffed):
            return
        change = state.widening.look(now, state.bytes_received, state.waited_seconds, len(self._team), missing or 0)
        if missing is not None and missing >= WIDE_BYTES:
            for _ in range(change):
                workers.start_soon(self._join)
        for _ in range(min(-change, len(self._team) - 1)):
            self._retire()

    def _bytes_left(self) -> int | None:
        total = self._state.identity.size_bytes
        return None if total is None else max(0, total - self._part.received_bytes)

    def _show(self, speed: float) -> None:
        total = self._state.identity.size_bytes
        self._state.observe(Advance(self._state.stage, self._part.received_bytes, total, "bytes", speed or None))

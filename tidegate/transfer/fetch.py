"""The fetch loop: one source into one part, through as many tries as it takes and may take.

The probe and download stages call it. Each try is a task group of three: a thread that receives, a stall clock on
its own tick, and a watcher that breaks the connection when the others have to end. What a try received stays in the
part, so a crash or a cut costs at most what was not journaled yet.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from tidegate.durable.threads import in_thread, still_wanted
from tidegate.errors import (
    DownloadDeadline,
    Evidence,
    RangeMismatch,
    SourceChanged,
    StalledTransfer,
    TidegateError,
    TruncatedBody,
    WrongDigest,
    reason_of,
)
from tidegate.events import Advance, Observer
from tidegate.model import Digest, Identity, TransferStats
from tidegate.resilience.deadline import download_seconds
from tidegate.resilience.retry import Retry
from tidegate.resilience.stall import SpeedWindow
from tidegate.settings import TransferSettings
from tidegate.transfer.exchange import Body, Connect, Exchange, call_within
from tidegate.transfer.part import Part
from tidegate.transfer.verify import ENOUGH_BYTES, SNIFF_BYTES, check_digests, refuse_text

OVERLAP_BYTES = 64 * 1024
"""How much is fetched again and compared when a source has no validator to resume by."""


@dataclass
class Fetch:
    """One transfer: the source's bytes from where the part ends, up to `until` (None: to the end)."""

    connect: Connect
    part: Part
    limits: TransferSettings
    observe: Observer
    stage: str = "download"
    until: int | None = None
    promised: set[Digest] = field(default_factory=set)
    """Digests that the whole file must have; those that the source sends along are added."""
    blake3: Digest | None = None
    """The whole file's digest, once it is complete and checked."""
    clock: Callable[[], float] = time.monotonic
    requests: int = 0
    bytes_received: int = 0
    _trust_ranges: bool = field(default=True)
    _conditional: bool = True
    """Whether a range is asked for with If-Range: some caches answer that with everything, although nothing changed."""
    _sniffed: bool = False
    _started: float = 0.0
    _seconds: float = 0.0
    _reused: int = 0
    _retries: int = 0

    async def run(self) -> TransferStats:
        """Receive until the part is complete, or reaches `until`.

        Raises:
            TidegateError: the last try's failure, when the budget of tries is spent or the failure allows none.
        """
        self._started = self.clock()
        self._reused = self.part.received_bytes
        retry = Retry(self.limits, self.observe, self.stage, furthest=self._reused)
        async for attempt in retry.attempts():
            with attempt:
                try:
                    await self._try()
                finally:
                    retry.reached(self.part.received_bytes)
        self._retries, self._seconds = retry.retries, self.clock() - self._started
        return self.stats

    @property
    def stats(self) -> TransferStats:
        """What it has cost until now."""
        return TransferStats(
            requests=self.requests,
            retries=self._retries,
            bytes_received=self.bytes_received,
            bytes_reused=self._reused,
            seconds=self._seconds,
        )

    async def _try(self) -> None:
        if not self._done():
            await self._transfer()
        if self.part.complete and self.until is None:
            await self._verify()

    async def _verify(self) -> None:
        try:
            self.blake3 = await in_thread(check_digests, self.part.path, frozenset(self.promised), still_wanted)
        except WrongDigest:
            self.part.restart()
            raise

    async def _transfer(self) -> None:
        exchange = self.connect()
        start, stop = self._start(), self.until if self._trust_ranges else None
        known, conditional = self.part.identity, self._conditional
        try:
            body = await call_within(
                self.limits.request_timeout,
                exchange,
                lambda: exchange.open(start, stop, known, conditional=conditional),
            )
        except RangeMismatch:
            self._trust_ranges = False
            raise
        finally:
            self.requests += exchange.requests
        if start > 0 and body.start == 0 and known.same_validator_as(body.identity):
            self._conditional = False
        self.promised.update(body.identity.digests)
        await self._receive(exchange, body)

    def _done(self) -> bool:
        reached = self.until is not None and self.part.received_bytes >= self.until
        return self.part.complete or reached

    def _start(self) -> int:
        """Where to ask from. Without a validator some bytes are asked for again, to see whether they are the same."""
        received = self.part.received_bytes
        if not (self._trust_ranges and self.part.identity.ranges):
            return 0
        return received if self.part.identity.has_validator else max(0, received - OVERLAP_BYTES)

    async def _receive(self, exchange: Exchange, body: Body) -> None:
        try:
            async with anyio.create_task_group() as siblings:
                siblings.start_soon(_abort_at_end, exchange)
                siblings.start_soon(self._watch, exchange)
                await in_thread(self._drain, body, give_up=exchange.abort)
                siblings.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # A verdict of the clock comes before the broken read that it caused.
            raise reason_of(group, (StalledTransfer, DownloadDeadline)) from group
        self._check_end(body)

    def _drain(self, body: Body) -> None:
        """Runs in a thread: everything of the body into the part, the overlap compared, the beginning sniffed."""
        with body:
            try:
                self._take_all(body)
            except BaseException:
                with contextlib.suppress(OSError, TidegateError):  # the failure that ended the try says more
                    self.part.checkpoint(self.clock())
                raise
            self.part.checkpoint(self.clock())

    def _take_all(self, body: Body) -> None:
        position = body.start
        if position == 0 and not self._overlaps(0):
            self.part.restart()
        for chunk in body:
            self.bytes_received += len(chunk)
            position = self._take(position, chunk, body)
            if self.until is not None and self.part.received_bytes >= self.until:
                break

    def _overlaps(self, start: int) -> bool:
        """Whether the bytes from `start` on are those that were asked for again on purpose."""
        unvalidated = not self.part.identity.has_validator and self.part.identity.ranges and self._trust_ranges
        return unvalidated and start < self.part.received_bytes <= start + OVERLAP_BYTES

    def _take(self, position: int, chunk: bytes, body: Body) -> int:
        known = min(max(self.part.received_bytes - position, 0), len(chunk))
        if known and self.part.read(position, known) != chunk[:known]:
            raise SourceChanged("The source's bytes have changed since the transfer began")
        self.part.write(chunk[known:], self.clock())
        if self.part.received_bytes >= ENOUGH_BYTES:
            self._sniff(body)
        return position + len(chunk)

    def _sniff(self, body: Body) -> None:
        """Look at how the source begins, once; what is no media is not kept."""
        if self._sniffed:
            return
        try:
            refuse_text(self.part.read(0, min(SNIFF_BYTES, self.part.received_bytes)), body.identity.content_type)
        except TidegateError:
            self.part.restart()
            raise
        self._sniffed = True

    def _check_end(self, body: Body) -> None:
        received, total = self.part.received_bytes, body.total_bytes
        told_before = total is None and self.part.identity.size_bytes is not None
        if told_before:  # an answer without length still belongs to a source whose size is known
            total = self.part.identity.size_bytes
        if self.until is not None and received >= self.until and received != total:
            return
        if total is not None and received < total:
            raise TruncatedBody(
                f"The body ended after {received} of {total} bytes",
                evidence=Evidence(url=self.part.identity.url, received_bytes=received, expected_bytes=total),
            )
        if total is not None and received > total:
            self.part.restart()
            raise TruncatedBody(f"The body is longer than announced: {received} of {total} bytes")
        self._sniff(body)
        self.part.finish(end_is_certain=body.end_is_certain or told_before)

    async def tail(self, start: int) -> bytes | None:
        """The bytes from `start` to the end, in memory; None when the source does not serve them.

        A hint only, so never retried. What it costs counts as this transfer's.
        """
        known = self.part.identity
        if not known.ranges or known.size_bytes is None:
            return None
        exchange, end = self.connect(), known.size_bytes

        def read() -> bytes | None:
            with exchange.open(start, end, known) as body:
                return self._counted(body, end - start) if body.start == start else None

        try:
            return await call_within(self.limits.request_timeout, exchange, read)
        except SourceChanged:
            raise
        except TidegateError:
            return None
        finally:
            self.requests += exchange.requests

    def _counted(self, body: Body, most: int) -> bytes:
        """The body's bytes, no more than `most` of them: a length is announced, and need not be kept."""
        taken = bytearray()
        for chunk in body:
            self.bytes_received += len(chunk)
            taken += chunk
            if len(taken) >= most:
                break
        return bytes(taken[:most])

    async def _watch(self, exchange: Exchange) -> None:
        """The stall clock and the deadline: they look at the bytes that came, and never wait for one."""
        window = SpeedWindow(self.limits.stall_timeout, self.limits.minimum_speed)
        window.record(self.clock(), self.bytes_received)
        tick = min(self.limits.stall_tick, self.limits.stall_timeout).total_seconds()
        shown = min(tick, 1.0)
        next_look = self.clock() + tick
        while True:
            await anyio.sleep(shown)
            now = self.clock()
            self._show(window.speed())
            if now >= next_look:
                window.record(now, self.bytes_received)
                self._judge(window, now)
                next_look = now + tick

    def _judge(self, window: SpeedWindow, now: float) -> None:
        evidence = Evidence(url=self.part.identity.url, received_bytes=self.part.received_bytes)
        if window.stalled():
            seconds = self.limits.stall_timeout.total_seconds()
            raise StalledTransfer(f"Less than {self.limits.minimum_speed} B/s for {seconds:g} s", evidence=evidence)
        elapsed = now - self._started
        limit = download_seconds(
            least=self.limits.deadline,
            elapsed=elapsed,
            remaining_bytes=self._remaining(),
            speed=min(window.speed(), self.bytes_received / elapsed if elapsed > 0 else 0.0),
            minimum_speed=self.limits.minimum_speed,
        )
        if limit is not None and elapsed > limit:
            raise DownloadDeadline(f"Not complete after {elapsed:.0f} s", evidence=evidence)

    def _remaining(self) -> int | None:
        total = self.part.identity.size_bytes
        return None if total is None else max(0, total - self.part.received_bytes)

    def _show(self, speed: float) -> None:
        total = self.part.identity.size_bytes
        self.observe(Advance(self.stage, self.part.received_bytes, total, "bytes", speed or None))


async def identify(connect: Connect, limits: TransferSettings, observe: Observer) -> tuple[Identity, TransferStats]:
    """Ask what the source is: one request, more only when it fails in a way that may pass.

    Raises:
        TidegateError: the last try's failure.
    """
    retry = Retry(limits, observe, "identify")
    requests = 0
    async for attempt in retry.attempts():
        with attempt:
            exchange = connect()
            try:
                identity = await call_within(limits.request_timeout, exchange, exchange.identify)
            finally:
                requests += exchange.requests
            return identity, TransferStats(requests=requests, retries=retry.retries)
    raise AssertionError("tenacity either returns or raises")


async def _abort_at_end(exchange: Exchange) -> None:
    """Break the connection when the group ends, so that a thread blocked in a read ends with it."""
    try:
        await anyio.sleep_forever()
    finally:
        exchange.abort()

"""One transfer: a source's bytes into a part, in as many tries as that takes and may take.

`fetch_file` makes one for each origin, `peek` one for a beginning, the local resolver one for a copy. What a try
received stays in the part, so a crash or a cut costs at most what was not journaled yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from tidegate.durable.threads import in_thread
from tidegate.errors import LimitReached, TidegateError, WrongDigest
from tidegate.events import Observer
from tidegate.model import Digest, Identity, TransferStats
from tidegate.resilience.retry import Retry
from tidegate.settings import TransferSettings
from tidegate.transfer.asking.conversation import read_in_thread
from tidegate.transfer.file.exchange import Body, Connect, Exchange
from tidegate.transfer.file.follow import Follower
from tidegate.transfer.file.parallel import ParallelTry
from tidegate.transfer.file.part import Part
from tidegate.transfer.file.state import KnownSource, TransferState
from tidegate.transfer.file.tuner import ConnectionTuner
from tidegate.transfer.verify import algorithms_for, require_digests

SMALL_BYTES = 10 * 1000**2
"""Up to which size `small_limit` is the hard end of a transfer."""


@dataclass
class Transfer:
    """One transfer: the source's bytes that the part lacks, up to `until` (None: to the end)."""

    connect: Connect
    part: Part
    limits: TransferSettings
    observe: Observer
    stage: str = "download"
    until: int | None = None
    promised: set[Digest] = field(default_factory=set)
    """Digests that the whole file must have; those that the source sends along are added."""
    identity: Identity | None = None
    """What the origin asked says the source is, where that is another one than the part's."""
    blake3: Digest | None = None
    """The whole file's digest, once it is complete and checked."""
    distrust: Callable[[], None] = lambda: None
    """Told that the bytes of all places together were not what was promised."""
    tries: Retry | None = None
    """The budget of what this is a piece of; None: one of its own."""
    clock: Callable[[], float] = time.monotonic
    _seconds: float = 0.0
    _reused: int = 0
    _retries: int = 0

    def __post_init__(self) -> None:
        self._state = TransferState(
            connect=self.connect,
            part=self.part,
            source=KnownSource(self.identity or self.part.identity, self.promised),
            limits=self.limits,
            observe=self.observe,
            stage=self.stage,
            until=self.until,
            clock=self.clock,
            tuner=ConnectionTuner(self.limits.connections),
            follower=Follower(self.part) if self.until is None else None,
        )

    async def run(self) -> TransferStats:
        """Receive until the part is complete, or reaches `until`.

        Raises:
            LimitReached: a limit that somebody set.
            TidegateError: the last try's failure, when the budget of tries is spent or the failure allows none.
        """
        state = self._state
        state.counts.started = self.clock()
        state.require_small_enough(state.source.size_bytes or 0)
        self._reused = self.part.received_bytes
        retry = self.tries or Retry(self.limits, self.observe, self.stage)
        retry.begin_at(self._reused)

        async def one_try() -> None:
            try:
                await self._try()
            finally:
                retry.note_progress(self.part.received_bytes)
                state.counts.tries += 1

        try:
            with anyio.move_on_after(self._hard_end()) as hard:
                await retry.run(one_try)
        finally:
            self._retries, self._seconds = retry.retries, self.clock() - state.counts.started
        if hard.cancelled_caught:
            raise LimitReached(f"The transfer took longer than the {self._hard_end():g} s that it may")
        return self.stats

    @property
    def stats(self) -> TransferStats:
        """What it has cost until now."""
        return TransferStats(
            requests=self._state.counts.requests,
            retries=self._retries,
            bytes_received=self._state.counts.bytes_received,
            bytes_reused=self._reused,
            seconds=self._seconds,
        )

    def _hard_end(self) -> float | None:
        size, limits = self._state.source.size_bytes, self.limits
        ends = [limits.limit, limits.small_limit if size is not None and size < SMALL_BYTES else None]
        return min((end.total_seconds() for end in ends if end is not None), default=None)

    async def _try(self) -> None:
        if not self._is_done():
            await ParallelTry(self._state).run()
        # A look verifies what it has seen whole; what an earlier run left complete is the download's to read.
        if self.part.complete and (self.until is None or self.part.prefix_bytes <= self.until):
            await self._verify()

    def _is_done(self) -> bool:
        reached = self.until is not None and self.part.prefix_bytes >= self.until
        return self.part.complete or reached

    async def _verify(self) -> None:
        promised = frozenset(self.promised)
        follower = self._state.follower or Follower(self.part)
        try:
            found = await in_thread(follower.digests, algorithms_for(promised))
            require_digests(found, promised)
        except WrongDigest:
            self.distrust()
            await in_thread(self.part.restart)
            raise
        self.blake3 = found["blake3"]

    async def tail(self, start: int) -> bytes | None:
        """The bytes from `start` to the end, in memory; None when the source does not serve them.

        A hint only, so never retried. What it costs counts as this transfer's.
        """
        known = self._state.source.identity
        if not known.ranges or known.size_bytes is None:
            return None
        exchange = self.connect()
        try:
            with anyio.fail_after(self.limits.request_timeout.total_seconds()):
                return await self._tail(exchange, start, known.size_bytes)
        except TimeoutError:
            return None
        except TidegateError as error:
            if error.policy.identifies_again:
                raise
            return None
        finally:
            self._state.counts.requests += exchange.requests

    async def _tail(self, exchange: Exchange, start: int, end: int) -> bytes | None:
        async with exchange.open(start, end, self._state.source.identity) as body:
            if body.start != start:
                return None
            return await read_in_thread(exchange.abort, self._read_at_most, body, end - start)

    def _read_at_most(self, body: Body, most: int) -> bytes:
        """The body's bytes, no more than `most` of them: a length is announced, and need not be kept."""
        taken = memoryview(bytearray(most))
        filled = 0
        while filled < most and (count := body.readinto(taken[filled:])):
            filled += count
            body.report_bytes(filled)
            self._state.counts.bytes_received += count
        return bytes(taken[:filled])

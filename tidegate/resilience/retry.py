"""The one rule by which a stage tries again: who may, how often, and after which pause.

The transfer layer makes each call to the outside by `Retry.run`. What a failure allows and costs stands in its row of
`errors.POLICIES`. Two budgets are kept apart: tries in a row without gain, and time spent waiting because the source
said so. Nothing survives a crash; a new run starts with a full budget.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import anyio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from tidegate.errors import Inside, Policy, TidegateError
from tidegate.events import Note, Observer, Waiting
from tidegate.settings import TransferSettings

SHOWN_SECONDS = 2.0
"""A wait that the source asked for is shown to a person when it is longer."""

T = TypeVar("T")


@dataclass(frozen=True)
class RetryClock:
    """Time and chance, passed in so that no test waits for a pause."""

    rng: random.Random = field(default_factory=random.Random)
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    now: Callable[[], float] = time.monotonic


@dataclass
class Tally:
    """What the tries of one call have gained, and what those that failed have used up."""

    futile: int = 0
    """Tries in a row that gained too little."""
    refetches: int = 0
    requests_to_wait: int = 0
    furthest: int = 0
    """The most bytes that any try has reached, or that were there before the first."""
    gained: bool = False
    """Whether the last try gained enough."""

    def count(self, policy: Policy) -> None:
        """One more try failed."""
        if policy.refetch_once:
            self.refetches += 1
        elif policy.asks_to_wait:
            self.requests_to_wait += 1
        else:
            self.futile = 0 if self.gained else self.futile + 1


@dataclass
class AskedPauses:
    """The time for which the source asked to be left alone, in one transfer with all its pieces."""

    seconds: float = 0.0
    _until: float = 0.0

    def add(self, seconds: float, now: float) -> None:
        """One more pause, from `now`; where pieces wait at the same time, that time counts once."""
        self.seconds += max(0.0, now + seconds - max(now, self._until))
        self._until = max(self._until, now + seconds)


@dataclass
class Retry:
    """Budgets and pauses of one transfer."""

    limits: TransferSettings
    observe: Observer
    what: str
    """What is tried, for the log: "download"."""
    clock: RetryClock = field(default_factory=RetryClock)
    tries: int | None = None
    """Tries in a row that may gain too little; None: as the limits say."""
    whole: Retry | None = None
    """The transfer of which this is a piece."""
    asked: AskedPauses = field(default_factory=AskedPauses)
    """Shared with the pieces."""
    tally: Tally = field(default_factory=Tally)
    pause_seconds: float = 0.0
    """How long to wait after the last failure."""
    retries: int = 0
    """Its own, and those of its pieces."""

    def piece(self, what: str, extra: int) -> Retry:
        """The budget of one of many pieces of a transfer, such as a segment: a few tries of its own, and the
        transfer's time for being throttled. Pieces that wait at the same time use it up once."""
        whole = self.whole or self
        return Retry(self.limits, self.observe, what, self.clock, tries=1 + extra, whole=whole, asked=self.asked)

    async def run(self, one_try: Callable[[], Awaitable[T]]) -> T:
        """The result of the first try that succeeds.

        Raises:
            TidegateError: the last try's failure, when the budget is spent or the failure allows no other try. Where
                our own failures opened the origin's breaker, the one that did.
        """
        tries = AsyncRetrying(
            retry=retry_if_exception(is_retryable),
            stop=lambda _: self._is_spent(),
            wait=lambda _: self.pause_seconds,
            before_sleep=self._note_retry,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return await tries(self._try_once, one_try)
        except TidegateError as error:
            if error.own is not None:
                raise error.own from error.__cause__
            raise

    async def _try_once(self, one_try: Callable[[], Awaitable[T]]) -> T:
        try:
            return await one_try()
        except TidegateError as error:
            if is_retryable(error):
                self._count(error)
            raise

    def _count(self, error: TidegateError) -> None:
        self.tally.count(error.policy)
        self.pause_seconds = self._pause_after(error)
        if error.policy.asks_to_wait or error.retry_after_seconds is not None:
            self.asked.add(self.pause_seconds, self.clock.now())

    def begin_at(self, received_bytes: int) -> None:
        """Say how much was there before: bytes of an earlier run are no gain of this one."""
        self.tally.furthest = max(self.tally.furthest, received_bytes)

    def note_progress(self, received_bytes: int) -> None:
        """Say how far the transfer is. Only ground never covered before counts, or a source without ranges that
        always drops at half would be tried for ever."""
        self.tally.gained = received_bytes - self.tally.furthest >= self.limits.gain_bytes
        self.begin_at(received_bytes)

    @property
    def most_tries(self) -> int:
        """Tries in a row that may gain too little."""
        return self.tries or self.limits.tries

    def _is_spent(self) -> bool:
        return (
            self.tally.futile >= self.most_tries
            or self.tally.refetches > 1
            or self.asked.seconds > self.limits.throttle_budget.total_seconds()
        )

    def _pause_after(self, error: TidegateError) -> float:
        policy = error.policy
        pause = error.retry_after_seconds  # 0, or a date that has passed, says nothing: obeying it would be hammering
        if not pause:
            at_once = policy.inside is Inside.AT_ONCE and self.tally.futile <= 1
            pause = 0.0 if at_once else self._backoff()
        return max(policy.least_pause_seconds, pause)

    def _backoff(self) -> float:
        failed = self.tally.futile + self.tally.requests_to_wait
        return full_jitter(failed, self.limits.backoff_base, self.limits.backoff_cap, self.clock.rng)

    def _note_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, TidegateError):  # is_retryable lets nothing else through
            return
        self.retries += 1
        if self.whole is not None:
            self.whole.retries += 1
        pause = self.pause_seconds
        when = f"in {pause:.1f} s" if pause else "at once"
        self.observe(
            Note(
                f"{self.what}: {error.message}; trying again {when}",
                "warning",
                {"failure": error.type, "try": self.tally.futile, "tries": self.most_tries},
            )
        )

    async def _sleep(self, seconds: float) -> None:
        if seconds <= SHOWN_SECONDS:
            await self.clock.sleep(seconds)
            return
        self.observe(Waiting(f"{self.what}: the source gets a pause of {seconds:.0f} s"))
        try:
            await self.clock.sleep(seconds)
        finally:
            self.observe(Waiting(None))


def is_retryable(error: BaseException) -> bool:
    """Whether the call may be made again here: other retries are the flow's, the resolver's, or nobody's."""
    return isinstance(error, TidegateError) and error.policy.inside is not Inside.NO


def full_jitter(tries: int, base: timedelta, cap: timedelta, rng: random.Random) -> float:
    """Seconds to wait after the given number of futile tries: uniform in (half of base, base · 2^(tries-1)), capped.

    Full jitter after M. Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015), with a floor so that
    two tries never follow each other at once.
    """
    doublings = min(max(tries - 1, 0), 64)  # beyond, every cap is reached, and a timedelta would overflow
    ceiling = min(base.total_seconds() * 2**doublings, cap.total_seconds())
    return rng.uniform(min(base.total_seconds() / 2, ceiling), ceiling)

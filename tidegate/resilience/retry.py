"""The one rule by which a stage tries again: who may, how often, and after which pause.

The transfer layer makes each call to the outside by `Retry.run` (tenacity underneath). Two budgets are kept apart:
tries in a row without gain, and time spent waiting because the source said so. Nothing survives a crash; a new run
starts with a full budget.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import anyio
from tenacity import AsyncRetrying, AttemptManager, RetryCallState, retry_if_exception

from tidegate.errors import CircuitOpen, Inside, Throttled, TidegateError, WrongDigest
from tidegate.events import Note, Observer, Waiting
from tidegate.settings import TransferSettings

LEAST_THROTTLED_SECONDS = 1.0
"""The shortest pause for an origin that asks to be spared, whatever it says and whatever is set."""

TOLD_SECONDS = 2.0
"""A wait that the source asked for is told to a person when it is longer."""

T = TypeVar("T")

_NOT_HERE = frozenset({Inside.NO, Inside.IDENTIFY_AGAIN, Inside.RESOLVE_ONCE, Inside.WAIT})
"""Retries that others own: the flow, the resolver, the admission, or nobody."""


@dataclass
class Retry:
    """Budgets and pauses of one transfer."""

    limits: TransferSettings
    observe: Observer
    what: str
    """What is tried, for the log: "download"."""
    rng: random.Random = field(default_factory=random.Random)
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    clock: Callable[[], float] = time.monotonic
    tries: int | None = None
    """Tries in a row that may gain too little; None: as the limits say."""
    within: Retry | None = None
    """The transfer of which this is a piece: it shares the waiting that the source asks for."""
    futile: int = 0
    """Tries in a row that gained too little."""
    refetches: int = 0
    throttles: int = 0
    throttled_seconds: float = 0.0
    retries: int = 0
    furthest: int = 0
    """The most bytes that any try has reached, or that were there before the first."""
    _gained: bool = False
    _next_pause: float = 0.0
    _spared_until: float = 0.0

    def piece(self, what: str, extra: int = 2) -> Retry:
        """The budget of one of many pieces of a transfer, such as a segment: a few tries of its own, and the
        transfer's time for being throttled. Pieces that wait at the same time use it up once."""
        return Retry(
            self.limits,
            self.observe,
            what,
            self.rng,
            self.sleep,
            self.clock,
            tries=1 + extra,
            within=self.within or self,
        )

    async def run(self, one_try: Callable[[], Awaitable[T]]) -> T:
        """The result of the first try that succeeds.

        Raises:
            TidegateError: the last try's failure, when the budget is spent or the failure allows no other try. Where
                our own failures opened the origin's breaker, the one that did.
        """
        try:
            async for attempt in self.attempts():
                with attempt:
                    return await one_try()
        except CircuitOpen as error:
            raise (error.own or error) from error.__cause__
        raise AssertionError("tenacity either returns or raises")

    def attempts(self) -> AsyncIterator[AttemptManager]:
        """Tenacity's attempts; each is used as a context manager around one try."""
        return AsyncRetrying(
            retry=retry_if_exception(self._may_retry),
            stop=self._spent,
            wait=self._pause,
            before_sleep=self._tell,
            sleep=self._sleep,
            reraise=True,
        ).__aiter__()

    def reached(self, received_bytes: int) -> None:
        """Tell how far the transfer is. Only ground never covered before counts, or a source without ranges that
        always drops at half would be tried for ever."""
        self._gained = received_bytes - self.furthest >= self.limits.gain_bytes
        self.furthest = max(self.furthest, received_bytes)

    def _may_retry(self, error: BaseException) -> bool:
        if not isinstance(error, TidegateError) or error.policy.inside in _NOT_HERE:
            return False
        self._count(error)
        return True

    def _count(self, error: TidegateError) -> None:
        if isinstance(error, WrongDigest):
            self.refetches += 1
        elif isinstance(error, Throttled):
            self.throttles += 1
        else:
            self.futile = 0 if self._gained else self.futile + 1
        least = LEAST_THROTTLED_SECONDS if isinstance(error, Throttled) else 0.0
        self._next_pause = max(least, self._pause_after(error))
        if error.retry_after_seconds is not None or isinstance(error, Throttled):
            if self.within is not None:
                self.within._spare(self._next_pause)
            else:
                self.throttled_seconds += self._next_pause

    def _spare(self, seconds: float) -> None:
        """Count the time that pieces leave the source alone for; where they do at once, once."""
        now = self.clock()
        self.throttled_seconds += max(0.0, now + seconds - max(now, self._spared_until))
        self._spared_until = max(self._spared_until, now + seconds)

    def _spent(self, state: RetryCallState) -> bool:
        return (
            self.futile >= (self.tries or self.limits.tries)
            or self.refetches > 1
            or (self.within or self).throttled_seconds > self.limits.throttle_budget.total_seconds()
        )

    def _pause(self, state: RetryCallState) -> float:
        return self._next_pause

    def _pause_after(self, error: TidegateError) -> float:
        if error.retry_after_seconds:  # 0, or a date that has passed, says nothing: obeying it would be hammering
            return error.retry_after_seconds
        at_once = error.policy.inside in (Inside.AT_ONCE, Inside.RESTART, Inside.REFETCH_ONCE) and self.futile <= 1
        return 0.0 if at_once else self._backoff()

    def _backoff(self) -> float:
        return full_jitter(self.futile + self.throttles, self.limits.backoff_base, self.limits.backoff_cap, self.rng)

    async def _tell(self, state: RetryCallState) -> None:
        error = _error(state)
        self.retries += 1
        if self.within is not None:
            self.within.retries += 1
        pause = state.next_action.sleep if state.next_action else 0.0
        when = f"in {pause:.1f} s" if pause else "at once"
        self.observe(
            Note(
                f"{self.what}: {error.message}; trying again {when}",
                "warning",
                {"failure": error.type, "try": self.futile, "tries": self.tries or self.limits.tries},
            )
        )

    async def _sleep(self, seconds: float) -> None:
        if seconds <= TOLD_SECONDS:
            await self.sleep(seconds)
            return
        self.observe(Waiting(f"{self.what}: the source gets a pause of {seconds:.0f} s"))
        try:
            await self.sleep(seconds)
        finally:
            self.observe(Waiting(None))


def full_jitter(tries: int, base: timedelta, cap: timedelta, rng: random.Random) -> float:
    """Seconds to wait after the given number of futile tries: uniform in (half of base, base · 2^(tries-1)), capped.

    Full jitter after M. Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015), with a floor so that
    two tries never follow each other at once.
    """
    doublings = min(max(tries - 1, 0), 64)  # beyond, every cap is reached, and a timedelta would overflow
    ceiling = min(base.total_seconds() * 2**doublings, cap.total_seconds())
    return rng.uniform(min(base.total_seconds() / 2, ceiling), ceiling)


def _error(state: RetryCallState) -> TidegateError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, TidegateError)  # noqa: S101  # _may_retry lets nothing else through
    return error

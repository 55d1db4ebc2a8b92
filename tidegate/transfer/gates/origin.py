"""What one run has of one origin: connections that it leases, calls under way, calls that wait, what it has to tell.

`Gates` keeps one for each origin, calls it under a lock, and carries its questions and the answers between it and the
records of origins. It touches nothing outside, and all of it is lost with the process: the records drop what it held.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections import deque
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from tidegate.errors import CircuitOpen, Evidence, TidegateError
from tidegate.model import OriginStats
from tidegate.resilience.breaker import BreakerState, is_suspect, reason
from tidegate.resilience.sharing import Call, CallResult, Grant, ShareAnswer, ShareRequest, spacing_seconds
from tidegate.settings import GateSettings

AGAIN_SECONDS = 0.25
"""How often a run that waits for its turn asks for it."""
PROBE_SECONDS = 10.0
"""How long a call waits for what a half-open breaker's probes find out, before it counts as refused."""
TELL_SECONDS = 5.0
"""How long the successes of an origin that is well may stay untold."""
NEVER = float("-inf")


class Waiter:
    """A call that waits to be let through."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.verdict: Grant | CircuitOpen | None = None
        """Set under the lock; who gives up waiting finds here what he has to give back."""
        self._loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] = self._loop.create_future()

    def settle(self, verdict: Grant | CircuitOpen) -> None:
        """Call it back; from any thread."""
        self.verdict = verdict
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._wake)

    async def wait(self) -> None:
        await self._woken

    def _wake(self) -> None:
        if not self._woken.done():
            self._woken.set_result(None)


@dataclass
class Gate:
    """The gate of one run to one origin. Times are of the clock that its `Gates` uses."""

    origin: str
    limits: GateSettings
    total: OriginStats
    """Of the whole run."""
    held: int = 0
    """Connections that are leased; at least as many as are in use."""
    busy: int = 0
    peak: int = 0
    """The most in use since the last exchange: what is not needed is given back."""
    queue: deque[Waiter] = field(default_factory=deque)
    probes: set[str] = field(default_factory=set)
    calls: list[tuple[Call, float]] = field(default_factory=list)
    """Ended and not told yet, each with the time at which it began."""
    gained: OriginStats | None = None
    """The same in numbers."""
    answer: ShareAnswer | None = None
    answered_at: float = NEVER
    stored_at: float = NEVER
    stored_held: int = 0
    urgent: bool = False
    in_doubt: bool = False
    """A failure is being told, and the answer may be that the breaker opens: nobody passes unasked meanwhile."""
    last_failure: TidegateError | None = None
    own: tuple[int, TidegateError] | None = None
    """The opening of the breaker that was this run's doing, and the failure that did it."""

    @property
    def state(self) -> BreakerState:
        return self.answer.breaker.state if self.answer is not None else BreakerState.CLOSED

    @property
    def in_use(self) -> bool:
        return bool(self.held or self.busy or self.queue or self.calls)

    def due_at(self) -> float | None:
        """When it has something to ask next; None: never."""
        if self.urgent:
            return NEVER
        if not self.in_use:
            return None
        pause = AGAIN_SECONDS if self.queue else self.limits.poll.total_seconds()
        return self.answered_at + pause

    # Calls.

    def passes_at_once(self, now: float) -> bool:
        """Whether a call may go without asking: a leased connection is free, and nothing speaks against using it."""
        return not self.queue and self._has_spare(now)

    def enter(self) -> None:
        self.busy += 1
        self.peak = max(self.peak, self.busy)

    def leave(self, call: Call, began: float, gained: OriginStats, failure: TidegateError | None, now: float) -> None:
        """A call has ended; its connection goes to the next in the queue, or back with the next exchange."""
        self.busy -= 1
        self.tell(call, began)
        self.total = self.total + gained
        self.gained = gained if self.gained is None else self.gained + gained
        if call.result is CallResult.FAILED:
            self.last_failure = copy.copy(failure)  # without its traceback, which would keep the whole call alive
        while self.queue and self._has_spare(now):
            self._let_in(Grant())
        self.urgent = self.urgent or bool(self.queue)

    def tell(self, call: Call, began: float) -> None:
        self.calls.append((call, began))
        if call.probe:
            self.probes.discard(call.probe)
        self.urgent = self.urgent or call.result is CallResult.FAILED or call.probe is not None

    def give_back(self, grant: Grant) -> None:
        """A grant that is not used."""
        self.busy -= 1
        if grant.probe is not None:
            self.tell(Call(CallResult.SILENT, probe=grant.probe), began=NEVER)
        self.urgent = True

    def refusal(self, now: float) -> CircuitOpen | None:
        """Why nobody is let through, if the breaker was seen open only just now."""
        if now - self.answered_at > self.limits.poll.total_seconds() or self.urgent:
            return None
        return self._refusal(now)

    # Exchanges.

    def ask(self, run: str, now: float, *, everything: bool = False) -> tuple[ShareRequest, bool]:
        """What to tell and to ask, and whether it has to be stored. What it tells is told."""
        keep = max(self.busy, self.peak) if self._keeps_spare() else self.busy
        self.held = max(self.busy, min(self.held, keep))
        ask = ShareRequest(
            run=run,
            held=self.held,
            wanted=max(0, len(self.queue) - (self.held - self.busy)),
            probes=tuple(self.probes),
        )
        store = self._must_store(ask, now, everything=everything)
        if store:
            self.in_doubt = self._failing
            calls = tuple(replace(call, age_seconds=now - began) for call, began in self.calls)
            ask = replace(ask, calls=calls, gained=self.gained)
            self.calls, self.gained = [], None
        self.peak, self.urgent = self.busy, False
        return ask, store

    def _must_store(self, ask: ShareRequest, now: float, *, everything: bool) -> bool:
        """Whether there is anything that others should know now. Successes of a healthy origin can wait a little."""
        if ask.wanted or ask.held != self.stored_held:
            return True
        age = now - self.stored_at
        if self.calls and (everything or self._has_bad_news() or age >= TELL_SECONDS):
            return True
        return ask.held > 0 and age >= self.limits.lease.total_seconds() / 4

    def _has_bad_news(self) -> bool:
        if any(call.result is CallResult.FAILED or call.slow or call.probe for call, _ in self.calls):
            return True
        return self.answer is None or is_suspect(self.answer.breaker)

    def take(self, ask: ShareRequest, answer: ShareAnswer, now: float, *, stored: bool) -> None:
        """What was answered: let in who was granted it, refuse all when the breaker is open."""
        self.answer, self.answered_at, self.in_doubt = answer, now, False
        self.held = ask.held + len(answer.grants)
        if stored:
            self.stored_at, self.stored_held = now, self.held
        if answer.opened and self.last_failure is not None:
            self.own = (answer.breaker.epoch, self.last_failure)
        for grant in answer.grants:
            self._let_in(grant)
        while self.queue and self._has_spare(now):
            self._let_in(Grant())
        self._refuse(now)

    def _let_in(self, grant: Grant) -> None:
        """The first of the queue; should it be empty by now, the grant is told back with the next exchange."""
        if grant.probe is not None:
            self.probes.add(grant.probe)
        self.enter()
        if self.queue:
            self.queue.popleft().settle(grant)
        else:
            self.give_back(grant)

    def _refuse(self, now: float) -> None:
        refusal = self._refusal(now)
        if refusal is not None:
            while self.queue:
                self.queue.popleft().settle(copy.copy(refusal))
        while self.state is BreakerState.HALF_OPEN and self.queue and now - self.queue[0].since > PROBE_SECONDS:
            self.queue.popleft().settle(self._circuit_open(1.0))

    def _refusal(self, now: float) -> CircuitOpen | None:
        if self.answer is None or self.state not in (BreakerState.OPEN, BreakerState.ISOLATED):
            return None
        if self.answer.retry_after_seconds is None:
            return self._circuit_open(None)
        left = self.answer.retry_after_seconds - (now - self.answered_at)
        return self._circuit_open(left) if left > 0 else None

    def _circuit_open(self, retry_after_seconds: float | None) -> CircuitOpen:
        breaker = self.answer.breaker if self.answer is not None else None
        why = reason(breaker, self.limits) if breaker is not None else ""
        by_hand = self.state is BreakerState.ISOLATED
        error = CircuitOpen(
            f"Requests to {self.origin} are {f'paused{_until(retry_after_seconds)}: {why}' if not by_hand else why}",
            hint=f"run python -m flows.origins reset {self.origin}" if by_hand else "",
            evidence=Evidence(notes={"origin": self.origin, "breaker": self.state.value, "why": why}),
            retry_after_seconds=retry_after_seconds,
        )
        if breaker is not None and self.own is not None and self.own[0] == breaker.epoch:
            error.own = self.own[1]
        return error

    def _keeps_spare(self) -> bool:
        """Whether a connection that becomes free may be used again without asking."""
        if self.answer is None or self.state is not BreakerState.CLOSED or spacing_seconds(self.limits) > 0:
            return False
        return not self.answer.crowded

    def _has_spare(self, now: float) -> bool:
        fresh = now - self.answered_at <= 2 * self.limits.poll.total_seconds()
        doubtful = self.in_doubt or self._failing
        return self.held > self.busy and fresh and not doubtful and self._keeps_spare()

    @property
    def _failing(self) -> bool:
        return any(call.result is CallResult.FAILED for call, _ in self.calls)


def _until(retry_after_seconds: float | None) -> str:
    """The end of a pause by the clock on the wall, as the person who reads of it has it."""
    if retry_after_seconds is None:
        return ""
    return f" until {datetime.now().astimezone() + timedelta(seconds=retry_after_seconds):%H:%M:%S}"

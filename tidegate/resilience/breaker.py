"""The circuit breaker of one origin: closed, open, half-open or isolated, as values.

Whoever keeps one (the ledger for all processes, memory for one run) asks these functions what comes next and stores
what they return. Everything is pure and takes the clock as an argument; probes are leases that run out, so a process
that was killed in the middle of one never wedges the breaker.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Literal

from tidegate.events import Note
from tidegate.model import Value
from tidegate.settings import GateSettings

BUCKETS = 10
"""Into how many parts the window of the rates is cut; what leaves it, leaves it by one of them."""
LONGER = 0.2
"""How much longer than its time a breaker may stay open, so that those who wait do not come back all at once."""
CLOCK_SLACK_SECONDS = 5.0
"""How far a clock may go back unnoticed. What lies further in its future was written before it was put back."""


SAME_MOMENT_SECONDS = 0.002
"""Times this near to each other are the same to SQLite's clock."""


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    """Some calls are let through, as probes; what becomes of them decides."""
    ISOLATED = "isolated"
    """Open until a person resets it."""


OpeningReason = Literal["failures", "failure_rate", "slow_calls", "probe"]


class BreakerProbe(Value):
    """A call that is let through a half-open breaker, as a lease."""

    id: str
    run: str
    renewed_at: float


class Bucket(Value):
    """Calls that ended within one part of the window."""

    number: int
    calls: int = 0
    failures: int = 0
    slow: int = 0


class Breaker(Value):
    """The state of one origin's breaker. Times are of the one clock that its keeper uses."""

    state: BreakerState = BreakerState.CLOSED
    epoch: int = 0
    """Goes up with each change of state: tells one opening from the next."""
    since: float = 0.0
    """When it came into this state."""
    consecutive: int = 0
    """Failures in a row. Calls that were under way together and fail together count once: it is the same trouble."""
    failed_at: float = 0.0
    """When the last of these was counted."""
    window: tuple[Bucket, ...] = ()
    rest_seconds: float = 0.0
    """How long it was, or is, to stay open, without the random part."""
    open_seconds: float = 0.0
    """The same with it."""
    why: OpeningReason | None = None
    """What opened it last."""
    probes: tuple[BreakerProbe, ...] = ()
    probes_passed: int = 0


class BreakerAnswer(StrEnum):
    """What a breaker says to a call."""

    PASS = "pass"  # noqa: S105  # no password
    PROBE = "probe"
    WAIT = "wait"
    """All probes are on their way; their verdict will come soon."""
    REFUSED = "refused"


def admit(breaker: Breaker, probe: str, run: str, now: float, limits: GateSettings) -> tuple[Breaker, BreakerAnswer]:
    """Whether a call may be made now. A probe is admitted under the name `probe`, for as long as its lease lasts."""
    if breaker.state is BreakerState.CLOSED:
        return breaker, BreakerAnswer.PASS
    if breaker.state is BreakerState.ISOLATED or wait_seconds(breaker, now) > 0:
        return breaker, BreakerAnswer.REFUSED
    if breaker.state is BreakerState.OPEN:
        breaker = _change(breaker, BreakerState.HALF_OPEN, now, probes=(), probes_passed=0)
    alive = _alive(breaker.probes, now, limits)
    breaker = breaker.model_copy(update={"probes": alive})
    if len(alive) + breaker.probes_passed >= limits.probes:
        return breaker, BreakerAnswer.WAIT
    admitted = BreakerProbe(id=probe, run=run, renewed_at=now)
    return breaker.model_copy(update={"probes": (*alive, admitted)}), BreakerAnswer.PROBE


def count_success(
    breaker: Breaker, now: float, limits: GateSettings, *, probe: str | None = None, calls: int = 1, slow: int = 0
) -> Breaker:
    """As many calls ended well, `slow` of them slowly; with `probe`, it was that one."""
    if breaker.state is BreakerState.CLOSED:
        counted = _count(breaker, now, limits, calls=calls, slow=slow).model_copy(update={"consecutive": 0})
        return _open_if_due(counted, now, limits, longer=0.0)
    if not _is_probe(breaker, probe):
        return breaker
    if slow and breaker.why == "slow_calls":
        return _open(breaker, now, limits, "slow_calls", longer=0.0)
    rest = _without(breaker, probe)
    if rest.probes_passed + 1 < limits.probes:
        return rest.model_copy(update={"probes_passed": rest.probes_passed + 1})
    return _change(rest, BreakerState.CLOSED, now, consecutive=0, window=(), probes=(), probes_passed=0)


def count_failure(
    breaker: Breaker,
    now: float,
    limits: GateSettings,
    *,
    began: float | None = None,
    probe: str | None = None,
    longer: float = 0.0,
) -> Breaker:
    """A call, which `began` then, failed in a way that counts against the origin. `longer`, between 0 and 1: how much
    of the random part to add, should it open.

    While the breaker is not closed only probes count: what was sent before it opened says nothing new.
    """
    if breaker.state is BreakerState.CLOSED:
        counted = _count(breaker, now, limits, calls=1, failures=1)
        if breaker.consecutive == 0 or began is None or began >= breaker.failed_at - SAME_MOMENT_SECONDS:
            counted = counted.model_copy(update={"consecutive": breaker.consecutive + 1, "failed_at": now})
        return _open_if_due(counted, now, limits, longer)
    if not _is_probe(breaker, probe):
        return breaker
    return _open(breaker, now, limits, "probe", longer)


def release_probe(breaker: Breaker, probe: str) -> Breaker:
    """A probe ended in a way that says nothing about the origin; another call may take its place."""
    return _without(breaker, probe) if _is_probe(breaker, probe) else breaker


def drop_probes_of(breaker: Breaker, runs: Collection[str]) -> Breaker:
    """These runs are gone, and their probes with them."""
    return breaker.model_copy(update={"probes": tuple(probe for probe in breaker.probes if probe.run not in runs)})


def renew_probes(breaker: Breaker, probes: Collection[str], now: float) -> Breaker:
    """These probes are still on their way."""
    renewals = tuple(
        probe.model_copy(update={"renewed_at": now}) if probe.id in probes else probe for probe in breaker.probes
    )
    return breaker.model_copy(update={"probes": renewals})


def isolate(breaker: Breaker, now: float) -> Breaker:
    """Nobody is let through until somebody resets it."""
    return _change(breaker, BreakerState.ISOLATED, now, probes=(), probes_passed=0)


def reset(breaker: Breaker, now: float) -> Breaker:
    """As if nothing had happened."""
    return Breaker(epoch=breaker.epoch + 1, since=now)


def wait_seconds(breaker: Breaker, now: float) -> float:
    """Seconds until an open breaker lets probes through; 0 for one that does, and for any other state."""
    if breaker.state is not BreakerState.OPEN or breaker.since > now + CLOCK_SLACK_SECONDS:
        return 0.0
    return max(0.0, breaker.since + breaker.open_seconds - now)


def is_suspect(breaker: Breaker) -> bool:
    """Whether the last that was heard of the origin was a failure."""
    return breaker.consecutive > 0 or breaker.state is not BreakerState.CLOSED


def reason(breaker: Breaker, limits: GateSettings) -> str:
    """Why it is not closed, in words."""
    if breaker.state is BreakerState.ISOLATED:
        return "blocked by hand"
    slow_seconds = limits.slow_after.total_seconds()
    return {
        None: "",
        "failures": f"{limits.failures} failures in a row",
        "failure_rate": f"{limits.failure_rate:.0%} or more of its requests failed",
        "slow_calls": f"{limits.slow_rate:.0%} or more of its requests took over {slow_seconds:g} s",
        "probe": "it failed again when it was tried after the pause",
    }[breaker.why]


def note(origin: str, breaker: Breaker, limits: GateSettings) -> Note:
    """What a person reads in the log when a breaker has come into this state."""
    facts = {"origin": origin, "breaker": breaker.state.value}
    match breaker.state:
        case BreakerState.OPEN:
            text = f"Requests to {origin} are paused for {breaker.open_seconds:.0f} s: {reason(breaker, limits)}"
        case BreakerState.HALF_OPEN:
            text = f"{origin} is tried again, with at most {limits.probes} requests at once"
        case BreakerState.ISOLATED:
            text = f"All requests to {origin} are blocked by hand, until somebody resets it"
        case BreakerState.CLOSED:
            text = f"Requests to {origin} go on"
    quiet = breaker.state in (BreakerState.CLOSED, BreakerState.HALF_OPEN)
    return Note(text, "info" if quiet else "warning", facts)


def _open_if_due(breaker: Breaker, now: float, limits: GateSettings, longer: float) -> Breaker:
    why = _why_open(breaker, limits)
    return breaker if why is None else _open(breaker, now, limits, why, longer)


def _why_open(breaker: Breaker, limits: GateSettings) -> OpeningReason | None:
    if breaker.consecutive >= limits.failures:
        return "failures"
    calls = sum(bucket.calls for bucket in breaker.window)
    if calls < limits.least_calls:
        return None
    if sum(bucket.failures for bucket in breaker.window) >= limits.failure_rate * calls:
        return "failure_rate"
    if sum(bucket.slow for bucket in breaker.window) >= limits.slow_rate * calls:
        return "slow_calls"
    return None


def _open(breaker: Breaker, now: float, limits: GateSettings, why: OpeningReason, longer: float) -> Breaker:
    # Closed for less time than it had been open is no recovery: the rest goes on growing.
    relapsed = breaker.state is BreakerState.HALF_OPEN or now - breaker.since < breaker.rest_seconds
    base, most = limits.open_for.total_seconds(), limits.open_at_most.total_seconds()
    rest = min(most, breaker.rest_seconds * 2) if relapsed and breaker.rest_seconds else min(most, base)
    facts = {"rest_seconds": rest, "open_seconds": rest * (1 + LONGER * longer), "why": why}
    return _change(breaker, BreakerState.OPEN, now, **facts, window=(), probes=(), probes_passed=0)


def _change(breaker: Breaker, state: BreakerState, now: float, **facts: object) -> Breaker:
    return breaker.model_copy(update={"state": state, "epoch": breaker.epoch + 1, "since": now, **facts})


def _count(
    breaker: Breaker, now: float, limits: GateSettings, *, calls: int, failures: int = 0, slow: int = 0
) -> Breaker:
    number = int(now // (limits.window.total_seconds() / BUCKETS))
    kept = {bucket.number: bucket for bucket in breaker.window if number - BUCKETS < bucket.number <= number}
    last = kept.pop(number, Bucket(number=number))
    added = {"calls": last.calls + calls, "failures": last.failures + failures, "slow": last.slow + slow}
    return breaker.model_copy(update={"window": (*kept.values(), last.model_copy(update=added))})


def _alive(probes: tuple[BreakerProbe, ...], now: float, limits: GateSettings) -> tuple[BreakerProbe, ...]:
    lease = limits.lease.total_seconds()
    return tuple(probe for probe in probes if -CLOCK_SLACK_SECONDS <= now - probe.renewed_at < lease)


def _is_probe(breaker: Breaker, probe: str | None) -> bool:
    return breaker.state is BreakerState.HALF_OPEN and any(other.id == probe for other in breaker.probes)


def _without(breaker: Breaker, probe: str | None) -> Breaker:
    return breaker.model_copy(update={"probes": tuple(other for other in breaker.probes if other.id != probe)})

"""How runs share an origin: its breaker, its connections and its rate, settled in one step.

A gatekeeper asks for what its run needs and tells what its calls came to; whoever keeps the origin's record (the ledger
for all processes, memory for one run) calls `settle` and stores what it returns. Everything is pure and takes the clock
as an argument; what belongs to a run is a lease that its keeper drops when the run shows no life.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tidegate.model import OriginStats, Value
from tidegate.resilience import breaker as breaker_rules
from tidegate.resilience.breaker import Breaker, BreakerAnswer, BreakerState
from tidegate.settings import GateSettings

UNPROVEN_CONNECTIONS = 2
"""Connections at once to an origin of which nothing good was heard lately: a dead one holds no more than that."""
PROVEN_SECONDS = 3600.0
"""How long a success stands for an origin."""
KEEP_ONE_FROM = 4
"""From this number of connections on, the last is kept for a run that has none: nobody waits for hours behind another
one's long transfers."""
AHEAD_SECONDS = 1.0
"""How far ahead the beginnings of requests are given out; a run that queues hundreds does not push others back."""
IMPATIENT_SECONDS = 5.0
"""A run that wants something asks again and again; one that did not for so long is not waited for."""


class CallResult(StrEnum):
    """What a call says about its origin."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ANSWERED = "answered"
    """It was refused, as by a 404: no failure of the origin, and a probe has shown what it should."""
    SILENT = "silent"
    """Nothing at all: cancelled, or asked to come later."""


@dataclass(frozen=True)
class Call:
    """A call that has ended, or has shown already how it will."""

    result: CallResult
    slow: bool = False
    probe: str | None = None
    age_seconds: float = 0.0
    """How long before it is told it began."""


class Share(Value):
    """What a run has of an origin, and wants."""

    run: str
    held: int = 0
    """Connections."""
    wanted: int = 0
    """Further ones, for calls that wait."""
    since: float | None = None
    """Since when it waits for the next one."""
    asked_at: float = 0.0
    blocked_by_host: bool = False
    """What it waits for is a connection of this host, not of this origin."""


class OriginRecord(Value):
    """What is known about an origin, by all who share it."""

    origin: str
    breaker: Breaker = Breaker()
    proven_at: float | None = None
    """The last success."""
    next_start_at: float = 0.0
    """Before this no further request may begin, where there is a rate or spacing."""
    seen_at: float = 0.0
    counted_since: float = 0.0
    statistics: OriginStats


@dataclass(frozen=True)
class HostUse:
    """What all other shares of this host come to, at this origin and at others."""

    held: int = 0
    held_at_doubtful: int = 0
    """At origins that are `doubtful`."""
    waiting: tuple[float, ...] = ()
    """Since when shares wait for a connection of this host that have none; at origins that are well."""
    waiting_at_doubtful: tuple[float, ...] = ()


@dataclass(frozen=True)
class ShareRequest:
    """What a run tells and wants. Numbers are what it has, not what changed: an answer that was lost loses nothing."""

    run: str
    held: int
    wanted: int = 0
    calls: tuple[Call, ...] = ()
    """In the order in which they ended."""
    gained: OriginStats | None = None
    """Of these calls."""
    probes: tuple[str, ...] = ()
    """Those on their way."""


@dataclass(frozen=True)
class Grant:
    """One call may be made."""

    starts_in_seconds: float = 0.0
    probe: str | None = None


@dataclass(frozen=True)
class ShareAnswer:
    """What a run is told."""

    breaker: Breaker
    retry_after_seconds: float | None
    """Until a breaker that is open lets probes through; None for one that is isolated."""
    grants: tuple[Grant, ...] = ()
    crowded: bool = False
    """Others wait who have less: connections that become free are to be given back, not used again."""
    opened: bool = False
    """One of the calls that this run has just told opened the breaker."""


@dataclass(frozen=True)
class Settlement:
    """What to store, and what to answer."""

    origin: OriginRecord
    share: Share
    answer: ShareAnswer


@dataclass(frozen=True)
class Arbiter:
    """Settles what runs ask, at one moment."""

    limits: GateSettings
    now: float
    rng: random.Random = field(default_factory=random.Random)

    def settle(
        self, origin: OriginRecord, others: Sequence[Share], mine: Share | None, host: HostUse, ask: ShareRequest
    ) -> Settlement:
        """Count the calls, then grant what may be granted. `others` are the live shares of this origin."""
        current = self._count_calls(origin, ask)
        waiting = [self._if_patient(other) for other in others]
        before = self._share_before_grant(mine, ask)
        here, on_host = (
            in_turn(self.connections(current), [*waiting, before], ask.run),
            self._host_room(current, before, host),
        )
        granted, grants = self._grant(current, ask.run, min(here, on_host))
        share = self._share(before, len(grants), blocked_by_host=here > on_host)
        answer = ShareAnswer(
            breaker=granted.breaker,
            retry_after_seconds=self._retry_after(granted.breaker),
            grants=grants,
            crowded=_poorer(waiting, share)
            or (on_host <= len(grants) and self._would_serve_others(current, share, host)),
            opened=current.breaker.state is BreakerState.OPEN and current.breaker.epoch != origin.breaker.epoch,
        )
        return Settlement(granted, share, answer)

    def connections(self, origin: OriginRecord) -> int:
        """How many connections the origin may have at once.

        One that goes on failing loses them one half after the other, well before its breaker opens: what hangs there
        would be missing elsewhere.
        """
        most, breaker = self.limits.connections_per_origin, origin.breaker
        if breaker.state is not BreakerState.CLOSED:
            return min(most, self.limits.probes)
        proven = origin.proven_at is not None and self.now - origin.proven_at <= PROVEN_SECONDS
        return max(1, (most if proven else min(most, UNPROVEN_CONNECTIONS)) >> max(0, breaker.consecutive - 1))

    def doubtful(self, origin: OriginRecord) -> bool:
        """Whether nothing good was heard of it lately, or something bad last."""
        proven = origin.proven_at is not None and self.now - origin.proven_at <= PROVEN_SECONDS
        return not proven or breaker_rules.is_suspect(origin.breaker)

    def _count_calls(self, origin: OriginRecord, ask: ShareRequest) -> OriginRecord:
        breaker = breaker_rules.renew_probes(origin.breaker, ask.probes, self.now)
        for call in ask.calls:
            breaker = self._after(breaker, call)
        facts: dict[str, object] = {"breaker": breaker, "seen_at": self.now}
        if any(call.result is CallResult.SUCCEEDED for call in ask.calls):
            facts["proven_at"] = self.now
        if ask.gained is not None:
            facts["statistics"] = origin.statistics + ask.gained
        return origin.model_copy(update=facts)

    def _after(self, breaker: Breaker, call: Call) -> Breaker:
        if call.result is CallResult.FAILED:
            began, longer = self.now - call.age_seconds, self.rng.random()
            return breaker_rules.count_failure(
                breaker, self.now, self.limits, began=began, probe=call.probe, longer=longer
            )
        if call.result is CallResult.SUCCEEDED or (call.probe and call.result is CallResult.ANSWERED):
            return breaker_rules.count_success(breaker, self.now, self.limits, probe=call.probe, slow=int(call.slow))
        return breaker_rules.release_probe(breaker, call.probe) if call.probe else breaker

    def host_of(self, shares: Sequence[tuple[bool, Share]]) -> HostUse:
        """What the other shares of a host come to; with each, whether its origin is doubtful."""
        waiting = [(doubtful, share.since or 0.0) for doubtful, share in shares if self._waits_for_host(share)]
        return HostUse(
            held=sum(share.held for _, share in shares),
            held_at_doubtful=sum(share.held for doubtful, share in shares if doubtful),
            waiting=tuple(since for doubtful, since in waiting if not doubtful),
            waiting_at_doubtful=tuple(since for doubtful, since in waiting if doubtful),
        )

    def _waits_for_host(self, other: Share) -> bool:
        """Whether it has nothing, and waits for a connection of the host."""
        return other.held == 0 and other.blocked_by_host and self._if_patient(other).wanted > 0

    def _if_patient(self, other: Share) -> Share:
        """One that asks no more, though it lives, is not waited for."""
        patient = self.now - other.asked_at <= IMPATIENT_SECONDS
        return other if patient else other.model_copy(update={"wanted": 0})

    def _share_before_grant(self, mine: Share | None, ask: ShareRequest) -> Share:
        # Who has just given something back was served until now, however long its next calls have waited.
        goes_on_waiting = mine is not None and mine.since is not None and mine.held <= ask.held
        since = mine.since if mine is not None and goes_on_waiting else self.now
        asked = {"run": ask.run, "held": ask.held, "wanted": ask.wanted, "asked_at": self.now}
        return Share(**asked, since=since if ask.wanted else None)

    def _host_room(self, origin: OriginRecord, asked: Share, host: HostUse) -> int:
        """How many more connections this share may have of its host, after those who have none.

        Doubtful origins share one half of them. Who waits for his part of that half is in the way of nobody else.
        """
        room = _in_line(self.limits.connections - asked.held - host.held, asked, self._line(host))
        if not self.doubtful(origin):
            return room
        left = self._half - asked.held - host.held_at_doubtful
        return min(room, _in_line(left, asked, host.waiting_at_doubtful))

    def _would_serve_others(self, origin: OriginRecord, share: Share, host: HostUse) -> bool:
        """Whether a connection of this share's would be of use to somebody on this host who has none."""
        in_line = self._line(host) or (self.doubtful(origin) and host.waiting_at_doubtful)
        return share.held > 0 and bool(in_line)

    def _line(self, host: HostUse) -> tuple[float, ...]:
        """Since when those wait who could take any connection of this host."""
        rest = max(0, self._half - host.held_at_doubtful)
        return host.waiting + tuple(sorted(host.waiting_at_doubtful)[:rest])

    @property
    def _half(self) -> int:
        return max(1, self.limits.connections // 2)

    def _grant(self, origin: OriginRecord, run: str, most: int) -> tuple[OriginRecord, tuple[Grant, ...]]:
        grants: list[Grant] = []
        while len(grants) < most:
            starts_at = self._next_start(origin)
            if starts_at > self.now + AHEAD_SECONDS:
                break
            probe = f"{run}-{self.rng.getrandbits(64):016x}"
            breaker, admission = breaker_rules.admit(origin.breaker, probe, run, self.now, self.limits)
            origin = origin.model_copy(update={"breaker": breaker})
            if admission not in (BreakerAnswer.PASS, BreakerAnswer.PROBE):
                break
            origin = origin.model_copy(update={"next_start_at": starts_at + spacing_seconds(self.limits)})
            grants.append(Grant(starts_at - self.now, probe if admission is BreakerAnswer.PROBE else None))
        return origin, tuple(grants)

    def _next_start(self, origin: OriginRecord) -> float:
        """When the next request may begin. A time further ahead than any that is given out is of another clock."""
        latest = self.now + AHEAD_SECONDS + spacing_seconds(self.limits)
        return max(self.now, origin.next_start_at) if origin.next_start_at <= latest else self.now

    def _share(self, asked: Share, granted: int, *, blocked_by_host: bool) -> Share:
        wanted = asked.wanted - granted
        facts = {"held": asked.held + granted, "wanted": wanted, "blocked_by_host": blocked_by_host and wanted > 0}
        # Who was served goes to the end of the line.
        since = self.now if granted else asked.since
        return asked.model_copy(update={**facts, "since": since if wanted else None})

    def _retry_after(self, breaker: Breaker) -> float | None:
        if breaker.state is BreakerState.ISOLATED:
            return None
        return breaker_rules.wait_seconds(breaker, self.now)


def in_turn(connections: int, shares: Sequence[Share], run: str) -> int:
    """How many of the free connections are this run's, if everyone who waits is served in turn.

    First comes who has the fewest, then who has waited longest.
    """
    held = {share.run: share.held for share in shares}
    wanted = {share.run: share.wanted for share in shares if share.run == run or not share.blocked_by_host}
    since = {share.run: share.since or 0.0 for share in shares}
    free, kept, mine = connections - sum(held.values()), int(connections >= KEEP_ONE_FROM), 0
    while free > 0 and wanted.get(run, 0) > 0:
        line = [one for one, more in wanted.items() if more > 0 and (held[one] == 0 or free > kept)]
        if not line:
            break
        first = min(line, key=lambda one: (held[one], since[one], one))
        held[first], wanted[first], free, mine = held[first] + 1, wanted[first] - 1, free - 1, mine + (first == run)
    return mine


def spacing_seconds(limits: GateSettings) -> float:
    """Least time between the beginnings of two requests."""
    least = limits.spacing.total_seconds()
    return max(least, 1 / limits.requests_per_second) if limits.requests_per_second else least


def _in_line(free: int, asked: Share, waiting: Sequence[float]) -> int:
    """How many of the free connections are this share's, where others wait who have nothing.

    It gets its first one after those who have waited longer, and a further one only when nobody of them is left.
    """
    further = free - len(waiting)
    if asked.held:
        return further
    earlier = sum(since < (asked.since or 0.0) for since in waiting)
    return max(further, min(1, free - earlier))


def _poorer(waiting: Sequence[Share], mine: Share) -> bool:
    """Whether somebody waits who has nothing, or would still have less with one more."""
    wanting = [other for other in waiting if other.wanted and not other.blocked_by_host]
    return mine.held > 0 and any(other.held == 0 or other.held + 1 < mine.held for other in wanting)

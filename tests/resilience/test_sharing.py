"""How runs share an origin: connections in turn, room for the healthy, a rate; whatever they ask and in which order."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.model import OriginStats
from tidegate.resilience.breaker import Breaker, BreakerState
from tidegate.resilience.sharing import (
    IMPATIENT_SECONDS,
    PROVEN_SECONDS,
    Arbiter,
    Call,
    CallResult,
    HostUse,
    OriginRecord,
    Share,
    ShareAnswer,
    ShareRequest,
    in_turn,
)
from tidegate.settings import GateSettings

LIMITS = GateSettings()
NOW = 1_000_000.0
EMPTY = HostUse()
GOOD, BAD = Call(CallResult.SUCCEEDED), Call(CallResult.FAILED)


class Books:
    """The record of one origin with its shares, as a ledger keeps them; of the rest of the host, what it is told."""

    def __init__(self, limits: GateSettings = LIMITS, *, proven: bool = True, host: HostUse = EMPTY) -> None:
        self.limits, self.host, self.now = limits, host, NOW
        self.origin = OriginRecord(
            origin="http://host:80", proven_at=NOW if proven else None, statistics=OriginStats(origin="http://host:80")
        )
        self.shares: dict[str, Share] = {}

    def ask(self, run: str, held: int = 0, wanted: int = 0, *calls: Call) -> ShareAnswer:
        others = [share for name, share in self.shares.items() if name != run]
        host = replace(self.host, held=self.host.held + sum(other.held for other in others))
        clerk = Arbiter(self.limits, self.now, random.Random(1))
        asked = ShareRequest(run, held, wanted, calls, OriginStats(origin="http://host:80", attempts=len(calls)))
        settled = clerk.settle(self.origin, others, self.shares.get(run), host, asked)
        self.origin, self.shares[run] = settled.origin, settled.share
        return settled.answer

    def granted(self, run: str, held: int = 0, wanted: int = 0) -> int:
        return len(self.ask(run, held, wanted).grants)


# --- connections ----------------------------------------------------------------------------------


def test_a_run_alone_gets_all_connections_but_the_one_that_is_kept_for_another() -> None:
    books = Books()
    assert books.granted("a", wanted=100) == 7
    assert books.granted("a", held=7, wanted=93) == 0
    assert books.granted("b", wanted=100) == 1


def test_a_run_that_has_fewer_comes_first_and_the_other_is_told() -> None:
    books = Books()
    books.ask("a", wanted=100)
    books.ask("b", wanted=100)
    assert books.ask("a", held=7, wanted=93).crowded
    assert books.granted("a", held=5, wanted=95) == 0, "what a gives back is b's"
    assert books.granted("b", held=1, wanted=99) == 1
    answer = books.ask("a", held=5, wanted=95)
    while answer.crowded:
        held = {name: share.held for name, share in books.shares.items()}
        answer = books.ask("a", held["a"] - 1, 90)
        books.ask("b", held["b"], 90)
    assert {name: share.held for name, share in books.shares.items()} == {"a": 4, "b": 3}
    assert books.granted("b", held=3, wanted=90) == 0, "the last is for a run that has none"
    assert books.granted("c", wanted=90) == 1


def test_among_those_who_have_nothing_the_first_come_is_the_first_served() -> None:
    books = Books(GateSettings(connections_per_origin=1))
    assert books.granted("holder", wanted=1) == 1
    for second, name in enumerate(("first", "second", "third")):
        books.now = NOW + second * 0.1
        assert books.granted(name, wanted=1) == 0
    served: list[str] = []
    for _ in range(3):
        books.now += 0.1
        books.ask("holder" if not served else served[-1])
        for name in ("third", "second", "first"):
            if name not in served and books.granted(name, wanted=1):
                served.append(name)
    assert served == ["first", "second", "third"]


def test_a_run_that_has_one_gives_it_up_after_its_call_when_another_has_none() -> None:
    books = Books(GateSettings(connections_per_origin=1))
    books.ask("a", wanted=5)
    books.now += 0.1
    books.ask("b", wanted=5)
    books.now += 60
    books.ask("b", wanted=5)
    answer = books.ask("a", held=1, wanted=4)
    assert answer.crowded
    assert books.granted("a", held=0, wanted=4) == 0
    assert books.granted("b", wanted=5) == 1


def test_a_run_that_asks_no_more_is_not_waited_for() -> None:
    books = Books(GateSettings(connections_per_origin=1))
    books.ask("a", wanted=1)
    books.ask("stopped", wanted=1)
    books.ask("a")
    books.now += 0.1
    assert books.granted("b", wanted=1) == 0
    books.now += IMPATIENT_SECONDS + 0.1
    assert books.granted("b", wanted=1) == 1


def test_an_origin_of_which_nothing_good_is_known_gets_few() -> None:
    assert Books(proven=False).granted("a", wanted=100) == 2
    books = Books()
    books.now += PROVEN_SECONDS + 1
    assert books.granted("a", wanted=100) == 2
    assert len(books.ask("a", 2, 100, GOOD).grants) == 5


def test_an_origin_that_fails_loses_its_connections_one_half_after_the_other() -> None:
    for failures, most in ((0, 7), (1, 7), (2, 3), (3, 2), (4, 1)):
        books = Books()
        assert len(books.ask("a", 0, 100, *[BAD] * failures).grants) == most

    assert len(Books(proven=False).ask("a", 0, 100, *[BAD] * 2).grants) == 1


def test_doubtful_origins_leave_half_of_the_hosts_connections_to_the_others() -> None:
    full_of_doubt = HostUse(held=10, held_at_doubtful=10)
    assert Books(proven=False, host=full_of_doubt).granted("a", wanted=5) == 0
    assert Books(host=full_of_doubt).granted("a", wanted=5) == 5


def test_the_host_has_no_more_connections_than_it_may() -> None:
    assert Books(host=HostUse(held=17)).granted("a", wanted=8) == 3
    assert Books(host=HostUse(held=20)).granted("a", wanted=8) == 0


EARLIER, LATER = NOW - 1, NOW + 1


def test_who_has_nothing_elsewhere_comes_before_who_wants_more_here() -> None:
    books = Books(host=HostUse(held=18, waiting=(LATER,)))
    assert books.granted("a", held=1, wanted=5) == 0
    assert Books(host=HostUse(held=19, waiting=(LATER,))).ask("a", 1, 1).crowded, "a is to give its connection back"


def test_of_those_who_have_nothing_on_a_host_the_first_come_is_the_first_served() -> None:
    assert Books(host=HostUse(held=19, waiting=(LATER,))).granted("a", wanted=1) == 1
    assert Books(host=HostUse(held=19, waiting=(EARLIER,))).granted("a", wanted=1) == 0


def test_the_first_in_line_takes_one_and_leaves_the_others_that_have_nothing_one_each() -> None:
    assert Books(host=HostUse(held=17, waiting=(LATER, LATER))).granted("a", wanted=3) == 1
    assert Books(host=HostUse(held=15, waiting=(LATER,))).granted("a", wanted=8) == 4, "nobody else wants the rest"
    assert Books(host=HostUse(held=17, waiting=(EARLIER, LATER, LATER))).granted("a", wanted=3) == 1


def test_who_waits_for_a_doubtful_origin_is_in_nobodys_way_while_its_half_is_full() -> None:
    full_of_doubt = HostUse(held=10, held_at_doubtful=10, waiting_at_doubtful=(EARLIER,) * 12)
    assert Books(host=full_of_doubt).granted("a", held=1, wanted=20) == 6
    assert not Books(host=full_of_doubt).ask("a", 1, 20).crowded


def test_who_waits_for_an_origin_that_is_not_known_yet_gets_a_connection_of_a_full_host() -> None:
    full = HostUse(held=19, waiting_at_doubtful=(EARLIER,))
    assert Books(host=full).ask("a", 1, 5).crowded
    assert Books(host=full).granted("a", wanted=5) == 0
    assert Books(proven=False, host=replace(full, waiting_at_doubtful=())).granted("new", wanted=1) == 1


def test_who_waits_for_the_host_holds_up_nobody_at_the_origin() -> None:
    books = Books(GateSettings(connections_per_origin=2))
    books.host = HostUse(held=20)
    assert books.granted("of a full host", wanted=2) == 0
    assert books.shares["of a full host"].blocked_by_host
    books.host = HostUse()
    assert books.granted("of another host", wanted=2) == 2


requests = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 12), st.integers(0, 12)), max_size=60)


@given(requests, st.integers(1, 9), st.integers(1, 12), st.booleans())
def test_whatever_is_asked_nobody_gets_more_than_there_is(
    asked: list[tuple[str, int, int]], per_origin: int, per_host: int, proven: bool
) -> None:
    books = Books(GateSettings(connections_per_origin=per_origin, connections=per_host), proven=proven)
    for run, gives_back, wanted in asked:
        books.now += 0.2
        share = books.shares.get(run, Share(run=run))
        books.ask(run, max(0, share.held - gives_back), wanted)
        held = sum(one.held for one in books.shares.values())
        assert held <= min(per_origin, per_host)
        assert 0 <= books.shares[run].wanted <= wanted


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5), st.integers(1, 8), st.data())
def test_every_run_is_served_alike_while_all_want_everything_for_ever(
    runs: int, per_origin: int, data: st.DataObject
) -> None:
    """Each run's oldest call ends before it asks again; what is free then is given back, as `Gate` does it."""
    books = Books(GateSettings(connections_per_origin=per_origin))
    names = [str(number) for number in range(runs)]
    served, held = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for _ in range(30):
        for run in data.draw(st.permutations(names)):
            books.now += 0.05
            ended = min(held[run], 1)
            granted = books.granted(run, held[run] - ended, 50)
            held[run] += granted - ended
            served[run] += granted
    assert max(served.values()) <= 2 * min(served.values()) + per_origin


@given(st.integers(0, 20), st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=5))
def test_the_turns_of_all_together_fill_the_origin_and_no_more(most: int, asked: list[tuple[int, int]]) -> None:
    shares = [
        Share(run=str(number), held=held, wanted=wanted, since=NOW + number)
        for number, (held, wanted) in enumerate(asked)
    ]
    free = max(0, most - sum(share.held for share in shares))
    turns = {share.run: in_turn(most, shares, share.run) for share in shares}
    assert sum(turns.values()) <= free
    wanted = sum(share.wanted for share in shares)
    assert sum(turns.values()) >= min(wanted, free) - 1, "one may be kept for a run that has none"
    assert all(turns[share.run] <= share.wanted for share in shares)


# --- rate -----------------------------------------------------------------------------------------


def starts(books: Books, run: str, wanted: int) -> list[float]:
    """When the calls that are granted now may begin; each ends at once."""
    answer = books.ask(run, 0, wanted)
    return [books.now + grant.starts_in_seconds for grant in answer.grants]


def test_requests_of_all_runs_together_keep_the_rate() -> None:
    books = Books(GateSettings(requests_per_second=4))
    begun: list[float] = []
    for tick in range(200):
        books.now = NOW + tick * 0.05
        begun += starts(books, "ab"[tick % 2], 3)
    begun.sort()
    assert all(later - earlier >= 0.2499 for earlier, later in pairwise(begun))
    assert len(begun) >= 40, "and nothing of it is wasted"


def test_spacing_holds_between_two_requests() -> None:
    books = Books(GateSettings(spacing=timedelta(seconds=3)))
    assert starts(books, "a", 5) == [NOW]
    assert starts(books, "b", 5) == [], "far ahead nothing is given out: others may come before"
    books.now += 2.5
    assert starts(books, "b", 5) == [NOW + 3]


def test_a_clock_that_is_put_back_stops_nobody() -> None:
    books = Books(GateSettings(requests_per_second=1))
    starts(books, "a", 1)
    books.now -= 86400
    assert starts(books, "a", 1) == [books.now]


# --- the breaker in it ----------------------------------------------------------------------------


def test_failures_of_several_runs_open_it_together_and_only_the_last_is_told_that_it_did() -> None:
    books = Books()
    for run in "abca":
        assert not books.ask(run, 0, 0, BAD).opened
    answer = books.ask("b", 0, 1, BAD)
    assert answer.opened
    assert answer.breaker.state is BreakerState.OPEN
    assert (answer.grants, answer.retry_after_seconds) != ((), None)
    assert not books.ask("a", 0, 1).opened


def test_refusals_and_cancelled_calls_neither_help_nor_harm() -> None:
    books = Books()
    books.ask("a", 0, 0, *[BAD] * 4)
    before = books.origin.breaker
    books.ask("a", 0, 0, *[Call(CallResult.ANSWERED), Call(CallResult.SILENT)] * 50)
    assert books.origin.breaker == before


def test_a_refusal_shows_that_an_origin_which_was_rested_is_back() -> None:
    books = Books()
    books.ask("a", 0, 0, *[BAD] * 5)
    books.now += 80
    for _ in range(2):
        [grant] = books.ask("a", 0, 1).grants
        assert grant.probe is not None
        books.ask("a", 0, 0, Call(CallResult.ANSWERED, probe=grant.probe))
    assert books.origin.breaker.state is BreakerState.CLOSED


def test_half_open_grants_are_probes_and_no_more_than_may() -> None:
    books = Books()
    books.ask("a", 0, 0, *[BAD] * 5)
    books.now += 80
    grants = books.ask("a", 0, 50).grants
    assert len(grants) == 2
    assert len({grant.probe for grant in grants} - {None}) == 2
    assert books.ask("b", 0, 50).grants == ()


def test_an_isolated_origin_grants_nothing_and_names_no_time() -> None:
    books = Books()
    books.origin = books.origin.model_copy(update={"breaker": Breaker(state=BreakerState.ISOLATED)})
    answer = books.ask("a", 0, 5)
    assert (answer.grants, answer.retry_after_seconds) == ((), None)

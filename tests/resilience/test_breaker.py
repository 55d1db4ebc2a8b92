"""The circuit breaker as values: when it opens, whom it lets through, what closes it; whatever order things come in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tidegate.resilience.breaker import (
    LONGER,
    Breaker,
    BreakerAnswer,
    BreakerState,
    admit,
    count_failure,
    count_success,
    drop_probes_of,
    isolate,
    note,
    reason,
    release_probe,
    renew_probes,
    reset,
    wait_seconds,
)
from tidegate.settings import GateSettings

LIMITS = GateSettings()
NOW = 1_000_000.0


def after_failures(number: int, breaker: Breaker | None = None, now: float = NOW) -> Breaker:
    breaker = breaker or Breaker()
    for _ in range(number):
        breaker = count_failure(breaker, now, LIMITS)
    return breaker


def half_open(limits: GateSettings = LIMITS) -> tuple[Breaker, float]:
    """One whose rest has just ended, and when."""
    breaker = after_failures(limits.failures)
    return breaker, NOW + breaker.open_seconds


def probing(breaker: Breaker, name: str, now: float) -> Breaker:
    breaker, admission = admit(breaker, name, f"run of {name}", now, LIMITS)
    assert admission is BreakerAnswer.PROBE
    return breaker


def ask(breaker: Breaker, now: float, name: str = "another") -> BreakerAnswer:
    return admit(breaker, name, "run", now, LIMITS)[1]


# --- opening --------------------------------------------------------------------------------------


def test_five_failures_in_a_row_open_it_for_a_minute() -> None:
    assert after_failures(4).state is BreakerState.CLOSED
    breaker = after_failures(5)
    assert breaker.state is BreakerState.OPEN
    assert wait_seconds(breaker, NOW) == 60
    assert ask(breaker, NOW + 59) is BreakerAnswer.REFUSED
    assert reason(breaker, LIMITS) == "5 failures in a row"


def test_one_success_among_failures_begins_the_count_anew() -> None:
    breaker = count_success(after_failures(4), NOW, LIMITS)
    assert after_failures(4, breaker).state is BreakerState.CLOSED


def test_calls_that_fail_together_are_one_trouble() -> None:
    """A proxy that restarts cuts everything that is under way."""
    breaker = count_failure(Breaker(), NOW, LIMITS, began=NOW - 5)
    for _ in range(10):
        breaker = count_failure(breaker, NOW + 0.1, LIMITS, began=NOW - 5)
    assert (breaker.state, breaker.consecutive) == (BreakerState.CLOSED, 1)
    for second in range(1, 5):
        breaker = count_failure(breaker, NOW + second + 0.5, LIMITS, began=NOW + second)
    assert breaker.state is BreakerState.OPEN


def test_a_share_of_failures_opens_it_though_five_never_follow_each_other() -> None:
    breaker, story = Breaker(), [False, False, False, True] * 5
    for number, good in enumerate(story, start=1):
        assert breaker.state is BreakerState.CLOSED, f"after {number}: so few calls prove nothing"
        breaker = count_success(breaker, NOW, LIMITS) if good else count_failure(breaker, NOW, LIMITS)
    assert (breaker.state, breaker.why) == (BreakerState.OPEN, "failure_rate")


def test_two_failures_for_each_success_do_not_open_it() -> None:
    """As many as one segment may be tried again."""
    breaker = Breaker()
    for good in [False, False, True] * 30:
        breaker = count_success(breaker, NOW, LIMITS) if good else count_failure(breaker, NOW, LIMITS)
    assert breaker.state is BreakerState.CLOSED


def test_failures_that_have_left_the_window_count_no_more() -> None:
    breaker = Breaker()
    for good in [False, False, False, True] * 4:
        breaker = count_success(breaker, NOW, LIMITS) if good else count_failure(breaker, NOW, LIMITS)
    later = NOW + LIMITS.window.total_seconds() + 1
    for _ in range(4):
        breaker = count_failure(breaker, later, LIMITS)
    assert breaker.state is BreakerState.CLOSED


def test_slow_calls_open_it_though_all_succeed() -> None:
    breaker = count_success(Breaker(), NOW, LIMITS, calls=5)
    breaker = count_success(breaker, NOW, LIMITS, calls=19, slow=19)
    assert breaker.state is BreakerState.CLOSED
    breaker = count_success(breaker, NOW, LIMITS, slow=1)
    assert (breaker.state, breaker.why) == (BreakerState.OPEN, "slow_calls")


def test_chance_makes_the_rest_longer_and_never_shorter() -> None:
    breaker = count_failure(after_failures(4), NOW, LIMITS, longer=1.0)
    assert breaker.open_seconds == pytest.approx(60 * (1 + LONGER))


# --- half-open ------------------------------------------------------------------------------------


def test_after_its_rest_it_lets_as_many_through_as_it_may_and_no_more() -> None:
    breaker, now = half_open()
    for name in "ab":
        breaker = probing(breaker, name, now)
    assert breaker.state is BreakerState.HALF_OPEN
    assert ask(breaker, now) is BreakerAnswer.WAIT


def test_successes_of_the_probes_close_it() -> None:
    breaker, now = half_open()
    breaker = probing(probing(breaker, "a", now), "b", now)
    breaker = count_success(breaker, now, LIMITS, probe="a")
    assert breaker.state is BreakerState.HALF_OPEN
    assert ask(breaker, now) is BreakerAnswer.WAIT, "one is on its way, and no more than two are needed"
    breaker = count_success(breaker, now, LIMITS, probe="b")
    assert (breaker.state, breaker.consecutive) == (BreakerState.CLOSED, 0)
    assert ask(breaker, now) is BreakerAnswer.PASS


def test_a_probe_that_fails_opens_it_for_twice_as_long_up_to_the_cap() -> None:
    breaker, now = half_open()
    rests = []
    for number in range(6):
        breaker = count_failure(probing(breaker, str(number), now), now, LIMITS, probe=str(number))
        assert breaker.state is BreakerState.OPEN
        rests.append(breaker.open_seconds)
        now += breaker.open_seconds
    assert rests == [120, 240, 480, 600, 600, 600]


def test_a_relapse_soon_after_it_closed_goes_on_growing_and_a_late_one_does_not() -> None:
    breaker, now = half_open()
    for name in "ab":
        breaker = count_success(probing(breaker, name, now), now, LIMITS, probe=name)
    assert after_failures(5, breaker, now + 59).open_seconds == 120
    assert after_failures(5, breaker, now + 61).open_seconds == 60


def test_the_place_of_a_probe_that_is_killed_is_free_again_when_its_lease_ends() -> None:
    breaker, now = half_open()
    breaker = probing(probing(breaker, "a", now), "killed", now)
    lease = LIMITS.lease.total_seconds()
    breaker = renew_probes(breaker, ["a"], now + lease - 1)
    assert ask(breaker, now + lease - 1) is BreakerAnswer.WAIT
    breaker, admission = admit(breaker, "next", "run", now + lease, LIMITS)
    assert admission is BreakerAnswer.PROBE
    assert {probe.id for probe in breaker.probes} == {"a", "next"}


def test_the_place_of_a_run_that_is_gone_is_free_at_once() -> None:
    breaker, now = half_open()
    breaker = probing(probing(breaker, "a", now), "b", now)
    assert ask(drop_probes_of(breaker, ["run of a"]), now) is BreakerAnswer.PROBE


def test_a_probe_whose_lease_was_given_to_another_decides_nothing() -> None:
    breaker, now = half_open()
    breaker = probing(breaker, "late", now)
    now += LIMITS.lease.total_seconds() + 1
    breaker = probing(probing(breaker, "a", now), "b", now)
    assert count_failure(breaker, now, LIMITS, probe="late") == breaker
    assert count_success(breaker, now, LIMITS, probe="late") == breaker


def test_a_probe_that_says_nothing_makes_room_for_another() -> None:
    breaker, now = half_open()
    breaker = probing(probing(breaker, "a", now), "b", now)
    breaker = release_probe(breaker, "a")
    assert breaker.state is BreakerState.HALF_OPEN
    assert ask(breaker, now) is BreakerAnswer.PROBE


def test_what_was_sent_before_it_opened_says_nothing_new() -> None:
    opened = after_failures(5)
    assert count_failure(opened, NOW + 30, LIMITS) == opened
    assert count_success(opened, NOW + 30, LIMITS) == opened
    breaker, now = half_open()
    breaker = probing(breaker, "a", now)
    assert count_failure(breaker, now, LIMITS) == breaker
    assert count_success(breaker, now, LIMITS) == breaker


def test_an_origin_that_was_too_slow_and_still_is_does_not_come_back() -> None:
    breaker = count_success(Breaker(), NOW, LIMITS, calls=20, slow=20)
    now = NOW + breaker.open_seconds
    breaker = count_success(probing(breaker, "a", now), now, LIMITS, probe="a", slow=1)
    assert (breaker.state, breaker.open_seconds) == (BreakerState.OPEN, 120)


# --- by hand, and clocks --------------------------------------------------------------------------


def test_one_that_is_isolated_stays_so_until_it_is_reset() -> None:
    breaker = isolate(after_failures(2), NOW)
    assert ask(breaker, NOW + 1e9) is BreakerAnswer.REFUSED
    assert count_failure(breaker, NOW, LIMITS) == breaker == count_success(breaker, NOW, LIMITS)
    again = reset(breaker, NOW)
    assert again.state is BreakerState.CLOSED
    assert ask(again, NOW) is BreakerAnswer.PASS
    assert again.epoch > breaker.epoch


def test_a_clock_that_is_put_back_keeps_nobody_out_for_days() -> None:
    breaker = after_failures(5)
    assert ask(breaker, NOW - 86400) is BreakerAnswer.PROBE
    breaker, now = half_open()
    breaker = probing(probing(breaker, "a", now), "b", now)
    assert ask(breaker, now - 86400) is BreakerAnswer.PROBE


@pytest.mark.parametrize(
    ("breaker", "words"),
    [
        (after_failures(5), "paused for 60 s: 5 failures in a row"),
        (isolate(Breaker(), NOW), "blocked by hand"),
        (probing(half_open()[0], "a", NOW + 60), "tried again, with at most 2 requests"),
        (reset(after_failures(5), NOW), "go on"),
    ],
)
def test_a_person_reads_what_became_of_it(breaker: Breaker, words: str) -> None:
    told = note("https://host:443", breaker, LIMITS)
    assert words in told.message
    assert told.facts == {"origin": "https://host:443", "breaker": breaker.state.value}


# --- whatever happens -----------------------------------------------------------------------------

LEASE = 10.0
SMALL = GateSettings(
    failures=3,
    probes=2,
    least_calls=6,
    lease=timedelta(seconds=LEASE),
    open_for=timedelta(seconds=20),
    open_at_most=timedelta(seconds=100),
    window=timedelta(seconds=30),
)


class AnyOrder(RuleBasedStateMachine):
    """Calls that pass, fail, hang, die and come back late, with a clock that goes on as it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker, self.now, self.number = Breaker(), NOW, 0
        self.passing: list[str | None] = []
        """Calls under way; a probe by its name."""
        self.renewals: dict[str, float] = {}
        """When each probe under way last showed life."""

    def change(self, to: Breaker) -> None:
        before, self.breaker = self.breaker, to
        assert to.epoch - before.epoch in (0, 1, 2)
        assert (to.state is before.state) or to.epoch > before.epoch

    @rule(seconds=st.floats(0, 150))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def call(self) -> None:
        self.number += 1
        name = f"probe {self.number}"
        resting = self.breaker.state is BreakerState.OPEN and wait_seconds(self.breaker, self.now) > 0
        breaker, admission = admit(self.breaker, name, "run", self.now, SMALL)
        self.change(breaker)
        if resting or breaker.state is BreakerState.ISOLATED:
            assert admission is BreakerAnswer.REFUSED
        if admission is BreakerAnswer.PASS:
            assert breaker.state is BreakerState.CLOSED
            self.passing.append(None)
        if admission is BreakerAnswer.PROBE:
            self.renewals[name] = self.now
            self.passing.append(name)

    @precondition(lambda self: self.passing)
    @rule(data=st.data(), end=st.sampled_from(["well", "slowly", "badly", "silently", "killed"]))
    def a_call_ends(self, data: st.DataObject, end: str) -> None:
        name = self.passing.pop(data.draw(st.integers(0, len(self.passing) - 1)))
        ends: dict[str, Callable[[Breaker], Breaker]] = {
            "well": lambda breaker: count_success(breaker, self.now, SMALL, probe=name),
            "slowly": lambda breaker: count_success(breaker, self.now, SMALL, probe=name, slow=1),
            "badly": lambda breaker: count_failure(breaker, self.now, SMALL, probe=name, longer=0.5),
            "silently": lambda breaker: release_probe(breaker, name or ""),
            "killed": lambda breaker: breaker,
        }
        self.change(ends[end](self.breaker))
        if name is not None and end != "killed":  # of a killed one nobody knows
            self.renewals.pop(name, None)

    @precondition(lambda self: self.passing)
    @rule(data=st.data())
    def a_probe_shows_life(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.passing))
        if name is not None and any(probe.id == name for probe in self.breaker.probes):
            self.breaker = renew_probes(self.breaker, [name], self.now)
            self.renewals[name] = self.now

    @rule()
    def a_person_isolates_it(self) -> None:
        self.change(isolate(self.breaker, self.now))

    @precondition(lambda self: self.breaker.state is BreakerState.ISOLATED)
    @rule()
    def a_person_resets_it(self) -> None:
        self.change(reset(self.breaker, self.now))

    @invariant()
    def no_more_probes_live_than_may(self) -> None:
        alive = [probe for probe in self.breaker.probes if self.now - probe.renewed_at < LEASE]
        assert len(alive) <= SMALL.probes
        assert not self.breaker.probes or self.breaker.state is BreakerState.HALF_OPEN
        for probe in alive:
            assert self.renewals[probe.id] == probe.renewed_at

    @invariant()
    def it_is_never_open_for_longer_than_it_may(self) -> None:
        assert wait_seconds(self.breaker, self.now) <= 100 * (1 + LONGER)

    @invariant()
    def it_is_never_wedged(self) -> None:
        """With nobody at work it lets a call through, at the latest when all leases and its rest are over."""
        if self.breaker.state is not BreakerState.ISOLATED:
            much_later = self.now + max(LEASE, 100 * (1 + LONGER)) + 1
            assert admit(self.breaker, "x", "run", much_later, SMALL)[1] in (BreakerAnswer.PASS, BreakerAnswer.PROBE)

    @invariant()
    def it_survives_being_written_down(self) -> None:
        assert Breaker.model_validate_json(self.breaker.model_dump_json()) == self.breaker


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestAnyOrder = AnyOrder.TestCase


@given(st.lists(st.booleans(), max_size=200), st.floats(0, 1))
def test_it_opens_exactly_when_five_in_a_row_or_three_quarters_of_twenty_have_failed(
    calls: list[bool], longer: float
) -> None:
    breaker, row, all_failures = Breaker(), 0, 0
    for number, good in enumerate(calls, start=1):
        breaker = count_success(breaker, NOW, LIMITS) if good else count_failure(breaker, NOW, LIMITS, longer=longer)
        row, all_failures = (0, all_failures) if good else (row + 1, all_failures + 1)
        must_open = row >= 5 or (number >= 20 and all_failures >= number * 0.75)
        assert (breaker.state is BreakerState.OPEN) == must_open
        if must_open:
            break


def test_the_window_stays_as_short_as_it_is_cut() -> None:
    breaker = Breaker()
    for second in range(0, 600, 2):
        breaker = count_success(breaker, NOW + second, LIMITS)
    assert len(breaker.window) <= 10
    assert sum(bucket.calls for bucket in breaker.window) <= LIMITS.window / timedelta(seconds=2)

"""The one retry rule, with sleep and chance passed in: no test waits for a pause."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.errors import (
    POLICIES,
    Cancelled,
    CircuitOpen,
    ConnectionFailed,
    HttpRefused,
    Inside,
    NotFound,
    NotMedia,
    RangeMismatch,
    RequestTimeout,
    ServerError,
    SourceChanged,
    StalledTransfer,
    Throttled,
    TidegateError,
    TruncatedBody,
    WrongDigest,
)
from tidegate.events import Event, Note, Waiting
from tidegate.resilience.retry import Retry, RetryClock, full_jitter
from tidegate.settings import TransferSettings

LIMITS = TransferSettings(tries=3, gain_bytes=256 * 1024, throttle_budget=timedelta(minutes=5))
GAIN = LIMITS.gain_bytes


@dataclass
class Played:
    """What happened to a transfer whose tries were told in advance."""

    tries: int = 0
    pauses: list[float] = field(default_factory=list)
    notes: list[Event] = field(default_factory=list)
    failure: TidegateError | None = None
    retry: Retry | None = None


def play(*story: tuple[int, TidegateError | None], limits: TransferSettings = LIMITS, furthest: int = 0) -> Played:
    """Each try reaches so many bytes in all and then fails, or not; the last one repeats for ever."""
    played = Played()

    async def sleep(seconds: float) -> None:
        played.pauses.append(seconds)

    async def run() -> None:
        clock = RetryClock(random.Random(1), sleep, lambda: sum(played.pauses))
        played.retry = retry = Retry(limits, played.notes.append, "download", clock)
        retry.begin_at(furthest)

        async def one_try() -> None:
            reached, failure = story[min(played.tries, len(story) - 1)]
            played.tries += 1
            assert played.tries < 1000, "it tries for ever"
            retry.note_progress(reached)
            if failure is not None:
                raise failure

        await retry.run(one_try)

    try:
        anyio.run(run)
    except TidegateError as failure:
        played.failure = failure
    return played


def gaining(step: int, count: int, failure: TidegateError) -> Sequence[tuple[int, TidegateError]]:
    return [(step * number, failure) for number in range(1, count + 1)]


@pytest.mark.parametrize("failure", [ConnectionFailed, RequestTimeout, StalledTransfer, ServerError, TruncatedBody])
def test_tries_in_a_row_without_gain_end_after_the_allowed_number(failure: type[TidegateError]) -> None:
    played = play((0, failure("no")))
    assert played.tries == LIMITS.tries
    assert type(played.failure) is failure


def test_a_try_that_gains_enough_never_counts() -> None:
    drops = gaining(GAIN, 50, ConnectionFailed("dropped"))
    played = play(*drops, (50 * GAIN, None))
    assert (played.tries, played.failure) == (51, None)


def test_a_gain_sets_the_count_back_to_zero() -> None:
    drop = ConnectionFailed("dropped")
    played = play((0, drop), (0, drop), (GAIN, drop), (GAIN, drop), (GAIN, drop), (GAIN, drop))
    assert played.tries == 3 + LIMITS.tries


def test_a_try_that_gains_a_little_counts() -> None:
    played = play(*gaining(GAIN - 1, 100, ConnectionFailed("dropped")))
    assert played.tries == LIMITS.tries


def test_the_same_ground_covered_again_is_no_gain() -> None:
    """A source without ranges that drops at half begins at zero each time; it must not be tried for ever."""
    played = play((8 * GAIN, ConnectionFailed("dropped at half")))
    assert played.tries == 1 + LIMITS.tries


def test_bytes_of_an_earlier_run_are_no_gain_of_this_one() -> None:
    played = play((8 * GAIN, ConnectionFailed("no")), furthest=8 * GAIN)
    assert played.tries == LIMITS.tries


@pytest.mark.parametrize("failure", [NotFound, HttpRefused, NotMedia, SourceChanged, Cancelled])
def test_failures_that_a_retry_cannot_cure_are_not_tried_again(failure: type[TidegateError]) -> None:
    played = play((0, failure("no")))
    assert (played.tries, played.pauses) == (1, [])


def test_every_row_of_the_table_is_tried_again_exactly_if_it_says_so() -> None:
    for failure, policy in POLICIES.items():
        assert (play((0, failure("no"))).tries > 1) == (policy.inside is not Inside.NO), failure


def test_an_exception_of_somebody_else_is_never_swallowed_or_retried() -> None:
    tries = 0

    async def one_try() -> None:
        nonlocal tries
        tries += 1
        raise ZeroDivisionError

    async def run() -> None:
        await Retry(LIMITS, lambda _: None, "download").run(one_try)

    with pytest.raises(ZeroDivisionError):
        anyio.run(run)
    assert tries == 1


def test_a_server_error_is_tried_at_once_and_then_after_a_pause() -> None:
    played = play((0, ServerError("503")))
    assert played.pauses[0] == 0.0
    assert all(pause > 0 for pause in played.pauses[1:])
    assert len(played.pauses) == LIMITS.tries - 1


def test_a_connection_error_waits_longer_each_time() -> None:
    limits = LIMITS.model_copy(update={"tries": 6})
    pauses = play((0, ConnectionFailed("no")), limits=limits).pauses
    assert len(pauses) == 5
    for number, pause in enumerate(pauses):
        assert 0.5 <= pause <= 2**number


def test_retry_after_is_obeyed_to_the_second() -> None:
    played = play((0, Throttled("429", retry_after_seconds=42.0)), (0, None))
    assert (played.pauses, played.failure) == ([42.0], None)


def test_being_throttled_costs_no_try() -> None:
    slow_down = (0, Throttled("429", retry_after_seconds=1.0))
    played = play(*[slow_down] * 20, (0, None))
    assert (played.tries, played.failure) == (21, None)


def test_a_drop_after_very_many_throttled_tries_is_an_ordinary_failure() -> None:
    slow_down = (0, Throttled("429", retry_after_seconds=1.0))
    played = play(*[slow_down] * 70, (0, ConnectionFailed("dropped")), (0, None))
    assert (played.tries, played.failure) == (72, None)


def test_waiting_for_the_origin_is_bounded_by_its_own_budget() -> None:
    played = play((0, Throttled("429", retry_after_seconds=100.0)))
    assert played.pauses == [100.0] * 3
    assert isinstance(played.failure, Throttled)
    assert played.failure.retry_after_seconds == 100.0


def test_a_retry_after_beyond_the_budget_is_not_waited_for() -> None:
    played = play((0, Throttled("429", retry_after_seconds=301.0)))
    assert (played.tries, played.pauses) == (1, [])


def test_a_429_without_retry_after_backs_off_and_ends() -> None:
    played = play((0, Throttled("429")))
    assert isinstance(played.failure, Throttled)
    assert 10 <= played.tries <= 40
    assert sum(played.pauses) <= LIMITS.throttle_budget.total_seconds()
    assert min(played.pauses) >= 0.5


@pytest.mark.parametrize("asked", [0.0, None])
def test_an_origin_that_says_come_back_now_for_ever_is_not_hammered(asked: float | None) -> None:
    played = play((0, Throttled("429", retry_after_seconds=asked)))
    assert isinstance(played.failure, Throttled)
    assert played.tries <= 40


@pytest.mark.parametrize("asked", [0.0, 0.001, None])
def test_a_429_waits_a_second_at_least_even_with_no_backoff_at_all(asked: float | None) -> None:
    limits = LIMITS.model_copy(update={"backoff_base": timedelta(0), "throttle_budget": timedelta(seconds=30)})
    played = play((0, Throttled("429", retry_after_seconds=asked)), limits=limits)
    assert isinstance(played.failure, Throttled)
    assert played.pauses == [1.0] * 30


def test_a_503_with_retry_after_waits_as_told_and_still_counts_as_a_try() -> None:
    played = play((0, ServerError("503", retry_after_seconds=7.0)))
    assert (played.tries, played.pauses) == (LIMITS.tries, [7.0] * (LIMITS.tries - 1))


def test_a_wrong_digest_is_fetched_again_once_and_at_once() -> None:
    played = play((GAIN, WrongDigest("no")))
    assert (played.tries, played.pauses) == (2, [0.0])
    assert isinstance(played.failure, WrongDigest)


def test_a_wrong_digest_after_other_failures_still_has_its_one_chance() -> None:
    played = play((0, ConnectionFailed("no")), (GAIN, WrongDigest("no")), (2 * GAIN, None))
    assert played.failure is None


def test_a_wrong_range_is_tried_from_the_beginning_at_once() -> None:
    assert play((0, RangeMismatch("no")), (0, None)).pauses == [0.0]


def test_every_retry_is_told_with_its_pause_and_reason() -> None:
    played = play((0, ConnectionFailed("reset by peer")), (GAIN, None))
    [note] = played.notes
    assert isinstance(note, Note)
    assert note.level == "warning"
    assert "reset by peer" in note.message
    assert f"{played.pauses[0]:.1f} s" in note.message
    assert note.facts["failure"] == "connection_failed"
    assert played.retry is not None and played.retry.retries == 1


# --- pieces of one transfer ------------------------------------------------------------------------


def failing_piece(whole: Retry, failure: TidegateError) -> int:
    """How often a piece that always fails is tried."""
    tries = 0

    async def one_try() -> None:
        nonlocal tries
        tries += 1
        raise failure

    async def run() -> None:
        await whole.piece("segment", 2).run(one_try)

    with pytest.raises(type(failure)):
        anyio.run(run)
    return tries


def sleepless(now: list[float]) -> Retry:
    """A transfer whose clock is moved by its own sleeping, and by the test."""

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    return Retry(LIMITS, lambda event: None, "download", RetryClock(random.Random(1), sleep, lambda: now[0]))


def test_a_piece_has_two_extra_tries_and_leaves_its_siblings_theirs() -> None:
    whole = sleepless([0.0])
    assert [failing_piece(whole, ConnectionFailed("x")) for _ in range(3)] == [3, 3, 3]
    assert whole.retries == 6


def test_pieces_share_the_time_that_the_source_may_ask_for() -> None:
    whole = sleepless([0.0])
    asked = Throttled("x", retry_after_seconds=100)
    assert failing_piece(whole, asked) == 4, "300 s and no more"
    assert failing_piece(whole, asked) == 1


def test_pieces_that_wait_at_the_same_time_use_that_time_up_once() -> None:
    waiting: list[float] = []
    all_wait = anyio.Event()

    async def sleep(seconds: float) -> None:
        waiting.append(seconds)
        if len(waiting) == 4:
            all_wait.set()
        await all_wait.wait()

    whole = Retry(LIMITS, lambda event: None, "download", RetryClock(sleep=sleep, now=lambda: 0.0))

    async def piece() -> None:
        answers = iter([Throttled("x", retry_after_seconds=250), None])

        async def one_try() -> None:
            if (failure := next(answers)) is not None:
                raise failure

        await whole.piece("segment", 2).run(one_try)

    async def run() -> None:
        async with anyio.create_task_group() as pieces:
            for _ in range(4):
                pieces.start_soon(piece)

    anyio.run(run)
    assert (whole.retries, whole.asked.seconds) == (4, 250)


def test_a_transfer_that_opened_the_breaker_ends_with_its_own_failure() -> None:
    opened = CircuitOpen("x")
    opened.own = ServerError("the real one")

    async def one_try() -> None:
        raise opened

    async def run() -> None:
        await sleepless([0.0]).run(one_try)

    with pytest.raises(ServerError, match="the real one"):
        anyio.run(run)


def test_a_long_pause_is_told_while_it_lasts() -> None:
    played = play((0, Throttled("x", retry_after_seconds=30)), (1, None))
    waits = [event for event in played.notes if isinstance(event, Waiting)]
    assert [wait.what is None for wait in waits] == [False, True]
    assert waits[0].what is not None and "30 s" in waits[0].what


@given(st.integers(0, 60), st.floats(0.001, 60), st.floats(0.001, 600), st.integers())
def test_jitter_stays_between_its_floor_and_its_ceiling(tries: int, base: float, cap: float, seed: int) -> None:
    pause = full_jitter(tries, timedelta(seconds=base), timedelta(seconds=cap), random.Random(seed))
    ceiling = min(base * 2 ** max(tries - 1, 0), cap)
    assert min(base / 2, ceiling) - 1e-6 <= pause <= ceiling + 1e-6


def test_jitter_spreads_over_its_whole_range() -> None:
    rng = random.Random(7)
    pauses = [full_jitter(4, timedelta(seconds=1), timedelta(seconds=30), rng) for _ in range(500)]
    assert min(pauses) < 1.0
    assert max(pauses) > 7.5

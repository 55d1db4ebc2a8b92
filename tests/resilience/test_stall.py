"""The two clocks of progress, with the time passed in: an hour of transfer is tested in a millisecond."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.resilience.stall import ProgressClock, SpeedWindow

WINDOW, TICK, MINIMUM = 30, 5, 1024
MIB = 1024 * 1024


def first_stall(bytes_at: Callable[[float], float], *, until: float = 600) -> float | None:
    """When a watch that looks every tick says that a transfer has stalled; `bytes_at` tells its total at a time."""
    window = SpeedWindow(timedelta(seconds=WINDOW), MINIMUM)
    now = 0.0
    while now <= until:
        window.record(now, int(bytes_at(now)))
        if window.is_stalled():
            return now
        now += TICK
    return None


def test_a_silent_transfer_stalls_within_the_window_and_one_tick() -> None:
    stalled = first_stall(lambda now: min(now, 101) * MIB)
    assert stalled is not None
    assert WINDOW <= stalled - 101 <= WINDOW + TICK


def test_a_transfer_that_never_began_stalls_after_one_window() -> None:
    assert first_stall(lambda now: 0) == WINDOW


def test_a_drip_after_a_fast_start_stalls_though_its_average_since_the_start_is_high() -> None:
    stalled = first_stall(lambda now: min(now, 60) * 10 * MIB + max(0, now - 60) * 200)
    assert stalled is not None
    assert stalled <= 60 + WINDOW + TICK


def test_a_slow_but_sufficient_transfer_is_left_alone() -> None:
    assert first_stall(lambda now: now * MINIMUM) is None


def test_a_transfer_that_recovered_in_time_is_left_alone() -> None:
    def twenty_silent_seconds(now: float) -> float:
        return min(now, 60) * MIB + max(0, now - 80) * MIB

    assert first_stall(twenty_silent_seconds) is None


def test_bytes_and_time_are_forgotten_together() -> None:
    """The field's mistake: after a slow window the bytes were set to zero but not the time."""
    window = SpeedWindow(timedelta(seconds=WINDOW), MINIMUM)
    for now in range(0, 40, TICK):
        window.record(now, 0)
    assert window.is_stalled()
    for step, now in enumerate(range(40, 80, TICK)):
        window.record(now, step * 10 * MIB)
    assert not window.is_stalled()
    assert window.speed() == pytest.approx(10 * MIB / TICK)


@given(st.lists(st.integers(0, 50 * MIB), min_size=1, max_size=60))
def test_no_transfer_is_judged_before_a_whole_window_was_seen(gains: list[int]) -> None:
    window, total = SpeedWindow(timedelta(seconds=WINDOW), MINIMUM), 0
    for step, gain in enumerate(gains):
        total += gain
        window.record(step * TICK, total)
        if step * TICK < WINDOW:
            assert not window.is_stalled()


@given(st.lists(st.integers(0, 20 * MINIMUM * TICK), min_size=10, max_size=60))
def test_the_verdict_is_the_speed_of_the_last_window_alone(gains: list[int]) -> None:
    totals = [sum(gains[:count]) for count in range(len(gains))]
    window = SpeedWindow(timedelta(seconds=WINDOW), MINIMUM)
    for step, total in enumerate(totals):
        window.record(step * TICK, total)
    steps = WINDOW // TICK
    assert window.is_stalled() == (totals[-1] - totals[-1 - steps] < MINIMUM * WINDOW)


def process_clock() -> ProgressClock:
    return ProgressClock(
        started=1000.0, startup_grace=timedelta(seconds=30), stall_timeout=timedelta(seconds=90), last_progress=None
    )


def test_a_process_that_never_reports_stalls_after_grace_and_timeout() -> None:
    clock = process_clock()
    assert not clock.is_stalled(1000.0 + 30 + 90)
    assert clock.is_stalled(1000.0 + 30 + 90 + 0.1)


def test_a_process_that_stops_reporting_stalls_one_timeout_later() -> None:
    clock = process_clock()
    assert clock.record(1500.0, out_time_us=1)
    assert not clock.is_stalled(1590.0)
    assert clock.is_stalled(1590.1)
    assert clock.idle_seconds(1590.1) == pytest.approx(90.1)


def test_progress_during_the_grace_does_not_shorten_it() -> None:
    clock = process_clock()
    clock.record(1001.0, frame=1)
    assert not clock.is_stalled(1000.0 + 30 + 90)


def test_only_an_advance_is_progress() -> None:
    clock = process_clock()
    assert clock.record(1100.0, out_time_us=5, frame=10)
    assert not clock.record(1150.0, out_time_us=5, frame=10)
    assert not clock.record(1160.0, out_time_us=3, frame=9)
    assert clock.last_progress == 1100.0


@pytest.mark.parametrize("mark", ["out_time_us", "frame", "total_size", "written_bytes"])
def test_an_advance_of_any_one_mark_is_progress(mark: str) -> None:
    clock = process_clock()
    clock.record(1100.0, out_time_us=5, frame=5, total_size=5, written_bytes=5)
    assert clock.record(1200.0, **{mark: 6})
    assert not clock.is_stalled(1290.0)


def test_a_file_that_is_rewritten_from_zero_is_no_progress_until_it_outgrows_itself() -> None:
    clock = process_clock()
    clock.record(1100.0, written_bytes=500)
    assert not clock.record(1110.0, written_bytes=20)
    assert clock.record(1120.0, written_bytes=501)

"""How long it may take: the rules of DESIGN §5 as properties."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.resilience.deadline import (
    LONGEST_EXTENSION,
    SPEED_WINDOW,
    DownloadSpeed,
    download_seconds,
    extension_seconds,
    outer_seconds,
    process_seconds,
    publish_seconds,
    slower_of,
)
from tidegate.resilience.load import Load, load_factor
from tidegate.settings import ProcessSettings

LEAST = timedelta(minutes=30)
MINIMUM = 1024

elapsed_times = st.floats(0, 1e6)
sizes = st.none() | st.integers(0, 10**14)
slow = st.floats(0, MINIMUM, exclude_max=True)


@given(elapsed_times, sizes, st.floats(MINIMUM, 1e10))
def test_a_download_at_or_above_the_minimum_speed_has_no_limit(elapsed: float, left: int | None, speed: float) -> None:
    limit = download_seconds(least=LEAST, elapsed=elapsed, remaining_bytes=left, speed=speed, minimum_speed=MINIMUM)
    assert limit is None


@given(elapsed_times, sizes, slow)
def test_a_slow_download_always_has_a_limit_and_never_less_than_the_least(
    elapsed: float, left: int | None, speed: float
) -> None:
    limit = download_seconds(least=LEAST, elapsed=elapsed, remaining_bytes=left, speed=speed, minimum_speed=MINIMUM)
    assert limit is not None
    assert limit >= LEAST.total_seconds()


@given(elapsed_times, st.integers(1, 10**12), st.floats(1, MINIMUM, exclude_max=True))
def test_a_slow_download_gets_half_as_long_again_as_it_needs(elapsed: float, left: int, speed: float) -> None:
    limit = download_seconds(least=LEAST, elapsed=elapsed, remaining_bytes=left, speed=speed, minimum_speed=MINIMUM)
    assert limit == pytest.approx(max(LEAST.total_seconds(), elapsed + 1.5 * left / speed))


def test_a_silent_download_has_only_the_least_time() -> None:
    limit = download_seconds(least=LEAST, elapsed=1e5, remaining_bytes=10**9, speed=0.0, minimum_speed=MINIMUM)
    assert limit == LEAST.total_seconds()


@given(st.integers(0, 10**14), st.integers(0, 10**14))
def test_processing_time_grows_with_the_file_and_is_bounded(one: int, other: int) -> None:
    limits = ProcessSettings()
    small, large = sorted((one, other))
    seconds = process_seconds(limits, small)
    assert 20 * 60 <= seconds <= process_seconds(limits, large) <= 2 * 3600


def test_processing_gets_a_minute_for_each_gigabyte() -> None:
    assert process_seconds(ProcessSettings(), 10 * 10**9) == 30 * 60


def test_publishing_gets_five_minutes_and_one_for_each_gigabyte() -> None:
    assert publish_seconds(0) == 5 * 60
    assert publish_seconds(3 * 10**9) == 8 * 60


@given(st.floats(0, 1e6))
def test_the_outer_guard_lies_a_minute_beyond(inner: float) -> None:
    assert outer_seconds(inner) == inner + 60


def test_a_film_that_comes_nearer_to_its_end_is_given_more_time_and_one_that_crawls_is_not() -> None:
    first = extension_seconds(elapsed=1200, share=0.4, share_before=0.0)
    assert first == pytest.approx(1200 / 0.4 * 1.5)
    assert extension_seconds(elapsed=4500, share=0.42, share_before=0.4) is None
    assert extension_seconds(elapsed=1200, share=None, share_before=0.0) is None


def test_extensions_end_however_steadily_it_advances() -> None:
    limit, extensions, before = 1.0, 0, 0.0
    while (now := extension_seconds(elapsed=limit, share=before + 0.05, share_before=before)) is not None:
        limit, before, extensions = now, before + 0.05, extensions + 1
        assert extensions <= 20
    assert limit <= LONGEST_EXTENSION.total_seconds()


rungs = st.floats(0.5, 1.0)
loads = st.builds(Load, memory=st.floats(0, 1), cpu=st.floats(0, 1))


@given(elapsed_times, sizes, slow, rungs, loads)
def test_a_rung_and_a_busy_machine_scale_every_limit_of_a_download(
    elapsed: float, left: int | None, speed: float, factor: float, load: Load
) -> None:
    told = {"least": LEAST, "elapsed": elapsed, "remaining_bytes": left, "speed": speed, "minimum_speed": MINIMUM}
    plain = download_seconds(**told)  # type: ignore[arg-type]
    scaled = download_seconds(**told, load=load, factor=factor)  # type: ignore[arg-type]
    assert plain is not None and scaled == pytest.approx(plain * factor * load_factor(load))


@given(loads)
def test_a_machine_is_busy_beyond_four_fifths_of_its_memory_or_nine_tenths_of_its_processors(load: Load) -> None:
    assert load_factor(load) == (1.25 if load.memory > 0.8 or load.cpu > 0.9 else 1.0)


@given(st.floats(0, 1e9), st.integers(0, 10**12), elapsed_times)
def test_a_projection_trusts_neither_a_fast_minute_nor_a_fast_mean(
    window: float, received: int, elapsed: float
) -> None:
    speed = slower_of(window, received, elapsed)
    assert 0 <= speed <= window
    assert speed <= (received / elapsed if elapsed else 0.0)


@given(st.integers(0, 10**14), rungs)
def test_a_rung_scales_the_time_of_processing(size: int, factor: float) -> None:
    limits = ProcessSettings()
    assert process_seconds(limits, size, factor) == pytest.approx(process_seconds(limits, size) * factor)


@given(st.floats(10, MINIMUM, exclude_max=True), st.integers(10**5, 10**8), st.floats(0.05, 0.95))
def test_looked_at_again_and_again_a_steady_download_comes_through_and_one_that_stops_does_not(
    speed: float, total: int, stops_at: float
) -> None:
    def limit(now: float, received: float, recent: float) -> float:
        told = download_seconds(
            least=LEAST,
            elapsed=now,
            remaining_bytes=round(total - received),
            speed=slower_of(recent, round(received), now),
            minimum_speed=MINIMUM,
        )
        assert told is not None
        return told

    needed = total / speed
    moments = [needed * share / 20 for share in range(1, 21)]
    assert all(now <= limit(now, now * speed, speed) for now in moments)
    stopped = needed * stops_at
    assert limit(stopped, stopped * speed, 0.0) == LEAST.total_seconds(), "what is left is never reached"


# --- the pace that a projection may trust -----------------------------------------------------------

looks = st.lists(st.tuples(st.floats(0.1, 30), st.integers(0, 10**6), st.booleans()), min_size=1, max_size=60)
MINUTE = SPEED_WINDOW.total_seconds()


@given(looks)
def test_a_pace_is_told_only_of_a_whole_minute_in_which_bytes_could_come(
    course: list[tuple[float, int, bool]],
) -> None:
    pace, now, total, at_work = DownloadSpeed(MINIMUM), 1000.0, 0, 0.0
    pace.record(now, total, could_come=False)
    for seconds, gained, could_come in course:
        now, total, at_work = now + seconds, total + gained * could_come, at_work + seconds * could_come
        pace.record(now, total, could_come=could_come)
        if abs(at_work - MINUTE) > 1e-6:
            assert (pace.speed() is not None) == (at_work > MINUTE)


@given(looks, st.floats(1, 10**5))
def test_however_long_is_waited_in_between_the_pace_is_that_of_the_work(
    course: list[tuple[float, int, bool]], speed: float
) -> None:
    pace, now, at_work = DownloadSpeed(MINIMUM), 0.0, 0.0
    pace.record(now, 0, could_come=False)
    for seconds, _, could_come in (*course, (MINUTE + 1, 0, True), (3600.0, 0, False)):
        now, at_work = now + seconds, at_work + seconds * could_come
        pace.record(now, round(at_work * speed), could_come=could_come)
    assert pace.speed() == pytest.approx(speed, abs=0.1)


def test_a_silent_minute_of_work_is_a_standstill_and_an_hour_of_waiting_is_none() -> None:
    pace = DownloadSpeed(MINIMUM)
    for now in range(0, 120, 5):
        pace.record(now, now * MINIMUM, could_come=True)
    sent = 115 * MINIMUM
    for now in range(120, 3720, 5):
        pace.record(now, sent, could_come=False)
    assert pace.speed() == MINIMUM
    for now in range(3720, 3785, 5):
        pace.record(now, sent, could_come=True)
    assert pace.speed() == 0

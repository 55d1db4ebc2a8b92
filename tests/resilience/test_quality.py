"""The table of DESIGN §6: which rung the memory allows, what it may cost, and which one comes after it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.model import Aim, Quality
from tidegate.resilience.quality import (
    LEAST_MEMORY_BYTES,
    LOWEST_HEIGHT,
    MB,
    RUNGS,
    cap_bytes,
    first_aim,
    memory_for,
    next_aim,
    recommend_rung,
    rung_of,
    threads_for,
)

MINUTE = 60.0


@pytest.mark.parametrize(
    ("available_mb", "minutes", "rung"),
    [
        (6144, None, Quality.P720),
        (6143, None, Quality.P480),
        (3072, None, Quality.P480),
        (3071, None, Quality.P360),
        (1536, None, Quality.P360),
        (1535, None, Quality.WORST),
        (0, None, Quality.WORST),
        # Beyond two hours of media what is available counts as a 1.3th, beyond four as a 1.5th.
        (6144, 120, Quality.P720),
        (6144, 120.1, Quality.P480),
        (7987, 240, Quality.P480),
        (7988, 240, Quality.P720),
        (9215, 240.1, Quality.P480),
        (9216, 240.1, Quality.P720),
        (2304, 300, Quality.P360),
        (2303, 300, Quality.WORST),
    ],
)
def test_the_rung_that_the_memory_allows(available_mb: int, minutes: float | None, rung: Quality) -> None:
    seconds = minutes * MINUTE if minutes is not None else None
    assert recommend_rung(available_mb * MB, seconds) is rung


@given(less=st.integers(0, 2**36), more=st.integers(0, 2**36), seconds=st.none() | st.floats(0, 1e6))
def test_more_memory_never_recommends_less(less: int, more: int, seconds: float | None) -> None:
    rungs = [rung.quality for rung in RUNGS]
    low, high = sorted((less, more))
    assert rungs.index(recommend_rung(high, seconds)) <= rungs.index(recommend_rung(low, seconds))


@pytest.mark.parametrize(
    ("quality", "megabytes"),
    [
        (Quality.P2160, 6144),
        (Quality.P1080, 6144),
        (Quality.P720, 6144),
        (Quality.P480, 3072),
        (Quality.P360, 1536),
        (Quality.WORST, 512),
    ],
)
def test_an_explicit_rung_asks_for_its_own_recommendation(quality: Quality, megabytes: int) -> None:
    assert memory_for(quality, transcode=True, available_bytes=1, media_seconds=9e9) == megabytes * MB
    assert memory_for(quality, transcode=False, available_bytes=1, media_seconds=9e9) == LEAST_MEMORY_BYTES


@pytest.mark.parametrize("quality", [Quality.AUTO, Quality.BEST])
@given(available=st.integers(0, 2**36), seconds=st.none() | st.floats(0, 1e6))
def test_auto_waits_for_nothing_but_the_least(quality: Quality, available: int, seconds: float | None) -> None:
    """It recommends what there is: only where not even the worst rung fits is memory missing."""
    wanted = memory_for(quality, transcode=True, available_bytes=available, media_seconds=seconds)
    assert wanted <= max(available, LEAST_MEMORY_BYTES)


# --- stepping down ---------------------------------------------------------------------------------


def descended(quality: Quality, height: int | None, available: int = 2**40) -> list[tuple[Quality, int | None]]:
    """Every target that is tried for a picture of this height, when each of them fails."""
    aim: Aim | None = first_aim(quality, available, None)
    tried = []
    while aim is not None:
        tried.append((aim.rung, aim.height))
        aim = next_aim(aim, aim.height or height)
    return tried


def test_auto_begins_with_the_source_as_it_is_and_goes_down_to_the_worst() -> None:
    low = [(Quality.P480, 480), (Quality.P360, 360), (Quality.WORST, LOWEST_HEIGHT)]
    assert descended(Quality.AUTO, 1080) == [(Quality.P720, None), (Quality.P720, 720), *low]
    assert descended(Quality.AUTO, 720) == [(Quality.P720, None), *low]
    little = [(Quality.P360, None), (Quality.P360, 360), (Quality.WORST, LOWEST_HEIGHT)]
    assert descended(Quality.AUTO, 2160, 1600 * MB) == little


def test_what_was_asked_for_comes_first() -> None:
    assert descended(Quality.P1080, 1080)[:2] == [(Quality.P1080, None), (Quality.P720, 720)]
    assert descended(Quality.BEST, 1080)[:2] == [(Quality.P2160, None), (Quality.P720, 720)], "1080p is no smaller"
    assert descended(Quality.WORST, 240) == [(Quality.WORST, None)], "below the worst there is nothing"


def test_a_rung_that_does_not_make_the_picture_smaller_is_passed_over() -> None:
    assert descended(Quality.AUTO, 360) == [(Quality.P720, None), (Quality.WORST, LOWEST_HEIGHT)]
    assert descended(Quality.AUTO, 144) == [(Quality.P720, None)]
    assert descended(Quality.AUTO, None) == [(Quality.P720, None)], "sound alone has no height"


@given(quality=st.sampled_from(list(Quality)), height=st.none() | st.integers(1, 5000), available=st.integers(0, 2**36))
def test_each_step_down_may_cost_less_and_makes_less(quality: Quality, height: int | None, available: int) -> None:
    tried = descended(quality, height, available)
    caps = [rung_of(rung).memory_cap_bytes for rung, _ in tried]
    heights = [made or height or 0 for _, made in tried]
    assert caps == sorted(caps, reverse=True)
    assert heights == sorted(set(heights), reverse=True)


@pytest.mark.parametrize(
    ("quality", "cores", "available_mb", "threads"),
    [
        (Quality.P720, 64, 64_000, 8),
        (Quality.P720, 2, 64_000, 2),
        (Quality.P720, 64, 4096, 6),
        (Quality.P720, 64, 2048, 4),
        (Quality.P720, 64, 1024, 2),
        (Quality.P480, 64, 64_000, 6),
        (Quality.WORST, 64, 64_000, 2),
        (Quality.WORST, 0, 0, 1),
    ],
)
def test_threads_respect_rung_cores_and_memory(quality: Quality, cores: int, available_mb: int, threads: int) -> None:
    assert threads_for(rung_of(quality), cores, available_mb * MB) == threads


def test_no_tool_may_take_the_whole_machine() -> None:
    rung = rung_of(Quality.P720)
    assert cap_bytes(rung, 64_000 * MB) == 8192 * MB
    assert cap_bytes(rung, 4000 * MB) == 3600 * MB

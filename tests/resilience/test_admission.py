"""The table of DESIGN §6: what work should find before it begins, and what a host lacks for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.model import Quality
from tidegate.resilience.admission import (
    LEAST_MEMORY_BYTES,
    MB,
    MEMORY_BYTES,
    OUTPUT_FACTOR,
    STORE_FACTOR,
    Needs,
    Volume,
    memory_for,
    missing,
    recommended_rung,
    too_small,
)

MINUTE, GB = 60.0, 1000**3


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
    assert recommended_rung(available_mb * MB, seconds) is rung


@given(less=st.integers(0, 2**36), more=st.integers(0, 2**36), seconds=st.none() | st.floats(0, 1e6))
def test_more_memory_never_recommends_less(less: int, more: int, seconds: float | None) -> None:
    rungs = list(MEMORY_BYTES)
    low, high = sorted((less, more))
    assert rungs.index(recommended_rung(high, seconds)) <= rungs.index(recommended_rung(low, seconds))


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


# --- what is missing -------------------------------------------------------------------------------

STORE, OUTPUT = "/store", "/output"
VOLUMES = {STORE: Volume(free=30 * GB, total=100 * GB), OUTPUT: Volume(free=10 * GB, total=50 * GB)}


def of_size(gigabytes: float) -> Needs:
    size = round(gigabytes * GB)
    return Needs(disk_bytes={STORE: STORE_FACTOR * size, OUTPUT: OUTPUT_FACTOR * size})


@pytest.mark.parametrize(
    ("needs", "available", "said"),
    [
        (Needs(), 0, None),
        (of_size(10), 0, None),
        (of_size(10.1), 0, "30.3 GB of disk at /store (30.0 GB free)"),
        (Needs(disk_bytes={OUTPUT: 10 * GB + 1}), 0, "10.0 GB of disk at /output (10.0 GB free)"),
        (Needs(memory_bytes=6144 * MB), 6144 * MB, None),
        (Needs(memory_bytes=6144 * MB), 6144 * MB - 1, "6.4 GB of memory (6.4 GB available)"),
        (Needs(memory_bytes=512 * MB, disk_bytes={STORE: 40 * GB}), 100 * MB, "0.5 GB of memory (0.1 GB available)"),
    ],
)
def test_what_is_missing_is_said_with_what_there_is(needs: Needs, available: int, said: str | None) -> None:
    assert missing(needs, available, VOLUMES) == said


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        (of_size(33.3), None),
        (of_size(33.4), "100.2 GB of disk at /store, whose volume has 100.0 GB in all"),
        (Needs(disk_bytes={OUTPUT: 51 * GB}), "51.0 GB of disk at /output, whose volume has 50.0 GB in all"),
        (Needs(memory_bytes=10**15), None),  # another run may be holding it
    ],
)
def test_what_can_never_be_had_is_told_from_what_is_missing_now(needs: Needs, said: str | None) -> None:
    assert too_small(needs, VOLUMES) == said

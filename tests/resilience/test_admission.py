"""What a host lacks for the work that is to begin, and what it can never have (DESIGN §6)."""

from __future__ import annotations

import pytest

from tidegate.resilience.admission import OUTPUT_FACTOR, STORE_FACTOR, Needs, Volume, shortage_of, too_small
from tidegate.resilience.quality import MB

GB = 1000**3

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
        (Needs(memory_bytes=6144 * MB), 6144 * MB - 1, "6.1 GB of memory (6.1 GB available)"),
        (Needs(memory_bytes=512 * MB, disk_bytes={STORE: 40 * GB}), 100 * MB, "0.5 GB of memory (0.1 GB available)"),
    ],
)
def test_what_is_missing_is_said_with_what_there_is(needs: Needs, available: int, said: str | None) -> None:
    assert shortage_of(needs, available, VOLUMES) == said


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

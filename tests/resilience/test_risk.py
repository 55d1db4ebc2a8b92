"""How near a limit is, told in four words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.events import Risk
from tidegate.resilience.risk import rises_to_tell, risk_level

shares = st.floats(0, 2)
ORDER: tuple[Risk, ...] = ("low", "medium", "high", "critical")


@given(shares, shares)
def test_the_nearer_end_decides(of_deadline: float, of_stall: float) -> None:
    told = risk_level(elapsed=of_deadline * 100, deadline=100, idle=of_stall * 90, stall=90)
    alone = [
        risk_level(elapsed=of_deadline * 100, deadline=100, idle=0, stall=90),
        risk_level(elapsed=0, deadline=100, idle=of_stall * 90, stall=90),
    ]
    assert told == max(alone, key=ORDER.index)


@pytest.mark.parametrize(
    ("elapsed", "level"),
    [
        (0, "low"),
        (49, "low"),
        (50, "medium"),
        (79, "medium"),
        (80, "high"),
        (94, "high"),
        (95, "critical"),
        (200, "critical"),
    ],
)
def test_the_levels_begin_where_the_design_says(elapsed: float, level: Risk) -> None:
    assert risk_level(elapsed=elapsed, deadline=100, idle=0, stall=90) == level


@given(shares, shares, st.floats(0, 1))
def test_risk_only_rises_with_time(first: float, more: float, idle: float) -> None:
    before = risk_level(elapsed=first, deadline=1, idle=idle, stall=1)
    after = risk_level(elapsed=first + more, deadline=1, idle=idle, stall=1)
    assert ORDER.index(after) >= ORDER.index(before)


def test_a_process_in_its_grace_is_not_idle() -> None:
    """The stall clock counts from the end of the grace: before it, idle seconds are negative."""
    assert risk_level(elapsed=1, deadline=100, idle=-29, stall=90) == "low"


def test_no_time_at_all_is_critical_as_soon_as_any_has_passed() -> None:
    assert risk_level(elapsed=0, deadline=0, idle=0, stall=0) == "low"
    assert risk_level(elapsed=0.1, deadline=0, idle=0, stall=1) == "critical"


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ("low", "medium", False),
        ("low", "high", True),
        ("high", "high", False),
        ("high", "critical", True),
        ("critical", "high", False),
        ("medium", "critical", True),
    ],
)
def test_somebody_hears_of_it_when_it_rises_to_high_or_critical(before: Risk, now: Risk, told: bool) -> None:
    assert rises_to_tell(before, now) is told

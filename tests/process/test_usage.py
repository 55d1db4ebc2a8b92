"""What samples come to: alerts that do not nag, a trend that warns in time, a curve that keeps its peak."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.model import ResourceUse
from tidegate.process.usage import Alert, Alerts, Limits, Point, Sample, Use, thin_out, trend
from tidegate.resilience.load import Load

MB = 1000**2
CAPPED = Limits(machine_bytes=8000 * MB, cap_bytes=1000 * MB, deadline_seconds=1000)


def sample(seconds: float, memory_mb: float = 0, *, machine: Load | None = None, cpu: float = 0) -> Sample:
    return Sample(seconds, round(memory_mb * MB), cpu, machine=machine or Load())


def alerts(*samples: Sample, limits: Limits = CAPPED) -> list[str]:
    watch, told = Alerts(), []
    for count in range(1, len(samples) + 1):
        told += [alert.text for alert in watch.look(samples[:count], limits)]
    return told


def test_memory_beyond_four_fifths_of_its_cap_is_told_once() -> None:
    said = alerts(*(sample(5.0 * n, memory) for n, memory in enumerate([700, 810, 790, 820, 805, 900])))
    assert said == ["it uses 810 of the 1000 MB of memory that it may"]


def test_it_is_told_again_only_after_a_calm_in_between() -> None:
    said = alerts(*(sample(5.0 * n, memory) for n, memory in enumerate([810, 750, 810, 690, 810])))
    assert len(said) == 2, "75 % is not calm, 69 % is"


def test_a_busy_machine_is_told_of() -> None:
    said = alerts(sample(5, machine=Load(memory=0.85, cpu=0.95)))
    assert said == ["85% of this machine's memory is in use", "95% of this machine's processors is in use"]


def test_time_is_told_of_at_four_fifths_of_the_deadline_and_again_for_a_later_one() -> None:
    watch = Alerts()
    assert watch.look([sample(790)], CAPPED) == []
    assert [alert.text for alert in watch.look([sample(810)], CAPPED)] == [
        "810 s of the 1000 s that it may take have passed"
    ]
    later = Limits(CAPPED.machine_bytes, CAPPED.cap_bytes, 4000)
    assert watch.look([sample(1010)], later) == []
    assert [alert.text for alert in watch.look([sample(3300)], later)] == [
        "3300 s of the 4000 s that it may take have passed"
    ]


def test_a_fast_rise_is_told_with_the_time_that_is_left() -> None:
    rising = [sample(5.0 * n, 100 + 60 * n) for n in range(4)]
    assert trend(rising, CAPPED) == pytest.approx((1000 - 280) / 12)
    assert alerts(*rising) == ["memory rises fast: at its cap in about 60 s"]


@pytest.mark.parametrize(
    "memory", [[100, 160, 220], [100, 150, 200, 250], [100, 200, 190, 300], [100, 160, 220, 265]], ids=str
)
def test_what_rises_too_seldom_or_too_slowly_is_no_trend(memory: list[int]) -> None:
    assert trend([sample(5.0 * n, each) for n, each in enumerate(memory)], CAPPED) is None


def test_without_a_cap_the_machine_is_the_limit() -> None:
    free = Limits(machine_bytes=1000 * MB)
    assert alerts(*(sample(5.0 * n, 100 + 60 * n) for n in range(4)), limits=free) == [
        "memory rises fast: at what the machine has in about 60 s"
    ]


points = st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 10**12), st.floats(0, 1e4)), max_size=500)


@given(points)
def test_a_thinned_curve_is_short_in_order_and_keeps_its_peak(curve: list[Point]) -> None:
    curve.sort()
    thin = thin_out(curve)
    assert len(thin) <= 60
    assert list(thin) == sorted(thin) and set(thin) <= set(curve)
    assert max((p[1] for p in thin), default=0) == max((p[1] for p in curve), default=0)


@given(st.lists(st.tuples(st.floats(0.1, 60), st.integers(0, 10**12), st.floats(0, 800)), min_size=1, max_size=600))
def test_means_lie_between_extremes_however_long_it_takes(looks: list[tuple[float, int, float]]) -> None:
    use, now = Use(), 0.0
    for pause, memory, cpu in looks:
        now += pause
        use.add(Sample(now, memory, cpu))
    total = use.total(now, cap_bytes=None, enforced_by="none")
    memories = [memory for _, memory, _ in looks]
    assert total.samples == len(looks) and len(total.curve) <= 60
    assert total.peak_memory_bytes == max(memories)
    assert min(memories) - 1 <= total.mean_memory_bytes <= max(memories) + 1
    assert total.mean_cpu_percent <= max(cpu for *_, cpu in looks) + 0.1
    assert max(memory for _, memory, _ in total.curve) == max(memories)


def test_what_was_never_looked_at_used_nothing() -> None:
    assert Use().total(0.0, cap_bytes=None, enforced_by="none").mean_memory_bytes == 0


def test_the_kernels_own_count_of_processor_time_is_believed_where_it_is_more() -> None:
    assert Use().total(2.0, cap_bytes=None, enforced_by="none", cpu_seconds=3.0).mean_cpu_percent == 150.0


uses = st.builds(
    ResourceUse,
    seconds=st.floats(0, 1e5),
    samples=st.integers(0, 1000),
    peak_memory_bytes=st.integers(0, 10**12),
    mean_memory_bytes=st.integers(0, 10**12),
    read_bytes=st.integers(0, 10**15),
)


@given(uses, uses)
def test_two_tools_of_a_stage_add_up(one: ResourceUse, other: ResourceUse) -> None:
    both = one + other
    assert both.peak_memory_bytes == max(one.peak_memory_bytes, other.peak_memory_bytes)
    assert both.seconds == pytest.approx(one.seconds + other.seconds, abs=0.001)
    means = sorted((one.mean_memory_bytes, other.mean_memory_bytes))
    assert means[0] - 1 <= both.mean_memory_bytes <= means[1] + 1 or both.seconds == 0
    assert (both.samples, both.read_bytes) == (one.samples + other.samples, one.read_bytes + other.read_bytes)


def test_busy_processors_are_for_the_log_and_memory_is_for_a_person() -> None:
    assert Alert("cpu", "busy").level == "detail"
    assert {Alert(kind, "").level for kind in ("memory_of_cap", "memory_of_machine", "elapsed", "trend")} == {"warning"}

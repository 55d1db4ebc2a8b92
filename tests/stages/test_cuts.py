"""Where films are cut: whatever the timeline, every picture lies in exactly one chunk, and times add up."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from tidegate.media.timeline import Timeline
from tidegate.media.timeline_child import cuts, steady
from tidegate.stages.chunks.plan import LEAST_CHUNKS, Cut, cut

TICKS = ((1, 1000), (1, 12800), (1, 90000), (1001, 30000))


@st.composite
def timelines(draw: st.DrawFn) -> tuple[Timeline, list[int]]:
    """A timeline and when each of its pictures is shown, in ticks."""
    tick = Fraction(*draw(st.sampled_from(TICKS)))
    frame = max(2, round(Fraction(1, 25) / tick))
    gaps = draw(st.lists(st.integers(1, 3 * frame), min_size=40, max_size=400))
    first = draw(st.integers(-(10**6), 10**9))
    shown = [first]
    for gap in gaps:
        shown.append(shown[-1] + gap)
    keys = [shown[0], *draw(st.lists(st.sampled_from(shown), max_size=60))]
    spacing = draw(st.sampled_from([Fraction(1, 5), Fraction(1)])) / tick
    timeline = Timeline(
        time_base=(tick.numerator, tick.denominator),
        rate=(25, 1) if steady(shown, tick, Fraction(25)) else None,
        begins_us=(draw(st.integers(-(10**6), 10**6)),),
        track=0,
        frames=len(shown),
        first=shown[0],
        last=shown[-1],
        odd=None,
        cuts=tuple(cuts(shown, keys, spacing)),
        exact_seek=draw(st.booleans()),
    )
    return timeline, shown


@given(timelines(), st.sampled_from([0.5, 1.0, 3.0]))
def test_every_picture_lies_in_exactly_one_chunk(made: tuple[Timeline, list[int]], chunk_seconds: float) -> None:
    timeline, shown = made
    plan = cut(timeline, chunk_seconds)
    if not isinstance(plan, Cut):
        return
    assert len(plan.chunks) >= LEAST_CHUNKS
    assert plan.frames == timeline.frames
    ticks = [at * timeline.tick for at in shown]
    for chunk in plan.chunks:
        inside = [
            at
            for at in ticks
            if (chunk.after_seconds is None or at >= chunk.after_seconds)
            and (chunk.before_seconds is None or at < chunk.before_seconds)
        ]
        assert len(inside) == chunk.frames > 0
        begins = Fraction(timeline.begins_us[0], 10**6)
        if chunk.seek_seconds is not None:
            assert chunk.seek_seconds + begins < inside[0], "decoding begins before the first picture"


@given(timelines())
def test_rounding_never_adds_up(made: tuple[Timeline, list[int]]) -> None:
    timeline, shown = made
    plan = cut(timeline, 0.5)
    if isinstance(plan, Cut) and timeline.rate is None:
        length = (shown[-1] - shown[0]) * timeline.tick * 10**6
        assert abs(sum(chunk.length_us for chunk in plan.chunks) - length) <= 1


@given(timelines(), st.text(min_size=1))
def test_an_odd_timeline_is_kept_whole_for_its_own_reason(made: tuple[Timeline, list[int]], why: str) -> None:
    assert cut(made[0].model_copy(update={"odd": why}), 0.5) == why


def test_an_ordinary_film_is_cut() -> None:
    shown = [number * 40 for number in range(1000)]
    timeline = Timeline(
        time_base=(1, 1000),
        rate=(25, 1),
        begins_us=(0,),
        track=0,
        frames=1000,
        first=0,
        last=shown[-1],
        odd=None,
        cuts=tuple(cuts(shown, shown[::50], Fraction(1000))),
        exact_seek=True,
    )
    plan = cut(timeline, 10)
    assert isinstance(plan, Cut)
    assert [chunk.frames for chunk in plan.chunks] == [250, 250, 250, 250]
    assert [chunk.seek_seconds for chunk in plan.chunks] == [None, 8.001, 18.001, 28.001]
    assert plan.encoder_tick == (1, 25)

"""Interval arithmetic and who fetches what: whatever happens, every byte is fetched and none is taken for another."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.resilience.stall import SpeedWindow
from tidegate.transfer.file.pieces import ALIGN_BYTES, LEAST_PIECE_BYTES, Piece, Span, Spans, next_piece
from tidegate.transfer.file.tuner import ConnectionTuner

MIB = 1024 * 1024
TOTAL = 64

spans = st.lists(
    st.tuples(st.integers(0, TOTAL), st.integers(0, TOTAL)).map(lambda pair: (min(pair), max(pair))), max_size=12
)


def members(made: Spans) -> set[int]:
    return {byte for span in made.each for byte in range(*span)}


@given(spans)
def test_a_set_of_spans_holds_exactly_the_bytes_that_were_added(told: list[tuple[int, int]]) -> None:
    made = Spans.of(told)
    held = {byte for first, end in told for byte in range(first, end)}
    assert members(made) == held
    assert made.size == len(held)
    assert made.end == max(held, default=-1) + 1
    assert made.prefix == next(byte for byte in range(TOTAL + 1) if byte not in held)


@given(spans)
def test_spans_are_in_order_and_never_touch(told: list[tuple[int, int]]) -> None:
    each = Spans.of(told).each
    assert all(span.size > 0 for span in each)
    assert all(before.end < after.first for before, after in pairwise(each))


@given(spans, st.integers(0, TOTAL))
def test_holes_are_what_is_missing(told: list[tuple[int, int]], total: int) -> None:
    made = Spans.of(told)
    missing = {byte for hole in made.holes(total) for byte in range(*hole)}
    assert missing == set(range(total)) - members(made)
    assert all(hole.size > 0 for hole in made.holes(total))


@given(spans, st.integers(0, TOTAL), st.integers(0, TOTAL))
def test_a_span_is_cut_where_what_is_held_begins_and_ends(told: list[tuple[int, int]], one: int, other: int) -> None:
    made, span = Spans.of(told), Span(min(one, other), max(one, other))
    cuts = list(made.cut(span))
    assert [byte for cut, _ in cuts for byte in range(*cut)] == list(range(*span))
    assert all((byte in members(made)) == held for cut, held in cuts for byte in range(*cut))
    assert all(cut.size > 0 for cut, _ in cuts)


@pytest.mark.parametrize("bad", [(5, 4), (-1, 4)])
def test_what_is_no_span_is_refused(bad: tuple[int, int]) -> None:
    with pytest.raises(ValueError):
        Spans.of([bad])


# --- who fetches what ------------------------------------------------------------------------------

SIZE = 96 * MIB


@settings(deadline=None)
@given(st.data())
def test_whatever_connections_do_every_byte_is_fetched_in_the_end(data: st.DataObject) -> None:
    """Connections come, bring some bytes, are split, taken over, break and end, in any order."""
    have, active = Spans(), list[Piece]()
    for _ in range(data.draw(st.integers(0, 40))):
        what = data.draw(st.sampled_from(["join", "bring", "break", "crash"]))
        if what == "join" and len(active) < 4:
            piece = next_piece(have, SIZE, active, data.draw(st.sampled_from([0.0, 1.0, 1e6])))
            if piece is not None:
                assert piece.stop is not None and 0 <= piece.at < piece.stop <= SIZE
                active = [one for one in active if not one.taken_over] + [piece]
        elif what == "bring" and active:
            piece = data.draw(st.sampled_from(active))
            step = data.draw(st.integers(0, 8 * MIB))
            end = min(piece.at + step, piece.stop or SIZE)
            have, piece.at = have.plus(Span(piece.at, end)), end
            if piece.left == 0:
                active.remove(piece)
        elif what == "break" and active:
            active.remove(data.draw(st.sampled_from(active)))
        elif what == "crash":
            active = []
    for _ in range(100):  # from here on nothing goes wrong
        piece = active.pop() if active else next_piece(have, SIZE, active, 0.0)
        if piece is None:
            break
        have = have.plus(Span(piece.at, piece.stop or SIZE))
    assert have.each == (Span(0, SIZE),)


@settings(deadline=None)
@given(st.data())
def test_pieces_at_work_never_overlap(data: st.DataObject) -> None:
    have = Spans.of([(0, data.draw(st.integers(0, SIZE // 2)))])
    active: list[Piece] = []
    for _ in range(6):
        piece = next_piece(have, SIZE, active, 1e6)
        if piece is not None:
            active = [one for one in active if not one.taken_over] + [piece]
    bytes_at_work = sorted((piece.at, piece.stop or SIZE) for piece in active)
    assert all(before[1] <= after[0] for before, after in pairwise(bytes_at_work))


def test_a_hole_that_nobody_works_on_comes_first() -> None:
    have = Spans.of([(0, MIB), (2 * MIB, 3 * MIB)])
    first = next_piece(have, 4 * MIB, (), 0.0)
    assert first is not None and (first.at, first.stop) == (MIB, 2 * MIB)
    second = next_piece(have, 4 * MIB, [first], 0.0)
    assert second is not None and (second.at, second.stop) == (3 * MIB, 4 * MIB)


def at_speed(piece: Piece, bytes_per_second: int) -> Piece:
    piece.window = SpeedWindow(timedelta(seconds=30), 1)
    piece.window.record(0.0, 0)
    piece.window.record(1.0, bytes_per_second)
    return piece


def test_the_piece_that_would_end_last_is_halved_at_a_round_place() -> None:
    quick, slow = at_speed(Piece(0, 40 * MIB), 20 * MIB), at_speed(Piece(40 * MIB, 60 * MIB), MIB)
    piece = next_piece(Spans(), 60 * MIB, [quick, slow], 20 * MIB)
    assert piece is not None and piece.stop == 60 * MIB
    assert (quick.stop, slow.stop) == (40 * MIB, piece.at)
    assert piece.at == 50 * MIB and piece.at % ALIGN_BYTES == 0


def test_what_is_left_of_a_straggler_goes_to_somebody_faster() -> None:
    straggler = at_speed(Piece(SIZE - LEAST_PIECE_BYTES, SIZE), 1024)
    piece = next_piece(Spans.of([(0, SIZE - LEAST_PIECE_BYTES)]), SIZE, [straggler], 10 * MIB)
    assert piece is not None and (piece.at, piece.stop) == (SIZE - LEAST_PIECE_BYTES, SIZE)
    assert straggler.taken_over and straggler.left == 0


def test_what_ends_in_a_moment_is_left_to_who_is_at_it() -> None:
    busy = at_speed(Piece(0, 4 * MIB), 16 * MIB)
    assert next_piece(Spans(), 4 * MIB, [busy], 16 * MIB) is None


# --- how many --------------------------------------------------------------------------------------


def opened(
    most: int, speed_with: dict[int, float], size: int = 1000 * MIB, seconds: float = 60.0, waiting: float = 1.0
) -> list[int]:
    """How many connections there are from look to look, when so many bring so many bytes per second."""
    tuner, now, received, waited, connections, told = ConnectionTuner(most), 0.0, 0.0, 0.0, 1, [1]
    while now < seconds and received < size:
        now += 0.1
        received += speed_with[connections] * 0.1
        waited += 0.1 * connections * waiting
        connections += tuner.advise(now, int(received), waited, connections, int(size - received))
        told.append(connections)
    return told


def test_connections_are_added_while_each_brings_its_share() -> None:
    told = opened(4, {n: n * MIB for n in range(1, 5)})
    assert told[-1] == 4
    assert told.index(4) < 30, "soon: within three seconds"


def test_where_some_of_the_last_ones_bring_nothing_it_goes_back_to_those_that_did() -> None:
    told = opened(8, {n: min(n, 3) * MIB for n in range(1, 9)})
    assert told[-1] == 4
    assert told.count(8) < len(told) / 10


def test_where_the_line_is_the_limit_one_connection_stays() -> None:
    told = opened(4, dict.fromkeys(range(1, 5), 5.0 * MIB))
    assert max(told) == 2
    assert told.count(2) < len(told) / 10


def test_never_more_than_allowed() -> None:
    assert max(opened(1, {1: MIB, 2: 2 * MIB})) == 1
    assert max(opened(3, {n: n * MIB for n in range(1, 5)})) == 3


def test_nothing_is_added_for_what_is_over_in_a_moment() -> None:
    assert max(opened(4, {n: n * 100.0 * MIB for n in range(1, 5)}, size=100 * MIB)) == 1


def test_nothing_is_added_to_a_connection_that_nobody_limits() -> None:
    assert max(opened(4, {n: n * 500.0 * MIB for n in range(1, 5)}, size=100_000 * MIB)) == 1


def test_nothing_is_added_where_the_processor_or_the_disk_is_the_limit() -> None:
    brings = {n: n * MIB * 1.0 for n in range(1, 5)}
    assert max(opened(4, brings, waiting=0.3)) == 1
    assert max(opened(4, brings, waiting=0.7)) == 4


def test_an_origin_that_refuses_one_is_not_asked_again_for_a_while() -> None:
    tuner, received, asked_at = ConnectionTuner(4), 0, list[float]()
    for step in range(1, 300):
        now = step / 10
        received += MIB
        if tuner.advise(now, received, now, 1, SIZE * 10) > 0:
            asked_at.append(now)
            tuner.step_back(now, 1)
    assert len(asked_at) == 2
    assert asked_at[1] - asked_at[0] > 10

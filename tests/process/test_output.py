"""A pipe of a child in bounded memory: head, tail and lines, whatever is fed and however it is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidegate.process.output import HEAD_BYTES, LONGEST_LINE_BYTES, TAIL_BYTES, Output

pieces = st.lists(st.binary(max_size=3000), max_size=20)


def fed(*data: bytes) -> tuple[Output, list[str]]:
    lines: list[str] = []
    output = Output(lines.append)
    for piece in data:
        output.feed(piece)
    output.close()
    return output, lines


@given(pieces)
def test_lines_do_not_depend_on_how_the_bytes_were_cut(data: list[bytes]) -> None:
    assert fed(*data)[1] == fed(b"".join(data))[1]


@given(pieces)
def test_head_and_tail_are_the_first_and_last_bytes(data: list[bytes]) -> None:
    output, _ = fed(*data)
    whole = b"".join(data)
    assert output.head == whole[:HEAD_BYTES].decode(errors="replace")
    last = whole if len(whole) < HEAD_BYTES + TAIL_BYTES else whole[-TAIL_BYTES:]
    assert output.tail == last.decode(errors="replace")


def test_a_long_output_keeps_its_beginning_and_its_end() -> None:
    output, _ = fed(b"begin\n", *[b"x" * 1000 + b"\n"] * 1000, b"end\n")
    assert output.head.startswith("begin\n")
    assert output.tail.endswith("end\n")
    assert len(output.head) <= HEAD_BYTES
    assert len(output.tail) <= TAIL_BYTES


def test_an_endless_line_is_cut() -> None:
    _, lines = fed(*[b"x" * 10_000] * 100)
    assert sum(map(len, lines)) == 1_000_000
    assert max(map(len, lines)) <= LONGEST_LINE_BYTES + 10_000


def test_status_lines_lose_their_padding_and_empty_ones_are_none() -> None:
    assert fed(b"10 %      \r20 %      \r\n\n\r30 %")[1] == ["10 %", "20 %", "30 %"]


def test_bytes_that_are_no_text_do_not_break_it() -> None:
    output, lines = fed(b"\xff\xfe caf\xc3", b"\xa9\n")
    assert lines == ["\ufffd\ufffd café"]
    assert "café" in output.tail

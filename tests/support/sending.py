"""Sends an answer as its step tells: framing, pace, flipped bytes, and the way it ends.

`tests.support.origin` calls `send` once for each answer. What was sent is counted before it leaves, so the
journal never knows less than the client; a reset or a client that leaves ends an answer, never the origin.
"""

import contextlib
import time
import zlib
from collections.abc import Callable, Iterator

from tests.support.answers import Answer, Headers, RequestHead, Span, phrase
from tests.support.content import BLOCK_BYTES, Read, Representation
from tests.support.journal import Ended
from tests.support.story import Step
from tests.support.wire import Wire

TICK_SECONDS = 0.05

Count = Callable[[int], None]


def send(
    wire: Wire,
    head: RequestHead,
    decided: Answer,
    step: Step,
    shown: Representation | None,
    count: Count,
) -> Ended:
    """Send head and body and say how it ended; `count` learns of every byte of the body."""
    with contextlib.ExitStack() as stack:
        read = stack.enter_context(shown.reader()) if shown else None
        if step.header_delay_seconds:
            wire.idle(step.header_delay_seconds)
        text = _head_text(decided, step, goes_on(head, step))
        wire.drip(text, step.header_rate) if step.header_rate else wire.send(text)
        if head.method == "HEAD":
            return "complete"
        blocks = _blocks(decided, step, read)
        return _deliver(wire, _compressed(blocks) if step.gzip else blocks, step, count)


def goes_on(head: RequestHead, step: Step) -> bool:
    """Whether the connection serves another request after this answer."""
    return head.keep_alive and head.method in ("GET", "HEAD") and step.framing != "close"


def _head_text(decided: Answer, step: Step, goes_on: bool) -> bytes:
    lines = [f"HTTP/1.1 {decided.status} {phrase(decided.status)}"]
    headers: Headers = (
        *decided.headers,
        *_framing(decided, step),
        ("Connection", "keep-alive" if goes_on else "close"),
    )
    again = tuple((name, value) for name, value in headers if step.repeat and name.lower() == step.repeat.lower())
    more = (step.header,) if step.header else ()
    lines += [f"{name}: {value}" for name, value in (*headers, *again, *more)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _framing(decided: Answer, step: Step) -> Headers:
    if step.framing == "chunked":
        return (("Transfer-Encoding", "chunked"),)
    if step.framing == "close":
        return ()
    body = decided.body
    length = body.end - body.first if isinstance(body, Span) else len(body)
    return (("Content-Length", str(length)),)


def _blocks(decided: Answer, step: Step, read: Read | None) -> Iterator[bytes | memoryview]:
    body = decided.body
    if not isinstance(body, Span) or read is None:
        yield body if isinstance(body, bytes) else b""
        return
    for offset in range(body.first, body.end, BLOCK_BYTES):
        block = read(offset, min(BLOCK_BYTES, body.end - offset))
        yield _flipped(block, step.flip_offset, offset)


def _flipped(block: bytes | memoryview, flip_offset: int | None, offset: int) -> bytes | memoryview:
    if flip_offset is None or not offset <= flip_offset < offset + len(block):
        return block
    changed = bytearray(block)
    changed[flip_offset - offset] ^= 0xFF
    return bytes(changed)


def _deliver(wire: Wire, blocks: Iterator[bytes | memoryview], step: Step, count: Count) -> Ended:
    position, started = 0, 0.0
    for piece in _pieces(blocks, step):
        if position == step.after_bytes and (ended := _end(wire, step)) != "complete":
            return ended
        if step.rate and position >= step.rate_after_bytes:
            started = started or time.monotonic()
            due = started + (position - step.rate_after_bytes) / step.rate
            wire.idle(due - time.monotonic())
        position += len(piece)
        if step.framing == "chunked":
            wire.send(b"%x\r\n" % len(piece))
        wire.send(piece, count)
        if step.framing == "chunked":
            wire.send(b"\r\n")
    if position == step.after_bytes and (ended := _end(wire, step)) != "complete":
        return ended
    if step.framing == "chunked":
        wire.send(b"0\r\n\r\n")
    return "complete"


def _compressed(blocks: Iterator[bytes | memoryview]) -> Iterator[bytes]:
    """The same bytes as one gzip stream."""
    squeeze = zlib.compressobj(1, wbits=31)
    for block in blocks:
        if squeezed := squeeze.compress(block):
            yield squeezed
    yield squeeze.flush()


def _end(wire: Wire, step: Step) -> Ended:
    if step.ending == "drop":
        wire.drop()
        return "drop"
    if step.ending == "cut":
        return "cut"
    wire.idle(step.stall_seconds)
    return "complete"


def _pieces(blocks: Iterator[bytes | memoryview], step: Step) -> Iterator[memoryview]:
    position = 0
    for block in blocks:
        view = memoryview(block)
        while view:
            piece = view[: _room(position, step)]
            yield piece
            position += len(piece)
            view = view[len(piece) :]


def _room(position: int, step: Step) -> int | None:
    """How many bytes may go at once: no mark of the step lies inside a piece, a slow piece lasts one tick."""
    marks = (step.after_bytes or 0, step.rate_after_bytes)
    limits = [mark - position for mark in marks if mark > position]
    if step.rate and position >= step.rate_after_bytes:
        limits.append(max(1, int(step.rate * TICK_SECONDS)))
    return min(limits, default=None)

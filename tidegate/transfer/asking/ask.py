"""Small things from the outside, whole: playlists, keys, segments, pages of an API.

Resolvers and the playlist engine call `ask` and `receive`; files are fetched by `fetch`. Each request passes the
gates, is tried again by the one retry rule, and is bounded in time and size. Nothing is kept over a crash.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol

from pydantic import SecretStr

from tidegate.durable.threads import still_wanted
from tidegate.errors import (
    LimitReached,
    RangeMismatch,
    StalledTransfer,
    TruncatedBody,
    UnsupportedSource,
)
from tidegate.resilience.retry import Retry
from tidegate.resilience.stall import SpeedWindow
from tidegate.settings import TransferSettings
from tidegate.transfer.asking.answers import begins_at, covered, raise_for_status
from tidegate.transfer.asking.conversation import Conversation, Heard, Question, reading
from tidegate.transfer.outside import Outside
from tidegate.transfer.transport.base import Headers

BLOCK_BYTES = 256 * 1024
"""How much is received, and how much is unpacked, at once."""

_UNPACKED = frozenset({"gzip", "x-gzip", "deflate"})


class Sink(Protocol):
    """Where a body goes. Called from a worker thread, one call at a time."""

    def restart(self) -> None:
        """Forget what came: the body begins, or begins again."""
        ...

    def write(self, block: memoryview, /) -> object:
        """Take the next bytes; the memory is used again afterwards."""
        ...


@dataclass(frozen=True)
class Wanted:
    """What is asked for, and how much of it is acceptable."""

    url: str
    headers: Mapping[str, SecretStr] = field(default_factory=dict)
    trusted_origin: str | None = None
    """The only origin that the headers are sent to, as `gates.origin_of` writes it; None: none."""
    first: int | None = None
    last: int | None = None
    """An inclusive range of bytes; without `last` to the end."""
    most_bytes: int = 64 * 1024 * 1024
    """Unpacked. A longer body is refused."""
    what: str = "request"
    """For logs and messages: "playlist", "segment", "key"."""
    decode: bool = False
    """Whether gzip and deflate are taken, and unpacked."""


@dataclass(frozen=True)
class Answer:
    """What came."""

    url: str
    """Where it came from after redirects; not redacted."""
    status: int
    headers: Headers
    body: bytes
    requests: int
    """What it cost, redirects and failed tries included."""


class _Memory:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.taken = bytearray()

    def restart(self) -> None:
        self.taken.clear()

    def write(self, block: memoryview, /) -> None:
        self.taken += block


async def ask(outside: Outside, wanted: Wanted, *, tries: Retry | None = None) -> Answer:
    """The whole body in memory. `tries`: a budget that is shared with others; None: one of its own.

    Raises:
        TidegateError: the last try's failure.
    """
    memory = _Memory()
    answer = await receive(outside, wanted, memory, tries=tries)
    return Answer(answer.url, answer.status, answer.headers, bytes(memory.taken), answer.requests)


async def receive(outside: Outside, wanted: Wanted, sink: Sink, *, tries: Retry | None = None) -> Answer:
    """The body into a sink, which is told to begin again at each try. `body` of the answer is empty.

    Raises:
        TidegateError: the last try's failure.
    """
    retry = tries or Retry(outside.limits, outside.observe, wanted.what)
    requests = 0
    again = False

    async def one_try() -> Answer:
        nonlocal requests, again
        conversation = Conversation(outside.gates, outside.limits)
        try:
            async with conversation.ask(_question(wanted), retry=again) as heard:
                _require_acceptable(heard, wanted)
                again = True
                await reading(conversation.abort, _deliver, heard, wanted, sink, outside.limits)
                return Answer(heard.url, heard.status, heard.headers, b"", 0)
        finally:
            again = True
            requests += conversation.requests

    answer = await retry.run(one_try)
    return Answer(answer.url, answer.status, answer.headers, b"", requests)


def _question(wanted: Wanted) -> Question:
    ranged = wanted.first is not None
    headers = {"Accept-Encoding": "gzip, deflate" if wanted.decode and not ranged else "identity"}
    if ranged:
        headers["Range"] = f"bytes={wanted.first}-{'' if wanted.last is None else wanted.last}"
    return Question(wanted.url, headers, wanted.headers, wanted.trusted_origin, wanted.what)


def _require_acceptable(heard: Heard, wanted: Wanted) -> None:
    """Whether the head promises what was asked for."""
    raise_for_status(heard.status, heard.reply.reason, heard.headers, heard.evidence)
    encoding = _encoding(heard)
    if encoding and not (wanted.decode and encoding in _UNPACKED):
        raise UnsupportedSource(f"The origin sends the {wanted.what} in an encoding that nobody asked for")
    if heard.status == HTTPStatus.PARTIAL_CONTENT:
        _require_range(heard, wanted)
    length = heard.headers.get("Content-Length", "")
    if length.isdigit() and int(length) > wanted.most_bytes and heard.status != HTTPStatus.OK:
        raise _too_long(wanted)


def _require_range(heard: Heard, wanted: Wanted) -> None:
    if wanted.first is None:
        raise RangeMismatch("The origin sent a part although everything was asked for", evidence=heard.evidence)
    begins_at(heard.status, heard.headers, wanted.first, heard.evidence)
    covers = covered(heard.headers)
    if wanted.last is not None and covers is not None and covers[1] != wanted.last:
        message = f"Asked for bytes {wanted.first} to {wanted.last}, the origin sent {covers[0]} to {covers[1]}"
        raise RangeMismatch(message, evidence=heard.evidence)


def _deliver(heard: Heard, wanted: Wanted, sink: Sink, limits: TransferSettings) -> None:
    """Runs in a thread: the body into the sink, what was not asked for left out."""
    sink.restart()
    unpack = _Unpacker(_encoding(heard)) if _encoding(heard) else None
    # An origin without ranges sends everything: what was asked for is cut out of it.
    skip = (wanted.first or 0) if heard.status == HTTPStatus.OK else 0
    length = wanted.last - (wanted.first or 0) + 1 if wanted.last is not None else None
    delivered = 0
    for block in _blocks(heard, wanted, limits):
        for piece in unpack.unpacked(block) if unpack else (block,):
            left_out = min(skip, len(piece))
            skip -= left_out
            kept = piece[left_out:][: None if length is None else length - delivered]
            delivered += len(kept)
            if delivered > wanted.most_bytes:
                raise _too_long(wanted)
            sink.write(kept)
        if length is not None and delivered == length and heard.status == HTTPStatus.OK:
            return
    if unpack and not unpack.ended:
        raise TruncatedBody(f"The packed {wanted.what} ends too early", evidence=heard.evidence)
    if length is not None and delivered < length:
        raise TruncatedBody(f"The {wanted.what} has {delivered} of {length} bytes", evidence=heard.evidence)


def _blocks(heard: Heard, wanted: Wanted, limits: TransferSettings) -> Iterator[memoryview]:
    """The body as it comes. Silence ends it by the line's own timeout, a drip by the window looked at here."""
    window, received = SpeedWindow(limits.stall_timeout, limits.minimum_speed), 0
    tick = limits.stall_tick.total_seconds()
    next_look = time.monotonic() + tick
    window.record(next_look - tick, 0)
    buffer = memoryview(bytearray(min(BLOCK_BYTES, _announced(heard) or BLOCK_BYTES)))
    while count := heard.reply.readinto(buffer):
        still_wanted()
        received += count
        heard.passage.gained(received)
        if received > wanted.most_bytes + (wanted.first or 0):
            raise _too_long(wanted)
        yield buffer[:count]
        if (now := time.monotonic()) >= next_look:
            window.record(now, received)
            next_look = now + tick
            if window.stalled():
                raise StalledTransfer(f"The {wanted.what} came too slowly", evidence=heard.evidence)


class _Unpacker:
    """gzip or deflate, never more than a block of it in memory."""

    def __init__(self, encoding: str) -> None:
        self._bits = zlib.MAX_WBITS | 32  # finds out by itself whether it is gzip or zlib
        self._packed = zlib.decompressobj(self._bits)
        self._raw_possible = encoding == "deflate"
        self._begun = False

    @property
    def ended(self) -> bool:
        return self._packed.eof

    def unpacked(self, block: memoryview) -> Iterator[memoryview]:
        left = bytes(block)
        while left:
            if self._packed.eof:  # another member follows
                self._packed = zlib.decompressobj(self._bits)
            try:
                made = self._packed.decompress(left, BLOCK_BYTES)
            except zlib.error as error:
                if self._begun or not self._raw_possible:
                    raise TruncatedBody("The packed body is damaged") from error
                # Some origins take "deflate" literally and leave the zlib header out.
                self._packed, self._raw_possible = zlib.decompressobj(-zlib.MAX_WBITS), False
                continue
            self._begun = True
            left = self._packed.unused_data or self._packed.unconsumed_tail
            if made:
                yield memoryview(made)


def _encoding(heard: Heard) -> str:
    told = heard.headers.get("Content-Encoding", "").strip().lower()
    return "" if told == "identity" else told


def _announced(heard: Heard) -> int | None:
    length = 0
    with suppress(ValueError):
        length = int(heard.headers.get("Content-Length", ""))
    return length or None


def _too_long(wanted: Wanted) -> LimitReached:
    return LimitReached(f"The {wanted.what} is longer than {wanted.most_bytes} bytes")

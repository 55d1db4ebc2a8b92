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

from tidegate.durable.threads import check_cancellation
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
from tidegate.transfer.asking.answers import begins_at, content_range, raise_for_status
from tidegate.transfer.asking.conversation import Conversation, OpenResponse, Question, read_in_thread
from tidegate.transfer.outside import Outside
from tidegate.transfer.transport.base import Headers

BODY_BLOCK_BYTES = 256 * 1024
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
class Request:
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
class Response:
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
        self.body = bytearray()

    def restart(self) -> None:
        self.body.clear()

    def write(self, block: memoryview, /) -> None:
        self.body += block


async def ask(outside: Outside, request: Request, *, tries: Retry | None = None) -> Response:
    """The whole body in memory. `tries`: a budget that is shared with others; None: one of its own.

    Raises:
        TidegateError: the last try's failure.
    """
    memory = _Memory()
    response = await receive(outside, request, memory, tries=tries)
    return Response(response.url, response.status, response.headers, bytes(memory.body), response.requests)


async def receive(outside: Outside, request: Request, sink: Sink, *, tries: Retry | None = None) -> Response:
    """The body into a sink, which is told to begin again at each try. `body` of the answer is empty.

    Raises:
        TidegateError: the last try's failure.
    """
    retry = tries or Retry(outside.limits, outside.observe, request.what)
    requests = 0
    again = False

    async def one_try() -> Response:
        nonlocal requests, again
        conversation = Conversation(outside.gates, outside.limits)
        try:
            async with conversation.ask(_question(request), retry=again) as response:
                _require_acceptable(response, request)
                again = True
                await read_in_thread(conversation.abort, _deliver, response, request, sink, outside.limits)
                return Response(response.url, response.status, response.headers, b"", 0)
        finally:
            again = True
            requests += conversation.requests

    response = await retry.run(one_try)
    return Response(response.url, response.status, response.headers, b"", requests)


def _question(request: Request) -> Question:
    ranged = request.first is not None
    headers = {"Accept-Encoding": "gzip, deflate" if request.decode and not ranged else "identity"}
    if ranged:
        headers["Range"] = f"bytes={request.first}-{'' if request.last is None else request.last}"
    return Question(request.url, headers, request.headers, request.trusted_origin, request.what)


def _require_acceptable(response: OpenResponse, request: Request) -> None:
    """Whether the head promises what was asked for."""
    raise_for_status(response.status, response.reply.reason, response.headers, response.evidence)
    encoding = _encoding(response)
    if encoding and not (request.decode and encoding in _UNPACKED):
        raise UnsupportedSource(f"The origin sends the {request.what} in an encoding that nobody asked for")
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        _require_range(response, request)
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and int(length) > request.most_bytes and response.status != HTTPStatus.OK:
        raise _too_long(request)


def _require_range(response: OpenResponse, request: Request) -> None:
    if request.first is None:
        raise RangeMismatch("The origin sent a part although everything was asked for", evidence=response.evidence)
    begins_at(response.status, response.headers, request.first, response.evidence)
    covers = content_range(response.headers)
    if request.last is not None and covers is not None and covers[1] != request.last:
        message = f"Asked for bytes {request.first} to {request.last}, the origin sent {covers[0]} to {covers[1]}"
        raise RangeMismatch(message, evidence=response.evidence)


def _deliver(response: OpenResponse, request: Request, sink: Sink, limits: TransferSettings) -> None:
    """Runs in a thread: the body into the sink, what was not asked for left out."""
    sink.restart()
    unpacker = _Unpacker(_encoding(response)) if _encoding(response) else None
    # An origin without ranges sends everything: what was asked for is cut out of it.
    skip = (request.first or 0) if response.status == HTTPStatus.OK else 0
    length = request.last - (request.first or 0) + 1 if request.last is not None else None
    delivered = 0
    for block in _blocks(response, request, limits):
        for stretch in unpacker.unpack(block) if unpacker else (block,):
            left_out = min(skip, len(stretch))
            skip -= left_out
            kept = stretch[left_out:][: None if length is None else length - delivered]
            delivered += len(kept)
            if delivered > request.most_bytes:
                raise _too_long(request)
            sink.write(kept)
        if length is not None and delivered == length and response.status == HTTPStatus.OK:
            return
    if unpacker and not unpacker.ended:
        raise TruncatedBody(f"The packed {request.what} ends too early", evidence=response.evidence)
    if length is not None and delivered < length:
        raise TruncatedBody(f"The {request.what} has {delivered} of {length} bytes", evidence=response.evidence)


def _blocks(response: OpenResponse, request: Request, limits: TransferSettings) -> Iterator[memoryview]:
    """The body as it comes. Silence ends it by the line's own timeout, a drip by the window looked at here."""
    window, received = SpeedWindow(limits.stall_timeout, limits.minimum_speed), 0
    tick = limits.stall_tick.total_seconds()
    next_look = time.monotonic() + tick
    window.record(next_look - tick, 0)
    buffer = memoryview(bytearray(min(BODY_BLOCK_BYTES, _content_length(response) or BODY_BLOCK_BYTES)))
    while count := response.reply.readinto(buffer):
        check_cancellation()
        received += count
        response.passage.report_bytes(received)
        if received > request.most_bytes + (request.first or 0):
            raise _too_long(request)
        yield buffer[:count]
        if (now := time.monotonic()) >= next_look:
            window.record(now, received)
            next_look = now + tick
            if window.is_stalled():
                raise StalledTransfer(f"The {request.what} came too slowly", evidence=response.evidence)


class _Unpacker:
    """gzip or deflate, never more than a block of it in memory."""

    def __init__(self, encoding: str) -> None:
        self._bits = zlib.MAX_WBITS | 32  # finds out by itself whether it is gzip or zlib
        self._packed = zlib.decompressobj(self._bits)
        self._raw_possible = encoding == "deflate"
        self._has_begun = False

    @property
    def ended(self) -> bool:
        return self._packed.eof

    def unpack(self, block: memoryview) -> Iterator[memoryview]:
        left = bytes(block)
        while left:
            if self._packed.eof:  # another member follows
                self._packed = zlib.decompressobj(self._bits)
            try:
                plain = self._packed.decompress(left, BODY_BLOCK_BYTES)
            except zlib.error as error:
                if self._has_begun or not self._raw_possible:
                    raise TruncatedBody("The packed body is damaged") from error
                # Some origins take "deflate" literally and leave the zlib header out.
                self._packed, self._raw_possible = zlib.decompressobj(-zlib.MAX_WBITS), False
                continue
            self._has_begun = True
            left = self._packed.unused_data or self._packed.unconsumed_tail
            if plain:
                yield memoryview(plain)


def _encoding(response: OpenResponse) -> str:
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


def _content_length(response: OpenResponse) -> int | None:
    length = 0
    with suppress(ValueError):
        length = int(response.headers.get("Content-Length", ""))
    return length or None


def _too_long(request: Request) -> LimitReached:
    return LimitReached(f"The {request.what} is longer than {request.most_bytes} bytes")

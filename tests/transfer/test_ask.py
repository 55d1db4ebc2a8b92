"""Small bodies, whole and bounded: playlists, keys and segments, against an origin that misbehaves."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from functools import partial

import anyio
import pytest
from pydantic import SecretStr

from tests.support.origin import Origin, Resource, Synthetic
from tests.transfer.scripted import Scripted, head, part_of
from tidegate.errors import (
    ConnectionFailed,
    HttpRefused,
    LimitReached,
    NotFound,
    RangeMismatch,
    RedirectLoop,
    RequestTimeout,
    ServerError,
    StalledTransfer,
    Throttled,
    TidegateError,
    TruncatedBody,
    UnsupportedSource,
)
from tidegate.resilience.retry import Retry
from tidegate.settings import TransferSettings
from tidegate.transfer.asking.ask import Request, Response, ask, receive
from tidegate.transfer.gates.gates import origin_of
from tidegate.transfer.outside import Outside
from tidegate.transfer.transport import pool_of

pytestmark = pytest.mark.usefixtures("nothing_left")

SMALL = Synthetic(300_000, seed=3)
WHOLE = b"".join(SMALL.blocks())


@pytest.fixture(params=["sockets", "httpx"])
def outside(request: pytest.FixtureRequest, limits: TransferSettings, nothing_left: None) -> Iterator[Outside]:
    made = Outside(limits=limits.model_copy(update={"transport": request.param}))
    yield made
    pool_of(made.gates).close()


def ask_once(outside: Outside, wanted: Request) -> Response:
    return anyio.run(partial(ask, outside, wanted))


@pytest.mark.parametrize(
    ("story", "requests"),
    [
        ("ok", 1),
        ("503, ok", 2),
        ("100K drop, 100K cut, ok", 3),
        ("100K stall, ok", 2),
        ("no-length cut 100K, ok", 2),
        ("no-length", 1),
        ("close-delimited", 1),
        ("late-headers 10s, ok", 2),
        ("429 retry-after 1, ok", 2),
        ("redirect-loop, ok", 2),
    ],
)
def test_a_small_body_comes_whole_after_faults_that_pass(story: str, requests: int, outside: Outside) -> None:
    with Origin({"a.ts": Resource(SMALL, story=story)}) as origin:
        answer = ask_once(outside, Request(origin.url("a.ts")))
        assert len(origin.requests) == answer.requests == requests
    assert answer.body == WHOLE
    assert answer.headers["etag"].startswith('"')


@pytest.mark.parametrize(
    ("story", "failure", "requests"),
    [
        ("0 drop", ConnectionFailed, 3),
        ("100K cut", TruncatedBody, 3),
        ("drip 200 after 100K", StalledTransfer, 3),
        ("500", ServerError, 3),
        ("404", NotFound, 1),
        ("403", HttpRefused, 1),
        ("429 retry-after 900", Throttled, 1),
        ("late-headers 10s", RequestTimeout, 3),
        ("redirect file:///etc/passwd", RedirectLoop, 1),
        ("gzip", UnsupportedSource, 1),
    ],
)
def test_what_cannot_be_had_is_its_own_failure_after_a_bounded_number_of_requests(
    story: str, failure: type[TidegateError], requests: int, outside: Outside
) -> None:
    with Origin({"a.ts": Resource(SMALL, story=story)}) as origin:
        with pytest.raises(failure):
            ask_once(outside, Request(origin.url("a.ts")))
        assert len(origin.requests) == requests


def test_a_connection_is_used_again_for_the_next_request(limits: TransferSettings) -> None:
    outside = Outside(limits=limits)

    async def three(url: str) -> None:
        for _ in range(3):
            assert (await ask(outside, Request(url))).body == WHOLE

    with Origin({"a.ts": SMALL}) as origin:
        anyio.run(three, origin.url("a.ts"))
        pool_of(outside.gates).close()
        assert (len(origin.requests), origin.accepted) == (3, 1)


def test_a_kept_connection_that_the_origin_has_closed_costs_no_try(limits: TransferSettings) -> None:
    outside = Outside(limits=limits.model_copy(update={"tries": 1}))

    async def two(origin: Origin) -> None:
        url = origin.url("a.ts")
        assert (await ask(outside, Request(url))).body == WHOLE
        origin.stop()
        origin.start()
        assert (await ask(outside, Request(url))).body == WHOLE

    with Origin({"a.ts": SMALL}) as origin:
        anyio.run(two, origin)
        pool_of(outside.gates).close()


def test_a_range_is_what_was_asked_for_even_where_the_origin_knows_no_ranges(outside: Outside) -> None:
    with Origin({"a.ts": SMALL, "b.ts": Resource(SMALL, accept_ranges="none")}) as origin:
        for name in ("a.ts", "b.ts"):
            answer = ask_once(outside, Request(origin.url(name), first=1000, last=200_999))
            assert answer.body == WHOLE[1000:201_000]


def test_a_range_with_other_bytes_is_refused(outside: Outside) -> None:
    with Origin({"a.ts": Resource(SMALL, story="from-first: wrong-range")}) as origin, pytest.raises(RangeMismatch):
        ask_once(outside, Request(origin.url("a.ts"), first=1000, last=200_999))


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("gzip", lambda body: gzip.compress(body[:1000]) + gzip.compress(body[1000:])),
        ("deflate", zlib.compress),
        ("deflate", lambda body: zlib.compress(body)[2:-4]),
    ],
)
def test_a_packed_body_is_unpacked_where_that_is_wanted(
    encoding: str, pack: Callable[[bytes], bytes], outside: Outside
) -> None:
    packed = pack(WHOLE)

    def script(headers: dict[str, str]) -> Iterator[bytes]:
        assert headers["accept-encoding"] == "gzip, deflate"
        yield head(200, {"Content-Encoding": encoding, "Content-Length": str(len(packed))}) + packed

    with Scripted(script) as origin:
        assert ask_once(outside, Request(origin.url("a.m3u8"), decode=True)).body == WHOLE


def test_a_packed_body_that_ends_too_early_is_truncated(outside: Outside) -> None:
    packed = gzip.compress(WHOLE)[:-1000]

    def script(headers: dict[str, str]) -> Iterator[bytes]:
        yield head(200, {"Content-Encoding": "gzip", "Content-Length": str(len(packed))}) + packed

    with Scripted(script) as origin, pytest.raises(TruncatedBody):
        ask_once(outside, Request(origin.url("a.m3u8"), decode=True))


def test_a_bomb_is_refused_before_it_is_in_memory(outside: Outside) -> None:
    bomb = gzip.compress(bytes(200 * 1024 * 1024), 1)

    def script(headers: dict[str, str]) -> Iterator[bytes]:
        yield head(200, {"Content-Encoding": "gzip", "Content-Length": str(len(bomb))}) + bomb

    with Scripted(script) as origin, pytest.raises(LimitReached):
        ask_once(outside, Request(origin.url("a.m3u8"), decode=True, most_bytes=1_000_000))


def test_an_endless_body_is_refused_at_its_bound(outside: Outside) -> None:
    def script(headers: dict[str, str]) -> Iterator[bytes]:
        yield head(200, {"Transfer-Encoding": "chunked"})
        while True:
            yield b"10000\r\n" + bytes(0x10000) + b"\r\n"

    with Scripted(script) as origin, pytest.raises(LimitReached):
        ask_once(outside, Request(origin.url("a.m3u8"), most_bytes=1_000_000))


def test_headers_go_to_the_origin_that_they_are_for_and_to_no_other(outside: Outside) -> None:
    with Origin({"a.ts": SMALL}) as elsewhere:
        story = f"always: redirect {elsewhere.url('a.ts')}"
        with Origin({"a.ts": Resource(SMALL, story=story)}) as origin:
            url = origin.url("a.ts")
            secret = {"Authorization": SecretStr("Bearer hidden")}
            ask_once(outside, Request(url, headers=secret, trusted_origin=origin_of(url)))
            ask_once(outside, Request(url, headers=secret))
            told = [request.headers.get("authorization") for request in origin.requests]
        assert told == ["Bearer hidden", None]
        assert not any("authorization" in request.headers for request in elsewhere.requests)


def test_every_request_passes_the_gate_of_its_origin(outside: Outside) -> None:
    with Origin({"a.ts": SMALL}) as elsewhere:
        story = f"always: 503, redirect {elsewhere.url('a.ts')}"
        with Origin({"a.ts": Resource(SMALL, story=story)}) as origin:
            ask_once(outside, Request(origin.url("a.ts")))
            here, there = origin_of(origin.url()), origin_of(elsewhere.url())
    known = {one.origin: one for one in outside.gates.statistics()}
    assert (known[here].attempts, known[here].failures) == (2, {"server_error": 1})
    assert (known[there].attempts, known[there].bytes_received) == (1, SMALL.size)


def test_a_piece_has_tries_of_its_own_and_its_transfers_patience(limits: TransferSettings) -> None:
    outside = Outside(limits=limits.model_copy(update={"throttle_budget": limits.stall_timeout}))
    whole = Retry(outside.limits, outside.observe, "download")

    async def run(url: str) -> None:
        await ask(outside, Request(url), tries=whole.piece("segment 1", extra=1))

    with Origin(
        {"a.ts": Resource(SMALL, story="0 drop"), "b.ts": Resource(SMALL, story="429 retry-after 1")}
    ) as origin:
        with pytest.raises(ConnectionFailed):
            anyio.run(run, origin.url("a.ts"))
        assert len(origin.requests_for("a.ts")) == 2
        with pytest.raises(Throttled):
            anyio.run(run, origin.url("b.ts"))
        assert len(origin.requests_for("b.ts")) == 1
    assert (whole.retries, whole.asked.seconds) == (1, pytest.approx(1.0, abs=0.2))


def test_a_sink_is_told_to_begin_again_at_each_try(outside: Outside) -> None:
    class Told:
        def __init__(self) -> None:
            self.restarts = 0
            self.body = bytearray()

        def restart(self) -> None:
            self.restarts += 1
            self.body.clear()

        def write(self, block: memoryview, /) -> None:
            self.body += block

    told = Told()
    with Origin({"a.ts": Resource(SMALL, story="100K drop, ok")}) as origin:
        answer = anyio.run(partial(receive, outside, Request(origin.url("a.ts")), told))
    assert (told.restarts, bytes(told.body), answer.body) == (2, WHOLE, b"")


def test_a_part_that_nobody_asked_for_is_refused(outside: Outside) -> None:
    def unasked(headers: dict[str, str]) -> Iterator[bytes]:
        yield part_of(WHOLE, {**headers, "range": "bytes=5-"})

    with Scripted(unasked) as origin, pytest.raises(RangeMismatch):
        ask_once(outside, Request(origin.url("a.ts")))

"""One source through every disaster of the origin: whole and byte-identical, or the failure it really is.

Each story is told twice, to `Transfer` alone and to the download stage, with real sockets. The journal of the origin
counts the requests, so that a second owner of the same retry would be seen.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

import anyio
import pytest
from pydantic import SecretStr

from tests.support.clips import bulk_clip
from tests.support.origin import Origin, Request, Resource, Synthetic
from tests.transfer.scripted import Scripted, head, part_of, read_from
from tidegate import stages
from tidegate.errors import (
    ConnectionFailed,
    HttpRefused,
    NotFound,
    NotMedia,
    RangeMismatch,
    RedirectLoop,
    RequestTimeout,
    ServerError,
    SourceChanged,
    StalledTransfer,
    Throttled,
    TidegateError,
    TruncatedBody,
    UnsupportedSource,
    WrongDigest,
)
from tidegate.events import Advance, Event, ignore_events
from tidegate.model import DownloadResult, Identity, ProbeResult, Source, TransferStats
from tidegate.settings import Settings, StoreSettings, TransferSettings
from tidegate.stages import Workbench
from tidegate.transfer.file.exchange import Connect
from tidegate.transfer.file.fetch import identify
from tidegate.transfer.file.http import HttpExchange
from tidegate.transfer.file.part import Part
from tidegate.transfer.file.receive import OVERLAP_BYTES
from tidegate.transfer.file.transfer import Transfer
from tidegate.transfer.resolvers.base import WHOLE_FILE
from tidegate.transfer.transport import pool_of

pytestmark = pytest.mark.usefixtures("nothing_left")

MIB = 1024 * 1024
CLIP = Synthetic(3 * MIB + 17, seed=7)
WHOLE = b"".join(CLIP.blocks())
BARE = Resource(CLIP, etag=None, last_modified=False)
DIGESTED = Resource(CLIP, repr_digest="sha-256")


@dataclass(frozen=True)
class Fetched:
    """How a transfer ended."""

    path: Path
    stats: TransferStats | None = None
    failure: TidegateError | None = None
    end_is_certain: bool = False

    @property
    def bytes(self) -> bytes:
        return self.path.read_bytes()


def connector(url: str, limits: TransferSettings, headers: dict[str, str] | None = None) -> Connect:
    secret = {name: SecretStr(value) for name, value in (headers or {}).items()}
    source = Source(url=SecretStr(url), headers=secret)
    return lambda: HttpExchange(source, limits)


async def fetch(
    connect: Connect, folder: Path, limits: TransferSettings, observe: Callable[[Event], None] = ignore_events
) -> Fetched:
    """Identify, then fetch into a part in the folder."""
    identity, _ = await identify(connect, limits, observe)
    part = Part.open(folder, identity, limits)
    try:
        stats = await Transfer(connect, part, limits, observe).run()
    except TidegateError as failure:
        return Fetched(part.path, failure=failure)
    finally:
        part.close()
    return Fetched(part.path, stats, end_is_certain=part.end_is_certain)


def fetched(origin: Origin, folder: Path, limits: TransferSettings, name: str = "clip.mp4") -> Fetched:
    return anyio.run(fetch, connector(origin.url(name), limits), folder, limits)


def downloads(origin: Origin, name: str = "clip.mp4") -> list[Request]:
    """The requests that the download made; identify's one-byte question is not among them."""
    return [request for request in origin.requests_for(name) if request.range != "bytes=0-0"]


def assert_a_beginning_of(whole: bytes, path: Path) -> None:
    """What a failed transfer leaves holds no byte that the source did not have there."""
    if path.exists():
        left = path.read_bytes()
        assert left == whole[: len(left)]


# --- what heals -----------------------------------------------------------------------------------

HEALS = [
    ("ok", 1),
    ("1M drop, ok", 2),
    ("1M drop, 1M drop, 512K drop, ok", 4),
    ("512K drop", 7),
    ("1M cut, ok", 2),
    ("1M stall, ok", 2),
    ("0 stall, ok", 2),
    ("drip 200 after 1M, ok", 2),
    ("throttle 6M", 1),
    ("1M stall 300ms", 1),
    ("429 retry-after 1, ok", 2),
    ("429 retry-after-date 1, ok", 2),
    ("503, ok", 2),
    ("503 retry-after 1, ok", 2),
    ("500, 502, ok", 3),
    ("408, ok", 2),
    ("1M drop, wrong-range, ok", 3),
    ("1M drop, ignore-range", 2),
    ("no-length", 1),
    ("no-length cut 1M, ok", 2),
    ("close-delimited", 1),
    ("close-delimited 1M cut, ok", 2),
    ("close-delimited 1M stall, ok", 2),
    ("late-headers 10s, ok", 2),
    ("drip-headers 20, ok", 2),
]


@pytest.mark.parametrize(("story", "requests"), HEALS)
def test_a_transfer_that_heals_is_whole_and_asks_no_more_often_than_it_must(
    story: str, requests: int, tmp_path: Path, limits: TransferSettings
) -> None:
    with Origin({"clip.mp4": Resource(CLIP, story=story)}) as origin:
        got = fetched(origin, tmp_path, limits)
        asked = downloads(origin)
    assert got.failure is None
    assert got.bytes == WHOLE
    assert got.end_is_certain
    assert got.stats is not None
    assert [request.status for request in asked].count(206) <= requests
    assert (len(asked), got.stats.requests, got.stats.retries) == (requests, requests, requests - 1)


@pytest.mark.parametrize(
    ("story", "requests"),
    [
        ("ok", 1),
        ("1M drop, ok", 2),
        ("1M cut, ok", 2),
        ("1M stall, ok", 2),
        ("drip 200 after 1M, ok", 2),
        ("503, ok", 2),
        ("close-delimited 1M cut, ok", 2),
        ("no-length cut 1M, ok", 2),
        ("1M drop, wrong-range, ok", 3),
        ("flip 1M, ok", 2),
    ],
)
def test_the_download_stage_stores_the_very_bytes(
    story: str, requests: int, media: Path, tmp_path: Path, limits: TransferSettings
) -> None:
    with Origin({"clip.mp4": Resource(media, story=story, repr_digest="sha-256")}) as origin:
        bench = Workbench(Settings(transfer=limits, store=StoreSettings(home=tmp_path)))
        result = anyio.run(staged, bench, origin.url("clip.mp4"))
        asked = downloads(origin)
    assert bench.store.path(result.asset).read_bytes() == media.read_bytes()
    assert result.checked == (f"sha256:{hashlib.sha256(media.read_bytes()).hexdigest()}",)
    assert result.length_confirmed
    assert (len(asked), result.transfer.requests) == (requests, requests)
    assert not list(tmp_path.rglob("*.part")), "the bytes have moved into the store"


@pytest.fixture
def media(clips: Path) -> Iterator[Path]:
    """A real file large enough to be cut in the middle."""
    yield bulk_clip(clips, 2 * MIB)


async def staged(bench: Workbench, url: str, sha256: str | None = None) -> DownloadResult:
    source = Source(url=SecretStr(url), sha256=sha256)
    try:
        identity, _ = await stages.identify(bench, source)
        probed = ProbeResult(
            identity=identity, resolver="direct", renditions=(WHOLE_FILE,), preview=None, recorded_at=datetime.now(UTC)
        )
        return await stages.download(bench, source, probed, WHOLE_FILE, "key")
    finally:
        pool_of(bench.gates).close()


# --- what does not ---------------------------------------------------------------------------------

FAILS = [
    ("0 drop", ConnectionFailed, 3),
    ("16K drop", ConnectionFailed, 3),
    ("500", ServerError, 3),
    ("503, 503, 503, ok", ServerError, 3),
    ("0 stall", StalledTransfer, 3),
    ("drip 200 after 16K", StalledTransfer, 3),
    ("late-headers 10s", RequestTimeout, 3),
    ("404", NotFound, 1),
    ("410", NotFound, 1),
    ("403", HttpRefused, 1),
    ("1M drop, 401", HttpRefused, 2),
    ("429 retry-after 900", Throttled, 1),
    ("gzip", UnsupportedSource, 1),
    ("1M drop, change", SourceChanged, 2),
    ("change", SourceChanged, 1),
    ("1M drop, 416", SourceChanged, 2),
    ("redirect-loop", RedirectLoop, 11),
    ("redirect ftp://elsewhere/clip.mp4", RedirectLoop, 1),
]


@pytest.mark.parametrize(("story", "failure", "requests"), FAILS)
def test_a_transfer_that_cannot_heal_ends_with_its_own_failure_and_a_bounded_number_of_requests(
    story: str, failure: type[TidegateError], requests: int, tmp_path: Path, limits: TransferSettings
) -> None:
    with Origin({"clip.mp4": Resource(CLIP, story=story)}) as origin:
        got = fetched(origin, tmp_path, limits)
        asked = downloads(origin)
    assert type(got.failure) is failure
    assert len(asked) == requests
    assert_a_beginning_of(WHOLE, got.path)


@pytest.mark.parametrize(
    ("story", "failure", "requests"),
    [
        ("0 drop", ConnectionFailed, 3),
        ("500", ServerError, 3),
        ("404", NotFound, 1),
        ("1M drop, change", SourceChanged, 2),
        ("flip 1M", WrongDigest, 2),
    ],
)
def test_a_failed_download_stage_stores_nothing_and_retries_nowhere_else(
    story: str, failure: type[TidegateError], requests: int, media: Path, tmp_path: Path, limits: TransferSettings
) -> None:
    with Origin({"clip.mp4": Resource(media, story=story, repr_digest="sha-256")}) as origin:
        bench = Workbench(Settings(transfer=limits, store=StoreSettings(home=tmp_path)))
        with pytest.raises(failure):
            anyio.run(staged, bench, origin.url("clip.mp4"))
        asked = downloads(origin)
    assert len(asked) == requests
    assert not (tmp_path / "assets").exists()


@pytest.mark.parametrize(
    ("story", "failure", "requests"),
    [("from-first: html", NotMedia, 1), ("from-first: empty", NotMedia, 1), ("from-first: 403", HttpRefused, 1)],
)
def test_what_is_no_media_is_refused_at_its_first_bytes(
    story: str, failure: type[TidegateError], requests: int, tmp_path: Path, limits: TransferSettings
) -> None:
    with Origin({"clip.mp4": Resource(CLIP, story=story)}) as origin, pytest.raises(failure):
        got = fetched(origin, tmp_path, limits)
        assert got.failure is not None
        raise got.failure
    assert len(downloads(origin)) <= requests


def test_a_throttled_failure_says_when_to_come_back(tmp_path: Path, limits: TransferSettings) -> None:
    with Origin({"clip.mp4": Resource(CLIP, story="429 retry-after 900")}) as origin:
        got = fetched(origin, tmp_path, limits)
    assert got.failure is not None
    assert got.failure.retry_after_seconds == 900


def test_an_origin_that_is_not_there_is_a_connection_failure(tmp_path: Path, limits: TransferSettings) -> None:
    origin = Origin({"clip.mp4": Resource(CLIP)}).start()
    origin.stop()
    with pytest.raises(ConnectionFailed):
        fetched(origin, tmp_path, limits)


# --- resuming, never splicing ----------------------------------------------------------------------


def test_a_resumed_request_carries_the_strong_etag_and_asks_only_for_the_rest(
    tmp_path: Path, limits: TransferSettings
) -> None:
    with Origin({"clip.mp4": Resource(CLIP, story="1M drop, ok")}) as origin:
        fetched(origin, tmp_path, limits)
        first, second = downloads(origin)
        sent = sum(request.bytes_sent for request in downloads(origin))
    assert first.range is None
    assert second.range == f"bytes={MIB}-"
    assert second.headers["if-range"].startswith('"')
    assert second.status == 206
    assert sent == CLIP.size


def test_a_weak_etag_is_never_used_to_resume_by(tmp_path: Path, limits: TransferSettings) -> None:
    with Origin({"clip.mp4": Resource(CLIP, story="1M drop, ok", etag="weak")}) as origin:
        got = fetched(origin, tmp_path, limits)
        _, second = downloads(origin)
    assert got.bytes == WHOLE
    assert second.headers["if-range"].endswith("GMT")
    assert second.range == f"bytes={MIB}-"


def test_a_weak_etag_alone_counts_as_no_validator(tmp_path: Path, limits: TransferSettings) -> None:
    weak = Resource(CLIP, story="1M drop, ok", etag="weak", last_modified=False)
    with Origin({"clip.mp4": weak}) as origin:
        got = fetched(origin, tmp_path, limits)
        _, second = downloads(origin)
    assert got.bytes == WHOLE
    assert "if-range" not in second.headers
    assert second.range == f"bytes={MIB - OVERLAP_BYTES}-"


def test_without_a_validator_an_overlap_is_fetched_again_and_compared(tmp_path: Path, limits: TransferSettings) -> None:
    with Origin({"clip.mp4": BARE}, stories={"clip.mp4": "1M drop, ok"}) as origin:
        got = fetched(origin, tmp_path, limits)
        _, second = downloads(origin)
    assert got.bytes == WHOLE
    assert second.range == f"bytes={MIB - OVERLAP_BYTES}-"


@pytest.mark.parametrize("story", ["1M drop, change", "32K drop, change"])
def test_without_a_validator_changed_bytes_are_noticed_and_never_spliced(
    story: str, tmp_path: Path, limits: TransferSettings
) -> None:
    with Origin({"clip.mp4": BARE}, stories={"clip.mp4": story}) as origin:
        got = fetched(origin, tmp_path, limits)
    assert type(got.failure) is SourceChanged
    assert_a_beginning_of(WHOLE, got.path)


def test_a_source_without_ranges_begins_again_and_is_whole(tmp_path: Path, limits: TransferSettings) -> None:
    no_ranges = Resource(CLIP, story="1M drop, 2M drop, ok", accept_ranges="none")
    with Origin({"clip.mp4": no_ranges}) as origin:
        got = fetched(origin, tmp_path, limits)
        asked = downloads(origin)
    assert got.bytes == WHOLE
    assert [request.range for request in asked] == [None] * 3


def test_a_source_without_ranges_that_always_drops_at_half_is_given_up(
    tmp_path: Path, limits: TransferSettings
) -> None:
    no_ranges = Resource(CLIP, story="1500K drop", accept_ranges="none")
    with Origin({"clip.mp4": no_ranges}) as origin:
        got = fetched(origin, tmp_path, limits)
        assert len(downloads(origin)) == 1 + limits.tries
    assert type(got.failure) is ConnectionFailed


def test_a_later_run_goes_on_where_the_part_ends(tmp_path: Path, limits: TransferSettings) -> None:
    with Origin({"clip.mp4": Resource(CLIP, story="1M drop, 500, 500, 500")}) as origin:
        first = fetched(origin, tmp_path, limits)
        assert isinstance(first.failure, ServerError)
        origin.tell("clip.mp4", "ok")
        second = fetched(origin, tmp_path, limits)
        assert sum(request.bytes_sent for request in downloads(origin) if request.status < 300) == CLIP.size
    assert second.bytes == WHOLE
    assert second.stats is not None
    assert (second.stats.bytes_reused, second.stats.bytes_received) == (MIB, CLIP.size - MIB)


def test_a_changed_source_restarts_from_zero_in_a_later_run(tmp_path: Path, limits: TransferSettings) -> None:
    with Origin({"clip.mp4": Resource(CLIP, story="1M drop, change, ok")}) as origin:
        assert type(fetched(origin, tmp_path, limits).failure) is SourceChanged
        got = fetched(origin, tmp_path, limits)
        assert downloads(origin)[-1].range is None
    assert got.failure is None
    assert got.bytes[:MIB] != WHOLE[:MIB]
    assert got.stats is not None and got.stats.bytes_reused == 0


def test_a_complete_part_that_was_not_noted_as_complete_costs_one_request_and_no_byte(
    tmp_path: Path, limits: TransferSettings
) -> None:
    """The 416 on which other resumers fail for ever."""
    with Origin({"clip.mp4": Resource(CLIP)}) as origin:
        connect = connector(origin.url("clip.mp4"), limits)
        identity, _ = anyio.run(identify, connect, limits, ignore_events)
        part = Part.open(tmp_path, identity, limits)
        part.write(WHOLE, now=0.0)
        part.checkpoint()
        part.close()
        got = fetched(origin, tmp_path, limits)
        [asked] = downloads(origin)
    assert (asked.status, asked.range) == (416, f"bytes={CLIP.size}-")
    assert got.failure is None
    assert got.bytes == WHOLE
    assert got.stats is not None and got.stats.bytes_received == 0


def test_a_complete_part_is_not_asked_for_again(tmp_path: Path, limits: TransferSettings) -> None:
    with Origin({"clip.mp4": Resource(CLIP)}) as origin:
        fetched(origin, tmp_path, limits)
        again = fetched(origin, tmp_path, limits)
        assert len(downloads(origin)) == 1
    assert again.stats is not None
    assert (again.stats.requests, again.stats.bytes_reused) == (0, CLIP.size)


# --- digests ---------------------------------------------------------------------------------------


def test_a_byte_flipped_once_is_cured_by_fetching_again_once(tmp_path: Path, limits: TransferSettings) -> None:
    with Origin({"clip.mp4": DIGESTED}, stories={"clip.mp4": "flip 2M, ok"}) as origin:
        got = fetched(origin, tmp_path, limits)
        assert len(downloads(origin)) == 2
    assert got.bytes == WHOLE


def test_a_byte_flipped_always_is_a_wrong_digest_after_two_requests(tmp_path: Path, limits: TransferSettings) -> None:
    with Origin({"clip.mp4": DIGESTED}, stories={"clip.mp4": "flip 2M"}) as origin:
        got = fetched(origin, tmp_path, limits)
        assert len(downloads(origin)) == 2
    assert type(got.failure) is WrongDigest
    assert got.path.read_bytes() == b"", "nothing of it may be resumed"


@pytest.mark.parametrize("kind", ["sha-256", "md5", "content-md5"])
def test_an_old_digest_header_is_checked_too(
    kind: Literal["sha-256", "md5", "content-md5"], tmp_path: Path, limits: TransferSettings
) -> None:
    old = Resource(CLIP, story="1M drop, flip 2M, ok", digest=kind)
    with Origin({"clip.mp4": old}) as origin:
        assert fetched(origin, tmp_path, limits).bytes == WHOLE
        assert len(downloads(origin)) == 3
        origin.tell("clip.mp4", "1M drop, flip 2M")
        (tmp_path / "source.journal").unlink()
        assert type(fetched(origin, tmp_path, limits).failure) is WrongDigest


def test_an_old_digest_header_that_speaks_of_the_part_is_not_held_against_the_whole(
    tmp_path: Path, limits: TransferSettings
) -> None:
    old = Resource(CLIP, story="1M drop, 500K drop, ok", digest="of the part")
    with Origin({"clip.mp4": old}) as origin:
        assert fetched(origin, tmp_path, limits).bytes == WHOLE
        assert len(downloads(origin)) == 3


def test_a_digest_that_the_person_gave_is_checked(media: Path, tmp_path: Path, limits: TransferSettings) -> None:
    right = f"sha256:{hashlib.sha256(media.read_bytes()).hexdigest()}"
    with Origin({"clip.mp4": media}) as origin:
        bench = Workbench(Settings(transfer=limits, store=StoreSettings(home=tmp_path)))
        with pytest.raises(WrongDigest):
            anyio.run(staged, bench, origin.url("clip.mp4"), f"sha256:{'0' * 64}")
        assert anyio.run(staged, bench, origin.url("clip.mp4"), right).checked == (right,)


# --- redirects and headers -------------------------------------------------------------------------


def test_headers_given_for_one_origin_do_not_travel_to_another(tmp_path: Path, limits: TransferSettings) -> None:
    with Origin({"clip.mp4": CLIP}) as elsewhere:
        story = f"always: redirect {elsewhere.url('clip.mp4')}"
        with Origin({"clip.mp4": Resource(CLIP, story=story)}) as origin:
            connect = connector(origin.url("clip.mp4"), limits, {"Authorization": "Bearer hidden", "X-Key": "hidden"})
            got = anyio.run(fetch, connect, tmp_path, limits)
            here, there = origin.requests, elsewhere.requests
    assert got.bytes == WHOLE
    assert here and all(request.headers["authorization"] == "Bearer hidden" for request in here)
    assert there and not any({"authorization", "x-key"} & request.headers.keys() for request in there)


def test_headers_stay_on_a_redirect_within_the_origin(tmp_path: Path, limits: TransferSettings) -> None:
    with Origin({"clip.mp4": Resource(CLIP, story="always: redirect /real.mp4"), "real.mp4": CLIP}) as origin:
        connect = connector(origin.url("clip.mp4"), limits, {"Authorization": "Bearer hidden"})
        got = anyio.run(fetch, connect, tmp_path, limits)
        assert all(request.headers["authorization"] == "Bearer hidden" for request in origin.requests)
    assert got.bytes == WHOLE


def test_every_request_asks_for_the_bytes_as_they_are(tmp_path: Path, limits: TransferSettings) -> None:
    with Origin({"clip.mp4": Resource(CLIP, story="1M drop, ok")}) as origin:
        fetched(origin, tmp_path, limits)
        assert {request.headers["accept-encoding"] for request in origin.requests} == {"identity"}


# --- the parts around the loop ---------------------------------------------------------------------


def test_identify_costs_one_request_of_one_byte(limits: TransferSettings) -> None:
    with Origin({"clip.mp4": DIGESTED}) as origin:
        identity, cost = anyio.run(identify, connector(origin.url("clip.mp4"), limits), limits, ignore_events)
        origin.wait_for(lambda it: it.bytes_sent("clip.mp4") > 0)
        [asked] = origin.requests
    assert (asked.range, asked.bytes_sent) == ("bytes=0-0", 1)
    assert cost.requests == 1
    assert (identity.size_bytes, identity.ranges, identity.name) == (CLIP.size, True, "clip.mp4")
    assert identity.digests == (f"sha256:{CLIP.sha256()}",)


def test_identify_counts_the_requests_it_had_to_repeat(limits: TransferSettings) -> None:
    with Origin({"clip.mp4": Resource(CLIP, story="from-first: 503, 503, ok")}) as origin:
        _, cost = anyio.run(identify, connector(origin.url("clip.mp4"), limits), limits, ignore_events)
        assert len(origin.requests) == cost.requests == 3


async def tail_of(url: str, folder: Path, limits: TransferSettings) -> tuple[bytes | None, TransferStats]:
    """The last 1000 bytes, and what they cost."""
    connect = connector(url, limits)
    identity, _ = await identify(connect, limits, ignore_events)
    part = Part.open(folder, identity, limits)
    looking = Transfer(connect, part, limits, ignore_events)
    try:
        return await looking.tail(CLIP.size - 1000), looking.stats
    finally:
        part.close()


def test_the_tail_is_fetched_into_memory_and_its_cost_is_counted(tmp_path: Path, limits: TransferSettings) -> None:
    with Origin({"clip.mp4": CLIP}) as origin:
        tail, cost = anyio.run(tail_of, origin.url("clip.mp4"), tmp_path, limits)
    assert tail == WHOLE[-1000:]
    assert (cost.requests, cost.bytes_received) == (1, 1000)


def test_a_tail_that_cannot_be_had_is_no_failure(tmp_path: Path, limits: TransferSettings) -> None:
    with Origin({"clip.mp4": Resource(CLIP, story="from-first: ok, 500")}) as origin:
        tail, cost = anyio.run(tail_of, origin.url("clip.mp4"), tmp_path, limits)
        assert len(origin.requests) == 2
    assert (tail, cost.requests) == (None, 1)


def test_a_tail_that_is_longer_than_asked_for_is_cut_off(tmp_path: Path, limits: TransferSettings) -> None:
    def endless(headers: dict[str, str]) -> Iterator[bytes]:
        if headers["range"] == "bytes=0-0":
            yield part_of(WHOLE, headers)
            return
        begin, end = CLIP.size - 1000, CLIP.size - 1
        yield head(206, {"Content-Range": f"bytes {begin}-{end}/{CLIP.size}", "Transfer-Encoding": "chunked"})
        while True:
            yield b"10000\r\n" + bytes(0x10000) + b"\r\n"

    with Scripted(endless) as origin:
        tail, cost = anyio.run(tail_of, origin.url("clip.mp4"), tmp_path, limits)
    assert tail == bytes(1000)
    assert cost.bytes_received <= 4 * 65536


def test_links_that_differ_only_in_a_secret_are_two_sources_where_nothing_else_tells(tmp_path: Path) -> None:
    bench = Workbench(Settings(store=StoreSettings(home=tmp_path)))

    def key_of(link: str) -> str:
        identity, _ = anyio.run(stages.identify, bench, Source(url=SecretStr(link)))
        return identity.key

    with Origin({"bare.mp4": BARE, "clip.mp4": CLIP}) as origin:
        bare, whole = origin.url("bare.mp4"), origin.url("clip.mp4")
        assert key_of(f"{bare}?ticket=1") == key_of(f"{bare}?ticket=1") != key_of(f"{bare}?ticket=2")
        assert key_of(f"{whole}?ticket=1") == key_of(f"{whole}?ticket=2")


@pytest.mark.parametrize(("trust", "requests"), [(3600, 1), (0, 2)])
def test_the_stage_goes_on_with_unvalidated_bytes_only_as_long_as_they_are_trusted(
    trust: int, requests: int, media: Path, tmp_path: Path, limits: TransferSettings
) -> None:
    with Origin({"clip.mp4": Resource(media, etag=None, last_modified=False)}) as origin:
        store = StoreSettings(home=tmp_path, unvalidated_trust=trust)
        bench = Workbench(Settings(transfer=limits, store=store))
        for _ in range(2):
            anyio.run(staged, bench, origin.url("clip.mp4"))
        assert len(downloads(origin)) == requests


# --- odd origins -----------------------------------------------------------------------------------


def test_a_part_without_content_range_costs_one_plain_request(tmp_path: Path, limits: TransferSettings) -> None:
    def nameless(headers: dict[str, str]) -> Iterator[bytes]:
        if "range" in headers:
            yield head(206, {"Content-Length": "1"}) + WHOLE[:1]
        else:
            yield part_of(WHOLE, headers)

    async def peek(url: str) -> TransferStats:
        connect = connector(url, limits)
        identity, _ = await identify(connect, limits, ignore_events)
        assert not identity.ranges
        part = Part.open(tmp_path, identity, limits)
        try:
            return await Transfer(connect, part, limits, ignore_events, until=MIB).run()
        finally:
            part.close()

    with Scripted(nameless) as origin:
        cost = anyio.run(peek, origin.url("clip.mp4"))
        assert [headers.get("range") for headers in origin.seen][-1] is None
    assert cost.requests == len(origin.seen) - 1 <= 2
    assert_a_beginning_of(WHOLE, tmp_path / "source.part")


ONE = {"ETag": '"one"'}


def a_little(
    asked: dict[str, str], headers: dict[str, str], most: int, *, size: str = "*", at_the_end: str | None = None
) -> bytes:
    """At most so many bytes of the range, of a whole that the answer says is so long; at the end a 416."""
    first, _, last = asked["range"].removeprefix("bytes=").partition("-")
    begin, end = int(first), min(int(last or CLIP.size) + 1, int(first) + most, CLIP.size)
    if begin >= end:
        told = f"bytes */{CLIP.size}" if at_the_end is None else at_the_end
        return head(416, {"Content-Length": "0"} | ({"Content-Range": told} if told else {}))
    told = f"bytes {begin}-{end - 1}/{size}"
    return head(206, {**headers, "Content-Range": told, "Content-Length": str(end - begin)}) + WHOLE[begin:end]


async def looked_at_and_fetched(connect: Connect, folder: Path, limits: TransferSettings) -> tuple[Fetched, bool]:
    """First a look at the beginning, then the rest; and whether the look took what it saw for everything."""
    identity, _ = await identify(connect, limits, ignore_events)
    part = Part.open(folder, identity, limits)
    try:
        await Transfer(connect, part, limits, ignore_events, until=MIB).run()
        looked = part.complete
        stats = await Transfer(connect, part, limits, ignore_events).run()
        return Fetched(part.path, stats, end_is_certain=part.end_is_certain), looked
    finally:
        part.close()


@pytest.mark.parametrize("validator", [ONE, {}], ids=["validator", "bare"])
@pytest.mark.parametrize(
    ("at_the_end", "certain"), [(None, True), ("bytes */*", False), ("", False)], ids=["416 size", "416 *", "416"]
)
def test_a_part_of_a_source_of_unknown_size_is_never_taken_for_the_rest_of_it(
    validator: dict[str, str], at_the_end: str | None, certain: bool, tmp_path: Path, limits: TransferSettings
) -> None:
    """RFC 9110 §15.3.7: a 206 may cover less than was asked for."""

    def stingy(headers: dict[str, str]) -> Iterator[bytes]:
        yield a_little(headers, validator, 700_000, at_the_end=at_the_end)

    with Scripted(stingy) as origin:
        got, looked = anyio.run(looked_at_and_fetched, connector(origin.url("clip.mp4"), limits), tmp_path, limits)
        assert len(origin.seen) <= 14
    assert not looked
    assert got.bytes == WHOLE
    assert got.end_is_certain == certain


@pytest.mark.parametrize("then", ["the size", "everything"])
def test_the_end_of_a_source_of_unknown_size_may_also_be_told_by_its_size_or_by_everything(
    then: str, tmp_path: Path, limits: TransferSettings
) -> None:
    def stingy(headers: dict[str, str]) -> Iterator[bytes]:
        if "range" not in headers or headers["range"].startswith("bytes=0-"):
            yield a_little({"range": "bytes=0-", **headers}, ONE, 300_000)
        elif then == "the size":
            yield a_little(headers, ONE, CLIP.size, size=str(CLIP.size))
        else:
            yield head(200, {**ONE, "Transfer-Encoding": "chunked"}) + b"%x\r\n" % CLIP.size + WHOLE + b"\r\n0\r\n\r\n"

    with Scripted(stingy) as origin:
        got = anyio.run(fetch, connector(origin.url("clip.mp4"), limits), tmp_path, limits)
        asked = [headers.get("range") for headers in origin.seen]
    assert got.failure is None and got.bytes == WHOLE
    assert got.end_is_certain
    assert asked == ["bytes=0-0", None, "bytes=300000-"]


@pytest.mark.parametrize("validator", [ONE, {}], ids=["validator", "bare"])
@pytest.mark.parametrize("more", [0, 1000])
def test_parts_of_a_source_of_unknown_size_that_bring_next_to_nothing_end_after_a_bounded_number_of_requests(
    more: int, validator: dict[str, str], tmp_path: Path, limits: TransferSettings
) -> None:
    def miserly(headers: dict[str, str]) -> Iterator[bytes]:
        asked = {"range": "bytes=0-", **headers}
        begin = int(asked["range"].removeprefix("bytes=").partition("-")[0])
        if begin < 300_000:
            yield a_little(asked, validator, 300_000 - begin)
        elif more:
            yield a_little(asked, validator, more)
        else:
            told = {**validator, "Content-Range": f"bytes {begin}-{begin}/*", "Transfer-Encoding": "chunked"}
            yield head(206, told) + b"0\r\n\r\n"

    with Scripted(miserly) as origin:
        got = anyio.run(fetch, connector(origin.url("clip.mp4"), limits), tmp_path, limits)
        assert len(origin.seen) <= 2 + 3 * (limits.tries + 1)
    assert type(got.failure) is TruncatedBody
    assert_a_beginning_of(WHOLE, got.path)


def test_a_source_of_unknown_size_that_has_become_shorter_is_a_changed_source(
    tmp_path: Path, limits: TransferSettings
) -> None:
    """Without a validator its end lies where the comparison was to begin."""

    def shrinking(headers: dict[str, str]) -> Iterator[bytes]:
        begin = int(headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if begin == 0:
            yield head(206, {"Content-Range": "bytes 0-299999/*", "Transfer-Encoding": "chunked"})
            yield b"%x\r\n" % 200_000 + WHOLE[:200_000] + b"\r\n"
        else:
            yield head(416, {"Content-Range": f"bytes */{begin}", "Content-Length": "0"})

    with Scripted(shrinking) as origin:
        got = anyio.run(fetch, connector(origin.url("clip.mp4"), limits), tmp_path, limits)
    assert type(got.failure) is SourceChanged
    assert got.bytes == b""


def test_a_416_where_a_source_of_known_size_goes_on_is_a_changed_source(limits: TransferSettings) -> None:
    def shorter(headers: dict[str, str]) -> Iterator[bytes]:
        yield head(416, {"Content-Range": "bytes */1000", "Content-Length": "0"})

    known = Identity(url="http://o/clip.mp4", name="clip.mp4", size_bytes=CLIP.size, etag='"one"', ranges=True)
    with Scripted(shorter) as origin, pytest.raises(SourceChanged):
        read_from(connector(origin.url("clip.mp4"), limits)(), 1000, known)


@pytest.mark.parametrize("validator", [{"ETag": '"one"'}, {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}])
def test_a_cache_that_answers_if_range_with_everything_is_asked_without_it(
    validator: dict[str, str], tmp_path: Path, limits: TransferSettings
) -> None:
    def cache(headers: dict[str, str]) -> Iterator[bytes]:
        told = {name: value for name, value in headers.items() if name != "if-range"}
        if "if-range" in headers:
            del told["range"]
        yield part_of(WHOLE, told, validator, most=MIB)

    with Scripted(cache) as origin:
        got = anyio.run(fetch, connector(origin.url("clip.mp4"), limits), tmp_path, limits)
        asked = [(headers.get("range"), "if-range" in headers) for headers in origin.seen[1:]]
    assert got.failure is None and got.bytes == WHOLE
    ahead = [(f"bytes={number * MIB}-", False) for number in (1, 2, 3)]
    assert asked == [(None, False), (f"bytes={MIB}-", True), *ahead]


def test_a_part_that_was_asked_for_without_condition_must_carry_the_validator(limits: TransferSettings) -> None:
    def bare(headers: dict[str, str]) -> Iterator[bytes]:
        yield part_of(WHOLE, headers)

    known = Identity(url="http://o/clip.mp4", name="clip.mp4", size_bytes=CLIP.size, etag='"one"', ranges=True)
    with Scripted(bare) as origin, pytest.raises(RangeMismatch):
        read_from(connector(origin.url("clip.mp4"), limits)(), MIB, known, conditional=False)


def test_a_first_chunk_of_four_bytes_is_not_judged_alone(tmp_path: Path, limits: TransferSettings) -> None:
    """`RIFF` alone looks like text; the WAV file that it begins does not."""
    wav = b"RIFF" + (36 + 80000).to_bytes(4, "little") + b"WAVEfmt \x10\0\0\0\1\0\1\0" + bytes(80000)

    def dribbling(headers: dict[str, str]) -> Iterator[bytes]:
        yield head(200, {"Transfer-Encoding": "chunked"})
        for chunk in (wav[:4], wav[4:]):
            yield b"%x\r\n" % len(chunk) + chunk + b"\r\n"
            time.sleep(0.05)
        yield b"0\r\n\r\n"

    with Scripted(dribbling) as origin:
        got = anyio.run(fetch, connector(origin.url("a.wav"), limits), tmp_path, limits)
    assert got.failure is None and got.bytes == wav


def test_a_page_in_many_small_chunks_is_refused_and_not_kept(tmp_path: Path, limits: TransferSettings) -> None:
    page = b"<html>" + b"Sign in. " * 300

    def dribbling(headers: dict[str, str]) -> Iterator[bytes]:
        yield head(200, {"Transfer-Encoding": "chunked"})
        for begin in range(0, len(page), 100):
            yield b"%x\r\n" % len(page[begin : begin + 100]) + page[begin : begin + 100] + b"\r\n"
        yield b"0\r\n\r\n"

    with Scripted(dribbling) as origin:
        got = anyio.run(fetch, connector(origin.url("a.mp4"), limits), tmp_path, limits)
        assert len(origin.seen) == 2
    assert type(got.failure) is NotMedia
    assert got.bytes == b""


def test_redirects_count_as_requests(tmp_path: Path, limits: TransferSettings) -> None:
    with Origin({"old.mp4": Resource(b"", story="always: redirect /clip.mp4"), "clip.mp4": CLIP}) as origin:
        connect = connector(origin.url("old.mp4"), limits)
        _, cost = anyio.run(identify, connect, limits, ignore_events)
        got = anyio.run(fetch, connect, tmp_path, limits)
        assert len(origin.requests) == 6
    assert got.stats is not None
    assert (cost.requests, got.stats.requests) == (2, 2)


def test_a_416_of_another_version_is_a_changed_source(limits: TransferSettings) -> None:
    def beyond(headers: dict[str, str]) -> Iterator[bytes]:
        yield head(416, {"Content-Range": "bytes */1000", "ETag": '"two"', "Content-Length": "0"})

    known = Identity(url="http://o/clip.mp4", name="clip.mp4", size_bytes=1000, etag='"one"', ranges=True)
    with Scripted(beyond) as origin:
        connect = connector(origin.url("clip.mp4"), limits)
        with pytest.raises(SourceChanged):
            read_from(connect(), 1000, known)
        same = known.model_copy(update={"etag": '"two"'})
        assert read_from(connect(), 1000, same) == b""


def test_a_head_alone_leaves_a_part_that_a_download_goes_on_with(tmp_path: Path, limits: TransferSettings) -> None:
    with Origin({"clip.mp4": CLIP}) as origin:
        connect = connector(origin.url("clip.mp4"), limits)

        async def head() -> None:
            identity, _ = await identify(connect, limits, ignore_events)
            part = Part.open(tmp_path, identity, limits)
            await Transfer(connect, part, limits, ignore_events, until=MIB).run()
            assert (part.received_bytes, part.complete) == (MIB, False)
            part.close()

        anyio.run(head)
        assert downloads(origin)[0].range == f"bytes=0-{MIB - 1}"
        got = fetched(origin, tmp_path, limits)
        assert downloads(origin)[1].range == f"bytes={MIB}-"
    assert got.bytes == WHOLE


def test_progress_is_told_while_bytes_come(tmp_path: Path, limits: TransferSettings) -> None:
    told: list[Event] = []
    with Origin({"clip.mp4": Resource(CLIP, story="throttle 3M")}) as origin:
        anyio.run(fetch, connector(origin.url("clip.mp4"), limits), tmp_path, limits, told.append)
    advances = [event for event in told if isinstance(event, Advance)]
    assert len(advances) >= 2
    assert {event.total for event in advances} == {CLIP.size}
    assert [event.done for event in advances] == sorted(event.done for event in advances)


# --- the deadline ---------------------------------------------------------------------------------


async def fetched_by(clock: Callable[[], float], connect: Connect, folder: Path, limits: TransferSettings) -> Fetched:
    identity, _ = await identify(connect, limits, ignore_events)
    part = Part.open(folder, identity, limits)
    try:
        stats = await Transfer(connect, part, limits, ignore_events, clock=clock).run()
    except TidegateError as failure:
        return Fetched(part.path, failure=failure)
    finally:
        part.close()
    return Fetched(part.path, stats)


@pytest.mark.parametrize("story", ["1M drop, late-headers 500ms", "1M drop, 0 stall 400ms, ok"])
def test_an_answer_that_takes_some_ticks_does_not_end_a_download_that_has_lasted_for_an_hour(
    story: str, tmp_path: Path, limits: TransferSettings
) -> None:
    """Its line broke at a third, and the next answer's first byte comes later than the watch looks."""
    with Origin({"clip.mp4": Resource(CLIP, story=story)}) as origin:

        def clock() -> float:
            return time.monotonic() + (3600 if len(downloads(origin)) > 1 else 0)

        got = anyio.run(fetched_by, clock, connector(origin.url("clip.mp4"), limits), tmp_path, limits)
        assert len(downloads(origin)) == 2
    assert got.failure is None
    assert got.bytes == WHOLE


def test_a_source_that_stays_silent_after_an_hour_has_stalled(tmp_path: Path, limits: TransferSettings) -> None:
    with Origin({"clip.mp4": Resource(CLIP, story="1M drop, 0 stall")}) as origin:

        def clock() -> float:
            return time.monotonic() + (3600 if len(downloads(origin)) > 1 else 0)

        got = anyio.run(fetched_by, clock, connector(origin.url("clip.mp4"), limits), tmp_path, limits)
        assert len(downloads(origin)) == 1 + limits.tries
    assert type(got.failure) is StalledTransfer


# --- cancellation ----------------------------------------------------------------------------------


def cancelled_after(begun: Callable[[], bool], connect: Connect, folder: Path, limits: TransferSettings) -> float:
    """Cancel a transfer as soon as something can be seen of it; gives the seconds that its end took."""

    async def run() -> float:
        async with anyio.create_task_group() as group:
            group.start_soon(fetch, connect, folder, limits)
            with anyio.fail_after(10):
                while not begun():  # noqa: ASYNC110  # what it waits for has no event
                    await anyio.sleep(0.01)
            started = time.monotonic()
            group.cancel_scope.cancel()
        return time.monotonic() - started

    return anyio.run(run)


PATIENT = {"request_timeout": 120, "stall_timeout": 120, "stall_tick": 5}
SOON_SECONDS = 60.0
"""Long before any of these timeouts, however busy the machine is."""


@pytest.mark.parametrize("story", ["1M stall", "close-delimited 1M stall", "no-length 1M stall"])
def test_cancelling_a_stalled_read_ends_it_at_once_and_keeps_what_came(story: str, tmp_path: Path) -> None:
    limits = TransferSettings(**PATIENT)
    with Origin({"clip.mp4": Resource(CLIP, story=story)}) as origin:
        part = tmp_path / "source.part"
        connect = connector(origin.url("clip.mp4"), limits)
        seconds = cancelled_after(lambda: part.exists() and part.stat().st_size == MIB, connect, tmp_path, limits)
        assert seconds < SOON_SECONDS
        origin.wait_for(lambda o: downloads(o)[0].ended == "client-gone")
        origin.tell("clip.mp4", "ok")
        got = fetched(origin, tmp_path, limits)
        assert downloads(origin)[1].range == f"bytes={MIB}-"
    assert got.bytes == WHOLE


def test_cancelling_a_wait_for_headers_ends_it_at_once(tmp_path: Path) -> None:
    limits = TransferSettings(**PATIENT)
    with Origin({"clip.mp4": Resource(CLIP, story="late-headers 60s")}) as origin:
        connect = connector(origin.url("clip.mp4"), limits)
        seconds = cancelled_after(lambda: len(downloads(origin)) == 1, connect, tmp_path, limits)
        origin.wait_for(lambda o: downloads(o)[0].ended == "client-gone")
    assert seconds < SOON_SECONDS


def test_cancelling_a_connect_that_nobody_answers_ends_it_at_once(
    deaf_port: int, tmp_path: Path, limits: TransferSettings
) -> None:
    begun = time.monotonic()
    connect = connector(f"http://127.0.0.1:{deaf_port}/clip.mp4", limits)
    seconds = cancelled_after(lambda: time.monotonic() - begun > 0.3, connect, tmp_path, limits)
    assert seconds < SOON_SECONDS


def test_a_connect_that_nobody_answers_is_a_request_timeout(
    deaf_port: int, tmp_path: Path, limits: TransferSettings
) -> None:
    quick = limits.model_copy(update={"request_timeout": limits.request_timeout / 2, "tries": 2})
    connect = connector(f"http://127.0.0.1:{deaf_port}/clip.mp4", quick)
    with pytest.raises(RequestTimeout):
        anyio.run(partial(identify, connect, quick, ignore_events))


def test_an_identity_without_validator_and_ranges_is_told_as_such(limits: TransferSettings) -> None:
    bare = Resource(CLIP, etag="weak", last_modified=False, accept_ranges="none")
    with Origin({"clip.mp4": bare}) as origin:
        identity, _ = anyio.run(identify, connector(origin.url("clip.mp4"), limits), limits, ignore_events)
    assert isinstance(identity, Identity)
    assert (identity.has_validator, identity.ranges, identity.size_bytes) == (False, False, CLIP.size)

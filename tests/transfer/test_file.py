"""One file from wherever it can be had: mirrors, fresh links in place of expired ones, and limits that somebody set."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from pydantic import SecretStr

from tests.support.command import wait_until
from tests.support.disks import volume
from tests.support.origin import Origin, Resource, Synthetic
from tests.support.renditions import real_tools
from tests.transfer.scripted import Scripted, head, part_of
from tidegate.errors import (
    ConnectionFailed,
    DiskFull,
    ExpiredLink,
    HttpRefused,
    LimitReached,
    NotFound,
    NotMedia,
    ServerError,
    SourceChanged,
)
from tidegate.events import ignore_events
from tidegate.model import Identity, MediaInfo, Source
from tidegate.settings import Settings, TransferSettings
from tidegate.transfer.file.fetch import FetchedFile, Renew, fetch_file, identify
from tidegate.transfer.file.http import HttpExchange
from tidegate.transfer.file.mirrors import has_expired, proven_same
from tidegate.transfer.outside import Outside
from tidegate.transfer.playlists.read_metalink import read as read_metalink
from tidegate.transfer.resolvers.base import Offer
from tidegate.transfer.resolvers.direct import DirectResolver
from tidegate.transfer.transport import pool_of

pytestmark = pytest.mark.usefixtures("nothing_left")

MIB = 1024 * 1024
FILM = Synthetic(3 * MIB + 17, seed=7)
WHOLE = b"".join(FILM.blocks())
PROVEN = {"repr_digest": "sha-256"}


@pytest.fixture
def outside(limits: TransferSettings, nothing_left: None) -> Iterator[Outside]:
    made = Outside(limits=limits, run_tool=real_tools())
    yield made
    pool_of(made.gates).close()


async def _fetched(outside: Outside, source: Source, folder: Path, renew: Renew | None) -> FetchedFile:
    identity, _ = await identify(
        lambda: HttpExchange(source, outside.limits, outside.gates), outside.limits, ignore_events
    )
    promised = frozenset(identity.digests)
    return await fetch_file(outside, source, folder, identity, promised=promised, renew=renew)


def fetched(
    outside: Outside, url: str, folder: Path, *mirrors: str, renew: Renew | None = None, **more: Any
) -> FetchedFile:
    source = Source(url=SecretStr(url), mirrors=tuple(SecretStr(mirror) for mirror in mirrors), **more)
    return anyio.run(partial(_fetched, outside, source, folder, renew))


# --- space -----------------------------------------------------------------------------------------


def test_of_two_that_would_only_fit_one_by_one_the_second_ends_before_its_first_byte(
    outside: Outside, tmp_path: Path
) -> None:
    async def both(origin: Origin, folder: Path) -> FetchedFile:
        first: list[FetchedFile] = []
        for name in "ab":
            (folder / name).mkdir()

        async def fetch_first() -> None:
            first.append(await _fetched(outside, Source(url=SecretStr(origin.url("a.mp4"))), folder / "a", None))

        async with anyio.create_task_group() as group:
            group.start_soon(fetch_first)
            await to_thread.run_sync(wait_until, lambda: origin.bytes_sent("a.mp4") >= MIB // 4)
            with pytest.raises(DiskFull):
                await _fetched(outside, Source(url=SecretStr(origin.url("b.mp4"))), folder / "b", None)
            assert not first, "the first is still at it, and most of the volume is free of bytes"
        return first[0]

    films = {"a.mp4": Resource(FILM, story="throttle 1M"), "b.mp4": Resource(FILM)}
    with volume(tmp_path / "disk", "size=5m") as disk, Origin(films) as origin:
        got = anyio.run(both, origin, disk)
        assert got.path.read_bytes() == WHOLE
        assert [request for request in origin.requests_for("b.mp4") if not request.peek] == []


# --- mirrors ---------------------------------------------------------------------------------------


def test_a_mirror_goes_on_where_the_origin_ended_when_a_digest_proves_the_whole(
    outside: Outside, tmp_path: Path
) -> None:
    with (
        Origin({"a.mp4": Resource(FILM, story="1M drop, 500", **PROVEN)}) as origin,
        Origin({"b.mp4": Resource(FILM, etag="other", **PROVEN)}) as mirror,
    ):
        got = fetched(outside, origin.url("a.mp4"), tmp_path, mirror.url("b.mp4"))
        asked = [request for request in mirror.requests if not request.peek]
    assert got.path.read_bytes() == WHOLE
    assert [request.range for request in asked] == [f"bytes={MIB}-"]
    assert got.checked == {f"sha256:{FILM.sha256()}"}


def test_a_mirror_whose_bytes_nothing_proves_begins_at_zero_in_a_part_of_its_own(
    outside: Outside, tmp_path: Path
) -> None:
    with (
        Origin({"a.mp4": Resource(FILM, story="1M drop, 500")}) as origin,
        Origin({"b.mp4": Resource(FILM, etag="other")}) as mirror,
    ):
        got = fetched(outside, origin.url("a.mp4"), tmp_path, mirror.url("b.mp4"))
        assert [request.range for request in mirror.requests if not request.peek] == [None]
    assert got.path.read_bytes() == WHOLE
    assert got.path.name == "source.mirror.part"
    assert (tmp_path / "source.part").read_bytes() == WHOLE[:MIB]


def test_a_mirror_with_other_bytes_of_the_same_size_is_found_out_by_the_digest(
    outside: Outside, tmp_path: Path
) -> None:
    other = Resource(Synthetic(FILM.size, seed=8), etag="other")
    with (
        Origin({"a.mp4": Resource(FILM, story="1M drop, 500", **PROVEN)}) as origin,
        Origin({"b.mp4": other}) as mirror,
        pytest.raises(ServerError),
    ):
        fetched(outside, origin.url("a.mp4"), tmp_path, mirror.url("b.mp4"))
    assert (tmp_path / "source.part").read_bytes() == b"", "nothing of the mixture may be resumed"


def test_the_digest_by_which_a_mirror_is_let_in_is_checked_though_the_caller_promises_none(
    outside: Outside, tmp_path: Path
) -> None:
    async def fetch_unpromised(url: str, mirror: str) -> FetchedFile:
        source = Source(url=SecretStr(url), mirrors=(SecretStr(mirror),))
        identity, _ = await identify(
            lambda: HttpExchange(source, outside.limits, outside.gates), outside.limits, ignore_events
        )
        return await fetch_file(outside, source, tmp_path, identity)

    def once_told(headers: dict[str, str]) -> Iterator[bytes]:
        """Only the first answer tells the digest; then it ends half way, and for good."""
        begin = headers.get("range") == "bytes=0-0"
        digest = base64.b64encode(bytes.fromhex(FILM.sha256())).decode()
        told = {"ETag": '"one"', **({"Repr-Digest": f"sha-256=:{digest}:"} if begin else {})}
        yield part_of(WHOLE, headers, told, most=MIB) if "if-range" not in headers else head(500, told)

    other = Resource(Synthetic(FILM.size, seed=8), etag="other")
    with Scripted(once_told) as origin, Origin({"b.mp4": other}) as mirror:
        with pytest.raises(ServerError):
            anyio.run(fetch_unpromised, origin.url("a.mp4"), mirror.url("b.mp4"))
        mirror.add("b.mp4", Resource(FILM, etag="other"))
        got = anyio.run(fetch_unpromised, origin.url("a.mp4"), mirror.url("b.mp4"))
    assert got.path.read_bytes() == WHOLE
    assert got.checked == {f"sha256:{FILM.sha256()}"}


def test_a_mirror_of_another_size_is_not_asked_for_its_bytes(outside: Outside, tmp_path: Path) -> None:
    with (
        Origin({"a.mp4": Resource(FILM, story="404")}) as origin,
        Origin({"b.mp4": Synthetic(MIB)}) as mirror,
        pytest.raises(NotFound),
    ):
        fetched(outside, origin.url("a.mp4"), tmp_path, mirror.url("b.mp4"))
    assert [request.range for request in mirror.requests] == ["bytes=0-0"]


@pytest.mark.parametrize("kind", ["impossible", "packed", "a playlist"])
def test_a_mirror_that_cannot_be_read_is_passed_over_and_never_the_transfers_failure(
    kind: str, outside: Outside, tmp_path: Path
) -> None:
    playlist = Resource(b"#EXTM3U\n#EXTINF:4,\na.ts\n".ljust(FILM.size, b"\n"))
    resources = {"packed.mp4": Resource(FILM, story="gzip"), "list.mp4": playlist, "good.mp4": Resource(FILM)}
    with Origin(resources) as mirror, Origin() as origin:
        bad = {
            "impossible": "http://127.0.0.1:99999/b.mp4",
            "packed": mirror.url("packed.mp4"),
            "a playlist": mirror.url("list.mp4"),
        }[kind]
        link = f'header Link=<{bad}>;rel="duplicate"'
        origin.add("a.mp4", Resource(FILM, story=f"0 drop {link}, 500"))
        with pytest.raises(ServerError):
            fetched(outside, origin.url("a.mp4"), tmp_path)
        got = fetched(outside, origin.url("a.mp4"), tmp_path, bad, mirror.url("good.mp4"))
    assert got.path.read_bytes() == WHOLE


def test_mirrors_are_tried_in_turn_and_never_told_a_secret(outside: Outside, tmp_path: Path) -> None:
    with (
        Origin({"a.mp4": Resource(FILM, story="0 drop")}) as origin,
        Origin({"b.mp4": Resource(FILM, story="always: 404")}) as second,
        Origin({"c.mp4": FILM}) as third,
    ):
        headers = {"Authorization": SecretStr("Bearer hidden")}
        mirrors = second.url("b.mp4"), third.url("c.mp4")
        got = fetched(outside, origin.url("a.mp4"), tmp_path, *mirrors, headers=headers)
        assert not any("authorization" in one.headers for one in (*second.requests, *third.requests))
        assert all("authorization" in one.headers for one in origin.requests)
    assert got.path.read_bytes() == WHOLE


def test_a_copy_that_the_origin_names_is_used_when_it_does_not_deliver(outside: Outside, tmp_path: Path) -> None:
    with Origin({"b.mp4": FILM}) as mirror:
        link = f'header Link=<{mirror.url("b.mp4")}>;rel="duplicate";pri=1'
        with Origin({"a.mp4": Resource(FILM, story=f"0 drop {link}")}) as origin:
            got = fetched(outside, origin.url("a.mp4"), tmp_path)
    assert got.path.read_bytes() == WHOLE


def test_a_metalink_that_the_origin_names_is_read_when_it_does_not_deliver(outside: Outside, tmp_path: Path) -> None:
    with Origin({"b.mp4": FILM}) as mirror:
        document = (
            '<?xml version="1.0"?><metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="a.mp4">'
            f'<url priority="2">ftp://elsewhere/b.mp4</url><url priority="1">{mirror.url("b.mp4")}</url>'
            "</file></metalink>"
        ).encode()
        link = 'header Link=</a.meta4>;rel=describedby;type="application/metalink4+xml"'
        resources = {"a.mp4": Resource(FILM, story=f"0 drop {link}"), "a.meta4": Resource(document)}
        with Origin(resources) as origin:
            got = fetched(outside, origin.url("a.mp4"), tmp_path)
    assert got.path.read_bytes() == WHOLE


def test_a_mirror_says_what_a_source_is_whose_origin_is_gone(outside: Outside) -> None:
    gone = Origin({"a.mp4": FILM}).start()
    gone.stop()
    with Origin({"b.mp4": FILM}) as mirror:
        source = Source(url=SecretStr(gone.url("a.mp4")), mirrors=(SecretStr(mirror.url("b.mp4")),))
        identity, _ = anyio.run(DirectResolver().identify, outside, source)
        assert identity.size_bytes == FILM.size
    with pytest.raises(ConnectionFailed):
        anyio.run(DirectResolver().identify, outside, source)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<metalink>",
        b"<html><body>nothing</body></html>",
        b'<!DOCTYPE x [<!ENTITY a "aaaa">]><metalink><file><url>http://o/&a;</url></file></metalink>',
        b"<metalink><file><url>file:///etc/passwd</url><url>javascript:x</url></file></metalink>",
        b"<metalink><file><url>http://[no/url</url></file></metalink>",
    ],
)
def test_a_metalink_that_is_none_or_leads_elsewhere_gives_no_links(document: bytes) -> None:
    assert read_metalink(document).urls == {}


A, B = "sha256:" + "aa" * 32, "sha256:" + "bb" * 32


@pytest.mark.parametrize(
    ("mine", "theirs", "promised", "proven"),
    [
        ({"digests": (A,)}, {"digests": (A,)}, (), True),
        ({"digests": (A,)}, {"digests": (B,)}, (), False),
        ({"digests": (A,)}, {}, (), True),
        ({}, {}, (A,), True),
        ({}, {"digests": (B,)}, (A,), False),
        ({"etag": '"same"'}, {"etag": '"same"'}, (), False),
        ({"digests": (A,), "size_bytes": None}, {"digests": (A,), "size_bytes": None}, (), False),
        ({"digests": (A,)}, {"digests": (A,), "size_bytes": 6}, (), False),
    ],
)
def test_bytes_of_two_origins_are_joined_only_where_a_digest_will_show_a_difference(
    mine: dict[str, Any], theirs: dict[str, Any], promised: tuple[str, ...], proven: bool
) -> None:
    plain = Identity(url="http://o/a.mp4", name="a.mp4", size_bytes=5)
    one, other = plain.model_copy(update=mine), plain.model_copy(update=theirs)
    assert proven_same(one, other, frozenset(promised)) == proven


# --- links that expire -----------------------------------------------------------------------------

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("query", "late"),
    [
        ("Expires=1700000000&Signature=x", True),
        ("Expires=1900000000&Signature=x", False),
        ("expire=1799999999", True),
        ("X-Amz-Date=20260101T000000Z&X-Amz-Expires=3600", True),
        ("X-Amz-Date=20270115T080000Z&X-Amz-Expires=3600", False),
        ("X-Goog-Date=20260101T000000Z&X-Goog-Expires=60", True),
        ("se=2026-01-01T00:00:00Z&sig=x", True),
        ("se=2026-01-01T00:00:00Z", False),
        ("e=5", False),
        ("exp=soon", False),
        ("X-Amz-Date=never&X-Amz-Expires=3600", False),
        ("X-Amz-Date=20260101T000000Z&X-Amz-Expires=99999999999999", False),
        ("X-Amz-Date=20260101T000000Z&X-Amz-Expires=999999999999", False),
        ("", False),
    ],
)
def test_a_signed_link_says_itself_when_its_time_is_over(query: str, late: bool) -> None:
    assert has_expired(f"http://origin/a.mp4?{query}", NOW) == late


def test_an_expired_link_is_told_as_such(outside: Outside, tmp_path: Path) -> None:
    with Origin({"a.mp4": Resource(FILM, story="1M drop, 403")}) as origin, pytest.raises(ExpiredLink):
        fetched(outside, origin.url("a.mp4") + "?Expires=1700000000", tmp_path)


def test_a_fresh_link_goes_on_where_the_old_one_ended(outside: Outside, tmp_path: Path) -> None:
    with Origin({"a.mp4": Resource(FILM, story="1M drop, 403, ok")}) as origin:

        async def renew() -> Source:
            return Source(url=SecretStr(origin.url("a.mp4") + "?fresh"))

        got = fetched(outside, origin.url("a.mp4"), tmp_path, renew=renew)
        last = origin.requests[-1]
    assert got.path.read_bytes() == WHOLE
    assert (last.query, last.range) == ("fresh", f"bytes={MIB}-")


def test_a_link_is_made_fresh_once_and_not_for_ever(outside: Outside, tmp_path: Path) -> None:
    renewals: list[str] = []
    with Origin({"a.mp4": Resource(FILM, story="1M drop, 403")}) as origin:

        async def renew() -> Source:
            renewals.append("again")
            return Source(url=SecretStr(origin.url("a.mp4") + "?fresh"))

        with pytest.raises(HttpRefused):
            fetched(outside, origin.url("a.mp4"), tmp_path, renew=renew)
    assert renewals == ["again"]


def test_a_fresh_link_to_another_file_is_refused(outside: Outside, tmp_path: Path) -> None:
    with Origin({"a.mp4": Resource(FILM, story="1M drop, 403"), "b.mp4": Synthetic(MIB)}) as origin:

        async def renew() -> Source:
            return Source(url=SecretStr(origin.url("b.mp4")))

        with pytest.raises(SourceChanged):
            fetched(outside, origin.url("a.mp4"), tmp_path, renew=renew)
    assert (tmp_path / "source.part").read_bytes() == WHOLE[:MIB]


# --- limits ----------------------------------------------------------------------------------------


def limited(outside: Outside, **limits: Any) -> Outside:
    return Outside(limits=outside.limits.model_copy(update=limits), gates=outside.gates, run_tool=outside.run_tool)


@pytest.mark.parametrize("story", ["ok", "close-delimited", "no-length"])
def test_a_source_that_is_larger_than_somebody_allows_is_refused(story: str, outside: Outside, tmp_path: Path) -> None:
    with Origin({"a.mp4": Resource(FILM, story=story, accept_ranges="none")}) as origin, pytest.raises(LimitReached):
        fetched(limited(outside, largest=MIB), origin.url("a.mp4"), tmp_path)


def test_an_endless_body_ends_at_the_limit(outside: Outside, tmp_path: Path) -> None:
    def endless(headers: dict[str, str]) -> Iterator[bytes]:
        yield head(200, {"Transfer-Encoding": "chunked"})
        while True:
            yield b"10000\r\n" + bytes(0x10000) + b"\r\n"

    with Scripted(endless) as origin, pytest.raises(LimitReached):
        fetched(limited(outside, largest=2 * MIB), origin.url("a.mp4"), tmp_path)
    assert (tmp_path / "source.part").stat().st_size <= 2 * MIB


@pytest.mark.parametrize("limit", ["limit", "small_limit"])
def test_a_transfer_ends_at_the_time_that_somebody_set(limit: str, outside: Outside, tmp_path: Path) -> None:
    with Origin({"a.mp4": Resource(FILM, story="throttle 100K")}) as origin, pytest.raises(LimitReached):
        fetched(limited(outside, **{limit: timedelta(seconds=1)}), origin.url("a.mp4"), tmp_path)


def test_what_does_not_fit_on_the_disk_is_refused_before_its_first_byte(outside: Outside, tmp_path: Path) -> None:
    asked: list[str | None] = []

    def huge(headers: dict[str, str]) -> Iterator[bytes]:
        asked.append(headers.get("range"))
        yield head(206, {"Content-Range": f"bytes 0-0/{10**17}", "Content-Length": "1", "ETag": '"x"'}) + b"x"

    with Scripted(huge) as origin, pytest.raises(DiskFull):
        fetched(outside, origin.url("a.mp4"), tmp_path)
    assert asked == ["bytes=0-0"]


@pytest.mark.parametrize("size_bytes", [2**63, 10**30])
def test_a_size_that_no_file_can_have_is_refused_by_its_type(size_bytes: int, outside: Outside, tmp_path: Path) -> None:
    def boastful(asked: dict[str, str]) -> Iterator[bytes]:
        first, _, last = asked["range"].removeprefix("bytes=").partition("-")
        end = min(int(last) + 1, size_bytes) if last else size_bytes
        told = {"Content-Range": f"bytes {first}-{end - 1}/{size_bytes}", "Content-Length": str(end - int(first))}
        yield head(206, told) + bytes([0x00, 0xFF]) * min(MIB, (end - int(first) + 1) // 2)

    async def undecided(path: Path) -> MediaInfo:
        raise NotMedia("Only the whole of it can tell")

    async def offered(url: str) -> Offer:
        told, source = replace(outside, look=undecided), Source(url=SecretStr(url))
        identity, _ = await DirectResolver().identify(told, source)
        assert identity.size_bytes == size_bytes
        return await DirectResolver().offer(told, source, identity, lambda _: tmp_path)

    with Scripted(boastful) as origin, pytest.raises(NotMedia, match="no file can have"):
        anyio.run(offered, origin.url("clip.mp4"))


def test_the_network_preset_limits_small_sources_only_where_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load().transfer.small_limit is None
    for network, seconds in (("fast", 20), ("normal", 30), ("slow", 60)):
        monkeypatch.setenv("TIDEGATE_NETWORK", network)
        assert Settings.load().transfer.small_limit == timedelta(seconds=seconds)

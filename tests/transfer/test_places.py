"""One file from several places at once: where a digest proves the mixture, mirrors carry their share, and none of them
can spoil the file or cost the source its tries.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import SecretStr

from tests.support.origin import Origin, Request, Resource, Synthetic
from tests.support.renditions import real_tools
from tidegate.events import Event, Note
from tidegate.model import Identity, Source
from tidegate.settings import TransferSettings
from tidegate.transfer.file.fetch import FetchedFile, fetch_file, identify
from tidegate.transfer.file.http import HttpExchange
from tidegate.transfer.outside import Outside
from tidegate.transfer.playlists.read_metalink import read as read_metalink
from tidegate.transfer.transport import pool_of

pytestmark = pytest.mark.usefixtures("nothing_left")

MIB = 1024 * 1024
FILM = Synthetic(16 * MIB + 17, seed=21)
SMALL = Synthetic(3 * MIB + 17, seed=22)
LIMITS = TransferSettings(request_timeout=2, stall_timeout=1, stall_tick=0.2, backoff_base=0.05, minimum_speed=8192)
DIGEST = {"repr_digest": "sha-256"}


async def _fetched(source: Source, folder: Path, notes: list[str]) -> FetchedFile:
    def observe(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.message)

    outside = Outside(limits=LIMITS, observe=observe, run_tool=real_tools(observe))
    try:
        identity: Identity
        identity, _ = await identify(lambda: HttpExchange(source, LIMITS, outside.gates), LIMITS, observe)
        promised = frozenset(identity.digests) | ({source.sha256} if source.sha256 else set())
        return await fetch_file(outside, source, folder, identity, promised=promised)
    finally:
        pool_of(outside.gates).close()


def fetched(folder: Path, url: str, *mirrors: str, notes: list[str] | None = None, **more: Any) -> FetchedFile:
    source = Source(url=SecretStr(url), mirrors=tuple(SecretStr(one) for one in mirrors), **more)
    return anyio.run(_fetched, source, folder, [] if notes is None else notes)


def bodies(origin: Origin) -> list[Request]:
    return [request for request in origin.requests if request.range != "bytes=0-0"]


def sent(origin: Origin) -> int:
    return sum(request.bytes_sent for request in origin.requests)


def test_two_places_share_the_work_where_each_connection_is_slow(tmp_path: Path) -> None:
    with (
        Origin({"a.mp4": Resource(FILM, story="throttle 3M", **DIGEST)}) as origin,
        Origin({"b.mp4": Resource(FILM, story="throttle 3M", etag="other")}) as mirror,
    ):
        got = fetched(tmp_path, origin.url("a.mp4"), mirror.url("b.mp4"))
        shares = sent(origin), sent(mirror)
        asked = len(origin.requests), len(mirror.requests)
    assert got.path.read_bytes() == b"".join(FILM.blocks())
    assert min(shares) > FILM.size / 5, shares
    assert sum(shares) < FILM.size * 1.3, shares
    assert sum(asked) == got.stats.requests + 1, "what was asked is what is told, and who asked first what it is"


def test_a_source_that_falls_silent_half_way_costs_one_stall_and_the_mirror_goes_on(tmp_path: Path) -> None:
    with (
        Origin({"a.mp4": Resource(SMALL, story="1M stall", **DIGEST)}) as origin,
        Origin({"b.mp4": Resource(SMALL, etag="other")}) as mirror,
    ):
        got = fetched(tmp_path, origin.url("a.mp4"), mirror.url("b.mp4"))
        here, there = bodies(origin), bodies(mirror)
    assert got.path.read_bytes() == b"".join(SMALL.blocks())
    assert len(here) == 1
    assert [request.range for request in there] == [f"bytes={MIB}-"]
    assert got.path.name == "source.part", "with the bytes that were here"


def test_a_mirror_with_other_bytes_of_the_same_size_is_found_out_and_left(tmp_path: Path) -> None:
    notes: list[str] = []
    with (
        Origin({"a.mp4": Resource(SMALL, story="1M drop, ok", **DIGEST)}) as origin,
        Origin({"b.mp4": Resource(Synthetic(SMALL.size, seed=23), etag="other")}) as mirror,
    ):
        got = fetched(tmp_path, origin.url("a.mp4"), mirror.url("b.mp4"), notes=notes)
        assert [request.range for request in bodies(mirror)] == [f"bytes={MIB}-"]
        assert [request.range for request in bodies(origin)] == [None, None], "afresh, from the source alone"
    assert got.path.read_bytes() == b"".join(SMALL.blocks())
    assert any("does not fit" in note for note in notes)


@pytest.mark.parametrize(
    ("mirrored", "asked"),
    [
        (Resource(SMALL, story="always: 404"), 1),
        (Resource(SMALL, story="always: 503"), 1),
        (Resource(Synthetic(MIB)), 1),
        (Resource(Synthetic(SMALL.size, seed=23), **DIGEST), 1),  # type: ignore[arg-type]
        (Resource(SMALL, accept_ranges="none"), 1),
    ],
    ids=["refuses", "fails", "another size", "another digest", "no ranges"],
)
def test_an_unfit_mirror_costs_one_request_and_no_try(mirrored: Resource, asked: int, tmp_path: Path) -> None:
    # Three drops without gain would end it; every one of these gains, so only the mirror could use tries up.
    story = "700K drop, 0 drop, 0 drop, ok"
    with Origin({"a.mp4": Resource(SMALL, story=story, **DIGEST)}) as origin, Origin({"b.mp4": mirrored}) as mirror:
        got = fetched(tmp_path, origin.url("a.mp4"), mirror.url("b.mp4"))
        assert len(bodies(origin)) == 4
        assert len(mirror.requests) == asked
    assert got.path.read_bytes() == b"".join(SMALL.blocks())


def test_without_a_digest_no_mirror_is_asked_while_the_source_delivers(tmp_path: Path) -> None:
    with (
        Origin({"a.mp4": Resource(SMALL, story="1M drop, 1M drop, ok")}) as origin,
        Origin({"b.mp4": SMALL}) as mirror,
    ):
        got = fetched(tmp_path, origin.url("a.mp4"), mirror.url("b.mp4"))
        assert mirror.requests == []
        assert len(bodies(origin)) == 3
        assert got.path.read_bytes() == b"".join(SMALL.blocks())
        with_digest = tmp_path / "with digest"
        with_digest.mkdir()
        origin.tell("a.mp4", "1M drop, ok")
        fetched(with_digest, origin.url("a.mp4"), mirror.url("b.mp4"), sha256=f"sha256:{SMALL.sha256()}")
        assert [request.range for request in bodies(mirror)] == [f"bytes={MIB}-"]


def test_a_copy_that_the_source_names_goes_on_with_its_bytes_and_hears_no_secret(tmp_path: Path) -> None:
    with Origin({"b.mp4": SMALL}) as mirror:
        link = f'header Link=<{mirror.url("b.mp4")}>;rel="duplicate"'
        with Origin({"a.mp4": Resource(SMALL, story=f"1M stall {link}", digest="sha-256")}) as origin:
            secret = {"Authorization": SecretStr("Bearer hidden")}
            got = fetched(tmp_path, origin.url("a.mp4"), headers=secret)
            assert len(bodies(origin)) == 1
        assert [request.range for request in bodies(mirror)] == [f"bytes={MIB}-"]
        assert not any("authorization" in request.headers for request in mirror.requests)
    assert got.path.read_bytes() == b"".join(SMALL.blocks())


def metalink(url: str, digest: str, size: int) -> bytes:
    return (
        '<?xml version="1.0"?><metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="a.mp4">'
        f'<size>{size}</size><hash type="sha-256">{digest}</hash><url>{url}</url>'
        '<pieces length="262144" type="sha-256"><hash>00</hash></pieces></file></metalink>'
    ).encode()


@pytest.mark.parametrize(("size", "ranges"), [(SMALL.size, [f"bytes={MIB}-"]), (SMALL.size + 1, [])])
def test_a_metalinks_digest_lets_the_mirror_go_on_and_one_of_another_file_counts_for_nothing(
    size: int, ranges: list[str], tmp_path: Path
) -> None:
    with Origin({"b.mp4": Resource(SMALL, etag="other")}) as mirror:
        told = 'header Link=</a.meta4>;rel=describedby;type="application/metalink4+xml"'
        document = metalink(mirror.url("b.mp4"), SMALL.sha256(), size)
        resources = {"a.mp4": Resource(SMALL, story=f"1M drop {told}, 404"), "a.meta4": Resource(document)}
        with Origin(resources) as origin:
            if ranges:
                got = fetched(tmp_path, origin.url("a.mp4"))
                assert got.path.read_bytes() == b"".join(SMALL.blocks())
                assert got.checked == {f"sha256:{SMALL.sha256()}"}
            else:
                with pytest.raises(Exception, match="404"):
                    fetched(tmp_path, origin.url("a.mp4"))
        assert [request.range for request in bodies(mirror)] == ranges


def test_a_metalinks_hashes_are_those_of_the_whole_file() -> None:
    read = read_metalink(metalink("http://o/b.mp4", "AB" * 32, 5))
    assert (read.digests, read.size_bytes) == ({"sha256:" + "ab" * 32}, 5)
    assert read_metalink(metalink("http://o/b.mp4", "AB", 5)).digests == frozenset()

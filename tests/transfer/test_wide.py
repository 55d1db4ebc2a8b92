"""Several connections to one origin: where they help they come, where they do not or are refused they go, and whatever
happens to one of them the file is whole.
"""

from __future__ import annotations

import json
import os
import signal
import time
from functools import partial
from pathlib import Path

import anyio
import pytest
from pydantic import SecretStr

from tests.support.origin import Origin, Request, Resource, Synthetic
from tidegate.errors import SourceChanged, TidegateError
from tidegate.events import ignore_events
from tidegate.model import Source
from tidegate.settings import TransferSettings
from tidegate.transfer.file.fetch import FetchedFile, fetch_file, identify
from tidegate.transfer.file.http import HttpExchange
from tidegate.transfer.outside import Outside
from tidegate.transfer.transport import pool_of

pytestmark = pytest.mark.usefixtures("nothing_left")

MIB = 1024 * 1024
FILM = Synthetic(32 * MIB + 17, seed=11)
LIMITS = TransferSettings(request_timeout=5, stall_timeout=4, stall_tick=0.5, backoff_base=0.1)


async def fetch(url: str, folder: Path, limits: TransferSettings = LIMITS) -> FetchedFile:
    outside = Outside(limits=limits)
    source = Source(url=SecretStr(url))
    try:
        identity, _ = await identify(lambda: HttpExchange(source, limits, outside.gates), limits, ignore_events)
        return await fetch_file(outside, source, folder, identity)
    finally:
        pool_of(outside.gates).close()


def whole(path: Path) -> bool:
    with path.open("rb") as file:
        return all(file.read(len(block)) == block for block in FILM.blocks()) and not file.read(1)


def downloads(origin: Origin) -> list[Request]:
    return [request for request in origin.requests if not request.peek]


def test_a_limit_per_connection_is_met_with_more_of_them_and_never_with_too_many(tmp_path: Path) -> None:
    with Origin({"a.mp4": Resource(FILM, story="throttle 3M")}) as origin:
        got = anyio.run(fetch, origin.url("a.mp4"), tmp_path)
        asked = downloads(origin)
    assert whole(got.path)
    assert 3 <= len(asked) <= 12
    assert origin.most_at_once <= LIMITS.connections
    assert sum(request.bytes_sent for request in asked) < FILM.size * 1.25
    assert all("if-range" in request.headers for request in asked if request.range)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("resource", "limits"),
    [
        ({}, LIMITS.model_copy(update={"connections": 1})),
        ({"etag": None, "last_modified": False}, LIMITS),
        ({"accept_ranges": "none"}, LIMITS),
    ],
)
def test_one_connection_where_more_are_not_wanted_or_not_safe(
    resource: dict[str, str | None], limits: TransferSettings, tmp_path: Path
) -> None:
    with Origin({"a.mp4": Resource(FILM, story="throttle 6M", **resource)}) as origin:  # type: ignore[arg-type]
        got = anyio.run(fetch, origin.url("a.mp4"), tmp_path, limits)
        assert len(downloads(origin)) == 1
    assert whole(got.path)


@pytest.mark.parametrize(
    "story",
    [
        "throttle 4M, 503",
        pytest.param("throttle 4M, 429 retry-after 60", marks=pytest.mark.slow),
        pytest.param("throttle 4M, 403", marks=pytest.mark.slow),
        pytest.param("throttle 4M, ignore-range throttle 4M", marks=pytest.mark.slow),
        pytest.param("throttle 4M, wrong-range", marks=pytest.mark.slow),
    ],
)
def test_an_origin_that_refuses_a_second_connection_is_left_with_the_first(story: str, tmp_path: Path) -> None:
    with Origin({"a.mp4": Resource(FILM, story=story)}) as origin:
        got = anyio.run(fetch, origin.url("a.mp4"), tmp_path)
        asked = downloads(origin)
    assert whole(got.path)
    assert got.stats.retries == 0
    assert asked[0].bytes_sent >= FILM.size
    assert len(asked) <= 3


@pytest.mark.parametrize(
    "story",
    [
        "throttle 3M 5M drop",
        pytest.param("throttle 3M 5M cut", marks=pytest.mark.slow),
        pytest.param("throttle 3M, throttle 3M 1M stall, throttle 3M", marks=pytest.mark.slow),
        pytest.param("throttle 3M, drip 10K after 500K, throttle 3M", marks=pytest.mark.slow),
    ],
)
def test_what_happens_to_one_connection_costs_the_others_nothing(story: str, tmp_path: Path) -> None:
    with Origin({"a.mp4": Resource(FILM, story=story)}) as origin:
        got = anyio.run(fetch, origin.url("a.mp4"), tmp_path)
        asked = downloads(origin)
    assert whole(got.path)
    assert sum(request.bytes_sent for request in asked) < FILM.size * 1.5


def test_a_source_that_changes_between_two_connections_is_noticed_and_never_spliced(tmp_path: Path) -> None:
    changing = Resource(FILM, story="throttle 4M, change throttle 4M")
    with Origin({"a.mp4": changing}) as origin, pytest.raises(SourceChanged):
        anyio.run(fetch, origin.url("a.mp4"), tmp_path)
    assert_vouched_bytes_are_right(tmp_path)


def assert_vouched_bytes_are_right(folder: Path) -> list[list[int]]:
    spans: list[list[int]] = json.loads((folder / "source.journal").read_text())["received"]
    held = (folder / "source.part").read_bytes()
    for first, end in spans:
        assert held[first:end] == FILM.read(first, end - first)
    return spans


@pytest.mark.parametrize("after", [2.0, *(pytest.param(1.0 + n / 4, marks=pytest.mark.slow) for n in range(8))])
def test_a_killed_process_goes_on_with_every_piece_that_was_journaled(after: float, tmp_path: Path) -> None:
    limits = LIMITS.model_copy(update={"checkpoint_interval": LIMITS.stall_tick / 5})
    with Origin({"a.mp4": Resource(FILM, story="throttle 3M")}) as origin:
        pid = os.fork()
        if pid == 0:
            try:
                anyio.run(fetch, origin.url("a.mp4"), tmp_path, limits)
            finally:
                os._exit(0)
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        spans = assert_vouched_bytes_are_right(tmp_path)
        origin.tell("a.mp4", "ok")
        got = anyio.run(partial(fetch, origin.url("a.mp4"), tmp_path, limits))
    assert whole(got.path)
    assert got.stats.bytes_reused == sum(end - first for first, end in spans) > 0
    assert got.stats.bytes_received == FILM.size - got.stats.bytes_reused


def test_what_no_connection_can_bring_is_a_failure_after_a_bounded_number_of_requests(tmp_path: Path) -> None:
    with Origin({"a.mp4": Resource(FILM, story="throttle 4M 3M drop, 3M drop, 500")}) as origin:
        with pytest.raises(TidegateError):
            anyio.run(fetch, origin.url("a.mp4"), tmp_path)
        assert len(downloads(origin)) <= 8
    assert_vouched_bytes_are_right(tmp_path)

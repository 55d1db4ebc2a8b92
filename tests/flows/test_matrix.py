"""Every way in which an origin is known to misbehave, through the real command: whole and byte-identical, or the
failure that it really is, in bounded time and with no more requests than the policy table allows.

A few rows run always, all of them with the slow tests.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.aftermath import left_running
from tests.support.clips import bulk_clip, clip, padded
from tests.support.command import Command
from tests.support.origin import Origin, Resource

MIB = 1024 * 1024
SIZE = 6 * MIB
MOST_SECONDS = 90.0
"""Far beyond what any row takes; a hang is one of minutes."""


@dataclass(frozen=True)
class Row:
    """One fault, and how it must end. Requests are those that take a step of the story: no looks at head and tail."""

    title: str
    story: str
    requests: range
    failure: str | None = None
    """None: the file comes whole."""
    resource: dict[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    query: str = ""
    becomes: bool = False
    """Another film of the same size is what comes, and whole: nothing of the first is in it."""
    often: bool = False
    """Also in the quick suite."""


def at_most(count: int) -> range:
    return range(1, count + 1)


def exactly(count: int) -> range:
    return range(count, count + 1)


REPR = {"repr_digest": "sha-256"}
OLD = {"digest": "sha-256"}
DATED = {"etag": None}
BARE = {"etag": None, "last_modified": False}

ROWS = [
    Row("drops for ever at random offsets", "200K-4M drop", at_most(40), often=True),
    Row("drops before anything came, for ever", "0 drop", exactly(3), "connection_failed"),
    Row("drips after a fast start, once", "drip 200 after 1M, ok", exactly(2)),
    Row("drips for ever", "drip 200 after 100K", at_most(6), "stalled_transfer"),
    Row("stalls once", "1M stall, ok", exactly(2), often=True),
    Row("stalls for ever, each time", "0 stall", exactly(3), "stalled_transfer"),
    Row("cut though a length was announced", "1M cut, 2M cut, ok", exactly(3)),
    Row("cut without a length", "close-delimited 1M cut, ok", exactly(2)),
    Row("cut in the middle of chunks", "no-length cut 1M, ok", exactly(2)),
    Row("no length at all, and whole", "close-delimited", exactly(1)),
    Row("206 with the wrong Content-Range", "1M drop, wrong-range, ok", exactly(3)),
    Row("206 with the wrong Content-Range for ever, whole without ranges", "1M drop, wrong-range", at_most(4)),
    Row("Range ignored, dropped once at half", "3M drop, ignore-range", exactly(2), often=True),
    Row("no ranges, dropped once at half", "3M drop, ok", exactly(2), resource={"accept_ranges": "none"}),
    Row("changes after a drop, with equal size", "2M drop, change", exactly(3), becomes=True, often=True),
    Row("changes after a drop, a validator only", "2M drop, change", exactly(3), None, DATED, becomes=True),
    Row("changes after a drop, without a validator", "2M drop, change", at_most(4), None, BARE, becomes=True),
    Row("changes after a drop to what is no media", "2M drop, change", at_most(3), "not_media"),
    Row("changes twice", "2M drop, 2M drop change, change", at_most(5), becomes=True),
    Row("a login page after a drop", "2M drop, html", exactly(2), "not_media"),
    Row("416 although bytes are missing, once", "2M drop, 416, ok", at_most(3)),
    Row("drops without a validator", "2M drop, 1M drop, ok", exactly(3), resource=BARE),
    Row("If-Range answered with everything", "2M drop if-range-whole", at_most(6)),
    Row("a new ETag in each answer", "2M drop, 1M drop, ok", at_most(8), resource={"etag": "token"}),
    Row("a new ETag in each answer, and no date", "2M drop, ok", at_most(8), None, BARE | {"etag": "token"}),
    Row("weak ETag only", "2M drop, ok", exactly(2), resource={"etag": "weak", "last_modified": False}),
    Row("429 with Retry-After", "429 retry-after 2, ok", exactly(2), often=True),
    Row("429 with a date", "429 retry-after-date 2, ok", exactly(2)),
    Row("429 for a quarter of an hour", "429 retry-after 900", exactly(1), "throttled"),
    Row("429 with RateLimit", '429 header RateLimit="d";r=0;t=2, ok', exactly(2)),
    Row("503 once", "503, ok", exactly(2)),
    Row("503 with Retry-After", "503 retry-after 1, ok", exactly(2)),
    Row("500 for ever", "500", exactly(3), "server_error"),
    Row("500 on ranges only", "2M drop, 500 on-range", at_most(5), "server_error"),
    Row("500 on ranges, for a while", "2M drop, 500 on-range, 502 on-range, ok", exactly(4)),
    Row("a byte flipped once, though the digest tells", "flip 3M, ok", exactly(2), None, REPR),
    Row("a byte flipped for ever", "flip 3M", exactly(2), "wrong_digest", REPR, often=True),
    Row("a byte flipped once, told by the old Digest", "flip 3M, ok", exactly(2), None, OLD),
    Row("a byte flipped for ever, told by the old Digest", "flip 3M", exactly(2), "wrong_digest", OLD, often=True),
    Row("a byte flipped for ever, told by MD5", "flip 3M", exactly(2), "wrong_digest", {"digest": "md5"}),
    Row("a byte flipped once, told by Content-MD5", "flip 3M, ok", exactly(2), None, {"digest": "content-md5"}),
    Row("a Digest of each part", "2M drop, ok", exactly(2), None, {"digest": "of the part"}),
    Row("a byte flipped, told by the person", "flip 3M", exactly(2), "wrong_digest", words=("--sha256", "{sha256}")),
    Row("a login page instead of the film", "html", exactly(1), "not_media"),
    Row("gzip although identity was asked", "gzip", exactly(1), "unsupported_source"),
    Row("late headers, once", "late-headers 8s, ok", exactly(2)),
    Row("late headers, for ever", "late-headers 8s", exactly(3), "request_timeout"),
    Row("headers that drip", "drip-headers 20, ok", exactly(2)),
    Row("an expired link", "2M drop, 403", exactly(2), "expired_link", query="?Expires=1700000000&Signature=x"),
    Row("refused after a while, by no date", "2M drop, 403", exactly(2), "http_refused"),
    Row("404", "404", exactly(1), "not_found"),
    Row("403", "403", exactly(1), "http_refused"),
    Row("401", "401", exactly(1), "http_refused"),
    Row("410", "410", exactly(1), "not_found"),
    Row("408 once", "408, ok", exactly(2)),
    Row("redirects in a circle", "redirect-loop", exactly(11), "redirect_loop"),
    Row("redirects to a file", "redirect file:///etc/passwd", exactly(1), "redirect_loop"),
    Row("the same header twice", "repeat Content-Length", exactly(1)),
    Row("the same ETag twice", "2M drop repeat ETag, repeat ETag", exactly(2)),
    Row("two lengths that contradict each other", "header Content-Length=5", exactly(3), "connection_failed"),
    Row("two lengths, once", "header Content-Length=5, ok", exactly(2)),
    Row("two ranges that contradict each other", "2M drop, header Content-Range=bytes=0-1/2, ok", at_most(4)),
    Row("a limit per connection", "throttle 2M", at_most(4)),
]


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row.title, marks=() if row.often else pytest.mark.slow) for row in ROWS],
)
def test_whole_or_the_failure_that_it_is(row: Row, command: Command, clips: Path) -> None:
    film = bulk_clip(clips, SIZE)
    other = padded(clip(clips), film.stat().st_size) if row.becomes else None
    digest = hashlib.sha256((other or film).read_bytes()).hexdigest()
    with Origin({"film.mp4": Resource(film, story=row.story, replacement=other, **row.resource)}) as origin:
        words = [word.format(sha256=digest) for word in row.words]
        ended = command.run(origin.url("film.mp4") + row.query, *words, timeout=MOST_SECONDS)
        asked = [request for request in origin.requests if not request.peek]
        methods = {request.method for request in origin.requests}
    assert len(asked) in row.requests, [(one.range, one.status, one.ended) for one in asked]
    assert methods == {"GET"}, "what refuses HEAD refuses nothing that we ask"
    if row.failure is None:
        assert ended.code == 0, ended.stdout + ended.stderr
        assert_stored(command, film, digest)
    else:
        assert (ended.code == 0, ended.failure["type"]) == (False, row.failure)
        assert_nothing_wrong_is_left(command, film)
    assert left_running(command) == []


def test_a_redirect_to_another_host_brings_the_film_and_no_secret(command: Command, clips: Path) -> None:
    film = bulk_clip(clips, SIZE)
    with Origin({"film.mp4": Resource(film, story="2M drop, ok")}) as elsewhere:
        there = elsewhere.url("film.mp4").replace("127.0.0.1", "localhost")
        with Origin({"film.mp4": Resource(b"", story=f"always: redirect {there}")}) as origin:
            ended = command.run(origin.url("film.mp4"), "--header", "Authorization: Bearer hidden")
            here = origin.requests
    assert ended.code == 0, ended.stdout + ended.stderr
    assert_stored(command, film, hashlib.sha256(film.read_bytes()).hexdigest())
    assert all(request.headers["authorization"] == "Bearer hidden" for request in here)
    assert not any("authorization" in request.headers for request in elsewhere.requests)


@pytest.mark.slow
def test_a_complete_part_that_was_not_noted_as_complete_is_taken(command: Command, clips: Path) -> None:
    """The 416 on which other resumers fail for ever."""
    film = bulk_clip(clips, SIZE)
    with Origin({"film.mp4": Resource(film, story="2M drop, 500")}) as origin:
        assert command.run(origin.url("film.mp4")).failure["type"] == "server_error"
        complete_the_part(command, film)
        origin.tell("film.mp4", "ok")
        ended = command.run(origin.url("film.mp4"))
        last = [request for request in origin.requests if not request.peek][-1]
    assert ended.code == 0, ended.stdout + ended.stderr
    assert (last.status, last.range) == (416, f"bytes={film.stat().st_size}-")
    assert_stored(command, film, hashlib.sha256(film.read_bytes()).hexdigest())


def complete_the_part(command: Command, film: Path) -> None:
    """As after a crash between the last byte and the note that it was the last."""
    (part,) = (command.home / "tidegate" / "scratch").rglob("source.part")
    (journal,) = (command.home / "tidegate" / "scratch").rglob("source.journal")
    part.write_bytes(film.read_bytes())
    size = film.stat().st_size
    told = json.loads(journal.read_text()) | {"received_bytes": size, "received": [[0, size]]}
    journal.write_text(json.dumps(told))


def assert_stored(command: Command, film: Path, digest: str) -> None:
    """The store holds the film's very bytes."""
    stored = [path for path in (command.home / "tidegate" / "assets").rglob("source") if path.is_file()]
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in stored] == [digest]


def assert_nothing_wrong_is_left(command: Command, film: Path) -> None:
    """No asset; and what a later run would go on from is the film's."""
    assert not list((command.home / "tidegate" / "assets").rglob("source"))
    whole = film.read_bytes()
    for journal in (command.home / "tidegate" / "scratch").rglob("source.journal"):
        part = journal.with_suffix(".part").read_bytes()
        for first, end in json.loads(journal.read_text())["received"]:
            assert part[first:end] == whole[first:end]

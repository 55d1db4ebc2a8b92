"""The origin itself, over real sockets: what it does right, and that each fault is the fault it says.

Grouped by what a downloader sees. Nothing here sleeps to wait for a policy; the slow steps last a fraction of
a second.
"""

import base64
import gzip
import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.leaks import open_descriptors
from tests.support.origin import Content, Origin, Resource, Story, Synthetic

MIB = 1024 * 1024
CLIP = Synthetic(3 * MIB + 17, seed=7)
WHOLE = b"".join(CLIP.blocks())


@dataclass(frozen=True)
class Reply:
    """What a patient client ends up with, and whether the connection broke under it."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    broken: str = ""


def ask(
    origin: Origin,
    name: str = "clip.mp4",
    range: str | None = None,
    method: str = "GET",
    **headers: str,
) -> Reply:
    """One request on a connection of its own; `if_range="…"` becomes the header If-Range."""
    sent = {key.replace("_", "-"): value for key, value in headers.items()}
    connection = http.client.HTTPConnection(origin.host, origin.port, timeout=10)
    try:
        connection.request(method, f"/{name}", headers=sent | ({"Range": f"bytes={range}"} if range else {}))
        answer = connection.getresponse()
        body, broken = drain(answer)
        return Reply(answer.status, {key.lower(): value for key, value in answer.getheaders()}, body, broken)
    finally:
        connection.close()


def drain(answer: http.client.HTTPResponse) -> tuple[bytes, str]:
    """Read until the end or the break, keeping what came."""
    body = bytearray()
    try:
        while block := answer.read1(64 * 1024):
            body += block
    except (ConnectionResetError, http.client.IncompleteRead) as error:
        return bytes(body), type(error).__name__
    return bytes(body), ""


def telling(story: str, content: Content = CLIP) -> Origin:
    """An origin with one file and one story."""
    return Origin({"clip.mp4": Resource(content, story=story)})


# --- correct behaviour ----------------------------------------------------------------------------


def test_a_whole_file_arrives_with_its_description() -> None:
    with telling("ok") as origin:
        reply = ask(origin)
    assert (reply.status, reply.body) == (200, WHOLE)
    assert reply.headers["content-type"] == "video/mp4"
    assert reply.headers["accept-ranges"] == "bytes"
    assert reply.headers["content-length"] == str(CLIP.size)


@pytest.mark.parametrize(
    ("range", "first", "end"),
    [("0-0", 0, 1), ("5-9", 5, 10), ("3000000-", 3_000_000, CLIP.size), ("-17", CLIP.size - 17, CLIP.size)],
)
def test_a_range_is_answered_with_exactly_its_bytes(range: str, first: int, end: int) -> None:
    with telling("ok") as origin:
        reply = ask(origin, range=range)
    assert (reply.status, reply.body) == (206, WHOLE[first:end])
    assert reply.headers["content-range"] == f"bytes {first}-{end - 1}/{CLIP.size}"


def test_a_range_beyond_the_end_is_416_and_tells_the_size() -> None:
    with telling("ok") as origin:
        reply = ask(origin, range=f"{CLIP.size}-")
    assert (reply.status, reply.headers["content-range"]) == (416, f"bytes */{CLIP.size}")


def test_if_range_allows_a_part_only_to_who_holds_this_file() -> None:
    with telling("ok") as origin:
        known = ask(origin, method="HEAD").headers
        right = [ask(origin, range="9-", if_range=known[key]).status for key in ("etag", "last-modified")]
        wrong = [ask(origin, range="9-", if_range=text) for text in ('"other"', f"W/{known['etag']}")]
    assert right == [206, 206]
    assert [(reply.status, len(reply.body)) for reply in wrong] == [(200, CLIP.size)] * 2


def test_a_connection_serves_many_requests() -> None:
    with telling("ok", b"abc") as origin:
        connection = http.client.HTTPConnection(origin.host, origin.port)
        for _ in range(3):
            connection.request("GET", "/clip.mp4")
            assert connection.getresponse().read() == b"abc"
            assert connection.sock is not None
        connection.close()


def test_digest_headers_tell_the_digest_of_the_whole_file() -> None:
    with Origin({"clip.mp4": Resource(CLIP, repr_digest="sha-256", digest="sha-256")}) as origin:
        headers = ask(origin, range="5-9").headers
    expected = base64.b64encode(hashlib.sha256(WHOLE).digest()).decode()
    assert headers["repr-digest"] == f"sha-256=:{expected}:"
    assert headers["digest"] == f"SHA-256={expected}"


def test_validators_and_ranges_can_be_withheld() -> None:
    bare = Resource(CLIP, etag=None, last_modified=False, accept_ranges="none", content_type="x/y")
    with Origin({"clip.mp4": bare, "weak.mp4": Resource(CLIP, etag="weak")}) as origin:
        reply = ask(origin, range="9-")
        weak = ask(origin, "weak.mp4", method="HEAD").headers["etag"]
    assert (reply.status, reply.headers["content-type"], reply.headers["accept-ranges"]) == (
        200,
        "x/y",
        "none",
    )
    assert not {"etag", "last-modified"} & reply.headers.keys()
    assert weak.startswith('W/"')


def test_a_file_on_disk_is_served_and_a_missing_one_is_404(tmp_path: Path) -> None:
    (tmp_path / "a b.mkv").write_bytes(WHOLE)
    with Origin(root=tmp_path) as origin:
        reply = ask(origin, "a%20b.mkv", range="1000000-")
        (tmp_path / "a b.mkv").unlink()
        gone = [ask(origin, name).status for name in ("a%20b.mkv", "other.mkv", "../secret")]
        journal = origin.requests_for("a b.mkv")
    assert reply.body == WHOLE[1_000_000:]
    assert reply.headers["content-type"] == "video/x-matroska"
    assert gone == [404, 404, 404]
    assert [request.status for request in journal] == [206, 404]


def test_synthetic_bytes_are_the_same_from_any_offset_and_never_repeat() -> None:
    for offset in (0, 65_535, 3_100_000):
        assert CLIP.read(offset, 70_000) == WHOLE[offset : offset + 70_000]
    assert CLIP.read(CLIP.size, 10) == b""
    assert CLIP.sha256() == hashlib.sha256(WHOLE).hexdigest()
    stamps = [WHOLE[at : at + 16] for at in range(0, CLIP.size, CLIP.PAGE_BYTES)]
    assert len(set(stamps)) == len(stamps)


# --- stories --------------------------------------------------------------------------------------


def test_steps_go_by_in_order_and_the_last_repeats() -> None:
    with telling("503, 404, 500") as origin:
        assert [ask(origin).status for _ in range(5)] == [503, 404, 500, 500, 500]


def test_peeks_and_head_take_no_step_unless_the_story_says_so() -> None:
    def statuses(story: str) -> list[int]:
        with telling(story) as origin:
            peeks = [ask(origin, range=text).status for text in ("0-0", "0-1048575", "-1000")]
            return [ask(origin, method="HEAD").status, *peeks, ask(origin, range="0-").status]

    assert statuses("503") == [200, 206, 206, 206, 503]
    assert statuses("from-first: 503, 404, ok") == [200, 503, 404, 206, 206]
    assert statuses("always: 404") == [404] * 5


def test_a_bounded_range_over_one_mebibyte_is_no_peek() -> None:
    with telling("503, ok") as origin:
        assert ask(origin, range="0-1048576").status == 503
        assert [request.peek for request in origin.requests] == [False]


def test_a_pattern_gives_each_file_its_own_story() -> None:
    segments = {"1.ts": b"x", "2.ts": b"x", "list.m3u8": b"x"}
    with Origin(segments, stories={"*.ts": "503, ok"}) as origin:
        answers = [ask(origin, name).status for name in ("1.ts", "1.ts", "2.ts", "list.m3u8")]
    assert answers == [503, 200, 503, 200]


@pytest.mark.parametrize(
    ("story", "complaint"),
    [
        ("", "empty step"),
        ("ok,,ok", "empty step"),
        ("2M fall", "cannot read '2M fall'"),
        ("sometimes: ok", "unknown flag 'sometimes'"),
        ("2M drop 3M cut", "says after_bytes, ending twice"),
        ("throttle 0", "write `N stall`"),
        ("200", "cannot read '200'"),
        ("late-headers 2", "cannot read"),
    ],
)
def test_a_story_that_is_not_understood_is_refused(story: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Story.parse(story)


def test_sizes_and_times_are_read_with_their_units() -> None:
    step = Story.parse("2M stall 1.5s").steps[0]
    assert (step.after_bytes, step.stall_seconds) == (2 * MIB, 1.5)
    assert Story.parse("500 drop").steps[0].after_bytes == 500
    assert Story.parse("drip 200 after 64K").steps[0].rate_after_bytes == 65_536


# --- bodies that end badly ------------------------------------------------------------------------


def test_a_drop_delivers_its_bytes_and_resets() -> None:
    with telling("2M drop, ok") as origin:
        first, second = ask(origin, range="100-"), ask(origin)
        assert origin.bytes_sent("clip.mp4") == 2 * MIB + CLIP.size
    assert (first.broken, first.body) == ("ConnectionResetError", WHOLE[100 : 100 + 2 * MIB])
    assert second.body == WHOLE


def test_a_cut_delivers_its_bytes_and_closes_cleanly() -> None:
    with telling("64K cut") as origin:
        reply = ask(origin)
    assert (reply.broken, reply.body) == ("", WHOLE[: 64 * 1024])
    assert reply.headers["content-length"] == str(CLIP.size)


def test_a_short_stall_goes_on_afterwards() -> None:
    with telling("1M stall 200ms") as origin:
        started = time.monotonic()
        assert ask(origin).body == WHOLE
    assert time.monotonic() - started >= 0.2


def test_a_stall_without_end_ends_when_the_client_leaves() -> None:
    with telling("1M stall") as origin:
        client = raw_request(origin)
        read_until_silent(client)
        assert origin.requests[0].ended == ""
        client.close()
        origin.wait_for(lambda o: o.requests[0].ended == "client-gone")
        assert origin.bytes_sent("clip.mp4") == MIB


def test_stopping_ends_stalls_and_leaves_no_thread_and_no_socket() -> None:
    threads, descriptors = threading.active_count(), open_descriptors()
    with telling("0 stall") as origin:
        clients = [raw_request(origin) for _ in range(5)]
        origin.wait_for(lambda o: len(o.requests) == 5)
    for client in clients:
        client.close()
    assert threading.active_count() == threads
    assert open_descriptors() == descriptors


def test_an_origin_can_come_back_on_its_port() -> None:
    origin = telling("ok", b"abc").start()
    port = origin.port
    origin.stop()
    with pytest.raises(ConnectionRefusedError):
        ask(origin)
    with origin:
        assert (origin.port, ask(origin).body) == (port, b"abc")


def test_chunks_without_the_last_one_are_incomplete() -> None:
    with telling("no-length, no-length cut 1M") as origin:
        whole, torn = ask(origin), ask(origin)
    assert "content-length" not in whole.headers
    assert (whole.broken, whole.body) == ("", WHOLE)
    assert (torn.broken, torn.body) == ("IncompleteRead", WHOLE[:MIB])


def test_all_chunks_but_the_last_are_still_incomplete() -> None:
    with telling(f"no-length cut {CLIP.size}") as origin:
        reply = ask(origin)
    assert (reply.broken, reply.body) == ("IncompleteRead", WHOLE)


def test_a_body_may_end_with_its_connection() -> None:
    with telling("close-delimited") as origin:
        reply = ask(origin)
    assert reply.body == WHOLE
    assert not {"content-length", "transfer-encoding"} & reply.headers.keys()


# --- pace -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("story", ["throttle 10M", "drip 10M after 0"])
def test_a_throttle_keeps_its_rate(story: str) -> None:
    with telling(story) as origin:
        started = time.monotonic()
        assert ask(origin).body == WHOLE
    assert 0.2 < time.monotonic() - started < 2


def test_a_drip_is_fast_first_and_slow_then() -> None:
    with telling("drip 200 after 1M") as origin:
        client = raw_request(origin)
        origin.wait_for(lambda o: o.bytes_sent("clip.mp4") > MIB + 50)
        assert origin.bytes_sent("clip.mp4") < MIB + 200
        client.close()


def test_a_throttle_and_a_drop_combine() -> None:
    with telling("throttle 10M 1M drop") as origin:
        reply = ask(origin)
    assert (reply.broken, len(reply.body)) == ("ConnectionResetError", MIB)


def test_late_and_dripping_headers_are_late() -> None:
    with telling("late-headers 200ms, drip-headers 2000", b"abc") as origin:
        for _ in range(2):
            started = time.monotonic()
            assert ask(origin).body == b"abc"
            assert time.monotonic() - started > 0.1


# --- wrong answers --------------------------------------------------------------------------------


def test_a_throttled_client_is_told_when_to_come_back() -> None:
    with telling("429 retry-after 2, 503 retry-after-date 2, 416") as origin:
        first, second, third = ask(origin), ask(origin), ask(origin)
    assert (first.status, first.headers["retry-after"]) == (429, "2")
    assert (second.status, second.headers["retry-after"][-3:]) == (503, "GMT")
    assert (third.status, third.headers["content-range"]) == (416, f"bytes */{CLIP.size}")


def test_redirects_lead_on_or_in_a_circle() -> None:
    with telling("redirect /other.mp4, redirect-loop") as origin:
        moved, circle = ask(origin), ask(origin, "clip.mp4?hop=4")
    assert (moved.status, moved.headers["location"]) == (302, "/other.mp4")
    assert (circle.status, circle.headers["location"]) == (302, "/clip.mp4?hop=5")


def test_a_login_page_and_an_empty_body_are_200() -> None:
    with telling("html, empty") as origin:
        page, empty = ask(origin), ask(origin)
    assert (page.status, page.headers["content-type"][:9]) == (200, "text/html")
    assert (empty.status, empty.headers["content-length"], empty.body) == (200, "0", b"")


def test_a_range_can_be_ignored_or_answered_with_another() -> None:
    with telling("ignore-range, wrong-range") as origin:
        ignored, wrong = ask(origin, range="2000000-"), ask(origin, range="2000000-")
    assert (ignored.status, ignored.body) == (200, WHOLE)
    assert wrong.status == 206
    assert wrong.headers["content-range"].startswith("bytes 1999000-")
    assert wrong.body == WHOLE[1_999_000:]


def test_a_change_stays_and_changes_validators_and_bytes_but_not_the_size() -> None:
    with telling("1M drop, change, ok") as origin:
        before, after, later = ask(origin), ask(origin), ask(origin)
        origin.change("clip.mp4")
        again = ask(origin)
    assert len({before.headers["etag"], after.headers["etag"], again.headers["etag"]}) == 3
    assert before.headers["last-modified"] != after.headers["last-modified"]
    assert len(after.body) == CLIP.size and after.body[:MIB] != before.body
    assert later.body == after.body != again.body


def test_a_change_as_the_last_step_happens_once() -> None:
    with telling("change") as origin:
        assert ask(origin).headers["etag"] == ask(origin).headers["etag"]


def test_a_flipped_byte_is_one_byte_and_the_digest_tells() -> None:
    with Origin({"clip.mp4": Resource(CLIP, story="flip 2M", repr_digest="sha-256")}) as origin:
        reply, beside = ask(origin, range="1000000-"), ask(origin, range="2500000-")
    differing = [at for at, (a, b) in enumerate(zip(reply.body, WHOLE[1_000_000:], strict=True)) if a != b]
    assert differing == [2 * MIB - 1_000_000]
    assert beside.body == WHOLE[2_500_000:]
    assert base64.b64decode(reply.headers["repr-digest"][9:-1]) == bytes.fromhex(CLIP.sha256())


def test_a_body_can_be_compressed_though_identity_was_asked() -> None:
    with telling("gzip") as origin:
        reply = ask(origin, range="2000000-", accept_encoding="identity")
    assert (reply.status, reply.headers["content-encoding"]) == (200, "gzip")
    assert gzip.decompress(reply.body) == WHOLE


# --- the journal, the process, the speed ----------------------------------------------------------


def test_the_journal_tells_what_was_asked_and_sent() -> None:
    with telling("1M cut") as origin:
        ask(origin, range="0-0")
        ask(origin, "clip.mp4?token=1", range="5-", if_range='"x"')
        origin.wait_for(lambda o: all(request.ended for request in o.requests))
        peek, asked = origin.requests
    assert (peek.peek, peek.bytes_sent, peek.step, peek.ended) == (True, 1, "ok", "complete")
    assert (asked.status, asked.bytes_sent, asked.step, asked.ended) == (200, MIB, "1M cut", "cut")
    assert (asked.name, asked.query, asked.headers["if-range"]) == ("clip.mp4", "token=1", '"x"')
    assert peek.at <= asked.at <= time.time()


def test_the_process_serves_journals_and_stops(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(WHOLE)
    journal = tmp_path / "journal.jsonl"
    command = ["--root", str(tmp_path), "--story", "clip.mp4=1M drop, ok", "--journal", str(journal)]
    command += ["--synthetic", "big.bin=2M:5", "--repr-digest", "big.bin", "--etag", "big.bin=none"]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.origin", *command],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        origin = Origin(port=int(address.rpartition(":")[2]))
        assert ask(origin).broken == "ConnectionResetError"
        assert ask(origin).body == WHOLE
        big = ask(origin, "big.bin")
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
        assert process.stdout.read() == ""
    assert "repr-digest" in big.headers and "etag" not in big.headers
    assert big.body == Synthetic(2 * MIB, 5).read(0, 2 * MIB)
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    # Each is written when its own thread is done with it.
    ended = [(line["bytes_sent"], line["ended"]) for line in lines[:2]]
    assert sorted(ended) == [(MIB, "drop"), (CLIP.size, "complete")]


def test_a_large_file_costs_the_origin_little(tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    large.touch()
    os.truncate(large, 256 * MIB)
    with Origin({"file": large, "synthetic": Synthetic(256 * MIB)}) as origin:
        for name in ("file", "synthetic"):
            assert megabytes_per_second(origin, name) > 100, "what a test asks of it at most"


def megabytes_per_second(origin: Origin, name: str) -> float:
    """Read a file to nowhere; processor time of both sides counts, so that a busy machine does not."""
    connection = http.client.HTTPConnection(origin.host, origin.port)
    started, buffer, size = time.process_time(), bytearray(MIB), 0
    connection.request("GET", f"/{name}")
    answer = connection.getresponse()
    while count := answer.readinto(buffer):
        size += count
    connection.close()
    assert size == 256 * MIB
    return size / (time.process_time() - started) / 1e6


def raw_request(origin: Origin) -> socket.socket:
    """A client that has asked for the clip and not read a byte."""
    client = socket.create_connection((origin.host, origin.port))
    client.sendall(b"GET /clip.mp4 HTTP/1.1\r\nHost: x\r\n\r\n")
    return client


def read_until_silent(client: socket.socket) -> bytes:
    """All that comes until 0.2 s pass without a byte."""
    client.settimeout(0.2)
    body = bytearray()
    try:
        while block := client.recv(64 * 1024):
            body += block
    except TimeoutError:
        return bytes(body)
    raise AssertionError("the origin closed")


def test_a_fault_can_be_meant_for_ranges_only() -> None:
    with telling("500 on-range") as origin:
        assert [ask(origin).status, ask(origin, range="9-").status] == [200, 500]


def test_if_range_can_be_answered_with_everything_though_nothing_changed() -> None:
    with telling("if-range-whole") as origin:
        etag = ask(origin, method="HEAD").headers["etag"]
        assert [ask(origin, range="9-").status, ask(origin, range="9-", if_range=etag).status] == [206, 200]


def test_an_etag_can_be_another_one_in_each_answer() -> None:
    with Origin({"clip.mp4": Resource(CLIP, etag="token")}) as origin:
        assert len({ask(origin, method="HEAD").headers["etag"] for _ in range(3)}) == 3


def test_a_connection_that_its_client_has_closed_is_not_counted_though_its_thread_has_not_heard() -> None:
    with telling("1K stall") as origin:
        for number in range(1, 4):
            with socket.create_connection((origin.host, origin.port)) as connection:
                connection.sendall(b"GET /clip.mp4 HTTP/1.1\r\nHost: o\r\n\r\n")
                origin.wait_for(lambda one: len(one.requests) == number, timeout_seconds=60)  # noqa: B023
        assert (origin.accepted, origin.most_at_once) == (3, 1)


def test_connections_can_be_dropped_at_another_place_each_time() -> None:
    with telling("100K-900K drop") as origin:
        sizes = [len(ask(origin).body) for _ in range(4)]
    assert len(set(sizes)) > 1
    assert all(100 * 1024 <= size <= 900 * 1024 for size in sizes)


@pytest.mark.parametrize(
    ("story", "lines"), [("repeat ETag", 2), ('header ETag="other"', 2), ("header X-More=1", 1), ("ok", 1)]
)
def test_headers_can_be_there_twice(story: str, lines: int) -> None:
    with telling(story) as origin, socket.create_connection((origin.host, origin.port)) as connection:
        connection.sendall(b"GET /clip.mp4 HTTP/1.1\r\nHost: o\r\nConnection: close\r\n\r\n")
        text = connection.recv(4096).partition(b"\r\n\r\n")[0].lower()
    assert text.count(b"\r\netag:") == lines
    assert (b"x-more: 1" in text) == ("X-More" in story)

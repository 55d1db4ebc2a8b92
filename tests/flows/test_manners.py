"""How an origin is asked, seen from the origin through the real command.

As often as the preset says, no faster than its rate, not before the time that it named; one whose answers come
too late is given a rest, and one that sends a bomb is not unpacked.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.aftermath import end_of, failure_told
from tests.support.command import Command
from tests.support.ladders import cut, hls_text, name_segments
from tests.support.origin import Origin, Resource
from tests.transfer.scripted import Scripted, head

slow = pytest.mark.slow
MB = 10**6


@pytest.mark.parametrize(
    ("network", "tries"),
    [pytest.param("fast", 2, marks=slow), pytest.param("normal", 3, marks=slow), ("slow", 5)],
)
def test_a_preset_says_how_often_is_tried(network: str, tries: int, command: Command) -> None:
    command.environment["TIDEGATE_NETWORK"] = network
    with Origin({"film.mp4": Resource(b"", story="from-first: 503")}) as origin:
        failure_told(command.run(origin.url("film.mp4")), code=1, kind="server_error")
        assert len(origin.requests) == tries


@slow
def test_a_preset_says_how_long_an_answer_may_take(command: Command) -> None:
    """`fast` waits 10 s for headers; what is set on its own, as tests do, would go before it."""
    command.limits.clear()
    command.environment["TIDEGATE_NETWORK"] = "fast"
    with Origin({"film.mp4": Resource(b"", story="from-first: late-headers 14s")}) as origin:
        told = failure_told(command.run(origin.url("film.mp4")), code=1, kind="request_timeout")
        assert len(origin.requests) == 2
    assert "No answer within 10 s" in told["message"]


@slow
@pytest.mark.parametrize(
    ("name", "value", "least_seconds"), [("REQUESTS_PER_SECOND", "4", 0.25), ("SPACING", "0.4", 0.4)]
)
def test_requests_to_an_origin_keep_their_distance(
    name: str, value: str, least_seconds: float, command: Command, clips: Path
) -> None:
    command.environment[f"TIDEGATE_GATE_{name}"] = value
    files = name_segments(cut(clips), "s{}.ts")
    with Origin(files | {"list.m3u8": hls_text(files)}) as origin:
        ended = command.run(origin.url("list.m3u8"), "--until", "download")
        assert ended.code == 0, ended.stderr
        begun = sorted(request.at for request in origin.requests)
    assert len(begun) > len(files)
    # When a request begins is not when it arrives: some of the distance may get lost, never much of all of it.
    assert begun[-1] - begun[0] >= 0.9 * least_seconds * (len(begun) - 1)
    assert min(after - before for before, after in pairwise(begun)) > least_seconds / 3


@slow
@pytest.mark.parametrize("what", ["list.m3u8", "s2.ts"])
def test_the_time_that_a_rate_limit_names_is_waited_for(what: str, command: Command, clips: Path) -> None:
    files = name_segments(cut(clips, seconds=4), "s{}.ts")
    refusal = "from-first: 429 header RateLimit=default;r=0;t=3, ok"
    with Origin(files | {"list.m3u8": hls_text(files)}, stories={what: refusal}) as origin:
        ended = command.run(origin.url("list.m3u8"), "--until", "download")
        assert ended.code == 0, ended.stderr
        refused, again = origin.requests_for(what)[:2]
    assert (refused.status, again.status) == (429, 200)
    assert 2.9 <= again.at - refused.at < 30


@slow
def test_an_origin_whose_answers_come_too_late_is_given_a_rest(command: Command, clips: Path) -> None:
    """Each answer is good, and for a film of an hour they would add up to a day."""
    command.environment |= {
        "TIDEGATE_GATE_SLOW_AFTER": "0.3",
        "TIDEGATE_GATE_SLOW_RATE": "0.5",
        "TIDEGATE_GATE_LEAST_CALLS": "4",
        "TIDEGATE_GATE_CONNECTIONS_PER_ORIGIN": "2",
        "TIDEGATE_GATE_OPEN_FOR": "5",
        "TIDEGATE_GATE_POLL": "0.2",
    }
    files = name_segments(cut(clips, seconds=14), "s{}.ts")
    late = dict.fromkeys(list(files)[:8], "from-first: late-headers 0.6s, ok")
    with Origin(files | {"list.m3u8": hls_text(files)}, stories=late) as origin:
        ended = command.run(origin.url("list.m3u8"), "--until", "download")
        assert ended.code == 0, ended.stderr
        begun = sorted(request.at for request in origin.requests)
    assert max(after - before for before, after in pairwise(begun)) > 4, "it was left alone"
    assert "or more of its calls took over 0.3 s" in ended.stderr


@slow
@pytest.mark.parametrize(("what", "kind"), [("a playlist", "limit_reached"), ("a segment", "segment_gap")])
def test_a_bomb_is_refused_before_it_is_in_memory_or_on_disk(
    what: str, kind: str, command: Command, clips: Path
) -> None:
    """A quarter of a megabyte that unpacks to 256."""
    command.environment["TIDEGATE_TRANSFER_SEGMENT_BYTES"] = str(64 * MB)
    beginning = hls_text(["s0.ts"], ended=False) if what == "a playlist" else cut(clips).segments[0]
    packed = gzip.compress(beginning + bytes(256 * MB), 1)

    def script(asked: dict[str, str]) -> Iterator[bytes]:
        yield head(200, {"Content-Type": "video/mp2t", "Content-Encoding": "gzip", "Content-Length": str(len(packed))})
        yield packed

    with (
        Scripted(script) as bomb,
        Origin({"list.m3u8": hls_text([bomb.url("s0.ts")])}) as origin,
        command.started(bomb.url("list.m3u8") if what == "a playlist" else origin.url("list.m3u8")) as process,
    ):
        peak_mb = peak_until_end(process)
        ended = end_of(process)
    failure_told(ended, code=1, kind=kind)
    assert peak_mb < 400
    assert [path for path in command.home.rglob("*") if path.is_file() and path.stat().st_size > 10 * MB] == []


def peak_until_end(process: subprocess.Popen[str]) -> float:
    """The most resident memory that a process had, in MB."""
    peak_kib = 0
    while process.poll() is None:
        with contextlib.suppress(OSError):
            told = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            peak_kib = max(peak_kib, int(told[1]) if told else 0)
        time.sleep(0.05)
    return peak_kib * 1024 / MB

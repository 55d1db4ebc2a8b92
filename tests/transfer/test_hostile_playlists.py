"""Whatever a playlist says, reading it costs a child and never us: it ends typed and bounded, and our loop goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.support.hostile import HLS, MEMORY, SMALL, TIME
from tests.support.renditions import real_tools
from tidegate.errors import Evidence, MemoryExhausted, NotMedia, ProcessTimeout, TidegateError, UnsupportedSource
from tidegate.settings import TransferSettings
from tidegate.transfer import parsing
from tidegate.transfer.outside import Outside
from tidegate.transfer.parsing import parse_dash, parse_hls, parse_metalink
from tidegate.transfer.playlists import written
from tidegate.transfer.playlists.hls import MediaPlaylist
from tidegate.transfer.playlists.media import LONGEST_LINK
from tidegate.transfer.playlists.metalink import Metalink

URL = "http://127.0.0.1:1/films/list.m3u8?token=abc"
PLAIN = HLS + b"#EXTINF:4,\na.ts\n#EXT-X-ENDLIST\n"


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "_CACHE", parsing._Cache())


def outside(**limits: Any) -> Outside:
    return Outside(TransferSettings(**limits), run_tool=real_tools())


async def parsed(made: Outside, name: str, text: bytes) -> object:
    return await (parse_dash if name.endswith(".mpd") else parse_hls)(made, text, URL)


def failure_of(text: bytes, name: str = "list.m3u8", **limits: Any) -> TidegateError:
    with pytest.raises(TidegateError) as caught:
        anyio.run(parsed, outside(**limits), name, text)
    assert "token=abc" not in str(caught.value.evidence)
    return caught.value


ONLY_ON_THE_WAY = ("itself.m3u8", "nul.m3u8", "an-open-quote.m3u8")
"""The text alone does no harm."""
LONG = ("many-tracks.mpd",)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in SMALL if name not in ONLY_ON_THE_WAY],
)
def test_each_ends_in_the_failure_that_it_is(name: str) -> None:
    failure = failure_of(SMALL[name].text, name)
    assert failure.type in SMALL[name].failures, failure
    assert 20 < len(failure.message) < 300


def test_a_text_that_needs_more_memory_than_it_may_is_told_so() -> None:
    failure = failure_of(MEMORY.text, "list.mpd", playlist_memory=32_000_000)
    assert isinstance(failure, MemoryExhausted) and "32 MB" in failure.message
    assert "TIDEGATE_TRANSFER_PLAYLIST_MEMORY" in failure.hint


def test_the_loop_goes_on_while_a_text_takes_longer_than_it_may() -> None:
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await anyio.sleep(0.005)
            beats += 1

    async def work() -> TidegateError:
        async with anyio.create_task_group() as group:
            group.start_soon(beat)
            try:
                await parsed(outside(playlist_timeout=1), "list.mpd", TIME.text)
            except TidegateError as error:
                return error
            finally:
                group.cancel_scope.cancel()
        raise AssertionError("it was read")

    failure = anyio.run(work)
    assert isinstance(failure, ProcessTimeout) and "1 s" in failure.message
    assert "TIDEGATE_TRANSFER_PLAYLIST_TIMEOUT" in failure.hint
    assert beats > 20, "a second of processor time is two hundred beats on a free machine"


@pytest.mark.parametrize("characters", [2_200, 16_000])
def test_a_link_with_a_long_token_is_a_link(characters: int) -> None:
    """Others have lost whole playlists to a limit of 2,084 characters."""
    link = f"http://127.0.0.1/a.ts?jwt={'a' * characters}"
    text = HLS + b"#EXTINF:4,\n" + link.encode() + b"\n#EXT-X-ENDLIST\n"
    read = anyio.run(parse_hls, outside(), text, URL)
    assert isinstance(read, MediaPlaylist) and read.segments[0].resource.url == link


def test_the_same_bytes_from_the_same_address_are_read_once() -> None:
    made, started = _counting()
    first = anyio.run(parse_hls, made, PLAIN, URL)
    assert anyio.run(parse_hls, made, PLAIN, URL) is first
    assert len(started) == 1
    anyio.run(parse_hls, made, PLAIN, URL + "&other")
    anyio.run(parse_hls, made, PLAIN + b"\n", URL)
    assert len(started) == 3


def test_what_is_kept_of_them_is_bounded() -> None:
    kept = parsing._Cache()
    for number in range(40):
        kept.keep(("hls", str(number), b""), Metalink())
    assert [number for number in range(40) if kept.get(("hls", str(number), b""))] == list(range(24, 40))


def test_a_metalink_of_another_encoding_explodes_no_more_than_any() -> None:
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 9))
    text = f'<?xml version="1.0" encoding="utf-16"?><!DOCTYPE m [<!ENTITY l0 "http://h/">{entities}]>'
    body = f"{text}<metalink><file><url>&l8;</url></file></metalink>"
    for encoding in ("utf-16", "utf-8"):
        told = body.replace("utf-16", encoding).encode(encoding)
        assert anyio.run(parse_metalink, outside(playlist_memory=100_000_000), told) == Metalink()
    plain = b'<metalink><file><url priority="2">http://h/a</url><size>5</size></file></metalink>'
    assert anyio.run(parse_metalink, outside(), plain) == Metalink({"http://h/a": 2}, frozenset(), 5)


# --- a child that lies ----------------------------------------------------------------------------

SEGMENT = [0, 1.0, 0.0, 0, None, False, "http://h/a.ts"]
MEDIA = {"media": {"ended": True, "target": 4.0, "growing": False}}
FACTS = {"height": None, "width": None, "bandwidth_bps": None, "codecs": None}
VARIANT = {**FACTS, "id": "v", "urls": ["http://h/v"], "average_bps": None, "audio": None, "subtitles": None}
DONE = {"end": True}


def segment(place: int, value: object) -> dict[str, Any]:
    return {"segments": [[*SEGMENT[:place], value, *SEGMENT[place + 1 :]]]}


LIES: dict[str, list[Any]] = {
    "nothing": [],
    "no end": [MEDIA, segment(0, 0)],
    "no beginning": [segment(0, 0), DONE],
    "two beginnings": [MEDIA, {"master": {}}, segment(0, 0), DONE],
    "more after the end": [MEDIA, segment(0, 0), DONE, segment(0, 1)],
    "another kind": [{"metalink": {"size": 1, "digests": []}}, DONE],
    "a list": [[1, 2]],
    "an unknown word": [MEDIA, {"execute": "x"}, DONE],
    "a method of ours": [{"take": {}}, DONE],
    "a file": [MEDIA, segment(6, "file:///etc/passwd"), DONE],
    "a long link": [MEDIA, segment(6, "http://h/" + "a" * LONGEST_LINK), DONE],
    "a number that is a text": [MEDIA, segment(0, "0"), DONE],
    "a number that is a truth": [MEDIA, segment(0, True), DONE],
    "a negative number": [MEDIA, segment(0, -1), DONE],
    "a number without end": [MEDIA, segment(0, 10**300), DONE],
    "no duration": [MEDIA, segment(1, float("nan")), DONE],
    "an endless duration": [MEDIA, segment(1, float("inf")), DONE],
    "an init section that was not told": [MEDIA, segment(4, 3), DONE],
    "a way out of the folder": [{"master": {}}, {"variant": {**VARIANT, "id": "../../x"}}, DONE],
    "two of one name": [{"master": {}}, {"variant": VARIANT}, {"variant": VARIANT}, DONE],
    "a name of a megabyte": [{"master": {}}, {"variant": {**VARIANT, "codecs": "a" * 1_000_000}}, DONE],
}


@pytest.mark.parametrize("lie", LIES)
def test_no_word_of_the_child_is_believed_that_no_reader_says(lie: str) -> None:
    lines = [f".{json.dumps(message)}|" for message in LIES[lie]]
    failure = _said(*lines)
    assert isinstance(failure, NotMedia) and "its reader gave an answer" in failure.message


@pytest.mark.parametrize("line", ["", ".", "x{}|", ".{}", ".{|", ".[" * 100_000 + "|", ".NaN|"])
def test_a_line_that_is_none_is_not_taken(line: str) -> None:
    assert isinstance(_said(line), NotMedia)


def test_an_answer_without_end_ends_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = ["+" + "a" * 1_000_000 + "|"] * 40
    assert isinstance(_said(*endless), UnsupportedSource)
    monkeypatch.setattr(written, "MOST_LISTED", 1000)
    started: list[str] = []

    def lines() -> Any:
        for number in range(100):
            started.append("")
            yield "." + json.dumps({"segments": [[number * 64 + place, *SEGMENT[1:]] for place in range(64)]}) + "|"

    assert isinstance(_said(f".{json.dumps(MEDIA)}|", *[]), NotMedia)
    assert isinstance(_said_by(lines), NotMedia)
    assert len(started) == 16, "more segments than a playlist may have"


def test_a_child_that_crashes_says_nothing_of_our_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crashing = tmp_path / "crash.py"
    crashing.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr(parsing, "_CHILD", crashing)
    failure = failure_of(PLAIN)
    assert isinstance(failure, NotMedia) and f"signal {int(signal.SIGSEGV)}" in failure.message
    crashing.write_text("raise SystemExit('https://h/?token=abc')")
    assert failure_of(PLAIN).type == "unknown"


def test_the_child_has_its_limits_although_nobody_watches(tmp_path: Path) -> None:
    """The kernel holds it to them, also where supervision is off and the parent sleeps."""
    request = tmp_path / "request"
    argv = [sys.executable, "-I", str(parsing._CHILD), "dash", str(request)]
    head = {"url": URL, "memory_bytes": 32_000_000, "cpu_seconds": 60}
    request.write_bytes(json.dumps(head).encode() + b"\n" + MEMORY.text)
    done = subprocess.run(argv, capture_output=True, check=False)
    assert done.stdout.startswith(b'.{"refused":["memory"') and not request.exists()
    request.write_bytes(json.dumps(head | {"memory_bytes": 2**32, "cpu_seconds": 1}).encode() + b"\n" + TIME.text)
    done = subprocess.run(argv, capture_output=True, check=False)
    assert done.returncode == -signal.SIGXCPU


# --- pretended children ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ended:
    exit_code: int = 0
    seconds: float = 0.0
    evidence: Evidence = field(default_factory=Evidence)


def _said_by(lines: Callable[[], Any]) -> TidegateError:
    async def run_tool(*, on_stdout: Callable[[str], None], **_: object) -> _Ended:
        for line in lines():
            on_stdout(line)
        return _Ended()

    with pytest.raises(TidegateError) as caught:
        anyio.run(parse_hls, Outside(TransferSettings(), run_tool=run_tool), PLAIN, URL)  # type: ignore[arg-type]
    return caught.value


def _said(*lines: str) -> TidegateError:
    return _said_by(lambda: lines)


def _counting() -> tuple[Outside, list[str]]:
    real, started = real_tools(), []

    async def run_tool(**job: Any) -> Any:
        started.append(job["name"])
        return await real(**job)

    return Outside(TransferSettings(), run_tool=run_tool), started

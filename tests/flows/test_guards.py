"""Guards around what comes from outside, each tripped through the real command: where a playlist may lead, how often a
segment is asked for, how much is taken, what a name may be. One of each kind runs always, all with the slow tests.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.aftermath import failure_told, left_running
from tests.support.clips import clip
from tests.support.command import Command
from tests.support.ladders import cut, hls_text, ladder, name_segments
from tests.support.origin import Origin, Resource
from tests.transfer.scripted import Scripted, head

slow = pytest.mark.slow
MIB = 1024 * 1024


def playlist(*lines: str) -> bytes:
    return "\n".join(["#EXTM3U", "#EXT-X-VERSION:7", "#EXT-X-TARGETDURATION:2", *lines, "#EXT-X-ENDLIST", ""]).encode()


FORBIDDEN = {
    "a segment": playlist("#EXTINF:1,", "{there}"),
    "a key": playlist('#EXT-X-KEY:METHOD=AES-128,URI="{there}"', "#EXTINF:1,", "s0.ts"),
    "an init section": playlist('#EXT-X-MAP:URI="{there}"', "#EXTINF:1,", "s0.ts"),
    "a rendition": ladder({"{there}": "320x240@900000"}),
}


@pytest.mark.parametrize(
    ("what", "there"),
    [
        pytest.param("a segment", "file:///etc/passwd"),
        *(pytest.param(what, "file:///etc/passwd", marks=slow) for what in FORBIDDEN if what != "a segment"),
        pytest.param("a segment", "ftp://127.0.0.1/s0.ts", marks=slow),
        pytest.param("a segment", "data:video/mp2t;base64,AAAA", marks=slow),
        pytest.param("a segment", "concat:/etc/passwd|/etc/hostname", marks=slow),
    ],
)
def test_a_playlist_leads_to_http_only(what: str, there: str, command: Command, clips: Path) -> None:
    text = FORBIDDEN[what].replace(b"{there}", there.encode())
    files = {"list.m3u8": text, "s0.ts": cut(clips).segments[0]}
    with Origin(files) as origin:  # type: ignore[arg-type]
        ended = command.run(origin.url("list.m3u8"))
        assert {request.name for request in origin.requests} <= {"list.m3u8", "s0.ts"}
    failure_told(ended, code=1, kind="unsupported_source")
    assert "root:" not in ended.stdout + ended.stderr
    assert command.published() == [] or not list(command.output.rglob("*.mp4"))


@pytest.mark.parametrize(
    ("story", "tries"),
    [
        ("500", 3),
        pytest.param("html", 3, marks=slow),
        pytest.param("10K drop", 3, marks=slow),
        pytest.param("10K cut", 3, marks=slow),
        pytest.param("0 stall", 3, marks=slow),
        pytest.param("404", 1, marks=slow),
    ],
)
def test_a_segment_is_asked_for_in_one_layer_only(story: str, tries: int, command: Command, clips: Path) -> None:
    """Segments, transfer, task and flow can each retry; the origin counts what comes of it. FIELD-NOTES: others deliver
    the film without that segment, and say nothing."""
    command.environment["TIDEGATE_TRANSFER_BACKOFF_BASE"] = "0.05"
    files = name_segments(cut(clips, seconds=4), "s{}.ts")
    with Origin(files | {"list.m3u8": hls_text(files)}, stories={"s2.ts": story}) as origin:
        ended = command.run(origin.url("list.m3u8"))
        assert len(origin.requests_for("s2.ts")) == tries
        assert all(len(origin.requests_for(name)) <= 2 for name in files if name != "s2.ts"), "a look, and its bytes"
    failure_told(ended, code=1, kind="segment_gap")
    assert left_running(command) == []


@pytest.mark.parametrize(
    ("story", "failure", "requests"),
    [
        pytest.param("from-first: 503", "server_error", 3, marks=slow),
        # Here the head of the first answer says what it is; three tries for its bytes follow.
        pytest.param("from-first: 0 drop", "connection_failed", 4, marks=slow),
        pytest.param("from-first: 0 stall", "stalled_transfer", 4, marks=slow),
        pytest.param("from-first: late-headers 8s", "request_timeout", 3, marks=slow),
    ],
)
def test_a_source_that_gives_nothing_is_asked_in_one_layer_only(
    story: str, failure: str, requests: int, command: Command, clips: Path
) -> None:
    with Origin({"film.mp4": Resource(clip(clips), story=story)}) as origin:
        ended = command.run(origin.url("film.mp4"))
        assert len(origin.requests) == requests
    failure_told(ended, code=1, kind=failure)


@slow
def test_headers_of_a_playlist_go_to_its_own_origin_only(command: Command, clips: Path) -> None:
    files = name_segments(cut(clips, seconds=4), "s{}.ts")
    with Origin(files) as elsewhere:
        links = [elsewhere.url(name) if number % 2 else name for number, name in enumerate(files)]
        with Origin(files | {"list.m3u8": hls_text(links)}) as origin:
            ended = command.run(origin.url("list.m3u8"), "--header", "Authorization: Bearer hidden")
            assert all(request.headers["authorization"] == "Bearer hidden" for request in origin.requests)
        assert elsewhere.requests and not any("authorization" in one.headers for one in elsewhere.requests)
    assert ended.code == 0, ended.stderr


@slow
def test_a_body_without_end_is_taken_up_to_what_is_allowed(command: Command, clips: Path) -> None:
    """It begins as media, says nothing of its length, and never ends."""
    beginning = cut(clips).whole

    def script(asked: dict[str, str]) -> object:
        yield head(200, {"Content-Type": "video/mp2t"}) + beginning
        while True:
            yield beginning

    command.environment["TIDEGATE_TRANSFER_LARGEST"] = str(4 * MIB)
    with Scripted(script) as endless:  # type: ignore[arg-type]
        ended = command.run(endless.url("film.ts"), timeout=60)
        assert len(endless.seen) <= 3
    failure_told(ended, code=1, kind="limit_reached")
    kept = [path for path in command.home.rglob("*") if path.is_file() and path.stat().st_size > 5 * MIB]
    assert kept == []


@slow
@pytest.mark.parametrize(
    "name", ["../../../evil.mp4", "/etc/evil.mp4", "..\\..\\evil.mp4", "evil%2F..%2Fup.mp4", ".", "a" * 400 + ".mp4"]
)
def test_a_name_from_a_server_leads_nowhere_else(name: str, command: Command, clips: Path) -> None:
    story = f'always: header Content-Disposition=attachment;filename="{name}"'
    with Origin({"film.mp4": Resource(clip(clips), story=story)}) as origin:
        ended = command.run(origin.url("film.mp4"))
    assert ended.code == 0, ended.stderr
    [folder] = command.published()
    assert folder.parent == command.output and folder.resolve().parent == command.output.resolve()
    assert [path for path in command.home.parent.rglob("*evil*") if not path.is_relative_to(command.output)] == []

"""DASH from a real origin: what ffmpeg packed comes out byte for byte, picture and sound as tracks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clips import bulk_clip
from tests.support.ladders import presentation
from tests.support.origin import Origin
from tests.support.renditions import QUICK, Notes, fetch_rendition, frames, nothing_left_behind, source_of, with_outside
from tidegate.errors import HttpRefused, NotMedia, SegmentGap, UnsupportedSource
from tidegate.transfer.outside import Outside
from tidegate.transfer.resolvers.base import Offer
from tidegate.transfer.resolvers.dash import DashResolver


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with nothing_left_behind():
        yield


def chunks(files: dict[str, bytes], stream: int, most: int | None = None) -> bytes:
    """The stream as its packager wrote it. A presentation that only counts does not list what lies beyond its end."""
    names = sorted(name for name in files if name.startswith(f"chunk-stream{stream}-"))[:most]
    assert len(names) >= 5
    return files[f"init-stream{stream}.m4s"] + b"".join(files[name] for name in names)


def offered(origin: Origin, folder: Path) -> Offer:
    source = source_of(origin.url("list.mpd"))

    def scratch(rendition: str) -> Path:
        own_folder = folder / rendition
        own_folder.mkdir(parents=True, exist_ok=True)
        return own_folder

    async def work(outside: Outside) -> Offer:
        identity, cost = await DashResolver().identify(outside, source)
        assert cost.requests == 1
        return await DashResolver().offer(outside, source, identity, scratch)

    return with_outside(work)  # type: ignore[return-value, arg-type]


@pytest.mark.parametrize("timeline", [True, False])
def test_picture_and_sound_come_out_byte_for_byte(timeline: bool, clips: Path, tmp_path: Path) -> None:
    files = presentation(clips, timeline=timeline)
    with Origin(dict(files)) as origin:
        offer = offered(origin, tmp_path / "scratch")
        assert sorted(one.height or 0 for one in offer.renditions) == [120, 144]
        assert offer.promised_seconds is not None and abs(offer.promised_seconds - 6.0) < 0.2
        for rendition in offer.renditions:
            got = fetch_rendition(origin.url("list.mpd"), tmp_path / rendition.id, rendition=rendition.id)
            stream = 0 if rendition.height == 120 else 1
            assert list(got.files) == ["source", "sound-1"]
            assert got.bytes == chunks(files, stream)
            assert frames(got.files["source"][0]) == 150
            assert got.contents("sound-1") == [chunks(files, 2, most=None if timeline else 6)]


def test_a_presentation_of_whole_files_comes_as_they_are(clips: Path, tmp_path: Path) -> None:
    files = presentation(clips, timeline=True, single=True)
    with Origin(dict(files)) as origin:
        offer = offered(origin, tmp_path / "scratch")
        best = max(offer.renditions, key=lambda one: one.height or 0)
        got = fetch_rendition(origin.url("list.mpd"), tmp_path / "got", rendition=best.id)
    assert got.bytes in files.values()
    assert frames(got.files["source"][0]) == 150


def test_a_segment_that_cannot_be_had_is_a_gap_told_by_its_place(clips: Path, tmp_path: Path) -> None:
    files = presentation(clips, timeline=False)
    with Origin(dict(files), stories={"chunk-stream2-00003*": "html"}) as origin:
        with pytest.raises(SegmentGap, match="of sound-1 "):
            fetch_rendition(origin.url("list.mpd"), tmp_path / "a")
        got = fetch_rendition(origin.url("list.mpd"), tmp_path / "b", allow_gaps=True)
    (gap,) = got.gaps
    assert abs(gap.start_seconds - 2.0) < 0.2


def test_links_that_have_expired_are_asked_for_again(clips: Path, tmp_path: Path) -> None:
    files = presentation(clips, timeline=True)
    notes = Notes()
    limits = QUICK.model_copy(update={"segments_at_once": 1})
    with Origin(dict(files), stories={"chunk-stream2-00003*": "403, ok"}) as origin:
        got = fetch_rendition(origin.url("list.mpd"), tmp_path, limits=limits, observe=notes)
        assert len(origin.requests_for("list.mpd")) == 2
    assert got.contents("sound-1") == [chunks(files, 2)]


@pytest.mark.parametrize(
    ("content", "failure"),
    [(b"<html>sign in</html>", NotMedia), (b'<MPD type="dynamic" profiles="x"/>', UnsupportedSource)],
)
def test_what_is_no_presentation_is_refused(content: bytes, failure: type[Exception], tmp_path: Path) -> None:
    with Origin({"list.mpd": content}) as origin, pytest.raises(failure):
        fetch_rendition(origin.url("list.mpd"), tmp_path)


def test_a_presentation_that_is_refused_is_refused(tmp_path: Path) -> None:
    with Origin({"list.mpd": b""}, stories={"list.mpd": "always: 403"}) as origin, pytest.raises(HttpRefused):
        fetch_rendition(origin.url("list.mpd"), tmp_path)


def test_a_track_that_is_one_file_is_resumed_inside_it(clips: Path, tmp_path: Path) -> None:
    """As the profile for films on demand has it: a base, and nothing about segments."""
    films = presentation(clips, timeline=True, single=True)
    picture, sound = bulk_clip(clips, 4 * 1024 * 1024).read_bytes(), films["list-stream2.mp4"]
    sets = "".join(
        f'<AdaptationSet mimeType="{kind}/mp4"><Representation id="{name}" bandwidth="{rate}">'
        f'<BaseURL>{name}.mp4</BaseURL><SegmentBase indexRange="0-99"/></Representation></AdaptationSet>'
        for kind, name, rate in (("video", "v", 600000), ("audio", "a", 96000))
    )
    text = f'<MPD type="static" mediaPresentationDuration="PT6S" profiles="x"><Period>{sets}</Period></MPD>'
    stories = {"v.mp4": "1500K drop, 1M stall, ok"}
    with Origin({"list.mpd": text.encode(), "v.mp4": picture, "a.mp4": sound}, stories=stories) as origin:
        offer = offered(origin, tmp_path)
        assert [one.id for one in offer.renditions] == ["600k"]
        assert origin.bytes_sent("v.mp4") < len(picture) / 2, "a look does not take the whole"
        got = fetch_rendition(origin.url("list.mpd"), tmp_path / "600k", rendition="600k")
        again = [request.range for request in origin.requests_for("v.mp4") if not request.peek]
    assert got.bytes == picture
    assert got.contents("sound-1") == [sound]
    assert len(again) > 1 and any(one and not one.startswith("bytes=0-") for one in again)
    assert got.seconds == 6.0 and set(got.known) == {"source", "sound-1"}

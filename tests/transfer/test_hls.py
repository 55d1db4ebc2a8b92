"""HLS from a real origin: every feature comes out byte for byte, and every fault as what it is.

The truth is known, because the segments are made here: nothing but their bytes, in their order, may come out.
"""

from __future__ import annotations

import gzip
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from tests.support.clips import bulk_clip
from tests.support.ladders import cut, encrypt, hls_text, ladder, name_segments
from tests.support.origin import Origin, Resource
from tests.support.renditions import (
    QUICK,
    FetchedRendition,
    Notes,
    fetch_rendition,
    frames,
    nothing_left_behind,
    source_of,
    with_outside,
)
from tests.transfer.scripted import Scripted, head
from tidegate.errors import (
    DiskFull,
    DownloadDeadline,
    HttpRefused,
    MemoryExhausted,
    NotFound,
    NotMedia,
    SegmentGap,
    ServerError,
    StalledTransfer,
    TidegateError,
    UnsupportedSource,
)
from tidegate.events import Advance, Event
from tidegate.model import Identity, MediaInfo, Rendition
from tidegate.settings import TransferSettings
from tidegate.transfer.outside import Outside
from tidegate.transfer.playlists.media import Segment
from tidegate.transfer.resolvers.base import FetchRequest, Offer
from tidegate.transfer.resolvers.hls import HlsResolver, ask_media_playlist
from tidegate.transfer.segments import DownloadSession, PlaylistDownload, SegmentTrack, TrackFiles, playlist_download


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with nothing_left_behind():
        yield


Files = dict[str, bytes]

KEYS = {"one.key": bytes(range(16)), "two.key": bytes(range(16, 32))}


def key_tag(name: str, iv: int | None = None) -> str:
    return f'#EXT-X-KEY:METHOD=AES-128,URI="{name}"' + (f",IV=0x{iv:032X}" if iv is not None else "")


def plain_ts(clips: Path) -> tuple[Files, bytes]:
    media = cut(clips)
    files = name_segments(media, "s{}.ts")
    return files | {"list.m3u8": hls_text(files)}, media.whole


def fragmented(clips: Path) -> tuple[Files, bytes]:
    media = cut(clips, "mp4")
    files = name_segments(media, "s{}.m4s")
    playlist = hls_text(files, before={0: ['#EXT-X-MAP:URI="init.mp4"']})
    return files | {"list.m3u8": playlist, "init.mp4": media.init or b""}, media.whole


def explicit_vector(clips: Path) -> tuple[Files, bytes]:
    media = cut(clips)
    files = {name: encrypt(content, KEYS["one.key"], 77) for name, content in name_segments(media, "s{}.ts").items()}
    return files | KEYS | {"list.m3u8": hls_text(files, before={0: [key_tag("one.key", 77)]})}, media.whole


def implicit_vector(clips: Path) -> tuple[Files, bytes]:
    media = cut(clips)
    contents = name_segments(media, "s{}.ts")
    files = {
        name: encrypt(content, KEYS["one.key"], number) for number, (name, content) in enumerate(contents.items(), 4711)
    }
    return files | KEYS | {"list.m3u8": hls_text(files, sequence=4711, before={0: [key_tag("one.key")]})}, media.whole


def rotated_keys(clips: Path) -> tuple[Files, bytes]:
    """Two keys in turn, a stretch in the clear, vectors of both sorts."""
    media = cut(clips)
    plan = [("one.key", 1), ("one.key", 2), ("two.key", 9), ("two.key", 9), None, None, ("one.key", 7), ("one.key", 8)]
    files = {
        name: encrypt(content, KEYS[key[0]], key[1]) if key else content
        for key, (name, content) in zip(plan, name_segments(media, "s{}.ts").items(), strict=True)
    }
    before = {
        0: [key_tag("one.key")],
        2: [key_tag("two.key", 9)],
        4: ["#EXT-X-KEY:METHOD=NONE"],
        6: [key_tag("one.key")],
    }
    return files | KEYS | {"list.m3u8": hls_text(files, sequence=1, before=before)}, media.whole


def encrypted_fragments(clips: Path) -> tuple[Files, bytes]:
    """The init section too."""
    media = cut(clips, "mp4")
    files = {name: encrypt(content, KEYS["one.key"], 5) for name, content in name_segments(media, "s{}.m4s").items()}
    tags = [key_tag("one.key", 5), '#EXT-X-MAP:URI="init.mp4"']
    playlist = hls_text(files, before={0: tags})
    return files | KEYS | {
        "list.m3u8": playlist,
        "init.mp4": encrypt(media.init or b"", KEYS["one.key"], 5),
    }, media.whole


def ranged(clips: Path) -> tuple[Files, bytes]:
    """One file for all segments; every third range says where it begins, the others follow."""
    media = cut(clips)
    tags, at = {}, 0
    for place, segment in enumerate(media.segments):
        offset = f"@{at}" if place % 3 == 0 else ""
        tags[place] = [f"#EXT-X-BYTERANGE:{len(segment)}{offset}"]
        at += len(segment)
    return {"all.ts": media.whole, "list.m3u8": hls_text(["all.ts"] * len(media.segments), before=tags)}, media.whole


def ranged_fragments(clips: Path) -> tuple[Files, bytes]:
    """The init section and the segments lie in one file, as packagers like it."""
    media = cut(clips, "mp4")
    size = len(media.init or b"")
    tags = {place: [f"#EXT-X-BYTERANGE:{len(segment)}"] for place, segment in enumerate(media.segments)}
    tags[0] = [f'#EXT-X-MAP:URI="all.mp4",BYTERANGE="{size}@0"', f"{tags[0][0]}@{size}"]
    return {"all.mp4": media.whole, "list.m3u8": hls_text(["all.mp4"] * len(media.segments), before=tags)}, media.whole


def encrypted_ranges(clips: Path) -> tuple[Files, bytes]:
    """Ranges of cipher text with vectors that follow from the numbers: what breaks other resumers."""
    media = cut(clips)
    secret = [encrypt(segment, KEYS["two.key"], number) for number, segment in enumerate(media.segments, 40)]
    tags = {place: [f"#EXT-X-BYTERANGE:{len(one)}"] for place, one in enumerate(secret)}
    tags[0] = [key_tag("two.key"), f"{tags[0][0]}@0"]
    playlist = hls_text(["all.bin"] * len(secret), sequence=40, before=tags)
    return KEYS | {"all.bin": b"".join(secret), "list.m3u8": playlist}, media.whole


FEATURES: dict[str, Callable[[Path], tuple[Files, bytes]]] = {
    recipe.__name__: recipe
    for recipe in (
        plain_ts,
        fragmented,
        explicit_vector,
        implicit_vector,
        rotated_keys,
        encrypted_fragments,
        ranged,
        ranged_fragments,
        encrypted_ranges,
    )
}


def from_origin(files: Files, folder: Path, stories: dict[str, str] | None = None, **how: object) -> FetchedRendition:
    with Origin(dict(files), stories=stories or {}) as origin:
        return fetch_rendition(origin.url("list.m3u8"), folder, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_comes_out_byte_for_byte(feature: str, clips: Path, tmp_path: Path) -> None:
    files, whole = FEATURES[feature](clips)
    got = from_origin(files, tmp_path)
    assert got.bytes == whole
    assert frames(got.files["source"][0]) == 200
    assert (got.seconds, got.gaps) == (8.0, ())
    assert list(got.known) == ["source"]


def test_a_key_is_asked_for_once_and_a_segment_too(clips: Path, tmp_path: Path) -> None:
    files, _ = rotated_keys(clips)
    with Origin(dict(files)) as origin:
        got = fetch_rendition(origin.url("list.m3u8"), tmp_path)
        requests = [request.name for request in origin.requests]
    assert sorted(requests) == sorted(["list.m3u8", "one.key", "two.key", *(f"s{number}.ts" for number in range(8))])
    assert got.stats.requests == len(requests)


def test_nothing_but_the_result_is_left(clips: Path, tmp_path: Path) -> None:
    from_origin(fragmented(clips)[0], tmp_path)
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["source/segments.journal", "source/source.mp4"]


def test_progress_grows_to_the_end_and_estimates_the_whole(clips: Path, tmp_path: Path) -> None:
    files, whole = plain_ts(clips)
    seen: list[Advance] = []

    def look(event: Event) -> None:
        seen.extend([event] if isinstance(event, Advance) else [])

    limits = QUICK.model_copy(update={"segments_at_once": 1})
    from_origin(files, tmp_path, {"*.ts": "throttle 200K"}, limits=limits, observe=look)
    done = [advance.done for advance in seen]
    assert done == sorted(done) and all(advance.unit == "bytes" for advance in seen)
    totals = [advance.total for advance in seen if advance.total is not None]
    assert totals and 0.5 * len(whole) < totals[-1] < 2 * len(whole)


# --- init sections and discontinuities ------------------------------------------------------------


def test_another_init_section_in_mid_list_begins_a_file_of_its_own(clips: Path, tmp_path: Path) -> None:
    small, large = cut(clips, "mp4"), cut(clips, "mp4", size="192x144")
    files = {f"a{number}.m4s": small.segments[number] for number in range(3)}
    files |= {f"b{number}.m4s": large.segments[number] for number in range(3, 6)}
    playlist = hls_text(files, before={0: ['#EXT-X-MAP:URI="a.mp4"'], 3: ['#EXT-X-MAP:URI="b.mp4"']})
    inits = {"a.mp4": small.init or b"", "b.mp4": large.init or b""}
    got = from_origin(files | inits | {"list.m3u8": playlist}, tmp_path)
    assert got.contents() == [
        inits["a.mp4"] + b"".join(small.segments[:3]),
        inits["b.mp4"] + b"".join(large.segments[3:6]),
    ]
    assert [frames(path) for path in got.files["source"]] == [75, 75]
    assert got.known == {}


def test_another_link_to_the_same_init_section_does_not(clips: Path, tmp_path: Path) -> None:
    media = cut(clips, "mp4")
    files = name_segments(media, "s{}.m4s")
    playlist = hls_text(files, before={0: ['#EXT-X-MAP:URI="a.mp4"'], 3: ['#EXT-X-MAP:URI="b.mp4"']})
    inits = {"a.mp4": media.init or b"", "b.mp4": media.init or b""}
    assert from_origin(files | inits | {"list.m3u8": playlist}, tmp_path).bytes == media.whole


def test_where_timestamps_jump_at_a_discontinuity_a_file_begins(clips: Path, tmp_path: Path) -> None:
    film, spot = cut(clips), cut(clips, begins_at=500.0)
    files = {f"f{number}.ts": film.segments[number] for number in (0, 1, 2, 3)}
    files = {"f0.ts": files["f0.ts"], "f1.ts": files["f1.ts"], "spot.ts": spot.segments[0], "f2.ts": files["f2.ts"]}
    playlist = hls_text(files, before={2: ["#EXT-X-DISCONTINUITY"], 3: ["#EXT-X-DISCONTINUITY"]})
    got = from_origin(files | {"list.m3u8": playlist}, tmp_path)
    assert got.contents() == [files["f0.ts"] + files["f1.ts"], files["spot.ts"], files["f2.ts"]]
    assert [frames(path) for path in got.files["source"]] == [50, 25, 25]


def test_where_they_go_on_it_does_not(clips: Path, tmp_path: Path) -> None:
    media = cut(clips)
    files = name_segments(media, "s{}.ts")
    playlist = hls_text(files, before={3: ["#EXT-X-DISCONTINUITY"], 6: ["#EXT-X-DISCONTINUITY"]})
    assert from_origin(files | {"list.m3u8": playlist}, tmp_path).bytes == media.whole


# --- ladders --------------------------------------------------------------------------------------


def rungs(clips: Path) -> Files:
    high, low = cut(clips, size="192x144"), cut(clips, seconds=8)
    files = name_segments(high, "hi/s{}.ts") | name_segments(low, "lo/s{}.ts")
    names = [f"s{number}.ts" for number in range(8)]
    master = ladder({"hi/list.m3u8": "192x144@900000", "lo/list.m3u8": "160x120@300000"})
    return files | {"hi/list.m3u8": hls_text(names), "lo/list.m3u8": hls_text(names), "list.m3u8": master}


@pytest.mark.parametrize(
    ("rendition", "size"), [("144p-900k", "192x144"), ("120p-300k", "160x120"), ("gone", "192x144")]
)
def test_the_rendition_that_was_chosen_is_brought(rendition: str, size: str, clips: Path, tmp_path: Path) -> None:
    assert from_origin(rungs(clips), tmp_path, rendition=rendition).bytes == cut(clips, size=size).whole


def offered(
    origin: Origin, folder: Path, notes: Notes | None = None, look: object = None, limits: TransferSettings = QUICK
) -> Offer:
    source = source_of(origin.url("list.m3u8"))

    def scratch(rendition: str) -> Path:
        media = folder / rendition
        media.mkdir(parents=True, exist_ok=True)
        return media

    async def work(outside: Outside) -> Offer:
        resolver = HlsResolver()
        identity, cost = await resolver.identify(outside, source)
        assert cost.requests == 1
        return await resolver.offer(outside, source, identity, scratch)

    more = {"look": look} if look else {}
    return with_outside(work, limits, notes or Notes(), **more)  # type: ignore[return-value, arg-type]


def test_the_offer_tells_renditions_and_length_and_looks_at_the_first_segment(clips: Path, tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def look(path: Path) -> MediaInfo:
        seen.append(await anyio.Path(path).read_bytes())
        return MediaInfo(container="mpegts", duration_seconds=1.0, size_bytes=len(seen[0]))

    with Origin(dict(rungs(clips))) as origin:
        offer = offered(origin, tmp_path, look=look)
        requests = [request.name for request in origin.requests]
        assert seen == [cut(clips, size="192x144").segments[0]]
        assert [(one.id, one.height, one.bandwidth_bps) for one in offer.renditions] == [
            ("144p-900k", 144, 900000),
            ("120p-300k", 120, 300000),
        ]
        assert (offer.promised_seconds, offer.renditions[0].size_bytes) == (8.0, 900000)
        assert offer.preview is not None and offer.preview.duration_seconds == 8.0
        assert sorted(requests) == ["hi/list.m3u8", "hi/s0.ts", "list.m3u8", "list.m3u8", "lo/list.m3u8"]
        # What was looked at is not fetched again: it is asked with one byte whether it is still the same.
        got = fetch_rendition(origin.url("list.m3u8"), tmp_path / "144p-900k", rendition="144p-900k")
        again = [request.range for request in origin.requests_for("hi/s0.ts")[1:]]
    assert again == ["bytes=0-0"]
    assert got.bytes == cut(clips, size="192x144").whole
    assert got.stats.bytes_reused == len(seen[0])


def test_a_rendition_whose_playlist_does_not_answer_is_dropped_and_told(clips: Path, tmp_path: Path) -> None:
    notes = Notes()
    with Origin(dict(rungs(clips)), stories={"hi/list.m3u8": "always: 500"}) as origin:
        offer = offered(origin, tmp_path, notes)
    assert [one.id for one in offer.renditions] == ["120p-300k"]
    assert any("144p-900k is left out" in message for message in notes.messages)


def test_when_no_playlist_answers_the_failure_is_theirs(clips: Path, tmp_path: Path) -> None:
    with Origin(dict(rungs(clips)), stories={"*/list.m3u8": "always: 404"}) as origin, pytest.raises(NotFound):
        offered(origin, tmp_path)


def test_another_link_to_the_same_rendition_is_tried(clips: Path, tmp_path: Path) -> None:
    files = rungs(clips)
    files["list.m3u8"] = ladder({"gone/list.m3u8": "192x144@900000", "hi/list.m3u8": "192x144@900000"})
    assert from_origin(files, tmp_path, rendition="144p-900k").bytes == cut(clips, size="192x144").whole


def test_sound_of_a_group_comes_as_a_track_and_subtitles_as_one_text(clips: Path, tmp_path: Path) -> None:
    picture, sound = cut(clips, both=False), cut(clips, "sound")
    files = name_segments(picture, "v{}.ts") | name_segments(sound, "a{}.ts")
    cue = "WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:0,LOCAL:00:00:00.000\n\n00:0{0}.000 --> 00:0{0}.900\nLine {0}\n"
    texts = {f"t{number}.vtt": cue.format(number).encode() for number in range(3)}
    groups = [
        '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="English",LANGUAGE="en",DEFAULT=YES,URI="a.m3u8"',
        '#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID="t",NAME="English",LANGUAGE="en",URI="t.m3u8"',
        '#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID="t",NAME="gone",LANGUAGE="xx",URI="gone.m3u8"',
    ]
    files |= texts | {
        "v.m3u8": hls_text(name_segments(picture, "v{}.ts")),
        "a.m3u8": hls_text(name_segments(sound, "a{}.ts")),
        "t.m3u8": hls_text(texts),
        "list.m3u8": ladder({"v.m3u8": "160x120@300000"}, media=groups, also=',AUDIO="a",SUBTITLES="t"'),
    }
    notes = Notes()
    got = from_origin(files, tmp_path, rendition="120p-300k", observe=notes)
    assert list(got.files) == ["source", "sound-1-en", "subtitles-1-en"]
    assert got.bytes == picture.whole
    assert got.contents("sound-1-en") == [sound.whole]
    (text,) = got.contents("subtitles-1-en")
    assert [text.count(f"Line {number}".encode()) for number in range(3)] == [1, 1, 1]
    assert text.startswith(b"WEBVTT\n\n00:00.000 -->")
    assert any("Left out subtitles-2-xx" in message for message in notes.messages)


def test_sound_that_cannot_be_had_is_no_detail(clips: Path, tmp_path: Path) -> None:
    files, _ = plain_ts(clips)
    group = ['#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="x",URI="gone.m3u8"']
    files["film.m3u8"], files["list.m3u8"] = (
        files["list.m3u8"],
        ladder({"film.m3u8": "160x120@1"}, media=group, also=',AUDIO="a"'),
    )
    with pytest.raises(NotFound):
        from_origin(files, tmp_path)


def test_a_film_is_not_lost_to_the_clock_of_its_subtitles(clips: Path, tmp_path: Path) -> None:
    files, whole = plain_ts(clips)
    text = f"WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:{'9' * 5000},LOCAL:00:00:00.000\n\n00:00.000 --> 00:00.900\nLine\n"
    group = ['#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID="t",NAME="English",LANGUAGE="en",URI="t.m3u8"']
    files["film.m3u8"] = files["list.m3u8"]
    files |= {"t.vtt": text.encode(), "t.m3u8": hls_text(["t.vtt"])}
    files["list.m3u8"] = ladder({"film.m3u8": "160x120@1"}, media=group, also=',SUBTITLES="t"')
    got = from_origin(files, tmp_path)
    assert got.bytes == whole
    assert b"Line" in got.contents("subtitles-1-en")[0]


def test_subtitles_longer_than_any_are_left_out_and_not_put_together(clips: Path, tmp_path: Path) -> None:
    files, whole = plain_ts(clips)
    group = ['#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID="t",NAME="English",LANGUAGE="en",URI="t.m3u8"']
    files["film.m3u8"] = files["list.m3u8"]
    files |= {f"t{number}.vtt": b"WEBVTT\n\n" + b"a\n" * 4_500_000 for number in range(2)}
    files["t.m3u8"] = hls_text(["t0.vtt", "t1.vtt"])
    files["list.m3u8"] = ladder({"film.m3u8": "160x120@1"}, media=group, also=',SUBTITLES="t"')
    notes = Notes()
    got = from_origin(files, tmp_path, observe=notes)
    assert (list(got.files), got.bytes) == (["source"], whole)
    assert any("subtitles-1-en: The subtitles are longer than" in message for message in notes.messages)


@pytest.mark.parametrize("height", ["1", "{}"], ids=["elsewhere, too", "others"])
def test_a_playlist_that_exhausts_its_reader_is_the_last_of_its_ladder(height: str, tmp_path: Path) -> None:
    """Five hundred of them would each be given its minute."""
    names = [f"h{number}.m3u8" for number in range(30)]
    sizes = {name: f"1x{height.format(number + 1)}@9000" for number, name in enumerate(names)}
    files: Files = dict.fromkeys(names, b"#EXTM3U\n" + b"#EXTINF:1,\na\n" * 100_000)
    files["list.m3u8"] = ladder(sizes)
    limits = QUICK.model_copy(update={"playlist_memory": 32_000_000})
    with Origin(dict(files)) as origin, pytest.raises(MemoryExhausted):
        offered(origin, tmp_path, limits=limits)
    assert len(origin.requests) < 15, "the list twice, and what was asked for at once"


# --- identity -------------------------------------------------------------------------------------


def identity(origin: Origin, name: str = "list.m3u8") -> Identity:
    async def work(outside: Outside) -> Identity:
        return (await HlsResolver().identify(outside, source_of(origin.url(name))))[0]

    return with_outside(work)  # type: ignore[return-value, arg-type]


def test_a_playlist_with_other_segments_is_another_source_and_one_with_fresh_tokens_is_not(clips: Path) -> None:
    with Origin({"list.m3u8": hls_text(["a.ts?t=1", "b.ts?t=1"])}) as origin:
        first = identity(origin)
        origin.add("list.m3u8", hls_text(["a.ts?t=2", "b.ts?t=2"]))
        second = identity(origin)
        origin.add("list.m3u8", hls_text(["a.ts?t=2", "c.ts?t=2"]))
        third = identity(origin)
    assert first.key == second.key != third.key
    assert not first.has_validator


def test_a_live_playlist_stays_the_same_source_while_it_moves_on(clips: Path) -> None:
    with Origin({"list.m3u8": hls_text(["a.ts", "b.ts"], ended=False)}) as origin:
        first = identity(origin)
        origin.add("list.m3u8", hls_text(["b.ts", "c.ts"], sequence=1, ended=False))
        assert identity(origin).key == first.key


# --- faults ---------------------------------------------------------------------------------------

HEALS = [
    "503, ok",
    "500, 502, ok",
    "10K drop, 20K cut, ok",
    "10K stall, ok",
    "html, ok",
    "empty, html, ok",
    "no-length cut 10K, ok",
    "close-delimited 9999 cut, ok",
    "429 retry-after 1, ok",
    "gzip",
    "no-length",
    "close-delimited",
    "late-headers 300ms",
]


@pytest.mark.parametrize("story", HEALS)
def test_a_segment_that_fails_and_then_comes_is_whole(story: str, clips: Path, tmp_path: Path) -> None:
    files, whole = plain_ts(clips)
    got = from_origin(files, tmp_path, {"s3.ts": story, "s6.ts": story})
    assert got.bytes == whole
    assert got.gaps == ()


@pytest.mark.parametrize("packing", ["mp4", "encrypted"])
def test_a_cut_that_no_length_tells_is_seen_in_the_segment_itself(packing: str, clips: Path, tmp_path: Path) -> None:
    files, whole = fragmented(clips) if packing == "mp4" else implicit_vector(clips)
    name = "s4.m4s" if packing == "mp4" else "s4.ts"
    got = from_origin(files, tmp_path, {name: "close-delimited 10000 cut, close-delimited 20001 cut, ok"})
    assert got.bytes == whole


@pytest.mark.timeout(30)
@pytest.mark.parametrize("size", [0, 8, 15])
def test_a_box_that_says_it_is_shorter_than_its_own_head_is_a_gap_and_holds_nothing_up(
    size: int, clips: Path, tmp_path: Path
) -> None:
    """Its length stands in 64 bits behind its type; 0 means nothing there, and led nowhere for ever."""
    files, whole = fragmented(clips)
    files["s4.m4s"] = b"\x00\x00\x00\x01mdat" + size.to_bytes(8, "big") + bytes(64)
    with pytest.raises(SegmentGap, match=r"Segment 4 .*inside a box"):
        from_origin(files, tmp_path)
    assert from_origin(fragmented(clips)[0], tmp_path).bytes == whole


GAPS = ["html", "404", "410", "500", "empty", "10K drop", "10K cut", "close-delimited 9999 cut", "0 stall"]


@pytest.mark.parametrize("story", GAPS)
def test_a_segment_that_cannot_be_had_is_a_gap_told_by_its_place(story: str, clips: Path, tmp_path: Path) -> None:
    files, _ = plain_ts(clips)
    with Origin(dict(files), stories={"s5.ts": story}) as origin:
        with pytest.raises(SegmentGap, match=r"Segment 5 of source \(5\.0 s to 6\.0 s\)") as failure:
            fetch_rendition(origin.url("list.m3u8"), tmp_path)
        tries = len(origin.requests_for("s5.ts"))
    assert tries == (1 if story in ("404", "410") else 3)
    notes = failure.value.evidence.notes
    assert (notes["segment"], notes["start_seconds"], notes["track"]) == ("5", "5.000", "source")
    assert not list((tmp_path / "source").glob("source*"))


def test_with_gaps_allowed_the_rest_is_brought_and_the_gap_is_told(clips: Path, tmp_path: Path) -> None:
    files, _ = plain_ts(clips)
    notes = Notes()
    stories = {"s2.ts": "html", "s5.ts": "404", "s6.ts": "404"}
    got = from_origin(files, tmp_path, stories, allow_gaps=True, observe=notes)
    kept = cut(clips).segments
    assert got.bytes == b"".join(kept[number] for number in (0, 1, 3, 4, 7))
    assert [(gap.start_seconds, gap.end_seconds) for gap in got.gaps] == [(2.0, 3.0), (5.0, 7.0)]
    assert got.seconds == 8.0
    assert any("segment 2 is missing" in message for message in notes.messages)
    with pytest.raises(SegmentGap):  # what was put together with gaps is nobody's whole
        from_origin(files, tmp_path, stories)
    assert from_origin(files, tmp_path).bytes == b"".join(kept)


def test_a_segment_that_the_playlist_itself_calls_missing_is_a_gap_without_a_request(
    clips: Path, tmp_path: Path
) -> None:
    files, _ = plain_ts(clips)
    files["list.m3u8"] = hls_text([f"s{number}.ts" for number in range(8)], before={3: ["#EXT-X-GAP"]})
    with Origin(dict(files)) as origin:
        got = fetch_rendition(origin.url("list.m3u8"), tmp_path, allow_gaps=True)
        assert origin.requests_for("s3.ts") == []
    assert [(gap.start_seconds, gap.end_seconds) for gap in got.gaps] == [(3.0, 4.0)]


@pytest.mark.parametrize("allow_gaps", [False, True])
@pytest.mark.parametrize(
    ("story", "failure"),
    [("0 drop", TidegateError), ("500", TidegateError), ("403", HttpRefused), ("0 stall", StalledTransfer)],
)
def test_when_nothing_at_all_comes_no_film_of_gaps_is_made(
    story: str, failure: type[TidegateError], allow_gaps: bool, clips: Path, tmp_path: Path
) -> None:
    files, _ = plain_ts(clips)
    with pytest.raises(failure):
        from_origin(files, tmp_path, {"*.ts": story}, allow_gaps=allow_gaps)


@pytest.mark.parametrize(
    ("story", "failure"), [("403", HttpRefused), ("404", NotFound), ("html", NotMedia), ("500", TidegateError)]
)
def test_a_key_that_cannot_be_had_is_its_own_failure_and_no_gap(
    story: str, failure: type[TidegateError], clips: Path, tmp_path: Path
) -> None:
    files, _ = explicit_vector(clips)
    with pytest.raises(failure, match="key") as failed:
        from_origin(files, tmp_path, {"one.key": f"from-first: {story}"}, allow_gaps=True)
    assert not isinstance(failed.value, SegmentGap)


def test_a_wrong_key_is_noticed(clips: Path, tmp_path: Path) -> None:
    files, _ = explicit_vector(clips)
    with pytest.raises(SegmentGap, match="decrypt"):
        from_origin(files | {"one.key": bytes(16)}, tmp_path)


def test_a_wrong_vector_is_noticed(clips: Path, tmp_path: Path) -> None:
    files, _ = explicit_vector(clips)
    files["list.m3u8"] = files["list.m3u8"].replace(b"IV=0x00", b"IV=0xFF")
    with pytest.raises(SegmentGap, match="decrypt"):
        from_origin(files, tmp_path)


def test_links_that_have_expired_are_asked_for_again_once(clips: Path, tmp_path: Path) -> None:
    files, whole = plain_ts(clips)
    notes = Notes()
    with Origin(dict(files), stories={"s4.ts": "403, ok"}) as origin:
        limits = QUICK.model_copy(update={"segments_at_once": 1})
        got = fetch_rendition(origin.url("list.m3u8"), tmp_path, observe=notes, limits=limits)
        assert len(origin.requests_for("list.m3u8")) == 2
        assert len([request for request in origin.requests_for("s0.ts") if request.range is None]) == 1
    assert got.bytes == whole
    assert any("asking for the playlist again" in message for message in notes.messages)


async def fetch_in_two_parts(
    outside: Outside,
    url: str,
    folder: Path,
    clock: Callable[[DownloadSession], float],
    between: Callable[[DownloadSession], Awaitable[None]],
) -> dict[str, TrackFiles]:
    """The playlist's first four segments, what happens `between`, and the rest; gaps are allowed."""
    source = source_of(url)
    sessions: list[DownloadSession] = []
    session = DownloadSession(outside, source, allow_gaps=True, clock=lambda: clock(sessions[0]) if sessions else 0.0)
    sessions.append(session)
    listing, _ = await ask_media_playlist(outside, source, (url,))
    segments = listing.playlist.segments

    async def feed(_: Mapping[int, float]) -> AsyncIterator[Sequence[Segment]]:
        yield segments[:4]
        while session.arrived < 4:  # noqa: ASYNC110  # what it waits for has no event
            await anyio.sleep(0.01)
        await between(session)
        yield segments[4:]

    return await PlaylistDownload(session).fetch([SegmentTrack("source", folder, ("content",), feed)])


@pytest.mark.parametrize("seconds", [110, 290])
def test_a_pause_ends_no_transfer_that_has_lasted_for_an_hour(
    seconds: int, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A live source may be silent for two minutes, and one that asks for a pause gets up to five."""
    monkeypatch.setattr(playlist_download, "SHOWN_EVERY_SECONDS", 0.02)
    files, whole = plain_ts(clips)
    passed, looks = [0.0], [0]

    def clock(_: DownloadSession) -> float:
        looks[0] += 1
        return passed[0]

    async def pause(_: DownloadSession) -> None:
        for _ in range(seconds // 5):
            passed[0] = max(passed[0], 3600.0) + 5.0
            looked = looks[0]
            while looks[0] == looked:  # noqa: ASYNC110  # whoever keeps the deadline sees each five seconds
                await anyio.sleep(0.005)

    with Origin(dict(files)) as origin:
        got = with_outside(lambda outside: fetch_in_two_parts(outside, origin.url("list.m3u8"), tmp_path, clock, pause))
    assert got["source"].gaps == ()  # type: ignore[index]
    assert got["source"].files[0].read_bytes() == whole  # type: ignore[index]


def test_requests_that_bring_nothing_for_a_minute_end_a_transfer_that_has_lasted_for_an_hour(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With gaps allowed nothing else would: each segment has tries of its own."""
    monkeypatch.setattr(playlist_download, "SHOWN_EVERY_SECONDS", 0.02)
    files, _ = plain_ts(clips)
    settled: list[int] = []

    def clock(session: DownloadSession) -> float:
        return 3600.0 + 30.0 * (session.requests - settled[0]) if settled else 0.0

    async def settle(session: DownloadSession) -> None:
        settled.append(session.requests)
        await anyio.sleep(0.1)

    slowly = QUICK.model_copy(update={"backoff_base": QUICK.stall_tick * 2})
    with Origin(dict(files), stories={f"s{number}.ts": "503" for number in range(4, 8)}) as origin:
        url = origin.url("list.m3u8")
        with pytest.raises(DownloadDeadline):
            with_outside(lambda outside: fetch_in_two_parts(outside, url, tmp_path, clock, settle), slowly)


def test_a_compression_bomb_is_bounded(clips: Path, tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(64 * 1024 * 1024), 9)

    def script(headers: dict[str, str]) -> object:
        yield head(200, {"Content-Encoding": "gzip", "Content-Length": str(len(bomb))}) + bomb

    files, _ = plain_ts(clips)
    with Scripted(script) as bad:  # type: ignore[arg-type]
        files["list.m3u8"] = hls_text(["s0.ts", bad.url("bomb.ts")])
        limits = QUICK.model_copy(update={"segment_bytes": 1024 * 1024})
        with pytest.raises(SegmentGap, match="longer than"):
            from_origin(files, tmp_path, limits=limits)
        assert len(bad.seen) == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > 2 * 1024 * 1024]


def test_an_endless_playlist_is_bounded(tmp_path: Path) -> None:
    def script(headers: dict[str, str]) -> object:
        yield head(200, {"Content-Type": "application/vnd.apple.mpegurl"}) + b"#EXTM3U\n"
        for _ in range(4096):
            yield b"#" + b"x" * 65535

    limits = QUICK.model_copy(update={"playlist_bytes": 4 * 1024 * 1024})
    with Scripted(script) as bad, pytest.raises(TidegateError, match="longer than"):  # type: ignore[arg-type]
        fetch_rendition(bad.url("list.m3u8"), tmp_path, limits=limits)


def test_an_origin_that_cuts_every_connection_does_not_keep_a_large_segment_from_us(
    clips: Path, tmp_path: Path
) -> None:
    """What came of it is kept between the tries, as of any large file."""
    film = bulk_clip(clips, 4 * 1024 * 1024).read_bytes()
    secret = encrypt(film, KEYS["one.key"], 3)
    files = KEYS | {"big.mp4": film, "secret.mp4": secret}
    files["list.m3u8"] = hls_text(["big.mp4", "secret.mp4"], before={1: [key_tag("one.key", 3)]})
    got = from_origin(files, tmp_path, {"*.mp4": "600K drop"})
    assert got.bytes == film + film


UNDIVIDED = {
    "no length": Resource(b"", "from-first: no-length cut 600K ignore-range, no-length ignore-range"),
    "no ranges": Resource(b"", "600K drop, 600K drop, ok", accept_ranges="none"),
    "ranges refused": Resource(b"", "from-first: 600K drop, 400, 600K drop, ok"),
}


@pytest.mark.parametrize("served", UNDIVIDED)
def test_a_large_segment_that_is_not_served_in_parts_has_its_tries_as_any_other(
    served: str, clips: Path, tmp_path: Path
) -> None:
    film = bulk_clip(clips, 4 * 1024 * 1024).read_bytes()
    big = replace(UNDIVIDED[served], content=film)
    with Origin({"big.mp4": big, "list.m3u8": hls_text(["big.mp4"])}) as origin:
        assert fetch_rendition(origin.url("list.m3u8"), tmp_path).bytes == film


def test_one_that_never_comes_has_three_of_them(clips: Path, tmp_path: Path) -> None:
    film = bulk_clip(clips, 4 * 1024 * 1024).read_bytes()
    big = Resource(film, "from-first: no-length cut 600K ignore-range")
    with Origin({"big.mp4": big, "s.ts": cut(clips).segments[0], "list.m3u8": hls_text(["s.ts", "big.mp4"])}) as origin:
        with pytest.raises(SegmentGap, match="Segment 1 ") as failure:
            fetch_rendition(origin.url("list.m3u8"), tmp_path)
        requests = [request.range for request in origin.requests_for("big.mp4")]
    assert requests == [None, "bytes=0-0", None, None]
    assert "longer than" not in str(failure.value)


@pytest.mark.parametrize(
    ("story", "bodies", "peeks"),
    [
        ("600K drop, 503", 3, 1),
        ("from-first: 600K drop, 503", 1, 2),
        ("600K drop, 0 drop", 3, 1),
        ("600K drop, 429 retry-after 1", 3, 1),
    ],
)
def test_the_tries_of_a_large_segment_have_one_owner(
    story: str, bodies: int, peeks: int, clips: Path, tmp_path: Path
) -> None:
    """Neither its tries nor the time that its origin may ask for begin anew because it is fetched in parts."""
    film = bulk_clip(clips, 4 * 1024 * 1024).read_bytes()
    limits = QUICK.model_copy(update={"tries": 6, "throttle_budget": timedelta(seconds=1.5)})
    with Origin({"big.mp4": Resource(film, story), "list.m3u8": hls_text(["big.mp4"])}) as origin:
        with pytest.raises(TidegateError):
            fetch_rendition(origin.url("list.m3u8"), tmp_path, limits=limits)
        requests = [request.range for request in origin.requests_for("big.mp4")]
    assert (len(requests) - requests.count("bytes=0-0"), requests.count("bytes=0-0")) == (bodies, peeks)


# --- safety ---------------------------------------------------------------------------------------


def test_a_playlist_may_not_lead_to_a_file(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSource, match="only http and https"):
        from_origin({"list.m3u8": hls_text(["file:///etc/passwd"])}, tmp_path)


def test_headers_go_to_the_sources_own_origin_only(clips: Path, tmp_path: Path) -> None:
    files, _ = explicit_vector(clips)
    seen: list[dict[str, str]] = []

    def script(headers: dict[str, str]) -> object:
        seen.append(headers)
        yield head(200, {"Content-Length": "16"}) + KEYS["one.key"]

    with Scripted(script) as keys:  # type: ignore[arg-type]
        files["list.m3u8"] = files["list.m3u8"].replace(b"one.key", keys.url("one.key").encode())
        with Origin(dict(files)) as origin:
            fetch_rendition(origin.url("list.m3u8"), tmp_path, headers={"Authorization": "Bearer sesame"})
            own = {request.headers.get("authorization") for request in origin.requests}
    assert own == {"Bearer sesame"}
    assert len(seen) == 1 and "authorization" not in seen[0]


def test_redirects_are_followed_and_links_are_relative_to_their_end(clips: Path, tmp_path: Path) -> None:
    files, whole = plain_ts(clips)
    there = {f"deep/{name}": content for name, content in files.items()}
    with Origin(dict(there)) as end:
        here = Resource(b"", story=f"always: redirect {end.url('deep/list.m3u8')}")
        with Origin({"list.m3u8": here}) as start:
            assert fetch_rendition(start.url("list.m3u8"), tmp_path).bytes == whole


# --- resuming -------------------------------------------------------------------------------------


def interrupted(origin: Origin, folder: Path) -> None:
    """Begun and broken off by a segment that did not come; it comes from now on."""
    origin.tell("s6.ts", "404")
    limits = QUICK.model_copy(update={"segments_at_once": 1})
    with pytest.raises(SegmentGap):
        fetch_rendition(origin.url("list.m3u8"), folder, limits=limits)
    origin.tell("s6.ts", "ok")


def test_what_is_held_is_not_fetched_again(clips: Path, tmp_path: Path) -> None:
    files, whole = plain_ts(clips)
    with Origin(dict(files)) as origin:
        interrupted(origin, tmp_path)
        before = len(origin.requests)
        got = fetch_rendition(origin.url("list.m3u8"), tmp_path)
        requests = [(request.name, request.range) for request in origin.requests[before:]]
    assert sorted(requests) == [("list.m3u8", None), ("s5.ts", "bytes=0-0"), ("s6.ts", None), ("s7.ts", None)]
    assert got.bytes == whole
    assert got.stats.bytes_reused == sum(len(segment) for segment in cut(clips).segments[:6])


def test_what_is_complete_is_not_fetched_at_all(clips: Path, tmp_path: Path) -> None:
    files, whole = plain_ts(clips)
    with Origin(dict(files)) as origin:
        fetch_rendition(origin.url("list.m3u8"), tmp_path)
        before = len(origin.requests)
        got = fetch_rendition(origin.url("list.m3u8"), tmp_path)
        assert [request.name for request in origin.requests[before:]] == ["list.m3u8"]
    assert got.bytes == whole and got.stats.bytes_reused == len(whole)


def test_segments_replaced_behind_the_same_links_are_never_mixed_with_the_old(clips: Path, tmp_path: Path) -> None:
    files, _ = plain_ts(clips)
    other = cut(clips, size="192x144")
    notes = Notes()
    with Origin(dict(files)) as origin:
        interrupted(origin, tmp_path)
        for name, content in name_segments(other, "s{}.ts").items():
            origin.add(name, content)
        got = fetch_rendition(origin.url("list.m3u8"), tmp_path, observe=notes)
    assert got.bytes == other.whole
    assert any("have changed since an earlier run" in message for message in notes.messages)


def test_neither_are_they_when_the_origin_gives_no_validators(clips: Path, tmp_path: Path) -> None:
    files, _ = plain_ts(clips)
    other = cut(clips, size="192x144")
    with Origin(bare(files)) as origin:
        interrupted(origin, tmp_path)
        for name, resource in bare(name_segments(other, "s{}.ts")).items():
            origin.add(name, resource)
        assert fetch_rendition(origin.url("list.m3u8"), tmp_path).bytes == other.whole


def bare(files: Files, stories: dict[str, str] | None = None) -> dict[str, Resource]:
    """Without validators: only the bytes tell whether a segment is the same."""
    own = stories or {}
    return {
        name: Resource(content, own.get(name, "ok"), etag=None, last_modified=False) for name, content in files.items()
    }


@pytest.mark.parametrize("story", ["503, ok", "503, 503, ok", "10K drop, ok", "html, ok", "429 retry-after 1, ok"])
def test_nor_when_the_comparison_fails_at_first(story: str, clips: Path, tmp_path: Path) -> None:
    files, _ = plain_ts(clips)
    other = cut(clips, size="192x144")
    with Origin(bare(files)) as origin:
        interrupted(origin, tmp_path)
        for name, resource in bare(name_segments(other, "s{}.ts"), {"s5.ts": story}).items():
            origin.add(name, resource)
        assert fetch_rendition(origin.url("list.m3u8"), tmp_path).bytes == other.whole


@pytest.mark.parametrize("story", ["503", "10K cut", "404", "html", "403"])
def test_where_one_segment_cannot_be_compared_another_is(story: str, clips: Path, tmp_path: Path) -> None:
    """What is held of it is good as long as its neighbour is the same, and worth nothing when it is not."""
    files, whole = plain_ts(clips)
    other = cut(clips, size="192x144")
    with Origin(bare(files)) as origin:
        interrupted(origin, tmp_path / "same")
        interrupted(origin, tmp_path / "other")
        origin.tell("s5.ts", story)
        assert fetch_rendition(origin.url("list.m3u8"), tmp_path / "same").bytes == whole
        for name, resource in bare(name_segments(other, "s{}.ts"), {"s5.ts": story}).items():
            origin.add(name, resource)
        limits = QUICK.model_copy(update={"segments_at_once": 1})
        got = fetch_rendition(origin.url("list.m3u8"), tmp_path / "other", allow_gaps=True, limits=limits)
    assert got.bytes == b"".join(other.segments[:5] + other.segments[6:])


def test_while_nothing_can_be_compared_nothing_is_added_and_nothing_lost(clips: Path, tmp_path: Path) -> None:
    files, whole = plain_ts(clips)
    with Origin(bare(files)) as origin:
        interrupted(origin, tmp_path)
        for name in name_segments(cut(clips), "s{}.ts"):
            origin.tell(name, "503")
        before = len(origin.requests)
        with pytest.raises(ServerError):
            fetch_rendition(origin.url("list.m3u8"), tmp_path, allow_gaps=True)
        requests = [request.name for request in origin.requests[before:]]
        assert requests == ["list.m3u8", *["s5.ts"] * 3, "s4.ts", "s3.ts"]
        for name in name_segments(cut(clips), "s{}.ts"):
            origin.tell(name, "ok")
        assert fetch_rendition(origin.url("list.m3u8"), tmp_path).bytes == whole
        assert len(origin.requests_for("s0.ts")) == 1


def test_where_all_that_could_be_compared_is_gone_the_new_is_not_added_to_the_old(clips: Path, tmp_path: Path) -> None:
    files, _ = plain_ts(clips)
    other = name_segments(cut(clips, size="192x144"), "s{}.ts")
    with Origin(bare(files)) as origin:
        interrupted(origin, tmp_path)
        for name, resource in bare(other, dict.fromkeys(("s3.ts", "s4.ts", "s5.ts"), "404")).items():
            origin.add(name, resource)
        got = fetch_rendition(origin.url("list.m3u8"), tmp_path, allow_gaps=True)
    assert got.bytes == b"".join(other[f"s{number}.ts"] for number in (0, 1, 2, 6, 7))


def test_links_that_expired_before_the_comparison_are_asked_for_again(clips: Path, tmp_path: Path) -> None:
    files, whole = plain_ts(clips)
    with Origin(bare(files)) as origin:
        interrupted(origin, tmp_path)
        origin.tell("s5.ts", "403, ok")
        assert fetch_rendition(origin.url("list.m3u8"), tmp_path).bytes == whole
        assert len(origin.requests_for("list.m3u8")) == 3


def test_nor_when_the_disk_has_lost_a_segment_of_all_that_were_held(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise DiskFull("No space left")

    files, _ = plain_ts(clips)
    other = cut(clips, size="192x144")
    with Origin(dict(files)) as origin:
        with monkeypatch.context() as patched, pytest.raises(DiskFull):
            patched.setattr("tidegate.transfer.segments.track.assemble", full)
            fetch_rendition(origin.url("list.m3u8"), tmp_path)
        held = tmp_path / "source" / "segments" / "0000000002.seg"
        held.write_bytes(bytes(held.stat().st_size))
        for name, content in name_segments(other, "s{}.ts").items():
            origin.add(name, content)
        assert fetch_rendition(origin.url("list.m3u8"), tmp_path).bytes == other.whole


def test_validators_that_change_without_the_content_cost_one_segment(clips: Path, tmp_path: Path) -> None:
    files, whole = plain_ts(clips)
    with Origin(dict(files)) as origin:
        interrupted(origin, tmp_path)
        origin.change("s5.ts")
        origin.add("s5.ts", Resource(files["s5.ts"], etag="another"))
        before = len(origin.requests)
        assert fetch_rendition(origin.url("list.m3u8"), tmp_path).bytes == whole
        assert len(origin.requests) - before == 5


def test_a_playlist_with_other_segments_begins_anew(clips: Path, tmp_path: Path) -> None:
    files, _ = plain_ts(clips)
    other = cut(clips, size="192x144")
    with Origin(dict(files) | name_segments(other, "t{}.ts")) as origin:
        interrupted(origin, tmp_path)
        origin.add("list.m3u8", hls_text(name_segments(other, "t{}.ts")))
        assert fetch_rendition(origin.url("list.m3u8"), tmp_path).bytes == other.whole


def test_a_segment_that_the_disk_has_changed_is_fetched_again(clips: Path, tmp_path: Path) -> None:
    files, whole = plain_ts(clips)
    with Origin(dict(files)) as origin:
        interrupted(origin, tmp_path)
        held = sorted((tmp_path / "source" / "segments").glob("*.seg"))
        with held[2].open("r+b") as file:
            file.seek(1000)
            file.write(b"flip")
        held[3].unlink()
        held[4].write_bytes(held[4].read_bytes()[:-1])
        assert fetch_rendition(origin.url("list.m3u8"), tmp_path).bytes == whole
        requests = [request.name for request in origin.requests_for("s2.ts")]
    assert len(requests) == 2


def test_a_finished_file_that_the_disk_has_changed_is_not_believed(clips: Path, tmp_path: Path) -> None:
    files, whole = plain_ts(clips)
    with Origin(dict(files)) as origin:
        path = fetch_rendition(origin.url("list.m3u8"), tmp_path).files["source"][0]
        with path.open("r+b") as file:
            file.write(b"flip")
        assert fetch_rendition(origin.url("list.m3u8"), tmp_path).bytes == whole


@pytest.mark.parametrize("feature", FEATURES)
def test_a_torn_a_lost_and_a_one_behind_journal_cost_segments_and_no_bytes(
    feature: str, clips: Path, tmp_path: Path
) -> None:
    files, whole = FEATURES[feature](clips)
    choice = random.Random(feature)
    with Origin(dict(files)) as origin:
        for number, harm in enumerate((torn, lost, one_behind, scribbled)):
            folder = tmp_path / str(number)
            last = next(name for name in files if name.startswith(("s7", "all")))
            origin.tell(last, "from-first: ok, ok, ok, ok, ok, 404" if last.startswith("all") else "404")
            limits = QUICK.model_copy(update={"segments_at_once": 1})
            with pytest.raises(SegmentGap):
                fetch_rendition(origin.url("list.m3u8"), folder, limits=limits)
            origin.tell(last, "ok")
            harm(folder / "source" / "segments.journal", choice)
            assert fetch_rendition(origin.url("list.m3u8"), folder).bytes == whole, harm.__name__


def torn(journal: Path, choice: random.Random) -> None:
    content = journal.read_bytes()
    journal.write_bytes(content[: len(content) - choice.randrange(1, 200)])


def lost(journal: Path, choice: random.Random) -> None:
    journal.unlink()


def one_behind(journal: Path, choice: random.Random) -> None:
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))


def scribbled(journal: Path, choice: random.Random) -> None:
    content = bytearray(journal.read_bytes())
    for _ in range(5):
        content[choice.randrange(len(content))] ^= 0xFF
    journal.write_bytes(content)


# --- live -----------------------------------------------------------------------------------------


def live(clips: Path, folder: Path, versions: list[bytes], **how: object) -> FetchedRendition:
    """Each version is there for one look at the playlist."""
    media = cut(clips)
    with Origin(dict(name_segments(media, "s{}.ts"))) as origin:
        shown = [text.replace(b"\ns", b"\n" + origin.url("").encode() + b"/s") for text in versions]
        looks = iter(shown)
        last = shown[-1]

        def script(headers: dict[str, str]) -> object:
            body = next(looks, last)
            yield head(200, {"Content-Length": str(len(body))}) + body

        with Scripted(script) as channel:  # type: ignore[arg-type]
            return fetch_rendition(channel.url("list.m3u8"), folder, **how)  # type: ignore[arg-type]


def window(first: int, last: int, *, ended: bool = False) -> bytes:
    links = [f"s{number}.ts" for number in range(first, last + 1)]
    text = hls_text(links, sequence=first, ended=ended).decode()
    return text.replace("TARGETDURATION:1", "TARGETDURATION:0.1").encode()


def test_a_live_source_is_followed_until_it_ends(clips: Path, tmp_path: Path) -> None:
    versions = [window(0, 2), window(0, 2), window(1, 4), window(3, 6), window(4, 7, ended=True)]
    got = live(clips, tmp_path, versions)
    assert got.bytes == cut(clips).whole
    assert got.seconds == 8.0


def test_a_live_source_is_taken_for_as_long_as_was_asked(clips: Path, tmp_path: Path) -> None:
    versions = [window(0, 2), window(1, 4), window(3, 6), window(4, 7)]
    got = live(clips, tmp_path, versions, seconds=4.5)
    assert got.bytes == b"".join(cut(clips).segments[:5])


def test_what_slid_out_of_a_live_window_unseen_is_a_gap(clips: Path, tmp_path: Path) -> None:
    versions = [window(0, 1), window(4, 6), window(4, 7, ended=True)]
    with pytest.raises(SegmentGap, match="Segment 2 "):
        live(clips, tmp_path / "a", versions)
    got = live(clips, tmp_path / "b", versions, allow_gaps=True)
    kept = cut(clips).segments
    assert got.bytes == b"".join(kept[number] for number in (0, 1, 4, 5, 6, 7))
    assert len(got.gaps) == 1 and got.gaps[0].start_seconds == 2.0


def test_a_live_source_that_falls_silent_without_an_end_is_given_up(clips: Path, tmp_path: Path) -> None:
    limits = QUICK.model_copy(update={"live_patience": QUICK.stall_timeout})
    with pytest.raises(StalledTransfer, match="nothing new"):
        live(clips, tmp_path, [window(0, 2)], limits=limits)


def test_a_live_source_that_asks_for_a_look_in_a_year_is_given_up_as_soon(clips: Path, tmp_path: Path) -> None:
    limits = QUICK.model_copy(update={"live_patience": QUICK.stall_timeout})
    version = window(0, 2).replace(b"TARGETDURATION:0.1", b"TARGETDURATION:31536000")
    with pytest.raises(StalledTransfer, match="nothing new"):
        live(clips, tmp_path, [version], limits=limits)


def test_a_live_recording_that_was_cut_short_goes_on(clips: Path, tmp_path: Path) -> None:
    limits = QUICK.model_copy(update={"live_patience": QUICK.stall_timeout})
    with pytest.raises(StalledTransfer):
        live(clips, tmp_path, [window(0, 3)], limits=limits)
    got = live(clips, tmp_path, [window(3, 6), window(4, 7, ended=True)])
    assert got.bytes == cut(clips).whole


# --- cancellation ---------------------------------------------------------------------------------


def test_a_cancelled_transfer_leaves_nothing_running_and_can_be_resumed(clips: Path, tmp_path: Path) -> None:
    files, whole = plain_ts(clips)
    with Origin(dict(files), stories={"s5.ts": "0 stall, ok"}) as origin:
        limits = QUICK.model_copy(update={"stall_timeout": QUICK.live_patience})

        async def cancelled(outside: Outside) -> None:
            source = source_of(origin.url("list.m3u8"))
            what = FetchRequest(Identity(url="x", name="x"), Rendition(id="source", label="x"), tmp_path)
            with anyio.move_on_after(1.0):
                await HlsResolver().fetch(outside, source, what)

        with_outside(cancelled, limits)  # type: ignore[arg-type]
        assert fetch_rendition(origin.url("list.m3u8"), tmp_path).bytes == whole

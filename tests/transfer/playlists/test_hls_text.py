"""HLS texts as values: what stands in them, what follows from what stands before, and what is refused."""

from __future__ import annotations

import pytest

from tests.support.ladders import hls_text, ladder
from tidegate.errors import NotMedia, TidegateError, UnsupportedSource
from tidegate.transfer.playlists.hls import MasterPlaylist, MediaPlaylist
from tidegate.transfer.playlists.media import ByteRange
from tidegate.transfer.playlists.read_hls import read

BASE = "https://media.example/films/one/list.m3u8?token=abc"
KEY = '#EXT-X-KEY:METHOD=AES-128,URI="key.bin"'


def media(*arguments: object, **told: object) -> MediaPlaylist:
    playlist = read(hls_text(*arguments, **told).decode(), BASE)  # type: ignore[arg-type]
    assert isinstance(playlist, MediaPlaylist)
    return playlist


def master(text: bytes) -> MasterPlaylist:
    playlist = read(text.decode(), BASE)
    assert isinstance(playlist, MasterPlaylist)
    return playlist


def test_links_are_relative_to_where_the_playlist_came_from() -> None:
    links = ["a.ts", "/b.ts", "https://other.example/c.ts", "//third.example/d.ts", "../e.ts?x=1"]
    assert [segment.resource.url for segment in media(links).segments] == [
        "https://media.example/films/one/a.ts",
        "https://media.example/b.ts",
        "https://other.example/c.ts",
        "https://third.example/d.ts",
        "https://media.example/films/e.ts?x=1",
    ]


def test_segments_are_numbered_from_the_media_sequence_and_placed_in_time() -> None:
    playlist = media(["a.ts", "b.ts", "c.ts"], sequence=17, seconds=4.5)
    assert [segment.number for segment in playlist.segments] == [17, 18, 19]
    assert [segment.start_seconds for segment in playlist.segments] == [0.0, 4.5, 9.0]
    assert playlist.ended and playlist.seconds == 13.5


@pytest.mark.parametrize(
    "link", ["file:///etc/passwd", "ftp://a.example/b.ts", "data:video/mp2t;base64,AA", "http:///b"]
)
def test_a_playlist_leads_nowhere_but_to_the_web(link: str) -> None:
    for text in (hls_text([link]), ladder({link: "1280x720@1000000"})):
        with pytest.raises(UnsupportedSource, match="only http and https"):
            read(text.decode(), BASE)


@pytest.mark.parametrize(
    "tag",
    ['#EXT-X-KEY:METHOD=AES-128,URI="file:///key"', '#EXT-X-MAP:URI="file:///init.mp4"'],
)
def test_neither_does_a_key_or_an_init_section(tag: str) -> None:
    with pytest.raises(UnsupportedSource, match="only http and https"):
        media(["a.ts"], before={0: [tag]})


def test_a_vector_is_written_or_follows_from_the_number() -> None:
    written = KEY + ",IV=0x000000000000000000000000DEADBEEF"
    segments = media(["a", "b", "c", "d"], sequence=300, before={0: [KEY], 2: [written]}).segments
    vectors = [int.from_bytes(segment.resource.key.iv, "big") for segment in segments if segment.resource.key]
    assert vectors == [300, 301, 0xDEADBEEF, 0xDEADBEEF]


def test_keys_change_and_end_where_the_playlist_says_so() -> None:
    other = '#EXT-X-KEY:METHOD=AES-128,URI="https://keys.example/2"'
    segments = media(["a", "b", "c", "d"], before={1: [KEY], 2: [other], 3: ["#EXT-X-KEY:METHOD=NONE"]}).segments
    keys = [segment.resource.key.url if segment.resource.key else None for segment in segments]
    assert keys == [None, "https://media.example/films/one/key.bin", "https://keys.example/2", None]


def test_of_several_keys_for_the_same_segments_the_one_that_can_be_opened_is_taken() -> None:
    drm = '#EXT-X-KEY:METHOD=SAMPLE-AES,URI="skd://x",KEYFORMAT="com.apple.streamingkeydelivery"'
    for tags in ([drm, KEY], [KEY, drm]):
        segments = media(["a", "b"], before={0: tags}).segments
        assert all(segment.resource.key and segment.resource.key.url.endswith("key.bin") for segment in segments)


@pytest.mark.parametrize(
    "tag",
    [
        '#EXT-X-KEY:METHOD=SAMPLE-AES,URI="key.bin"',
        '#EXT-X-KEY:METHOD=SAMPLE-AES-CTR,URI="data:x",KEYFORMAT="urn:uuid:edef8ba9-79d6-4ace-a3c8-27dcd51d21ed"',
        '#EXT-X-KEY:METHOD=AES-128,URI="key.bin",KEYFORMAT="com.microsoft.playready"',
    ],
)
def test_protected_media_is_refused_by_name(tag: str) -> None:
    with pytest.raises(UnsupportedSource, match="encrypted in a way"):
        media(["a.ts"], before={0: [tag]})


def test_a_range_without_an_offset_begins_where_the_one_before_it_ended() -> None:
    ranges = {0: ["#EXT-X-BYTERANGE:100@50"], 1: ["#EXT-X-BYTERANGE:30"], 2: ["#EXT-X-BYTERANGE:7"]}
    segments = media(["all.ts"] * 3, before=ranges).segments
    assert [segment.resource.byte_range for segment in segments] == [
        ByteRange(50, 100),
        ByteRange(150, 30),
        ByteRange(180, 7),
    ]


@pytest.mark.parametrize(
    "before",
    [
        {0: ["#EXT-X-BYTERANGE:100"]},
        {0: ["#EXT-X-BYTERANGE:100@0"], 1: ["#EXT-X-BYTERANGE:100"]},
        {0: ["#EXT-X-BYTERANGE:0@0"]},
        {0: ["#EXT-X-BYTERANGE:x@1"]},
        {0: [KEY + ",IV=0xZZ"]},
        {0: ["#EXT-X-KEY:METHOD=AES-128"]},
        {0: ["#EXT-X-MAP:BYTERANGE=\"3@0\""]},
        {0: ["#EXTINF:soon,"]},
        {0: ["#EXTINF:nan,"]},
        {0: ["#EXT-X-TARGETDURATION:soon"]},
    ],
)  # fmt: skip
def test_what_cannot_be_understood_is_a_damaged_playlist(before: dict[int, list[str]]) -> None:
    text = hls_text(["a.ts", "b.ts"], before=before).decode()
    if "#EXTINF:soon" in text or "nan" in text:
        text = text.replace("#EXTINF:1.00000,\n", "", 1)
    with pytest.raises(NotMedia, match="damaged") as failure:
        read(text, BASE)
    assert "abc" not in str(failure.value.evidence)


@pytest.mark.parametrize("sequence", [-1, 2**64, 2**128, 10**4000], ids=["-1", "2^64", "2^128", "10^4000"])
@pytest.mark.parametrize("tags", [[], [KEY]])
def test_a_media_sequence_that_no_playlist_may_have_is_a_damaged_playlist(sequence: int, tags: list[str]) -> None:
    with pytest.raises(NotMedia, match="damaged"):
        media(["a.ts"], sequence=sequence, before={0: tags})


@pytest.mark.parametrize(
    "tag",
    [
        f"#EXT-X-MEDIA-SEQUENCE:{'9' * 5000}",
        f"#EXT-X-DISCONTINUITY-SEQUENCE:{'9' * 5000}",
        f"#EXT-X-BYTERANGE:{'9' * 5000}@0",
        f"#EXT-X-BYTERANGE:1@{'9' * 5000}",
        f'#EXT-X-MAP:URI="i.mp4",BYTERANGE="{"9" * 5000}@0"',
        f"#EXT-X-TARGETDURATION:{'9' * 5000}",
        "#EXT-X-TARGETDURATION:1e300",
        f"{KEY},IV=0x{'9' * 5000}",
    ],
)
def test_numbers_without_an_end_are_a_damaged_playlist(tag: str) -> None:
    with pytest.raises(NotMedia, match="damaged"):
        media(["a.ts"], before={0: [tag]})


@pytest.mark.parametrize("seconds", ["9" * 5000, "1e300"], ids=["digits", "exponent"])
def test_so_are_durations(seconds: str) -> None:
    text = hls_text(["a.ts", "b.ts"]).decode().replace("#EXTINF:1.00000", f"#EXTINF:{seconds}")
    with pytest.raises(NotMedia, match="damaged"):
        read(text, BASE)


@pytest.mark.parametrize("size", [f"{'9' * 5000}x1", f"1x{'9' * 5000}"])
def test_a_size_or_a_bandwidth_that_nothing_has_says_nothing(size: str) -> None:
    (variant,) = master(ladder({"a.m3u8": f"{size}@1{'0' * 300}"})).variants
    assert (variant.height, variant.width, variant.bandwidth_bps) == (None, None, None)
    assert variant.id == "rendition"


@pytest.mark.parametrize("text", ["", "<html>sign in</html>", '{"error": 1}', "EXTM3U", "#EXTM3U\n#EXT-X-ENDLIST\n"])
def test_what_is_no_playlist_is_not_media(text: str) -> None:
    with pytest.raises(NotMedia):
        read(text, BASE)


def test_a_text_that_breaks_off_after_a_duration_is_damaged() -> None:
    with pytest.raises(NotMedia, match="breaks off"):
        read("#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\na.ts\n#EXTINF:4,\n", BASE)


def test_an_init_section_holds_until_the_next_and_carries_the_key_that_was_in_force() -> None:
    before = {
        0: ['#EXT-X-MAP:URI="one.mp4",BYTERANGE="600@8"'],
        1: [KEY + ",IV=0x01", '#EXT-X-MAP:URI="two.mp4"'],
    }
    first, second, third = (segment.init for segment in media(["a", "b", "c"], before=before).segments)
    assert first is not None and first.byte_range == ByteRange(8, 600) and first.key is None
    assert second is not None and second.key is not None and second.key.iv[-1] == 1
    assert third == second


def test_a_discontinuity_begins_a_new_stretch_and_a_gap_is_known_to_be_missing() -> None:
    before = {1: ["#EXT-X-DISCONTINUITY"], 2: ["#EXT-X-GAP"]}
    head = ["#EXT-X-DISCONTINUITY-SEQUENCE:5"]
    segments = media(["a", "b", "c"], before=before, head=head).segments
    assert [segment.stretch for segment in segments] == [5, 6, 6]
    assert [segment.missing for segment in segments] == [False, False, True]


def test_tags_that_do_not_matter_here_may_be_anything() -> None:
    odd = ["#EXT-X-PROGRAM-DATE-TIME:yesterday", "#EXT-X-DATERANGE:x", "#EXT-X-CUE-OUT:;", "#EXT-X-PART:DURATION=x"]
    assert len(media(["a", "b"], before={0: odd, 1: odd}).segments) == 2


def test_variables_and_key_frame_lists_are_refused_in_words() -> None:
    for tag in ('#EXT-X-DEFINE:NAME="a",VALUE="b"', "#EXT-X-I-FRAMES-ONLY"):
        with pytest.raises(UnsupportedSource):
            media(["a"], head=[tag])


def test_a_playlist_without_an_end_is_live() -> None:
    assert not media(["a", "b"], ended=False).ended


# --- master playlists -----------------------------------------------------------------------------


def test_renditions_have_ids_that_stay_and_can_be_folders() -> None:
    offered = master(ladder({"hi.m3u8": "1280x720@2800000", "lo.m3u8": "640x360@800400", "x.m3u8": "@64000"}))
    assert [(one.id, one.height, one.bandwidth_bps) for one in offered.variants] == [
        ("720p-2800k", 720, 2800000),
        ("360p-800k", 360, 800400),
        ("64k", None, 64000),
    ]


def test_lines_that_say_the_same_are_one_rendition_elsewhere_and_others_get_their_own_id() -> None:
    text = ladder({"a.m3u8": "1280x720@2800000", "b.m3u8": "1280x720@2800000"}).decode()
    other = '#EXT-X-STREAM-INF:BANDWIDTH=2800000,RESOLUTION=1280x720,CODECS="hvc1"\nc.m3u8\n'
    offered = master((text + other).encode())
    assert [one.id for one in offered.variants] == ["720p-2800k", "720p-2800k-2"]
    assert [url.rpartition("/")[2] for url in offered.variants[0].urls] == ["a.m3u8", "b.m3u8"]


def test_a_line_with_sound_only_is_no_rendition_of_a_film() -> None:
    text = ladder({"hi.m3u8": "1280x720@2800000"}).decode()
    sound = '#EXT-X-STREAM-INF:BANDWIDTH=64000,CODECS="mp4a.40.2"\nsound.m3u8\n'
    assert [one.id for one in master((text + sound).encode()).variants] == ["720p-2800k"]
    only = '#EXTM3U\n' + sound  # fmt: skip
    assert [one.id for one in master(only.encode()).variants] == ["64k"]


def test_sound_and_subtitles_belong_to_the_renditions_of_their_group() -> None:
    lines = [
        '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="hi",NAME="Deutsch",LANGUAGE="de",URI="de.m3u8"',
        '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="hi",NAME="English",LANGUAGE="en",DEFAULT=YES,URI="en.m3u8"',
        '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="lo",NAME="English",URI="lo.m3u8"',
        '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="hi",NAME="inside"',
        '#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID="s",NAME="English",LANGUAGE="en",URI="s.m3u8"',
        '#EXT-X-MEDIA:TYPE=CLOSED-CAPTIONS,GROUP-ID="c",NAME="x",INSTREAM-ID="CC1"',
    ]
    offered = master(ladder({"v.m3u8": "1280x720@2800000"}, media=lines, also=',AUDIO="hi",SUBTITLES="s"'))
    (variant,) = offered.variants
    assert [one.language for one in offered.companions_of(variant, "audio")] == ["en", "de"]
    assert [one.language for one in offered.companions_of(variant, "subtitles")] == ["en"]


def test_tokens_in_queries_do_not_make_another_content_and_other_segments_do() -> None:
    def content(link: str, base: str = BASE) -> str:
        playlist = read(hls_text([link, "b.ts"]).decode(), base)
        return playlist.content

    assert content("a.ts?token=1") == content("a.ts?token=2")
    assert content("https://one.example/films/one/a.ts") == content("a.ts")
    assert content("a.ts") != content("c.ts")


@pytest.mark.parametrize("tags", range(2, 40, 3))
def test_a_text_cut_anywhere_is_a_playlist_or_a_typed_failure(tags: int) -> None:
    text = hls_text(["a.ts", "b.ts"], before={0: [KEY, "#EXT-X-BYTERANGE:9@1"], 1: ['#EXT-X-MAP:URI="i.mp4"']}).decode()
    try:
        read(text[: len(text) * tags // 40], BASE)
    except TidegateError as failure:
        assert failure.message

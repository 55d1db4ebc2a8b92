"""The decision table as data: what each profile makes of each source."""

from __future__ import annotations

import pytest

from tidegate.errors import NotMedia
from tidegate.model import Decision, MediaInfo, ProfileName, Quality, Strategy, StreamInfo
from tidegate.stages.decide import ALLOWED, decide, findings, ladder, worth_a_look

UNIVERSAL, MODERN, ORIGINAL = ProfileName.UNIVERSAL, ProfileName.MODERN, ProfileName.ORIGINAL

H264 = {"codec": "h264", "pix_fmt": "yuv420p", "bit_depth": 8, "height": 720}
H264_10 = H264 | {"pix_fmt": "yuv420p10le", "bit_depth": 10}
H264_422 = H264 | {"pix_fmt": "yuv422p"}
H264_444 = H264 | {"pix_fmt": "yuv444p"}
H264_FULL_RANGE = H264 | {"pix_fmt": "yuvj420p"}
HEVC = H264 | {"codec": "hevc"}
HEVC_10 = H264_10 | {"codec": "hevc"}
HEVC_12 = H264 | {"codec": "hevc", "pix_fmt": "yuv420p12le", "bit_depth": 12}
HEVC_422 = H264_422 | {"codec": "hevc"}
AV1 = H264 | {"codec": "av1"}
VP9 = H264 | {"codec": "vp9"}
VP8 = H264 | {"codec": "vp8"}
MPEG2 = H264 | {"codec": "mpeg2video"}
MPEG4 = H264 | {"codec": "mpeg4"}


def media(*streams: dict[str, object]) -> MediaInfo:
    return MediaInfo(
        container="any",
        streams=tuple(StreamInfo(index=at, **told) for at, told in enumerate(streams)),  # type: ignore[arg-type]
    )


def video(told: dict[str, object], **more: object) -> dict[str, object]:
    return {"kind": "video", **told, **more}


def audio(codec: str = "aac", **more: object) -> dict[str, object]:
    return {"kind": "audio", "codec": codec, "sample_rate": 48000, "channels": 2, "packets": 100, **more}


def subtitle(codec: str) -> dict[str, object]:
    return {"kind": "subtitle", "codec": codec}


def short(decision: Decision) -> str:
    return f"{decision.strategy} {decision.container} {decision.video}+{decision.audio}"


KEEP = "copy mp4 copy+copy"
BOTH = "transcode mp4 h264+aac"
PICTURE = "transcode mp4 h264+copy"
SOUND = "transcode mp4 copy+aac"
MATROSKA = "copy matroska copy+copy"

TABLE = [
    # source                       universal, modern,  original
    (H264, "aac", KEEP, KEEP, KEEP),
    (H264_FULL_RANGE, "aac", KEEP, KEEP, KEEP),
    (H264_10, "aac", PICTURE, PICTURE, KEEP),
    (H264_422, "aac", PICTURE, PICTURE, KEEP),
    (H264_444, "aac", PICTURE, PICTURE, KEEP),
    (HEVC, "aac", PICTURE, KEEP, KEEP),
    (HEVC_10, "aac", PICTURE, KEEP, KEEP),
    (HEVC_12, "aac", PICTURE, PICTURE, KEEP),
    (HEVC_422, "aac", PICTURE, PICTURE, KEEP),
    (AV1, "opus", BOTH, KEEP, KEEP),
    (VP9, "opus", BOTH, KEEP, KEEP),
    (VP8, "vorbis", BOTH, BOTH, MATROSKA),
    (MPEG2, "mp2", BOTH, BOTH, MATROSKA),
    (MPEG2, "ac3", BOTH, PICTURE, MATROSKA),
    (MPEG4, "mp3", BOTH, PICTURE, KEEP),
    (H264, "ac3", SOUND, KEEP, KEEP),
    (H264, "eac3", SOUND, KEEP, KEEP),
    (H264, "flac", SOUND, KEEP, KEEP),
    (H264, "mp3", SOUND, KEEP, KEEP),
    (H264, "mp2", SOUND, SOUND, MATROSKA),
    (H264, "vorbis", SOUND, SOUND, MATROSKA),
    (H264, "dts", SOUND, SOUND, MATROSKA),
    (H264, "pcm_s16le", SOUND, SOUND, MATROSKA),
]


@pytest.mark.parametrize(("picture", "sound", "universal", "modern", "original"), TABLE)
def test_the_decision_table(picture: dict[str, object], sound: str, universal: str, modern: str, original: str) -> None:
    source = media(video(picture), audio(sound))
    decided = [short(decide(source, profile, Quality.AUTO)) for profile in (UNIVERSAL, MODERN, ORIGINAL)]
    assert decided == [universal, modern, original]


@pytest.mark.parametrize("profile", ProfileName)
def test_every_decision_says_why(profile: ProfileName) -> None:
    for picture, sound, *_ in TABLE:
        assert all(decide(media(video(picture), audio(sound)), profile, Quality.AUTO).reasons)


@pytest.mark.parametrize(
    ("source", "profile", "expected"),
    [
        (media(audio()), UNIVERSAL, "copy mp4 none+copy"),
        (media(audio("flac")), UNIVERSAL, "transcode mp4 none+aac"),
        (media(audio("vorbis")), ORIGINAL, "copy matroska none+copy"),
        (media(video(H264)), UNIVERSAL, "copy mp4 copy+none"),
        (media(video(MPEG2)), MODERN, "transcode mp4 h264+none"),
    ],
)
def test_picture_or_sound_alone_is_enough(source: MediaInfo, profile: ProfileName, expected: str) -> None:
    assert short(decide(source, profile, Quality.AUTO)) == expected


@pytest.mark.parametrize("profile", ProfileName)
@pytest.mark.parametrize("dead", [{"sample_rate": 0}, {"channels": 0}, {"packets": 0}, {"sample_rate": None}])
def test_audio_that_is_declared_but_holds_no_sound_is_dropped_and_told(
    dead: dict[str, object], profile: ProfileName
) -> None:
    source = media(video(H264), audio(**dead), audio())
    decision = decide(source, profile, Quality.AUTO)
    assert decision.keep_audio == (2,)
    assert [finding.code for finding in findings(source, decision)] == ["audio_dropped"]
    assert decide(media(video(H264), audio(**dead)), profile, Quality.AUTO).audio == "none"


@pytest.mark.parametrize("profile", ProfileName)
def test_a_source_without_any_living_stream_is_no_media(profile: ProfileName) -> None:
    for source in (
        media(),
        media(audio(packets=0)),
        media(subtitle("subrip")),
        media(video(H264, attached_picture=True)),
    ):
        with pytest.raises(NotMedia):
            decide(source, profile, Quality.AUTO)


@pytest.mark.parametrize("profile", ProfileName)
def test_audio_whose_packets_were_not_counted_counts_as_living(profile: ProfileName) -> None:
    assert decide(media(audio(packets=None)), profile, Quality.AUTO).keep_audio == (0,)


@pytest.mark.parametrize("profile", ProfileName)
def test_cover_art_is_no_film(profile: ProfileName) -> None:
    cover = video({"codec": "mjpeg", "pix_fmt": "yuvj420p"}, attached_picture=True)
    assert short(decide(media(cover, video(H264), audio()), profile, Quality.AUTO)) == KEEP
    assert decide(media(cover, audio()), profile, Quality.AUTO).video == "none"


def test_all_living_audio_is_kept_and_one_bad_stream_encodes_them_all() -> None:
    decision = decide(media(video(H264), audio(), audio("dts")), UNIVERSAL, Quality.AUTO)
    assert (decision.audio, decision.keep_audio) == ("aac", (1, 2))


@pytest.mark.parametrize(
    ("codec", "profile", "sound", "kept"),
    [
        ("subrip", UNIVERSAL, "aac", "mov_text"),
        ("ass", MODERN, "aac", "mov_text"),
        ("subrip", ORIGINAL, "aac", "mov_text"),
        ("subrip", ORIGINAL, "vorbis", "copy"),
        ("hdmv_pgs_subtitle", ORIGINAL, "vorbis", "copy"),
        ("eia_608", UNIVERSAL, "aac", "none"),
        ("dvb_teletext", ORIGINAL, "vorbis", "none"),
    ],
)
def test_subtitles_are_kept_where_the_container_takes_them_and_told_where_not(
    codec: str, profile: ProfileName, sound: str, kept: str
) -> None:
    source = media(video(H264), audio(sound), subtitle(codec))
    decision = decide(source, profile, Quality.AUTO)
    assert decision.subtitles == kept
    assert decision.keep_subtitles == (() if kept == "none" else (2,))
    told = [finding.code for finding in findings(source, decision)]
    assert told == (["subtitles_dropped"] if kept == "none" else [])


@pytest.mark.parametrize(
    ("height", "quality", "expected"),
    [
        (1080, Quality.P720, 720),
        (1080, Quality.P360, 360),
        (720, Quality.P720, None),
        (480, Quality.P720, None),
        (2160, Quality.AUTO, None),
        (2160, Quality.BEST, None),
        (2160, Quality.WORST, None),
    ],
)
@pytest.mark.parametrize("profile", [UNIVERSAL, MODERN])
def test_an_explicit_rung_caps_the_height_and_no_other_does(
    height: int, quality: Quality, expected: int | None, profile: ProfileName
) -> None:
    decision = decide(media(video(H264, height=height), audio()), profile, quality)
    assert decision.height == expected
    assert decision.strategy == (Strategy.COPY if expected is None else Strategy.TRANSCODE)


def test_original_keeps_the_height_whatever_was_asked() -> None:
    decision = decide(media(video(H264, height=2160), audio()), ORIGINAL, Quality.P360)
    assert (decision.strategy, decision.height) == (Strategy.COPY, None)


@pytest.mark.parametrize(
    ("codec", "profile", "beside"),
    [
        ("subrip", UNIVERSAL, "subtitles-2.eng.vtt"),
        ("ass", MODERN, "subtitles-2.eng.vtt"),
        ("mov_text", ORIGINAL, "subtitles-2.eng.vtt"),
        ("hdmv_pgs_subtitle", UNIVERSAL, "subtitles-2.eng.sup"),
        ("dvd_subtitle", MODERN, "subtitles-2.eng.mks"),
        ("dvb_subtitle", ORIGINAL, "subtitles-2.eng.mks"),
    ],
)
def test_subtitles_lie_beside_the_video_too_and_nothing_is_told(codec: str, profile: ProfileName, beside: str) -> None:
    source = media(video(H264), audio(), subtitle(codec) | {"language": "eng"})
    decision = decide(source, profile, Quality.AUTO)
    assert [sidecar.name for sidecar in decision.sidecars] == [beside]
    assert findings(source, decision) == ()


@pytest.mark.parametrize("language", [None, "und", "../../x", "a b", "x" * 40])
def test_a_language_that_is_no_tag_is_not_part_of_a_file_name(language: str | None) -> None:
    source = media(video(H264), subtitle("subrip") | {"language": language})
    assert [sidecar.name for sidecar in decide(source, UNIVERSAL, Quality.AUTO).sidecars] == ["subtitles-1.vtt"]


def test_subtitles_without_a_line_make_no_file() -> None:
    assert decide(media(video(H264), subtitle("subrip") | {"packets": 0}), UNIVERSAL, Quality.AUTO).sidecars == ()


def test_what_matroska_holds_is_not_beside_it_but_a_cover_is() -> None:
    cover = video({"codec": "mjpeg"}, attached_picture=True)
    font = {"kind": "attachment", "codec": "ttf", "file_name": "a.ttf"}
    source = media(video(VP8), audio("vorbis"), subtitle("subrip"), cover, font)
    decision = decide(source, ORIGINAL, Quality.AUTO)
    assert [sidecar.name for sidecar in decision.sidecars] == ["cover-3.jpg"]
    assert (decision.keep_subtitles, decision.keep_covers, decision.keep_attachments) == ((2,), (), (4,))
    assert findings(source, decision) == ()


def test_mp4_keeps_a_cover_and_tells_of_an_attachment_that_it_cannot_hold() -> None:
    font = {"kind": "attachment", "codec": "ttf", "file_name": "a.ttf"}
    source = media(video(H264), audio(), video({"codec": "png"}, attached_picture=True), font)
    decision = decide(source, UNIVERSAL, Quality.AUTO)
    assert (decision.keep_covers, decision.keep_attachments) == ((2,), ())
    assert [finding.code for finding in findings(source, decision)] == ["attachment_dropped"]


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_hdr_is_kept_or_its_loss_is_told(transfer: str) -> None:
    source = media(video(HEVC_10, color_transfer=transfer), audio())
    told = [
        [f.code for f in findings(source, decide(source, profile, Quality.AUTO, can_tone_map=can))]
        for profile, can in ((UNIVERSAL, True), (UNIVERSAL, False), (MODERN, False), (ORIGINAL, False))
    ]
    assert told == [["hdr_tone_mapped"], ["hdr_reduced"], [], []]


@pytest.mark.parametrize(
    ("told", "universal", "modern"),
    [
        ({"profile": "High"}, KEEP, KEEP),
        ({"profile": "Constrained Baseline", "level": 31}, KEEP, KEEP),
        ({"profile": "High 10"}, PICTURE, PICTURE),
        ({"profile": "High 4:4:4 Predictive"}, PICTURE, PICTURE),
        ({"profile": "High", "level": 52}, KEEP, KEEP),
        ({"profile": "High", "level": 62}, PICTURE, KEEP),
        ({"width": 7680, "height": 4320}, PICTURE, KEEP),
        ({"width": 1080, "height": 2400}, KEEP, KEEP),
    ],
)
def test_profiles_and_levels_that_decoders_refuse_are_encoded(
    told: dict[str, object], universal: str, modern: str
) -> None:
    source = media(video(H264, **told), audio())
    decisions = [decide(source, profile, Quality.AUTO) for profile in (UNIVERSAL, MODERN)]
    assert [short(decision) for decision in decisions] == [universal, modern]
    assert decisions[0].height == (2160 if told.get("height") == 4320 else None)


@pytest.mark.parametrize(
    ("header", "scan", "universal", "fields"),
    [
        ("tt", None, PICTURE, "tff"),
        ("bt", None, PICTURE, "bff"),
        ("tt", "progressive", KEEP, None),
        ("progressive", "bff", PICTURE, "bff"),
        ("tt", "bff", PICTURE, "bff"),
        ("progressive", None, KEEP, None),
    ],
)
def test_fields_are_what_a_look_shows_and_only_without_one_what_the_header_says(
    header: str, scan: str | None, universal: str, fields: str | None
) -> None:
    source = media(video(H264, field_order=header, scan=scan), audio())
    decision = decide(source, UNIVERSAL, Quality.AUTO)
    assert (short(decision), decision.deinterlace) == (universal, fields)
    assert any("interlaced" in reason for reason in decision.reasons) == (fields is not None)
    assert short(decide(source, MODERN, Quality.AUTO)) == KEEP


def test_pictures_are_looked_at_only_where_it_matters() -> None:
    def looked(told: dict[str, object], profile: ProfileName) -> bool:
        source = media(video(told), audio())
        return worth_a_look(source, profile, decide(source, profile, Quality.AUTO))

    assert not looked(H264 | {"field_order": "progressive"}, UNIVERSAL)
    assert looked(H264 | {"field_order": "tt"}, UNIVERSAL)
    assert looked(MPEG2 | {"field_order": "progressive"}, MODERN)
    assert not looked(MPEG2 | {"field_order": "tt"}, ORIGINAL)


# --- the ladder -------------------------------------------------------------------------------------


def steps(source: MediaInfo, profile: ProfileName) -> list[str]:
    return [f"{r.strategy} {r.video}+{r.audio}" for r in ladder(decide(source, profile, Quality.AUTO), profile, source)]


def test_copying_climbs_to_repair_and_then_to_encoding_everything() -> None:
    expected = ["copy copy+copy", "repair copy+copy", "transcode h264+aac"]
    assert steps(media(video(H264), audio()), UNIVERSAL) == expected


def test_original_never_encodes() -> None:
    for picture, sound, *_ in TABLE:
        assert steps(media(video(picture), audio(sound)), ORIGINAL) == ["copy copy+copy", "repair copy+copy"]


def test_encoding_one_stream_climbs_to_encoding_both() -> None:
    assert steps(media(video(H264), audio("mp2")), UNIVERSAL) == ["transcode copy+aac", "transcode h264+aac"]


def test_encoding_everything_has_nowhere_to_climb() -> None:
    assert steps(media(video(MPEG2), audio("mp2")), UNIVERSAL) == ["transcode h264+aac"]


def test_a_ladder_invents_no_stream() -> None:
    assert steps(media(audio()), UNIVERSAL)[-1] == "transcode none+aac"
    assert steps(media(video(H264)), UNIVERSAL)[-1] == "transcode h264+none"


def test_no_rung_is_tried_twice() -> None:
    for profile in ProfileName:
        for picture, sound, *_ in TABLE:
            source = media(video(picture), audio(sound))
            rungs = ladder(decide(source, profile, Quality.AUTO), profile, source)
            assert len({rung.model_dump_json() for rung in rungs}) == len(rungs)


def test_a_wider_profile_allows_whatever_a_narrower_one_does() -> None:
    for narrow, wide in ((UNIVERSAL, MODERN), (MODERN, ORIGINAL)):
        assert ALLOWED[narrow].video <= ALLOWED[wide].video
        assert ALLOWED[narrow].audio <= ALLOWED[wide].audio

"""The flags of a decision: each only where it is needed, and the size that an encoded picture gets."""

from __future__ import annotations

import pytest

from tidegate.model import Decision, MediaInfo, Sidecar, Strategy, StreamInfo
from tidegate.stages.recipes import audio_arguments, filters, picture_size, sidecar_arguments, video_arguments
from tidegate.stages.scan import sample_places, scan_of

COPY = Decision(strategy=Strategy.COPY, container="mp4", video="copy", audio="copy", subtitles="none", keep_audio=(1,))
ENCODE = COPY.model_copy(update={"strategy": Strategy.TRANSCODE, "video": "h264", "audio": "aac"})
PICTURE = StreamInfo(index=0, kind="video", codec="mpeg2video", width=720, height=576)
SOUND = StreamInfo(index=1, kind="audio", codec="dts", channels=6, sample_rate=96000)


def media(**told: object) -> MediaInfo:
    return MediaInfo(container="any", streams=(PICTURE.model_copy(update=told), SOUND))


@pytest.mark.parametrize(
    ("told", "height", "size"),
    [
        ({}, None, (720, 576)),
        ({"sample_aspect": 16 / 15}, None, (768, 576)),
        ({"sample_aspect": 64 / 45}, None, (1024, 576)),
        ({"sample_aspect": 64 / 45}, 360, (640, 360)),
        ({"sample_aspect": 8 / 9, "height": 480}, None, (640, 480)),
        ({"sample_aspect": 100.0}, None, (720, 576)),
        ({"width": 641, "height": 361}, None, (640, 360)),
        ({"width": 1, "height": 1}, None, (2, 2)),
        ({"width": 1920, "height": 1080, "rotation": 90}, None, (1080, 1920)),
        ({"width": 1920, "height": 1080, "rotation": 270}, 720, (404, 720)),
        ({"width": 1920, "height": 1080, "rotation": 180}, 720, (1280, 720)),
        ({"width": 1920, "height": 800}, 1080, (1920, 800)),
        ({"width": 0}, None, None),
        ({"height": None}, 360, None),
    ],
)
def test_an_encoded_picture_is_upright_with_square_pixels_and_even_sides(
    told: dict[str, object], height: int | None, size: tuple[int, int] | None
) -> None:
    picture = PICTURE.model_copy(update=told)
    assert picture_size(ENCODE.model_copy(update={"height": height}), picture) == size


def test_odd_lines_are_left_out_rather_than_blurred() -> None:
    assert filters(ENCODE, PICTURE.model_copy(update={"width": 641}))[0].startswith("crop=")
    assert not filters(ENCODE, PICTURE)[0].startswith("crop=")


def test_fields_become_pictures_only_where_the_decision_says_so() -> None:
    assert not any("bwdif" in step for step in filters(ENCODE, PICTURE))
    first = filters(ENCODE.model_copy(update={"deinterlace": "bff"}), PICTURE)[0]
    assert first == "bwdif=mode=send_frame:parity=bff:deint=all", "before anything mixes the lines"


def test_hdr_is_mapped_or_at_least_marked_as_what_it_then_is() -> None:
    hdr = PICTURE.model_copy(update={"color_transfer": "arib-std-b67"})
    steps = filters(ENCODE.model_copy(update={"tone_map": "zscale"}), hdr)
    assert steps[2].startswith("zscale=pin=bt2020:min=bt2020nc:tin=arib-std-b67:") and "tonemap=" in " ".join(steps)
    plain = filters(ENCODE.model_copy(update={"tone_map": "plain"}), hdr)
    assert any("color_trc=bt709" in step for step in plain) and not any("zscale" in step for step in plain)


def test_times_are_kept_to_the_tick_only_where_the_rate_varies() -> None:
    steady, varied = (video_arguments(ENCODE, media(variable_rate=varied), 2) for varied in (False, True))
    assert "-enc_time_base:v:0" in varied and "-enc_time_base:v:0" not in steady
    assert "vfr" in steady and "vfr" in varied, "no build may repeat pictures to fill a constant rate"


def test_picture_and_sound_can_be_asked_for_apart() -> None:
    assert video_arguments(COPY, media(codec="hevc"), 2) == ["-c:v:0", "copy", "-tag:v:0", "hvc1"]
    assert audio_arguments(ENCODE, media()) == ["-c:a", "aac", "-b:a:0", "480000", "-ar:a:0", "48000"]
    nothing = COPY.model_copy(update={"video": "none", "audio": "none"})
    assert video_arguments(nothing, media(), 2) == audio_arguments(nothing, media()) == []


def test_a_sidecar_is_mapped_by_its_stream() -> None:
    words = sidecar_arguments(Sidecar(index=1, name="x.sup", codec="copy", muxer="sup"), media())
    assert words[:4] == ["-map", "0:1", "-c:s", "copy"]


# --- whole pictures or fields -----------------------------------------------------------------------


def said(top: int, bottom: int, whole: int) -> str:
    counted = f"TFF:{top:>6} BFF:{bottom:>6} Progressive:{whole:>6} Undetermined:     0"
    return f"[Parsed_idet_0 @ 0x5] [info] Multi frame detection: {counted}"


@pytest.mark.parametrize(
    ("lines", "scan"),
    [
        ([], None),
        ([said(0, 0, 0)], None),
        ([said(100, 0, 0)], "tff"),
        ([said(0, 90, 10)], "bff"),
        ([said(0, 0, 100)], "progressive"),
        ([said(47, 45, 8)], "progressive"),
        ([said(40, 0, 60)], "progressive"),
        ([said(50, 0, 0), said(0, 0, 0), said(0, 0, 20)], "tff"),
    ],
)
def test_the_majority_of_the_pictures_decides_and_only_if_they_agree(lines: list[str], scan: str | None) -> None:
    assert scan_of(lines) == scan


@pytest.mark.parametrize("length", [0.0, 1.0, 20.0, 20.1, 7200.0])
def test_samples_lie_inside_the_film(length: float) -> None:
    places = sample_places(length)
    assert places[0] == 0.0 and places == sorted(places)
    assert all(place + 5.0 <= length for place in places[1:])

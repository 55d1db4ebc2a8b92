"""What an output must show before it is believed: each way of not being whole, alone."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.errors import TruncatedMedia, VerificationFailed
from tidegate.model import Decision, MediaInfo, Strategy, StreamInfo
from tidegate.settings import ProcessSettings
from tidegate.stages.download import require_whole
from tidegate.stages.verification import SKEW_SECONDS, depth_for, tolerance_seconds, verify

COPY = Decision(strategy=Strategy.COPY, container="mp4", video="copy", audio="copy", subtitles="none", keep_audio=(1,))
TRANSCODE = COPY.model_copy(update={"strategy": Strategy.TRANSCODE, "video": "h264", "audio": "aac"})

PICTURE = StreamInfo(index=0, kind="video", codec="h264", start_seconds=0, end_seconds=60, packets=1500, frames=1500)
SOUND = StreamInfo(index=1, kind="audio", codec="aac", start_seconds=0, end_seconds=60, packets=2812, frames=2812)


def media(*streams: StreamInfo) -> MediaInfo:
    return MediaInfo(container="mp4", streams=streams)


def changed(stream: StreamInfo, **change: object) -> StreamInfo:
    return stream.model_copy(update=change)


SOURCE = media(PICTURE, SOUND)


@pytest.mark.parametrize("decision", [COPY, TRANSCODE])
def test_an_output_like_its_source_is_believed(decision: Decision) -> None:
    verification = verify(SOURCE, SOURCE, decision)
    assert verification.worst_difference_seconds == 0
    assert "every frame decoded" in verification.checks


def test_what_was_checked_depends_on_what_was_done() -> None:
    assert "packets and frames counted" in verify(SOURCE, SOURCE, COPY).checks
    assert "packets counted" not in verify(SOURCE, SOURCE, TRANSCODE).checks


BROKEN = {
    "picture shorter": (changed(PICTURE, end_seconds=59.4), SOUND),
    "picture longer": (changed(PICTURE, end_seconds=60.6), SOUND),
    "sound shorter": (PICTURE, changed(SOUND, end_seconds=59.4)),
    "sound longer": (PICTURE, changed(SOUND, end_seconds=60.6)),
    "5 % of the picture": (changed(PICTURE, end_seconds=3, packets=75, frames=75), SOUND),
    "cut head": (changed(PICTURE, start_seconds=0.6), SOUND),
    "no sound": (PICTURE,),
    "no picture": (SOUND,),
    "nothing": (),
    "a stream too many": (PICTURE, SOUND, changed(SOUND, index=2)),
    "sound in place of the picture": (changed(SOUND, index=0), SOUND),
    "nothing decodes": (changed(PICTURE, frames=0), SOUND),
    "nothing was decoded": (PICTURE, changed(SOUND, frames=None)),
    "one place does not decode": (changed(PICTURE, decode_errors=1), SOUND),
    "no end known": (changed(PICTURE, end_seconds=None), SOUND),
}


@pytest.mark.parametrize("decision", [COPY, TRANSCODE])
@pytest.mark.parametrize("streams", BROKEN.values(), ids=BROKEN.keys())
def test_an_output_that_is_not_whole_is_refused(streams: tuple[StreamInfo, ...], decision: Decision) -> None:
    with pytest.raises(VerificationFailed) as caught:
        verify(SOURCE, media(*streams), decision)
    assert caught.value.policy.climbs


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_lost_packets_of_a_copied_stream_are_noticed_though_its_ends_are_right(kind: str) -> None:
    streams = [changed(s, packets=(s.packets or 0) * 98 // 100) if s.kind == kind else s for s in SOURCE.streams]
    with pytest.raises(VerificationFailed, match="packets are missing"):
        verify(SOURCE, media(*streams), COPY)
    verify(SOURCE, media(*streams), TRANSCODE)


def test_a_packet_or_two_at_the_end_is_within_the_tolerance() -> None:
    verify(SOURCE, media(changed(PICTURE, packets=1498), changed(SOUND, packets=2811)), COPY)


def test_a_source_that_does_not_begin_at_zero_is_compared_by_its_span() -> None:
    shifted = media(*(changed(s, start_seconds=1.4, end_seconds=61.4) for s in SOURCE.streams))
    assert verify(shifted, SOURCE, COPY).worst_difference_seconds == 0


def test_cover_art_in_the_source_is_not_missed_in_the_output() -> None:
    cover = StreamInfo(index=2, kind="video", codec="mjpeg", attached_picture=True)
    verify(media(PICTURE, SOUND, cover), SOURCE, COPY)


def test_the_worst_difference_is_told() -> None:
    output = media(changed(PICTURE, end_seconds=60.1), changed(SOUND, end_seconds=59.75))
    assert verify(SOURCE, output, COPY).worst_difference_seconds == 0.25


def test_sound_that_runs_away_from_the_picture_is_refused_in_a_long_film_too() -> None:
    film = media(changed(PICTURE, end_seconds=7200), changed(SOUND, end_seconds=7200))
    apart = media(changed(PICTURE, end_seconds=7199.2), changed(SOUND, end_seconds=7200.8))
    with pytest.raises(VerificationFailed, match=r"moved by 1\.60 s"):
        verify(film, apart, TRANSCODE)
    together = media(changed(PICTURE, end_seconds=7199.2), changed(SOUND, end_seconds=7199.2))
    assert verify(film, together, TRANSCODE).end_skew_seconds == 0


def test_a_cover_that_was_to_be_kept_is_missed() -> None:
    keeping = COPY.model_copy(update={"keep_covers": (2,)})
    cover = StreamInfo(index=2, kind="video", codec="mjpeg", attached_picture=True)
    with pytest.raises(VerificationFailed, match="attached pictures"):
        verify(media(PICTURE, SOUND, cover), SOURCE, keeping)
    verify(media(PICTURE, SOUND, cover), media(PICTURE, SOUND, cover), keeping)


@pytest.mark.parametrize(
    ("asked", "size", "depth"),
    [
        ("auto", 999, "frames"),
        ("auto", 1000, "frames"),
        ("auto", 1001, "sampled"),
        ("full", 1001, "frames"),
        ("sampled", 1, "sampled"),
    ],
)
def test_how_deep_a_result_is_checked_depends_on_its_size_unless_it_was_asked(
    asked: Literal["auto", "full", "sampled"], size: int, depth: str
) -> None:
    assert depth_for(ProcessSettings(verify=asked, verify_full_below=1000), size) == depth


def test_a_verification_says_how_much_it_decoded() -> None:
    full = verify(SOURCE, SOURCE, COPY)
    assert (full.depth, full.decoded_seconds, full.length_seconds) == ("full", 60, 60)
    sampled = SOURCE.model_copy(
        update={
            "depth": "sampled",
            "streams": tuple(changed(s, frames=300, decoded_seconds=12) for s in SOURCE.streams),
        }
    )
    for decision in (COPY, TRANSCODE):
        told = verify(SOURCE, sampled, decision)
        assert (told.depth, told.decoded_seconds, told.length_seconds) == ("sampled", 12, 60)
        assert "every frame decoded" not in told.checks


@given(st.floats(0, 1e5))
def test_the_tolerance_is_half_a_second_or_half_a_percent(length: float) -> None:
    assert tolerance_seconds(length) == max(0.5, length * 0.005)


@given(st.floats(1, 1e5), st.floats(-0.9, 0.9))
def test_the_verdict_is_the_same_in_both_directions(length: float, share: float) -> None:
    source = media(changed(PICTURE, end_seconds=length), changed(SOUND, end_seconds=length))
    for sign in (1, -1):
        end = length + sign * share * min(tolerance_seconds(length), SKEW_SECONDS)
        verify(source, media(changed(PICTURE, end_seconds=end), changed(SOUND, end_seconds=length)), TRANSCODE)


# --- what the download refuses before any tool sees it ----------------------------------------------


def held(seconds: float, **more: object) -> MediaInfo:
    told = {"declares_duration": True, "duration_seconds": 60.0} | more
    return MediaInfo(container="matroska", streams=(changed(PICTURE, end_seconds=seconds),), **told)  # type: ignore[arg-type]


def test_a_file_that_holds_what_it_promises_passes() -> None:
    require_whole(held(60))
    require_whole(held(59.6))
    require_whole(held(90))


@pytest.mark.parametrize("media", [held(59.4), held(24), held(60, missing_bytes=1)])
def test_a_file_that_holds_less_than_it_promises_is_refused(media: MediaInfo) -> None:
    with pytest.raises(TruncatedMedia):
        require_whole(media)


def test_a_duration_that_was_worked_out_from_the_bytes_promises_nothing() -> None:
    require_whole(held(24, declares_duration=False))


def test_a_stream_may_promise_more_than_its_container() -> None:
    long = changed(PICTURE, end_seconds=60, duration_seconds=90)
    with pytest.raises(TruncatedMedia):
        require_whole(MediaInfo(container="mp4", streams=(long,), duration_seconds=60, declares_duration=True))


@pytest.mark.parametrize("decision", [COPY, TRANSCODE])
def test_how_long_the_last_picture_stays_is_no_difference_and_a_missing_one_is(decision: Decision) -> None:
    source = media(changed(PICTURE, last_seconds=59.96, end_seconds=65), SOUND)
    verify(source, media(changed(PICTURE, last_seconds=59.96), SOUND), decision)
    with pytest.raises(VerificationFailed):
        verify(source, media(changed(PICTURE, last_seconds=58.0, end_seconds=58), SOUND), decision)

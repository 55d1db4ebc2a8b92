"""Every input of the grid under every profile: the strategy, a verified and playable result, and its length.

A few rows run always, all of them with the slow tests. `python -m tests.support.matrix` prints the same as a table.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import matrix
from tests.support.clips import make
from tests.support.matrix import ROWS, Row, Shown, complaints, shown, strangers, with_pgs
from tidegate.model import ProfileName, Strategy
from tidegate.stages import Workbench
from tidegate.stages.verification import tolerance_seconds

pytestmark = pytest.mark.ci


UNIVERSAL, MODERN, ORIGINAL = ProfileName


@pytest.mark.parametrize("profile", ProfileName)
@pytest.mark.parametrize(
    "row", [pytest.param(row, id=row.name, marks=() if row.often else pytest.mark.slow) for row in ROWS]
)
def test_what_the_table_says_is_done_and_plays(row: Row, profile: ProfileName, bench: Workbench, clips: Path) -> None:
    one = shown(bench, row.name, matrix.made(clips, row), profile)
    assert one.decision == row.expected(profile), one.result.decision.reasons
    assert [step.outcome for step in one.result.ladder] == ["completed"], one.result.ladder
    assert one.findings == row.findings.get(profile, frozenset())
    assert (complaints(one.path), strangers(one)) == ("", [])
    before, after = one.lengths
    assert after == pytest.approx(before, abs=tolerance_seconds(before))
    assert one.result.verification.depth == "full"


def came_of(name: str, profile: ProfileName, bench: Workbench, clips: Path) -> Shown:
    [row] = [row for row in ROWS if row.name == name]
    return shown(bench, row.name, matrix.made(clips, row), profile)


def test_languages_and_the_default_of_several_tracks_are_kept(bench: Workbench, clips: Path) -> None:
    for profile in ProfileName:
        tracks = came_of("three tracks", profile, bench, clips).result.media.of_kind("audio")
        assert [(track.language, track.default) for track in tracks] == [("eng", False), ("deu", True), ("jpn", False)]


def test_pictures_at_a_variable_rate_keep_their_number_and_their_times(bench: Workbench, clips: Path) -> None:
    one = came_of("variable rate, encoded", UNIVERSAL, bench, clips)
    before, after = one.source.video, one.result.media.video
    assert before is not None and after is not None
    assert before.variable_rate and after.variable_rate
    assert after.frames == before.packets


def test_interlaced_pictures_are_made_whole_and_the_reasons_say_so(bench: Workbench, clips: Path) -> None:
    one = came_of("interlaced", UNIVERSAL, bench, clips)
    video = one.result.media.video
    assert video is not None and video.field_order == "progressive"
    assert one.result.decision.deinterlace == "tff"
    assert any("interlaced" in reason for reason in one.result.decision.reasons)
    assert came_of("interlaced", MODERN, bench, clips).result.decision.strategy is Strategy.COPY


@pytest.mark.slow
def test_a_header_that_lies_about_fields_is_not_believed(bench: Workbench, clips: Path) -> None:
    assert came_of("interlaced, told as progressive", UNIVERSAL, bench, clips).result.decision.deinterlace == "tff"
    told = came_of("progressive, told as interlaced", UNIVERSAL, bench, clips)
    assert told.source.video is not None and told.source.video.field_order != "progressive"
    assert told.result.decision.strategy is Strategy.COPY


def test_hdr_stays_hdr_in_modern_and_says_that_it_is_none_in_universal(bench: Workbench, clips: Path) -> None:
    kept, mapped = (came_of("hdr pq", profile, bench, clips).result.media.video for profile in (MODERN, UNIVERSAL))
    assert kept is not None and (kept.color_transfer, kept.bit_depth, kept.codec_tag) == ("smpte2084", 10, "hvc1")
    assert mapped is not None and (mapped.color_transfer, mapped.color_primaries) == (None, "bt709")


@pytest.mark.slow
def test_an_anamorphic_picture_keeps_its_shape(bench: Workbench, clips: Path) -> None:
    encoded = came_of("anamorphic", UNIVERSAL, bench, clips).result.media.video
    assert encoded is not None and (encoded.width, encoded.height, encoded.sample_aspect) == (256, 144, None)
    copied = came_of("anamorphic, copied", UNIVERSAL, bench, clips).result.media.video
    assert copied is not None and copied.sample_aspect == pytest.approx(16 / 11, abs=0.01)


@pytest.mark.parametrize("profile", ProfileName)
def test_subtitles_that_are_pictures_lie_beside_the_video(profile: ProfileName, bench: Workbench, clips: Path) -> None:
    one = shown(bench, "pgs", with_pgs(clips), profile)
    [beside] = one.result.asset.tracks[1:]
    assert beside.name == "subtitles-2.sup"
    assert bench.store.path(one.result.asset, beside).read_bytes()[:2] == b"PG"
    assert one.findings == frozenset()


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["dvdsub", "dvbsub"])
def test_subtitles_of_discs_and_broadcasts_lie_beside_the_video_in_matroska(
    codec: str, bench: Workbench, clips: Path
) -> None:
    recipe = matrix.Recipe(
        ".mkv",
        (*matrix.BOTH, "-i", str(with_pgs(clips))),
        ("-map", "0:v", "-map", "1:a", "-map", "2:s", *matrix.H264, *matrix.AAC, "-c:s", codec),
    )
    source = make(clips, f"matrix-{codec}", recipe, seconds=2, size=matrix.SIZE)
    one = shown(bench, codec, source, UNIVERSAL)
    assert [track.name for track in one.result.asset.tracks[1:]] == ["subtitles-2.mks"]
    assert one.findings == frozenset()


@pytest.mark.slow
def test_a_font_stays_in_matroska(bench: Workbench, clips: Path) -> None:
    media = came_of("ass with a font, vp8", ORIGINAL, bench, clips).result.media
    assert [stream.file_name for stream in media.of_kind("attachment")] == ["font.ttf"]

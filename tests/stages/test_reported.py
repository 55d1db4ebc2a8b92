"""What strangers have reported of other tools, each as a small film: the report is named beside its test."""

from __future__ import annotations

import subprocess
from pathlib import Path

import av
import pytest

from tests.stages.conftest import Cook, Ingest, lost
from tests.stages.test_faithful import AAC, FFMPEG, H264, ORIGINAL, PICTURE, SOUND, UNIVERSAL, turned
from tidegate.model import ProfileName, Quality
from tidegate.stages import Workbench

MPEG2 = ("-c:v", "mpeg2video")
"""What `original` leaves in Matroska."""


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.srt"
    path.write_text("1\n00:00:00,500 --> 00:00:01,500\nHello\n")
    return path


def gray_of(path: Path) -> int:
    """The luma of the first picture's first point, as a screen shows it: 0 to 255."""
    call = [FFMPEG, "-v", "error", "-i", str(path), "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    return subprocess.run(call, capture_output=True, check=True).stdout[0]


@pytest.mark.parametrize("profile", ProfileName)
def test_subtitles_that_are_hidden_stay_hidden(profile: ProfileName, words: Path, cook: Cook, ingest: Ingest) -> None:
    """mifi/lossless-cut#972, cdgriffith/FastFlix#129: the first subtitle track was shown to everybody afterwards."""
    film = cook("film.mkv", *PICTURE, *SOUND, "-i", str(words), *MPEG2, "-c:a", "mp2", "-default_mode", "passthrough")
    result, media = ingest(film, profile)
    assert not media.of_kind("subtitle")[0].default and lost(result) == set()


@pytest.mark.parametrize("profile", [UNIVERSAL, ORIGINAL])
def test_a_forced_subtitle_stays_forced_or_is_told(
    profile: ProfileName, words: Path, cook: Cook, ingest: Ingest
) -> None:
    """mdhiggins/sickbeard_mp4_automator#1583: ffmpeg writes no such flag into MP4, and nobody said so."""
    flags = ("-default_mode", "passthrough", "-disposition:s:0", "forced")
    result, media = ingest(cook("film.mkv", *PICTURE, *SOUND, "-i", str(words), *MPEG2, "-c:a", "mp2", *flags), profile)
    kept = "forced" in media.of_kind("subtitle")[0].roles
    assert kept or "the role forced" in lost(result)


@pytest.mark.parametrize("language", ["gsw", "ind", "yue", "nds"])
def test_rare_languages_are_languages(language: str, cook: Cook, ingest: Ingest) -> None:
    """HandBrake/HandBrake#2903 and #3238: Indonesian and Alemannic became "unknown"."""
    result, media = ingest(cook("film.mkv", *PICTURE, *SOUND, *H264, *AAC, "-metadata:s:a:0", f"language={language}"))
    assert media.of_kind("audio")[0].language == language and lost(result) == set()


def test_no_language_is_left_behind(cook: Cook, ingest: Ingest) -> None:
    """automatic-ripping-machine/automatic-ripping-machine#1474: all sound but the English was gone."""
    languages = ("eng", "deu", "fra", "ita", "spa")
    maps = [word for _ in languages for word in ("-map", "1")]
    labels = [w for n, name in enumerate(languages) for w in (f"-metadata:s:a:{n}", f"language={name}")]
    film = cook("film.mkv", *PICTURE, *SOUND, "-map", "0", *maps, *MPEG2, "-c:a", "ac3", *labels)
    result, media = ingest(film)
    assert [stream.language for stream in media.of_kind("audio")] == list(languages) and lost(result) == set()


def test_a_portrait_that_is_made_smaller_is_not_squashed(cook: Cook, ingest: Ingest) -> None:
    """AydinAdn/MediaToolkit#78, abhiTronix/deffcode#39: 480 lines of a turned film were those of the stored picture."""
    _, media = ingest(turned(cook, 270, size="1280x720"), quality=Quality.P480)
    assert media.video is not None
    assert (media.video.width, media.video.height, media.video.rotation) == (270, 480, 0)


@pytest.mark.parametrize("level", [16, 128, 235])
def test_full_range_is_not_washed_out(level: int, cook: Cook, ingest: Ingest, bench: Workbench) -> None:
    """HandBrake/HandBrake#2561, argorar/WebMConverter#22: black was gray after an encoding."""
    gray = f"color=0x{level:02x}{level:02x}{level:02x}:size=64x48:rate=5:duration=1,scale=out_range=pc,format=yuvj420p"
    film = cook("full.mkv", "-f", "lavfi", "-i", gray, "-c:v", "mjpeg", "-color_range", "pc", "-q:v", "1")
    assert gray_of(film) == pytest.approx(level, abs=2)
    result, media = ingest(film)
    assert media.video is not None and media.video.color_range == "tv"
    assert gray_of(bench.store.path(result.asset, result.asset.main)) == pytest.approx(level, abs=4)


def test_the_cover_of_a_song_in_opus_goes_along(cook: Cook, ingest: Ingest) -> None:
    """rawnaldclark/Stash#95: Ogg has its cover in a tag, and what ffmpeg makes of it was dropped."""
    cover = cook("cover.png", "-f", "lavfi", "-i", "testsrc=size=64x64:duration=1", "-frames:v", "1")
    song = cook("song.flac", *SOUND, "-i", str(cover), "-map", "0", "-map", "1", "-disposition:v:0", "attached_pic")
    result, media = ingest(song)
    assert [stream.attached_picture for stream in media.streams] == [False, True] and lost(result) == set()


def test_tags_of_ones_own_are_told_where_they_have_no_place(cook: Cook, ingest: Ingest) -> None:
    """mifi/lossless-cut#853: some tags were saved, none of the custom ones, and nothing said so."""
    labels = ("-metadata", "title=Film", "-metadata", "shelf=B7")
    result, media = ingest(cook("film.mkv", *PICTURE, *SOUND, *H264, *AAC, *labels))
    assert media.tags["title"] == "Film"
    assert lost(result) == {"the tag SHELF: B7"}


@pytest.mark.parametrize("name", ["film.webm", "film.mov"])
def test_transparency_that_is_gone_is_told(name: str, cook: Cook, ingest: Ingest) -> None:
    """mautrix/telegram#822: stickers lost their transparent background without a word."""
    clear = ("-f", "lavfi", "-i", "color=red@0.5:size=64x48:rate=5:duration=1,format=yuva420p")
    codec = {"film.webm": ("-c:v", "libvpx-vp9"), "film.mov": ("-c:v", "prores_ks", "-pix_fmt", "yuva444p10le")}[name]
    result, _ = ingest(cook(name, *clear, *codec))
    assert "the transparency" in {what.partition(" of")[0] for what in lost(result)}


def test_a_recording_with_pauses_stays_beside_its_sound(cook: Cook, ingest: Ingest, bench: Workbench) -> None:
    """WyattBlue/auto-editor#152, Zulko/moviepy#1660: a variable rate was made constant, and the sound ran away."""
    screen = "testsrc2=size=64x48:rate=30:duration=8,select='lt(mod(t,2),0.7)'"
    sound = ("-f", "lavfi", "-i", "sine=duration=8")
    film = cook("screen.mkv", "-f", "lavfi", "-i", screen, *sound, "-fps_mode", "vfr", *MPEG2, "-c:a", "mp2")
    result, media = ingest(film)
    moments = moments_in(film), moments_in(bench.store.path(result.asset, result.asset.main))
    assert len(moments[0]) == len(moments[1])
    assert max(abs(before - after) for before, after in zip(*moments, strict=True)) < 0.02
    assert media.of_kind("audio")[0].span_seconds == pytest.approx(8, abs=0.1)


def moments_in(path: Path) -> list[float]:
    """When each picture is shown, after the first."""
    with av.open(str(path)) as container:
        shown = sorted(float(frame.time or 0.0) for frame in container.decode(video=0))
    return [moment - shown[0] for moment in shown]

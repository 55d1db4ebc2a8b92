"""What the source has is what the result has, or the result says what is lost and why: the odd files that people have.

Each source is made on the spot and goes through the real stages; the result is looked at by a probe of its own.
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import imageio_ffmpeg
import pytest

from tests.stages.conftest import Cook, Ingest, lost
from tidegate.errors import UnsupportedCodec
from tidegate.model import ProfileName, Quality
from tidegate.stages import Workbench

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
UNIVERSAL, MODERN, ORIGINAL = ProfileName.UNIVERSAL, ProfileName.MODERN, ProfileName.ORIGINAL
PICTURE = ("-f", "lavfi", "-i", "testsrc2=size=160x120:rate=25:duration=2")
SOUND = ("-f", "lavfi", "-i", "sine=frequency=440:duration=2")
H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")
AAC = ("-c:a", "aac")


def pictures_in(path: Path) -> list[str]:
    """The digest of every picture, in the order of showing."""
    words = ["-v", "error", "-i", str(path), "-map", "0:v:0", "-fps_mode", "passthrough", "-f", "framemd5", "-"]
    done = subprocess.run([FFMPEG, *words], capture_output=True, text=True, check=True)
    return [line.rpartition(",")[2].strip() for line in done.stdout.splitlines() if not line.startswith("#")]


# --- labels: languages, titles, flags, tags, chapters -------------------------------------------------


@pytest.mark.parametrize(
    ("language", "kept", "entry"),
    [("de", "deu", None), ("ger", "deu", None), ("pt-BR", "por", "the language pt-BR"), ("und", "und", None)],
)
def test_a_language_of_matroska_is_one_in_mp4(
    language: str, kept: str, entry: str | None, cook: Cook, ingest: Ingest
) -> None:
    labels = ("-metadata:s:a:0", f"language={language}", "-metadata:s:a:0", "title=Commentary of the director")
    result, media = ingest(cook("film.mkv", *PICTURE, *SOUND, *H264, *AAC, *labels))
    [sound] = media.of_kind("audio")
    assert (sound.language, sound.title) == (kept, "Commentary of the director")
    assert lost(result) == ({entry} if entry else set())


def test_nothing_is_invented_where_the_source_says_nothing(cook: Cook, ingest: Ingest) -> None:
    subtitles = cook("words.srt", "-f", "srt", "-i", str(write_subtitles(cook)))
    source = cook("film.mkv", *PICTURE, *SOUND, "-i", str(subtitles), *H264, *AAC, "-default_mode", "passthrough")
    result, media = ingest(source)
    assert [stream.title for stream in media.streams] == [None] * 3
    assert not media.of_kind("subtitle")[0].default, "no player may show them unasked"
    assert lost(result) == set()


def write_subtitles(cook: Cook) -> Path:
    path = cook("sound.wav", *SOUND).with_name("text.srt")
    path.write_text("1\n00:00:00,500 --> 00:00:01,500\nHello\n")
    return path


def test_tags_of_ogg_are_those_of_the_file(cook: Cook, ingest: Ingest) -> None:
    labels = ("-metadata", "artist=Ada", "-metadata", "title=Song", "-metadata", "replaygain_x=1")
    result, media = ingest(cook("song.opus", *SOUND, "-c:a", "libopus", *labels))
    assert (media.tags["artist"], media.tags["title"]) == ("Ada", "Song")
    assert lost(result) == {"the tag replaygain_x: 1"}


def test_what_a_phone_says_of_its_film_stays(cook: Cook, ingest: Ingest) -> None:
    said = {
        "com.apple.quicktime.make": "Apple",
        "com.apple.quicktime.model": "iPhone",
        "com.apple.quicktime.location.ISO6709": "+52.5200+013.4050+034.000/",
        "com.apple.quicktime.creationdate": "2026-05-01T10:00:00+0200",
    }
    labels = [word for name, text in said.items() for word in ("-metadata", f"{name}={text}")]
    film = cook("film.mov", *PICTURE, *SOUND, *H264, *AAC, *labels, "-movflags", "use_metadata_tags")
    result, media = ingest(film)
    assert said.items() <= media.tags.items()
    assert lost(result) == set()


def test_a_film_of_android_keeps_its_place_where_others_look_for_it(cook: Cook, ingest: Ingest) -> None:
    labels = ("-metadata", "location=+52.5200+013.4050/", "-metadata", "comment=one", "-metadata", "description=two")
    result, media = ingest(cook("film.mov", *PICTURE, *SOUND, *H264, *AAC, *labels))
    place = media.tags["location"]
    assert place.startswith("+52.52") and "com.apple.quicktime.location.ISO6709" not in media.tags
    assert lost(result) <= {"the tag description: two"}


def test_chapters_stay_with_their_names(cook: Cook, ingest: Ingest, tmp_path: Path) -> None:
    (tmp_path / "chapters.txt").write_text(
        ";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=1000\ntitle=Intro\n"
        "[CHAPTER]\nTIMEBASE=1/1000\nSTART=1000\nEND=2000\ntitle=The rest\n"
    )
    chapters = ("-f", "ffmetadata", "-i", str(tmp_path / "chapters.txt"), "-map_metadata", "2")
    result, media = ingest(cook("film.mkv", *PICTURE, *SOUND, *chapters, "-map", "0", "-map", "1", *H264, *AAC))
    assert [chapter.title for chapter in media.chapters] == ["Intro", "The rest"]
    assert lost(result) == set()


def test_an_audio_book_keeps_all_its_chapters(cook: Cook, ingest: Ingest, tmp_path: Path) -> None:
    """More than fit into one line of the probe's answer, and a text that is long by itself."""
    chapters = [
        f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={n * 2}\nEND={n * 2 + 2}\ntitle=Chapter {n} “{'x' * 60}”\n"
        for n in range(900)
    ]
    (tmp_path / "chapters.txt").write_text(f";FFMETADATA1\ncomment={'long ' * 15_000}\n{''.join(chapters)}")
    book = ("-f", "ffmetadata", "-i", str(tmp_path / "chapters.txt"), "-map_metadata", "1", "-map", "0")
    result, media = ingest(cook("book.mkv", *SOUND, *book, *AAC))
    assert len(media.chapters) == 900 and not any("chapter" in what for what in lost(result))


def test_roles_of_tracks_stay_or_are_told(cook: Cook, ingest: Ingest) -> None:
    roles = ("-disposition:a:0", "default", "-disposition:a:1", "comment+visual_impaired")
    maps = ("-map", "0", "-map", "1", "-map", "1")
    result, media = ingest(cook("film.mkv", *PICTURE, *SOUND, *maps, *H264, *AAC, *roles))
    first, second = media.of_kind("audio")
    assert first.default and not second.default
    kept = {"comment", "visual_impaired"} <= set(second.roles)
    assert kept or any("the role" in what for what in lost(result))


# --- codec tags, clocks, pauses ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec"),
    [("film.avi", "aac"), ("film.ts", "ac3"), ("film.m2ts", "ac3"), ("film.wmv", "aac")],
)
def test_a_codec_tag_that_is_no_text_costs_nothing(name: str, codec: str, cook: Cook, ingest: Ingest) -> None:
    """ffmpeg writes registration descriptors into transport streams; broadcasts have none."""
    path = cook(name, *PICTURE, *SOUND, *H264, "-c:a", codec)
    if name.endswith("ts"):
        path.write_bytes(path.read_bytes().replace(b"\x05\x04AC-3", b"\x80\x04AC-3"))
    _, media = ingest(path)
    assert [stream.kind for stream in media.streams] == ["video", "audio"]


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv"])
@pytest.mark.parametrize("profile", [UNIVERSAL, ORIGINAL])
def test_pauses_are_no_damage(name: str, profile: ProfileName, cook: Cook, ingest: Ingest) -> None:
    """Slides: bursts of pictures with long pauses between them, and B-frames."""
    slides = "testsrc2=size=160x120:rate=25:duration=12,select='lt(mod(t,5),0.4)'"
    film = cook(name, "-f", "lavfi", "-i", slides, "-fps_mode", "vfr", "-c:v", "libx264", "-bf", "3", "-g", "100")
    _, media = ingest(film, profile)
    assert media.video is not None and media.video.last_seconds == pytest.approx(10.36, abs=0.1)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("profile", [UNIVERSAL, ORIGINAL])
def test_a_last_slide_that_stays_is_no_difference(profile: ProfileName, codec: str, cook: Cook, ingest: Ingest) -> None:
    """Containers tell in ways that differ how long the last picture is shown; all pictures are there."""
    slides = ("-f", "lavfi", "-i", "testsrc2=size=160x120:rate=1:duration=6")
    hold = ("-bsf:v", "setts=duration=if(eq(N\\,5)\\,5/TB\\,DURATION)")
    _, media = ingest(cook("slides.mp4", *slides, "-c:v", codec, "-bf", "0", *hold), profile)
    assert media.video is not None and media.video.packets == 6
    assert media.video.last_seconds == pytest.approx(5, abs=0.1)


def test_recordings_in_a_row_whose_clocks_begin_anew_are_one_film(cook: Cook, ingest: Ingest) -> None:
    piece = cook("piece.ts", *(w.replace("duration=2", "duration=6") for w in (*PICTURE, *SOUND)), *H264, *AAC)
    row = piece.with_name("row.ts")
    row.write_bytes(piece.read_bytes() * 3)
    _, media = ingest(row)
    assert media.length_seconds == pytest.approx(18, abs=0.5)


# --- pictures: turned, raw, marked -------------------------------------------------------------------


def turned(cook: Cook, degrees: int, name: str = "turned.mp4", size: str = "160x120") -> Path:
    flat = cook("flat.mp4", "-f", "lavfi", "-i", f"testsrc2=size={size}:rate=25:duration=2", *SOUND, *H264, *AAC)
    return cook(name, "-display_rotation", str(degrees), "-i", str(flat), "-c", "copy")


@pytest.mark.parametrize("profile", ProfileName)
def test_a_turned_film_is_shown_as_it_was_held(profile: ProfileName, cook: Cook, ingest: Ingest) -> None:
    result, media = ingest(turned(cook, 90, "turned.mov"), profile)
    assert media.video is not None and media.video.rotation == 90
    assert lost(result) == set()


def test_the_rung_of_a_turned_film_counts_the_lines_that_are_seen(cook: Cook, ingest: Ingest) -> None:
    """Stored 640x360, seen 360x640: 480 lines are fewer than 640."""
    result, media = ingest(turned(cook, 90, size="640x360"), quality=Quality.P480)
    assert media.video is not None and result.decision.height is not None
    shown = (media.video.width, media.video.height)
    assert shown == (270, 480)


def test_a_tall_picture_is_not_shrunk_for_its_lines(cook: Cook, ingest: Ingest) -> None:
    tall = ("-f", "lavfi", "-i", "testsrc2=size=1080x2400:rate=5:duration=1")
    result, media = ingest(cook("tall.mp4", *tall, *H264))
    assert media.video is not None and (media.video.width, media.video.height) == (1080, 2400)
    assert result.decision.video == "copy"


@pytest.mark.parametrize("profile", ProfileName)
def test_a_raw_picture_keeps_all_its_pictures_in_order(
    profile: ProfileName, cook: Cook, ingest: Ingest, bench: Workbench
) -> None:
    raw = cook("raw.h264", *PICTURE, "-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", "3", "-f", "h264")
    result, media = ingest(raw, profile)
    assert media.video is not None and media.video.packets == 50
    assert media.video.last_seconds == pytest.approx(49 / 25, abs=0.05)
    assert pictures_in(bench.store.path(result.asset, result.asset.main)) == pictures_in(raw)


@pytest.mark.parametrize(("size", "matrix"), [("160x120", "smpte170m"), ("1280x720", "bt709")])
def test_rgb_is_encoded_in_the_colours_that_it_is_marked_with(
    size: str, matrix: str, cook: Cook, ingest: Ingest
) -> None:
    red = ("-f", "lavfi", "-i", f"color=red:size={size}:rate=5:duration=1,format=gbrp")
    _, media = ingest(cook("red.mkv", *red, "-c:v", "ffv1"))
    assert media.video is not None
    assert (media.video.color_space, media.video.color_range) == (matrix, "tv")


@pytest.mark.parametrize(
    ("primaries", "transfer", "matrix"),
    [("bt470bg", "gamma28", "bt470bg"), ("bt470m", "gamma22", "fcc"), ("smpte240m", "smpte240m", "smpte240m")],
)
def test_the_marks_of_old_broadcasts_go_along(
    primaries: str, transfer: str, matrix: str, cook: Cook, ingest: Ingest
) -> None:
    names = {"gamma28": "bt470bg", "gamma22": "bt470m"}
    marks = f"setparams=color_primaries={primaries}:color_trc={names.get(transfer, transfer)}:colorspace={matrix}"
    words = ("-color_primaries", primaries, "-color_trc", transfer, "-colorspace", matrix)
    _, media = ingest(cook("old.mpg", *PICTURE, "-vf", marks, "-c:v", "mpeg2video", *words))
    video = media.video
    assert video is not None
    assert (video.color_primaries, video.transfer, video.color_space) == (
        primaries,
        names.get(transfer, transfer),
        matrix,
    )


def test_rgb_that_is_made_smaller_keeps_its_colours(cook: Cook, ingest: Ingest, bench: Workbench) -> None:
    """Red in BT.709 is another number than red in BT.601, and the mark says which."""
    red = ("-f", "lavfi", "-i", "color=red:size=1920x1080:rate=5:duration=1,format=gbrp")
    result, media = ingest(cook("red.mkv", *red, "-c:v", "ffv1"), quality=Quality.P360)
    assert media.video is not None and (media.video.height, media.video.color_space) == (360, "bt709")
    words = ["-v", "error", "-i", str(bench.store.path(result.asset, result.asset.main)), "-frames:v", "1"]
    raw = subprocess.run([FFMPEG, *words, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True)
    assert all(abs(found - meant) <= 6 for found, meant in zip(raw.stdout[:3], (255, 0, 0), strict=True))


def test_dolby_vision_without_a_common_picture_is_refused_with_the_cure(cook: Cook, ingest: Ingest) -> None:
    film = cook("film.mp4", *PICTURE, "-c:v", "libx265", "-x265-params", "log-level=none", "-tag:v", "hvc1")
    film.write_bytes(say_dolby_vision(film.read_bytes(), profile=5, compatible=0))
    with pytest.raises(UnsupportedCodec, match="Dolby Vision of profile 5") as refused:
        ingest(film)
    assert "--profile original" in (refused.value.hint or "")
    _, media = ingest(film, ORIGINAL)
    assert media.video is not None and media.video.dolby_vision is not None and media.video.dolby_vision.profile == 5


def say_dolby_vision(film: bytes, profile: int, compatible: int) -> bytes:
    """An MP4 whose index lies at its end, with the box `dvcC` in the entry of its picture."""
    level = 1
    record = bytes([1, 0, (profile << 1) | (level >> 5), ((level & 31) << 3) | 0b101, compatible << 4]) + bytes(19)
    box = struct.pack(">I4s", 8 + len(record), b"dvcC") + record
    content = bytearray(film)
    entry = content.index(b"hvc1", content.index(b"stsd"))
    for name in (b"hvc1", b"stsd", b"stbl", b"minf", b"mdia", b"trak", b"moov"):
        place = content.rindex(name, 0, entry + 4) - 4
        content[place : place + 4] = struct.pack(">I", struct.unpack(">I", content[place : place + 4])[0] + len(box))
    end = entry - 4 + struct.unpack(">I", content[entry - 4 : entry])[0] - len(box)
    content[end:end] = box
    return bytes(content)


# --- which streams ------------------------------------------------------------------------------------


def test_the_default_picture_is_the_film(cook: Cook, ingest: Ingest) -> None:
    small = ("-f", "lavfi", "-i", "testsrc=size=64x48:rate=25:duration=2")
    flags = ("-disposition:v:0", "0", "-disposition:v:1", "default")
    two = cook("two.mkv", *small, *PICTURE, *SOUND, "-map", "0", "-map", "1", "-map", "2", *H264, *AAC, *flags)
    result, media = ingest(two)
    assert media.video is not None and media.video.width == 160
    assert lost(result) == {"the picture 0 (h264)"}


def test_of_two_services_one_is_taken_whole_and_the_other_told(cook: Cook, ingest: Ingest) -> None:
    small = ("-f", "lavfi", "-i", "testsrc=size=64x48:rate=25:duration=2")
    low = ("-f", "lavfi", "-i", "sine=frequency=100:duration=2")
    maps = ("-map", "0", "-map", "2", "-map", "1", "-map", "3")
    services = ("-program", "title=One:st=0:st=1", "-program", "title=Two:st=2:st=3")
    words = ("-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=fra")
    result, media = ingest(cook("two.ts", *small, *PICTURE, *SOUND, *low, *maps, *H264, *AAC, *words, *services))
    assert [stream.kind for stream in media.streams] == ["video", "audio"]
    assert media.video is not None and media.video.width == 160
    assert media.of_kind("audio")[0].language == "fra"
    assert "the service 1 (One)" in lost(result)


@pytest.mark.parametrize("name", ["moving.gif", "moving.apng", "film.y4m", "sound.au", "sound.voc"])
def test_what_people_call_media_is_media(name: str, cook: Cook, ingest: Ingest) -> None:
    words = SOUND if name.startswith("sound") else PICTURE
    extra = {"film.y4m": ("-pix_fmt", "yuv420p"), "moving.apng": ("-f", "apng")}.get(name, ())
    _, media = ingest(cook(name, *words, *extra))
    assert media.length_seconds == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("layout", ["5.1(side)", "6.1", "6.1(front)", "7.1", "hexagonal"])
def test_channels_keep_a_place_that_players_know(layout: str, cook: Cook, ingest: Ingest) -> None:
    sound = ("-f", "lavfi", "-i", f"anoisesrc=d=1,pan={layout}|c0=c0|c1=c0")
    _, media = ingest(cook("sound.wav", *sound, "-c:a", "pcm_s16le"))
    assert media.of_kind("audio")[0].channel_layout is not None


def test_a_data_track_is_told(cook: Cook, ingest: Ingest) -> None:
    result, _ = ingest(cook("film.mov", *PICTURE, *SOUND, *H264, *AAC, "-timecode", "01:00:00:00"))
    assert any("data track" in what for what in lost(result))

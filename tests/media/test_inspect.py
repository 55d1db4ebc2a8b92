"""What the probe child makes of real media, of garbage, and of files that want it to read others."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import anyio
import imageio_ffmpeg
import pytest

from tests.support import clips as clip_recipes
from tests.support.clips import clip, cut, long_clip, spoiled
from tidegate.errors import NotMedia, StalledProcess, TidegateError
from tidegate.events import ignore_events
from tidegate.media import inspect as inspect_module
from tidegate.media.inspect import Depth, inspect
from tidegate.model import MediaInfo
from tidegate.settings import ProcessSettings

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = ProcessSettings(tick=0.1, end_grace=1)


def look(path: Path, depth: Depth = "header", limits: ProcessSettings = LIMITS) -> MediaInfo:
    return anyio.run(partial(inspect, path, depth, limits, 30.0, stage="probe", observe=ignore_events))


def test_the_streams_of_a_real_file_are_described(clips: Path) -> None:
    media = look(clip(clips, seconds=2), "frames")
    assert media.video is not None and media.audio is not None
    video, audio = media.video, media.audio
    assert (video.codec, video.pix_fmt, video.bit_depth, video.width, video.height) == ("h264", "yuv420p", 8, 320, 240)
    assert (video.frame_rate, video.frames, video.packets, video.decode_errors) == (25.0, 50, 50, 0)
    assert (audio.codec, audio.sample_rate, audio.channels) == ("aac", 48000, 2)
    assert media.duration_seconds == pytest.approx(2.0, abs=0.1)
    assert media.length_seconds == pytest.approx(2.0, abs=0.1)
    assert media.missing_bytes == 0
    assert media.declares_duration


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("h264_10bit_mp4", {"codec": "h264", "bit_depth": 10, "pix_fmt": "yuv420p10le"}),
        ("hevc_hev1_mp4", {"codec": "hevc", "codec_tag": "hev1"}),
        ("hevc_aac_mp4", {"codec": "hevc", "codec_tag": "hvc1"}),
        ("vp9_opus_webm", {"codec": "vp9"}),
        ("mpeg2_mp2_mpg", {"codec": "mpeg2video"}),
        ("h264_interlaced_ts", {"codec": "h264", "field_order": "tt"}),
    ],
)
def test_what_the_decision_needs_is_seen(name: str, facts: dict[str, object], clips: Path) -> None:
    video = look(clip(clips, name, seconds=2)).video
    assert video is not None
    assert {key: getattr(video, key) for key in facts} == facts


def test_cover_art_is_not_the_film(clips: Path) -> None:
    media = look(clip(clips, "h264_cover_mp4", seconds=2), "packets")
    assert sum(s.kind == "video" for s in media.streams) == 2
    assert [s.codec for s in media.of_kind("video")] == ["h264"]
    assert media.video is not None and not media.video.attached_picture


@pytest.mark.parametrize("name", clip_recipes.RECIPES)
def test_packets_and_frames_agree_on_how_long_a_clip_is(name: str, clips: Path) -> None:
    path = clip(clips, name, seconds=2)
    packets, frames = look(path, "packets"), look(path, "frames")
    assert packets.length_seconds == pytest.approx(frames.length_seconds, abs=0.15)
    assert all(s.decode_errors == 0 for s in frames.streams)


def test_a_transport_stream_does_not_declare_its_duration(clips: Path) -> None:
    assert not look(clip(clips, "h264_aac_ts", seconds=2)).declares_duration
    assert look(clip(clips, "h264_aac_mkv", seconds=2)).declares_duration


def test_a_cut_mp4_says_how_many_bytes_it_lacks(clips: Path) -> None:
    whole = clip(clips, seconds=2)
    part = cut(whole, 0.4)
    assert look(part).missing_bytes == whole.stat().st_size - part.stat().st_size


@pytest.mark.parametrize("container", ["avi", "wav"])
def test_a_cut_riff_file_says_how_many_bytes_it_lacks(container: str, clips: Path) -> None:
    """Its demuxer gives the duration of what is there, so nothing else tells."""
    sound = clip_recipes.Recipe(".wav", clip_recipes.lavfi(clip_recipes.SOUND), ())
    whole = clip(clips, "mpeg4_mp3_avi", seconds=2)
    if container == "wav":
        whole = clip_recipes.make(clips, "pcm_wav", sound, seconds=2, size="1x1")
    part = cut(whole, 0.4)
    assert look(whole).missing_bytes == 0
    assert look(part).missing_bytes == whole.stat().st_size - part.stat().st_size


def test_a_wav_whose_recorder_could_not_fill_in_its_length_is_not_called_cut(clips: Path, tmp_path: Path) -> None:
    sound = clip_recipes.Recipe(".wav", clip_recipes.lavfi(clip_recipes.SOUND), ())
    content = bytearray(clip_recipes.make(clips, "pcm_wav", sound, seconds=2, size="1x1").read_bytes())
    content[4:8] = b"\xff" * 4
    (tmp_path / "live.wav").write_bytes(content)
    assert look(tmp_path / "live.wav").missing_bytes == 0


def test_a_cut_mkv_promises_more_than_it_holds(clips: Path) -> None:
    media = look(cut(clip(clips, "h264_aac_mkv", seconds=4), 0.4), "packets")
    assert media.duration_seconds is not None and media.length_seconds is not None
    assert media.declares_duration
    assert media.duration_seconds - media.length_seconds > 1


def test_an_mp4_without_its_index_is_no_media(clips: Path) -> None:
    with pytest.raises(NotMedia):
        look(cut(clip(clips, "h264_aac_moov_last_mp4", seconds=2), 0.4))


@pytest.mark.parametrize("content", [b"", b"hello, I am no film\n" * 100, bytes(5000), os.urandom(200_000)])
def test_garbage_is_no_media(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(content)
    with pytest.raises(NotMedia):
        look(tmp_path / "film.mp4", "packets")


def test_a_pipe_without_a_writer_is_ended_at_the_stall_timeout(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "film.mp4")
    quick = ProcessSettings(startup_grace=1, stall_timeout=0.5, tick=0.1, end_grace=0.5)
    with pytest.raises(StalledProcess):
        look(tmp_path / "film.mp4", limits=quick)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(TidegateError):
        look(tmp_path / "gone.mp4")


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{other}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{other}'\n",
    "concat beside it": "ffconcat version 1.0\nfile 'secret.ts'\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="1"><BaseURL>{other}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_named_mp4_is_refused_and_no_other_file_is_read(kind: str, clips: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.ts"
    secret.write_bytes(clip(clips, "h264_aac_ts", seconds=1).read_bytes())
    os.utime(secret, ns=(1, 1))
    (tmp_path / "film.mp4").write_text(PLAYLISTS[kind].format(other=secret))
    for depth in ("header", "packets"):
        with pytest.raises(NotMedia):
            look(tmp_path / "film.mp4", depth)  # type: ignore[arg-type]


def test_a_file_whose_name_is_a_protocol_is_opened_as_a_file(clips: Path, tmp_path: Path) -> None:
    odd = tmp_path / "concat:a.mp4"
    odd.write_bytes(clip(clips, seconds=1).read_bytes())
    assert look(odd).video is not None


def test_a_child_that_dies_of_the_file_is_told_and_we_go_on(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing = tmp_path / "child.py"
    crashing.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr(inspect_module, "_CHILD", crashing)
    with pytest.raises(NotMedia, match="signal 11"):
        look(clip(clips, seconds=1))


def test_the_child_needs_nothing_of_ours() -> None:
    """pydantic alone would double the start of every probe."""
    child = Path(inspect_module.__file__).with_name("inspect_child")
    listing = (
        "import sys, runpy; sys.argv = ['x']\ntry: runpy.run_path({!r})\nexcept SystemExit: pass\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", listing.format(str(child))], capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "av" in loaded
    assert not loaded & {"tidegate", "pydantic", "prefect", "httpx"}


# --- samples in place of every frame ----------------------------------------------------------------


@pytest.fixture(scope="module")
def long_film(clips: Path) -> Path:
    return long_clip(clips)


def test_samples_are_decoded_and_every_packet_is_counted(long_film: Path) -> None:
    sampled, whole = look(long_film, "sampled"), look(long_film, "packets")
    for one, other in zip(sampled.streams, whole.streams, strict=True):
        assert (one.packets, one.decode_errors, one.edge_errors) == (other.packets, 0, 0)
        assert one.span_seconds == other.span_seconds
        assert one.decoded_seconds is not None and 150 <= one.decoded_seconds <= 260
    video = sampled.video
    assert video is not None and video.frames == pytest.approx((video.decoded_seconds or 0) * 5, abs=1)


def test_a_short_film_is_decoded_whole_even_by_samples(clips: Path) -> None:
    for name in clip_recipes.RECIPES:
        path = clip(clips, name, seconds=2)
        sampled, frames = look(path, "sampled"), look(path, "frames")
        for one, other in zip(sampled.streams, frames.streams, strict=True):
            assert (one.frames, one.decode_errors) == (other.frames, 0), name


@pytest.mark.parametrize(("at", "noticed"), [(10.0, True), (52.0, True), (62.0, False), (590.0, True)])
def test_samples_find_damage_inside_them_only_and_every_frame_finds_all(
    at: float, noticed: bool, long_film: Path, tmp_path: Path
) -> None:
    damaged = spoiled(long_film, at, tmp_path / "spoiled.mp4")
    sampled, full = look(damaged, "sampled").video, look(damaged, "frames").video
    assert sampled is not None and full is not None
    assert full.decode_errors > 0
    assert (sampled.decode_errors > 0) == noticed


def test_a_turned_picture_and_an_uneven_rate_are_seen(clips: Path, tmp_path: Path) -> None:
    steady = clip(clips, seconds=2)
    turned, uneven = tmp_path / "turned.mp4", tmp_path / "uneven.mkv"
    words = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y"]
    subprocess.run([*words, "-display_rotation", "90", "-i", steady, "-c", "copy", turned], check=True)
    some = "select='not(mod(n,3))+between(mod(n,25),15,20)'"
    subprocess.run([*words, "-i", steady, "-vf", some, "-fps_mode", "vfr", "-c:v", "ffv1", uneven], check=True)
    facts = [look(path, "packets").video for path in (steady, turned, uneven)]
    assert [(video.rotation, video.variable_rate) for video in facts if video] == [(0, False), (90, False), (0, True)]


@pytest.mark.parametrize("name", clip_recipes.RECIPES)
def test_no_steady_clip_counts_as_uneven(name: str, clips: Path) -> None:
    assert not any(stream.variable_rate for stream in look(clip(clips, name, seconds=2), "packets").streams)


@pytest.mark.parametrize("seed", range(6))
def test_a_transport_stream_with_flipped_bytes_gets_an_answer(seed: int, clips: Path, tmp_path: Path) -> None:
    """In one of them a stream appears that was not there at the beginning."""
    chance = random.Random(seed)
    content = bytearray(clip(clips, "h264_aac_ts", seconds=4, size="160x120").read_bytes())
    for at in range(0, len(content), 400):
        content[min(len(content) - 1, at + chance.randrange(400))] ^= 1 << chance.randrange(8)
    damaged = tmp_path / "flipped.ts"
    damaged.write_bytes(content)
    for depth in ("packets", "sampled", "frames"):
        assert look(damaged, depth).streams

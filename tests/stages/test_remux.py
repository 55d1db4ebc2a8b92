"""Every real clip under every profile: the strategy that was chosen, and an output that decodes whole."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Literal

import anyio
import imageio_ffmpeg
import pytest

from tests.stages.conftest import Downloaded, Made
from tests.support import clips as clip_recipes
from tests.support import fake_tool
from tests.support.clips import clip, cut, long_clip, spoiled
from tests.support.leaks import leftovers
from tidegate.errors import RefusedByMuxer, StalledProcess, TidegateError, ToolMissing, TruncatedMedia
from tidegate.model import DownloadResult, ProfileName, Quality, RemuxResult
from tidegate.settings import ProcessSettings, Settings, StoreSettings, ToolSettings
from tidegate.stages import Workbench, remux
from tidegate.stages.verification import tolerance_seconds

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()

UNIVERSAL, MODERN, ORIGINAL = ProfileName.UNIVERSAL, ProfileName.MODERN, ProfileName.ORIGINAL

EVERYWHERE = {UNIVERSAL: "copy mp4", MODERN: "copy mp4", ORIGINAL: "copy mp4"}
EXPECTED = {
    "h264_aac_mp4": EVERYWHERE,
    "h264_aac_moov_last_mp4": EVERYWHERE,
    "h264_aac_mkv": EVERYWHERE,
    "h264_aac_ts": EVERYWHERE,
    "vp9_opus_webm": EVERYWHERE | {UNIVERSAL: "transcode mp4"},
    "hevc_aac_mp4": EVERYWHERE | {UNIVERSAL: "transcode mp4"},
    "hevc_hev1_mp4": EVERYWHERE | {UNIVERSAL: "transcode mp4"},
    "h264_10bit_mp4": EVERYWHERE | {UNIVERSAL: "transcode mp4", MODERN: "transcode mp4"},
    "mpeg2_mp2_mpg": {UNIVERSAL: "transcode mp4", MODERN: "transcode mp4", ORIGINAL: "copy matroska"},
    "mpeg4_mp3_avi": EVERYWHERE | {UNIVERSAL: "transcode mp4", MODERN: "transcode mp4"},
    "audio_only_m4a": EVERYWHERE,
    "video_only_mp4": EVERYWHERE,
    "h264_faults_mp4": EVERYWHERE,
    "h264_cover_mp4": EVERYWHERE,
    "h264_subtitles_mkv": EVERYWHERE,
    "h264_interlaced_ts": EVERYWHERE | {UNIVERSAL: "transcode mp4"},
}


def remuxed(
    bench: Workbench, source: DownloadResult, profile: ProfileName = UNIVERSAL, quality: Quality = Quality.AUTO
) -> RemuxResult:
    return anyio.run(remux, bench, source, profile, quality, "key")


def decodes(path: Path) -> str:
    """What ffmpeg complains about when it decodes everything; nothing is the assertion."""
    words = [FFMPEG, "-v", "error", "-xerror", "-i", str(path), "-map", "0:v?", "-map", "0:a?", "-f", "null", "-"]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return done.stderr + (f"exit {done.returncode}" if done.returncode else "")


def test_every_clip_has_its_expectation() -> None:
    assert EXPECTED.keys() == clip_recipes.RECIPES.keys()


@pytest.mark.parametrize("profile", ProfileName)
@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.ci
def test_every_clip_becomes_a_whole_file(name: str, profile: ProfileName, bench: Workbench, made: Made) -> None:
    source = made(name)
    result = remuxed(bench, source, profile)
    path = bench.store.path(result.asset)
    assert f"{result.decision.strategy} {result.decision.container}" == EXPECTED[name][profile]
    assert [step.outcome for step in result.ladder] == ["completed"], "no rung failed on a healthy source"
    assert decodes(path) == ""
    expected, length = source.media.length_seconds, result.media.length_seconds
    assert expected is not None and length is not None
    assert abs(length - expected) <= tolerance_seconds(expected)
    assert len(result.media.of_kind("audio")) == len(source.media.of_kind("audio"))
    assert path.suffix == (".mkv" if "matroska" in EXPECTED[name][profile] else ".m4a" if "audio" in name else ".mp4")
    assert leftovers(bench.home.root / "scratch", ("*.partial",)) == []


@pytest.mark.parametrize("name", EXPECTED)
def test_the_universal_output_is_what_plays_everywhere(name: str, bench: Workbench, made: Made) -> None:
    result = remuxed(bench, made(name), UNIVERSAL)
    video, audio = result.media.video, result.media.audio
    assert video is None or (video.codec, video.bit_depth) == ("h264", 8)
    assert video is None or video.pix_fmt in ("yuv420p", "yuvj420p")
    assert audio is None or audio.codec == "aac"
    begin = bench.store.path(result.asset).read_bytes()[: 64 * 1024]
    assert begin.find(b"moov") < (begin.find(b"mdat") if b"mdat" in begin else len(begin)), "index first"


def test_hevc_gets_the_tag_that_every_player_takes(bench: Workbench, made: Made) -> None:
    result = remuxed(bench, made("hevc_hev1_mp4"), MODERN)
    assert result.media.video is not None
    assert result.media.video.codec_tag == "hvc1"


def test_subtitles_come_along(bench: Workbench, made: Made) -> None:
    result = remuxed(bench, made("h264_subtitles_mkv"), UNIVERSAL)
    [subtitles] = result.media.of_kind("subtitle")
    assert (subtitles.codec, subtitles.language) == ("mov_text", "eng")
    beside = result.asset.tracks[1]
    assert beside.name == "subtitles-2.eng.vtt"
    lines = bench.store.path(result.asset, beside).read_text()
    assert lines.startswith("WEBVTT") and "Änd the second" in lines


def test_cover_art_is_not_taken_for_the_film(bench: Workbench, made: Made) -> None:
    result = remuxed(bench, made("h264_cover_mp4"), UNIVERSAL)
    assert result.media.video is not None
    assert (result.media.video.width, result.media.video.frames) == (320, 50)
    assert [stream.codec for stream in result.media.streams if stream.attached_picture] == ["mjpeg"]


def test_a_cap_scales_the_picture_down(bench: Workbench, clips: Path, downloaded: Downloaded) -> None:
    source = downloaded(clip(clips, seconds=1, size="640x480"))
    result = remuxed(bench, source, UNIVERSAL, Quality.P360)
    assert result.media.video is not None
    assert (result.media.video.width, result.media.video.height) == (480, 360)


def test_the_same_source_gives_the_same_bytes(bench: Workbench, made: Made) -> None:
    for profile in ProfileName:
        assert (
            remuxed(bench, made("vp9_opus_webm"), profile).asset == remuxed(bench, made("vp9_opus_webm"), profile).asset
        )


def test_a_length_that_nothing_confirms_is_a_finding(bench: Workbench, made: Made) -> None:
    codes = [finding.code for finding in remuxed(bench, made("h264_aac_ts")).findings]
    assert codes == ["length_unconfirmed"]
    assert remuxed(bench, made("h264_aac_mp4")).findings == ()


# --- sources that are not whole ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["h264_aac_mp4", "h264_aac_mkv", "vp9_opus_webm", "mpeg4_mp3_avi"])
def test_a_file_cut_at_40_percent_never_gets_past_the_download(name: str, clips: Path, downloaded: Downloaded) -> None:
    with pytest.raises(TruncatedMedia):
        downloaded(cut(clip(clips, name, seconds=4), 0.4))


def test_a_hole_in_the_middle_is_never_copied(
    bench: Workbench, clips: Path, downloaded: Downloaded, tmp_path: Path
) -> None:
    """The index is whole and the ends are right; only decoding tells. What comes out must decode, or nothing does."""
    content = bytearray(clip(clips, seconds=4).read_bytes())
    begin, end = len(content) // 2, len(content) // 2 + 20_000
    content[begin:end] = bytes(end - begin)
    (tmp_path / "hole.mp4").write_bytes(content)
    source = downloaded(tmp_path / "hole.mp4")
    try:
        result = remuxed(bench, source, UNIVERSAL)
    except TidegateError as failure:
        assert failure.type in ("verification_failed", "refused_by_muxer")
    else:
        assert result.ladder[0].outcome == "failed"
        assert decodes(bench.store.path(result.asset)) == ""
        assert "source_damaged" in [finding.code for finding in result.findings]
    assert leftovers(bench.home.root / "scratch", ("*.partial",)) == []


@pytest.mark.parametrize("verify", ["full", "sampled"])
def test_damage_between_two_samples_passes_only_where_samples_were_asked_for(
    verify: Literal["full", "sampled"], bench: Workbench, clips: Path, downloaded: Downloaded, tmp_path: Path
) -> None:
    source = downloaded(spoiled(long_clip(clips), 62.0, tmp_path / "spoiled.mp4"))
    settings = bench.settings.model_copy(update={"process": ProcessSettings(verify=verify)})
    result = remuxed(replace(bench, settings=settings), source)
    assert result.verification.depth == verify
    assert result.verification.length_seconds == pytest.approx(600, abs=1)
    if verify == "sampled":
        assert [step.outcome for step in result.ladder] == ["completed"]
        assert result.verification.decoded_seconds < 300
        return
    assert result.ladder[0].failure == "verification_failed"
    assert "source_damaged" in [finding.code for finding in result.findings]
    assert result.verification.decoded_seconds == result.verification.length_seconds


# --- tools that fail --------------------------------------------------------------------------------


def with_tool(bench: Workbench, folder: Path, *calls: list[str]) -> tuple[Workbench, Path]:
    """A tool that says what it is, and then plays `calls`."""
    tool = fake_tool.install(folder, "ffmpeg", ["print ffmpeg version fake"], *calls)
    quick = ProcessSettings(startup_grace=1, stall_timeout=0.5, tick=0.1, end_grace=0.5)
    settings = Settings(
        tools=ToolSettings(ffmpeg=str(tool)), store=StoreSettings(home=bench.settings.store.home), process=quick
    )
    return Workbench(settings), tool


def works(tool: Path) -> int:
    return sum("-i" in call for call in fake_tool.called_with(tool))


def test_a_refusal_climbs_the_whole_ladder_and_ends_with_the_last_one(
    bench: Workbench, made: Made, tmp_path: Path
) -> None:
    broken, tool = with_tool(bench, tmp_path, ["error codec not currently supported in container", "exit 1"])
    with pytest.raises(RefusedByMuxer):
        remuxed(broken, made("h264_aac_mp4"))
    assert works(tool) == 3


def test_original_climbs_to_repair_only(bench: Workbench, made: Made, tmp_path: Path) -> None:
    broken, tool = with_tool(bench, tmp_path, ["error Invalid DTS", "exit 1"])
    with pytest.raises(TidegateError):
        remuxed(broken, made("h264_aac_mp4"), ORIGINAL)
    assert works(tool) == 2


def test_a_stall_never_climbs_though_stderr_speaks_of_codecs(bench: Workbench, made: Made, tmp_path: Path) -> None:
    broken, tool = with_tool(bench, tmp_path, ["error Invalid data found when processing input", "hang"])
    with pytest.raises(StalledProcess):
        remuxed(broken, made("h264_aac_mp4"))
    assert works(tool) == 1


@pytest.mark.parametrize(
    "acts", [["write {last} 0"], ["write {last} 5K"], []], ids=["empty output", "garbage output", "no output"]
)
def test_exit_0_proves_nothing(acts: list[str], bench: Workbench, made: Made, tmp_path: Path) -> None:
    # The output is given as a file: URL, which the fake tool does not know; it writes where the stage looks.
    output = bench.home.scratch("key", "output") / "media.mp4.partial"
    lying, _ = with_tool(bench, tmp_path, [act.replace("{last}", str(output)) for act in acts])
    with pytest.raises(TidegateError) as caught:
        remuxed(lying, made("h264_aac_mp4"))
    assert caught.value.type in ("not_media", "verification_failed", "unknown")
    assert leftovers(bench.home.root / "scratch", ("*.partial",)) == []


def test_five_percent_of_the_film_with_exit_0_is_not_believed(
    bench: Workbench, clips: Path, made: Made, tmp_path: Path
) -> None:
    output = bench.home.scratch("key", "output") / "media.mp4.partial"
    short = clip(clips, seconds=0.4)
    fake_tool.allow(clips)
    lying, tool = with_tool(bench, tmp_path, [f"copy {short} {output}"])
    with pytest.raises(TidegateError) as caught:
        remuxed(lying, made("h264_aac_mp4"))
    assert caught.value.type == "verification_failed"
    assert works(tool) == 3


def test_a_repair_after_a_failed_copy_is_told_as_damage(
    bench: Workbench, clips: Path, made: Made, tmp_path: Path
) -> None:
    output = bench.home.scratch("key", "output") / "media.mp4.partial"
    good = bench.store.path(made("h264_aac_mp4").asset)
    tool, _ = with_tool(bench, tmp_path, ["error Invalid DTS", "exit 1"], [f"copy {good} {output}"])
    result = remuxed(tool, made("h264_aac_mp4"))
    assert [(step.strategy, step.outcome) for step in result.ladder] == [("copy", "failed"), ("repair", "completed")]
    assert [finding.code for finding in result.findings] == ["source_damaged"]


def test_a_tool_that_is_no_ffmpeg_is_told_before_anything_is_made(bench: Workbench, made: Made) -> None:
    settings = Settings(tools=ToolSettings(ffmpeg="/bin/false"), store=bench.settings.store)
    with pytest.raises(ToolMissing, match="no ffmpeg"):
        remuxed(Workbench(settings), made("h264_aac_mp4"))


def test_a_missing_tool_is_told_before_anything_is_made(bench: Workbench, made: Made) -> None:
    settings = Settings(tools=ToolSettings(ffmpeg="/nowhere/ffmpeg"), store=bench.settings.store)
    with pytest.raises(ToolMissing):
        remuxed(Workbench(settings), made("h264_aac_mp4"))

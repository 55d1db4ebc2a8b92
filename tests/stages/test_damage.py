"""Odd but healthy files are not refused, and damaged ones are not taken for healthy: each through the real stages."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from pydantic import SecretStr

from tests.support.clips import clip
from tidegate import stages
from tidegate.errors import RefusedByMuxer, TruncatedMedia
from tidegate.model import ProfileName, Quality, RemuxResult, Source, Strategy
from tidegate.settings import Settings, StoreSettings
from tidegate.stages import Workbench
from tidegate.stages.verification import tolerance_seconds

pytestmark = pytest.mark.ci


SECONDS = 12


def ffmpeg(*words: str | Path) -> None:
    subprocess.run([get_ffmpeg_exe(), "-nostdin", "-v", "error", "-y", *map(str, words)], check=True)


def came_out(path: Path, home: Path, profile: ProfileName = ProfileName.UNIVERSAL) -> RemuxResult:
    """The result of probe, download and remux."""

    async def run() -> RemuxResult:
        bench = Workbench(Settings(store=StoreSettings(home=home)))
        source = Source(url=SecretStr(path.as_uri()))
        identity, _ = await stages.identify(bench, source)
        probed = await stages.probe(bench, source, identity, "key")
        downloaded = await stages.download(bench, source, probed, probed.renditions[0], "key")
        return await stages.remux(bench, downloaded, profile, Quality.AUTO, "key")

    return anyio.run(run)


@pytest.fixture(scope="module")
def film(clips: Path) -> Path:
    return clip(clips, "h264_aac_mkv", seconds=SECONDS)


def with_chapters(film: Path, folder: Path) -> Path:
    chapters, made = folder / "chapters.txt", folder / "chapters.mov"
    chapters.write_text(";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1\nSTART=0\nEND=5\ntitle=one\n")
    ffmpeg("-i", film, "-i", chapters, "-map_metadata", "1", "-c", "copy", made)
    return made


def with_timecode(film: Path, folder: Path) -> Path:
    ffmpeg("-i", film, "-c", "copy", "-timecode", "01:00:00:00", folder / "timecode.mov")
    return folder / "timecode.mov"


def with_late_sound(film: Path, folder: Path) -> Path:
    ffmpeg(
        "-i", film, "-itsoffset", "5", "-i", film, *("-map", "0:v", "-map", "1:a", "-c", "copy"), folder / "late.mkv"
    )
    return folder / "late.mkv"


def beginning_at_100_s(film: Path, folder: Path) -> Path:
    ffmpeg("-i", film, "-c", "copy", "-output_ts_offset", "100", folder / "offset.mkv")
    return folder / "offset.mkv"


def joined_from_two(film: Path, folder: Path) -> Path:
    ffmpeg("-i", film, "-c", "copy", folder / "one.ts")
    (folder / "joined.ts").write_bytes((folder / "one.ts").read_bytes() * 2)
    return folder / "joined.ts"


def without_times(film: Path, folder: Path) -> Path:
    ffmpeg("-i", film, "-map", "0:v", "-c", "copy", folder / "raw.h264")
    return folder / "raw.h264"


def trimmed_by_edit_list(film: Path, folder: Path) -> Path:
    ffmpeg("-i", film, "-c", "copy", folder / "whole.mp4")
    ffmpeg("-ss", "5", "-i", folder / "whole.mp4", "-c", "copy", folder / "trimmed.mp4")
    return folder / "trimmed.mp4"


HEALTHY: list[tuple[Callable[[Path, Path], Path], float]] = [
    (with_chapters, SECONDS),
    (with_timecode, SECONDS),
    (with_late_sound, SECONDS),
    (beginning_at_100_s, SECONDS),
    (joined_from_two, 2 * SECONDS),
    (without_times, SECONDS),
    (trimmed_by_edit_list, SECONDS - 5),
]


@pytest.mark.parametrize("profile", [ProfileName.UNIVERSAL, ProfileName.ORIGINAL])
@pytest.mark.parametrize(("make", "length"), HEALTHY, ids=[make.__name__ for make, _ in HEALTHY])
def test_an_odd_but_healthy_file_is_copied_whole(
    make: Callable[[Path, Path], Path], length: float, profile: ProfileName, film: Path, tmp_path: Path
) -> None:
    result = came_out(make(film, tmp_path), tmp_path / "home", profile)
    assert [step.outcome for step in result.ladder] == ["completed"], result.ladder
    assert result.decision.strategy is Strategy.COPY
    assert result.media.length_seconds == pytest.approx(length, abs=tolerance_seconds(length))
    assert not [finding for finding in result.findings if finding.code == "source_damaged"]


def with_a_hole(path: Path, made: Path) -> Path:
    """A fifth of the bytes in the middle are zero."""
    content = bytearray(path.read_bytes())
    begin, length = len(content) * 2 // 5, len(content) // 5
    content[begin : begin + length] = bytes(length)
    made.write_bytes(content)
    return made


@pytest.mark.parametrize("name", ["h264_aac_mkv", "vp9_opus_webm"])
@pytest.mark.parametrize("profile", ProfileName)
def test_a_hole_in_the_middle_is_never_a_success(name: str, profile: ProfileName, clips: Path, tmp_path: Path) -> None:
    damaged = with_a_hole(clip(clips, name, seconds=SECONDS), tmp_path / "hole.mkv")
    with pytest.raises(TruncatedMedia, match="missing in the middle"):
        came_out(damaged, tmp_path / "home", profile)


def test_a_hole_in_a_recording_without_declared_length_is_told(clips: Path, tmp_path: Path) -> None:
    damaged = with_a_hole(clip(clips, "h264_aac_ts", seconds=SECONDS), tmp_path / "hole.ts")
    result = came_out(damaged, tmp_path / "home")
    assert {"source_damaged", "length_unconfirmed"} <= {finding.code for finding in result.findings}


def test_a_recording_that_begins_in_mid_gop_is_copied_from_its_first_keyframe(film: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.ts"
    ffmpeg("-i", film, "-c:v", "libx264", "-g", "75", "-c:a", "copy", whole)
    content = whole.read_bytes()
    packets = len(content) // 188
    begun = tmp_path / "begun.ts"
    begun.write_bytes(content[: 188 * 3] + content[188 * (packets // 12) :])
    result = came_out(begun, tmp_path / "home")
    assert result.decision.strategy is Strategy.COPY
    assert any("mid-GOP" in finding.message for finding in result.findings)


def test_sound_that_nobody_can_decode_is_refused_rather_than_left_out(film: Path, tmp_path: Path) -> None:
    unknown = tmp_path / "unknown.mkv"
    content = film.read_bytes()
    assert content.count(b"A_AAC") == 1
    unknown.write_bytes(content.replace(b"A_AAC", b"A_XXX"))
    with pytest.raises(RefusedByMuxer, match="not known"):
        came_out(unknown, tmp_path / "home")


def test_a_second_picture_that_is_left_out_is_told(film: Path, tmp_path: Path) -> None:
    two = tmp_path / "two.mkv"
    ffmpeg("-i", film, "-map", "0:v", "-map", "0:a", "-map", "0:v", "-c", "copy", two)
    assert "video_dropped" in {finding.code for finding in came_out(two, tmp_path / "home").findings}

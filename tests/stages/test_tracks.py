"""Picture and sound in files of their own: one film all the same, with both where they belong."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import anyio
import imageio_ffmpeg
import pytest

from tests.support.clips import clip
from tidegate.events import ignore_events
from tidegate.media.inspect import inspect
from tidegate.media.join import join
from tidegate.model import DownloadResult, MediaInfo, ProfileName, Quality, RemuxResult, TransferStats
from tidegate.settings import ProcessSettings, ToolSettings
from tidegate.stages import Workbench, remux
from tidegate.stages.recipes import offsets_seconds
from tidegate.transfer.resolvers.base import WHOLE_FILE

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
LIMITS = ProcessSettings()


def looked_at(path: Path) -> MediaInfo:
    async def look() -> MediaInfo:
        return await inspect(path, "packets", LIMITS, 60, stage="download", observe=ignore_events)

    return anyio.run(look)


def transport_stream(source: Path, target: Path, *, begins_seconds: float) -> Path:
    """The same packets with timestamps from there on, as segments of a broadcast have them."""
    words = ["-i", str(source), "-c", "copy", "-output_ts_offset", str(begins_seconds), "-muxdelay", "0"]
    subprocess.run([FFMPEG, "-v", "error", "-y", *words, "-f", "mpegts", str(target)], check=True)
    return target


def of_tracks(bench: Workbench, **tracks: Path) -> DownloadResult:
    media = MediaInfo.of_tracks([looked_at(path) for path in tracks.values()])
    return DownloadResult(
        asset=bench.store.put(dict(tracks)),
        rendition=WHOLE_FILE,
        media=media,
        transfer=TransferStats(),
        length_confirmed=True,
        recorded_at=datetime.now(UTC),
    )


def remuxed(bench: Workbench, source: DownloadResult, profile: ProfileName) -> RemuxResult:
    return anyio.run(remux, bench, source, profile, Quality.AUTO, "tracks")


@pytest.mark.parametrize("profile", ProfileName)
def test_two_tracks_become_one_film(profile: ProfileName, bench: Workbench, clips: Path, tmp_path: Path) -> None:
    picture = transport_stream(clip(clips, "video_only_mp4", seconds=3), tmp_path / "v.ts", begins_seconds=10)
    sound = transport_stream(clip(clips, "audio_only_m4a", seconds=3), tmp_path / "a.ts", begins_seconds=10)
    source = of_tracks(bench, picture=picture, sound=sound)
    assert [(s.kind, s.track, s.place) for s in source.media.streams] == [("video", 0, 0), ("audio", 1, 0)]
    result = remuxed(bench, source, profile)
    assert [s.kind for s in result.media.streams] == ["video", "audio"]
    assert result.verification.decode_errors == 0
    assert result.media.length_seconds == pytest.approx(3, abs=0.1)


def test_sound_that_begins_later_begins_later_in_the_film(bench: Workbench, clips: Path, tmp_path: Path) -> None:
    picture = transport_stream(clip(clips, "video_only_mp4", seconds=3), tmp_path / "v.ts", begins_seconds=10)
    sound = transport_stream(clip(clips, "audio_only_m4a", seconds=1), tmp_path / "a.ts", begins_seconds=11.5)
    source = of_tracks(bench, picture=picture, sound=sound)
    assert offsets_seconds(source.media) == pytest.approx([0, 1.5], abs=0.1)
    result = remuxed(bench, source, ProfileName.UNIVERSAL)
    video, audio = result.media.video, result.media.audio
    assert video is not None and audio is not None
    assert (audio.start_seconds or 0) - (video.start_seconds or 0) == pytest.approx(1.5, abs=0.1)


def test_pieces_with_headers_of_their_own_are_joined_without_loss(
    bench: Workbench, clips: Path, tmp_path: Path
) -> None:
    first, second = clip(clips, "h264_aac_mp4", seconds=2), clip(clips, "h264_aac_mp4", seconds=3)
    pieces = [tmp_path / "it's one.mp4", tmp_path / "two.mp4"]
    for piece, film in zip(pieces, (first, second), strict=True):
        piece.write_bytes(film.read_bytes())
    toolchain = Workbench(bench.settings.model_copy(update={"tools": ToolSettings(ffmpeg=FFMPEG)})).toolchain()

    async def work() -> Path:
        return await join(toolchain, pieces, tmp_path / "film.mkv", LIMITS)

    film = looked_at(anyio.run(work))
    assert film.video is not None and film.video.packets == 5 * 25
    assert film.length_seconds == pytest.approx(5, abs=0.1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mkv", "it's one.mp4", "two.mp4"]

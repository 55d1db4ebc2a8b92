"""ffmpeg's progress as it is really printed, and which ffmpeg is taken."""

from __future__ import annotations

import subprocess
from pathlib import Path

import anyio
import imageio_ffmpeg
import pytest

from tests.support import fake_tool
from tests.support.clips import clip
from tidegate.errors import ProcessFailure, ToolMissing
from tidegate.events import Advance, Event, ignore_events
from tidegate.media.ffmpeg import (
    ProgressReader,
    Toolchain,
    base_arguments,
    can_tone_map,
    file_url,
    run_ffmpeg,
    version_of,
)
from tidegate.settings import ProcessSettings, ToolSettings

pytestmark = pytest.mark.usefixtures("nothing_left")

FFMPEG = Path(imageio_ffmpeg.get_ffmpeg_exe())
LIMITS = ProcessSettings(tick=0.1)


def test_a_block_of_progress_is_read() -> None:
    blocks: list[float] = []
    progress = ProgressReader(lambda p: blocks.append(p.out_time_seconds))
    for line in ("frame=25", "total_size=1000", "out_time_us=1000000", "out_time_ms=1000000", "speed=2.5x"):
        progress.feed(line)
    assert blocks == []
    progress.feed("progress=continue")
    assert blocks == [1.0]
    assert progress.marks == {"frame": 25, "total_size": 1000, "out_time_us": 1_000_000}
    assert progress.speed == 2.5


def test_what_is_not_available_keeps_what_was_known() -> None:
    progress = ProgressReader()
    for line in ("out_time_us=5000000", "out_time_us=N/A", "total_size=N/A", "speed=N/A", "frame= 7 ", "nonsense", "="):
        progress.feed(line)
    assert progress.marks == {"out_time_us": 5_000_000, "frame": 7}
    assert progress.speed is None


def test_the_misnamed_milliseconds_are_not_used() -> None:
    progress = ProgressReader()
    progress.feed("out_time_ms=7000000")
    assert progress.out_time_seconds == 0.0


def test_the_ffmpeg_that_was_set_comes_before_the_one_on_path_and_that_before_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    on_path = fake_tool.install(tmp_path / "bin", "ffmpeg", [])
    own = fake_tool.install(tmp_path, "my-ffmpeg", [])
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert Toolchain.find(ToolSettings(ffmpeg=str(own))).ffmpeg == own
    assert Toolchain.find(ToolSettings(ffmpeg=None)).ffmpeg == on_path
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert Toolchain.find(ToolSettings(ffmpeg=None)).ffmpeg == FFMPEG


def test_an_ffmpeg_that_was_set_and_is_not_there_is_missing_and_no_other_is_taken() -> None:
    with pytest.raises(ToolMissing, match="TIDEGATE_TOOLS_FFMPEG"):
        Toolchain.find(ToolSettings(ffmpeg="/nowhere/ffmpeg"))


def test_threads_are_as_set_else_bounded() -> None:
    assert Toolchain(FFMPEG, 3).encoder_threads == 3
    assert 1 <= Toolchain(FFMPEG).encoder_threads <= 8


def test_the_real_ffmpeg_tells_its_version() -> None:
    assert anyio.run(version_of, Toolchain(FFMPEG), LIMITS).startswith("ffmpeg version ")


def test_an_ffmpeg_that_does_not_run_is_missing(tmp_path: Path) -> None:
    broken = fake_tool.install(tmp_path, "ffmpeg", ["error cannot load libx264.so", "exit 127"])
    with pytest.raises(ToolMissing, match="127"):
        anyio.run(version_of, Toolchain(broken), LIMITS)


@pytest.mark.parametrize("name", ["-i.mp4", "concat:a|b.mp4", "http:evil.mp4", "50%03d.mp4", "a\nb.mp4", "'\".mp4"])
def test_a_file_of_any_name_is_that_file(name: str, clips: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(clip(clips, seconds=1).read_bytes())
    done = subprocess.run([FFMPEG, "-v", "error", "-i", file_url(path), "-f", "null", "-"], capture_output=True)
    assert done.returncode == 0, done.stderr


async def decode(source: Path, told: list[Event]) -> None:
    await run_ffmpeg(
        [*base_arguments(FFMPEG, source), "-f", "null", "-"],
        stage="remux",
        limits=LIMITS,
        deadline_seconds=60,
        media_seconds=2.0,
        observe=told.append,
    )


def test_the_real_ffmpeg_reports_its_progress_as_seconds_of_media(clips: Path) -> None:
    told: list[Event] = []
    anyio.run(decode, clip(clips, seconds=2), told)
    last = [event for event in told if isinstance(event, Advance)][-1]
    assert (last.unit, last.total) == ("seconds", 2.0)
    assert last.done == pytest.approx(2.0, abs=0.1)


def test_a_playlist_named_mp4_makes_ffmpeg_read_no_other_file(clips: Path, tmp_path: Path) -> None:
    other = clip(clips, "h264_aac_ts", seconds=1)
    playlists = {
        "hls.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n",
        "concat.mp4": f"ffconcat version 1.0\nfile '{other}'\n",
    }
    for name, text in playlists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ProcessFailure):
            anyio.run(decode, tmp_path / name, [])


def test_a_bad_exit_is_diagnosed(tmp_path: Path) -> None:
    async def run() -> None:
        tool = fake_tool.install(tmp_path, "ffmpeg", ["error Unknown encoder 'libx264'", "exit 1"])
        await run_ffmpeg(
            [str(tool)],
            stage="remux",
            limits=LIMITS,
            deadline_seconds=10,
            media_seconds=None,
            observe=ignore_events,
        )

    with pytest.raises(ProcessFailure, match="libx264"):
        anyio.run(run)


@pytest.mark.parametrize(
    ("lines", "can"),
    [
        ((" .SC zscale            V->V       Apply resizing.", " .S. tonemap           V->V       Conversion."), True),
        (
            (" .S. tonemap           V->V       Conversion.", " .S. scale             V->V       No zscale."),
            False,
        ),
        ((), False),
    ],
)
def test_whether_hdr_can_be_mapped_is_seen_in_the_list_of_filters(
    lines: tuple[str, ...], can: bool, tmp_path: Path
) -> None:
    tool = fake_tool.install(tmp_path, "ffmpeg", [f"print {line}" for line in lines])
    assert anyio.run(can_tone_map, Toolchain(tool), ProcessSettings()) is can

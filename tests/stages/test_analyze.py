"""What the detectors see in a clip whose faults are known, and what is left when one of them is broken."""

from __future__ import annotations

import importlib
import math
import subprocess
from pathlib import Path

import anyio
import av
import imageio_ffmpeg
import pytest

from tests.stages.conftest import Downloaded, Made
from tests.support import clips as recipes
from tests.support import fake_tool
from tests.support.clips import BLACK_SECONDS, FROZEN_SECONDS, SILENT_SECONDS, clip
from tidegate.errors import StalledProcess
from tidegate.model import AnalysisResult, Detection, ProfileName, Quality, RemuxResult
from tidegate.settings import ProcessSettings, Settings, StoreSettings, ToolSettings
from tidegate.stages import Workbench, analyze, remux
from tidegate.stages.analyze import CONTACT_SHEET, SHEET_COLUMNS, SHEET_ROWS, TILE_WIDTH, WAVEFORM
from tidegate.stages.detectors import DETECTORS, Detector, Reading

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
ANALYZE_MODULE = importlib.import_module("tidegate.stages.analyze")
"""`tidegate.stages.analyze` as an attribute is the coroutine."""


@pytest.fixture(scope="module")
def faulty(bench: Workbench, made: Made) -> RemuxResult:
    return anyio.run(remux, bench, made("h264_faults_mp4"), ProfileName.UNIVERSAL, Quality.AUTO, "faults")


@pytest.fixture(scope="module")
def analysis(bench: Workbench, faulty: RemuxResult) -> AnalysisResult:
    return anyio.run(analyze, bench, faulty, "faults")


def of(analysis: AnalysisResult, name: str) -> Detection:
    detection = analysis.of(name)
    assert detection is not None
    return detection


@pytest.mark.parametrize(
    ("detector", "expected"), [("black", BLACK_SECONDS), ("silence", SILENT_SECONDS), ("freeze", FROZEN_SECONDS)]
)
def test_a_fault_is_found_where_it_is_and_nowhere_else(
    detector: str, expected: tuple[int, int], analysis: AnalysisResult
) -> None:
    detection = of(analysis, detector)
    assert detection.state == "done"
    # A black picture does not move either.
    wanted = [BLACK_SECONDS, expected] if detector == "freeze" else [expected]
    assert [i.start_seconds for i in detection.intervals] == pytest.approx([start for start, _ in wanted], abs=0.15)
    assert [i.end_seconds for i in detection.intervals] == pytest.approx([end for _, end in wanted], abs=0.15)


def test_loudness_is_measured_and_finite(analysis: AnalysisResult) -> None:
    values = of(analysis, "loudness").values
    assert values.keys() == {"integrated_lufs", "loudness_range_lu", "true_peak_dbtp"}
    assert all(math.isfinite(value) for value in values.values())
    assert -40 < values["integrated_lufs"] < 0
    assert -40 < values["true_peak_dbtp"] <= 1


def picture(bench: Workbench, analysis: AnalysisResult, name: str) -> Path:
    assert analysis.asset is not None
    return bench.store.folder(analysis.asset) / name


def centre(frame: av.VideoFrame, column: int, row: int) -> float:
    """How bright the middle of a tile is, from 0 to 255."""
    gray = frame.reformat(format="gray").planes[0]
    top, left = row * TILE_WIDTH * 3 // 4 + 60, column * TILE_WIDTH + 80
    lines = [bytes(gray)[y * gray.line_size + left :][:160] for y in range(top, top + 120, 10)]
    return sum(map(sum, lines)) / sum(map(len, lines))


def test_the_contact_sheet_is_a_jpeg_of_twelve_moments(bench: Workbench, analysis: AnalysisResult) -> None:
    sheet = picture(bench, analysis, CONTACT_SHEET)
    assert sheet.read_bytes()[:3] == b"\xff\xd8\xff"
    with av.open(str(sheet)) as container:
        [frame] = container.decode(video=0)
    assert (frame.width, frame.height) == (SHEET_COLUMNS * TILE_WIDTH, SHEET_ROWS * TILE_WIDTH * 3 // 4)
    brightness = [centre(frame, column, row) for row in range(SHEET_ROWS) for column in range(SHEET_COLUMNS)]
    assert all(value > 40 for at, value in enumerate(brightness) if at not in (2, 3)), "no tile is missing"
    assert min(brightness[2:4]) < 20, "the black stretch is in its place"


def test_the_waveform_is_a_png(bench: Workbench, analysis: AnalysisResult) -> None:
    assert picture(bench, analysis, WAVEFORM).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("name", "absent", "pictures"),
    [("audio_only_m4a", {"black", "freeze"}, {WAVEFORM}), ("video_only_mp4", {"silence", "loudness"}, {CONTACT_SHEET})],
)
def test_a_detector_without_its_stream_is_not_applicable(
    name: str, absent: set[str], pictures: set[str], bench: Workbench, made: Made
) -> None:
    media = anyio.run(remux, bench, made(name), ProfileName.UNIVERSAL, Quality.AUTO, name)
    analysis = anyio.run(analyze, bench, media, name)
    states = {detection.detector: detection.state for detection in analysis.detections}
    assert states == {d.name: "not_applicable" if d.name in absent else "done" for d in DETECTORS}
    assert all(d.reason for d in analysis.detections if d.state != "done")
    assert analysis.asset is not None
    assert {track.name for track in analysis.asset.tracks} == pictures


@pytest.mark.parametrize("broken", ["nosuchfilter=1", "blackdetect=d=no-number"])
def test_a_broken_detector_is_reported_as_not_run_and_the_rest_stands(
    broken: str, bench: Workbench, faulty: RemuxResult, analysis: AnalysisResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = Detector("bad", "video", broken, lambda lines, length: Reading(), "bad")
    monkeypatch.setattr(ANALYZE_MODULE, "DETECTORS", (*DETECTORS, bad))
    result = anyio.run(analyze, bench, faulty, "broken")
    not_run = of(result, "bad")
    assert (not_run.state, bool(not_run.reason)) == ("not_run", True)
    for detector in DETECTORS:
        assert of(result, detector.name) == of(analysis, detector.name)
    assert result.asset is not None and analysis.asset is not None
    assert {t.name for t in result.asset.tracks} == {t.name for t in analysis.asset.tracks}


def test_a_title_that_looks_like_a_detection_is_not_taken_for_one(
    bench: Workbench, clips: Path, downloaded: Downloaded, tmp_path: Path
) -> None:
    titled = tmp_path / "titled.mp4"
    with av.open(str(clip(clips, seconds=1))) as source, av.open(str(titled), "w") as target:
        target.metadata["title"] = "black_start:0 black_end:1 freeze_start: 0 silence_start: 0"
        streams = {s.index: target.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream_index]
                target.mux(packet)
    media = anyio.run(remux, bench, downloaded(titled), ProfileName.UNIVERSAL, Quality.AUTO, "titled")
    result = anyio.run(analyze, bench, media, "titled")
    assert [d.intervals for d in result.detections] == [()] * len(DETECTORS)


def test_a_silent_film_has_no_infinite_loudness(bench: Workbench, clips: Path, downloaded: Downloaded) -> None:
    silent = recipes.Recipe(".m4a", recipes.lavfi("anullsrc=r=48000:cl=stereo:d={seconds}"), recipes.AAC)
    source = downloaded(recipes.make(clips, "silent", silent, seconds=2, size="1x1"))
    media = anyio.run(remux, bench, source, ProfileName.UNIVERSAL, Quality.AUTO, "silent")
    result = anyio.run(analyze, bench, media, "silent")
    [interval] = of(result, "silence").intervals
    assert (interval.start_seconds, interval.end_seconds) == (0, pytest.approx(2, abs=0.1))
    assert all(math.isfinite(value) for value in of(result, "loudness").values.values())


def test_a_pass_that_stalls_is_a_stall_and_not_a_broken_detector(
    bench: Workbench, faulty: RemuxResult, tmp_path: Path
) -> None:
    tool = fake_tool.install(tmp_path, "ffmpeg", ["error No such filter", "hang"])
    stuck = Settings(
        tools=ToolSettings(ffmpeg=str(tool)),
        store=StoreSettings(home=bench.settings.store.home),
        process=ProcessSettings(startup_grace=1, stall_timeout=0.5, tick=0.1, end_grace=0.5),
    )
    with pytest.raises(StalledProcess):
        anyio.run(analyze, Workbench(stuck), faulty, "stuck")
    assert len(fake_tool.called_with(tool)) == 1


def test_sound_in_opposite_phase_is_no_flat_line(bench: Workbench, downloaded: Downloaded, tmp_path: Path) -> None:
    path = tmp_path / "opposite.m4a"
    sound = "sine=frequency=440:duration=2,volume=8dB,pan=stereo|c0=c0|c1=-1*c0"
    subprocess.run([FFMPEG, "-v", "error", "-y", "-f", "lavfi", "-i", sound, "-c:a", "aac", str(path)], check=True)
    media = anyio.run(remux, bench, downloaded(path), ProfileName.UNIVERSAL, Quality.AUTO, "opposite")
    result = anyio.run(analyze, bench, media, "opposite")
    assert result.asset is not None
    drawn = bench.store.path(result.asset, next(t for t in result.asset.tracks if t.name == WAVEFORM))
    with av.open(str(drawn)) as container:
        plane = next(container.decode(video=0)).reformat(format="gray").planes[0]
    content = bytes(plane)
    rows = [content[at : at + plane.width] for at in range(0, len(content), plane.line_size)]
    assert sum(any(row) for row in rows) > 20, "the wave is drawn over many rows"


def test_tiles_have_the_shape_of_the_film(bench: Workbench, downloaded: Downloaded, tmp_path: Path) -> None:
    path = tmp_path / "wide.mkv"
    film = "testsrc2=size=720x576:rate=5:duration=2,setsar=64/45"
    subprocess.run(
        [FFMPEG, "-v", "error", "-y", "-f", "lavfi", "-i", film, "-c:v", "libx264", "-pix_fmt", "yuv420p", str(path)],
        check=True,
    )
    media = anyio.run(remux, bench, downloaded(path), ProfileName.ORIGINAL, Quality.AUTO, "wide")
    result = anyio.run(analyze, bench, media, "wide")
    assert result.asset is not None
    sheet = bench.store.path(result.asset, next(t for t in result.asset.tracks if t.name == CONTACT_SHEET))
    with av.open(str(sheet)) as container:
        frame = next(container.decode(video=0))
    assert (frame.width // SHEET_COLUMNS, frame.height // SHEET_ROWS) == (320, 180)

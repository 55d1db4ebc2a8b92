"""A run in which everything happened, and the failure of another."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tidegate.errors import Evidence, StalledTransfer
from tidegate.model import (
    STAGES,
    AnalysisResult,
    Asset,
    Decision,
    Detection,
    DownloadResult,
    Failure,
    Finding,
    Identity,
    Interval,
    LadderStep,
    MediaInfo,
    Outcome,
    ProbeResult,
    PublishResult,
    RemuxResult,
    Rendition,
    ResourceUse,
    StageRecord,
    Strategy,
    StreamInfo,
    Track,
    TransferStats,
    Verification,
)
from tidegate.report.failure import describe

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
HOSTILE = "<script>alert('tide')</script>\"><img src=http://evil.example/x.png onerror=alert(1)>"


@pytest.fixture
def hostile() -> str:
    """What a stranger may choose as a name."""
    return HOSTILE


@pytest.fixture
def failure() -> Failure:
    evidence = Evidence(url="https://host/film.mp4", received_bytes=1000, waited_seconds=30.0, output_tail="last words")
    error = StalledTransfer("No byte for 30 s", hint="Try at night", evidence=evidence, stage="download")
    return describe(error, now=NOW, identifier="0badcafe")


@pytest.fixture
def outcome(failure: Failure, tmp_path: Path) -> Outcome:
    """Every field is filled, and every text that a stranger chooses is hostile."""
    track = Track(name="film.mp4", size_bytes=12_345_678, digest="blake3:" + "ab" * 32)
    asset = Asset(address="blake3:" + "cd" * 32, tracks=(track,))
    streams = (
        StreamInfo(
            index=0,
            kind="video",
            codec="h264",
            profile=HOSTILE,
            pix_fmt="yuv420p",
            width=1280,
            height=720,
            frame_rate=25.0,
            start_seconds=0.0,
            end_seconds=60.0,
            packets=1500,
        ),
        StreamInfo(index=1, kind="audio", codec=HOSTILE, channels=2, sample_rate=48000, end_seconds=60.0),
    )
    media = MediaInfo(container="mov", duration_seconds=60.0, streams=streams, depth="frames")
    rendition = Rendition(id="direct", label=HOSTILE)
    spent = TransferStats(requests=3, retries=1, bytes_received=10_000_000, bytes_reused=2_345_678, seconds=4.0)
    return Outcome(
        status="completed",
        source=f"https://host/{HOSTILE}",
        work_key="1fde2049" * 4,
        flow_run_id="0198c0de",
        ui_url="http://127.0.0.1:4200/runs/flow-run/0198c0de",
        resources={
            "remux": ResourceUse(seconds=2.5, samples=3, peak_memory_bytes=90_000_000, curve=((0.1, 80_000_000, 99.0),))
        },
        stages={name: StageRecord(state="completed", cached=name == "probe", seconds=1.5) for name in STAGES},
        probe=ProbeResult(
            identity=Identity(url="https://host/film.mp4", name=HOSTILE),
            resolver="direct",
            renditions=(rendition,),
            preview=media,
            recorded_at=NOW,
        ),
        download=DownloadResult(
            asset=asset,
            rendition=rendition,
            media=media,
            transfer=spent,
            checked=("sha256:" + "ef" * 32,),
            length_confirmed=True,
            recorded_at=NOW,
        ),
        download_path=tmp_path / "assets" / "film.mp4",
        transfer=spent,
        remux=RemuxResult(
            asset=asset,
            decision=Decision(
                strategy=Strategy.REPAIR,
                container="mp4",
                video="copy",
                audio="aac",
                subtitles="none",
                reasons=(f"the audio is {HOSTILE}",),
            ),
            media=media,
            verification=Verification(checks=("decoded", "durations"), worst_difference_seconds=0.02),
            ladder=(
                LadderStep(strategy=Strategy.COPY, outcome="failed", failure="refused_by_muxer", message=HOSTILE),
                LadderStep(strategy=Strategy.REPAIR, outcome="completed", seconds=2.0),
            ),
            ffmpeg_version="ffmpeg 7.1",
            seconds=2.5,
            recorded_at=NOW,
        ),
        analysis=AnalysisResult(
            asset=None,
            detections=(
                Detection(detector="black", state="done", intervals=(Interval(start_seconds=1.0, end_seconds=4.0),)),
                Detection(detector="freeze", state="not_run", reason=HOSTILE),
                Detection(detector="loudness", state="done", values={"integrated_lufs": -23.1, "true_peak_dbtp": -1.2}),
            ),
            recorded_at=NOW,
        ),
        published=PublishResult(folder=tmp_path / "media" / "film-1fde2049", tracks=(track,), recorded_at=NOW),
        findings=(Finding(code="source_damaged", message=HOSTILE),),
        failure=failure,
        failure_log=tmp_path / "film.err.log",
    )

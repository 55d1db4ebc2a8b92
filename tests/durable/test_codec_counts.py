"""The count of codecs in the ledger, on both of its databases: what a run adds, and that none is lost."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.durable.test_origins import made_by_version_1
from tests.support.forked import Pipe, many
from tidegate.durable.home import Home
from tidegate.durable.ledger import Ledger
from tidegate.durable.ledger.codec_counts import CodecUse, codec_uses_of
from tidegate.durable.ledger.schema import MIGRATIONS
from tidegate.errors import RefusedByMuxer
from tidegate.model import (
    Asset,
    Decision,
    DownloadResult,
    LadderStep,
    MediaInfo,
    Outcome,
    RemuxResult,
    Rendition,
    StageRecord,
    Strategy,
    StreamInfo,
    Track,
    TransferStats,
    Verification,
)
from tidegate.report.failure import describe
from tidegate.settings import LedgerSettings

NOW = datetime(2026, 1, 2, tzinfo=UTC)
H264 = CodecUse(kind="video", codec="h264", detail="High yuv420p", strategy="copy", outcome="completed")
AAC = CodecUse(kind="audio", codec="aac", detail="LC", strategy="copy", outcome="completed")
ASSET = Asset(address="blake3:ab", tracks=(Track(name="source", size_bytes=1, digest="blake3:cd"),))
MEDIA = MediaInfo(
    container="mov",
    streams=(
        StreamInfo(index=0, kind="video", codec="h264", profile="High", pix_fmt="yuv420p"),
        StreamInfo(index=1, kind="audio", codec="aac", profile="LC"),
        StreamInfo(index=2, kind="video", codec="mjpeg", attached_picture=True),
        StreamInfo(index=3, kind="data", codec="bin_data"),
    ),
)


def outcome_of(*steps: LadderStep, cached: bool = False) -> Outcome:
    """A run that got as far as the remux stage; without steps, and no further."""
    downloaded = DownloadResult(
        asset=ASSET,
        rendition=Rendition(id="file", label="file"),
        media=MEDIA,
        transfer=TransferStats(),
        length_confirmed=True,
        recorded_at=NOW,
    )
    made = RemuxResult(
        asset=ASSET,
        decision=Decision(strategy=Strategy.COPY, container="mp4", video="copy", audio="copy", subtitles="none"),
        media=MEDIA,
        verification=Verification(checks=()),
        ladder=steps,
        ffmpeg_version="",
        seconds=0.0,
        recorded_at=NOW,
    )
    record = StageRecord(state="completed" if steps else "failed", cached=cached)
    failure = None if steps else describe(RefusedByMuxer("no"), now=NOW)
    return Outcome(
        status="completed" if steps else "failed",
        source="file:///x",
        stages={"remux": record},
        download=downloaded,
        remux=made if steps else None,
        failure=failure,
    )


def test_each_stream_counts_once_for_each_strategy_that_was_tried() -> None:
    failed = LadderStep(strategy=Strategy.COPY, outcome="failed", failure="verification_failed")
    seen = codec_uses_of(outcome_of(failed, LadderStep(strategy=Strategy.REPAIR, outcome="completed")))
    assert [(one.kind, one.codec, one.strategy, one.outcome) for one in seen] == [
        *((kind, codec, "copy", "verification_failed") for kind, codec in KINDS),
        *((kind, codec, "repair", "completed") for kind, codec in KINDS),
    ]
    assert seen[0].detail == "High yuv420p"


KINDS = [("video", "h264"), ("audio", "aac"), ("cover", "mjpeg")]


def test_a_run_whose_last_rung_failed_counts_its_failure() -> None:
    assert {one.outcome for one in codec_uses_of(outcome_of())} == {"refused_by_muxer"}


def test_a_checkpoint_is_not_counted_again_nor_a_run_that_made_nothing() -> None:
    assert codec_uses_of(outcome_of(LadderStep(strategy=Strategy.COPY, outcome="completed"), cached=True)) == ()
    assert codec_uses_of(Outcome(status="failed", source="file:///x")) == ()


def test_what_was_counted_is_listed_the_most_frequent_first(ledger: Ledger) -> None:
    ledger.codecs.count([AAC])
    ledger.codecs.count([H264, AAC])
    ledger.codecs.count([])
    listed = ledger.codecs.all()
    assert [(one.codec, one.streams) for one in listed] == [(AAC, 2), (H264, 1)]
    assert all(abs(one.seen_at - ledger.now()) < 60 for one in listed)


def test_processes_that_count_at_the_same_time_lose_none(limits: LedgerSettings, home: Home) -> None:
    Ledger.open(limits, home).close()

    def count(pipe: Pipe) -> None:
        mine = Ledger.open(limits, home)
        for number in range(10):
            mine.codecs.count([H264, AAC] if (number + os.getpid()) % 2 else [AAC, H264])

    with many(count, 4) as children:
        assert [child.wait() for child in children] == [0] * 4
    ledger = Ledger.open(limits, home)
    assert [one.streams for one in ledger.codecs.all()] == [40, 40]
    ledger.close()


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_ledger_gets_the_count(version: int, limits: LedgerSettings, home: Home, tmp_path: Path) -> None:
    made_by_version_1(limits, home)
    if version == 2:
        older = Ledger.open(limits, home)
        with older._database.transaction() as connection:
            connection.execute(text("DROP TABLE codecs"))
            connection.execute(text("UPDATE schema_version SET version = 2"))
        older.close()
    ledger = Ledger.open(limits, home)
    ledger.codecs.count([H264])
    assert [one.streams for one in ledger.codecs.all()] == [1]
    assert ledger.attempt("attempt") is not None
    with ledger._database.connect() as connection:
        assert connection.execute(text("SELECT version FROM schema_version")).scalar_one() == len(MIGRATIONS) + 1
    ledger.close()

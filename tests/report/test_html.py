"""The page asks nobody for anything, and no stranger's text becomes part of it."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tidegate.model import (
    Aim,
    AnalysisResult,
    ChunkRecord,
    Detection,
    NotCarried,
    Outcome,
    Quality,
    StageRecord,
    StreamInfo,
    TransferStats,
)
from tidegate.report.html import html_report
from tidegate.report.units import clock, human_size, quantity

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
LOADING = {"src", "href", "srcset", "data", "action", "poster", "background", "formaction"}


class Page(HTMLParser):
    """Elements, attributes and visible text, as a browser would find them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "sheet.png"
    path.write_bytes(PIXEL)
    return path


def test_the_page_loads_nothing_and_its_pictures_are_inside(outcome: Outcome, picture: Path) -> None:
    text = html_report(outcome, {"Contact sheet": picture}, title="Film", now=NOW)
    page = Page(text)
    loaded = [value for name, value in page.attributes if name in LOADING and not value.startswith("./")]
    assert loaded == ["data:image/png;base64," + base64.b64encode(PIXEL).decode()]
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert "url(" not in text and "@import" not in text


def test_hostile_names_are_shown_as_text_and_add_no_element(outcome: Outcome, picture: Path, hostile: str) -> None:
    page = Page(html_report(outcome, {hostile: picture}, title=hostile, now=NOW))
    harmless = outcome.model_copy(update={"source": "https://host/film.mp4", "findings": outcome.findings[:1]})
    plain = Page(html_report(harmless, {"Sheet": picture}, title="Film", now=NOW))
    assert page.tags == plain.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    # Title, heading, source, finding, caption, reason, ladder, detector, two streams: all as text.
    assert page.words.count(hostile) >= 10


def test_the_page_tells_what_happened(outcome: Outcome) -> None:
    words = Page(html_report(outcome, {}, title="Film", now=NOW)).words
    for part in (
        "completed",
        "1:00.0",
        "12.3 MB",
        "1280×720",
        "-23.1 LUFS",
        "repair",
        "probe",
        "already done by an earlier run",
    ):
        assert part in words
    assert outcome.failure is not None
    assert outcome.failure.friendly_message in words and outcome.failure.reference in words
    assert "2026-03-04 05:06:07 UTC" in words


def test_what_the_result_has_not_stands_beside_the_streams_of_both(outcome: Outcome) -> None:
    lost = NotCarried(what="the language pt-BR", where="sound track 1 (aac)", why="MP4 has no place for it")
    assert outcome.remux is not None
    sound = StreamInfo(index=0, kind="audio", codec="aac", language="por", title="Commentary", roles=("comment",))
    told = {"not_carried": (lost,), "media": outcome.remux.media.model_copy(update={"streams": (sound,)})}
    text = html_report(
        outcome.model_copy(update={"remux": outcome.remux.model_copy(update=told)}), {}, title="x", now=NOW
    )
    for word in (lost.what, lost.where, lost.why, "Streams of the source", "Streams of the result"):
        assert word in text
    assert "por, “Commentary”, comment" in text


def test_a_run_that_got_nowhere_has_a_page_too() -> None:
    stages = {"probe": StageRecord(state="failed", seconds=0.1)}
    page = Page(html_report(Outcome(status="failed", source="s", stages=stages), {}, title="Film", now=NOW))
    assert "failed" in page.words and "img" not in page.tags


@pytest.mark.parametrize(
    ("seconds", "told"), [(None, "–"), (0, "0:00.0"), (62.34, "1:02.3"), (3723.4, "1:02:03.4"), (36000, "10:00:00.0")]
)
def test_a_position_reads_as_a_clock(seconds: float | None, told: str) -> None:
    assert clock(seconds) == told


@pytest.mark.parametrize("seconds", [59.97, 3599.99, 119.96])
def test_a_clock_never_shows_sixty_seconds(seconds: float) -> None:
    assert ":60" not in clock(seconds)


@pytest.mark.parametrize(
    ("size", "told"), [(None, "–"), (0, "0 B"), (999, "999 B"), (12_345_678, "12.3 MB"), (3.2e15, "3200.0 TB")]
)
def test_a_size_reads_in_powers_of_a_thousand(size: float | None, told: str) -> None:
    assert human_size(size) == told


@pytest.mark.parametrize(
    ("number", "what", "told"), [(0, "request", "0 requests"), (1, "request", "1 request"), (2, "retry", "2 retries")]
)
def test_one_is_no_plural(number: int, what: str, told: str) -> None:
    assert quantity(number, what) == told


def test_the_page_tells_the_transfer_of_this_run_as_the_document_does(outcome: Outcome) -> None:
    this_run = outcome.model_copy(update={"transfer": TransferStats(requests=1, bytes_received=345_678)})
    words = Page(html_report(this_run, {}, title="Film", now=NOW)).words
    assert "1 request, 0 retries, 345.7 kB received, 12.0 MB reused" in words


def test_every_detector_of_stretches_has_a_timeline_and_one_of_values_has_none(outcome: Outcome) -> None:
    detections = (
        Detection(detector="blur", state="done"),
        Detection(detector="flicker", state="done", values={"hertz": 50.0}),
    )
    analysis = AnalysisResult(asset=None, detections=detections, recorded_at=NOW)
    words = Page(html_report(outcome.model_copy(update={"analysis": analysis}), {}, title="Film", now=NOW)).words
    assert "Black, frozen or silent parts" in words and "blur" in words and "flicker" not in words


def test_the_page_links_what_lies_beside_it_and_tells_start_total_time_and_the_command(outcome: Outcome) -> None:
    started = outcome.model_copy(
        update={"started_at": NOW - timedelta(seconds=83), "command": "python -m flows.run 'https://host/a b.mp4'"}
    )
    page = Page(html_report(started, {}, title="Film", now=NOW))
    assert {value for name, value in page.attributes if name == "href"} == {
        "./film.mp4", "./film.err.log", "./report.json",
    }  # fmt: skip
    told = " ".join(page.words.split())
    assert f"started {started.started_at.astimezone():%Y-%m-%d %H:%M:%S}" in told and "took 1 min 23 s in all" in told
    assert "python -m flows.run 'https://host/a b.mp4'" in told


def test_a_page_of_a_failure_names_the_log_beside_it(outcome: Outcome) -> None:
    assert "film.err.log" in Page(html_report(outcome, {}, title="Film", now=NOW)).words


def test_how_it_was_encoded_and_what_was_aimed_at_are_told(outcome: Outcome) -> None:
    assert outcome.remux is not None
    aim = Aim(rung=Quality.P480, height=480)
    told = {}
    for name, chunks in {
        "in chunks": ChunkRecord(planned=12, reused=3, workers=2, encoder="libx264"),
        "whole": ChunkRecord(why_whole="it is short"),
    }.items():
        remux = outcome.remux.model_copy(update={"chunks": chunks, "aim": aim})
        page = html_report(outcome.model_copy(update={"remux": remux}), {}, title="Film", now=NOW)
        told[name] = " ".join(Page(page).words.split())
    assert (
        "Transcoded by libx264 in 12 chunks, 3 of them from an earlier attempt, by 2 workers (local)"
        in told["in chunks"]
    )
    assert "Transcoded by libx264 in one piece: it is short" in told["whole"]
    assert all("the picture was to have at most 480 lines" in words for words in told.values())

"""What a person reads at the end of a run."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, RenderableType

from tidegate.events import Advance
from tidegate.model import STAGES, Failure, OriginStats, Outcome, StageRecord
from tidegate.report.terminal import batch_summary, failure_panel, origin_line, outcome_summary, progress_line


def shown(renderable: RenderableType, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_failure_panel_says_what_happened_what_to_do_and_what_to_quote(failure: Failure) -> None:
    text = shown(failure_panel(failure, log="/media/film.err.log", source="https://host/film.mp4"))
    for part in (
        "source: https://host/film.mp4",
        "error log: /media",
        failure.friendly_message,
        failure.message,
        failure.reference,
        "in download",
        "/media/film.err.log",
    ):
        assert part in text
    for action in failure.suggested_actions:
        assert f"• {action}" in text


def test_square_brackets_in_a_strangers_message_are_text_and_no_style(failure: Failure) -> None:
    message = "[red]refused[/red] [https @ 0x1] [/]"
    hostile = failure.model_copy(
        update={"message": message, "friendly_message": message, "suggested_actions": (message,)}
    )
    assert shown(failure_panel(hostile, log=message)).count(message) == 4


@pytest.mark.parametrize("width", [20, 40])
def test_a_panel_in_a_narrow_terminal_loses_no_word(width: int, failure: Failure) -> None:
    text = shown(failure_panel(failure, log="/media/film.err.log"), width)
    letters = "".join(character for character in text if character.isalnum())
    for words in (failure.message, failure.reference, "/media/film.err.log"):
        assert "".join(character for character in words if character.isalnum()) in letters


def test_a_summary_says_where_the_results_are_and_what_is_worth_knowing(outcome: Outcome) -> None:
    text = outcome_summary(outcome).plain
    assert outcome.published is not None
    for part in (
        str(outcome.published.video),
        str(outcome.published.folder / "report.html"),
        "h264 1280×720",
        "12.3 MB",
    ):
        assert part in text
    assert f"finding {outcome.findings[0].message}" in text
    assert "already done" not in text


def test_a_run_of_checkpoints_only_says_so(outcome: Outcome) -> None:
    stages = {name: StageRecord(state="completed", cached=True) for name in STAGES}
    text = outcome_summary(outcome.model_copy(update={"stages": stages})).plain
    assert "already done; nothing was repeated" in text


@pytest.mark.parametrize(
    ("stats", "told"),
    [
        (OriginStats(origin="o", attempts=1, failures={"not_found": 1}), "o  1 request failed: not found"),
        (OriginStats(origin="o", attempts=3, failures={"server_error": 2}), "o  3 requests, 2 failed (server error)"),
        (
            OriginStats(origin="o", attempts=9, failures={"server_error": 2, "throttled": 1}, bytes_received=2_000_000),
            "o  9 requests, 3 failed (2 server error, 1 throttled), 2.0 MB",
        ),
        (
            OriginStats(origin="o", attempts=4, breaker="half_open"),
            "o  4 requests, requests are paused (breaker half open)",
        ),
    ],
)
def test_an_origin_is_told_in_words(stats: OriginStats, told: str) -> None:
    assert origin_line(stats) == told


def test_an_origin_is_told_only_where_something_was_retried(outcome: Outcome) -> None:
    failed = OriginStats(origin="https://host:443", attempts=2, failures={"server_error": 1})
    for retries, shown_ones in ((0, 0), (1, 1)):
        one = outcome.model_copy(update={"origins": (failed.model_copy(update={"retries": retries}),)})
        assert outcome_summary(one).plain.count("https://host:443") == shown_ones


def test_result_and_file_come_last_after_the_total_time(outcome: Outcome) -> None:
    names = [line.split()[0] for line in outcome_summary(outcome, 200.4).plain.splitlines()]
    assert names == ["finding", "time", "report", "result", "file"]
    assert "3 min 20 s" in outcome_summary(outcome, 200.4).plain


def test_several_sources_end_with_how_many_are_done_and_why_the_others_are_not(outcome: Outcome) -> None:
    good = outcome.model_copy(update={"failure": None})
    bad = Outcome(status="failed", source="https://host/bad.mp4", failure=outcome.failure)
    first, second = batch_summary([good, bad], 61.0).plain.splitlines()
    assert first == "1 of 2 sources done in 1 min 1 s"
    assert second == "failed  https://host/bad.mp4: The source stopped sending. No byte for 30 s"


def test_a_run_that_ended_after_the_download_says_where_the_source_is(outcome: Outcome) -> None:
    text = outcome_summary(outcome.model_copy(update={"remux": None, "published": None})).plain
    assert str(outcome.download_path) in text and "report" not in text


def test_what_checks_a_result_is_told_apart_from_what_made_it() -> None:
    assert progress_line(Advance("remux", 30, 60, "seconds")).startswith("remux  0:30")
    assert progress_line(Advance("remux", 30, 60, "seconds", doing="checking")).startswith("remux, checking  0:30")

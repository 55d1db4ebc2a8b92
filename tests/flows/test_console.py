"""The display: progress at a steady pace, results where they belong."""

from __future__ import annotations

import io

from rich.console import Console

from flows.console import PLAIN_EVERY_SECONDS, Display
from tidegate.events import Advance, Note, RunStarted, StageEnded


def test_plain_progress_comes_first_after_a_while_and_then_at_that_pace() -> None:
    now = 1000.0
    told = io.StringIO()
    console = Console(file=told, width=100)
    display = Display(console, console, clock=lambda: now)
    lines = []
    for seconds in (0.0, PLAIN_EVERY_SECONDS - 0.1, PLAIN_EVERY_SECONDS, PLAIN_EVERY_SECONDS + 0.1):
        now = 1000.0 + seconds
        display(Advance("download", 1, 2, "bytes"))
        lines.append(len(told.getvalue().splitlines()))
    assert lines == [0, 0, 1, 1]


def test_beside_prefects_own_log_nothing_is_said_twice() -> None:
    said = {}
    for verbose in (False, True):
        told = io.StringIO()
        console = Console(file=told, width=100)
        display = Display(console, console, verbose=verbose)
        display(Note("the source's ETag changes"))
        display(StageEnded("probe", "completed", cached=False, seconds=1.0))
        said[verbose] = told.getvalue()
        assert display.stages["probe"].state == "completed"
    assert "ETag" in said[False] and "probe: completed" in said[False]
    assert said[True] == ""


def test_a_result_of_other_bytes_and_one_that_was_already_done_are_told_apart() -> None:
    told = io.StringIO()
    display = Display(Console(file=told, width=100), Console(file=told, width=100))
    for cached in (True, False):
        display(RunStarted("https://host/film.mp4"))
        display(StageEnded("download", "completed", cached=cached, seconds=1.0))
        display(StageEnded("remux", "completed", cached=True, seconds=0.0))
    assert told.getvalue().splitlines() == [
        "download: already done",
        "remux: already done",
        "download: completed after 1.0 s",
        "remux: reused, because the same bytes were processed before",
    ]


def test_a_long_source_is_not_cut_where_the_log_is_no_terminal() -> None:
    told, source = io.StringIO(), f"https://host/{'long/' * 40}film.mp4"
    Display(Console(file=told, width=80), Console(file=told, width=80), titled=True)(RunStarted(source))
    assert source in told.getvalue()

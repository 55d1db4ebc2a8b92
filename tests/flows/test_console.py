"""The display: progress at a steady pace, results where they belong."""

from __future__ import annotations

import io

from rich.console import Console

from flows.console import PLAIN_EVERY_SECONDS, Display
from tidegate.events import Advance


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

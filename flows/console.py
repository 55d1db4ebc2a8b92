"""The live display of a run: a progress line in a terminal, plain lines elsewhere; all of it on stderr.

`flows/run.py` makes one and subscribes it to the events. It keeps what the stages came to, so that an interrupted
run can still say how far it was.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Self

from rich.console import Console
from rich.status import Status
from rich.text import Text

from tidegate.events import Advance, Event, Note, StageEnded, StageStarted
from tidegate.model import StageRecord
from tidegate.report.html import clock, human_size

PLAIN_EVERY_SECONDS = 5.0
"""How often a plain log shows progress."""


class Display(AbstractContextManager["Display"]):
    """An observer that shows events. Thread-safe."""

    def __init__(self, console: Console, *, verbose: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.stages: dict[str, StageRecord] = {}
        """What each stage of the current source came to."""
        self._console = console
        self._verbose = verbose
        self._clock = clock
        self._shown_at = 0.0
        self._lock = threading.Lock()
        self._status: Status | None = console.status("starting") if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def say(self, text: str) -> None:
        """A line of the command's own."""
        self._console.print(Text(text), soft_wrap=True)

    def begin_source(self) -> None:
        """The next source starts from nothing."""
        self.stages = {}

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._show(event)

    def _show(self, event: Event) -> None:
        match event:
            case Advance():
                self._advance(event)
            case StageStarted():
                self._stage(event.stage)
            case StageEnded():
                self.stages[event.stage] = StageRecord(state=event.state, cached=event.cached, seconds=event.seconds)
                self._print(_ended(event), {"completed": "green", "failed": "red"}.get(event.state, "yellow"))
            case Note(level="debug") if not self._verbose:
                pass
            case Note():
                self._print(event.message, {"warning": "yellow", "error": "red"}.get(event.level, ""))

    def _stage(self, stage: str) -> None:
        if stage == "probe":
            self.begin_source()
        if self._status is not None:
            self._status.update(stage)

    def _advance(self, event: Advance) -> None:
        line = progress_line(event)
        if self._status is not None:
            self._status.update(line)
        elif self._clock() - self._shown_at >= PLAIN_EVERY_SECONDS:
            self._shown_at = self._clock()
            self._print(line, "")

    def _print(self, text: str, style: str) -> None:
        self._console.print(Text(text, style=style), soft_wrap=True)


def progress_line(event: Advance) -> str:
    """`download  12.3 MB of 48.0 MB (26 %), 3.1 MB/s, 0:11.5 left`."""
    show = human_size if event.unit == "bytes" else clock
    line = f"{event.stage}  {show(event.done)}"
    if event.total:
        line += f" of {show(event.total)} ({min(100, round(100 * event.done / event.total))} %)"
    if event.per_second:
        line += f", {human_size(event.per_second)}/s" if event.unit == "bytes" else f", {event.per_second:.1f}×"
        if event.total and event.total > event.done:
            line += f", {clock((event.total - event.done) / event.per_second)} left"
    return line


def _ended(event: StageEnded) -> str:
    if event.cached and event.state == "completed":
        return f"{event.stage}: from its checkpoint"
    return f"{event.stage}: {event.state} after {event.seconds:.1f} s"

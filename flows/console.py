"""The live display of a run: a progress line in a terminal, plain lines elsewhere.

`flows/run.py` makes one and subscribes it to the events. Results go to stdout (with `--json` to stderr, as the
document is there), everything else to stderr. It keeps what sources and stages came to, so that an interrupted run can
still say how far it was. Writing takes no time and cannot fail: see `flows/streams.py`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Self

from rich.console import Console
from rich.status import Status
from rich.text import Text

from tidegate.events import Advance, Event, Note, RunEnded, RunStarted, StageEnded, StageStarted, Waiting
from tidegate.model import Outcome, StageRecord
from tidegate.redact import visible_line
from tidegate.report.terminal import batch_summary, failure_panel, outcome_summary, progress_line

PLAIN_EVERY_SECONDS = 5.0
"""How often a plain log shows progress."""


class Display(AbstractContextManager["Display"]):
    """An observer that shows events. Thread-safe.

    `results` is the console of the results; `titled` puts a line with its source before each of several. The time that
    is told begins when this is made; of one of several sources, with its own run.
    """

    def __init__(
        self,
        console: Console,
        results: Console,
        *,
        verbose: bool = False,
        titled: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stages: dict[str, StageRecord] = {}
        """What each stage of the current source came to."""
        self.ended: list[Outcome] = []
        """The outcomes of the sources that are done, in their order."""
        self._console = console
        self._results = results
        self._verbose = verbose
        self._titled = titled
        self._clock = clock
        self._began = self._source_began = self._shown_at = clock()
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

    def tell(self, outcome: Outcome) -> None:
        """How a source ended: its result, and its failure if it has one."""
        if self._status is not None:
            self._status.stop()  # or result and progress would share a line of the terminal
        summary = outcome_summary(outcome, self._clock() - (self._source_began if self._titled else self._began))
        if summary:
            self._results.print(summary, soft_wrap=True)
        if outcome.failure is not None:
            log, folder = outcome.failure_log, outcome.report_folder
            page = folder / "report.html" if folder else None
            self._console.print(
                failure_panel(
                    outcome.failure, str(log) if log else None, str(page) if page else None, source=outcome.source
                )
            )
        self.ended.append(outcome)

    def sum_up(self, outcomes: Sequence[Outcome]) -> None:
        """What became of several sources."""
        self._console.print(batch_summary(outcomes, self._clock() - self._began), soft_wrap=True)

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._show(event)

    def _show(self, event: Event) -> None:
        match event:
            case Advance():
                self._advance(event)
            case RunStarted():
                self._begin(event.source)
            case RunEnded():
                self.tell(event.outcome)
            case StageStarted():
                self._stage(event.stage)
            case StageEnded():
                self.stages[event.stage] = StageRecord(state=event.state, cached=event.cached, seconds=event.seconds)
                self._say_outside_log(
                    self._stage_end_line(event), {"completed": "green", "failed": "red"}.get(event.state, "yellow")
                )
            case Waiting():
                self._stage(f"waiting: {event.what}" if event.what else "going on")
            case Note(level="debug" | "detail"):
                pass
            case Note():
                self._say_outside_log(event.message, {"warning": "yellow", "error": "red"}.get(event.level, ""))

    def _say_outside_log(self, line: str, style: str) -> None:
        """Prefect's log, where it is shown as well, has it already."""
        if not self._verbose:
            self._print(line, style)

    def _begin(self, source: str) -> None:
        self.stages = {}
        self._source_began = self._clock()
        if self._titled and self._console.is_terminal:
            self._console.rule(Text(visible_line(source)), align="left")
        elif self._titled:
            self._print(f"--- {source} ---", "")  # a rule would cut a long one
        if self._status is not None:
            self._status.update("starting")
            self._status.start()

    def _stage(self, stage: str) -> None:
        if self._status is not None:
            self._status.update(Text(visible_line(stage)))

    def _advance(self, event: Advance) -> None:
        line = progress_line(event)
        if self._status is not None:
            self._status.update(Text(visible_line(line)))
        elif self._clock() - self._shown_at >= PLAIN_EVERY_SECONDS:
            self._shown_at = self._clock()
            self._print(line, "")

    def _print(self, text: str, style: str) -> None:
        self._console.print(Text(visible_line(text), style=style), soft_wrap=True)

    def _stage_end_line(self, event: StageEnded) -> str:
        if not (event.cached and event.state == "completed"):
            return f"{event.stage}: {event.state} after {event.seconds:.1f} s"
        downloaded = self.stages.get("download")
        if event.stage not in ("probe", "download") and downloaded is not None and not downloaded.cached:
            return f"{event.stage}: reused, because the same bytes were processed before"
        return f"{event.stage}: already done"

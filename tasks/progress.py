"""How far a run is, shown in the Prefect UI as a progress artifact.

`flows/ending.py` shows it beside the work. It is written at most every few seconds and only for what takes longer, so
a short run pays nothing; a server that does not take it costs the run nothing either.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from uuid import UUID

import anyio
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact

from tidegate.events import Advance, Event, Observer, StageEnded, StageStarted, Strain, Waiting
from tidegate.report.terminal import progress_line, strain_line

EVERY_SECONDS = 3.0
"""How often the artifact is written at most."""

_logger = logging.getLogger(__name__)


class Progress:
    """An observer that keeps what is to be shown: a percentage and a line. It may be called from any thread."""

    def __init__(self) -> None:
        self.percent = 0.0
        self._line = ""
        self._strain = ""

    @property
    def line(self) -> str:
        """How far it is and, where a tool is at work, what that one uses and risks."""
        return "; ".join(filter(None, [self._line, self._strain]))

    def __call__(self, event: Event) -> None:
        match event:
            case StageStarted():
                self._show(0.0, event.stage)
            case Advance():
                self._show(100.0 * event.done / event.total if event.total else 0.0, progress_line(event))
            case Strain():
                self._strain = strain_line(event)
            case StageEnded(state="completed"):
                self._show(100.0, f"{event.stage}: done")
            case Waiting(what=str(what)):
                self._show(self.percent, f"waiting for {what}")
            case _:
                pass
        if isinstance(event, StageStarted | StageEnded | Waiting):
            self._strain = ""

    def _show(self, percent: float, line: str) -> None:
        self.percent, self._line = min(100.0, round(percent, 1)), line


@contextlib.asynccontextmanager
async def show_progress() -> AsyncIterator[Observer]:
    """An observer whose progress is shown while the block lasts."""
    progress = Progress()
    async with anyio.create_task_group() as siblings:
        siblings.start_soon(_show, progress)
        yield progress
        siblings.cancel_scope.cancel()


async def _show(progress: Progress) -> None:
    artifact: UUID | None = None
    last = ""
    while True:
        await anyio.sleep(EVERY_SECONDS)
        line = progress.line
        if line == last:
            continue
        last = line
        try:
            if artifact is None:
                artifact = await acreate_progress_artifact(progress.percent, description=last)
            else:
                await aupdate_progress_artifact(artifact, progress.percent, description=last)
        except Exception:  # a picture for people: the work does not depend on it
            _logger.debug("The progress could not be shown", exc_info=True)

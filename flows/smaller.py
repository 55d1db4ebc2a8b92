"""Step down in a transcode: when a picture cannot be made within its memory or time, the next smaller one.

`flows/ingest_run.py` enters the subflow only then, so that the UI shows it and the usual way pays nothing. The download
stays; nothing of a target that was given up is left. What was given up, and the target that comes next, are noted in
the scratch folder, so that a run which is taken up after a crash goes on below.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from prefect import flow
from pydantic import ValidationError

from flows.fallback import TRANSCODE, note_given_up
from tidegate.durable.atomic import write_atomic
from tidegate.errors import TidegateError
from tidegate.events import Note
from tidegate.model import Aim, RemuxResult, Tried
from tidegate.resilience.quality import next_aim
from tidegate.stages import Workbench

Make = Callable[[Aim], Awaitable[RemuxResult]]
"""The remux stage for one target."""


@dataclass
class HeightLadder:
    """One download on its way to a target that can be made."""

    bench: Workbench
    source: str
    """Redacted."""
    scratch: Path
    make: Make
    tried: list[Tried]

    async def take(self, aim: Aim) -> RemuxResult | Aim:
        """One target, or the smaller one that may do instead.

        Raises:
            TidegateError: it could not be made, and a smaller picture does not help.
        """
        note_aim(self.scratch, aim)
        started = time.monotonic()
        try:
            return await self.make(aim)
        except TidegateError as failure:
            smaller = below(aim, failure)
            if smaller is None:
                raise
            self._give_up(aim, failure, time.monotonic() - started)
            return smaller

    def _give_up(self, aim: Aim, failure: TidegateError, seconds: float) -> None:
        label = f"a picture of {failure.target_height} lines"
        self.tried.append(
            Tried(
                resolver=TRANSCODE,
                rendition=aim.rung,
                label=label,
                failure=failure.type,
                message=failure.message,
                seconds=round(seconds, 3),
            )
        )
        note_given_up(self.scratch, self.tried)
        self.bench.observe(Note(f"{label} could not be made: {failure.message}", "warning"))


_ladder: ContextVar[HeightLadder] = ContextVar("ladder")


async def remux_stepping_down(ladder: HeightLadder, aim: Aim) -> RemuxResult:
    """The target, or the largest below it that can be made.

    Raises:
        TidegateError: the first failure that a smaller picture does not cure, or the last one's.
    """
    begin, why = aim, "resumed"
    if aim.height is None:
        result = await ladder.take(aim)
        if isinstance(result, RemuxResult):
            return result
        begin, why = result, ladder.tried[-1].failure
    token = _ladder.set(ladder)
    try:
        return await transcode_fallback(ladder.source, [tried.label for tried in ladder.tried], begin, why)
    finally:
        _ladder.reset(token)


@flow(name="transcode fallback", flow_run_name="smaller picture after {why}", persist_result=False)
async def transcode_fallback(source: str, given_up: list[str], begin: Aim, why: str) -> RemuxResult:
    """Try what is left, from the top.

    Args:
        source: The source, redacted.
        given_up: What could not be had or made.
        begin: The target to begin with.
        why: The last failure.

    Raises:
        TidegateError: nothing smaller is left; the last failure.
    """
    ladder = _ladder.get()
    result: RemuxResult | Aim = begin
    while isinstance(result, Aim):
        ladder.bench.observe(Note(f"Stepping down to a picture of {result.height} lines ({result.rung})"))
        result = await ladder.take(result)
    return result


def below(aim: Aim, failure: TidegateError) -> Aim | None:
    """The target after one that failed; None where a smaller picture would not help, or there is none."""
    return next_aim(aim, failure.target_height) if failure.policy.smaller_picture else None


def read_aim(scratch: Path, published: Path) -> Aim | None:
    """What an attempt that was cut short had come to, or what the folder that stands was made with; what the memory
    recommends today may be something else, and would be other work."""
    try:
        return Aim.model_validate_json(_aim_path(scratch).read_bytes())
    except (OSError, ValidationError):
        return _aim_in(published)


def note_aim(scratch: Path, aim: Aim) -> None:
    """Keep what was chosen for attempts to come."""
    write_atomic(_aim_path(scratch), aim.model_dump_json().encode())


def _aim_in(folder: Path) -> Aim | None:
    try:
        return Aim.model_validate(json.loads((folder / "report.json").read_bytes())["output"]["aim"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _aim_path(scratch: Path) -> Path:
    return scratch / "aim.json"

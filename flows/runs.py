"""`python -m flows.runs`: what the ledger knows of runs; with `recover` or `maintain`, those flows by hand.

For people who have no worker, and for a look at what recovery would do (`--dry-run`). Listing reads the ledger only;
the two flows run exactly as their deployments do. The ledger's row of a killed run still says that it runs: what is
shown is what recovery would find.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from rich.console import Console
from rich.table import Table

from flows import safety
from flows.server import attach
from flows.streams import run_command
from tidegate.durable.home import Home
from tidegate.errors import POLICIES, TidegateError, snake_case
from tidegate.redact import visible_line
from tidegate.report.failure import describe
from tidegate.report.terminal import failure_panel
from tidegate.settings import Settings

if TYPE_CHECKING:
    from tidegate.durable.ledger import Attempt
    from tidegate.durable.ledger.codec_counts import CodecCount
    from tidegate.durable.owner import Owner
    from tidegate.model import Value
    from tidegate.settings import LedgerSettings

DONE, FAILED = 0, 1
LISTED = timedelta(days=7)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    words = _runs_parser().parse_args(argv)
    console = Console(stderr=True)
    try:
        settings = Settings.load()
        return _list_runs(settings, words) if words.flow is None else _operate(settings, words)
    except TidegateError as error:
        console.print(failure_panel(describe(error, now=datetime.now(UTC))))
        return FAILED


def _runs_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.runs",
        description="List the runs of the last week, or start one of the maintenance jobs by hand.",
    )
    parser.add_argument(
        "flow", nargs="?", choices=["recover", "maintain"], help="the maintenance job to start; none: list runs"
    )
    parser.add_argument(
        "--codecs", action="store_true", help="list the codecs of the sources so far, and how their runs ended"
    )
    parser.add_argument("--dry-run", action="store_true", help="with recover or maintain: only say what would be done")
    parser.add_argument("--json", action="store_true", dest="as_json", help="one JSON document on stdout")
    return parser


def _list_runs(settings: Settings, words: argparse.Namespace) -> int:
    from tidegate.durable.ledger import Ledger

    ledger = Ledger.open(settings.ledger, Home(settings.store.home))
    if words.codecs:
        return _list_codecs(ledger.codecs.all(), words.as_json)
    from flows.resume import resumable_runs
    from tidegate.durable.owner import this_process

    attempts, now, here = ledger.recent(LISTED.total_seconds()), ledger.now(), this_process()
    cut_short = resumable_runs(attempts, now, here, settings.ledger)
    resumable = {attempt.id: f"python -m flows.run --resume {attempt.id}" for attempt in cut_short}
    rows = [_row(attempt, now, here, settings.ledger, resumable.get(attempt.id)) for attempt in attempts]
    if words.as_json:
        pairs = zip(attempts, rows, strict=True)
        _print_json([{**attempt.model_dump(mode="json"), **asdict(row)} for attempt, row in pairs])
        return DONE
    for attempt, row in zip(attempts, rows, strict=True):
        print("\n".join(_lines(attempt, row, _report_of(attempt, settings))))  # noqa: T201
    if not attempts:
        print("No run in the last week.")  # noqa: T201
    return DONE


@dataclass(frozen=True)
class Row:
    """What is true of an attempt now, beyond what its row in the ledger says."""

    condition: str
    """`running`, `silent`, `lost contact`, `cut short`; of one that has ended, its state."""
    silent_seconds: float | None
    """Since its last renewal; None of one that has ended."""
    cure: str | None
    """What takes it up again; None where nothing has to."""

    @property
    def shown(self) -> str:
        """`lost contact 12 min ago`, `running, silent for 50 s`."""
        from tidegate.durable.ledger.decide import Condition

        seconds = self.silent_seconds or 0.0
        length = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
        if self.condition == Condition.LOST_CONTACT:
            return f"lost contact {length} ago"
        return f"running, silent for {length}" if self.condition == Condition.SILENT else self.condition


def _row(attempt: Attempt, now: float, here: Owner, limits: LedgerSettings, resume: str | None) -> Row:
    from tidegate.durable.ledger.decide import REPEATED, Condition, condition

    found = condition(attempt, now, here, limits)
    if found is None:
        return Row(attempt.state.value, None, resume)
    lost = found in (Condition.CUT_SHORT, Condition.LOST_CONTACT)
    by_recovery = "python -m flows.runs recover" if lost and attempt.deployment and attempt.kind in REPEATED else None
    return Row(found.value, round(max(0.0, now - attempt.renewed_at), 1), resume or by_recovery)


def _list_codecs(counted: Sequence[CodecCount], as_json: bool) -> int:
    if as_json:
        _print_json([{**one.codec.model_dump(), "streams": one.streams, "seen_at": one.seen_at} for one in counted])
        return DONE
    table = Table("streams", "kind", "codec", "", "strategy", "ended", "last", box=None)
    for one in counted:
        last = datetime.fromtimestamp(one.seen_at, UTC).astimezone()
        codec = one.codec
        table.add_row(
            *(str(one.streams), codec.kind, codec.codec, codec.detail, codec.strategy, codec.outcome),
            f"{last:%Y-%m-%d %H:%M}",
        )
    Console().print(table)
    return DONE


def _lines(attempt: Attempt, row: Row, report: Path | None) -> Iterator[str]:
    """A run as a person reads it; no line is cut, however narrow the terminal."""
    since = datetime.fromtimestamp(attempt.created_at, UTC).astimezone()
    stage = f" in {attempt.stage}" if attempt.stage and row.condition != "completed" else ""
    yield visible_line(f"{since:%Y-%m-%d %H:%M}  {row.shown}{stage}: {_name_of(attempt)}")
    facts = {
        "id": attempt.id,
        "reason": _reason(attempt),
        "waits for": (attempt.waiting_for or "") if row.condition in ("running", "silent") else "",
        "report": str(report or ""),
        "to do": f"to resume it: {row.cure}" if row.cure else "",
    }
    yield from (visible_line(f"    {name:<9} {fact}") for name, fact in facts.items() if fact)


def _name_of(attempt: Attempt) -> str:
    """The file's name, where what it works on has one."""
    return unquote(urlsplit(attempt.title).path.rstrip("/").rpartition("/")[2]) or attempt.title


def _reason(attempt: Attempt) -> str:
    """Why it failed: the failure's type, its sentence for people, and what else the ledger knows."""
    if attempt.failure is None:
        return attempt.error_reason or ""
    friendly = next(
        (row.friendly for kind, row in POLICIES.items() if snake_case(kind.__name__) == attempt.failure), ""
    )
    return " ".join(filter(None, (f"{attempt.failure}:", friendly, attempt.error_reason)))


def _report_of(attempt: Attempt, settings: Settings) -> Path | None:
    """The page of the run, else the error log of one that failed where an earlier success stands."""
    folder = attempt.target
    if folder is None and attempt.failure and "output_dir" in attempt.request:
        from tidegate.stages.publish import folder_before_identity

        request = attempt.request
        output = Home(settings.store.home).outputs(Path(request["output_dir"]), settings.store.output)
        folder = output / folder_before_identity(attempt.title, request["profile"], request["quality"])
    if folder is None:
        return None
    logs = sorted(folder.glob("*.err.log")) if attempt.failure else []
    return next((path for path in (folder / "report.html", *logs) if path.is_file()), None)


def _operate(settings: Settings, words: argparse.Namespace) -> int:
    server = attach(settings.store.home, partial(print, file=sys.stderr, flush=True))
    atexit.register(server.stop)
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.update(safety.environment("run"))
    from tasks.observe import listen
    from tidegate.events import Event, Note

    def tell(event: Event) -> None:
        if isinstance(event, Note):
            print(event.message, file=sys.stderr)  # noqa: T201

    server.wait()
    with listen(tell):
        done = asyncio.run(_run_upkeep(words.flow, words.dry_run))
    if words.as_json:
        _print_json([one.model_dump(mode="json") for one in done])
    return FAILED if any(getattr(one, "error", "") for one in done) else DONE


async def _run_upkeep(name: str, dry_run: bool) -> list[Value]:
    if name == "recover":
        from flows.recover import recover

        return list(await recover(dry_run))
    from flows.maintain import maintain

    done = await maintain(dry_run)
    return [done, *done.stuck]


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))  # noqa: T201


if __name__ == "__main__":
    run_command(main)

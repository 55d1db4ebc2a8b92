"""`python -m flows.origins`: what all runs know about the places they fetch from, and a person's hand on the breakers.

For people: `list` shows breakers, connections and statistics; `isolate` stops everything to one origin, `reset` lets it
begin anew. Each is one short transaction on the ledger, which running transfers see within about a second.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from flows.streams import run_command
from tidegate.durable.home import Home
from tidegate.durable.ledger import Ledger
from tidegate.durable.ledger.origins import Origins, OriginView
from tidegate.durable.owner import this_process
from tidegate.errors import BadInput, TidegateError
from tidegate.report.failure import describe
from tidegate.report.terminal import failure_panel
from tidegate.report.units import human_size
from tidegate.resilience.breaker import BreakerState, reason, wait_seconds
from tidegate.settings import GateSettings, Settings
from tidegate.transfer.gates.gates import origin_of

DONE, FAILED = 0, 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = _origins_parser()
    words = parser.parse_args(argv)
    if words.do == "reset" and words.origin is None and not words.statistics:
        parser.error("reset needs an origin; with --statistics none means all")
    try:
        settings = Settings.load()
        origins = Ledger.open(settings.ledger, Home(settings.store.home)).origins
        shown = _apply(origins, settings.gate, words)
    except TidegateError as error:
        Console(stderr=True).print(failure_panel(describe(error, now=datetime.now(UTC))))
        return FAILED
    if words.as_json:
        documents = [document(one, settings.gate) for one in shown]
        print(json.dumps(documents, indent=2, ensure_ascii=False))  # noqa: T201
    else:
        Console().print(_origins_table(shown, settings.gate) if shown else "No requests have been made yet.")
    return DONE


def _origins_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.origins",
        description="List the servers that media came from (origins), and how they behaved.",
    )
    parser.set_defaults(do="list", origin=None, statistics=False)
    parser.add_argument("--json", action="store_true", dest="as_json", help="one JSON document on stdout")
    doing = parser.add_subparsers(dest="do", metavar="list | isolate | reset")
    listing = doing.add_parser("list", help="paused or blocked servers, connections in use, statistics (the default)")
    isolate = doing.add_parser("isolate", help="block all requests to this server, until it is reset")
    isolate.add_argument("origin", help="any link to it, or a name from the list")
    reset = doing.add_parser("reset", help="let requests to this server go on")
    reset.add_argument("origin", nargs="?", help="as for isolate")
    reset.add_argument(
        "--statistics", action="store_true", help="set the counts to zero instead; without an origin: of all"
    )
    for one in (listing, isolate, reset):
        one.add_argument("--json", action="store_true", dest="as_json", default=argparse.SUPPRESS, help="as above")
    return parser


def _apply(origins: Origins, limits: GateSettings, words: argparse.Namespace) -> list[OriginView]:
    """Do what was asked; gives the origins that it was about."""
    name = _origin_name(words.origin) if words.origin is not None else None
    if words.do == "isolate" and name is not None:
        origins.isolate(name)
    elif words.do == "reset":
        _reset(origins, limits, name, statistics=words.statistics)
    known = origins.all(this_process(), limits)
    return known if name is None else [one for one in known if one.record.origin == name]


def _reset(origins: Origins, limits: GateSettings, name: str | None, *, statistics: bool) -> None:
    known = {one.record.origin for one in origins.all(this_process(), limits)}
    if name is not None and name not in known:
        raise BadInput(f"Nothing is known about {name}", hint="python -m flows.origins lists what is")
    if statistics:
        origins.reset_statistics(name)
    elif name is not None:
        origins.reset(name)


def _origin_name(text: str) -> str:
    """The name under which an origin is kept."""
    if not text.lower().startswith(("http://", "https://")):
        if ":" in text and "//" not in text:
            return text
        raise BadInput(f"{text!r} is no origin: give a link to it, or a name such as site:youtube")
    try:
        return origin_of(text)
    except ValueError as error:
        raise BadInput(f"{text!r} is not a complete link") from error


def document(one: OriginView, limits: GateSettings) -> dict[str, Any]:
    """For a machine. Times are seconds of the Unix epoch, by the ledger's clock."""
    record, breaker = one.record, one.record.breaker
    closed = breaker.state is BreakerState.CLOSED
    retry_after = None if breaker.state is BreakerState.ISOLATED else wait_seconds(breaker, one.now)
    return {
        **record.statistics.model_dump(mode="json"),
        "bytes_per_second": record.statistics.per_second,
        "breaker": breaker.state.value,
        "why": "" if closed else reason(breaker, limits),
        "retry_after_seconds": retry_after,
        "failures_in_a_row": breaker.consecutive,
        "connections": one.connections,
        "waiting": one.waiting,
        "last_success_at": record.proven_at,
        "last_seen_at": record.seen_at,
        "counted_since": record.counted_since,
    }


def _origins_table(shown: Sequence[OriginView], limits: GateSettings) -> Table:
    columns = ("breaker", "in use", "tries", "failed", "fetched")
    table = Table(Column("origin", no_wrap=True), *columns, box=None)
    for one in shown:
        counts = one.record.statistics
        speed = f", {human_size(counts.per_second)}/s" if counts.per_second else ""
        table.add_row(
            one.record.origin,
            _breaker_line(one, limits),
            f"{one.connections}{f' (+{one.waiting} wait)' if one.waiting else ''}",
            str(counts.attempts),
            ", ".join(f"{kind} {times}" for kind, times in counts.failures.items()),
            f"{human_size(counts.bytes_received)}{speed}",
        )
    return table


def _breaker_line(one: OriginView, limits: GateSettings) -> str:
    breaker = one.record.breaker
    match breaker.state:
        case BreakerState.CLOSED:
            return f"closed ({breaker.consecutive} failures in a row)" if breaker.consecutive else "closed"
        case BreakerState.OPEN if (left := wait_seconds(breaker, one.now)) > 0:
            return f"open, paused for {left:.0f} s: {reason(breaker, limits)}"
        case BreakerState.OPEN | BreakerState.HALF_OPEN:
            return "half-open: the next requests decide"
        case BreakerState.ISOLATED:
            return reason(breaker, limits)


if __name__ == "__main__":
    run_command(main)

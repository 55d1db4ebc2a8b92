"""Runs by hand that were cut short, and how to ask for them again.

`python -m flows.run --resume` and `python -m flows.runs` read it from the ledger. It changes nothing: the run that is
asked for again takes the work over from the process that is gone, and finds its checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tidegate.durable.home import Home
from tidegate.durable.ledger import Attempt, AttemptState, Ledger
from tidegate.durable.ledger.decide import is_orphaned
from tidegate.durable.owner import Owner, this_process
from tidegate.errors import BadInput
from tidegate.settings import LedgerSettings, Settings

CUT_SHORT = frozenset({AttemptState.INTERRUPTED, AttemptState.ABANDONED})


def resumable_runs(attempts: Iterable[Attempt], now: float, here: Owner, limits: LedgerSettings) -> list[Attempt]:
    """The runs by hand whose latest attempt was cut short, the latest first. Pure but for the process table.

    Attempts at the same request are one run to a person, whichever flow run they were; deployed ones are recovery's.
    """
    latest: dict[str, Attempt] = {}
    for attempt in sorted(attempts, key=lambda one: one.created_at):
        if attempt.kind in ("ingest", "batch") and attempt.root_run == attempt.flow_run:
            latest[_what(attempt)] = attempt
    cut = [
        one
        for one in latest.values()
        if one.deployment is None and (one.state in CUT_SHORT or is_orphaned(one, now, here, limits))
    ]
    return sorted(cut, key=lambda one: -one.created_at)


def request_of(settings: Settings, run: str) -> dict[str, Any]:
    """What the run asked for; `run` begins an attempt's or a flow run's id, and nothing means the latest.

    Raises:
        BadInput: there is no such run, more than one, or none that was cut short.
        LedgerUnavailable: nobody can tell.
    """
    ledger = Ledger.open(settings.ledger, Home(settings.store.home))
    try:
        found = _find_attempts(ledger, run) if run else _cut_short(ledger, settings)
    finally:
        ledger.close()
    if not found:
        raise BadInput(f"There is no run {run}" if run else "No run was cut short: there is nothing to resume")
    if run and len({one.root_run for one in found}) > 1:
        raise BadInput(f"{run} begins the ids of {len(found)} runs; give more of it")
    if found[0].deployment is not None:
        raise BadInput("That run has a deployment: recovery takes it up by itself")
    return found[0].request


def secrets_in_use(settings: Settings) -> list[str]:
    """References of the secrets without which a run that was cut short could not go on."""
    ledger = Ledger.open(settings.ledger, Home(settings.store.home))
    try:
        recent = ledger.recent(settings.recovery.resume_within.total_seconds())
    finally:
        ledger.close()
    open_ones = [one for one in recent if one.state in (*CUT_SHORT, AttemptState.RUNNING)]
    sources = [source for one in open_ones for source in _sources(one)]
    return [source["secret"] for source in sources if source.get("secret")]


def _sources(attempt: Attempt) -> list[dict[str, Any]]:
    return [*attempt.request.get("sources", []), attempt.request.get("source", {})]


def _find_attempts(ledger: Ledger, run: str) -> list[Attempt]:
    return sorted(ledger.find(run), key=lambda one: -one.created_at)


def _cut_short(ledger: Ledger, settings: Settings) -> list[Attempt]:
    recent = ledger.recent(settings.recovery.resume_within.total_seconds())
    return resumable_runs(recent, ledger.now(), this_process(), settings.ledger)


def _what(attempt: Attempt) -> str:
    options = {name: value for name, value in attempt.request.items() if name != "source"}
    source = {**attempt.request.get("source", {}), "secret": None}  # each command keeps it under another name
    return repr((attempt.title, source, sorted(options.items())))

"""A flow run as an attempt in the ledger: how it begins there, and whether it may still speak for its run.

The flows open their lease here. After a crash the ledger's row tells `flows/recover.py` which run to take up, and
`python -m flows.run --resume` what to ask for.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.context import FlowRunContext

from flows.port import hold
from flows.roots import roots_of_deployment
from flows.site import POOL
from tidegate.durable.closing import close_home
from tidegate.durable.home import Home
from tidegate.durable.ledger import Attempt, AttemptState, Ledger, NewAttempt, insist
from tidegate.durable.ledger.lease import Lease, current_lease, hold_lease
from tidegate.durable.ledger.rows import AttemptKind
from tidegate.durable.threads import check_cancellation, in_thread
from tidegate.errors import Coordination, LeaseLost, LedgerUnavailable, Superseded, TidegateError
from tidegate.events import Note, Observer
from tidegate.model import NO_WISH, Outcome, ProfileName, Quality, StageName, Wish
from tidegate.report.failure import describe
from tidegate.settings import Settings
from tidegate.stages import publish_failure
from tidegate.stages.publish import folder_before_identity

ENDED_BY_OTHERS = frozenset({AttemptState.ABANDONED, AttemptState.STUCK, AttemptState.CANCELLED})
"""How others end an attempt; they see to its run's state as well."""


@contextlib.asynccontextmanager
async def open_ledger(settings: Settings, observe: Observer) -> AsyncIterator[Ledger]:
    """The ledger, waited for as long as its patience goes; its connections are given back at the end of the block.

    Raises:
        LedgerUnavailable: it did not answer.
    """

    patience, is_said = settings.ledger.patience, False

    def connect() -> Ledger:
        nonlocal is_said
        try:
            return Ledger.open(settings.ledger, Home(settings.store.home))
        except LedgerUnavailable as error:
            if not is_said:
                observe(Note(f"{error.message}; trying again for {patience}", "warning"))
            is_said = True
            raise

    ledger: Ledger = await in_thread(insist, connect, patience.total_seconds(), check_cancellation)
    if ledger.moved_aside is not None:
        observe(Note(f"The ledger was damaged; a new one is begun, the old one is {ledger.moved_aside}", "error"))
    for line in await in_thread(close_home, Home(settings.store.home)):
        observe(Note(line, "warning"))
    try:
        yield ledger
    finally:
        ledger.close()


def repeatable_request(
    profile: ProfileName, quality: Quality, output_dir: Path, until: StageName, wish: Wish, **sources: Any
) -> dict[str, Any]:
    """What has to be asked for to have the same done again: `source`, or `sources`, and how."""
    return {
        **sources,
        "profile": profile.value,
        "quality": quality.value,
        "output_dir": str(output_dir),
        "until": until,
        **({} if wish == NO_WISH else {"wish": wish.model_dump(exclude_defaults=True)}),
    }


def attempt_of_run(kind: AttemptKind, title: str, request: Mapping[str, Any]) -> NewAttempt:
    """The attempt that the current flow run is. `title` and `request` are free of secrets."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    outer = current_lease()
    return NewAttempt(
        kind=kind,
        title=title,
        request=request,
        flow_run=str(run.id) if run else None,
        root_run=outer.attempt.root_run if outer else None,
        deployment=str(run.deployment_id) if run and run.deployment_id else None,
        alone=_has_own_process(),
    )


@contextlib.asynccontextmanager
async def claim_upkeep(
    kind: Literal["recover", "maintain"], settings: Settings, observe: Observer, *, dry_run: bool
) -> AsyncIterator[tuple[Ledger, PrefectClient] | None]:
    """The ledger and Prefect for a flow of which only one may be at work; None while another one is."""
    hold()
    async with (
        open_ledger(settings, observe) as ledger,
        hold_lease(ledger, attempt_of_run(kind, kind, {}), observe) as lease,
        get_client() as client,
    ):
        if dry_run or await lease.claim_at_once(kind):
            yield ledger, client
        else:
            observe(Note(f"Another {kind} is at work; leaving it to that"))
            yield None


def pool_of_run() -> str:
    """The work pool that the current flow run came from; by hand, the one that our deployments have."""
    context = FlowRunContext.get()
    named = context.flow_run.work_pool_name if context and context.flow_run else None
    return named or POOL


async def must_stay_silent(lease: Lease) -> bool:
    """Whether somebody else speaks for this run now, so that it must not report a state of its own.

    Recovery and maintenance set the state of the runs whose attempts they end; a later attempt of the same run will.
    Where the ledger was lost and begun anew, recovery finds a deployed run without an attempt, and nobody any other.
    """
    try:
        row = await lease.current_row()
        others = await in_thread(lease.ledger.attempts_of, [lease.attempt.root_run])
    except LedgerUnavailable:
        return False
    if row is None:
        return lease.attempt.deployment is not None
    if row.state in ENDED_BY_OTHERS:
        return True
    later = [other for other in others if other.created_at > row.created_at and other.flow_run == row.flow_run]
    return bool(later)


async def reason_to_stop(lease: Lease, error: Superseded) -> Coordination:
    """What a run that no longer holds its work has to say: not that another one took over, where the ledger is gone."""
    with contextlib.suppress(LedgerUnavailable):
        if await lease.current_row() is None:
            return LeaseLost("The ledger was begun anew, and does not know this run any more")
    return error


def leave_report(settings: Settings, attempt: Attempt, error: TidegateError) -> None:
    """Leave the failure report of a run that cannot do so itself. Blocking."""
    request = attempt.request
    if "output_dir" not in request:  # a batch: its sources have reports of their own
        return
    before = folder_before_identity(attempt.title, request["profile"], request["quality"])
    output = Home(settings.store.home).outputs(Path(request["output_dir"]), settings.store.output)
    target = attempt.target or output / before
    outcome = Outcome(
        status="failed",
        source=attempt.title,
        work_key=attempt.work_key,
        profile=request["profile"],
        quality=request["quality"],
        flow_run_id=attempt.flow_run,
        failure=describe(error, now=datetime.now(UTC), source=attempt.title),
    )
    publish_failure(outcome, target, roots_of_deployment(settings) if attempt.deployment else None)


def _has_own_process() -> bool:
    """Whether this process was started for one run: by a worker, or as a command of ours."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name.partition(".")[0] in ("prefect", "flows")

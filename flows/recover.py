"""Every 2 minutes: runs whose process is gone go on from their checkpoint.

A deployment runs it, and `python -m flows.runs recover`. It finds orphans in the ledger and in Prefect, reads each
again right before it acts, and may itself be killed anywhere: whatever it left half done the next one finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import anyio
from prefect import flow
from prefect.artifacts import acreate_table_artifact
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event

from flows import orchestration
from flows.attempts import claim_upkeep, leave_report, pool_of_run
from tasks.observe import run_observer
from tidegate.durable.checkpoints import find_valid_stages
from tidegate.durable.home import Home
from tidegate.durable.ledger import Attempt, AttemptState, Ledger, Recovery
from tidegate.durable.ledger.decide import (
    Do,
    RunFacts,
    Verdict,
    count_recovery,
    is_orphaned,
    is_parking_over,
    latest_by_run,
    next_stage,
    verdict_on_orphan,
    verdict_on_run,
)
from tidegate.durable.owner import Owner, this_process
from tidegate.durable.threads import in_thread
from tidegate.errors import Parked
from tidegate.events import Note, Observer
from tidegate.model import Value
from tidegate.process.leftovers import end_leftovers, end_owner, marks
from tidegate.settings import Settings

AT_ONCE = 8
"""Runs that are taken up side by side: each waits some seconds for its worker's last word."""
UNFINISHED = (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING, StateType.CRASHED)


class Rescue(Value):
    """What recovery did about one run, or would do."""

    run: str | None
    """Its flow run."""
    what: str
    do: Do
    why: str
    goes_on_at: str = ""
    """The stage at which it goes on."""
    recoveries: int = 0
    """In a row without a new checkpoint, this one included."""
    error: str = ""
    """Why it could not be done."""


@dataclass(frozen=True)
class Case:
    """A run about which something has to be done."""

    attempts: tuple[Attempt, ...]
    """Those of its attempts that nobody is at work on, the latest last; none where it never made one."""
    run: RunFacts | None
    recovery: Recovery
    verdict: Verdict


@flow(name="recover", persist_result=False)
async def recover(dry_run: bool = False) -> list[Rescue]:
    """Take up what was lost.

    Args:
        dry_run: Only list what would be done.

    Returns:
        What was done, one for each run.
    """
    settings = Settings.load()
    observe = run_observer()
    async with claim_upkeep("recover", settings, observe, dry_run=dry_run) as granted:
        if granted is None:
            return []
        ledger, client = granted
        rescuer = Rescuer(client, ledger, settings, observe)
        if not dry_run:
            await in_thread(rescuer.sweep)
        cases = await rescuer.cases()
        rescues = [rescuer.describe(case) for case in cases] if dry_run else await rescuer.act(cases)
        await _show_rescues(rescues, observe, dry_run=dry_run)
        return rescues


class Rescuer:
    """One look for orphans, and what is done about them."""

    def __init__(self, client: PrefectClient, ledger: Ledger, settings: Settings, observe: Observer) -> None:
        self._client = client
        self._ledger = ledger
        self._settings = settings
        self._observe = observe
        self._here = this_process()
        self._home = Home(settings.store.home)
        self._pool = pool_of_run()

    def sweep(self) -> None:
        """End what attempts that have ended left running: whoever ended them may have been killed over it. Blocking."""
        settled = self._ledger.now() - self._settings.recovery.settle.total_seconds()
        for mark in marks():
            attempt = self._ledger.attempt(mark)
            if attempt is not None and attempt.ended_at is not None and attempt.ended_at < settled:
                self._clear_away(attempt)

    async def cases(self) -> list[Case]:
        """Every run about which something has to be done now."""
        now = await in_thread(self._ledger.now)
        left = await in_thread(self._ledger.open_attempts)
        lost = await in_thread(_find_orphans, left, now, self._here, self._settings)
        gone = {attempt.id for attempt in lost}
        alive = [attempt for attempt in left if attempt.state is AttemptState.RUNNING and attempt.id not in gone]
        runs = await orchestration.facts_of(self._client, {a.root_run for a in lost if a.root_run})
        lost_cases = await self._cases_of_orphans(lost, alive, runs, now)
        known = {attempt.root_run for attempt in (*lost, *alive)}
        return [*lost_cases, *await self._cases_without_attempt(known, now)]

    async def _cases_of_orphans(
        self, lost: Sequence[Attempt], alive: Sequence[Attempt], runs: dict[str, RunFacts], now: float
    ) -> list[Case]:
        recoveries = await in_thread(self._ledger.recoveries_of, list(runs))
        living = latest_by_run(alive)
        cases = []
        for key, attempts in _by_run(lost).items():
            latest, run = attempts[-1], runs.get(key)  # of a batch the last one is its own
            recovery = recoveries.get(key, Recovery(root_run=key))
            succeeded = key in living and living[key].created_at > latest.created_at
            verdict = verdict_on_orphan(
                latest, run, recovery, succeeded_by=succeeded, now=now, limits=self._settings.recovery
            )
            cases.append(Case(attempts, run, recovery, await self._as_can_be(verdict, run)))
        return [case for case in cases if case.verdict.do is not Do.NOTHING]

    async def _cases_without_attempt(self, known: set[str | None], now: float) -> list[Case]:
        """Runs that Prefect takes for unfinished, and of which the ledger has no open attempt.

        Only those of our own pool: another's, in containers perhaps, may be in another ledger.
        """
        unfinished = await orchestration.open_runs(self._client, UNFINISHED)
        runs = [run for run in unfinished if run.id not in known and run.pool == self._pool]
        ids = [run.id for run in runs]
        latest = latest_by_run(await in_thread(self._ledger.attempts_of, ids))
        recoveries = await in_thread(self._ledger.recoveries_of, ids)
        cases = []
        for run in runs:
            recovery = recoveries.get(run.id, Recovery(root_run=run.id))
            verdict = verdict_on_run(run, latest.get(run.id), recovery, now=now, limits=self._settings.recovery)
            verdict = await self._as_can_be(verdict, run)
            if verdict.do is not Do.NOTHING and not is_parking_over(verdict, recovery, now):
                cases.append(Case((), run, recovery, verdict))
        return cases

    async def _as_can_be(self, verdict: Verdict, run: RunFacts | None) -> Verdict:
        """The verdict, or that a person is needed: nobody takes a run whose deployment or work pool is gone."""
        if run is None or verdict.do not in (Do.RESCHEDULE, Do.WAIT):
            return verdict
        gone = await orchestration.why_nobody_takes(self._client, run)
        if gone is not None:
            return Verdict(Do.PARK, f"{verdict.why}; {gone}")
        waits = await orchestration.why_it_waits(self._client, run)
        return replace(verdict, why=f"{verdict.why}; {waits}") if waits else verdict

    def describe(self, case: Case) -> Rescue:
        """The case in words."""
        latest = case.attempts[-1] if case.attempts else None
        return Rescue(
            run=case.run.id if case.run else None,
            what=latest.title if latest else (case.run.name if case.run else ""),
            do=case.verdict.do,
            why=case.verdict.why,
            goes_on_at=self._goes_on_at(latest) if latest and case.verdict.do is Do.RESCHEDULE else "",
            recoveries=case.recovery.consecutive,
        )

    async def act(self, cases: Sequence[Case]) -> list[Rescue]:
        """Rescue all of them, some at a time; one that cannot be rescued holds up no other."""
        rescues: list[Rescue] = []
        limiter = anyio.CapacityLimiter(AT_ONCE)

        async def rescue(case: Case) -> None:
            async with limiter:
                rescues.append(await self._rescue(case))

        async with anyio.create_task_group() as group:
            for case in cases:
                group.start_soon(rescue, case)
        return rescues

    async def _rescue(self, case: Case) -> Rescue:
        rescue = self.describe(case)
        try:
            if not await self._free_work(case):
                return rescue.model_copy(update={"do": Do.NOTHING, "why": "it has moved since it was looked at"})
            recoveries = await self._set_state_of_run(case)
            return rescue.model_copy(update={"recoveries": recoveries})
        except Exception as error:  # noqa: BLE001  # the others are waiting; the next recover tries this one again
            why = f"{rescue.why}; to be {rescue.do}, but {error}"
            return rescue.model_copy(update={"do": Do.REFUSED, "why": why, "goes_on_at": "", "error": str(error)})

    async def _free_work(self, case: Case) -> bool:
        """Free the work of the lost attempts and end what they left running; False if one of them lives after all."""
        if case.verdict.do is Do.WAIT:
            return True
        for attempt in case.attempts:
            fresh = await in_thread(self._ledger.attempt, attempt.id)
            if fresh is None or fresh.renewed_at != attempt.renewed_at or fresh.state is not attempt.state:
                return False
            if not await in_thread(self._ledger.abandon, attempt, case.verdict.ends_as):
                return False
            await in_thread(self._clear_away, attempt)
        return True

    def _clear_away(self, attempt: Attempt) -> None:
        """End what is left of it on this host. It no longer holds its work, so this takes nothing from anybody."""
        owner, here = attempt.owner, self._here
        if (owner.host, owner.namespace) != (here.host, here.namespace):
            return
        silent = owner.boot == here.boot and attempt.alone and attempt.state is AttemptState.RUNNING
        if silent and end_owner(owner, 0.0):
            self._observe(Note(f"Ended process {owner.pid}, which had not renewed its lease", "warning"))
        ended = end_leftovers(attempt.id, self._settings.process.end_grace.total_seconds())
        if ended:
            self._observe(Note(f"Ended {', '.join(ended)}, left over by {attempt.title}", "warning"))

    async def _set_state_of_run(self, case: Case) -> int:
        """Set the run's state; gives how many recoveries there have been in a row."""
        run, why, do = case.run, case.verdict.why, case.verdict.do
        if run is None:
            return case.recovery.consecutive
        if do is Do.RESCHEDULE:
            return await self._take_up(case, run)
        if do is Do.PARK:
            parked_at = case.recovery.parked_at or await in_thread(self._ledger.now)
            record = case.recovery.model_copy(update={"parked_at": parked_at, "scheduled": False})
            await in_thread(self._ledger.put_recovery, record)
            if case.attempts:
                await in_thread(leave_report, self._settings, case.attempts[-1], Parked(why))
            await orchestration.fail(self._client, run.id, "Parked", f"parked: {why}")
        elif do is Do.END_STUCK:
            await orchestration.fail(self._client, run.id, "Stuck", f"stuck: {why}")
        elif do is Do.MARK_CRASHED:
            await orchestration.crash(self._client, run.id, why)
        elif do is Do.CANCEL:
            await orchestration.cancel(self._client, run.id, why)
        _announce(run, do, why)
        return case.recovery.consecutive

    async def _take_up(self, case: Case, run: RunFacts) -> int:
        """Schedule the run again. Counted first: an attempt that begins and finds no count is a person's re-run."""
        now = await in_thread(self._ledger.now)
        reached = case.attempts[-1].reached if case.attempts else case.recovery.reached
        record = count_recovery(case.recovery, reached, now)
        await in_thread(self._ledger.put_recovery, record)
        settle = self._settings.recovery.settle.total_seconds()
        await orchestration.reschedule(self._client, run.id, case.verdict.why, settle)
        _announce(run, Do.RESCHEDULE, case.verdict.why)
        return record.consecutive

    def _goes_on_at(self, attempt: Attempt) -> str:
        """The first stage that has no checkpoint, or one whose asset is gone."""
        return next_stage(find_valid_stages(self._home, attempt.records)) or "publish"


def _find_orphans(attempts: Sequence[Attempt], now: float, here: Owner, settings: Settings) -> list[Attempt]:
    settled = now - settings.recovery.settle.total_seconds()
    return [
        one
        for one in attempts
        if is_orphaned(one, now, here, settings.ledger)
        or (one.state is AttemptState.INTERRUPTED and (one.ended_at or now) < settled)
    ]


def _by_run(attempts: Sequence[Attempt]) -> dict[str, tuple[Attempt, ...]]:
    """Attempts by their root run, its own last; those of library calls, which have none, each on their own."""
    grouped: dict[str, tuple[Attempt, ...]] = {}
    for attempt in sorted(attempts, key=lambda one: one.flow_run == one.root_run):
        key = attempt.root_run or attempt.id
        grouped[key] = (*grouped.get(key, ()), attempt)
    return grouped


def _announce(run: RunFacts, do: Do, why: str) -> None:
    emit_event(
        f"tidegate.run.{do.name.lower()}",
        resource={"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.name": run.name},
        payload={"why": why},
    )


async def _show_rescues(rescues: Sequence[Rescue], observe: Observer, *, dry_run: bool) -> None:
    for rescue in rescues:
        level = "error" if rescue.error else "info"
        observe(Note(f"{rescue.what}: {rescue.do} ({rescue.why})", level))  # type: ignore[arg-type]
    if rescues:
        rows: list[dict[str, Any]] = [rescue.model_dump(mode="json") for rescue in rescues]
        await acreate_table_artifact(rows, key="recover", description="Would do" if dry_run else "Done")

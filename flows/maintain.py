"""Every 15 minutes: stuck runs become errors, and what nobody needs any more makes room.

A deployment runs it, and `python -m flows.runs maintain`. Everything that it ends or removes is looked at again right
before, and told in its log; killed anywhere, it leaves what the next one finishes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from prefect import flow
from prefect.artifacts import acreate_table_artifact
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event

from flows import orchestration
from flows.attempts import claim_upkeep, leave_report
from flows.resume import secrets_in_use
from tasks.observe import run_observer
from tidegate.durable.clearing import Removed
from tidegate.durable.home import Home
from tidegate.durable.inventory import assets_named_in, assets_used_since, inventory
from tidegate.durable.ledger import Attempt, AttemptState, Ledger
from tidegate.durable.ledger.decide import idle_seconds, is_orphaned, is_overdue, is_stuck
from tidegate.durable.owner import this_process
from tidegate.durable.secrets import SecretFiles
from tidegate.durable.space import PlannedRemoval, clear, free_bytes, unmet, what_may_go
from tidegate.durable.threads import in_thread
from tidegate.errors import Evidence, Stuck
from tidegate.events import Note, Observer
from tidegate.model import Value
from tidegate.process.cgroup import sweep
from tidegate.process.leftovers import end_leftovers, end_owner
from tidegate.settings import Settings


class EndedRun(Value):
    """A run that was ended as an error, or would be."""

    run: str | None
    what: str
    error_reason: str
    marked_stuck_at: datetime | None
    error: str = ""
    """Why it could not be ended."""


class Maintenance(Value):
    """What one maintenance did, or would do."""

    stuck: tuple[EndedRun, ...] = ()
    removed: tuple[str, ...] = ()
    """Paths below the home."""
    removed_bytes: int = 0
    rows: int = 0
    """Rows of the ledger that were deleted."""


@flow(name="maintain", persist_result=False)
async def maintain(dry_run: bool = False) -> Maintenance:
    """End what is stuck, and clear what nobody needs.

    Args:
        dry_run: Only list what would be done.

    Returns:
        What was done.
    """
    settings = Settings.load()
    observe = run_observer()
    async with claim_upkeep("maintain", settings, observe, dry_run=dry_run) as granted:
        if granted is None:
            return Maintenance()
        ledger, client = granted
        ended = await StuckRuns(client, ledger, settings, observe).end(dry_run=dry_run)
        done = await in_thread(_clear, ledger, settings, observe, dry_run)
        done = done.model_copy(update={"stuck": tuple(ended)})
        await _show_maintenance(done, dry_run=dry_run)
        return done


class StuckRuns:
    """Runs that get nowhere, and their end."""

    def __init__(self, client: PrefectClient, ledger: Ledger, settings: Settings, observe: Observer) -> None:
        self._client = client
        self._ledger = ledger
        self._settings = settings
        self._observe = observe
        self._after = settings.recovery.stuck_after

    async def end(self, *, dry_run: bool) -> list[EndedRun]:
        """End them, each on its own: one that cannot be ended holds up no other."""
        now = await in_thread(self._ledger.now)
        found = [one for one in await in_thread(self._ledger.open_attempts) if self._is_stuck(one, now)]
        waiting = await orchestration.open_runs(self._client, [StateType.PENDING, StateType.CANCELLING])
        late = [run for run in waiting if is_overdue(run, now, self._after)]
        ended = [self._describe(attempt, now) for attempt in found]
        ended += [
            EndedRun(run=r.id, what=r.name, error_reason=_too_long(r.state, now - r.since), marked_stuck_at=None)
            for r in late
        ]
        if dry_run:
            return ended
        acts: list[Callable[[], Any]] = [partial(self._end_attempt, attempt, now) for attempt in found]
        acts += [
            partial(self._fail, run.id, row.error_reason) for run, row in zip(late, ended[len(found) :], strict=True)
        ]
        return [await self._try(act, row) for act, row in zip(acts, ended, strict=True)]

    def _is_stuck(self, attempt: Attempt, now: float) -> bool:
        """Stuck, and not simply lost: what nobody is at work on goes on by recovery."""
        lost = is_orphaned(attempt, now, this_process(), self._settings.ledger)
        return is_stuck(attempt, now, self._after) and not lost

    def _describe(self, attempt: Attempt, now: float) -> EndedRun:
        return EndedRun(
            run=attempt.root_run, what=attempt.title, error_reason=_no_progress(attempt, now), marked_stuck_at=None
        )

    async def _try(self, act: Callable[[], Any], row: EndedRun) -> EndedRun:
        try:
            marked: bool = await act()
        except Exception as error:  # noqa: BLE001  # the next maintain tries this one again
            self._observe(Note(f"{row.what}: {error}", "error"))
            return row.model_copy(update={"error": str(error)})
        if not marked:
            return row.model_copy(update={"error": "it has moved since it was looked at"})
        self._observe(Note(f"{row.what}: {row.error_reason}; ended as an error", "error"))
        return row.model_copy(update={"marked_stuck_at": datetime.now(UTC)})

    async def _end_attempt(self, attempt: Attempt, now: float) -> bool:
        """Fence it off, end its processes on this host, then set the run's state.

        In this order: an end of its process that somebody else reports comes before ours, and a process on another
        host, which only learns of it with its next renewal, can no longer publish.
        """
        reason = _no_progress(attempt, now)
        if not await in_thread(self._ledger.mark_stuck, attempt, reason):
            return False
        await in_thread(self._end_processes, attempt)
        await in_thread(self._report, attempt, reason)
        return await self._fail(attempt.root_run, reason)

    def _end_processes(self, attempt: Attempt) -> None:
        here, owner = this_process(), attempt.owner
        if (owner.host, owner.boot, owner.namespace) != (here.host, here.boot, here.namespace):
            return
        end_leftovers(attempt.id, self._settings.process.end_grace.total_seconds())
        if attempt.alone:
            # With its next renewal it learns that it has been ended, and leaves by itself.
            grace = 2 * self._settings.ledger.renew_every + self._settings.process.end_grace
            end_owner(owner, grace.total_seconds())

    def _report(self, attempt: Attempt, reason: str) -> None:
        """Leave the failure report that the run itself cannot leave any more."""
        row = self._ledger.attempt(attempt.id) or attempt
        notes = {
            "done": f"{row.done or 0:g} of {row.total or 0:g} {row.unit or ''}",
            "children": ", ".join(group.name for group in attempt.groups),
            "owner": f"process {row.owner.pid} on {row.owner.host}",
            "marked_stuck_at": datetime.fromtimestamp(row.marked_stuck_at or 0, UTC).isoformat(),
        }
        leave_report(self._settings, row, Stuck(reason, stage=row.stage, evidence=Evidence(notes=notes)))

    async def _fail(self, run: str | None, reason: str) -> bool:
        if run is not None:
            await orchestration.fail(self._client, run, "Stuck", f"stuck: {reason}")
            emit_event(
                "tidegate.run.stuck",
                resource={"prefect.resource.id": f"prefect.flow-run.{run}"},
                payload={"error_reason": reason},
            )
        return True


def _clear(ledger: Ledger, settings: Settings, observe: Observer, dry_run: bool) -> Maintenance:
    """Make room. Blocking."""
    home, now = Home(settings.store.home), datetime.now(UTC)
    for group in () if dry_run else sweep():
        observe(Note(f"Removed a control group whose maker is gone: {group}"))
    _forget_missing_folders(ledger)
    left = ledger.open_attempts()
    live = frozenset(one.work_key for one in left if one.work_key and one.state is AttemptState.RUNNING)
    found = inventory(home, ledger.publication_folders())
    since = min((one.created_at for one in left if one.state is AttemptState.RUNNING), default=None)
    used = assets_used_since(found, datetime.fromtimestamp(since, UTC)) if since is not None else frozenset()
    used |= assets_named_in(found, {name for one in left for name in one.records.values()})
    free = free_bytes(home)
    planned = what_may_go(found, settings.space, live, used, free, now)
    for note in (*found.notes, *unmet(found, planned, settings.space, free)):
        observe(Note(note, "warning"))
    if dry_run:
        return Maintenance(
            removed=tuple(str(one.path) for one in planned), removed_bytes=sum(one.bytes for one in planned)
        )
    removed = clear(home, planned, partial(_is_in_use, ledger), observe)
    _remove_unused_secrets(home, secrets_in_use(settings), settings.recovery.resume_within, now, observe)
    rows = ledger.clear_rows(settings.space.ledger_age.total_seconds())
    rows += ledger.origins.clear(settings.space.origin_age.total_seconds())
    return Maintenance(
        removed=tuple(str(one.path) for one in removed if isinstance(one, Removed)),
        removed_bytes=sum(one.bytes for one in removed),
        rows=rows,
    )


def _is_in_use(ledger: Ledger, one: PlannedRemoval) -> bool:
    """Whether a run that began meanwhile works there; an asset that one has come to use is seen by its time."""
    live = [attempt for attempt in ledger.open_attempts() if attempt.state is AttemptState.RUNNING]
    return one.work_key is not None and any(attempt.work_key == one.work_key for attempt in live)


def _remove_unused_secrets(
    home: Home, needed: Sequence[str], patience: timedelta, now: datetime, observe: Observer
) -> None:
    for removal in SecretFiles(home.secrets).sweep(needed, older_than=patience, now=now):
        if isinstance(removal, Removed):
            observe(Note(f"Removed a secret that nobody needs: {removal.path.name}"))


def _forget_missing_folders(ledger: Ledger) -> None:
    for folder in ledger.publication_folders():
        if not folder.exists() and folder.parent.exists():  # or its whole volume may only be away
            ledger.forget_publication(folder)


def _no_progress(attempt: Attempt, now: float) -> str:
    where = f" in {attempt.stage}" if attempt.stage else ""
    return f"No progress{where} for {_length(idle_seconds(attempt, now))}, though its lease was renewed"


def _too_long(state: str, seconds: float) -> str:
    return f"{state.capitalize()} for {_length(seconds)}"


def _length(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


async def _show_maintenance(done: Maintenance, *, dry_run: bool) -> None:
    rows: list[dict[str, Any]] = [ended.model_dump(mode="json") for ended in done.stuck]
    rows += [{"removed": path} for path in done.removed]
    if rows:
        await acreate_table_artifact(rows, key="maintain", description="Would do" if dry_run else "Done")

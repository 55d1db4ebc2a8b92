"""What the ledger's rows and a clock decide: who is orphaned, who is stuck, who may take over, what recovery does.

All of it is pure. The flows `recover` and `maintain` and the lease ask here and then act; nothing else in the project
judges a run by its age.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from tidegate.durable.ledger.rows import Attempt, AttemptState, Reach, Recovery
from tidegate.durable.owner import Owner, is_provably_gone
from tidegate.errors import policy_by_name
from tidegate.model import STAGES, StageName
from tidegate.settings import AdmissionSettings, LedgerSettings, RecoverySettings

MISSED_RENEWALS = 3
"""So many missing ones are worth a word: one or two are a busy machine."""


def is_orphaned(attempt: Attempt, now: float, here: Owner, limits: LedgerSettings, *, gone: bool | None = None) -> bool:
    """Nobody is at work on it any more: its owner is provably gone, or has not renewed for the length of the lease.

    `gone` is the answer about the owner where the caller has asked the process table already.
    """
    if attempt.state is not AttemptState.RUNNING:
        return False
    if now - attempt.renewed_at > limits.lease.total_seconds():
        return True
    return is_provably_gone(attempt.owner, here) if gone is None else gone


class Condition(StrEnum):
    """What is true of an attempt that its row calls running."""

    AT_WORK = "running"
    SILENT = "silent"
    """It has missed renewals, and may still be alive: its lease has not ended."""
    LOST_CONTACT = "lost contact"
    """Its lease has ended, and nobody here can know what became of its process."""
    CUT_SHORT = "cut short"
    """Its process is gone."""


def condition(
    attempt: Attempt, now: float, here: Owner, limits: LedgerSettings, *, gone: bool | None = None
) -> Condition | None:
    """How it stands with an attempt that its row calls running, by the rule that recovery goes by; None for others."""
    if attempt.state is not AttemptState.RUNNING:
        return None
    gone = is_provably_gone(attempt.owner, here) if gone is None else gone
    if is_orphaned(attempt, now, here, limits, gone=gone):
        return Condition.CUT_SHORT if gone else Condition.LOST_CONTACT
    silent = now - attempt.renewed_at > MISSED_RENEWALS * limits.renew_every.total_seconds()
    return Condition.SILENT if silent else Condition.AT_WORK


def idle_seconds(attempt: Attempt, now: float) -> float:
    """Seconds since it last got anywhere. One that never did counts from its creation."""
    return now - (attempt.progressed_at if attempt.progressed_at is not None else attempt.created_at)


def is_stuck(attempt: Attempt, now: float, after: timedelta) -> bool:
    """No progress for `after`, though the lease lives and nothing is waited for."""
    if attempt.state is not AttemptState.RUNNING or attempt.waiting_for is not None:
        return False
    return idle_seconds(attempt, now) >= after.total_seconds()


def may_take_over(holder: Attempt | None, now: float, here: Owner, limits: LedgerSettings) -> bool:
    """Whether the work of this holder is free: there is none, it has ended, or it is orphaned."""
    return holder is None or holder.state is not AttemptState.RUNNING or is_orphaned(holder, now, here, limits)


def holds_slot(attempt: Attempt, now: float, here: Owner, limits: AdmissionSettings) -> bool:
    """Whether it counts against the host's slots: it took one, lives, and got somewhere lately.

    A killed holder frees its slot at once, a hung one as soon as it has been idle for `slot_idle`.
    """
    if attempt.slot_at is None or attempt.state is not AttemptState.RUNNING:
        return False
    latest = max(attempt.slot_at, attempt.progressed_at or 0.0)
    return now - latest <= limits.slot_idle.total_seconds() and not is_provably_gone(attempt.owner, here)


def next_stage(done: Iterable[str]) -> StageName | None:
    """The first stage, in the order of a file's way, that has not been completed; None when all have.

    A stage that was only begun is not done: it is the one to repeat.
    """
    completed = set(done)
    return next((stage for stage in STAGES if stage not in completed), None)


@dataclass(frozen=True)
class RunFacts:
    """What Prefect says of a flow run."""

    id: str
    name: str
    flow: str
    state: str
    """The state's type, in capitals."""
    message: str
    since: float
    """When it entered the state, by Prefect's clock; where that is null, when it was created."""
    deployment: str | None
    pool: str | None = None
    """Its work pool."""


class Do(StrEnum):
    """What recovery does about a run."""

    NOTHING = "nothing"
    RESCHEDULE = "scheduled again"
    WAIT = "waits for its backoff"
    PARK = "parked for a person"
    MARK_CRASHED = "marked crashed"
    """It has no deployment: a person's next command takes it up."""
    CANCEL = "cancelled"
    END_STUCK = "ended as stuck"
    """Maintenance has ended its attempt, and could not tell Prefect any more."""
    CLOSE = "closed"
    """Prefect knows its end; only the ledger had not heard."""
    REFUSED = "not done"
    """Prefect's server did not take it; the next recovery tries again."""


@dataclass(frozen=True)
class Verdict:
    """What to do, and why, in words for a log and a table."""

    do: Do
    why: str
    ends_as: AttemptState = AttemptState.ABANDONED
    """What becomes of the attempt's row."""


REPEATED = frozenset({"ingest", "batch"})
"""Flows that are run again. The others have a schedule, which brings the next run."""


def verdict_on_orphan(
    attempt: Attempt,
    run: RunFacts | None,
    recovery: Recovery,
    *,
    succeeded_by: bool,
    now: float,
    limits: RecoverySettings,
) -> Verdict:
    """What to do about an attempt that is orphaned, or was interrupted, given what Prefect says of its run.

    `run` is the root run; None where Prefect knows none. `succeeded_by` says that a later attempt of that run lives.
    """
    if attempt.state is AttemptState.INTERRUPTED and (run is None or run.deployment is None):
        return _NOTHING  # a person stopped it, and can go on with it
    if succeeded_by:
        return Verdict(Do.CLOSE, "a later attempt of the same run is at work")
    if run is None:
        return Verdict(Do.CLOSE, "Prefect knows no such run")
    if run.state == "COMPLETED":
        return Verdict(Do.CLOSE, "the run is completed", AttemptState.COMPLETED)
    if run.state == "CANCELLED":
        return Verdict(Do.CLOSE, "the run was cancelled", AttemptState.CANCELLED)
    # The message of a Failed state begins with the failure's name.
    if run.state == "FAILED" and not policy_by_name(run.message.partition(":")[0]).goes_on_by_itself:
        return Verdict(Do.CLOSE, "the run has failed", AttemptState.FAILED)
    if run.state == "CANCELLING":
        return Verdict(Do.CANCEL, "it was being cancelled", AttemptState.CANCELLED)
    if run.state in ("SCHEDULED", "PENDING"):
        return Verdict(Do.CLOSE, "the run is scheduled again already")
    if run.state == "PAUSED":
        return Verdict(Do.CLOSE, "somebody has paused the run, and will have it go on")
    return _take_up(run, recovery, attempt.reached, _reason_of_loss(attempt), now, limits)


def verdict_on_run(
    run: RunFacts, latest: Attempt | None, recovery: Recovery, *, now: float, limits: RecoverySettings
) -> Verdict:
    """What to do about a run that is not at its end, as Prefect says, while the ledger has no living attempt of it.

    `latest` is its most recent attempt, if it made one. A run that has just changed its state is given time; one that
    was scheduled again has not begun its attempt yet, and that of before says nothing about it.
    """
    waited = now - run.since
    if latest is not None and latest.state is AttemptState.STUCK and run.state in ("RUNNING", "CRASHED"):
        return Verdict(Do.END_STUCK, latest.error_reason or "it got nowhere")
    patience = limits.unclaimed_after.total_seconds()
    begun = latest is not None and latest.created_at >= run.since
    if run.state == "CANCELLING":
        return Verdict(Do.CANCEL, "nobody is there to cancel it") if waited > _GRACE else _NOTHING
    if run.state == "PENDING" and waited > patience:
        return _take_up(run, recovery, Reach(), f"it has been pending for {waited:.0f} s", now, limits)
    if run.state == "RUNNING" and not begun and waited > patience:
        return _take_up(run, recovery, Reach(), f"it has run for {waited:.0f} s without an attempt", now, limits)
    if run.state == "RUNNING" and begun and latest is not None and now - (latest.ended_at or now) > _GRACE < waited:
        return _take_up(run, recovery, latest.reached, "its process ended before it could say how", now, limits)
    if (
        run.state == "CRASHED"
        and limits.settle.total_seconds() < waited
        and _is_left_behind(run, latest, recovery, limits, now)
    ):
        reached = latest.reached if latest else Reach()
        return _take_up(run, recovery, reached, "its process died before it began", now, limits)
    return _NOTHING


def _is_left_behind(
    run: RunFacts, latest: Attempt | None, recovery: Recovery, limits: RecoverySettings, now: float
) -> bool:
    """Whether a crashed run without an open attempt is still to be taken up.

    It died before its attempt began, or a recovery ended the attempt and was killed before it had scheduled the run, or
    it had ended its work and died before it could tell Prefect: then its checkpoints say it again at once.
    But old crashes are history: the ledger may have been lost, or cleared of their attempts.
    """
    wanted = run.flow in REPEATED and run.deployment is not None
    recent = now - run.since < limits.resume_within.total_seconds()
    unseen = latest is None or recovery.scheduled or latest.state in _ENDS_UNKNOWN_TO_PREFECT
    return wanted and recent and unseen


_ENDS_UNKNOWN_TO_PREFECT = frozenset({AttemptState.ABANDONED, AttemptState.COMPLETED})
"""Ends of an attempt of which a crashed run has not told."""

_GRACE = 60.0
"""Seconds in which a process that has ended its work may still tell Prefect so."""

_PARKING = 3600.0
"""Seconds for which a run is parked again where Prefect did not take it; after that it is a person's."""

_NOTHING = Verdict(Do.NOTHING, "")


def _reason_of_loss(attempt: Attempt) -> str:
    if attempt.state is AttemptState.INTERRUPTED:
        return "its process was stopped from outside"
    return f"the process {attempt.owner.pid} on {attempt.owner.host} is gone"


def _take_up(
    run: RunFacts, recovery: Recovery, reached: Reach, why: str, now: float, limits: RecoverySettings
) -> Verdict:
    if run.flow not in REPEATED or run.deployment is None:
        return Verdict(Do.MARK_CRASHED, why)
    consecutive = 0 if reached.beyond(recovery.reached) else recovery.consecutive
    if consecutive >= limits.most:
        return Verdict(Do.PARK, f"{why}; taken up {consecutive} times without a new checkpoint")
    due = recovery.last_at + pause_before(consecutive, limits).total_seconds()
    if now < due:
        return Verdict(Do.WAIT, f"{why}; its next try is in {due - now:.0f} s")
    return Verdict(Do.RESCHEDULE, why)


def is_parking_over(verdict: Verdict, recovery: Recovery, now: float) -> bool:
    """Whether its parking was tried for long enough: a server that never takes it is not asked for ever."""
    return verdict.do is Do.PARK and recovery.parked_at is not None and now - recovery.parked_at > _PARKING


def is_overdue(run: RunFacts, now: float, after: timedelta) -> bool:
    """It has been in Pending or Cancelling for too long: nobody will ever begin it, or end it."""
    return run.state in ("PENDING", "CANCELLING") and now - run.since >= after.total_seconds()


def pause_before(consecutive: int, limits: RecoverySettings) -> timedelta:
    """The pause before the recovery that follows `consecutive` ones without a new checkpoint: 0, b, 2b, 4b …"""
    return limits.backoff * 2 ** min(consecutive - 1, 16) if consecutive else timedelta(0)


def count_recovery(recovery: Recovery, reached: Reach, now: float) -> Recovery:
    """The record after one more recovery at `now`, from a run that has come as far as `reached`."""
    gained = reached.beyond(recovery.reached)
    return recovery.model_copy(
        update={
            "consecutive": 1 if gained else recovery.consecutive + 1,
            "reached": reached if gained else recovery.reached,
            "last_at": now,
            "scheduled": True,
        }
    )


def latest_by_run(attempts: Sequence[Attempt]) -> dict[str, Attempt]:
    """The most recent attempt of each root run; of a batch its own, and not that of one of its sources."""
    latest: dict[str, Attempt] = {}
    for attempt in sorted(attempts, key=lambda one: (one.flow_run == one.root_run, one.created_at)):
        if attempt.root_run is not None:
            latest[attempt.root_run] = attempt
    return latest

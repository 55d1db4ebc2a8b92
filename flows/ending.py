"""One attempt at a source, from its lease to its end: a result, a failure with its report, or silence.

`flows/ingest.py` hands a run and its stages over. Whatever they raise becomes an outcome here, so a run always ends.
After a crash nothing of this is needed: the ledger's row and the checkpoints tell what to do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from anyio import to_thread
from prefect.context import FlowRunContext
from prefect.exceptions import Abort

from flows.attempts import must_stay_silent, open_ledger, reason_to_stop
from flows.ingest_run import IngestRun
from flows.open_breaker import will_be_retried
from flows.request import SourceRequest
from tasks.progress import show_progress
from tidegate.durable.ledger import AttemptState, Ledger, NewAttempt
from tidegate.durable.ledger.codec_counts import codec_uses_of
from tidegate.durable.ledger.lease import Lease, hold_lease
from tidegate.errors import (
    Coordination,
    LedgerUnavailable,
    Superseded,
    TidegateError,
    Unknown,
    as_failure,
    policy_by_name,
)
from tidegate.events import Note, Observer, PathTaken, together
from tidegate.model import Outcome
from tidegate.report.failure import describe
from tidegate.report.terminal import limits_line, origin_line
from tidegate.settings import Settings
from tidegate.stages import publish_failure

IDENTIFIED_AT_MOST = 3
"""How often a source that changes while it is read is identified anew before the run gives up."""

Stages = Callable[[IngestRun], Awaitable[None]]
"""What the run does: its stages in their order."""


async def run_attempt(run: IngestRun, begins: NewAttempt, stages: Stages) -> Outcome:
    """Take the stages as an attempt in the ledger.

    Raises:
        Abort: somebody else speaks for this run now; nothing more is reported of it here.
    """
    observe, lease = run.bench.observe, None
    try:
        async with open_ledger(run.bench.settings, observe) as ledger, hold_lease(ledger, begins, observe) as lease:
            outcome = await _run_under(lease, run, stages)
            _conclude_attempt(lease, outcome)
        return outcome
    except Superseded as error:
        if lease is None:
            return _outcome_of_failure(run, error)
        reason = await reason_to_stop(lease, error)
        if await must_stay_silent(lease):
            observe(Note(f"{reason.message}; this process leaves without a word to Prefect", "warning"))
            raise Abort(reason.message) from error
        return _outcome_of_failure(run, reason)
    except Coordination as error:
        return _outcome_of_failure(run, error)
    except Exception as error:  # noqa: BLE001  # whatever it is, the run ends with a report
        return await _report_failure(run, as_failure(error))


async def _run_under(lease: Lease, run: IngestRun, stages: Stages) -> Outcome:
    """Take the stages while the lease is held; what they did is counted and shown."""
    async with show_progress() as progress:
        async with run.hold_lease(lease, together(run.bench.observe, lease, progress)):
            run.bench.observe(Note(f"limits: {limits_line(run.bench.settings)}", "detail"))
            run.bench.observe(_process_path(run.bench.settings))
            outcome = await _run_to_end(run, stages)
        await _count_codecs(lease.ledger, outcome, run.bench.observe)
        for origin in run.bench.gates.statistics():
            run.bench.observe(Note(origin_line(origin), "detail"))
    return outcome


async def _count_codecs(ledger: Ledger, outcome: Outcome, observe: Observer) -> None:
    """Count the codecs that came: a courtesy to people, which may not cost the run its end."""
    try:
        await to_thread.run_sync(ledger.codecs.count, codec_uses_of(outcome))
    except LedgerUnavailable as error:
        observe(Note(f"the codecs of this run were not counted: {error.message}", "warning"))


def _conclude_attempt(lease: Lease, outcome: Outcome) -> None:
    """What failed for want of the ledger or the server has not failed for good: recovery takes it up again."""
    if outcome.failure is None:
        lease.conclude(AttemptState.COMPLETED, None)
        return
    goes_on = policy_by_name(outcome.failure.type).goes_on_by_itself
    lease.conclude(AttemptState.INTERRUPTED if goes_on else AttemptState.FAILED, outcome.failure.type)


async def _run_to_end(run: IngestRun, stages: Stages) -> Outcome:
    """Take the stages; a source that changes under them is identified anew. Failures become part of the outcome."""
    for identified in range(1, IDENTIFIED_AT_MOST + 1):
        try:
            await stages(run)
            if not run.is_until("probe"):  # its part holds the download's first bytes
                run.clear_scratch()  # every stage has left its checkpoint
        except Coordination:  # the work is somebody else's now, and so are its scratch and its folder
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, the run ends with a report
            failure = as_failure(error)
            if not failure.policy.identifies_again or identified == IDENTIFIED_AT_MOST:
                return await _report_failure(run, failure)
            run.bench.observe(Note(f"{failure.message}; beginning again with what it is now", "warning"))
        else:
            break
    return run.outcome.model_copy(update=run.facts)


async def _report_failure(run: IngestRun, error: TidegateError) -> Outcome:
    """The outcome of a failed run, with its report written; of one that comes again it would be too early."""
    outcome = _outcome_of_failure(run, error)
    if will_be_retried(outcome):
        return outcome
    outcome = await to_thread.run_sync(publish_failure, outcome, run.target, run.bench.roots)
    if outcome.work_key and outcome.failure and not outcome.failure.retryable:
        run.clear_scratch()  # no later run could use it
    return outcome


def _outcome_of_failure(run: IngestRun, error: TidegateError) -> Outcome:
    failure = describe(error, now=datetime.now(UTC), source=run.outcome.source)
    return run.outcome.model_copy(update={"status": "failed", "failure": failure, **run.facts})


def _process_path(settings: Settings) -> PathTaken:
    if settings.process.supervision == "on":
        return PathTaken("process", "full")
    return PathTaken("process", "plain", "TIDEGATE_PROCESS_SUPERVISION=off")


def failure_before_start(source: SourceRequest, reason: object) -> Outcome:
    """The outcome of a run that never got as far as having one; `reason` is an exception, or what came instead."""
    unexpected = reason if isinstance(reason, BaseException) else Unknown(f"The run ended with {reason!r}")
    return Outcome(
        status="failed",
        source=source.shown,
        flow_run_id=flow_run_id(),
        failure=describe(as_failure(unexpected), now=datetime.now(UTC), source=source.shown),
    )


def flow_run_id() -> str | None:
    """Prefect's id of the run that this code is part of."""
    context = FlowRunContext.get()
    return str(context.flow_run.id) if context and context.flow_run else None

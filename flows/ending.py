"""One attempt at a source, from its lease to its end: a result, a failure with its report, or silence.

`flows/ingest.py` hands its way over. Whatever is raised on the way becomes an outcome here, so a run always ends. After
a crash nothing of this is needed: the ledger's row and the checkpoints tell what to do.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from anyio import to_thread
from prefect.context import FlowRunContext
from prefect.exceptions import Abort

from flows.attempts import opened_ledger, seen_to_by_others, why_superseded
from flows.open_breaker import comes_again
from flows.request import SourceRequest
from tasks.progress import shown
from tidegate.durable.ledger import AttemptState, Beginning, Ledger
from tidegate.durable.ledger.codec_counts import seen_in
from tidegate.durable.ledger.decide import LOST_TOUCH
from tidegate.durable.ledger.lease import Lease, leased
from tidegate.errors import (
    Coordination,
    LedgerUnavailable,
    SourceChanged,
    Superseded,
    TidegateError,
    Unknown,
    as_failure,
)
from tidegate.events import Note, Observer, PathTaken, together
from tidegate.model import Outcome, Source
from tidegate.redact import redact_url
from tidegate.report.failure import describe
from tidegate.report.terminal import limits_line, origin_line
from tidegate.settings import Settings
from tidegate.stages import publish_failure
from tidegate.transfer.gates.gates import Gates
from tidegate.transfer.transport import pool_of

if TYPE_CHECKING:
    from flows.ingest import Way

IDENTIFIED_AT_MOST = 3
"""How often a source that changes while it is read is identified anew before the run gives up."""


async def attempted(way: Way, source: Source, begins: Beginning) -> Outcome:
    """Go the way as an attempt in the ledger.

    Raises:
        Abort: somebody else speaks for this run now; nothing more is reported of it here.
    """
    observe, lease = way.bench.observe, None
    try:
        async with opened_ledger(way.bench.settings, observe) as ledger, leased(ledger, begins, observe) as lease:
            async with shown() as progress:
                everybody = together(observe, lease, progress, way.account)
                settings = way.bench.settings
                gates = Gates(settings.gate, ledger, everybody, addresses=settings.network.addresses)
                way.bench = replace(way.bench, observe=everybody, fence=lease.fence, gates=gates)
                everybody(Note(f"limits: {limits_line(way.bench.settings)}", "detail"))
                everybody(_process_path(way.bench.settings))
                try:
                    outcome = await _to_its_end(way, source, lease)
                finally:
                    await gates.flush()
                    pool_of(gates).close()
                await _counted(ledger, outcome, everybody)
                for origin in gates.statistics():
                    everybody(Note(origin_line(origin), "detail"))
            _conclude(lease, outcome)
        return outcome
    except Superseded as error:
        if lease is None:
            return _failure(way, error)
        reason = await why_superseded(lease, error)
        if await seen_to_by_others(lease):
            observe(Note(f"{reason.message}; this process leaves without a word to Prefect", "warning"))
            raise Abort(reason.message) from error
        return _failure(way, reason)
    except Coordination as error:
        return _failure(way, error)
    except Exception as error:  # noqa: BLE001  # whatever it is, the run ends with a report
        return await _evidence(way, as_failure(error))


async def _counted(ledger: Ledger, outcome: Outcome, observe: Observer) -> None:
    """Count the codecs that came: a courtesy to people, which may not cost the run its end."""
    try:
        await to_thread.run_sync(ledger.codecs.count, seen_in(outcome))
    except LedgerUnavailable as error:
        observe(Note(f"the codecs of this run were not counted: {error.message}", "warning"))


def _conclude(lease: Lease, outcome: Outcome) -> None:
    """What failed for want of the ledger or the server has not failed for good: recovery takes it up again."""
    failure = outcome.failure.type if outcome.failure else None
    state = AttemptState.FAILED if failure else AttemptState.COMPLETED
    lease.conclude(AttemptState.INTERRUPTED if failure in LOST_TOUCH else state, failure)


async def _to_its_end(way: Way, source: Source, lease: Lease) -> Outcome:
    """Go the way; a source that changes under it is identified anew. Failures become part of the outcome."""
    for identified in range(1, IDENTIFIED_AT_MOST + 1):
        try:
            await way.go(source, lease)
        except SourceChanged as error:
            if identified == IDENTIFIED_AT_MOST:
                return await _evidence(way, error)
            way.bench.observe(Note(f"{error.message}; beginning again with what it is now", "warning"))
        except Coordination:  # the work is somebody else's now, and so are its scratch and its folder
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, the run ends with a report
            return await _evidence(way, as_failure(error))
        else:
            break
    return way.outcome.model_copy(update={"origins": way.bench.gates.statistics(), **way.account.facts})


async def _evidence(way: Way, error: TidegateError) -> Outcome:
    """The outcome of a failed run, with its report written; of one that comes again it would be too early."""
    failed = _failure(way, error)
    assert failed.failure is not None  # noqa: S101
    if comes_again(failed):
        return failed
    outcome = await to_thread.run_sync(publish_failure, failed, way.target, way.bench.roots)
    if outcome.work_key and not failed.failure.retryable:
        way.bench.home.clear_scratch(outcome.work_key)  # no later run could use it
    return outcome


def _failure(way: Way, error: TidegateError) -> Outcome:
    failure = describe(error, now=datetime.now(UTC), source=way.outcome.source)
    origins = way.bench.gates.statistics()
    told = {"status": "failed", "failure": failure, "origins": origins, **way.account.facts}
    return way.outcome.model_copy(update=told)


def _process_path(settings: Settings) -> PathTaken:
    if settings.process.supervision == "on":
        return PathTaken("process", "full")
    return PathTaken("process", "plain", "TIDEGATE_PROCESS_SUPERVISION=off")


def failed_before_it_began(source: SourceRequest, reason: object) -> Outcome:
    """The outcome of a run that never got as far as having one; `reason` is an exception, or what came instead."""
    unexpected = reason if isinstance(reason, BaseException) else Unknown(f"The run ended with {reason!r}")
    return Outcome(
        status="failed",
        source=told(source),
        flow_run_id=flow_run_id(),
        failure=describe(as_failure(unexpected), now=datetime.now(UTC), source=told(source)),
    )


def told(request: SourceRequest) -> str:
    return redact_url(request.url) or f"block {request.block}"


def flow_run_id() -> str | None:
    context = FlowRunContext.get()
    return str(context.flow_run.id) if context and context.flow_run else None

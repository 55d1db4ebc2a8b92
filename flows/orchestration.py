"""What recovery and maintenance ask and tell Prefect about flow runs.

States are set through Prefect's own rules wherever they allow it, so that slots are given back; every setting is
looked at again afterwards, because a worker may still be reporting a crash. What the server did not take is `Refused`,
whatever it answered: only a state that is there counts as set.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import anyio
import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterId,
    FlowRunFilterParentTaskRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import Cancelled, Crashed, Failed, Scheduled

from tidegate.durable.ledger.decide import RunFacts

OUR_FLOWS = ("ingest", "batch", "recover", "maintain")
PAGE = 200
"""Most runs that the API gives at once."""
CONFIRMED_AT_MOST = 4
"""How often a state that did not hold is set again."""
FINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
TAKEN_UP_FROM = frozenset({"CRASHED", "FAILED"})


class Refused(RuntimeError):
    """Prefect's server did not take a state; the message says what it answered."""


async def facts_of(client: PrefectClient, runs: Iterable[str]) -> dict[str, RunFacts]:
    """What Prefect knows of these runs; those that it does not know are missing."""
    found: dict[str, RunFacts] = {}
    for some in _chunks([UUID(run) for run in runs]):
        query = FlowRunFilter(id=FlowRunFilterId(any_=some))
        rows = await client.read_flow_runs(flow_run_filter=query, limit=PAGE)
        found |= {str(run.id): run for run in await _facts_of_all(client, rows)}
    return found


async def open_runs(client: PrefectClient, states: Sequence[StateType]) -> list[RunFacts]:
    """Our deployed runs in these states; subflows are their parent's matter."""
    query = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states))),
        deployment_id=FlowRunFilterDeploymentId(is_null_=False),
        parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True),
    )
    ours = FlowFilter(name=FlowFilterName(any_=list(OUR_FLOWS)))
    found: list[FlowRun] = []
    while True:
        page = await client.read_flow_runs(flow_filter=ours, flow_run_filter=query, limit=PAGE, offset=len(found))
        found += page
        if len(page) < PAGE:
            return await _facts_of_all(client, found)


async def why_nobody_takes(client: PrefectClient, run: RunFacts) -> str | None:
    """Why no worker would ever take this deployed run again, were it scheduled; None where one would."""
    if run.deployment is None:
        return None
    try:
        deployment = await client.read_deployment(UUID(run.deployment))
    except ObjectNotFound:
        return "its deployment was deleted, so no worker will take it: trigger its source from another one"
    if run.pool is None and deployment.pull_steps:  # a deployment that a process serves itself has neither
        return "its work pool or queue was deleted, so no worker will take it: trigger its source again"
    return None


async def why_it_waits(client: PrefectClient, run: RunFacts) -> str | None:
    """What holds a scheduled run up until a person lets it go on; None where nothing does."""
    try:
        pool = await client.read_work_pool(run.pool) if run.pool else None
    except ObjectNotFound:
        return None
    return f"it begins when the work pool {pool.name} is resumed, which is paused" if pool and pool.is_paused else None


async def reschedule(client: PrefectClient, run: str, why: str, settle_seconds: float) -> None:
    """Run the same flow run again.

    A worker reports the crash of its process twice, about 2 s apart: a Scheduled that is set in between is overwritten,
    and the run is lost. So it is set after `settle_seconds`, looked at, and set again if need be. A person may cancel
    the run meanwhile, and one that could not reach Prefect for long may still report its end: that stands.

    Raises:
        Refused: the server did not take it, or it did not hold.
    """
    await crash(client, run, why)
    again = f"Taken up again from its checkpoint: {why}"
    for _ in range(CONFIRMED_AT_MOST):
        await anyio.sleep(settle_seconds)
        if await _read_state(client, run) not in TAKEN_UP_FROM:
            return
        await _set_state(client, run, Scheduled(name="AwaitingRecovery", message=again))
        await anyio.sleep(settle_seconds / 2)
        if await _read_state(client, run) != "CRASHED":
            return
    raise Refused("the run does not stay scheduled: somebody sets it to Crashed again and again")


async def crash(client: PrefectClient, run: str, why: str) -> None:
    """Say that the run's process is gone, unless the run has ended already; and so of the tasks that it was at."""
    if await _read_state(client, run) not in FINAL:
        await _set_state(client, run, Crashed(message=why))
    for task in await client.read_task_runs(flow_run_filter=_only(run), task_run_filter=_AT_WORK, limit=PAGE):
        await client.set_task_run_state(task.id, Crashed(message=why), force=True)


async def cancel(client: PrefectClient, run: str, why: str) -> None:
    """Say that the run was cancelled.

    Raises:
        Refused: the server did not take it.
    """
    await _set_state(client, run, Cancelled(message=why))


async def fail(client: PrefectClient, run: str, name: str, message: str) -> None:
    """End the run as an error of that name; what it may have said before does not count.

    Raises:
        Refused: the server did not take it.
    """
    if await _read_state(client, run) == "CANCELLING":  # from there Prefect lets a run become nothing else
        await cancel(client, run, message)
    await _set_state(client, run, Failed(name=name, message=message))


async def _set_state(client: PrefectClient, run: str, state: State[Any]) -> None:
    """Set the state, by Prefect's rules.

    Raises:
        Refused: it was not taken. A run that is in that state all the same is as it should be.
    """
    try:
        answer = await client.set_flow_run_state(UUID(run), state)
    except (httpx.HTTPError, PrefectException) as error:
        if await _is_in_state(client, run, state):  # the answer was lost, and not what it answered
            return
        raise Refused(f"Prefect did not take the state {state.name}: {_in_short(error)}") from error
    if answer.status is not SetStateStatus.ACCEPT and not await _is_in_state(client, run, state):
        reason = getattr(answer.details, "reason", None) or answer.status.value.lower()
        raise Refused(f"Prefect did not take the state {state.name}: {reason}")


async def _is_in_state(client: PrefectClient, run: str, state: State[Any]) -> bool:
    try:
        now = (await client.read_flow_run(UUID(run))).state
    except (httpx.HTTPError, PrefectException):
        return False
    return now is not None and (now.type, now.name, now.message) == (state.type, state.name, state.message)


def _in_short(error: Exception) -> str:
    """What the server answered, without the address and the advice that httpx adds."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"its server answered {error.response.status_code} {error.response.reason_phrase}"
    if isinstance(error, ObjectNotFound):
        return "it knows no such run; somebody has deleted it"
    return str(error) or type(error).__name__


async def _read_state(client: PrefectClient, run: str) -> str:
    try:
        row = await client.read_flow_run(UUID(run))
    except (httpx.HTTPError, PrefectException) as error:
        raise Refused(f"Prefect did not tell the state of the run: {_in_short(error)}") from error
    return row.state_type.value if row.state_type else ""


async def _facts_of_all(client: PrefectClient, runs: Collection[FlowRun]) -> list[RunFacts]:
    names = {run.flow_id: (await client.read_flow(run.flow_id)).name for run in {r.flow_id: r for r in runs}.values()}
    return [_facts(run, names[run.flow_id]) for run in runs]


_AT_WORK = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING])))
"""Prefect itself leaves the tasks of a killed process running for ever."""


def _only(run: str) -> FlowRunFilter:
    return FlowRunFilter(id=FlowRunFilterId(any_=[UUID(run)]))


def _facts(run: FlowRun, flow: str) -> RunFacts:
    state = run.state
    since = (state.timestamp if state else None) or run.created or run.expected_start_time
    return RunFacts(
        id=str(run.id),
        name=run.name,
        flow=flow,
        state=run.state_type.value if run.state_type else "",
        message=(state.message if state else None) or "",
        since=_epoch_seconds(since) or 0.0,
        deployment=str(run.deployment_id) if run.deployment_id else None,
        pool=run.work_pool_name,
    )


def _epoch_seconds(time: datetime | None) -> float | None:
    return time.timestamp() if time else None


def _chunks(ids: list[UUID]) -> Iterator[list[UUID]]:
    return (ids[start : start + PAGE] for start in range(0, len(ids), PAGE))

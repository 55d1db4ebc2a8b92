"""What recovery and maintenance ask and tell Prefect about flow runs.

States are set through Prefect's own rules wherever they allow it, so that slots are given back; every setting is
looked at again afterwards, because a worker may still be reporting a crash.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import anyio
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
from prefect.states import Cancelled, Crashed, Failed, Scheduled

from tidegate.durable.ledger.decide import RunFacts

OUR_FLOWS = ("ingest", "batch", "recover", "maintain")
PAGE = 200
"""Most runs that the API gives at once."""
CONFIRMED_AT_MOST = 4
"""How often a state that did not hold is set again."""
FINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
TAKEN_UP_FROM = frozenset({"CRASHED", "FAILED"})


async def facts_of(client: PrefectClient, runs: Iterable[str]) -> dict[str, RunFacts]:
    """What Prefect knows of these runs; those that it does not know are missing."""
    found: dict[str, RunFacts] = {}
    for some in _chunks([UUID(run) for run in runs]):
        asked = FlowRunFilter(id=FlowRunFilterId(any_=some))
        told = await client.read_flow_runs(flow_run_filter=asked, limit=PAGE)
        found |= {str(run.id): run for run in await _named(client, told)}
    return found


async def open_runs(client: PrefectClient, states: Sequence[StateType]) -> list[RunFacts]:
    """Our deployed runs in these states; subflows are their parent's matter."""
    asked = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states))),
        deployment_id=FlowRunFilterDeploymentId(is_null_=False),
        parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True),
    )
    ours = FlowFilter(name=FlowFilterName(any_=list(OUR_FLOWS)))
    found: list[FlowRun] = []
    while True:
        page = await client.read_flow_runs(flow_filter=ours, flow_run_filter=asked, limit=PAGE, offset=len(found))
        found += page
        if len(page) < PAGE:
            return await _named(client, found)


async def reschedule(client: PrefectClient, run: str, why: str, settle_seconds: float) -> bool:
    """Run the same flow run again; whether that held, or the run is past it by now.

    A worker reports the crash of its process twice, about 2 s apart: a Scheduled that is set in between is overwritten,
    and the run is lost. So it is set after `settle_seconds`, looked at, and set again if need be. A person may cancel
    the run meanwhile, and one that could not reach Prefect for long may still report its end: that stands.
    """
    await crash(client, run, why)
    again = f"Taken up again from its checkpoint: {why}"
    for _ in range(CONFIRMED_AT_MOST):
        await anyio.sleep(settle_seconds)
        if await _state(client, run) not in TAKEN_UP_FROM:
            return True
        await _set(client, run, Scheduled(name="AwaitingRecovery", message=again))
        await anyio.sleep(settle_seconds / 2)
        if await _state(client, run) != "CRASHED":
            return True
    return False


async def crash(client: PrefectClient, run: str, why: str) -> None:
    """Say that the run's process is gone, unless the run has ended already; and so of the tasks that it was at."""
    if await _state(client, run) not in FINAL:
        await _set(client, run, Crashed(message=why))
    for task in await client.read_task_runs(flow_run_filter=_only(run), task_run_filter=_AT_WORK, limit=PAGE):
        await client.set_task_run_state(task.id, Crashed(message=why), force=True)


async def cancel(client: PrefectClient, run: str, why: str) -> None:
    await _set(client, run, Cancelled(message=why))


async def fail(client: PrefectClient, run: str, name: str, message: str) -> None:
    """End the run as an error of that name; what it may have said before does not count."""
    if await _state(client, run) == "CANCELLING":  # from there Prefect lets a run become nothing else
        await cancel(client, run, message)
    await _set(client, run, Failed(name=name, message=message))


async def _set(client: PrefectClient, run: str, state: State[Any]) -> None:
    await client.set_flow_run_state(UUID(run), state)


async def _state(client: PrefectClient, run: str) -> str:
    told = await client.read_flow_run(UUID(run))
    return told.state_type.value if told.state_type else ""


async def _named(client: PrefectClient, runs: Collection[FlowRun]) -> list[RunFacts]:
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
        since=_seconds(since) or 0.0,
        deployment=str(run.deployment_id) if run.deployment_id else None,
        pool=run.work_pool_name,
    )


def _seconds(time: datetime | None) -> float | None:
    return time.timestamp() if time else None


def _chunks(ids: list[UUID]) -> Iterator[list[UUID]]:
    return (ids[start : start + PAGE] for start in range(0, len(ids), PAGE))

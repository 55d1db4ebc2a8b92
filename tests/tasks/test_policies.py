"""Checkpoints are keyed by content and believed only when whole; Prefect retries what the table says, and no more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from prefect import flow

from tasks.policies import Stage, stage_task
from tidegate.durable import crash_points
from tidegate.errors import (
    POLICIES,
    TASK_RETRY_DELAYS_SECONDS,
    NotFound,
    ProcessTimeout,
    StalledProcess,
    StoreUnavailable,
    TidegateError,
    Unknown,
)
from tidegate.events import Event, StageEnded, StageStarted
from tidegate.model import Finding, StageRecord, Value
from tidegate.settings import Settings, StoreSettings
from tidegate.stages import Workbench

AT_ONCE = {"retry_delay_seconds": 0}


@dataclass
class Work:
    """What a stage of these tests does: counts, then `act`."""

    act: Callable[[], Awaitable[Finding]]
    runs: int = 0

    async def __call__(self) -> Finding:
        self.runs += 1
        return await self.act()


class Other(Value):
    """A result of another type under the same key."""

    number: int = 1


@stage_task("analyze")
async def analyze(bench: Workbench, work: Work) -> Value:
    return await work()


@dataclass
class Seen:
    """An observer that keeps what it hears."""

    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def bench(tmp_path: Path, seen: Seen) -> Workbench:
    return Workbench(Settings(store=StoreSettings(home=tmp_path / "home")), observe=seen)


def stage(**changes: Any) -> Stage[Any]:
    base: Stage[Any] = Stage(
        name="analyze",
        task=analyze.with_options(**AT_ONCE),
        recipe=1,
        inputs=("content", 720, None),
        result=Finding,
        whole=lambda result: True,
        timeout_seconds=60.0,
    )
    return replace(base, **changes)


async def done() -> Finding:
    return Finding(code="done", message="all of it")


def failing(error: BaseException) -> Callable[[], Awaitable[Finding]]:
    async def act() -> Finding:
        raise error

    return act


def in_a_flow(action: Callable[[], Awaitable[Any]]) -> Any:
    """What `action` gives or raises, run inside a real flow run."""

    @flow(persist_result=False)
    async def around() -> Any:
        try:
            return [await action()]
        except Exception as error:
            return error

    told = asyncio.run(around())
    if isinstance(told, BaseException):
        raise told
    return told[0]


def run(bench: Workbench, of: Stage[Any], work: Work, **options: Any) -> tuple[Any, StageRecord]:
    told: tuple[Any, StageRecord] = in_a_flow(lambda: of.run(bench, work, **options))
    return told


def test_a_key_is_stable_and_readable() -> None:
    assert stage().key == stage(whole=bool, timeout_seconds=None).key
    # Written out: a change to how keys are made would silently throw every checkpoint away.
    assert stage().key == "analyze-r1-c32db828f4f4af752827deed7797f320.json"


def test_a_key_changes_with_stage_recipe_and_every_input() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"name": "publish"},
        {"recipe": 2},
        {"inputs": ("content!", 720, None)},
        {"inputs": ("content", 480, None)},
        {"inputs": ("content", 720, False)},
        {"inputs": ("content", "720", None)},
        {"inputs": ("content", 720)},
        {"inputs": (720, "content", None)},
        {"inputs": (("content", 720), None)},
    ]
    assert len({stage(**change).key for change in changes}) == len(changes)


def test_a_stage_is_not_run_again_while_its_checkpoint_stands(attached: None, bench: Workbench, seen: Seen) -> None:
    work = Work(done)
    first = run(bench, stage(), work)
    second = run(bench, stage(), work)
    assert work.runs == 1
    assert first[0] == second[0] == Finding(code="done", message="all of it")
    assert [first[1].cached, second[1].cached] == [False, True]
    ended = [event for event in seen.events if isinstance(event, StageEnded)]
    assert [(event.stage, event.state, event.cached) for event in ended] == [
        ("analyze", "completed", False),
        ("analyze", "completed", True),
    ]
    assert seen.events[0] == StageStarted("analyze") and len(seen.events) == 4
    assert (bench.home.results / stage().key).is_file()


def test_every_stage_says_where_it_is_so_that_it_can_be_killed_there(
    attached: None, bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "points.log"
    monkeypatch.setattr(crash_points, "_plan", crash_points._Plan.of({"TIDEGATE_CRASH_LOG": str(log)}))

    def said(work: Work) -> list[str]:
        log.write_bytes(b"")
        with suppress(NotFound):
            run(bench, stage(), work)
        return [point for point in log.read_text().splitlines() if point.startswith("analyze: ")]

    assert said(Work(failing(NotFound("gone")))) == ["analyze: started"]
    assert said(Work(done)) == ["analyze: started", "analyze: made, not recorded", "analyze: recorded"]
    assert said(Work(done)) == [], "from its checkpoint"


def test_a_record_that_is_not_whole_is_made_again(attached: None, bench: Workbench) -> None:
    work, asked = Work(done), []

    def lost(result: Finding) -> bool:
        asked.append(result)
        return False

    run(bench, stage(), work)
    assert run(bench, stage(whole=lost), work)[1].cached is False
    assert work.runs == 2 and asked == [Finding(code="done", message="all of it")]


def test_refresh_runs_the_stage_and_renews_its_record(attached: None, bench: Workbench) -> None:
    run(bench, stage(), Work(done))

    async def other() -> Finding:
        return Finding(code="done", message="better")

    work = Work(other)
    assert run(bench, stage(), work, refresh=True)[1].cached is False
    assert run(bench, stage(), work)[0].message == "better"
    assert work.runs == 1


@pytest.mark.parametrize("damage", ["torn", "empty", "foreign", "another type", "gone"])
def test_a_damaged_record_is_no_checkpoint_and_no_failure(damage: str, attached: None, bench: Workbench) -> None:
    work = Work(done)
    run(bench, stage(), work)
    path = bench.home.results / stage().key
    match damage:
        case "torn":
            path.write_bytes(path.read_bytes()[:-40])
        case "empty":
            path.write_bytes(b"")
        case "foreign":
            path.write_text(json.dumps({"result": 1}))
        case "another type":

            async def another() -> Any:
                return Other()

            run(bench, stage(result=Other), Work(another), refresh=True)
        case "gone":
            path.unlink()
    value, record = run(bench, stage(), work)
    assert (value.code, record.cached, work.runs) == ("done", False, 2)


ONE_OF_EACH = [StoreUnavailable, Unknown, NotFound, StalledProcess, ProcessTimeout]
"""Two runs more, one more, and three that the table does not let Prefect retry."""


@pytest.mark.parametrize("failure", ONE_OF_EACH, ids=lambda failure: failure.__name__)
def test_prefect_runs_a_task_as_often_as_the_table_says(
    failure: type[TidegateError], attached: None, bench: Workbench
) -> None:
    work = Work(failing(failure("As the test says")))
    with pytest.raises(failure, match="As the test says") as caught:
        run(bench, stage(), work)
    assert work.runs == 1 + POLICIES[failure].task_retries
    assert caught.value.stage == "analyze"
    assert not (bench.home.results / stage().key).exists(), "a failure is no checkpoint"


def test_a_strangers_error_is_retried_once_and_comes_out_as_unknown(attached: None, bench: Workbench) -> None:
    work = Work(failing(KeyError("odd")))
    with pytest.raises(Unknown, match="KeyError"):
        run(bench, stage(), work)
    assert work.runs == 2


def test_a_failure_that_passes_is_cured_by_the_retry(attached: None, bench: Workbench) -> None:
    async def second_time() -> Finding:
        if work.runs < 2:
            raise StoreUnavailable("Away for a moment")
        return await done()

    work = Work(second_time)
    assert run(bench, stage(), work)[1].state == "completed"
    assert work.runs == 2


def test_the_outer_guard_ends_a_stage_once_and_is_a_process_timeout(
    attached: None, bench: Workbench, seen: Seen
) -> None:
    async def hang() -> Finding:
        await anyio.sleep(60)
        return await done()

    work = Work(hang)
    with pytest.raises(ProcessTimeout, match="analyze did not end within") as caught:
        run(bench, stage(timeout_seconds=0.5), work)
    assert caught.value.stage == "analyze"
    assert work.runs == 1, "the table does not let Prefect retry a process timeout"
    assert isinstance(seen.events[-1], StageEnded) and seen.events[-1].state == "failed"


def test_a_cancelled_stage_is_told_as_interrupted(attached: None, bench: Workbench, seen: Seen) -> None:
    async def cancelled() -> None:
        async with anyio.create_task_group() as group:

            async def stop() -> Finding:
                group.cancel_scope.cancel()
                await anyio.sleep(60)
                return await done()

            await stage().run(bench, Work(stop))

    in_a_flow(cancelled)
    assert isinstance(seen.events[-1], StageEnded) and seen.events[-1].state == "interrupted"


def test_the_pauses_between_runs_are_those_of_the_design() -> None:
    assert TASK_RETRY_DELAYS_SECONDS == (10.0, 60.0)
    assert analyze.retries == 2 and analyze.retry_delay_seconds == [10.0, 60.0]

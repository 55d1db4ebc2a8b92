"""Our one way to make and call a task: cache key, JSON persistence, retry rule, outer timeout.

Each stage module makes its task with `stage_task` and runs it with `Stage.run`. A checkpoint is believed only after
its record was read and its asset was found whole; then the task is called and comes back Cached, otherwise it is
called with `refresh_cache`. After a crash the next run finds exactly the records whose tasks had completed.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from anyio import to_thread
from prefect import Task, task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.results import get_result_store

from tasks.storage import PrivateFiles
from tidegate.durable.crash_points import crash_point
from tidegate.durable.threads import in_thread
from tidegate.errors import TASK_RETRY_DELAYS_SECONDS, ProcessTimeout, TidegateError, as_failure, policy_of
from tidegate.events import Note, StageEnded, StageStarted, Waiting
from tidegate.model import StageName, StageRecord, Value, fingerprint
from tidegate.resilience.admission import Needs
from tidegate.stages import Workbench
from tidegate.stages.admission import admit

R = TypeVar("R", bound=Value)


_failures: ContextVar[list[Exception]] = ContextVar("failures")
"""What the stage raised in this run. Prefect persists it, and where it cannot, gives its own trouble in its place."""


async def may_retry(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether the policy table lets Prefect run this task again, and has not let it often enough."""
    error = await state.aresult(raise_on_failure=False)
    if not isinstance(error, BaseException):
        return False
    # The outer guard speaks as a TimeoutError. Taken for unknown, a stage that hangs would hang twice.
    policy = policy_of(ProcessTimeout) if isinstance(error, TimeoutError) else as_failure(error).policy
    return task_run.run_count <= policy.task_retries


def _tell_of_next_try(bench: Workbench, name: StageName, failures: list[Exception]) -> None:
    """Say that Prefect will run the stage again, and why: it waits up to a minute, and says so only in its own log."""
    failure = as_failure(failures[-1])
    if len(failures) > failure.policy.task_retries:
        return
    seconds = TASK_RETRY_DELAYS_SECONDS[len(failures) - 1]
    bench.observe(Note(f"{name} failed: {failure.message}; it is tried again in {seconds:.0f} s", "warning"))
    bench.observe(Waiting(f"the next try of {name}"))


def stage_task(name: StageName) -> Callable[[Callable[..., Coroutine[Any, Any, R]]], Task[..., Any]]:
    """Make the task of a stage."""
    as_task = task(
        name=name,
        task_run_name=name,
        persist_result=True,
        result_serializer="json",
        cache_result_in_memory=False,
        retries=len(TASK_RETRY_DELAYS_SECONDS),
        retry_delay_seconds=list(TASK_RETRY_DELAYS_SECONDS),
        retry_condition_fn=may_retry,
    )

    def with_crash_points(function: Callable[..., Coroutine[Any, Any, R]]) -> Task[..., Any]:
        """The task, which says where it is: see `crash_points`."""

        @functools.wraps(function)
        async def work(bench: Workbench, *arguments: Any, **named: Any) -> R:
            crash_point(f"{name}: started")
            failures = _failures.get([])
            if failures:
                bench.observe(Waiting(None))
            try:
                result = await function(bench, *arguments, **named)
            except Exception as error:
                failures.append(error)
                _tell_of_next_try(bench, name, failures)
                raise
            crash_point(f"{name}: made, not recorded")
            return result

        return as_task(work)

    return with_crash_points


@dataclass(frozen=True)
class Stage(Generic[R]):
    """One stage of one run: which task, which checkpoint, and when to believe it."""

    name: StageName
    task: Task[..., Any]
    recipe: int
    inputs: tuple[Any, ...]
    """What the result depends on, by content."""
    result: type[R]
    whole: Callable[[R], bool]
    """Whether a recorded result still stands; blocking, runs in a thread."""
    timeout_seconds: float | None
    """The outer guard; None where the inner limit grows with the work."""
    needs: Needs = field(default_factory=Needs)
    """What the host must have before the stage begins; a stage from its checkpoint needs nothing."""

    @property
    def key(self) -> str:
        """`stage / recipe version / content of its inputs`; also the name of the record in the result storage."""
        return f"{self.name}-r{self.recipe}-{fingerprint(*self.inputs)}.json"

    async def run(self, bench: Workbench, *arguments: Any, refresh: bool = False) -> tuple[R, StageRecord]:
        """The stage's result, from its checkpoint or made now.

        Raises:
            TidegateError: the stage's failure, with the stage's name.
        """
        started = time.monotonic()
        bench.observe(StageStarted(self.name))
        call = self.task.with_options(
            cache_policy=CacheKeyFnPolicy(cache_key_fn=lambda *_: self.key),
            result_storage=bench.home.results,
            timeout_seconds=self.timeout_seconds,
        )
        believed = not refresh and await self._believable(call)
        before = _write_time(bench.home.results / self.key)
        failures: list[Exception] = []
        _failures.set(failures)
        known = believed
        record = StageRecord(state="interrupted", cached=believed)
        try:
            call = _store_in(bench.home.results, call.with_options(refresh_cache=not believed))
            async with admit(bench, Needs() if believed else self.needs):
                state = await call(bench, *arguments, return_state=True)
            value = await _result_of(state)
            record = record.model_copy(update={"state": "completed"})
            if not believed:
                known = self._confirm_record(bench, before)
        except TimeoutError as error:
            record = record.model_copy(update={"state": "failed"})
            guard = f"{self.timeout_seconds:.0f} s" if self.timeout_seconds else "its limit"
            raise ProcessTimeout(f"{self.name} did not end within {guard}", stage=self.name) from error
        except Exception as error:
            record = record.model_copy(update={"state": "failed"})
            raise _at(self.name, failures[-1] if failures else error) from error
        finally:
            record = record.model_copy(update={"seconds": round(time.monotonic() - started, 3)})
            name = self.key if known else None
            bench.observe(StageEnded(self.name, record.state, record.cached, record.seconds, name))  # type: ignore[arg-type]
        return self.result.model_validate(value), record

    def _confirm_record(self, bench: Workbench, before: int | None) -> bool:
        """Whether Prefect has written the record: where it cannot, it says so in its log, and the task is Completed."""
        if _write_time(bench.home.results / self.key) == before:
            note = f"{self.name}: its result could not be recorded in {bench.home.results}; another run does it again"
            bench.observe(Note(note, "warning"))
            return False
        crash_point(f"{self.name}: recorded")
        return True

    async def _believable(self, call: Task[..., Any]) -> bool:
        """Read the record as Prefect would, and look at what it names. Anything odd about it means no."""
        try:
            store = await get_result_store().aupdate_for_task(call)
            record = await store.aread(self.key)
        except Exception:  # noqa: BLE001  # missing, torn or written by somebody else: all of it means "run the stage"
            return False
        if not isinstance(record.result, self.result):
            return False
        return await in_thread(self.whole, record.result)


def _store_in(results: Path, call: Task[..., Any]) -> Task[..., Any]:
    """The task with our own storage. Set after `with_options`, which takes a block only once the server knows it; as
    ours is a folder of this host, a saved one would lead other hosts astray."""
    call.result_storage = PrivateFiles(basepath=str(results))
    return call


async def _result_of(state: State[Any]) -> Any:
    """What the task returned.

    Raises:
        BaseException: what it raised. Prefect persists that too, under a random key that nobody reads again.
    """
    value = await state.aresult(raise_on_failure=False)
    if not isinstance(value, BaseException):
        return value
    key = getattr(getattr(state.data, "metadata", None), "storage_key", None)
    if key is not None:
        await to_thread.run_sync(lambda: Path(key).unlink(missing_ok=True))
    raise value


def _write_time(path: Path) -> int | None:
    """When the file was last written; None where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _at(stage: StageName, error: Exception) -> TidegateError:
    failure = as_failure(error)
    failure.stage = failure.stage or stage
    return failure

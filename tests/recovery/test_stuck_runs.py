"""A run that lives and gets nowhere becomes an error after 2 hours, and no other run does: with a clock that is moved.

Five runs and maintenance share one clock. Real ffmpeg, real waiting, real renewals; only the time of day is set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from tests.support import clock
from tests.support.command import wait_until
from tests.support.disaster import (
    STUBBORN,
    Folders,
    Fresh,
    Triggered,
    caretaker,
    held,
    is_slow_now,
    nothing_left,
    processes_of,
    slow_once,
    told_by,
    triggered,
)
from tests.support.leaks import children
from tests.support.origin import Origin, Resource
from tests.support.site import Site
from tidegate.durable.ledger import AttemptState

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(clock.missing() is not None, reason=str(clock.missing())),
]

HOUR = 3600.0
STUCK_AFTER_SECONDS = 2 * HOUR
MARGIN_SECONDS = 60.0
"""1 h 59: what is left for maintenance to start and look."""
STEPS = 6
"""The clock goes to the next point in so many; whoever makes progress makes some in each."""
PATIENT = {
    "TIDEGATE_LEDGER_RENEW_EVERY": "1",
    "TIDEGATE_LEDGER_LEASE": "100000",  # it ends by the clock that is moved
    "TIDEGATE_ADMISSION_SLOT_IDLE": "100000",
    "TIDEGATE_PROCESS_STALL_TIMEOUT": "100000",
    "TIDEGATE_TRANSFER_REQUEST_TIMEOUT": "100000",
    "TIDEGATE_TRANSFER_STALL_TIMEOUT": "100000",
}
"""The watches inside are told to wait, so that only maintenance is left to notice."""


@dataclass
class Day:
    """Five runs, and what maintenance did about them at each hour."""

    site: Site
    clock: clock.Clock
    hung: Triggered
    """Its ffmpeg says nothing, and nobody else notices."""
    unborn: Triggered
    """Its source never answers: it has made no progress, ever."""
    slow: Triggered
    """Its ffmpeg takes for hours, and gets on."""
    slotless: Triggered
    """Waits for a slot of the slow one."""
    second: Triggered
    """Waits for the slow one, whose work is its own."""
    pending: str
    cancelling: str
    folders: dict[str, Folders]
    told: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def busy(self) -> tuple[Triggered, ...]:
        return self.slow, self.slotless, self.second

    def maintain(self, *words: str) -> dict[str, Any]:
        """One maintenance under this clock."""
        process = caretaker(self.site, "maintain", *words, environment={**PATIENT, **self.clock.environment})
        told = told_by(process)
        return {str(one["run"]): one for one in told[0]["stuck"]}

    def idle_becomes(self, seconds: float) -> None:
        """Move the clock until the one that made progress last has been idle for so long."""
        latest = (self.hung.attempts()[-1], self.unborn.attempts()[-1])
        since = max(one.progressed_at or one.created_at for one in latest)
        target = since + seconds - (self.clock.now - self.clock.ahead_seconds)
        first = self.clock.ahead_seconds
        for step in range(1, STEPS + 1):
            self.clock.move_to(first + (target - first) * step / STEPS)
            reached = self.clock.now - 1
            self.slow.wait_for(lambda one, reached=reached: (one.progressed_at or 0) >= reached)  # type: ignore[misc]
        for run in (self.hung, self.unborn, *self.busy):
            run.wait_for(lambda one: one.state is not AttemptState.RUNNING or one.renewed_at >= reached)


@pytest.fixture(scope="module")
def day(site: Site, fresh: Fresh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    folder = tmp_path_factory.mktemp("day")
    moved = clock.Clock(folder / "clock")
    both = {**PATIENT, **moved.environment}
    deaf = slow_once(folder / "hanging", f"{STUBBORN}\nexec sleep 100000")
    hanging = {"TIDEGATE_TOOLS_FFMPEG": str(deaf)}
    slowly = {"TIDEGATE_TOOLS_FFMPEG": str(slow_once(folder / "slowly", slowly="-readrate 0.4"))}
    one_slot = {"TIDEGATE_ADMISSION_SLOTS": "1"}
    two_slots = {"TIDEGATE_ADMISSION_SLOTS": "2"}
    silent = Resource(fresh("copied"), story="always: ok late-headers 3600s")
    with Origin({"silent.mkv": silent}) as origin, ExitStack() as stack:

        def begin(name: str, source: str, environment: Mapping[str, str]) -> Triggered:
            run = triggered(site, name, source, {**both, **environment})
            folders[run.id] = stack.enter_context(Folders(run.output).watched())
            return run

        folders: dict[str, Folders] = {}
        film = str(fresh("transcoded"))
        slow = begin("slow", film, slowly)
        slow.wait_for(lambda one: one.stage == "remux" and one.done)
        second = begin("second", film, {})
        slotless = begin("slotless", str(fresh("copied")), one_slot)
        hung = begin("hung", str(fresh("copied")), {**hanging, **two_slots})
        unborn = begin("unborn", origin.url("silent.mkv"), {})
        second.wait_for(lambda one: one.waiting_for == "another run of the same work")
        slotless.wait_for(lambda one: (one.waiting_for or "").startswith("processing slot"))
        wait_until(lambda: is_slow_now(deaf), seconds=60)
        wait_until(lambda: origin.requests_for("silent.mkv"), seconds=60)
        pending, cancelling = (unclaimed(site, type_) for type_ in ("PENDING", "CANCELLING"))
        day = Day(site, moved, hung, unborn, slow, slotless, second, pending, cancelling, folders)
        day.idle_becomes(STUCK_AFTER_SECONDS - MARGIN_SECONDS)
        day.told["at 1:59"] = day.maintain()
        day.idle_becomes(STUCK_AFTER_SECONDS)
        day.told["dry, at 2:00"] = day.maintain("--dry-run")
        day.told["states after that"] = {run.id: run.state for run in (hung, unborn)}
        day.told["at 2:00"] = day.maintain()
        day.idle_becomes(5 * HOUR)
        day.told["at 5:00"] = day.maintain()
        yield day


def unclaimed(site: Site, type_: str) -> str:
    """A run that nobody begins, or ends."""
    deployment = site.get("deployments/name/ingest/ingest")["id"]
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2100-01-01T00:00:00Z"}}
    told = {"parameters": {"source": {"url": "/nowhere"}}, "state": later}
    run = str(site.post(f"deployments/{deployment}/create_flow_run", told)["id"])
    site.set_state(run, "PENDING")  # from here on Prefect believes that there is something to cancel
    if type_ != "PENDING":
        site.set_state(run, type_)
    return run


def test_a_run_without_progress_is_not_touched_a_minute_before_its_time(day: Day) -> None:
    assert day.told["at 1:59"] == {}


def test_at_two_hours_a_dry_run_names_what_is_stuck_and_touches_nothing(day: Day) -> None:
    told = day.told["dry, at 2:00"]
    assert told.keys() == {day.hung.id, day.unborn.id, day.pending, day.cancelling}
    assert all(one["marked_stuck_at"] is None for one in told.values())
    assert day.told["states after that"] == {day.hung.id: "RUNNING", day.unborn.id: "RUNNING"}


@pytest.mark.parametrize("which", ["hung", "unborn"])
def test_a_run_without_progress_is_marked_at_two_hours(which: str, day: Day) -> None:
    run: Triggered = getattr(day, which)
    told = day.told["at 2:00"][run.id]
    assert told["error_reason"].startswith("No progress") and told["error"] == "", told
    marked = datetime.fromisoformat(told["marked_stuck_at"])
    state = day.site.state(run.id)
    assert (state["type"], state["name"]) == ("FAILED", "Stuck")
    assert state["message"] == f"stuck: {told['error_reason']}"
    assert day.site.states(run.id)[-1] == "Stuck"
    [row] = run.attempts()
    assert (row.state, row.failure, row.error_reason) == (AttemptState.STUCK, "stuck", told["error_reason"])
    assert row.marked_stuck_at is not None
    idle = row.marked_stuck_at - (row.progressed_at or row.created_at)
    assert STUCK_AFTER_SECONDS <= idle <= STUCK_AFTER_SECONDS + 5 * MARGIN_SECONDS, idle
    assert abs(marked.timestamp() - row.marked_stuck_at) < MARGIN_SECONDS
    assert processes_of(run) == [], "its process and the group of its ffmpeg are gone"
    nothing_left_of_it(run)


def test_a_stuck_run_leaves_its_failure_report_where_it_would_have_published(day: Day) -> None:
    [log] = day.hung.output.glob("*/*.err.log")
    assert log.parent == day.hung.attempts()[0].target
    text = log.read_text()
    assert "No progress in remux" in text and "ffmpeg" in text
    [report] = day.hung.output.glob("*/report.json")
    failure = json.loads(report.read_text())["failure"]
    assert (failure["type"], failure["stage"]) == ("stuck", "remux")
    [_] = day.unborn.output.glob("*/*.err.log")


def test_a_run_that_stays_pending_or_cancelling_is_marked_at_two_hours(day: Day) -> None:
    for run, reason in ((day.pending, "Pending for "), (day.cancelling, "Cancelling for ")):
        state = day.site.state(run)
        assert (state["type"], state["name"]) == ("FAILED", "Stuck"), state
        assert day.told["at 2:00"][run]["error_reason"].startswith(reason)


def test_slow_progress_and_waiting_are_not_stuck_for_five_hours(day: Day) -> None:
    assert not day.told["at 2:00"].keys() & {run.id for run in day.busy}
    assert day.told["at 5:00"] == {}
    assert {run.id: run.state for run in day.busy} == {run.id: "RUNNING" for run in day.busy}
    assert {run.attempts()[-1].waiting_for is None for run in (day.second, day.slotless)} == {False}
    hurry(day.slow)
    for run in day.busy:
        run.wait("COMPLETED")
    for run in day.busy:
        assert [one.state for one in run.attempts()] == [AttemptState.COMPLETED]
        nothing_left(run)


def hurry(run: Triggered) -> None:
    """End its ffmpeg from outside, which is tried again; the second time it takes no time."""
    for process in children(run.site.mark):
        if "-readrate" in process.cmdline():
            process.kill()


def nothing_left_of_it(run: Triggered) -> None:
    """A stuck run keeps its scratch for a person's re-run, and nothing else."""
    keys = {row.work_key for row in run.attempts() if row.work_key}
    assert held(run.site) & keys == set()
    assert all(row.slot_at is None for row in run.attempts())

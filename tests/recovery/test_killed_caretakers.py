"""Recovery itself is killed, runs twice, or does not help: nothing is doubled, lost, or tried for ever."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support.command import wait_until
from tests.support.disaster import (
    DETACHED,
    MIB,
    Folders,
    Fresh,
    Triggered,
    Undisturbed,
    caretaker,
    is_slow_now,
    recover_here,
    recoveries_of,
    slow_once,
    told_by,
    triggered,
    went_on_well,
)
from tests.support.origin import Origin, Resource
from tests.support.site import Site
from tidegate.durable.ledger import AttemptState

AT_ONCE = {"TIDEGATE_RECOVERY_BACKOFF": "0"}
ONCE = {**AT_ONCE, "TIDEGATE_RECOVERY_MOST": "1"}
"""One recovery without a new checkpoint is enough."""


def crashing(point: str, marker: Path) -> dict[str, str]:
    """Kill the run at that point whenever the marker is not there."""
    return {"TIDEGATE_CRASH_AT": point, "TIDEGATE_CRASH_ONCE": str(marker)}


def killed_while(site: Site, condition: Callable[[], object], environment: Mapping[str, str]) -> None:
    """SIGKILL a recover as soon as that holds."""
    process = caretaker(site, "recover", environment=environment)
    try:
        wait_until(condition, seconds=60)
        assert process.poll() is None, process.communicate()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
def test_two_recovers_at_once_take_up_a_run_once(
    site: Site, fresh: Fresh, straight: Undisturbed, tmp_path: Path
) -> None:
    run = triggered(site, "copied", str(fresh("copied")), crashing("remux: started", tmp_path / "crashed"))
    with Folders(run.output).watched() as folders:
        run.wait("CRASHED")
        longer = {"TIDEGATE_RECOVERY_SETTLE": "8"}  # so that the second one comes while the first is at it
        both = [caretaker(site, "recover", environment=longer) for _ in range(2)]
        told = [told_by(process) for process in both]
        assert sorted(len(rescues) for rescues in told) == [0, 1], told
        run.wait("COMPLETED")
        assert site.states(run.id).count("AwaitingRecovery") == 1
        went_on_well(run, folders, straight.media("copied"), attempts=2)


@pytest.mark.slow
def test_a_recover_that_is_killed_half_way_is_finished_by_the_next(
    site: Site, fresh: Fresh, straight: Undisturbed, tmp_path: Path
) -> None:
    tool = slow_once(tmp_path, DETACHED)
    run = triggered(site, "transcoded", str(fresh("transcoded")), {"TIDEGATE_TOOLS_FFMPEG": str(tool)})
    with Folders(run.output).watched() as folders:
        wait_until(lambda: is_slow_now(tool), seconds=60)
        run.kill()
        run.wait("CRASHED")
        # Long enough to be killed while the leftover, which ignores TERM, is given its time.
        patient = {**AT_ONCE, "TIDEGATE_PROCESS_END_GRACE": "30"}
        killed_while(site, lambda: run.attempts()[0].state is AttemptState.ABANDONED, patient)
        assert site.states(run.id)[-1] == "Crashed"
        settling = {**AT_ONCE, "TIDEGATE_RECOVERY_SETTLE": "10"}
        time.sleep(10)  # that long ago the run must have crashed by then
        killed_while(site, lambda: (found := recoveries_of(run)) and found.scheduled, settling)
        assert site.states(run.id)[-1] == "Crashed"
        run.wait_for_last_word()
        rescue = recover_here(site, AT_ONCE)[run.id]
        assert rescue.error == ""
        run.wait("COMPLETED")
        went_on_well(run, folders, straight.media("transcoded"), attempts=2)


@pytest.mark.slow
def test_a_run_that_gets_nowhere_is_parked_until_a_person_says_so_and_one_that_gains_ground_is_not(
    site: Site, fresh: Fresh, straight: Undisturbed, tmp_path: Path
) -> None:
    marker = tmp_path / "crashed"
    slow = Resource(fresh("bulky"), story="throttle 1M, throttle 1M, ok")
    with Origin({"film.mp4": slow}) as origin:
        nowhere = triggered(site, "nowhere", str(fresh("copied")), crashing("remux: made, not recorded", marker))
        onward = triggered(site, "bulky", origin.url("film.mp4"), {"TIDEGATE_LEDGER_RENEW_EVERY": "1"})
        with Folders(nowhere.output).watched() as there, Folders(onward.output).watched() as here:
            both_killed(nowhere, onward, origin, 2 * MIB)
            recover_here(site, ONCE)
            marker.unlink()
            both_killed(nowhere, onward, origin, 5 * MIB)
            told = recover_here(site, ONCE)
            assert told[nowhere.id].do.name == "PARK" and told[onward.id].do.name == "RESCHEDULE", told
            parked(nowhere)

            marker.unlink()
            site.set_state(nowhere.id, "SCHEDULED")
            nowhere.wait("CRASHED")
            nowhere.wait_for_last_word()
            told = recover_here(site, ONCE)
            assert told[nowhere.id].do.name == "RESCHEDULE", "a person's re-run begins to count anew"
            nowhere.wait("COMPLETED")
            onward.wait("COMPLETED")
            went_on_well(onward, here, straight.media("bulky"), attempts=3)
            there.look()
            assert len(there.seen) == 2, "the failure's report, and in its place what was published"
            assert nowhere.media() == straight.media("copied")


def both_killed(nowhere: Triggered, onward: Triggered, origin: Origin, at: int) -> None:
    wait_until(lambda: origin.bytes_sent("film.mp4") >= at, seconds=60)
    onward.wait_for(lambda one: one.state is AttemptState.RUNNING and one.stage == "download" and (one.done or 0) > 0)
    onward.kill()
    onward.wait("CRASHED")
    nowhere.wait("CRASHED")
    nowhere.wait_for_last_word()


def parked(run: Triggered) -> None:
    """It says so in Prefect and beside its output, and no recover touches it."""
    state = run.site.state(run.id)
    assert (state["type"], state["name"]) == ("FAILED", "Parked")
    assert state["message"].startswith("parked: ")
    [log] = run.output.glob("*/*.err.log")
    assert "parked" in log.read_text()
    assert run.id not in recover_here(run.site, ONCE)

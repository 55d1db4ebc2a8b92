"""A worker or the server is gone, its runs may live on: none is doubled or lost, and a cancelled one stays so."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.command import wait_until
from tests.support.disaster import (
    MIB,
    Folders,
    Fresh,
    Triggered,
    Undisturbed,
    is_slow_now,
    processes_of,
    recover_here,
    slow_once,
    triggered,
    went_on_well,
)
from tests.support.origin import Origin, Resource
from tests.support.site import Site
from tidegate.durable.ledger import AttemptState

SLOW = "throttle 192K, ok"


@dataclass
class Runs:
    """What was under way while the workers went."""

    surviving: Triggered
    cancelled: Triggered
    pending: Triggered
    terminated: Triggered
    folders: dict[str, Folders]
    untouched: bool
    """Whether a recover left the pending one alone before its time."""


@pytest.fixture(scope="module")
def runs(site: Site, fresh: Fresh, straight: Undisturbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Two workers end, one by SIGKILL and one by SIGTERM; then one recover."""
    tool = slow_once(tmp_path_factory.mktemp("tools"))
    resources = {name: Resource(fresh("minute"), story=SLOW) for name in ("surviving", "terminated")}
    with Origin(resources) as origin, ExitStack() as stack:

        def begin(film: str, source: str, environment: Mapping[str, str] | None = None) -> Triggered:
            run = triggered(site, film, source, environment)
            folders[run.id] = stack.enter_context(Folders(run.output).watched())
            return run

        folders: dict[str, Folders] = {}
        surviving = begin("surviving", origin.url("surviving"))
        cancelled = begin("transcoded", str(fresh("transcoded")), {"TIDEGATE_TOOLS_FFMPEG": str(tool)})
        wait_until(lambda: is_slow_now(tool), seconds=60)
        surviving.wait_for(lambda one: one.stage == "download")

        site.kill_worker(signal.SIGKILL)
        cancelled.kill()
        site.set_state(cancelled.id, "CANCELLING")
        pending = begin("pending", str(fresh("copied")))
        site.set_state(pending.id, "PENDING")  # a worker took it, and died
        site.start_worker()

        terminated = begin("terminated", origin.url("terminated"))
        terminated.wait_for(lambda one: one.stage == "download")
        site.kill_worker(signal.SIGTERM)
        site.start_worker()
        untouched = pending.id not in recover_here(site, dry_run=True)
        recover_here(site, {"TIDEGATE_RECOVERY_UNCLAIMED_AFTER": "1"})
        yield Runs(surviving, cancelled, pending, terminated, folders, untouched)


def test_a_run_whose_worker_is_killed_goes_on_by_itself_and_is_not_doubled(runs: Runs, straight: Undisturbed) -> None:
    runs.surviving.wait("COMPLETED")
    went_on_well(runs.surviving, runs.folders[runs.surviving.id], straight.media("minute"), attempts=1)


def test_a_run_whose_worker_is_terminated_goes_on_by_recovery(runs: Runs, straight: Undisturbed) -> None:
    runs.terminated.wait("COMPLETED")
    went_on_well(runs.terminated, runs.folders[runs.terminated.id], straight.media("minute"), attempts=2)


def test_a_run_that_no_worker_ever_began_is_scheduled_again_in_its_time(runs: Runs, straight: Undisturbed) -> None:
    assert runs.untouched
    runs.pending.wait("COMPLETED")
    went_on_well(runs.pending, runs.folders[runs.pending.id], straight.media("copied"), attempts=1)


def test_a_cancelled_run_whose_process_is_gone_is_cancelled_and_never_resumed(runs: Runs) -> None:
    assert runs.cancelled.wait("CANCELLED")["type"] == "CANCELLED"
    recover_here(runs.cancelled.site)
    assert [one.state for one in runs.cancelled.attempts()] == [AttemptState.CANCELLED]
    assert runs.cancelled.site.states(runs.cancelled.id)[-1] == "Cancelled"
    assert runs.cancelled.folders() == []
    assert processes_of(runs.cancelled) == []


@pytest.mark.slow
@pytest.mark.parametrize("away", [0, 60])
def test_runs_outlive_a_server_that_is_away(
    away: int, site: Site, fresh: Fresh, straight: Undisturbed, tmp_path: Path
) -> None:
    """One works through it; the other ends meanwhile, and is killed before it can say so."""
    tool = slow_once(tmp_path)
    with Origin({"film.mp4": Resource(fresh("bulky"), story="throttle 512K, ok")}) as origin:
        working = triggered(site, "working", origin.url("film.mp4"))
        ended = triggered(site, "ended", str(fresh("copied")), {"TIDEGATE_TOOLS_FFMPEG": str(tool)})
        with Folders(working.output).watched() as here, Folders(ended.output).watched() as there:
            wait_until(lambda: is_slow_now(tool) and origin.bytes_sent("film.mp4") >= MIB, seconds=180)
            site.kill_server()
            ended.wait_for(lambda one: one.state is AttemptState.COMPLETED)
            ended.kill()
            time.sleep(away)
            site.start_server()
            working.wait("COMPLETED")
            went_on_well(working, here, straight.media("bulky"), attempts=1)
            ended.wait("CRASHED")  # as far as its worker could tell
            ended.wait_for_last_word()
            recover_here(site)
            ended.wait("COMPLETED")
            went_on_well(ended, there, straight.media("copied"), attempts=2, completed=2)

"""A process that is stopped for longer than its lease: somebody else goes on, and on waking up it harms nothing."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

from tests.support.aftermath import end_of
from tests.support.command import wait_until
from tests.support.disaster import (
    Folders,
    Fresh,
    Undisturbed,
    attempts_of,
    recover_here,
    slow_once,
    triggered,
    went_on_well,
)
from tests.support.origin import Origin, Resource
from tests.support.site import Site
from tidegate.durable.ledger import Attempt, AttemptState

SHORT = {
    "TIDEGATE_LEDGER_RENEW_EVERY": "1",
    "TIDEGATE_LEDGER_GIVE_UP": "8",
    "TIDEGATE_LEDGER_LEASE": "10",
}
ELSEWHERE = {"TIDEGATE_HOST_ID": "another-host"}
"""Nobody here can tell whether its processes live, or end them."""


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_a_stopped_process_of_this_host_is_ended_and_its_run_goes_on(
    site: Site, fresh: Fresh, straight: Undisturbed
) -> None:
    with Origin({"film.mp4": Resource(fresh("bulky"), story="throttle 1M, ok")}) as origin:
        run = triggered(site, "stopped-here", origin.url("film.mp4"), SHORT)
        with Folders(run.output).watched() as folders:
            run.wait_for(lambda one: one.stage == "download" and one.done)
            process = site.kill(run.id, signal.SIGSTOP)
            wait_until(lambda: run.id in recover_here(site, SHORT), seconds=60)
            assert not alive(process)
            run.wait("COMPLETED")
            went_on_well(run, folders, straight.media("bulky"), attempts=2)


@pytest.mark.slow
def test_a_process_that_wakes_up_on_another_host_publishes_nothing_and_says_nothing(
    site: Site, fresh: Fresh, straight: Undisturbed, tmp_path: Path
) -> None:
    """Its ffmpeg is not stopped: it writes on while the winner makes the same file."""
    tool = {"TIDEGATE_TOOLS_FFMPEG": str(slow_once(tmp_path, slowly="-readrate 2"))}
    run = triggered(site, "stopped-elsewhere", str(fresh("transcoded")), {**SHORT, **ELSEWHERE, **tool})
    with Folders(run.output).watched() as folders:
        run.wait_for(lambda one: one.stage == "remux" and one.done)
        loser = site.kill(run.id, signal.SIGSTOP)
        try:
            wait_until(lambda: run.id in recover_here(site, SHORT), seconds=60)
            run.wait("COMPLETED")
            assert alive(loser)
        finally:
            loser.resume()
        wait_until(lambda: not alive(loser), seconds=30, what="for the loser to leave")
        went_on_well(run, folders, straight.media("transcoded"), attempts=2)


@pytest.mark.slow
def test_a_command_that_wakes_up_on_another_host_says_that_it_was_superseded(
    site: Site, fresh: Fresh, straight: Undisturbed, tmp_path: Path
) -> None:
    loser, winner = site.command(), site.command()
    loser.environment |= SHORT | ELSEWHERE | {"TIDEGATE_TOOLS_FFMPEG": str(slow_once(tmp_path, slowly="-readrate 2"))}
    winner.environment |= SHORT
    loser.output = winner.output = tmp_path / "out"
    film = str(fresh("transcoded"))
    with Folders(winner.output).watched() as folders, loser.started(film) as process:
        title = Path(film).name
        wait_until(lambda: any(one.stage == "remux" and one.done for one in of(site, title)), seconds=60)
        process.send_signal(signal.SIGSTOP)
        try:
            won = winner.run(film)
        finally:
            process.send_signal(signal.SIGCONT)
        lost = end_of(process)
    assert won.code == 0, won.stderr
    assert lost.code == 1 and lost.failure["type"] == "superseded", lost.stdout + lost.stderr
    assert Path(won.document["output"]["path"]).read_bytes() == straight.media("transcoded")
    folders.look()
    assert len(folders.seen) == 1
    assert {one.state for one in of(site, title)} == {AttemptState.COMPLETED, AttemptState.SUPERSEDED}


def of(site: Site, title: str) -> list[Attempt]:
    return [one for one in attempts_of(site) if one.title.endswith(title) and one.deployment is None]

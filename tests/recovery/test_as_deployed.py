"""With a site of its own, as it is deployed: after a reboot, and on the schedule of recovery itself."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import wait_until
from tests.support.disaster import (
    DETACHED,
    MIB,
    Folders,
    Fresh,
    Undisturbed,
    is_slow_now,
    recover_here,
    slow_once,
    triggered,
    went_on_well,
    without_automation,
)
from tests.support.leaks import end_children
from tests.support.origin import Origin, Resource
from tests.support.site import started_site
from tidegate.durable.owner import INITIAL_NAMESPACE, this_process

INTERVAL_SECONDS = 120.0
LEASE_SECONDS = 300.0
GRACE_SECONDS = 30.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.skipif(
    this_process().namespace not in (INITIAL_NAMESPACE, 0),
    reason="in a container a new boot proves nothing: runs go on when their leases have ended",
)
def test_after_a_reboot_all_runs_go_on_within_one_recover(fresh: Fresh, straight: Undisturbed, tmp_path: Path) -> None:
    with started_site(tmp_path, {"TIDEGATE_BOOT_ID": "before"}) as site:
        tool = slow_once(tmp_path / "tool", DETACHED)
        with Origin({"film.mp4": Resource(fresh("bulky"), story="throttle 1M, ok")}) as origin:
            downloading = triggered(site, "downloading", origin.url("film.mp4"))
            in_ffmpeg = triggered(site, "ffmpeg", str(fresh("transcoded")), {"TIDEGATE_TOOLS_FFMPEG": str(tool)})
            with Folders(downloading.output).watched() as here, Folders(in_ffmpeg.output).watched() as there:
                wait_until(lambda: is_slow_now(tool) and origin.bytes_sent("film.mp4") >= 3 * MIB, seconds=60)
                site.kill_worker(signal.SIGKILL)
                site.kill_server(signal.SIGKILL)
                end_children(site.mark)
                site.environment["TIDEGATE_BOOT_ID"] = "after"
                site.start_server()
                site.start_worker()
                told = recover_here(site)
                assert {downloading.id, in_ffmpeg.id} <= told.keys()
                downloading.wait("COMPLETED")
                in_ffmpeg.wait("COMPLETED")
                went_on_well(downloading, here, straight.media("bulky"), attempts=2)
                went_on_well(in_ffmpeg, there, straight.media("transcoded"), attempts=2)


def test_a_lost_run_is_back_at_work_as_soon_as_promised(
    fresh: Fresh, straight: Undisturbed, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Nothing is set for the test: the interval, the lease and the pause are those of a deployment."""
    with started_site(tmp_path, schedules=True) as site:
        without_automation(site)
        runs = {
            "same host": triggered(site, "here", str(fresh("transcoded")), slowly(tmp_path / "here")),
            "other host": triggered(
                site, "there", str(fresh("transcoded")), slowly(tmp_path / "there") | {"TIDEGATE_HOST_ID": "elsewhere"}
            ),
        }
        promised = {"same host": 0.0, "other host": LEASE_SECONDS}
        with Folders(runs["same host"].output).watched() as here, Folders(runs["other host"].output).watched() as there:
            wait_until(lambda: all(is_slow_now(tmp_path / one / "tool") for one in ("here", "there")), seconds=90)
            killed_at = {}
            for name, run in runs.items():
                run.kill()
                killed_at[name] = time.time()
            for name, run in runs.items():
                limit = promised[name] + INTERVAL_SECONDS + GRACE_SECONDS
                wait_until(lambda run=run: len(run.attempts()) == 2, seconds=limit + 30)  # type: ignore[misc]
                seconds = run.attempts()[1].created_at - killed_at[name]
                record_property(name, f"{seconds:.1f} s")
                print(f"{name}: back at work {seconds:.1f} s after the kill")
                assert seconds <= limit
            for run, folders in zip(runs.values(), (here, there), strict=True):
                run.wait("COMPLETED")
                went_on_well(run, folders, straight.media("transcoded"), attempts=2)


def slowly(folder: Path) -> dict[str, str]:
    return {"TIDEGATE_TOOLS_FFMPEG": str(slow_once(folder))}

"""Behind the guard and its password, nothing of what Prefect's clients tell is lost: events, logs, heartbeats, states.

They go over WebSockets, whose clients say nothing when they are refused: a run would look well and nobody would know.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import access
from flows.site import AUTOMATION, POOL
from tests.support.clips import clip
from tests.support.command import wait_until
from tests.support.origin import Origin, Resource
from tests.support.ports import taken_by_a_stranger
from tests.support.site import Site, asked, started_site

STAGES = {"probe", "download", "analyze", "remux", "publish"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with started_site(tmp_path_factory.mktemp("events")) as site:
        yield site


@contextlib.contextmanager
def streamed(site: Site, into: Path, **environment: str) -> Iterator[None]:
    """`prefect events stream`, as a person has it."""
    words = [sys.executable, "-u", "-m", "prefect", "events", "stream", "--format", "json"]
    with into.open("wb") as output:
        process = subprocess.Popen(words, env={**site.env(), **environment}, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def task_states(site: Site, run: str) -> dict[str, str]:
    """What the server has of a run's tasks, which it knows from events alone."""
    tasks = site.post("task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    return {task["name"].partition("-")[0]: (task["state"] or {}).get("type", "") for task in tasks}


def names_of_events(site: Site, run: str) -> set[str]:
    told = site.post("events/filter", {"filter": {"any_resource": {"id": [f"prefect.flow-run.{run}"]}}, "limit": 50})
    return {event["event"] for event in told["events"]}


def assert_everything_is_known(site: Site, run: str) -> None:
    wait_until(
        lambda: task_states(site, run) == dict.fromkeys(STAGES, "COMPLETED"),
        seconds=60,
        what=f"for the tasks of {run}",
    )
    wanted = {"prefect.flow-run.Running", "prefect.flow-run.Completed"}
    wait_until(lambda: wanted <= names_of_events(site, run), seconds=60, what="for the run's own events")
    said = [line["message"] for line in site.post("logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}})]
    assert [line for line in said if "probe: started" in line]


def test_a_deployed_run_and_one_by_hand_tell_the_server_everything(site: Site, clips: Path) -> None:
    deployed = site.trigger("ingest", {"source": {"url": str(clip(clips))}, "output_dir": str(site.output)})
    assert site.wait(deployed)["type"] == "COMPLETED"
    ended = site.command().run(str(clip(clips)), "--refresh")
    assert ended.code == 0, ended.stderr
    by_hand = {run["id"] for run in site.runs("ingest")} - {deployed}
    assert len(by_hand) == 1
    for run in (deployed, *by_hand):
        assert_everything_is_known(site, run)
    [worker] = site.post(f"work_pools/{POOL}/workers/filter")
    assert worker["status"] == "ONLINE"


def test_events_are_streamed_to_who_says_the_password_and_to_nobody_else(site: Site, tmp_path: Path) -> None:
    heard, nothing = tmp_path / "heard", tmp_path / "nothing"
    with streamed(site, heard), streamed(site, nothing, PREFECT_API_AUTH_STRING="tidegate:guess"):
        for one in (heard, nothing):
            wait_until(lambda one=one: one.read_text(), seconds=60, what="for the stream")
        # What was told before it listened it does not hear: one event after the other, until one comes.
        flow = site.post("flows/", {"name": "streamed"})["id"]

        def is_heard() -> bool:
            site.post("flow_runs/", {"flow_id": flow, "state": {"type": "COMPLETED"}})
            time.sleep(0.5)
            return "prefect.flow-run.Completed" in heard.read_text()

        wait_until(is_heard, seconds=60, what="for an event")
    assert "prefect.flow-run" not in nothing.read_text()


@pytest.mark.slow
def test_the_automation_sees_heartbeats_and_may_set_a_state(site: Site, clips: Path) -> None:
    """Its action is a request of the server to itself, which wants the password too."""
    [automation] = site.post("automations/filter")
    assert automation["name"] == AUTOMATION
    kept = ("name", "description", "enabled", "trigger", "actions", "actions_on_trigger", "actions_on_resolve")
    sooner = {name: automation[name] for name in kept} | {"trigger": {**automation["trigger"], "within": 40.0}}
    address = f"{site.api_url}/automations/{automation['id']}"
    asked("PUT", address, access.login_of(site.tidegate), json=sooner)
    before = {run["id"] for run in site.runs("ingest")}
    story = "always: ok late-headers 3600s"
    with (
        Origin({"film.mp4": Resource(clip(clips), story=story)}) as origin,
        site.command().started(origin.url("film.mp4")) as process,
    ):
        wait_until(lambda: {one["id"] for one in site.runs("ingest")} - before, seconds=60, what="for the run")
        [run] = {one["id"] for one in site.runs("ingest")} - before
        beat = "prefect.flow-run.heartbeat"
        wait_until(lambda: beat in names_of_events(site, run), seconds=60, what="for its heartbeat")
        process.send_signal(signal.SIGKILL)
        assert site.wait(run, {"CRASHED"}, seconds=120)["message"].startswith("No heartbeat")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
@pytest.mark.slow
def test_a_run_that_outlives_its_server_says_the_password_to_nobody_else(site: Site, clips: Path) -> None:
    """Another user waits for the port; the server comes back to it, and the run has lost nothing."""
    resources = {"film.mp4": Resource(clip(clips), story="throttle 40K, ok")}
    with Origin(resources) as origin:
        parameters = {"source": {"url": origin.url("film.mp4")}, "output_dir": str(site.output), "refresh": True}
        run = site.trigger("ingest", parameters)
        wait_until(lambda: task_states(site, run), seconds=60, what="for the run to begin")
        site.kill_server()
        try:
            assert taken_by_a_stranger(site.port) == "Address already in use"
        finally:
            site.start_server()
        assert site.wait(run)["type"] == "COMPLETED"

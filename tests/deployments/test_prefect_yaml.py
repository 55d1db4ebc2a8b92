"""prefect.yaml means what it says: Prefect ignores unknown keys in silence, so our lint does not."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect.cli.deploy._schedules import _schedule_config_to_deployment_schedule

from deployments import project, register
from flows import safety
from flows.site import UPKEEP_INTERVALS
from tidegate.durable.home import Home

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def ours() -> dict[str, Any]:
    return project.load(project.place())


def named(told: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [deployment for deployment in told["deployments"] if deployment["name"] == name]
    return dict(found)


def test_prefect_reads_and_accepts_all_of_it(ours: dict[str, Any]) -> None:
    assert project.complaints(ours) == []


MISTAKES: dict[str, tuple[Change, str]] = {
    "a misspelt key of the file": (lambda told: told.update(deployment=[]), "deployment: Prefect does not know"),
    "a misspelt key of a deployment": (
        lambda told: told["deployments"][0].update(concurency_limit=1),
        "deployments.concurency_limit: Prefect does not know",
    ),
    "a misspelt key of a limit": (
        lambda told: told["deployments"][0]["concurrency_limit"].update(colision_strategy="ENQUEUE"),
        "deployments.concurrency_limit.colision_strategy: Prefect does not know",
    ),
    "a strategy that is none": (
        lambda told: told["deployments"][0]["concurrency_limit"].update(collision_strategy="QUEUE"),
        "QUEUE is none of",
    ),
    "a key of a schedule that only the API knows": (
        lambda told: told["deployments"][2]["schedules"][0].update(max_scheduled_runs=1),
        "deployments.schedules.max_scheduled_runs: Prefect does not know",
    ),
    "a schedule that is none": (
        lambda told: told["deployments"][2]["schedules"][0].update(cron="99 * * * *"),
        "Invalid cron string",
    ),
    "a parameter that the flow does not take": (
        lambda told: told["deployments"][2].update(parameters={"dryrun": True}),
        "recover has no dryrun",
    ),
    "an entrypoint that is not there": (
        lambda told: told["deployments"][0].update(entrypoint="flows.ingest.ingst"),
        "has no attribute 'ingst'",
    ),
    "an entrypoint that is no flow": (
        lambda told: told["deployments"][0].update(entrypoint="flows.ingest.failure_before_start"),
        "is no flow",
    ),
    "a pool of another name": (
        lambda told: told["deployments"][0]["work_pool"].update(name="tidegat"),
        "tidegat is none of",
    ),
    "a job variable that the worker does not know": (
        lambda told: told["deployments"][0]["work_pool"].update(job_variables={"stream_ouput": False}),
        "does not know stream_ouput",
    ),
    "a value of the wrong type": (
        lambda told: told["deployments"][0]["concurrency_limit"].update(limit="many"),
        "valid integer",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_lint_finds(mistake: str, ours: dict[str, Any]) -> None:
    change, complaint = MISTAKES[mistake]
    wrong = copy.deepcopy(ours)
    change(wrong)
    assert any(complaint in found for found in project.complaints(wrong)), project.complaints(wrong)


def test_runs_get_the_settings_that_make_them_safe(ours: dict[str, Any]) -> None:
    expected = {setting.name: setting.value for setting in safety.for_reader("run")}
    for deployment in ours["deployments"]:
        told = deployment["work_pool"]["job_variables"]["env"]
        assert told == told | expected, deployment["name"]
        assert set(told) - set(expected) <= {"PREFECT_HOME", "TIDEGATE_HOME", "TIDEGATE_OUTPUT", "HOME", "USER"}


def test_containers_have_no_rights_and_not_the_hosts_network(ours: dict[str, Any]) -> None:
    told = named(ours, "ingest-docker")["work_pool"]["job_variables"]
    rights = told["container_create_kwargs"]
    assert told["network_mode"] == "bridge"  # unsaid, Prefect takes the host's for a server on loopback
    assert not told.get("privileged", False)
    assert (rights["cap_drop"], rights["read_only"], rights["security_opt"]) == (
        ["ALL"],
        True,
        ["no-new-privileges:true"],
    )
    assert rights["pids_limit"] and rights["user"]


def test_what_prefect_yaml_asks_about_containers_is_said(ours: dict[str, Any], tmp_path: Path) -> None:
    asked = set(re.findall(r"{{ \$(\w+) }}", str(named(ours, "ingest-docker"))))
    for api_url in ("http://127.0.0.1:4200/api", "https://prefect.example.org/api"):
        assert set(register.containers(Home(tmp_path / "tidegate"), api_url)) == asked
    near = register.containers(Home(tmp_path / "tidegate"), "http://127.0.0.1:4200/api")
    assert near["TIDEGATE_CONTAINER_HOME"] == str(tmp_path / "tidegate")
    assert near["TIDEGATE_CONTAINER_OUTPUT"] == str(tmp_path / "tidegate-output")


def test_runs_of_a_process_worker_do_not_write_into_its_pipe(ours: dict[str, Any]) -> None:
    for deployment in ours["deployments"]:
        if deployment["work_pool"]["name"] == "tidegate":
            assert deployment["work_pool"]["job_variables"]["stream_output"] is False


def test_no_run_begins_by_copying_a_folder_and_no_deployment_names_a_folder_of_ours(ours: dict[str, Any]) -> None:
    """Prefect makes a step of its own of `null`, and copies the working folder where there is no step."""
    [step] = ours["pull"]
    assert step == {"prefect.deployments.steps.set_working_directory": {"directory": "."}}
    assert not any({"build", "push", "pull"} & set(deployment) for deployment in ours["deployments"])


def test_what_doctor_waits_for_is_what_is_scheduled(ours: dict[str, Any]) -> None:
    scheduled = {deployment["name"] for deployment in ours["deployments"] if deployment.get("schedules")}
    assert scheduled == set(UPKEEP_INTERVALS)


@pytest.mark.parametrize("name", UPKEEP_INTERVALS)
def test_upkeep_runs_on_time_never_twice_at_once_and_does_not_pile_up(name: str, ours: dict[str, Any]) -> None:
    deployment = named(ours, name)
    [schedule] = [_schedule_config_to_deployment_schedule(one)["schedule"] for one in deployment["schedules"]]
    minutes = round(UPKEEP_INTERVALS[name].total_seconds() / 60)
    assert schedule.cron == f"*/{minutes} * * * *"
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}


@pytest.mark.parametrize("name", ["ingest", "batch", "ingest-docker"])
def test_a_source_beyond_the_limit_waits_for_its_turn(name: str, ours: dict[str, Any]) -> None:
    assert named(ours, name)["concurrency_limit"]["collision_strategy"] == "ENQUEUE"

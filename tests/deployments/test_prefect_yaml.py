"""prefect.yaml means what it says: Prefect ignores unknown keys in silence, so this test does not."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow

ROOT = Path(__file__).resolve().parents[2]
TOP = {"name", "prefect-version", "build", "push", "pull", "deployments"}
DEPLOYMENT = {"name", "description", "entrypoint", "tags", "parameters", "work_pool", "schedules", "concurrency_limit"}
WORK_POOL = {"name", "work_queue_name", "job_variables"}


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    return content


def test_every_key_is_one_that_prefect_reads(told: dict[str, Any]) -> None:
    assert set(told) <= TOP
    for deployment in told["deployments"]:
        assert set(deployment) <= DEPLOYMENT, deployment["name"]
        assert set(deployment["work_pool"]) <= WORK_POOL, deployment["name"]


def test_every_entrypoint_is_a_flow_that_takes_the_parameters(told: dict[str, Any]) -> None:
    for deployment in told["deployments"]:
        module, _, name = deployment["entrypoint"].rpartition(".")
        found = getattr(importlib.import_module(module), name)
        assert isinstance(found, Flow)
        assert set(deployment["parameters"]) <= set(found.parameters.properties)

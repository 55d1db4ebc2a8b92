"""docs/deploy.md says what prefect.yaml and flows/safety.py say."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments import project
from flows.safety import HEARTBEAT_SECONDS, HEARTBEATS_MISSED, SETTINGS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, ...]]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [tuple(cell.strip().strip("`") for cell in line.strip("|").split("|")) for line in lines]


def test_the_table_of_settings_is_the_one_in_force(rows: list[tuple[str, ...]]) -> None:
    told = [row for row in rows if row[0].startswith("PREFECT_")]
    assert told == [(one.name, one.value, ", ".join(one.readers), one.why) for one in SETTINGS]


def test_every_deployment_is_told_with_its_pool_and_its_limit(rows: list[tuple[str, ...]]) -> None:
    told = {row[0].partition("/")[2]: (row[1], int(row[3])) for row in rows if "/" in row[0] and len(row) == 5}
    deployments = project.load(project.place())["deployments"]
    assert told == {one["name"]: (one["work_pool"]["name"], one["concurrency_limit"]["limit"]) for one in deployments}


def test_the_time_without_heartbeat_is_the_one_in_force() -> None:
    assert f"for {HEARTBEAT_SECONDS * HEARTBEATS_MISSED} s → Crashed" in " ".join(PAGE.read_text().split())

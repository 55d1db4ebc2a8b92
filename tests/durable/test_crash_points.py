"""Crash points cost nothing, tell where a process is, and kill it exactly where and as often as asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import timeit
from pathlib import Path

import pytest

from tests.support.command import ROOT
from tidegate.durable.crash_points import crash_point

STORY = """
import os, subprocess, sys
from tidegate.durable.crash_points import crash_point
crash_point("begun")
for name in ("film.mp4", "film-0a1b2c3d.mp4", "b" * 64):
    crash_point("write {}: synced", name)
if len(sys.argv) > 1:
    subprocess.run([sys.executable, *sys.argv[1:]], check=True)
crash_point("begun")
crash_point("done")
"""


def ran(*words: str, **environment: str) -> int:
    """The exit code of a process that goes through its points."""
    told = {f"TIDEGATE_CRASH_{name}": value for name, value in environment.items()}
    argv = [sys.executable, "-c", STORY, *words]
    return subprocess.run(argv, env={**os.environ, "PYTHONPATH": str(ROOT), **told}, timeout=60).returncode


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "points.log"


def test_every_point_is_logged_in_its_order_and_without_what_is_random_in_it(log: Path) -> None:
    assert ran(LOG=str(log)) == 0
    assert log.read_text().splitlines() == [
        "begun", "write film.mp4: synced", "write film-*.mp4: synced", "write *: synced", "begun", "done",
    ]  # fmt: skip


def test_processes_share_a_log(log: Path) -> None:
    child = "from tidegate.durable.crash_points import crash_point; crash_point('in the child')"
    assert ran("-c", child, LOG=str(log)) == 0
    assert log.read_text().splitlines()[4:6] == ["in the child", "begun"]


@pytest.mark.parametrize(
    ("at", "reached_then"),
    [
        ("begun", ["begun"]),
        ("begun#2", ["begun", "write film.mp4: synced", "write film-*.mp4: synced", "write *: synced", "begun"]),
        ("write film-*.mp4: synced", ["begun", "write film.mp4: synced", "write film-*.mp4: synced"]),
    ],
)
def test_a_process_is_killed_where_it_was_asked(at: str, reached_then: list[str], log: Path) -> None:
    assert ran(LOG=str(log), AT=at) == -signal.SIGKILL
    assert log.read_text().splitlines() == reached_then


@pytest.mark.parametrize("at", ["nowhere", "begun#3", "begun#0", ""])
def test_a_point_that_is_never_reached_kills_nobody(at: str, log: Path) -> None:
    assert ran(LOG=str(log), AT=at) == 0


def test_with_a_marker_only_the_first_process_dies(tmp_path: Path) -> None:
    marker = str(tmp_path / "killed")
    assert ran(AT="begun", ONCE=marker) == -signal.SIGKILL
    assert ran(AT="begun", ONCE=marker) == 0


def test_without_being_asked_nothing_happens_and_it_costs_next_to_nothing() -> None:
    times = 100_000
    seconds = timeit.timeit(lambda: crash_point("write {}: synced", "film.mp4"), number=times)
    assert seconds / times < 20e-6

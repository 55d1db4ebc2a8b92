"""`python -m flows.runs` says what is true: of a command that was killed, the ledger's own row does not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.aftermath import wait_in
from tests.support.clips import bulk_clip
from tests.support.command import Command, wait_until
from tests.support.origin import Origin, Resource

MIB = 1024 * 1024


def listed(command: Command, *words: str) -> str:
    argv = [sys.executable, "-m", "flows.runs", *words]
    environment = {**command.env(), "COLUMNS": "40"}
    done = subprocess.run(argv, env=environment, cwd=command.home, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def only(command: Command) -> dict[str, Any]:
    [told] = json.loads(listed(command, "--json"))
    return dict(told)


def killed(command: Command, film: Path) -> dict[str, Any]:
    """A run that was killed in its download, and how it was listed before."""
    with (
        Origin({"film.mp4": Resource(film, story="throttle 2M")}) as origin,
        command.started(origin.url("film.mp4")) as process,
    ):
        wait_in(process, lambda: origin.bytes_sent("film.mp4") >= 3 * MIB)
        before = only(command)
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    return before


def test_a_killed_command_is_listed_as_cut_short_with_what_takes_it_up(command: Command, clips: Path) -> None:
    before = killed(command, bulk_clip(clips, 20 * MIB))
    assert (before["condition"], before["cure"]) == ("running", None)
    told = only(command)
    assert told["state"] == "running", "as the ledger has it"
    assert told["condition"] == "cut short"
    assert told["cure"] == f"python -m flows.run --resume {told['id']}"
    first, *facts = listed(command).splitlines()
    assert first.endswith("  cut short in download: film.mp4")
    assert [line.split(maxsplit=1) for line in facts] == [
        ["id", told["id"]],
        ["to", f"do     to resume it: {told['cure']}"],
    ]


def test_a_failed_run_is_listed_with_its_file_its_whole_id_the_reason_and_its_report(command: Command) -> None:
    with Origin({f"{'long-' * 20}name.mp4": Resource(b"", story="always: html")}) as origin:
        ended = command.run(origin.url(f"{'long-' * 20}name.mp4"))
    first, *facts = listed(command).splitlines()
    assert first.endswith(f"  failed in probe: {'long-' * 20}name.mp4")
    assert [line.split(maxsplit=1) for line in facts] == [
        ["id", only(command)["id"]],
        ["reason", "not_media: There is no media at this link."],
        ["report", ended.document["report"]["html"]],
    ]


@pytest.mark.slow
def test_of_a_run_elsewhere_only_its_lease_can_tell(command: Command, clips: Path) -> None:
    """Its host may live and only be cut off: until its lease has ended, it is not said to be lost."""
    command.environment |= {"TIDEGATE_HOST_ID": "elsewhere", "TIDEGATE_LEDGER_RENEW_EVERY": "2"}
    command.environment |= {"TIDEGATE_LEDGER_LEASE": "25"}
    killed(command, bulk_clip(clips, 20 * MIB))
    del command.environment["TIDEGATE_HOST_ID"]
    wait_until(lambda: only(command)["condition"] != "running", seconds=30)
    told = only(command)
    assert (told["condition"], told["cure"]) == ("silent", None) and told["silent_seconds"] > 6
    assert "running, silent for " in listed(command)
    wait_until(lambda: only(command)["condition"] != "silent", seconds=60)
    assert only(command)["condition"] == "lost contact"
    shown = listed(command)
    assert "lost contact " in shown and " ago" in shown and f"--resume {told['id']}" in shown

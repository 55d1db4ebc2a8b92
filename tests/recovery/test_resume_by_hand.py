"""Runs by hand that were killed: the next command goes on from their checkpoint, with what was secret in them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.aftermath import secret_files
from tests.support.command import Command, wait_until
from tests.support.disaster import MIB, Folders, Fresh, Undisturbed, attempts_of, recover_here
from tests.support.origin import Origin, Resource
from tests.support.site import Site
from tidegate.durable.ledger import Attempt, AttemptState

"""Far less than a lease: nobody waits for one to end on the host whose process is gone."""
HEADER = "Authorization: Bearer hunter2-hunter2"


def killed_in_download(command: Command, origin: Origin, *words: str) -> None:
    with command.started(origin.url("film.mp4"), *words) as process:
        wait_until(lambda: origin.bytes_sent("film.mp4") >= 3 * MIB, seconds=60)
        process.send_signal(signal.SIGKILL)
        process.wait()


def attempts(site: Site, origin: Origin) -> list[Attempt]:
    return [one for one in attempts_of(site) if one.title == origin.url("film.mp4")]


def listed(command: Command) -> str:
    argv = [sys.executable, "-m", "flows.runs"]
    done = subprocess.run(argv, env=command.env(), cwd=command.home, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_killed_command_is_marked_crashed_and_resumed_with_its_secret_header(
    site: Site, fresh: Fresh, straight: Undisturbed, tmp_path: Path
) -> None:
    command = site.command()
    command.output = tmp_path / "out"
    film = Resource(fresh("bulky"), story="throttle 1M, ok")
    with Origin({"film.mp4": film}) as origin, Folders(command.output).watched() as folders:
        killed_in_download(command, origin, "--header", HEADER)
        [first] = attempts(site, origin)
        assert first.flow_run is not None

        told = recover_here(site)[first.flow_run]
        assert told.do.name == "MARK_CRASHED"
        assert site.state(first.flow_run)["type"] == "CRASHED"
        assert attempts(site, origin)[0].state is AttemptState.ABANDONED
        assert first.flow_run not in recover_here(site), "once is enough"
        assert f"--resume {first.id}" in listed(command)
        assert "hunter2" not in listed(command)

        command.output = tmp_path / "elsewhere"  # what the first one asked for counts
        resumed = command.run("--resume")
        assert resumed.code == 0, resumed.stderr
        size = film.content.stat().st_size  # type: ignore[union-attr]
        received = resumed.document["download"]
        assert received["bytes_reused"] >= MIB and received["bytes_received"] + received["bytes_reused"] == size
        for request in origin.requests_for("film.mp4"):
            assert "authorization" in {name.lower() for name in request.headers}
        assert Path(resumed.document["output"]["path"]).read_bytes() == straight.media("bulky")
        assert Path(resumed.document["output"]["path"]).parent.parent == tmp_path / "out"
        folders.look()
        assert len(folders.seen) == 1 and not (tmp_path / "elsewhere").exists()
        assert [one.state for one in attempts(site, origin)] == [AttemptState.ABANDONED, AttemptState.COMPLETED]
        assert f"--resume {first.id}" not in listed(command)
    assert secret_files(command) == []


def test_the_next_command_of_the_same_source_takes_over_at_once(
    site: Site, fresh: Fresh, straight: Undisturbed, tmp_path: Path
) -> None:
    command = site.command()
    command.output = tmp_path / "out"
    with Origin({"film.mp4": Resource(fresh("bulky"), story="throttle 1M, ok")}) as origin:
        killed_in_download(command, origin)
        again = command.run(origin.url("film.mp4"))
        first, second = attempts(site, origin)
    assert again.code == 0, again.stderr
    assert again.document["download"]["bytes_reused"] >= MIB
    assert Path(again.document["output"]["path"]).read_bytes() == straight.media("bulky")
    assert second.state is AttemptState.COMPLETED and second.epoch > first.epoch
    assert first.flow_run is not None
    recover_here(site)
    [left] = [one for one in attempts(site, origin) if one.id == first.id]
    assert left.state is AttemptState.ABANDONED
    assert site.state(first.flow_run)["type"] == "CRASHED"
    assert f"--resume {first.id}" not in listed(command), "somebody has done it since"


def test_nothing_to_resume_is_a_usage_error(site: Site, tmp_path: Path) -> None:
    command = site.command()
    command.environment["TIDEGATE_HOME"] = str(tmp_path / "home")
    for words in ([], ["0000"]):
        ended = command.run("--resume", *words)
        assert ended.code == 2, ended.stderr
        assert "resume" in ended.stderr or "no run 0000" in ended.stderr
        assert json.loads(ended.stdout)["failure"]["type"] == "bad_input"

"""A run that somebody stopped reads so in its log: nothing of a crash, and no error; what has crashed still says so."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.aftermath import wait_in, witness, works
from tests.support.clips import clip
from tests.support.command import Command
from tidegate.durable.home import Home
from tidegate.durable.ledger import Ledger
from tidegate.settings import LedgerSettings

ERROR = 40


def logged(command: Command) -> list[dict[str, Any]]:
    """What the server has of the log of the command's run."""
    with closing(Ledger.open(LedgerSettings(), Home(command.home / "tidegate"))) as ledger:
        [attempt] = ledger.recent(3600)
    asked = {"logs": {"flow_run_id": {"any_": [attempt.flow_run]}}, "sort": "TIMESTAMP_ASC"}
    return list(httpx.post(f"{command.environment['PREFECT_API_URL']}/logs/filter", json=asked).json())


@contextmanager
def in_ffmpeg(command: Command, clips: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A run by hand whose ffmpeg is at work."""
    tool = witness(folder, options="-re")
    command.environment["TIDEGATE_TOOLS_FFMPEG"] = str(tool)
    with command.started("--verbose", str(clip(clips, "h264_10bit_mp4", seconds=30))) as process:
        wait_in(process, lambda: len(works(tool)) == 1)
        time.sleep(1)
        yield process


@pytest.mark.parametrize(
    ("numbers", "code"),
    [((signal.SIGINT,), 130), ((signal.SIGTERM,), 143), ((signal.SIGHUP,), 129), ((signal.SIGINT,) * 2, 130)],
    ids=["Ctrl-C", "SIGTERM", "SIGHUP", "Ctrl-C twice"],
)
def test_a_stopped_run_says_that_it_was_stopped(
    numbers: tuple[signal.Signals, ...], code: int, command: Command, clips: Path, tmp_path: Path
) -> None:
    with in_ffmpeg(command, clips, tmp_path) as process:
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.2)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    told = logged(command)
    assert [one["message"] for one in told if one["level"] >= ERROR] == []
    everything = "\n".join(one["message"] for one in told) + said
    assert "Crash detected" not in everything and "Finished in state Running" not in everything
    assert "Traceback" not in everything
    if len(numbers) == 1:  # who is impatient gets what there was time for
        assert [one["level"] for one in told if one["message"].startswith("Stopped before its end")] != []


class Boom(BaseException):
    """Something that no flow catches."""


def test_a_crash_is_still_called_one(attached: None, prefect_server: str) -> None:
    from prefect import flow, task

    from tasks.observe import run_observer

    seen: list[str] = []

    @task
    async def explode() -> None:
        raise Boom("it broke")

    @flow
    async def crashing() -> None:
        from prefect.runtime import flow_run

        seen.append(str(flow_run.id))
        run_observer()
        await explode()

    with pytest.raises(Boom):
        asyncio.run(crashing())
    asked = {"logs": {"flow_run_id": {"any_": seen}}}
    until = time.monotonic() + 20
    while time.monotonic() < until:
        told = httpx.post(f"{prefect_server}/logs/filter", json=asked).json()
        crashes = [one for one in told if one["message"].startswith("Crash detected! ")]
        if len(crashes) >= 2:
            break
        time.sleep(0.2)
    assert len(crashes) >= 2 and all(one["level"] == ERROR and "it broke" in one["message"] for one in crashes)

"""A stopped ffmpeg is noticed by the clock, ended with its whole group, and reported as a stall, never as bad media."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from tests.support.aftermath import (
    end_of,
    failure_told,
    marked_processes,
    nothing_left_but_evidence,
    wait_in,
    witness,
    works,
)
from tests.support.clips import clip
from tests.support.command import QUICK, Command, wait_until

STALL_SECONDS = float(QUICK["TIDEGATE_PROCESS_STALL_TIMEOUT"])
TICK_SECONDS = float(QUICK["TIDEGATE_PROCESS_TICK"])
SLACK_SECONDS = 2.0
"""For a busy machine: the watch's own turn to run, and the way of the signals."""


@pytest.mark.slow
def test_a_stopped_ffmpeg_is_ended_within_the_stall_timeout_and_climbs_no_ladder(
    command: Command, clips: Path, tmp_path: Path
) -> None:
    # A child that shares the group and holds the pipes: ending ffmpeg alone would leave it, and the run would hang.
    ffmpeg = witness(tmp_path, before="sleep 300 &", options="-re")
    command.environment["TIDEGATE_TOOLS_FFMPEG"] = str(ffmpeg)
    with command.started(str(clip(clips, "h264_10bit_mp4", seconds=60))) as process:
        wait_in(process, lambda: growing(command))
        stopped = the_ffmpeg(command)
        group = [one for one in marked_processes(command) if one.cmdline()[:1] == ["sleep"]]
        assert len(group) == 1
        stopped.suspend()
        began = time.monotonic()
        wait_until(lambda: not alive(stopped), seconds=30, what="for the stall to be noticed")
        noticed_after = time.monotonic() - began
        wait_until(lambda: not alive(group[0]), seconds=3, what="for the rest of its group to be gone")
        ended = end_of(process)

    # The clock runs from the last progress, which lies at most one report and one look before the stop.
    assert STALL_SECONDS - 2 * TICK_SECONDS <= noticed_after <= STALL_SECONDS + TICK_SECONDS + SLACK_SECONDS
    failure = failure_told(ended, code=1, kind="stalled_process")
    assert (failure["category"], failure["stage"]) == ("process_timeout", "remux")
    assert failure["retryable"] and "no progress" in failure["message"]
    assert len(works(ffmpeg)) == 1, "a stall says nothing about the media, so no other strategy was tried"
    nothing_left_but_evidence(command)


def growing(command: Command) -> bool:
    """Whether the transcode has written a part of its output."""
    return any(path.stat().st_size for path in (command.home / "tidegate" / "scratch").rglob("*.partial"))


def the_ffmpeg(command: Command) -> psutil.Process:
    (found,) = (one for one in marked_processes(command) if "-progress" in one.cmdline())
    return found


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

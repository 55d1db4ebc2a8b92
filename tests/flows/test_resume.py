"""A run that is stopped at any point leaves what the next one goes on from: by SIGKILL, by Ctrl-C, by SIGTERM."""

from __future__ import annotations

import signal
import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.aftermath import (
    end_of,
    left_running,
    made_now,
    secret_files,
    unfinished_files,
    wait_in,
    witness,
    works,
)
from tests.support.clips import bulk_clip, clip
from tests.support.command import Command, Ended
from tests.support.origin import Origin, Resource

MIB = 1024 * 1024
FILM_BYTES = 40 * MIB
SLOW = "throttle 2M"
"""The peek takes no step. A checkpoint comes every second, so a kill costs about 2 MiB of the 40."""

CTRL_C, SIGTERM = (signal.SIGINT, 130), (signal.SIGTERM, 143)
POLITE_CTRL_C = [
    pytest.param(*CTRL_C, id="Ctrl-C"),
    pytest.param(*SIGTERM, id="SIGTERM", marks=pytest.mark.slow),
]
POLITE_SIGTERM = [
    pytest.param(*CTRL_C, id="Ctrl-C", marks=pytest.mark.slow),
    pytest.param(*SIGTERM, id="SIGTERM"),
]
"""Each of the two stops something in every run of the tests, both stop everything in the long sweeps."""


def stop(process: subprocess.Popen[str], number: signal.Signals) -> Ended:
    process.send_signal(number)
    return end_of(process)


def stopped_in_download(command: Command, origin: Origin, number: signal.Signals) -> Ended:
    """Stop a run once 7 MiB of its film have come."""
    with command.started(origin.url("film.mp4")) as process:
        wait_in(process, lambda: origin.bytes_sent("film.mp4") >= 7 * MIB)
        stopped = stop(process, number)
    origin.tell("film.mp4", "ok")
    return stopped


def stopped_in_ffmpeg(command: Command, ffmpeg: Path, source: str, number: signal.Signals) -> Ended:
    """Stop a run once its ffmpeg is at work on the film and has written something."""
    scratch = command.home / "tidegate" / "scratch"
    command.environment["TIDEGATE_TOOLS_FFMPEG"] = str(ffmpeg)
    with command.started(source) as process:
        wait_in(process, lambda: len(works(ffmpeg)) == 1)
        wait_in(process, lambda: any(path.stat().st_size for path in scratch.rglob("*.partial")))
        return stop(process, number)


@pytest.mark.first
def test_a_killed_download_goes_on_and_gives_the_same_file(command: Command, clips: Path, tmp_path: Path) -> None:
    film = bulk_clip(clips, FILM_BYTES)
    with Origin({"film.mp4": Resource(film, story=SLOW)}) as origin:
        assert stopped_in_download(command, origin, signal.SIGKILL).code == -signal.SIGKILL
        assert left_running(command) == []
        assert command.published() == []
        resumed = command.run(origin.url("film.mp4"))
        served = origin.bytes_sent("film.mp4")
    assert resumed.code == 0, resumed.stderr
    size = film.stat().st_size
    assert served <= 1.1 * size, f"{served / size:.3f} times the file"
    told = resumed.document["download"]
    assert told["bytes_reused"] >= 3 * MIB and told["bytes_received"] + told["bytes_reused"] == size
    assert Path(told["path"]).read_bytes() == film.read_bytes()

    undisturbed = replace(command, home=fresh_home(tmp_path), output=tmp_path / "other-out")
    with Origin({"film.mp4": film}) as origin:
        straight = undisturbed.run(origin.url("film.mp4"))
    assert straight.code == 0, straight.stderr
    assert video_of(resumed.document).read_bytes() == video_of(straight.document).read_bytes()
    assert left_running(command) == [] and unfinished_files(command) == []


@pytest.mark.parametrize(("number", "code"), POLITE_CTRL_C)
def test_a_stopped_download_says_how_to_go_on_and_does(
    number: signal.Signals, code: int, command: Command, clips: Path
) -> None:
    film = bulk_clip(clips, FILM_BYTES)
    with Origin({"film.mp4": Resource(film, story=SLOW)}) as origin:
        stopped = stopped_in_download(command, origin, number)
        interrupted(stopped, code, command)
        assert stopped.document["stages"]["probe"]["state"] == "completed"
        assert stopped.document["stages"]["download"]["state"] == "interrupted"
        resumed = command.run(origin.url("film.mp4"), "--until", "download")
        assert origin.bytes_sent("film.mp4") <= 1.1 * film.stat().st_size
    assert resumed.code == 0, resumed.stderr
    assert made_now(resumed) == ["download"]
    assert resumed.document["download"]["bytes_reused"] >= 3 * MIB
    assert Path(resumed.document["download"]["path"]).read_bytes() == film.read_bytes()


@pytest.mark.parametrize(("number", "code"), POLITE_SIGTERM)
@pytest.mark.slow
def test_a_stopped_ffmpeg_step_leaves_no_process_and_is_done_again(
    number: signal.Signals, code: int, command: Command, clips: Path, tmp_path: Path
) -> None:
    slow = witness(tmp_path, options="-re")
    with Origin({"film.mp4": clip(clips, "h264_10bit_mp4", seconds=30)}) as origin:
        stopped = stopped_in_ffmpeg(command, slow, origin.url("film.mp4"), number)
        interrupted(stopped, code, command)
        assert stopped.document["stages"]["remux"]["state"] == "interrupted"
        goes_on_after_ffmpeg(command, origin)


@pytest.mark.slow
def test_a_killed_run_takes_its_ffmpeg_along_and_the_next_one_does_that_step_again(
    command: Command, clips: Path, tmp_path: Path
) -> None:
    slow = witness(tmp_path, options="-re")
    with Origin({"film.mp4": clip(clips, "h264_10bit_mp4", seconds=30)}) as origin:
        stopped = stopped_in_ffmpeg(command, slow, origin.url("film.mp4"), signal.SIGKILL)
        assert stopped.code == -signal.SIGKILL
        assert left_running(command) == [], "the kernel ends the children of a killed run"
        assert command.published() == []
        goes_on_after_ffmpeg(command, origin)


def test_a_second_ctrl_c_does_not_wait_and_leaves_nothing_behind(command: Command, clips: Path, tmp_path: Path) -> None:
    deaf = witness(tmp_path, before="case \"$*\" in *' -i '*) trap '' TERM INT; sleep 300;; esac")
    command.environment |= {"TIDEGATE_TOOLS_FFMPEG": str(deaf), "TIDEGATE_PROCESS_END_GRACE": "60"}
    with command.started(str(clip(clips))) as process:
        wait_in(process, lambda: len(works(deaf)) == 1)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        stopped = stop(process, signal.SIGINT)
    interrupted(stopped, 130, command)


@pytest.mark.slow
def test_ctrl_c_ends_a_tool_that_hears_nothing_within_twelve_seconds(
    command: Command, clips: Path, tmp_path: Path
) -> None:
    """With the pause between TERM and KILL as it is by default; a child in a session of its own goes too."""
    away = "setsid sh -c \"trap '' TERM INT HUP; exec sleep 600\" >/dev/null 2>&1 &"
    deaf = witness(tmp_path, before=f"case \"$*\" in *' -i '*) {away} trap '' TERM INT; sleep 300;; esac")
    command.environment |= {"TIDEGATE_TOOLS_FFMPEG": str(deaf), "TIDEGATE_PROCESS_END_GRACE": "10"}
    command.environment |= {"TIDEGATE_PROCESS_STALL_TIMEOUT": "90"}
    with Origin({"film.mp4": clip(clips, "h264_10bit_mp4", seconds=2)}) as origin:
        with command.started(origin.url("film.mp4")) as process:
            wait_in(process, lambda: len(works(deaf)) == 1)
            stopped = stop(process, signal.SIGINT)
        assert stopped.seconds >= 9.0, "the pause was waited for"
        interrupted(stopped, 130, command)
        goes_on_after_ffmpeg(command, origin)


@pytest.mark.parametrize(("number", "code"), POLITE_CTRL_C)
def test_a_run_that_is_stopped_while_it_starts_ends_in_the_same_way(
    number: signal.Signals, code: int, command: Command, clips: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        command.environment["PREFECT_API_URL"] = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        with command.started(str(clip(clips)), "--header", "Authorization: hunter2") as process:
            silent.accept()  # it asks for its Prefect server, and will wait for the answer
            interrupted(stop(process, number), code, command)


def interrupted(stopped: Ended, code: int, command: Command) -> None:
    """What a polite stop owes: its code, one document, a word on how to go on, nothing running or half-made."""
    assert stopped.code == code, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert "run the same command again" in stopped.stderr
    assert (stopped.document["status"], stopped.document["failure"]) == ("interrupted", None)
    assert left_running(command) == []
    assert unfinished_files(command) == [] and secret_files(command) == []
    assert command.published() == []


def goes_on_after_ffmpeg(command: Command, origin: Origin) -> None:
    """The next run finds probe and download done, and ends with a published film."""
    del command.environment["TIDEGATE_TOOLS_FFMPEG"]
    asked_before = len(origin.requests)
    resumed = command.run(origin.url("film.mp4"))
    assert resumed.code == 0, resumed.stderr
    assert made_now(resumed) == ["remux", "analyze", "publish"]
    assert len(origin.requests) - asked_before == 1
    assert left_running(command) == [] and unfinished_files(command) == []


def video_of(document: dict[str, Any]) -> Path:
    return Path(document["output"]["path"])


def fresh_home(folder: Path) -> Path:
    home = folder / "other-home"
    home.mkdir()
    return home

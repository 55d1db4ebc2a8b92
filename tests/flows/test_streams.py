"""Where the command says something, and that place is full, closed, slow or gone: the run is done all the same."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.support import disks
from tests.support.aftermath import left_running, unfinished_files, wait_in
from tests.support.clips import bulk_clip, clip
from tests.support.command import ROOT, Command, Ended, wait_until
from tests.support.leaks import MARK
from tests.support.origin import Origin, Resource
from tidegate.durable.home import Home
from tidegate.durable.ledger import Attempt, AttemptState, Ledger
from tidegate.settings import LedgerSettings

MIB = 1024 * 1024
NO_SPACE = os.strerror(errno.ENOSPC)


def redirected(command: Command, where: str, *words: str, as_json: bool) -> Ended:
    """The command as a shell starts it: `> /dev/full`, `2>&-`."""
    argv = ["sh", "-c", f'exec "$@" {where}', "sh", *command.argv(words, as_json)]
    done = subprocess.run(
        argv, env=command.env(), cwd=command.home, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    return Ended(done.returncode, done.stdout, done.stderr, 0.0)


def attempts_of(command: Command) -> list[Attempt]:
    with closing(Ledger.open(LedgerSettings(), Home(command.home / "tidegate"))) as ledger:
        return ledger.recent(3600)


def completed(command: Command) -> Path:
    """What a run owes whose words went nowhere: one folder, and completed for the ledger and for Prefect."""
    [attempt] = [one for one in attempts_of(command) if one.kind == "ingest"]
    assert (attempt.state, attempt.failure) == (AttemptState.COMPLETED, None)
    run = httpx.get(f"{command.environment['PREFECT_API_URL']}/flow_runs/{attempt.flow_run}").json()
    assert run["state"]["type"] == "COMPLETED", run["state"]
    [folder] = command.published()
    assert json.loads((folder / "report.json").read_text())["status"] == "completed"
    assert left_running(command) == [] and unfinished_files(command) == []
    return folder


@contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """A pipe whose reader is paused: not one byte more fits in. Gives both ends."""
    reading, writing = os.pipe()
    try:
        size = fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        os.write(writing, bytes(size))
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize(("where", "why"), [("> /dev/full", NO_SPACE), (">&-", "it is closed")])
@pytest.mark.parametrize("as_json", [True, False])
def test_a_run_whose_results_cannot_be_written_is_done_and_says_where_they_lie(
    where: str, why: str, as_json: bool, command: Command, clips: Path
) -> None:
    ended = redirected(command, where, str(clip(clips)), as_json=as_json)
    assert ended.code == 4, ended.stderr
    folder = completed(command)
    assert "Traceback" not in ended.stderr and "failed" not in ended.stderr
    told = ended.stderr.partition("could not be written to standard output")[2]
    assert why in told.splitlines()[0]
    assert str(folder / ("report.json" if as_json else "report.html")) in told


def test_a_file_on_a_disk_that_is_full_gets_no_half_document_without_a_word(command: Command, clips: Path) -> None:
    with disks.volume(command.home / "small", "size=64k") as small:
        disks.fill(small, leave_bytes=4096)
        ended = redirected(command, f"> {small}/out.json", str(clip(clips)), as_json=True)
        assert 0 < (small / "out.json").stat().st_size <= 4096
    assert ended.code == 4 and NO_SPACE in ended.stderr
    assert str(completed(command) / "report.json") in ended.stderr


@pytest.mark.parametrize("where", ["2> /dev/full", "2>&-", "2>&- <&-"])
def test_without_a_stderr_the_document_comes_and_nothing_failed(where: str, command: Command, clips: Path) -> None:
    ended = redirected(command, where, "--verbose", str(clip(clips)), as_json=True)
    assert ended.code == 0
    assert Path(ended.document["output"]["path"]).parent == completed(command)


def test_a_command_with_nowhere_to_speak_still_does_its_work(command: Command, clips: Path) -> None:
    assert redirected(command, "> /dev/full 2> /dev/full", str(clip(clips)), as_json=False).code == 4
    completed(command)


def test_a_failed_run_keeps_its_exit_code_where_it_cannot_say_so(command: Command) -> None:
    with Origin({"page.mp4": Resource(b"", story="always: html")}) as origin:
        ended = redirected(command, "> /dev/full", origin.url("page.mp4"), as_json=True)
    assert ended.code == 1 and "There is no media" in ended.stderr and "Traceback" not in ended.stderr
    assert redirected(command, "> /dev/full", "/no/such/film.mp4", as_json=True).code == 2


@pytest.mark.slow
def test_a_paused_reader_of_stderr_holds_up_neither_the_run_nor_its_end(command: Command, clips: Path) -> None:
    argv = command.argv(("--verbose", str(clip(clips))), True)
    with full_pipe() as (_, writing):
        ended = subprocess.run(
            argv, env=command.env(), cwd=command.home, stdout=subprocess.PIPE, stderr=writing, timeout=90
        )
    assert ended.returncode == 0 and json.loads(ended.stdout)["status"] == "completed"
    completed(command)


def test_a_paused_reader_of_the_results_holds_up_no_source_and_gets_them_all_later(
    command: Command, clips: Path
) -> None:
    films = [str(clip(clips)), str(clip(clips, seconds=3))]
    argv = command.argv(tuple(films), False)
    with full_pipe() as (reading, writing):
        process = subprocess.Popen(
            argv, env=command.env(), cwd=command.home, stdout=writing, stderr=subprocess.PIPE, text=True
        )
        wait_in(process, lambda: [one.state for one in attempts_of(command)] == [AttemptState.COMPLETED] * 3)
        assert len(command.published()) == 2
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.0)  # it has something to say to who asked for it
        told = read_until_left(reading, process).lstrip("\0")
        assert process.wait(30) == 0
        _, said = process.communicate()
    assert [line.split()[0] for line in told.splitlines()] == ["time", "report", "result", "file"] * 2
    assert "Traceback" not in said and left_running(command) == []


def read_until_left(reading: int, process: subprocess.Popen[str]) -> str:
    """All that comes until the process has ended."""
    os.set_blocking(reading, False)
    told = bytearray()

    def ended() -> bool:
        gone = process.poll() is not None
        try:
            while some := os.read(reading, 65536):
                told.extend(some)
        except BlockingIOError:
            pass
        return gone

    wait_until(ended, seconds=60)
    return told.decode()


@pytest.mark.slow
def test_a_stopped_command_does_not_wait_for_a_paused_reader(command: Command, clips: Path) -> None:
    film = bulk_clip(clips, 20 * MIB)
    with full_pipe() as (_, writing), Origin({"film.mp4": Resource(film, story="throttle 1M")}) as origin:
        argv = command.argv((origin.url("film.mp4"),), True)
        process = subprocess.Popen(argv, env=command.env(), cwd=command.home, stdout=writing, stderr=writing, text=True)
        wait_in(process, lambda: origin.bytes_sent("film.mp4") >= 3 * MIB)
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 143
    assert [one.state for one in attempts_of(command)] == [AttemptState.INTERRUPTED]


def test_a_pipe_that_somebody_made_non_blocking_gets_the_whole_document(command: Command, clips: Path) -> None:
    """Node and ssh do so to what they share with us: then a write beyond what fits is an error of its own kind."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    process = subprocess.Popen(
        command.argv((str(clip(clips)),), True), env=command.env(), stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        told = pipe.read()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert len(told) > 4096 and json.loads(told)["status"] == "completed"


@pytest.mark.parametrize("heard", [True, False], ids=["heard", "nohup"])
def test_a_terminal_that_is_closed_ends_the_run_as_ctrl_c_does_unless_it_was_told_to_stay(
    heard: bool, command: Command, clips: Path
) -> None:
    film = bulk_clip(clips, 20 * MIB)
    with Origin({"film.mp4": Resource(film, story="throttle 2M")}) as origin:
        link, codes = origin.url("film.mp4"), command.home / "code"
        pid, terminal = pty.fork()
        if pid == 0:  # the shell of a terminal: it leads the session, and hears of the end first
            nohup = "" if heard else "trap '' HUP;"
            words = ["sh", "-c", f'{nohup} "$@"; echo $? > {codes}', "sh", *command.argv((link,), False)]
            os.chdir(command.home)
            os.execvpe("sh", words, command.env())
        said = bytearray()
        wait_until(lambda: read(terminal, said) or origin.bytes_sent("film.mp4") >= 3 * MIB, seconds=60, what=str(said))
        os.close(terminal)
        wait_until(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid, seconds=90)
        assert left_running(command) == []
        if heard:
            assert [one.state for one in attempts_of(command)] == [AttemptState.INTERRUPTED]
            resumed = command.run(link, "--until", "download")
            assert resumed.document["download"]["bytes_reused"] >= MIB
        else:
            assert codes.read_text() == "0\n", "nobody is there, and that is no failure"
            completed(command)


def read(terminal: int, said: bytearray) -> bool:
    """Take what the terminal has to show."""
    os.set_blocking(terminal, False)
    with suppress(OSError):
        said.extend(os.read(terminal, 65536))
    return False


@pytest.mark.parametrize("words", [("runs",), ("runs", "--json"), ("origins",), ("doctor",)], ids=" ".join)
def test_the_other_commands_say_so_too(words: tuple[str, ...], command: Command) -> None:
    argv = ["sh", "-c", 'exec "$@" > /dev/full', "sh", sys.executable, "-m", f"flows.{words[0]}", *words[1:]]
    environment = {**command.env(), "PYTHONPATH": str(ROOT), MARK: command.mark}
    ended = subprocess.run(argv, env=environment, cwd=command.home, capture_output=True, text=True, timeout=120)
    assert ended.returncode == (1 if words == ("doctor",) else 4), ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.returncode == 1 or NO_SPACE in ended.stderr


@pytest.mark.parametrize("size", [(0, 0), (1, 1)], ids=["no size", "one column"])
@pytest.mark.slow
def test_a_terminal_without_a_size_shows_what_it_can(size: tuple[int, int], command: Command, clips: Path) -> None:
    """Serial lines, `docker run -t` and cron's script(1) give none."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, size)
    argv = command.argv((str(clip(clips)),), False)
    process = subprocess.Popen(argv, env=command.env(), cwd=command.home, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = bytearray()
    wait_until(lambda: read(ours, said) or process.poll() is not None, seconds=90)
    read(ours, said)
    os.close(ours)
    assert process.returncode == 0, said.decode(errors="replace")
    assert b"Traceback" not in said
    completed(command)

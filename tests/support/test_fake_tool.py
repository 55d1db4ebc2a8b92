"""The fake tool and the leak checks, with real processes: acts act, and what lingers is found."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import fake_tool, leaks

TOOL = [sys.executable, "-I", fake_tool.__file__]


@pytest.fixture
def mark() -> Iterator[str]:
    with leaks.marking() as mark:
        yield mark
        leaks.end_children(mark)


def run(*acts: str) -> subprocess.CompletedProcess[str]:
    """Play a script to its end."""
    return subprocess.run([*TOOL, *acts], capture_output=True, check=False, encoding="utf-8", timeout=20)


def start(*acts: str) -> subprocess.Popen[bytes]:
    """Begin a script and wait for the line `ready`, which it must print."""
    process = subprocess.Popen([*TOOL, *acts], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.stdout.close()
    return process


def test_lines_end_with_a_newline_and_rewrites_with_a_return() -> None:
    acts = ["lines 2 every 1ms at {n}", "rewrites 2 every 1ms {n} %"]
    done = subprocess.run([*TOOL, *acts], capture_output=True)
    lines, rewrites = done.stdout[:10], done.stdout[10:]
    assert lines == b"at 1\nat 2\n"
    assert [part.rstrip() for part in rewrites.split(b"\r")] == [b"1 %", b"2 %", b""]


def test_progress_moves_and_frozen_progress_does_not() -> None:
    done = run("progress 2 every 1ms", "frozen-progress 2 every 1ms")
    times = [line for line in done.stdout.splitlines() if line.startswith("out_time_us=")]
    assert times == [f"out_time_us={us}" for us in (1_000_000, 2_000_000, 1_000_000, 1_000_000)]


def test_a_flood_on_stderr_and_an_exit_code_arrive() -> None:
    done = run("stderr 1M", "exit 3")
    assert (len(done.stderr), done.returncode) == (1024 * 1024, 3)


def test_an_output_grows_in_silence(tmp_path: Path) -> None:
    done = run(f"grow {tmp_path / 'out.bin'} 1K every 1ms times 5")
    assert (tmp_path / "out.bin").stat().st_size == 5 * 1024
    assert done.stdout == done.stderr == ""


def test_an_unknown_act_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown act 'dance'"):
        fake_tool.play("dance")


def test_a_tool_can_be_deaf_to_term_or_leave_with_a_code() -> None:
    deaf = start("ignore-term", "print ready", "hang")
    polite = start("exit-on-term 255", "print ready", "hang")
    for process in (deaf, polite):
        process.terminate()
    assert polite.wait(5) == 255
    assert deaf.poll() is None
    deaf.kill()
    assert deaf.wait(5) == -signal.SIGKILL


def test_a_tool_can_stop_itself_and_die_by_a_signal() -> None:
    stopped = start("print ready", "stop")
    assert os.WIFSTOPPED(os.waitpid(stopped.pid, os.WUNTRACED)[1])
    stopped.kill()
    stopped.wait(5)
    assert run("die SIGSEGV").returncode == -signal.SIGSEGV


@pytest.mark.parametrize("act", ["spawn 30s", "spawn-stubborn 30s", "spawn-detached 30s"])
def test_a_lingering_grandchild_is_found_by_its_mark(act: str, mark: str) -> None:
    start(act, "print ready").wait(5)
    assert len(leaks.children(mark)) == len(leaks.children()) == 1
    assert len(leaks.children("another mark")) == 0
    leaks.end_children(mark)
    assert leaks.wait_until_childless(mark) == []


def test_an_installed_tool_plays_call_by_call_and_knows_its_arguments(tmp_path: Path) -> None:
    tool = fake_tool.install(tmp_path, "ffmpeg", ["exit 1"], ["write {last} 2K", "print {1}"])
    calls = [subprocess.run([tool, "-i", "a b", tmp_path / "o"], capture_output=True) for _ in range(3)]
    assert [call.returncode for call in calls] == [1, 0, 0]
    assert calls[2].stdout == b"-i\n"
    assert (tmp_path / "o").stat().st_size == 2048
    assert fake_tool.called_with(tool) == [["-i", "a b", str(tmp_path / "o")]] * 3


def test_leftover_files_and_descriptors_are_seen(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "clip.mp4.part").touch()
    (tmp_path / "clip.mp4").touch()
    before = leaks.open_descriptors()
    with (tmp_path / "clip.mp4").open() as file:
        assert leaks.open_descriptors().keys() - before.keys() == {file.fileno()}
    assert leaks.open_descriptors() == before
    assert leaks.leftovers(tmp_path) == [Path("deep/clip.mp4.part")]

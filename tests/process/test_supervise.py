"""Supervision with real children that hang, flood, fork and refuse to die.

After each of them no process, descriptor or thread may be left (fixture `nothing_left`).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import anyio
import psutil
import pytest

from tests.support import fake_tool
from tests.support.command import wait_until
from tests.support.leaks import children, open_descriptors, wait_until_childless
from tidegate.durable.owner import this_process
from tidegate.errors import (
    PermissionRefused,
    ProcessKilled,
    ProcessTimeout,
    StalledProcess,
    TidegateError,
    ToolMissing,
)
from tidegate.events import Note, PathTaken
from tidegate.media.ffmpeg import ProgressReader
from tidegate.process import supervise
from tidegate.process.cgroup import PREFIX, own_group_folder
from tidegate.process.supervise import DRAIN_SECONDS, Job, JobResult, run
from tidegate.process.tree import Tree
from tidegate.settings import ProcessSettings

pytestmark = pytest.mark.usefixtures("nothing_left")

TOOL = [sys.executable, "-I", fake_tool.__file__]
QUICK = ProcessSettings(startup_grace=1, stall_timeout=0.5, tick=0.1, end_grace=0.5)
"""The grace is what a busy machine needs to start a Python."""
CALM = ProcessSettings(startup_grace=30, stall_timeout=30, tick=0.1, end_grace=0.5)
LONGER_THAN_A_TEST = 3600.0
"""What waits for it is ended by the timeout of tests, and fails."""


def job(*acts: str, deadline: float = 30.0, **told: object) -> Job:
    return Job("the tool", [*TOOL, *acts], deadline, **told)  # type: ignore[arg-type]


def supervised(*acts: str, limits: ProcessSettings = CALM, deadline: float = 30.0, **told: object) -> JobResult:
    return anyio.run(run, job(*acts, deadline=deadline, **told), limits)


def with_progress(*acts: str, limits: ProcessSettings = QUICK) -> JobResult:
    """As `run_ffmpeg` does it: the marks come from `-progress` lines."""
    progress = ProgressReader()
    return supervised(*acts, limits=limits, on_stdout=progress.feed, marks=lambda: dict(progress.marks))


# --- ends by itself --------------------------------------------------------------------------------


def test_an_exit_code_and_the_last_words_come_back() -> None:
    done = supervised("print hello", "error something is wrong", "exit 3")
    assert (done.exit_code, done.stdout.head, done.stderr.tail) == (3, "hello\n", "something is wrong\n")
    assert done.evidence.exit_code == 3
    assert done.evidence.command[:2] == tuple(TOOL[:2])
    assert "something is wrong" in done.evidence.output_tail


def test_a_full_pipe_does_not_block_the_child() -> None:
    done = supervised("stderr 10M", "stdout 10M", "error the end")
    assert done.exit_code == 0
    assert done.stderr.tail.endswith("the end\n")
    assert len(done.stderr.head) + len(done.stderr.tail) < 64 * 1024, "memory stays bounded"


def test_output_without_a_newline_is_read_and_bounded() -> None:
    lines: list[str] = []
    program = "import os; [os.write(1, b'x' * 65536) for _ in range(160)]; os.write(1, b'y')"
    done = anyio.run(run, Job("it", [sys.executable, "-I", "-c", program], 30.0, on_stdout=lines.append), CALM)
    assert done.exit_code == 0
    assert sum(map(len, lines)) == 160 * 65536 + 1
    assert max(map(len, lines)) <= 2 * 65536
    assert lines[-1].endswith("y")


def test_lines_that_end_with_a_return_are_lines() -> None:
    lines: list[str] = []
    supervised("rewrites 3 every 1ms {n} %", "print done", on_stdout=lines.append)
    assert lines == ["1 %", "2 %", "3 %", "done"]


def test_a_tool_that_asks_a_question_gets_no_answer_and_goes_on() -> None:
    assert supervised("read-stdin", "print asked").stdout.head == "asked\n"


def test_a_sink_that_fails_ends_the_child() -> None:
    def refuse(line: str) -> None:
        raise ValueError(line)

    with pytest.raises(ValueError, match="hello"):
        supervised("print hello", "hang", on_stdout=refuse)


def test_a_missing_tool_is_told_as_such() -> None:
    with pytest.raises(ToolMissing, match="/nowhere/ffmpeg"):
        anyio.run(run, Job("ffmpeg", ["/nowhere/ffmpeg"], 5.0), CALM)


def test_a_tool_that_may_not_be_run_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "ffmpeg").write_text("no program")
    with pytest.raises(PermissionRefused):
        anyio.run(run, Job("ffmpeg", [str(tmp_path / "ffmpeg")], 5.0), CALM)


def test_a_crash_is_an_exit_by_that_signal() -> None:
    assert supervised("die SIGSEGV").exit_code == -signal.SIGSEGV


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_from_outside_is_told_apart_from_a_crash(name: str) -> None:
    with pytest.raises(ProcessKilled, match=name) as caught:
        supervised("error last words", f"die {name}")
    assert caught.value.evidence.exit_code == -signal.Signals[name]
    assert "last words" in caught.value.evidence.output_tail


# --- stalls ----------------------------------------------------------------------------------------


def seconds_of(failing: Callable[[], object], failure: type[Exception]) -> tuple[float, Exception]:
    started = time.monotonic()
    with pytest.raises(failure) as caught:
        failing()
    return time.monotonic() - started, caught.value


def test_a_stopped_child_is_noticed_within_stall_timeout_and_tick_and_gone() -> None:
    seconds, failure = seconds_of(lambda: with_progress("progress 3 every 20ms", "stop"), StalledProcess)
    assert seconds >= 1.5, "grace and stall timeout"
    assert "no progress" in str(failure)


def test_the_evidence_of_a_stall_says_how_long_and_how_far() -> None:
    with pytest.raises(StalledProcess) as caught:
        with_progress("error opening", "progress 3 every 20ms", "hang")
    evidence = caught.value.evidence
    assert evidence.waited_seconds is not None and evidence.waited_seconds >= 0.5
    assert evidence.notes["out_time_us"] == "3e+06"
    assert "opening" in evidence.output_tail
    assert evidence.exit_code is None


def test_a_child_that_says_nothing_at_all_stalls_after_its_grace() -> None:
    seconds, _ = seconds_of(lambda: with_progress("hang"), StalledProcess)
    assert seconds >= 1.5


def test_progress_that_repeats_itself_is_none() -> None:
    with pytest.raises(StalledProcess):
        with_progress("frozen-progress 100 every 50ms")


def test_progress_that_is_not_available_is_none() -> None:
    with pytest.raises(StalledProcess):
        with_progress("lines 100 every 50ms out_time_us=N/A")


def test_a_child_that_moves_now_and_then_is_left_alone() -> None:
    limits = QUICK.model_copy(update={"stall_timeout": QUICK.stall_timeout * 2})
    assert with_progress("progress 9 every 300ms", limits=limits).exit_code == 0


def test_an_output_that_grows_without_a_line_is_no_stall(tmp_path: Path) -> None:
    """`+faststart` rewrites the file in silence; a watch on lines alone kills every large remux at 100 %."""
    limits = QUICK.model_copy(update={"stall_timeout": QUICK.stall_timeout * 2})
    out = tmp_path / "out.mp4"
    assert supervised(f"grow {out} 1K every 100ms times 26", limits=limits, outputs=(out,)).exit_code == 0


def test_an_output_that_stops_growing_is_a_stall(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    with pytest.raises(StalledProcess):
        supervised(f"grow {out} 1K every 10ms times 5", "hang", limits=QUICK, outputs=(out,))


def test_an_hour_of_silence_is_judged_by_the_clock_that_was_given() -> None:
    """The policy with its real limits: the clock leaps, nobody waits."""
    started = time.monotonic()
    fast = ProcessSettings(tick=0.05, end_grace=0.5)
    seconds, failure = seconds_of(
        lambda: supervised("hang", limits=fast, deadline=7200, clock=lambda: (time.monotonic() - started) * 1000),
        StalledProcess,
    )
    assert seconds < 60, "by the real clock it is 90 s and more"
    assert "made no progress" in str(failure)


# --- the deadline ----------------------------------------------------------------------------------


def test_a_child_that_moves_but_does_not_end_is_ended_at_its_deadline() -> None:
    progress = ProgressReader()
    with pytest.raises(ProcessTimeout, match="1 s"):
        supervised("progress 1000 every 50ms", deadline=1.0, on_stdout=progress.feed, marks=lambda: progress.marks)


def test_a_child_deaf_to_term_is_killed_after_its_grace() -> None:
    seconds, _ = seconds_of(lambda: supervised("ignore-term", "hang", deadline=0.6), ProcessTimeout)
    assert seconds >= 1.1


def test_a_child_that_leaves_when_asked_is_not_kept_waiting() -> None:
    patient = CALM.model_copy(update={"end_grace": timedelta(seconds=LONGER_THAN_A_TEST)})
    with pytest.raises(ProcessTimeout):
        supervised("exit-on-term 255", "hang", limits=patient, deadline=0.6)


# --- grandchildren ---------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["spawn 600s", "spawn-stubborn 600s"])
def test_grandchildren_that_hold_the_pipes_do_not_delay_the_end_and_are_gone(
    act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "DRAIN_SECONDS", LONGER_THAN_A_TEST)
    done = supervised(act, "print done")
    assert (done.exit_code, done.stdout.head) == (0, "done\n")


@pytest.mark.parametrize("act", ["spawn 60s", "spawn-stubborn 60s"])
def test_grandchildren_of_a_child_that_is_ended_are_gone_too(act: str) -> None:
    with pytest.raises(ProcessTimeout):
        supervised(act, "ignore-term", "hang", deadline=0.6)


def test_grandchildren_of_a_child_that_was_killed_from_outside_are_gone_too() -> None:
    with pytest.raises(ProcessKilled):
        supervised("spawn-stubborn 60s", "die SIGKILL")


def test_a_grandchild_in_a_session_of_its_own_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "DRAIN_SECONDS", LONGER_THAN_A_TEST)
    assert supervised("spawn-detached 600s", "print done").stdout.head == "done\n"


def test_a_stranger_that_holds_the_pipes_cannot_keep_us() -> None:
    """By no sign one of ours: it has left group, session and environment; and there is no control group to tell."""
    started = time.monotonic()
    done = supervised("spawn-stranger 60s", "print done", limits=CALM.model_copy(update={"memory_guard": "sampling"}))
    assert done.stdout.head == "done\n"
    assert DRAIN_SECONDS <= time.monotonic() - started < 50, "it lives for 60 s"


# --- cancellation ----------------------------------------------------------------------------------


def cancelled(*acts: str, when: Callable[[], bool], limits: ProcessSettings | None = None) -> float:
    """Cancel the run as soon as something can be seen of it; gives the seconds that its end took."""

    async def main() -> float:
        async with anyio.create_task_group() as group:
            group.start_soon(run, job(*acts), limits or CALM)
            with anyio.fail_after(20):
                while not when():  # noqa: ASYNC110  # what it waits for has no event
                    await anyio.sleep(0.005)
            started = time.monotonic()
            group.cancel_scope.cancel()
        return time.monotonic() - started

    return anyio.run(main)


def test_cancelling_before_the_child_has_begun_leaves_nothing(mark: str) -> None:
    assert cancelled("hang", when=lambda: len(children(mark)) == 1) < 2.0


def test_cancelling_a_running_child_ends_it(tmp_path: Path) -> None:
    assert cancelled(f"pid {tmp_path / 'pid'}", "hang", when=(tmp_path / "pid").exists) < 2.0


def test_cancelling_a_deaf_child_with_deaf_grandchildren_ends_them_all(tmp_path: Path) -> None:
    acts = ("ignore-term", "spawn-stubborn 60s", f"pid {tmp_path / 'pid'}", "hang")
    assert 0.5 <= cancelled(*acts, when=(tmp_path / "pid").exists) < 3.0


def test_cancelling_a_stopped_child_ends_it(tmp_path: Path) -> None:
    def stopped() -> bool:
        pid = (tmp_path / "pid").read_text() if (tmp_path / "pid").exists() else ""
        return bool(pid) and psutil.Process(int(pid)).status() == psutil.STATUS_STOPPED

    assert cancelled(f"pid {tmp_path / 'pid'}", "stop", when=stopped) < 2.0


def test_cancelling_a_child_that_floods_ends_it(tmp_path: Path) -> None:
    flood = ["stderr 1G"] * 20
    assert cancelled(f"pid {tmp_path / 'pid'}", *flood, when=(tmp_path / "pid").exists) < 3.0


def test_cancelling_while_a_stall_is_being_ended_still_ends_it(tmp_path: Path) -> None:
    """The end of a deaf child takes its grace; a cancellation in the middle of it must not cut it short."""
    limits = ProcessSettings(startup_grace=0.3, stall_timeout=0.2, tick=0.05, end_grace=2)
    marker = tmp_path / "term"
    program = (
        "import pathlib, signal, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: pathlib.Path({str(marker)!r}).touch())\n"
        "while True: time.sleep(1)"
    )

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(run, Job("it", [sys.executable, "-I", "-c", program], 60.0), limits)
            with anyio.fail_after(20):
                while not marker.exists():  # noqa: ASYNC110  # what it waits for has no event
                    await anyio.sleep(0.01)
            group.cancel_scope.cancel()

    with pytest.raises(BaseExceptionGroup) as caught:
        anyio.run(main)
    assert caught.group_contains(StalledProcess)


def test_many_children_at_once_end_with_their_group() -> None:
    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(run, job("spawn 60s", "hang"), CALM)
            await anyio.sleep(0.5)
            group.cancel_scope.cancel()

    anyio.run(main)


SWEEP_ACTS = [
    ("hang",),
    ("progress 400 every 2ms",),
    ("ignore-term", "spawn-stubborn 60s", "hang"),
    ("spawn-detached 60s", "stdout 1M", "exit 3"),
    ("stderr 10M", "print done"),
    ("stop",),
    ("allocate 300M", "hang"),
]
"""What a child may be doing when the cancellation comes; the last one is at its memory cap about then."""


def swept(seed: int) -> None:
    """Cancel at a random moment: while it starts, runs, is ended, or has just ended by itself."""
    chosen = random.Random(seed)
    acts, moment = chosen.choice(SWEEP_ACTS), chosen.choice((0.0, 0.02, 0.3)) + chosen.random() * 0.25
    limits = ProcessSettings(
        startup_grace=chosen.choice((0.1, 30)),
        stall_timeout=chosen.choice((0.1, 30)),
        tick=chosen.choice((0.01, 0.1)),
        sample_every=0.02,
        end_grace=0.2,
        memory_guard=chosen.choice(("auto", "sampling")),
    )
    cap = chosen.choice((None, 200 * 1024**2))

    async def main() -> None:
        with anyio.move_on_after(moment), contextlib.suppress(TidegateError):
            await run(job(*acts, memory_cap_bytes=cap, deadline=chosen.choice((0.2, 30.0))), limits)

    anyio.run(main)


@pytest.mark.parametrize("seed", range(6))
def test_cancelling_at_any_moment_leaves_nothing(seed: int, mark: str) -> None:
    """No process, no descriptor, no thread (`nothing_left`), and no control group."""
    swept(seed)
    assert wait_until_childless(mark, 1.0) == []
    assert own_groups() == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("tens", range(20))
def test_cancelling_at_many_moments_leaves_nothing(tens: int, mark: str) -> None:
    before = open_descriptors()
    for seed in range(100 + 10 * tens, 110 + 10 * tens):
        swept(seed)
        assert wait_until_childless(mark, 1.0) == [], seed
        assert own_groups() == [], seed
        assert len(open_descriptors()) <= len(before), seed


def own_groups() -> list[str]:
    place = own_group_folder()
    mine = f"{PREFIX}{this_process().namespace}-{os.getpid()}-*"
    return [path.name for path in place.folder.glob(mine)] if place else []


@pytest.mark.parametrize("pause", [0.1, 0.5])
def test_two_interrupts_leave_nothing(pause: float, tmp_path: Path, mark: str) -> None:
    """The second breaks the shield behind which the first one's end is awaited; the group is killed all the same."""
    acts = ("ignore-term", "spawn-stubborn 60s", "spawn-detached 60s", f"pid {tmp_path / 'pid'}", "hang")
    program = (
        "import sys, anyio\n"
        "from tidegate.process.supervise import Job, run\n"
        "from tidegate.settings import ProcessSettings\n"
        f"anyio.run(run, Job('it', {[*TOOL, *acts]!r}, 60.0), ProcessSettings(end_grace=3600))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        process.send_signal(signal.SIGINT)
        time.sleep(pause)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert wait_until_childless(mark) == []


# --- the death of the supervisor -------------------------------------------------------------------


def test_a_child_does_not_outlive_a_supervisor_that_is_killed(tmp_path: Path, mark: str) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            anyio.run(run, job(f"pid {tmp_path / 'pid'}", "ignore-term", "hang"), CALM)
        finally:
            os._exit(1)
    until = time.monotonic() + 10
    while not (tmp_path / "pid").exists() and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert wait_until_childless(mark) == []


# --- silent, slow, and healthy ----------------------------------------------------------------------


def test_a_child_that_only_reads_is_no_stall(tmp_path: Path) -> None:
    """With +faststart ffmpeg rewrites its output in silence: no progress line, and the file does not grow."""
    film = tmp_path / "film"
    film.write_bytes(bytes(1024 * 1024))
    program = f"import time; f = open({str(film)!r}, 'rb')\nfor _ in range(30): f.seek(0); f.read(); time.sleep(0.1)"
    done = anyio.run(run, Job("it", [sys.executable, "-I", "-c", program], 30.0), QUICK)
    assert done.exit_code == 0
    assert done.seconds > 2


def test_a_child_that_advances_outlives_its_first_limit() -> None:
    begun = time.monotonic()
    done = supervised("sleep 2s", deadline=0.5, share=lambda: (time.monotonic() - begun) / 2)
    assert done.exit_code == 0


def test_a_child_that_crawls_is_ended_at_its_limit() -> None:
    with pytest.raises(ProcessTimeout):
        supervised("sleep 20s", deadline=0.5, share=lambda: 0.01)


# --- within a second, whatever the clock says -------------------------------------------------------


@pytest.mark.parametrize("act", ["exit 3", "die SIGKILL", "die SIGSEGV"])
def test_the_end_of_a_child_is_known_within_a_second(act: str, tmp_path: Path) -> None:
    """Although the watch looks only every 5 s."""
    patient = ProcessSettings()
    with contextlib.suppress(ProcessKilled):
        supervised(f"write {tmp_path / 'now'} 1", act, limits=patient)
    assert time.time() - (tmp_path / "now").stat().st_mtime < 1.0


def test_a_clock_that_is_set_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the monotonic clock counts: with the time of day a day off, and going backwards, nothing stalls or ends."""
    leaps = itertools.cycle((0.0, 86400.0, -86400.0))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(leaps))
    assert with_progress("progress 15 every 100ms").exit_code == 0


def test_risk_is_told_when_a_limit_comes_near() -> None:
    said: list[str] = []

    def hear(event: object) -> None:
        if isinstance(event, Note):
            said.append(event.message)

    with pytest.raises(ProcessTimeout):
        supervised("progress 1000 every 50ms", deadline=5.0, observe=hear)
    risks = [f"the tool: the risk that a limit ends it is {risk}" for risk in ("high", "critical")]
    # On a busy machine only one look may fall into the last fifth of the time.
    assert [note for note in said if "risk" in note] in (risks, risks[:1], risks[1:])
    assert any("of the 5 s that it may take have passed" in note for note in said)


def test_a_monitor_that_breaks_is_left_out_and_the_tool_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of ours must not cost the work: the plain path takes over, and says so."""
    events: list[object] = []

    def break_down(*_: object) -> None:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr(Tree, "sample", break_down)
    done = supervised("progress 5 every 100ms", "print done", observe=events.append)
    assert (done.exit_code, done.monitored) == (0, False)
    assert [event.path for event in events if isinstance(event, PathTaken)] == ["plain"]
    assert any("its monitor failed" in event.message for event in events if isinstance(event, Note))


def test_without_supervision_silence_is_no_stall_and_the_deadline_still_ends_it() -> None:
    off = QUICK.model_copy(update={"supervision": "off"})
    assert supervised("sleep 2500ms", limits=off).exit_code == 0
    with pytest.raises(ProcessTimeout):
        supervised("spawn 60s", "hang", limits=off, deadline=0.6)

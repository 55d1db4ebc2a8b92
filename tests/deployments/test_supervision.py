"""What is kept alive is started again, calmly, and ends when it is told to."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.supervision import LONGEST_PAUSE_SECONDS, Silence, SupervisedProcess, describe_exit, pause_after
from tests.support.command import wait_until


def test_the_pause_doubles_with_each_short_life_and_has_a_longest() -> None:
    pauses: list[float] = []
    for _ in range(9):
        pauses.append(pause_after(3.0, pauses[-1] if pauses else None))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, LONGEST_PAUSE_SECONDS]


def test_a_long_life_makes_the_pauses_begin_anew() -> None:
    assert pause_after(61.0, 32.0) == 1.0


def test_only_a_silence_without_any_answer_is_too_long() -> None:
    silence = Silence(limit_seconds=60)
    told = [
        (answers, silence.is_too_long(answers, now))
        for now, answers in [(0, False), (59, False), (60, True), (70, False), (129, False), (130, False)]
    ]
    assert [too_long for _, too_long in told] == [False, False, False, False, False, True]


@pytest.mark.parametrize(
    ("code", "words"), [(3, "exit code 3"), (-9, "SIGKILL"), (-signal.SIGRTMIN - 7, f"signal {signal.SIGRTMIN + 7}")]
)
def test_an_ending_is_told_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words


def kept(program: str, told: list[str]) -> SupervisedProcess:
    return SupervisedProcess("It", lambda: subprocess.Popen([sys.executable, "-c", program]), told.append)


def test_one_that_ends_is_started_again_when_its_pause_is_over_and_not_before() -> None:
    told: list[str] = []
    part = kept("raise SystemExit(3)", told)
    part.look(0.0)
    assert part.process is not None
    part.process.wait()
    part.look(1.0)
    assert part.process is None
    assert told == ["It ended (exit code 3); starting it again in 1 s"]
    part.look(1.9)
    assert part.process is None
    part.look(2.0)
    assert part.process is not None
    part.process.wait()


def test_one_that_does_not_heed_the_request_to_end_is_killed(tmp_path: Path) -> None:
    deaf = tmp_path / "deaf"
    part = kept(f"import signal, time; signal.signal(15, signal.SIG_IGN); open({str(deaf)!r}, 'w'); time.sleep(60)", [])
    part.look(0.0)
    process = part.process
    assert process is not None
    wait_until(deaf.exists)
    part.stop(0.2)
    assert process.poll() == -signal.SIGKILL
    assert part.process is None

"""What a killed run left running is ended, whatever it does about it; what is somebody else's lives on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import psutil
import pytest

from tests.support import fake_tool
from tests.support.command import wait_until
from tests.support.forked import Pipe, forked
from tests.support.leaks import children, wait_until_childless
from tidegate.durable.children import ATTEMPT_VARIABLE, ProcessGroup, use_registry
from tidegate.durable.owner import Owner, start_of, this_process
from tidegate.process.leftovers import end_leftovers, end_owner
from tidegate.process.supervise import Job, run
from tidegate.settings import ProcessSettings

TOOL = [sys.executable, "-I", fake_tool.__file__]
GRACE = 0.5
LONGER_THAN_A_TEST = 3600.0
"""What waits for it is ended by the timeout of tests, and fails."""
ATTEMPT = "0123456789abcdef"

pytestmark = pytest.mark.usefixtures("nothing_left")


class Record:
    """Who keeps the record of a run: its children, in the order of their births and deaths."""

    mark = ATTEMPT

    def __init__(self) -> None:
        self.told: list[tuple[str, ProcessGroup]] = []

    def add_child(self, group: ProcessGroup) -> None:
        self.told.append(("born", group))

    def remove_child(self, group: ProcessGroup) -> None:
        self.told.append(("gone", group))


def tool(*acts: str, attempt: str | None = ATTEMPT, group: int | None = None) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **({ATTEMPT_VARIABLE: attempt} if attempt else {})}
    return subprocess.Popen([*TOOL, *acts], env=environment, process_group=group)


@pytest.fixture
def reaped() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Children of a test's own: it is their parent, and has to read how they ended."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def ready(path: Path) -> None:
    wait_until(lambda: path.exists() and path.read_text(), what=f"for {path.name}")


# --- what carries the mark -------------------------------------------------------------------------


def test_a_grandchild_that_is_deaf_to_term_is_ended_wherever_it_went(mark: str, tmp_path: Path) -> None:
    """The kernel ends the direct child of a killed run; what that one had started lives on, in a session of its own."""
    acts = ["spawn-stubborn 60s", "spawn-detached 60s", "ignore-term", f"pid {tmp_path / 'up'}", "hang"]

    def lost_run(pipe: Pipe) -> None:
        with use_registry(Record()):
            anyio.run(run, Job("the tool", [*TOOL, *acts], 60.0), ProcessSettings())

    with forked(lost_run) as parent:
        ready(tmp_path / "up")
        wait_until(lambda: len(children(mark)) == 4, what="for two grandchildren")  # the run, the tool and those
        parent.kill()
    wait_until(lambda: len(children(mark)) == 2, what="for the kernel to end the tool")
    assert sorted(end_leftovers(ATTEMPT, GRACE)) == ["sleep", "sleep"]
    assert wait_until_childless(mark) == []
    assert end_leftovers(ATTEMPT, GRACE) == (), "doing it twice does no harm"


def test_one_that_ends_on_term_is_not_waited_for(
    mark: str, tmp_path: Path, reaped: list[subprocess.Popen[bytes]]
) -> None:
    reaped.append(tool("exit-on-term 255", f"pid {tmp_path / 'up'}", "hang"))
    ready(tmp_path / "up")
    assert len(end_leftovers(ATTEMPT, LONGER_THAN_A_TEST)) == 1
    assert reaped[0].wait() == 255, "it had time to end as it likes"


def test_a_stopped_one_is_ended(mark: str, tmp_path: Path, reaped: list[subprocess.Popen[bytes]]) -> None:
    reaped.append(tool("exit-on-term 3", f"pid {tmp_path / 'up'}", "stop", "hang"))
    ready(tmp_path / "up")
    wait_until(lambda: psutil.Process(reaped[0].pid).status() == psutil.STATUS_STOPPED)
    assert len(end_leftovers(ATTEMPT, 20)) == 1
    assert reaped[0].wait() == 3


def test_what_is_in_the_same_group_but_carries_no_mark_lives_on(
    mark: str, tmp_path: Path, reaped: list[subprocess.Popen[bytes]]
) -> None:
    ours = tool("ignore-term", f"pid {tmp_path / 'ours'}", "hang", group=0)
    others = [
        tool(f"pid {tmp_path / name}", "hang", attempt=attempt, group=ours.pid)
        for name, attempt in (("unmarked", None), ("another", ATTEMPT[::-1]), ("longer", f"{ATTEMPT}0"))
    ]
    reaped += [ours, *others]
    for name in ("ours", "unmarked", "another", "longer"):
        ready(tmp_path / name)
    assert {os.getpgid(process.pid) for process in reaped} == {ours.pid}
    assert len(end_leftovers(ATTEMPT, GRACE)) == 1
    assert ours.wait() == -signal.SIGKILL
    assert [process.poll() for process in others] == [None] * 3


def test_we_ourselves_are_not_among_them(mark: str) -> None:
    def ask(pipe: Pipe) -> None:
        os.execve(
            sys.executable,
            [
                sys.executable,
                "-c",
                "import sys; from tidegate.process.leftovers import end_leftovers; "
                f"end_leftovers('{ATTEMPT}', 0); sys.exit(7)",
            ],
            {**os.environ, ATTEMPT_VARIABLE: ATTEMPT, "PYTHONPATH": str(Path(__file__).parents[2])},
        )

    with forked(ask) as child:
        assert child.wait() == 7


def test_one_that_forks_while_it_is_ended_leaves_nobody(
    mark: str, tmp_path: Path, reaped: list[subprocess.Popen[bytes]]
) -> None:
    fertile = (
        "import os, pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(tmp_path / 'up')!r}).write_text('up')\n"
        "while True:\n"
        "    if os.fork():\n"  # the parent goes, the child is somebody new
        "        os._exit(0)\n"
        "    time.sleep(0.02)\n"
    )
    process = subprocess.Popen([sys.executable, "-I", "-c", fertile], env={**os.environ, ATTEMPT_VARIABLE: ATTEMPT})
    reaped.append(process)
    ready(tmp_path / "up")
    end_leftovers(ATTEMPT, 0.1)
    assert wait_until_childless(mark) == []


# --- the run's own process -------------------------------------------------------------------------


def sleeping(pipe: Pipe) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe.say(this_process().model_dump_json())
    signal.pause()


def test_a_runs_process_is_given_time_and_then_killed(mark: str) -> None:
    with forked(sleeping) as child:
        owner = Owner.model_validate_json(child.hear())
        started = time.monotonic()
        assert end_owner(owner, GRACE)
        assert time.monotonic() - started >= GRACE
        assert child.wait() == -signal.SIGKILL
        assert not end_owner(owner, GRACE)


def test_one_that_leaves_by_itself_is_not_killed(mark: str) -> None:
    def leave(pipe: Pipe) -> None:
        pipe.say(this_process().model_dump_json())
        time.sleep(0.5)

    with forked(leave) as child:
        assert not end_owner(Owner.model_validate_json(child.hear()), 30)
        assert child.wait() == 0


def test_a_process_that_has_only_the_number_is_left_alone(mark: str) -> None:
    with forked(sleeping) as child:
        owner = Owner.model_validate_json(child.hear())
        assert not end_owner(owner.model_copy(update={"started": owner.started - 1}), 0)
        time.sleep(0.2)
        assert start_of(child.pid) == owner.started


# --- the record ------------------------------------------------------------------------------------


def test_a_supervised_child_is_recorded_from_its_birth_to_its_end_and_carries_the_mark(mark: str) -> None:
    record, lines = Record(), []  # type: ignore[var-annotated]
    argv = [sys.executable, "-c", f"import os; print(os.environ[{ATTEMPT_VARIABLE!r}], os.getpgid(0))"]
    with use_registry(record):
        anyio.run(run, Job("it", argv, 30.0, on_stdout=lines.append), ProcessSettings())
    (born, group), (gone, again) = record.told
    assert (born, gone) == ("born", "gone") and group == again
    assert lines == [f"{ATTEMPT} {group.group}"]
    assert group.name == "it" and group.started > 0
    record.told.clear()
    anyio.run(run, Job("it", [sys.executable, "-c", ""], 30.0), ProcessSettings())
    assert record.told == [], "outside nobody listens"


def test_a_child_that_had_to_be_ended_is_recorded_as_gone_too(mark: str) -> None:
    record = Record()

    async def cancelled() -> None:
        with anyio.move_on_after(0.5):
            await run(Job("it", [*TOOL, "ignore-term", "hang"], 60.0), ProcessSettings(end_grace=0.2))

    with use_registry(record):
        anyio.run(cancelled)
    assert [what for what, _ in record.told] == ["born", "gone"]

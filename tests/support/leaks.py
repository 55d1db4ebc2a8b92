"""What must not be left: child processes, open descriptors, files of a transfer that ended.

Tests call these after the disaster. A process is found by descent and, once it was given to init, by the mark
it inherited in its environment; nothing here ends a process except `end_children`.
"""

import os
import signal
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

MARK = "TIDEGATE_TEST_MARK"
LEFTOVERS = ("*.part*", "*.tmp", "*.journal", ".*.lock")


def marked(mark: str | None = None) -> dict[str, str]:
    """An environment for a child whose descendants must all be found: ours, with a mark that they inherit."""
    return {**os.environ, MARK: mark or uuid.uuid4().hex}


@contextmanager
def marking() -> Iterator[str]:
    """Mark this process's environment, so that every child started meanwhile carries it."""
    before, mark = os.environ.get(MARK), uuid.uuid4().hex
    os.environ[MARK] = mark
    try:
        yield mark
    finally:
        os.environ.pop(MARK)
        if before is not None:
            os.environ[MARK] = before


def children(mark: str | None = None, *, of: int | None = None) -> list[psutil.Process]:
    """Living processes below this one (or below `of`), and those anywhere that carry the mark.

    Without a mark, the one set by `marking` counts. Zombies do not live, and what carries another mark belongs to
    somebody else, such as the server that serves a whole session of tests.
    """
    mark = mark or os.environ.get(MARK)
    below = psutil.Process(of).children(recursive=True)
    found = {process.pid: process for process in below if _environment(process).get(MARK, mark) == mark}
    for process in psutil.process_iter() if mark else ():
        if process.pid != os.getpid() and _environment(process).get(MARK) == mark:
            found[process.pid] = process
    return [process for process in found.values() if _lives(process)]


def command_lines(processes: Iterable[psutil.Process]) -> list[str]:
    """How those of them that live were called; one may have ended since somebody looked."""
    lines = []
    for process in processes:
        with suppress(psutil.Error):
            lines.append(" ".join(process.cmdline()))
    return lines


def wait_until_childless(mark: str | None = None, timeout_seconds: float = 5.0) -> list[psutil.Process]:
    """Wait for children that are just ending; gives those that did not, so `== []` is the assertion."""
    deadline = time.monotonic() + timeout_seconds
    while (left := children(mark)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def end_children(mark: str) -> list[int]:
    """Kill what carries this mark, so that a failed test leaves nothing to the next; gives process ids."""
    ended = [process.pid for process in children(mark) if _environment(process).get(MARK) == mark]
    for pid in ended:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return ended


def open_descriptors(pid: int | None = None) -> dict[int, str]:
    """The descriptors of this process, or of another, and what each is open on."""
    folder = Path(f"/proc/{pid or os.getpid()}/fd")
    found: dict[int, str] = {}
    for entry in list(folder.iterdir()):
        # The descriptor that lists the folder is itself listed, and gone by now.
        with suppress(FileNotFoundError):
            found[int(entry.name)] = str(entry.readlink())
    return found


def leftovers(folder: Path, patterns: Iterable[str] = LEFTOVERS) -> list[Path]:
    """Files and folders anywhere below `folder` that match one of the patterns, relative to it."""
    return sorted({path.relative_to(folder) for pattern in patterns for path in folder.rglob(pattern)})


def _environment(process: psutil.Process) -> Mapping[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

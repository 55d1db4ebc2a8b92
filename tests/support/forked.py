"""A second process of this test, forked: it says lines, hears lines, and can be stopped and killed.

Tests of leases and locks use it: a fork is another owner for the kernel and for the ledger, and is there at once, where
a new interpreter takes a second to import what it needs.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

PATIENCE_SECONDS = 60.0
LINGERING_SECONDS = 15.0


@dataclass
class Pipe:
    """One end of a conversation in lines."""

    reads: int
    writes: int
    _rest: bytes = b""

    def say(self, line: object) -> None:
        os.write(self.writes, f"{line}\n".encode())

    def hear(self, seconds: float = PATIENCE_SECONDS) -> str:
        """The next line.

        Raises:
            AssertionError: none came.
            EOFError: the other side has ended.
        """
        until = time.monotonic() + seconds
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self.reads], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"nothing was said within {seconds} s"
            data = os.read(self.reads, 65536)
            if not data:
                raise EOFError
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()


@dataclass
class Forked:
    """The child, as its parent sees it."""

    pid: int
    pipe: Pipe
    code: int | None = None

    def hear(self, seconds: float = PATIENCE_SECONDS) -> str:
        return self.pipe.hear(seconds)

    def say(self, line: object) -> None:
        self.pipe.say(line)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        if self.code is None:
            _, status = os.waitpid(self.pid, 0)
            self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def kill(self) -> None:
        """End it and reap it."""
        if self.code is None:
            self.send(signal.SIGKILL)
            self.wait()


@contextlib.contextmanager
def forked(work: Callable[[Pipe], object]) -> Iterator[Forked]:
    """A child that does `work`; gone after the block. Whatever `work` raises is printed and ends it with 1."""
    down, up = os.pipe(), os.pipe()
    _wait_for_keepers()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(down[1])
            os.close(up[0])
            work(Pipe(down[0], up[1]))
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(code)
    os.close(down[0])
    os.close(up[1])
    child = Forked(pid, Pipe(up[0], down[1]))
    try:
        yield child
    finally:
        child.kill()
        os.close(up[0])
        os.close(down[1])


def _wait_for_keepers() -> None:
    """Let the gates' threads end first, which they do a few seconds after the last call: a fork inherits the locks that
    other threads hold, and nobody in it ever frees them."""
    for thread in threading.enumerate():
        if thread.name == "gates":
            thread.join(LINGERING_SECONDS)


@contextlib.contextmanager
def many(work: Callable[[Pipe], object], number: int) -> Iterator[list[Forked]]:
    """As `forked`, so many at once."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(forked(work)) for _ in range(number)]


def most_at_once(spans: list[tuple[float, float]]) -> int:
    """How many of the spans that children have told, each from when to when, lay over each other."""
    steps = sorted([(end, -1) for _, end in spans] + [(began, 1) for began, _ in spans])
    most = now = 0
    for _, step in steps:
        now += step
        most = max(most, now)
    return most

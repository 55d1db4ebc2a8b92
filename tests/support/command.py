"""The real command as a child process: `python -m flows.run …` in a home of its own, against a test server.

Flow tests and the kill tests use it. Each run is marked, so that whatever it leaves behind can be found.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import zygote
from tests.support.leaks import MARK

ROOT = Path(__file__).resolve().parents[2]

QUICK = {
    "TIDEGATE_TRANSFER_REQUEST_TIMEOUT": "3",
    "TIDEGATE_TRANSFER_STALL_TIMEOUT": "2",
    "TIDEGATE_TRANSFER_STALL_TICK": "0.5",
    "TIDEGATE_TRANSFER_BACKOFF_BASE": "0.1",
    "TIDEGATE_PROCESS_STARTUP_GRACE": "1",
    "TIDEGATE_PROCESS_STALL_TIMEOUT": "3",
    "TIDEGATE_PROCESS_TICK": "0.5",
    "TIDEGATE_PROCESS_END_GRACE": "2",
}
"""Limits short enough for a test and long enough for a busy machine."""


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout; a test that reads it asserts that there is exactly one."""
        told: dict[str, Any] = json.loads(self.stdout)
        return told

    @property
    def failure(self) -> dict[str, Any]:
        failure: dict[str, Any] = self.document["failure"]
        return failure


@dataclass
class Command:
    """Runs commands with one home and one output folder."""

    home: Path
    output: Path
    environment: dict[str, str] = field(default_factory=dict)
    mark: str = "command"
    umask: int = -1
    """-1: as this process has it."""
    limits: dict[str, str] = field(default_factory=lambda: dict(QUICK))
    """Without them a person's own limits hold."""

    def run(self, *words: str, timeout: float = 120.0, as_json: bool = True, stdin: bytes = b"") -> Ended:
        """Run to the end, with `stdin` piped in."""
        began = time.monotonic()
        if zygote.can_start(self.env()):
            code, stdout, stderr = self._run_forked(self.argv(words, as_json), timeout, stdin)
        else:
            done = subprocess.run(
                self.argv(words, as_json),
                env=self.env(),
                cwd=self.home,
                capture_output=True,
                timeout=timeout,
                input=stdin,
                umask=self.umask,
            )
            code, stdout, stderr = done.returncode, done.stdout, done.stderr
        return Ended(code, stdout.decode(), stderr.decode(), time.monotonic() - began)

    def _run_forked(self, argv: list[str], timeout: float, stdin: bytes) -> tuple[int, bytes, bytes]:
        """The same from a process that has imported already what is not ours."""
        _, _, module, *words = argv
        ends = [os.pipe() for _ in range(3)]
        theirs = (ends[0][0], ends[1][1], ends[2][1])
        process = zygote.start(module, words, self.env(), self.home, theirs, self.umask)
        for end in theirs:
            os.close(end)
        with ThreadPoolExecutor(3) as threads:
            threads.submit(_write, ends[0][1], stdin)
            stdout, stderr = (threads.submit(_read, end) for end in (ends[1][0], ends[2][0]))
            code = process.wait(timeout)
            return code, stdout.result(), stderr.result()

    @contextmanager
    def started(self, *words: str, as_json: bool = True) -> Iterator[subprocess.Popen[str]]:
        """Start, and make sure that it is gone at the end of the block."""
        process = subprocess.Popen(
            self.argv(words, as_json),
            env=self.env(),
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            stdin=subprocess.DEVNULL,
            umask=self.umask,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()

    def published(self) -> list[Path]:
        """The folders of the output folder."""
        return sorted(path for path in self.output.glob("*") if path.is_dir())

    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            **self.limits,
            "TIDEGATE_HOME": str(self.home / "tidegate"),
            "PYTHONPATH": str(ROOT),
            MARK: self.mark,
            **self.environment,
        }

    def argv(self, words: tuple[str, ...], as_json: bool) -> list[str]:
        """The words of the command, for a test that starts it its own way."""
        told = ["--json"] if as_json else []
        return [sys.executable, "-m", "flows.run", *words, "--output-dir", str(self.output), *told]


def _write(pipe: int, data: bytes) -> None:
    with suppress(BrokenPipeError), os.fdopen(pipe, "wb") as file:
        file.write(data)


def _read(pipe: int) -> bytes:
    with os.fdopen(pipe, "rb") as file:
        return file.read()


def wait_until(condition: Callable[[], object], *, seconds: float = 20.0, what: str = "") -> None:
    """Poll until `condition` holds.

    Raises:
        AssertionError: it did not within `seconds`.
    """
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds} s in vain {what}"
        time.sleep(0.05)

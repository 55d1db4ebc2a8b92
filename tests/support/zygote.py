"""Processes that have imported already what is not ours: a command forked from here starts in half the time.

`Command.run` asks `start`. There is one zygote for each process of tests; it imports what a flow imports of other
people, but nothing of Prefect and nothing of Tidegate, which read their settings when they are imported. Each command
is a fork of it: a process of its own with its own environment, folder and pipes, that runs its module as `__main__` and
ends as an interpreter ends. The zygote ends when the process of tests does, by its closed socket.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.leaks import MARK

ROOT = Path(__file__).resolve().parents[2]
OURS = frozenset({"prefect", "flows", "tasks", "blocks", "deployments", "tidegate", "tests", "__main__", "__mp_main__"})
READ_AT_START = ("PYTHON", "LC_", "LANG", "MALLOC_", "LD_")
"""Variables that an interpreter reads when it starts, and a fork never."""
LIST_MODULES = "import sys, flows.ingest, flows.run; print(*sys.modules)"


@dataclass
class Process:
    """A command that runs to its end; `wait` gives its exit code, or minus the signal that ended it."""

    pid: int
    _socket: socket.socket

    def wait(self, seconds: float) -> int:
        """Its exit code.

        Raises:
            subprocess.TimeoutExpired: it did not end within `seconds`; it was killed.
        """
        self._socket.settimeout(seconds)
        try:
            return int(_receive(self._socket)["code"])
        except TimeoutError:
            os.kill(self.pid, signal.SIGKILL)
            self._socket.settimeout(None)
            _receive(self._socket)
            raise subprocess.TimeoutExpired("a command", seconds) from None


def can_start(environment: Mapping[str, str]) -> bool:
    """Whether a fork sees all of this environment, as a new interpreter would."""

    def read_at_start(variables: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in variables.items() if name.startswith(READ_AT_START)}

    return read_at_start(environment) == read_at_start({**os.environ, "PYTHONPATH": str(ROOT)})


def start(
    module: str, words: Sequence[str], environment: Mapping[str, str], folder: Path, pipes: Sequence[int], umask: int
) -> Process:
    """Run `python -m module words` with these descriptors as stdin, stdout and stderr; one at a time."""
    to = _zygote()
    request = {"module": module, "words": list(words), "environment": dict(environment), "folder": str(folder)}
    body = json.dumps(request | {"umask": umask}).encode()
    to.settimeout(None)
    socket.send_fds(to, [len(body).to_bytes(4, "big")], list(pipes))
    to.sendall(body)
    return Process(int(_receive(to)["pid"]), to)


@cache
def _zygote() -> socket.socket:
    here, there = socket.socketpair()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), MARK: "zygote"}  # no child of any test
    argv = [sys.executable, "-m", "tests.support.zygote", str(there.fileno())]
    process = subprocess.Popen(argv, cwd=ROOT, env=environment, pass_fds=[there.fileno()], stdin=subprocess.DEVNULL)
    there.close()

    def end() -> None:
        here.close()
        process.wait()

    atexit.register(end)
    return here


def _send(to: socket.socket, message: Mapping[str, Any]) -> None:
    body = json.dumps(message).encode()
    to.sendall(len(body).to_bytes(4, "big") + body)


def _receive(of: socket.socket) -> dict[str, Any]:
    return dict(json.loads(_read(of, int.from_bytes(_read(of, 4), "big"))))


def _read(of: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = of.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _serve(channel: socket.socket) -> dict[str, Any] | None:
    """Fork for each request; gives the request in the fork, and None in the zygote when nobody asks any more."""
    while True:
        size, pipes, _, _ = socket.recv_fds(channel, 4, 3)
        if not size:
            return None
        request = dict(json.loads(_read(channel, int.from_bytes(size, "big"))))
        pid = os.fork()
        if pid == 0:
            channel.close()
            return request | {"pipes": pipes}
        for pipe in pipes:
            os.close(pipe)
        _send(channel, {"pid": pid})
        _, status = os.waitpid(pid, 0)
        _send(channel, {"code": os.waitstatus_to_exitcode(status)})


def _become(request: Mapping[str, Any]) -> None:
    """Be what `python -m` would have started."""
    for number, pipe in enumerate(request["pipes"]):
        os.dup2(pipe, number)
        os.close(pipe)
    os.chdir(request["folder"])
    if request["umask"] >= 0:
        os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["-m", *request["words"]]
    sys.path[0] = request["folder"]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


def _import_what_is_not_ours() -> None:
    listed = subprocess.run([sys.executable, "-c", LIST_MODULES], capture_output=True, text=True, check=True)
    for name in listed.stdout.split():
        if name.partition(".")[0] not in OURS:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a fork has its own
    _import_what_is_not_ours()
    chosen = _serve(socket.socket(fileno=int(sys.argv[1])))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if chosen is not None:
        _become(chosen)

"""The server that a command talks to: found past every proxy, and typed when it cannot be had."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.server import Server, attach
from tidegate.errors import ServerUnavailable


@pytest.mark.parametrize(
    ("listed", "expected"),
    [(None, "127.0.0.1,localhost"), ("host.example", "host.example,127.0.0.1,localhost"), ("*", "*")],
)
def test_loopback_is_spared_the_proxy_and_what_was_listed_stays(
    listed: str | None, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        if listed:
            monkeypatch.setenv(name, listed)
        else:
            monkeypatch.setenv(name, "")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(ServerUnavailable):
        attach(tmp_path)
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == expected


def test_a_server_of_our_own_that_ends_at_once_is_unavailable_and_names_its_log(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    process.wait()
    server = Server("http://127.0.0.1:9/api", process, tmp_path / "server.log")
    with pytest.raises(ServerUnavailable, match=r"exit 3.*server\.log"):
        server.wait()


STOPPING = """
import os, signal, subprocess, sys, threading
from flows.server import Server
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, lambda *_: "
    "(time.sleep(1), exit())); print(flush=True); time.sleep(60)"], stdout=subprocess.PIPE)
child.stdout.readline()
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
Server("http://127.0.0.1:9/api", child).stop()
print("stopped", child.returncode is not None)
"""


def test_an_impatient_ctrl_c_does_not_stop_the_stopping() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", STOPPING],
        capture_output=True,
        text=True,
        timeout=30,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, "stopped True"), ended.stderr

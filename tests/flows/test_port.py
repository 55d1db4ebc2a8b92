"""A port that is ours stays ours: no other user gets it while a process of ours may still talk to it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress

import pytest

from flows.port import _held, hold, listener_on
from tests.support.ports import taken_by_a_stranger

LEAVE = """
import os, sys
from flows.port import hold, listener_on
with listener_on(0) as listener:
    port = listener.getsockname()[1]
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    if sys.argv[1] == "hold":
        hold()
print(port, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs another user")
@pytest.mark.parametrize("held", [True, False])
def test_a_stranger_does_not_get_the_port_of_a_server_that_is_gone_before_its_runs(held: bool) -> None:
    words = [sys.executable, "-c", LEAVE, "hold" if held else ""]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdin is not None and run.stdout is not None
        port = int(run.stdout.readline())
        for address in ("127.0.0.1", "0.0.0.0"):
            assert taken_by_a_stranger(port, address) == ("Address already in use" if held else "taken")
        with listener_on(port):  # the next server of ours does, at once
            assert taken_by_a_stranger(port) == "Address already in use"
        run.stdin.close()
    assert taken_by_a_stranger(port) == "taken"


def test_one_port_has_one_server_whoever_holds_it() -> None:
    with listener_on(0) as listener:
        port = listener.getsockname()[1]
        hold(f"http://127.0.0.1:{port}/api")
        with pytest.raises(OSError, match=r"taken|in use"):
            listener_on(port)
    with listener_on(port), pytest.raises(OSError, match=r"taken|in use"):
        listener_on(port)


def test_of_many_at_one_moment_at_most_one_gets_it() -> None:
    with listener_on(0) as listener:
        port = listener.getsockname()[1]
    with ExitStack() as stack:
        got: list[object] = []
        ready = threading.Barrier(8)

        def take() -> None:
            ready.wait()
            with suppress(OSError):
                got.append(stack.enter_context(listener_on(port)))

        takers = [threading.Thread(target=take) for _ in range(8)]
        for taker in takers:
            taker.start()
        for taker in takers:
            taker.join()
        assert len(got) <= 1


@pytest.mark.parametrize("named", ["", "http://host.example:80/api", "http://[", "x"])
def test_of_other_servers_nothing_is_held(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", named)
    _held.clear()
    hold()
    hold(named)
    assert not _held

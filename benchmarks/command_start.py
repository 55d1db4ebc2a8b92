"""What the command costs when there is nothing left to do, against a bare Prefect hello-world flow.

Warm: on a running server. Cold: without one; the peer then starts Prefect's ephemeral server. The peer does nothing;
ours checks a request, asks the source, reads five checkpoints and hashes their assets.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.pairs import Pairs, measure
from tests.support.clips import clip
from tests.support.origin import Origin

ROOT = Path(__file__).resolve().parents[1]

HELLO = """
import asyncio
from prefect import flow

@flow
async def hello():
    return "hello"

asyncio.run(hello())
"""


def results() -> Iterator[Pairs]:
    with tempfile.TemporaryDirectory() as folder, Origin({"clip.mp4": clip(Path(folder), seconds=4)}) as origin:
        home = Path(folder)
        hello = home / "hello.py"
        hello.write_text(HELLO)
        ours = [sys.executable, "-m", "flows.run", origin.url("clip.mp4"), "--output-dir", str(home / "out"), "--json"]
        peer = [sys.executable, str(hello)]
        with prefect_server(home) as api:
            warm = environment(home, PREFECT_API_URL=api)
            _run(ours, warm)
            yield measure(
                "the command, every stage from its checkpoint, warm server ÷ hello-world",
                lambda: _run(ours, warm),
                lambda: _run(peer, warm),
                goal=1.3,
                pairs=9,
            )
        cold = environment(home)
        yield measure(
            "the same without a server ÷ hello-world with Prefect's ephemeral server",
            lambda: _run(ours, cold),
            lambda: _run(peer, cold),
            goal=1.0,
            pairs=5,
        )


def _run(argv: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(argv, env=environment, cwd=environment["HOME"], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert argv[1] != "-m" or done.stdout.count('"cached": true') in (0, 5), "every stage or, the first time, none"


def environment(home: Path, **more: str) -> dict[str, str]:
    """A command's environment in a home of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "TIDEGATE_"))}
    mine = {"HOME": str(home), "TIDEGATE_HOME": str(home / "tidegate"), "PYTHONPATH": str(ROOT)}
    # A slow machine trips Prefect's own start-up limit; the peer must not fail for that.
    return kept | mine | {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180"} | more


@contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """The API address of a server that runs for the length of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(argv, env=environment(home), stdout=quiet, stderr=quiet, start_new_session=True)
    api = f"http://127.0.0.1:{port}/api"
    try:
        until = time.monotonic() + 120
        while not _healthy(api):
            assert time.monotonic() < until, "the Prefect server did not start"
            time.sleep(0.2)
        yield api
    finally:
        process.terminate()
        process.wait(30)


def _healthy(api: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"{api}/health", timeout=2) as answer:
        return bool(answer.status == 200)
    return False

"""Which Prefect server a command talks to: a running one, or one of its own for as long as it lives.

`flows/run.py` calls `attach` before anything imports Prefect, because the API address is read at import. A server of
our own starts while this process imports Prefect, on a socket that is bound here, so no other program can take the
port in between. It ends with the command; should the command be killed, the kernel ends it. `make serve` launches its
server in the same way.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flows import closing, safety, site
from flows.configuration import in_files
from tidegate.durable import private
from tidegate.errors import ServerUnavailable
from tidegate.process.kinship import die_with_parent

STARTUP_SECONDS = 180.0
"""How long our own server may take: its imports alone take 12 s on a slow machine, and its first migrations more."""
PROBE_SECONDS = 2.0
PATIENCE_SECONDS = 15.0
"""How long a server that was named may take to answer: a busy one is no reason to fail a run. One that refuses the
connection is told at once."""
DEFAULT_API = "http://127.0.0.1:4200/api"
LOOPBACK = ("127.0.0.1", "localhost")
"""Hosts that no proxy can reach for us."""


@dataclass
class Server:
    """Where the API is, and the process behind it if it is ours."""

    api_url: str | None
    """None: Prefect's own configuration names one."""
    process: subprocess.Popen[bytes] | None = None
    log: Path | None = None

    @property
    def ui_url(self) -> str | None:
        """Where a person can look at runs; a server of our own is gone too soon for that."""
        if self.process is not None or self.api_url is None:
            return None
        return self.api_url.removesuffix("/").removesuffix("/api")

    def wait(self) -> None:
        """Until it answers.

        Raises:
            ServerUnavailable: it ended, or did not answer in time.
        """
        if self.process is None or self.api_url is None:
            return
        until = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise ServerUnavailable(
                    f"The Prefect server did not start (exit {self.process.returncode}); see {self.log}"
                )
            if is_up(self.api_url):
                return
            time.sleep(0.05)
        raise ServerUnavailable(f"The Prefect server did not answer within {STARTUP_SECONDS:.0f} s; see {self.log}")

    def stop(self) -> None:
        """End our own server; a running one that was found stays. An impatient Ctrl-C does not stop the stopping."""
        if self.process is None:
            return
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def attach(home: Path) -> Server:
    """The server to use, with `PREFECT_API_URL` set accordingly. Call it before Prefect is imported.

    Raises:
        ServerUnavailable: a server was named and does not answer, or there is no room for one of our own.
    """
    server = found(home) or _start(home)
    if server.api_url:
        os.environ["PREFECT_API_URL"] = server.api_url
    return server


def found(home: Path) -> Server | None:
    """A running server: the one that is named or configured, else that of `make serve`, else one at the usual address.

    Raises:
        ServerUnavailable: one was named and does not answer.
    """
    _spare_loopback_the_proxy()
    named = os.environ.get("PREFECT_API_URL")
    if named:
        if not is_up(named, PATIENCE_SECONDS):
            raise ServerUnavailable(f"The Prefect server at {named} (PREFECT_API_URL) does not answer")
        return Server(named)
    if in_files("api.url", ["PREFECT_API_URL"]):
        return Server(None)
    kept = site.recorded(home)
    running = [api_url for api_url in (kept and kept.api_url, DEFAULT_API) if api_url and is_ours(api_url)]
    return Server(running[0]) if running else None


def is_up(api_url: str, seconds: float = PROBE_SECONDS) -> bool:
    """Whether a Prefect server answers there, in so many seconds, that it is well."""
    return answer(api_url, "health", seconds) is True


def is_ours(api_url: str) -> bool:
    """Whether a server of the version that we run answers there; somebody else's program on the port is not one."""
    return is_up(api_url) and answer(api_url, "admin/version") == version("prefect")


def _spare_loopback_the_proxy() -> None:
    """Prefect's client, like every other, would ask the proxy of `http_proxy` for the server on this host."""
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if listed.strip() != "*":
        names = dict.fromkeys([*(name.strip() for name in listed.split(",") if name.strip()), *LOOPBACK])
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(names)


def _opener(api_url: str) -> urllib.request.OpenerDirector:
    near = urlsplit(api_url).hostname in (*LOOPBACK, "::1")
    return urllib.request.build_opener(urllib.request.ProxyHandler({} if near else None))


def answer(api_url: str, path: str, seconds: float = PROBE_SECONDS) -> Any:
    """The JSON that the API answers, or None."""
    try:
        with _opener(api_url).open(f"{api_url.rstrip('/')}/{path}", timeout=seconds) as told:
            return json.load(told)
    except (OSError, ValueError):
        return None


def listener_on(port: int) -> socket.socket:
    """A socket on this host that a server can be launched on; port 0 is any free one.

    Raises:
        OSError: somebody else has the port.
    """
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the last server's connections linger
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def address_of(listener: socket.socket) -> str:
    """The API address of a server on that socket."""
    return f"http://127.0.0.1:{listener.getsockname()[1]}/api"


def launch(listener: socket.socket, log: Path, told: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A Prefect server on that socket, with the settings that make it safe and those it is `told`.

    It shares Prefect's database, so its runs are seen by a later server. Call it on the main thread: the kernel ends
    the server when the thread that launched it ends.
    """
    environment = {**os.environ, **safety.environment("server"), "PREFECT__SERVER_FINAL": "1", **told}
    environment.pop("PREFECT_API_URL", None)
    private.make_folder(log.parent)
    with open(log, "ab", opener=private.opener) as output:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"),
                *("--fd", str(listener.fileno()), "--log-level", "error", "--lifespan", "on"),
            ],
            env=environment,
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the run, which still needs its server to say so
            preexec_fn=die_with_parent,
            umask=closing.umask_of_server(),
        )


def _start(home: Path) -> Server:
    """Our own server, on a free port, without a UI: it is gone too soon for that."""
    log = home / "server.log"
    log.unlink(missing_ok=True)
    with listener_on(0) as listener:
        process = launch(listener, log, {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"})
        return Server(address_of(listener), process, log)

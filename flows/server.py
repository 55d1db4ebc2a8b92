"""Which Prefect server a command talks to: a running one, or one of its own for as long as it lives.

`flows/run.py` calls `attach` before anything imports Prefect, because the API address is read at import. A server of
our own starts while this process imports Prefect, on a socket that is bound here, so no other program can take the
port in between. It ends with the command; should the command be killed, the kernel ends it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tidegate.errors import ServerUnavailable
from tidegate.process.kinship import die_with_parent

STARTUP_SECONDS = 180.0
"""How long our own server may take: its imports alone take 12 s on a slow machine, and its first migrations more."""
PROBE_SECONDS = 2.0
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
            if _answers(self.api_url, "health") is not None:
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
    _spare_loopback_the_proxy()
    named = os.environ.get("PREFECT_API_URL")
    if named:
        if _answers(named, "health") is None:
            raise ServerUnavailable(f"The Prefect server at {named} (PREFECT_API_URL) does not answer")
        return Server(named)
    if _configured():
        return Server(None)
    server = _running() or _start(home)
    os.environ["PREFECT_API_URL"] = server.api_url or ""
    return server


def _running() -> Server | None:
    """A local server of the version that we run; somebody else's program on the port is not one."""
    return Server(DEFAULT_API) if _is_ours(DEFAULT_API) else None


def _is_ours(api_url: str) -> bool:
    return _answers(api_url, "health") is True and _answers(api_url, "admin/version") == version("prefect")


def _spare_loopback_the_proxy() -> None:
    """Prefect's client, like every other, would ask the proxy of `http_proxy` for the server on this host."""
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if listed.strip() != "*":
        names = dict.fromkeys([*(name.strip() for name in listed.split(",") if name.strip()), *LOOPBACK])
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(names)


def _opener(api_url: str) -> urllib.request.OpenerDirector:
    near = urlsplit(api_url).hostname in (*LOOPBACK, "::1")
    return urllib.request.build_opener(urllib.request.ProxyHandler({} if near else None))


def _answers(api_url: str, path: str) -> Any:
    """The JSON that the API answers, or None."""
    try:
        with _opener(api_url).open(f"{api_url.rstrip('/')}/{path}", timeout=PROBE_SECONDS) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None


def _configured() -> bool:
    """Whether Prefect's own files name an API: the active profile, or a prefect.toml or .env in this folder."""
    return any(_names_an_api(path) for path in (Path("prefect.toml"), Path(".env"))) or _profile_names_an_api()


def _names_an_api(path: Path) -> bool:
    try:
        text = path.read_text()
    except OSError:
        return False
    return "PREFECT_API_URL" in text or (path.suffix == ".toml" and "url" in _table(text, "api"))


def _profile_names_an_api() -> bool:
    folder = Path(os.environ.get("PREFECT_HOME", Path.home() / ".prefect"))
    path = Path(os.environ.get("PREFECT_PROFILES_PATH", folder / "profiles.toml"))
    try:
        profiles = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError):
        return False
    active = os.environ.get("PREFECT_PROFILE", profiles.get("active", ""))
    return bool(profiles.get("profiles", {}).get(active, {}).get("PREFECT_API_URL"))


def _table(text: str, name: str) -> dict[str, Any]:
    try:
        table = tomllib.loads(text).get(name, {})
    except tomllib.TOMLDecodeError:
        return {}
    return table if isinstance(table, dict) else {}


def _start(home: Path) -> Server:
    """Our own server, on a free port. It shares Prefect's database, so its runs are seen by a later server."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    api_url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
    home.mkdir(parents=True, exist_ok=True)
    log = home / "server.log"
    environment = {
        **os.environ,
        "PREFECT_UI_ENABLED": "0",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
    }
    with log.open("wb") as output, listener:
        process = subprocess.Popen(
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
        )
    return Server(api_url, process, log)

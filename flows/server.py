"""Which Prefect server a command talks to: a running one, or a short-lived one of this home's.

`flows/run.py` calls `attach` before anything imports Prefect, because the API address and what opens it are read at
import. Where no server is to be had, the commands of a home share one (`flows/own_server.py`): it starts while the
first of them imports Prefect, on a socket that is bound here, so no other program can take the port in between, and
ends after the last one, however that ends. `make serve` launches its server in the same way. The password of a home
(`flows/access.py`) goes to servers that we started, and to no other.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from flows import access, closing, guard, health, own_server, safety, site
from flows.configuration import ClientSettings, ConfiguredValue, client_settings, look_up
from flows.health import NEAR, NOTHING, PROBE_SECONDS, Health
from flows.own_server import OwnServer
from flows.port import hold, listener_on
from tidegate.durable import private
from tidegate.errors import ServerUnavailable
from tidegate.process.kinship import die_with_parent
from tidegate.redact import redact_url

STARTUP_SECONDS = 180.0
"""How long our own server may take: its imports alone take 12 s on a slow machine, and its first migrations more."""
PATIENCE_SECONDS = 15.0
"""How long a server that was named may take to answer: a busy one is no reason to fail a run. One that refuses the
connection is told at once."""
LONG_PROBE_SECONDS = 20.0
"""For a server that is just starting: its socket listens from the beginning, and answers once it can."""
DEFAULT_API = "http://127.0.0.1:4200/api"
APP = "flows.guard:create_app"


@dataclass
class Server:
    """Where the API is, what opens it, and our part in it if it is the short-lived one of this home."""

    api_url: str
    client: ClientSettings = field(default=NOTHING, compare=False)
    """How it was asked, and how Prefect's client will ask."""
    ours: bool = False
    """Whether it was started by this home, so that its password is this home's."""
    where: str = ""
    """Where a person has named it."""
    own: OwnServer | None = field(default=None, compare=False)

    @property
    def ui_url(self) -> str | None:
        """Where a person can look at runs; a server of our own is gone too soon for that."""
        return None if self.own is not None else _ui_of(self.api_url)

    def wait(self) -> None:
        """Until it answers.

        Raises:
            TidegateError: it ended, or did not answer in time.
        """
        if self.own is None:
            return
        until = time.monotonic() + STARTUP_SECONDS
        while (left := until - time.monotonic()) > 0:
            if is_up(self.api_url, min(LONG_PROBE_SECONDS, left), self.client):
                return
            if self.own.has_ended:
                raise self.own.failure()
            time.sleep(0.05)
        log = self.own.record.log
        raise ServerUnavailable(
            f"The Prefect server did not answer within {STARTUP_SECONDS:.0f} s, see {log}: "
            f"{own_server.last_lines(log) or 'it is empty'}"
        )

    def stop(self) -> None:
        """Leave a server of our own, which ends with its last user; a running one that was found stays. An impatient
        Ctrl-C does not stop the stopping."""
        if self.own is None:
            return
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.own.leave()
        self.own = None


def attach(home: Path, say: Callable[[str], None]) -> Server:
    """The server to use, with Prefect's variables set accordingly. Call it before Prefect is imported. `say` is told at
    once that a temporary one starts: that takes a while.

    Raises:
        ServerUnavailable: a server was named and cannot be used.
        TidegateError: there is no room for one of our own.
    """
    server = found(home) or _join(home, say)
    os.environ["PREFECT_API_URL"] = server.api_url
    if server.ours:
        hold(server.api_url)
        os.environ.update(_for_ours(server.client))
    return server


def found(home: Path) -> Server | None:
    """A running server: the one that is named or configured, else that of `make serve`, else one at the usual address.

    Raises:
        ServerUnavailable: one was named and cannot be used.
    """
    _spare_loopback_the_proxy()
    named, kept = find_server_address(), site.read(home)
    if named is not None:
        return _reach(_server_at(named, kept, home))
    if kept is not None:
        server = Server(kept.api_url, _client_of(home) if kept.ours else client_settings(), kept.ours)
        if is_ours(server.api_url, server.client):
            return server
    # Nobody named it: whatever a person has told for another server does not go there.
    return Server(DEFAULT_API) if is_ours(DEFAULT_API) else None


def find_server_address() -> ConfiguredValue | None:
    """The address that a person has given to Prefect, and where."""
    configured = look_up("api.url")
    return configured if configured is not None and configured.value else None


def _server_at(named: ConfiguredValue, kept: site.Site | None, home: Path) -> Server:
    """Often the address of our own `make serve`, from before it had a password. It is called as it was recorded: behind
    another way to write loopback may be somebody else's program."""
    api_url = str(named.value)
    if kept is not None and kept.ours and access.is_same(kept.api_url, api_url):
        return Server(kept.api_url, _client_of(home), ours=True, where=named.where)
    return Server(api_url, client_settings(), where=named.where)


def _reach(server: Server) -> Server:
    """The server, once it answers; one that is busy or just restarts is given some time.

    Raises:
        ServerUnavailable: it cannot be used.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        seen = health.look_at(server.api_url, server.client, max(until - time.monotonic(), PROBE_SECONDS))
        if seen.well:
            return server
        if not seen.passing or time.monotonic() >= until:
            raise _unavailable(server, seen)
        time.sleep(0.5)


def _unavailable(server: Server, seen: Health) -> ServerUnavailable:
    return ServerUnavailable(
        f"The Prefect server at {redact_url(server.api_url)} ({server.where}) {seen.trouble}", hint=seen.cure
    )


def is_up(api_url: str, seconds: float = PROBE_SECONDS, settings: ClientSettings = NOTHING) -> bool:
    """Whether a Prefect server answers there, in so many seconds, that it is well. That takes no password."""
    return health.answer(api_url, "health", seconds, settings) is True


def is_ours(api_url: str, settings: ClientSettings = NOTHING) -> bool:
    """Whether a server of the version that we run answers there, to somebody with these settings; somebody else's
    program on the port is not one, and neither is a server with another password."""
    return health.listens(api_url) and health.answer(api_url, "admin/version", settings=settings) == version("prefect")


def _client_of(home: Path) -> ClientSettings:
    """What opens the servers of this home."""
    return ClientSettings(auth_string=access.login_of(home))


def _for_ours(client: ClientSettings) -> dict[str, str]:
    """Prefect's variables for a server of this home. Headers that a person has set stay, but for a login that is meant
    for another server: it would take the place of the password."""
    headers = client_settings().headers
    kept = {name: value for name, value in headers.items() if name.lower() != "authorization"}
    variables = {"PREFECT_API_AUTH_STRING": client.auth_string or ""}
    return variables | ({"PREFECT_CLIENT_CUSTOM_HEADERS": json.dumps(kept)} if kept != headers else {})


def _ui_of(api_url: str) -> str:
    configured = look_up("ui_url")
    if configured is not None and configured.value:
        return str(configured.value).rstrip("/")
    bare = redact_url(api_url).rstrip("/")
    cloud = "https://api.prefect.cloud/api/accounts/"
    if bare.startswith(cloud):
        return "https://app.prefect.cloud/account/" + bare.removeprefix(cloud).replace("/workspaces/", "/workspace/")
    return bare.removesuffix("/api")


def _spare_loopback_the_proxy() -> None:
    """Prefect's client, like every other, would ask the proxy of `http_proxy` for the server on this host."""
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if listed.strip() != "*":
        names = dict.fromkeys([*(name.strip() for name in listed.split(",") if name.strip()), *NEAR])
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(names)


def address_of(listener: socket.socket) -> str:
    """The API address of a server on that socket."""
    return f"http://127.0.0.1:{listener.getsockname()[1]}/api"


def launch(
    listener: socket.socket, log: Path, home: Path, variables: Mapping[str, str], users: Path | None = None
) -> subprocess.Popen[bytes]:
    """A Prefect server on that socket, with the settings that make it safe and these `variables`. It lets in who knows
    the password of the home, and nobody who comes from another page or by another name (`flows/guard.py`).

    It shares Prefect's database, so its runs are seen by a later server. It lives until nobody holds the lock of
    `users`; without such a file the kernel ends it when the thread that launched it ends, so call it on the main
    thread then.

    Raises:
        ServerUnavailable: the password cannot be had.
    """
    closed = {**access.for_server(home), **guard.door_environment(listener.getsockname()[1])}
    environment = {**os.environ, **safety.environment("server"), "PREFECT__SERVER_FINAL": "1", **closed, **variables}
    environment.pop("PREFECT_API_URL", None)
    private.make_folder(log.parent)
    with open(log, "ab", opener=private.opener) as output:
        fcntl.flock(output, fcntl.LOCK_SH)  # the server inherits it: while it lives, nobody clears its log away
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "flows.serving", APP, "--fd", str(listener.fileno())),
                *(() if users is None else ("--users", os.fspath(users))),
            ],
            env=environment,
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the run, which still needs its server to say so
            preexec_fn=None if users is not None else die_with_parent,
            umask=closing.umask_of_server(),
        )


def _join(home: Path, say: Callable[[str], None]) -> Server:
    """The server that the commands of this home share, on a free port, without a UI: it is gone too soon for that.

    Who finds it starting waits here: its start and the imports of many commands at once would hold each other up.
    """
    client = _client_of(home)

    def launch_on_free_port(log: Path, users: Path) -> tuple[str, int]:
        say("No Prefect server is running: starting a temporary one for this command (make serve keeps one running)")
        with listener_on(0) as listener:
            variables = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}
            process = launch(listener, log, home, variables, users)
            process.returncode = 0  # it may outlive us, and then it is nobody's child
            return address_of(listener), process.pid

    own = own_server.join(home, client.auth_string or "", launch_on_free_port)
    server = Server(own.record.api_url, client, ours=True, own=own)
    if not own.is_starter:
        say("Using the temporary Prefect server that another command has started")
        try:
            server.wait()
        except BaseException:
            server.stop()
            raise
    return server

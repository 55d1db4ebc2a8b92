"""`python -m deployments.serve` (`make serve`): a whole Prefect site on this machine, for as long as it runs.

Brings up a server with its UI, tells it everything (`deployments/register.py`), keeps it and a process worker alive,
and ends both on Ctrl-C or SIGTERM. A second start finds the first one and says where it is; a server that is already
there is used and left running. Killed, it takes server and worker along and leaves a record that nobody believes: the
next start begins as if there had been none, and recovery takes up the runs that were interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import shlex
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from deployments import parts
from deployments.supervision import Silence, SupervisedProcess, describe_exit
from flows import access, server, site
from flows.closing import close
from flows.configuration import ClientSettings, client_settings
from flows.port import listener_on
from flows.site import POOL
from tidegate.durable import private
from tidegate.durable.home import DEFAULT_OUTPUT, Home
from tidegate.durable.lock import acquire
from tidegate.errors import BadInput, ServerUnavailable, TidegateError
from tidegate.settings import Settings

PORT = 4200
"""Where people, and other commands, look for a Prefect server."""
PORTS_TRIED = 20
LOOK_SECONDS = 0.5
HEALTH_SECONDS = 10.0
"""How often the server is asked whether it is well."""
HUNG_SECONDS = 120.0
"""A server that lives and does not answer for so long is ended and started again; on SQLite, 10 s can be healthy."""
STARTS_TRIED = 3
WORKER_PATIENCE_SECONDS = 45.0
"""A worker gives the runs that it ends 30 s."""
SERVER_PATIENCE_SECONDS = 15.0
DONE, FAILED = 0, 1


NOT_LOCALHOST = (
    "Another program has this port at the address ::1, which browsers may take “localhost” for. Give the password only "
    "to {}."
)
STANDS_OPEN = (
    "That server has no password: whoever reaches it, any web page in a browser on its machine too, can run programs "
    "here. Give it PREFECT_SERVER_API_AUTH_STRING and set PREFECT_API_AUTH_STRING to the same, or end it: then "
    "make serve brings up one with a password."
)


class Stopped(KeyboardInterrupt):
    """Ctrl-C, SIGTERM, or the terminal was closed."""


@dataclass(frozen=True)
class Place:
    """Where the server is, and the socket to launch it on if it is to be ours."""

    api_url: str
    listener: socket.socket | None

    @property
    def ui_url(self) -> str:
        return self.api_url.removesuffix("/").removesuffix("/api")

    def for_clients(self, home: Path) -> dict[str, str]:
        """The variables of those who talk to the server; one that was there has a password of its own, or none."""
        return access.for_client(home) if self.listener is not None else {}


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop; returns the exit code."""
    console = Console()
    words = _parser().parse_args(argv)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        home = Settings.load().store.home
        Home(home).make()
        for line in close(home):
            console.print(line, soft_wrap=True)
        try:
            lock = acquire(home / "serve.lock")
        except BlockingIOError:
            return _show_other_serve(home, console)
        try:
            return _serve(home, words.port, console)
        finally:
            site.forget(home)
            os.close(lock)
    except Stopped:
        return DONE
    except (TidegateError, OSError) as error:
        console.print(f"make serve: {error}", style="red", soft_wrap=True)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deployments.serve",
        description="A local Prefect server with its UI, all deployments with their schedules, and a worker. "
        "Ctrl-C ends it; runs that are interrupted go on from their checkpoints at the next start.",
    )
    parser.add_argument(
        "--port", type=int, help=f"port of the server; default {PORT}, or the next free one where that is taken"
    )
    return parser


def _stop(*_: int | FrameType | None) -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # an impatient second one does not stop the stopping
    raise Stopped


def _show_other_serve(home: Path, console: Console) -> int:
    """Somebody else serves this home: say where, once it answers."""
    until = time.monotonic() + server.STARTUP_SECONDS
    while time.monotonic() < until:
        kept = site.read(home)
        if kept and server.is_up(kept.api_url):
            place = Place(kept.api_url, None)
            console.print(f"Already served by process {kept.owner.pid}.\nPrefect UI: {place.ui_url}", soft_wrap=True)
            console.print("\n".join(_way_in(place, home, console)), soft_wrap=True, highlight=False)
            return DONE
        time.sleep(LOOK_SECONDS)
    raise ServerUnavailable(f"Another make serve holds {home}, and its server does not answer; end it and try again")


def _serve(home: Path, port: int | None, console: Console) -> int:
    place = find_place(home, port, console)
    site.record(home, place.api_url, ours=place.listener is not None)
    keeper = SiteKeeper(home, place, console)
    with _other_loopback(place, console):
        try:
            keeper.open()
            keeper.keep()
        finally:
            keeper.close()


@contextlib.contextmanager
def _other_loopback(place: Place, console: Console) -> Iterator[None]:
    """Nobody else gets our port on ::1 meanwhile: browsers take `localhost` for that first, and would show somebody
    else's page where people give the password. A socket that does not listen sends them on to us."""
    with contextlib.ExitStack() as held:
        if place.listener is not None and socket.has_ipv6:
            keeper = held.enter_context(socket.socket(socket.AF_INET6))
            try:
                keeper.bind(("::1", place.listener.getsockname()[1]))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    console.print(NOT_LOCALHOST.format(place.ui_url), style="red", soft_wrap=True, highlight=False)
        yield


def find_place(home: Path, port: int | None, console: Console) -> Place:
    """A server that is there already, or a port for our own.

    Raises:
        BadInput: the port that was asked for is taken by another program.
        ServerUnavailable: a server was named and does not answer, or there is no free port.
    """
    running = _find_server(home, port)
    if running is not None:
        console.print(f"Using the Prefect server at {running}; it stays when this ends.", soft_wrap=True)
        if access.stands_open(running):
            console.print(STANDS_OPEN, style="red", soft_wrap=True)
        return Place(running, None)
    wanted = PORT if port is None else port
    for candidate in range(wanted, wanted + PORTS_TRIED):
        try:
            listener = listener_on(candidate)
        except OSError as error:
            if port is not None:
                raise BadInput(
                    f"Port {port} is taken by another program; choose another one with --port. Where that is a Prefect "
                    "server with a password, set PREFECT_API_AUTH_STRING to use it"
                ) from error
            continue
        if candidate != wanted:
            console.print(f"Port {wanted} is taken by another program; using {candidate}.")
        return Place(server.address_of(listener), listener)
    raise ServerUnavailable(f"No port from {wanted} to {wanted + PORTS_TRIED - 1} is free")


def _find_server(home: Path, port: int | None) -> str | None:
    """The address of a server that is there; with a port, only one there."""
    if port is not None:
        api_url = f"http://127.0.0.1:{port}/api"
        return api_url if port and server.is_ours(api_url, client_settings()) else None
    found = server.found(home)
    return None if found is None else found.api_url


def _way_in(place: Place, home: Path, console: Console) -> list[str]:
    """What people and programs do to get in. The password is told to a terminal only: a log has other readers."""
    file = access.password_file(home)
    if access.own_login() not in (None, access.home_login(home)):
        return [
            "Its password is the one that you have set: PREFECT_SERVER_API_AUTH_STRING, or PREFECT_API_AUTH_STRING."
        ]
    password = f'PREFECT_API_AUTH_STRING="$(cat {shlex.quote(str(file))})"'
    login = access.login_of(home) if console.is_terminal else f"the line in {file}"
    return [
        f"Its login: {login}" + (f" (kept in {file})" if console.is_terminal else ""),
        f"The prefect command:   export PREFECT_API_URL={place.api_url} {password}",
        f"A worker elsewhere:    PREFECT_API_URL=https://NAME/api PREFECT_API_AUTH_STRING='that line' "
        f"prefect worker start --pool {POOL}; here TIDEGATE_SERVE_ADDRESSES=https://NAME",
        f"""A script:              printf 'user = "%s"' "$(cat {shlex.quote(str(file))})" | """
        f"curl --config - {place.api_url}/admin/version",
    ]


def _reach(settings: Settings) -> str:
    """What an operator has to know who ingests from hosts of their own, as long as they have said nothing about it."""
    network = settings.network
    if network.policy is not None or network.addresses.entries:
        return ""
    return (
        "Its runs reach public addresses only; for a NAS, a camera or this machine start it with "
        "TIDEGATE_NETWORK_ALLOW=HOST:PORT.\n"
    )


class SiteKeeper:
    """Everything that is kept alive, and the order in which it begins and ends."""

    def __init__(self, home: Path, place: Place, console: Console) -> None:
        self.home = home
        self.place = place
        self.console = console
        self.logs = home / "logs"
        self.server: SupervisedProcess | None = None
        if place.listener is not None:
            listener, log = place.listener, self._log("server")
            self.server = SupervisedProcess(
                "The Prefect server", lambda: parts.start_server(listener, log, home), self.tell
            )
        worker_log, door_log, self.password = self._log("worker"), self._log("door"), place.for_clients(home)
        self.door = SupervisedProcess(
            "The door for containers", lambda: parts.start_door(home, place.api_url, door_log), self.tell
        )
        self.worker = SupervisedProcess(
            "The worker", lambda: parts.start_worker(place.api_url, worker_log, self.password, home), self.tell
        )

    def open(self) -> None:
        """Bring the site up, and say where it is.

        Raises:
            ServerUnavailable: the server does not start, or refuses what it is told.
        """
        self._start_server()
        self.console.print("Registering blocks, work pools, deployments, schedules and the automation …")
        self._register()
        self.worker.look(time.monotonic())
        way_in = _way_in(self.place, self.home, self.console) if self.server else []
        self.console.print(
            "\n".join([f"Prefect UI: {self.place.ui_url}", *way_in]) + "\n"
            f"A worker takes runs from the work pool “{POOL}”; logs are in {self.logs}.\n"
            f"Results go to {self._outputs()}, unless a run names a folder.\n"
            f"{_reach(Settings.load())}"
            f"Ctrl-C ends it. Runs that are at work are interrupted then, and go on at the next start.",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )

    def keep(self) -> NoReturn:
        """Watch over the parts until told to stop."""
        silence, asked_at = Silence(HUNG_SECONDS), time.monotonic()
        while True:
            now = time.monotonic()
            for part in (self.server, self.door if self.server else None, self.worker):
                if part is not None:
                    part.look(now)
            if self.server is not None and now - asked_at >= HEALTH_SECONDS:
                asked_at = now
                if silence.is_too_long(server.is_up(self.place.api_url, settings=self._client()), now):
                    self.tell(f"The Prefect server has not answered for {HUNG_SECONDS:.0f} s")
                    self.server.kill()
                    silence = Silence(HUNG_SECONDS)
            time.sleep(LOOK_SECONDS)

    def close(self) -> None:
        """End the worker and its runs, which still tell the server, and then the server."""
        if self.worker.process is not None:
            self.console.print("Stopping the worker and the server …" if self.server else "Stopping the worker …")
            interrupted, runs = self._at_work(), parts.runs_of(self.worker.process)
            self.worker.stop(WORKER_PATIENCE_SECONDS)
            parts.end(runs)
            if interrupted:
                runs_were = "1 run was" if interrupted == 1 else f"{interrupted} runs were"
                line = f"{runs_were} interrupted; recovery goes on from the checkpoints at the next start."
                self.console.print(line, soft_wrap=True)
        if self.server is not None:
            self.door.stop(SERVER_PATIENCE_SECONDS)
            self.server.stop(SERVER_PATIENCE_SECONDS)
        if self.place.listener is not None:
            self.place.listener.close()

    def tell(self, line: str) -> None:
        """One line with the time of day."""
        self.console.print(f"{datetime.now().astimezone():%H:%M:%S} {line}", soft_wrap=True)

    def _start_server(self) -> None:
        if self.server is None:
            return
        for _ in range(STARTS_TRIED):
            process = self.server.start()
            self.server.process = process
            if self._answers_before_it_ends():
                return
            self.tell(f"The Prefect server ended ({describe_exit(process.wait())})")
        raise ServerUnavailable(f"The Prefect server does not start; see {self._log('server')}")

    def _answers_before_it_ends(self) -> bool:
        assert self.server is not None and self.server.process is not None  # noqa: S101
        until = time.monotonic() + server.STARTUP_SECONDS
        while self.server.process.poll() is None:
            if server.is_up(self.place.api_url):
                return True
            if time.monotonic() > until:
                self.server.kill()
            time.sleep(0.1)
        return False

    def _register(self) -> None:
        log = self._log("register")
        for _ in range(STARTS_TRIED):
            process = parts.start_registration(self.place.api_url, log, self.password)
            try:
                if process.wait() == 0:
                    return
            finally:
                process.kill()
        raise ServerUnavailable(f"The server refuses what it is told; see {log}")

    def _outputs(self) -> Path:
        return Home(self.home).outputs(Path(DEFAULT_OUTPUT), Settings.load().store.output)

    def _log(self, name: str) -> Path:
        """A log of its own for each part, begun anew once it is large."""
        private.make_folder(self.logs)
        path = self.logs / f"{name}.log"
        if path.exists() and path.stat().st_size > 10_000_000:
            path.replace(path.with_suffix(".log.1"))
        return path

    def _client(self) -> ClientSettings:
        """Who says the password need not queue with those who do not."""
        return ClientSettings(auth_string=self.password.get("PREFECT_API_AUTH_STRING"))

    def _authorization(self) -> dict[str, str]:
        login = self.password.get("PREFECT_API_AUTH_STRING") or access.own_login()
        return {"Authorization": access.basic(login)} if login else {}

    def _at_work(self) -> int:
        """How many runs of our pool are at work; 0 where the server does not say."""
        query = {
            "flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}},
            "work_pools": {"name": {"any_": [POOL]}},
        }
        request = urllib.request.Request(  # noqa: S310
            f"{self.place.api_url}/flow_runs/count",
            json.dumps(query).encode(),
            {"Content-Type": "application/json", **self._authorization()},
        )
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as answer:
                return int(json.load(answer))
        except (OSError, ValueError):
            return 0


if __name__ == "__main__":
    sys.exit(main())

"""A whole site for a test: server, pools, deployments, automation, worker, in a home and on a port of its own.

Started with the functions that `make serve` uses, so what holds here holds there. Every part can be killed and started
again; the run processes carry the site's mark, so nothing is left when the test ends.

    with started_site(tmp_path) as site:
        run = site.trigger("ingest", {"source": {"url": str(clip)}, "output_dir": str(site.output)})
        os.kill(site.process_of(run).pid, signal.SIGKILL)
        site.wait(run, {"COMPLETED"}, seconds=120)
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from deployments import parts
from flows import access, server
from flows.port import listener_on
from flows.site import POOL
from tests.support import prefect_database
from tests.support.command import QUICK, ROOT, Command, wait_until
from tests.support.leaks import MARK, children, end_children, marking

FINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
CLIPS = Path(os.environ.get("TIDEGATE_TEST_CLIPS", ROOT / ".cache" / "clips"))
"""Films that tests hand over lie there or beside the site."""
START_SECONDS = 120.0


@dataclass
class Site:
    """A server and a worker with all deployments; `started_site` makes one."""

    home: Path
    """Its PREFECT_HOME, TIDEGATE_HOME and logs lie in here."""
    output: Path
    mark: str
    environment: dict[str, str]
    """What its processes get on top of the test's own environment."""
    port: int = 0
    server: subprocess.Popen[bytes] | None = None
    worker: subprocess.Popen[bytes] | None = None

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def tidegate(self) -> Path:
        return Path(self.environment["TIDEGATE_HOME"])

    def password(self) -> dict[str, str]:
        """What its clients are told."""
        return access.for_client(self.tidegate)

    def env(self) -> dict[str, str]:
        """The environment of a command that belongs to this site."""
        own = {"PREFECT_API_URL": self.api_url, **self.password(), MARK: self.mark}
        return {**os.environ, **self.environment, **own}

    def command(self) -> Command:
        """`python -m flows.run` against this site."""
        own = {"PREFECT_API_URL": self.api_url, **self.password()}
        return Command(self.home, self.output, {**self.environment, **own}, self.mark)

    def start_server(self) -> None:
        """Start it, or start it again on the port it had, and wait until it answers."""
        with listener_on(self.port) as listener, self._own_environment():
            self.port = listener.getsockname()[1]
            self.server = parts.start_server(listener, self.home / "server.log", self.tidegate)
        wait_until(self.answers, seconds=START_SECONDS, what=f"for the server, see {self.home}/server.log")

    def answers(self) -> bool:
        return server.is_up(self.api_url)

    def register(self) -> None:
        """Tell the server everything."""
        log = self.home / "register.log"
        with self._own_environment():
            code = parts.start_registration(self.api_url, log, self.password()).wait(START_SECONDS)
        assert code == 0, log.read_text()

    def pause(self, *flows: str) -> None:
        """Their schedules make no more runs; triggering them still does."""
        for flow in flows:
            deployment = self.get(f"deployments/name/{flow}/{flow}")
            self._asked("POST", f"deployments/{deployment['id']}/pause_deployment")

    def start_worker(self) -> None:
        """Start it and wait until the server knows it."""
        known = {worker["id"] for worker in self._workers()}
        with self._own_environment():
            self.worker = parts.start_worker(
                self.api_url,
                self.home / "worker.log",
                {"PREFECT_WORKER_QUERY_SECONDS": "1", **self.password()},
                self.tidegate,
            )
        wait_until(
            lambda: {worker["id"] for worker in self._workers()} - known,
            seconds=START_SECONDS,
            what=f"for the worker, see {self.home}/worker.log",
        )

    def kill_server(self, with_signal: signal.Signals = signal.SIGKILL) -> None:
        """Its port refuses connections until `start_server`."""
        self.server = _ended(self.server, with_signal)

    def kill_worker(self, with_signal: signal.Signals = signal.SIGKILL) -> None:
        """The worker alone; what becomes of its flow processes is what the test is about."""
        self.worker = _ended(self.worker, with_signal)

    def trigger(
        self,
        flow: str,
        parameters: Mapping[str, Any] | None = None,
        job_variables: Mapping[str, Any] | None = None,
        *,
        deployment: str | None = None,
    ) -> str:
        """A run of the deployment `flow/deployment` (both have the flow's name unless told), to start at once."""
        found = self.get(f"deployments/name/{flow}/{deployment or flow}")
        told = {
            "parameters": dict(parameters or {}),
            "job_variables": dict(job_variables or {}),
            "state": {"type": "SCHEDULED"},
        }
        return str(self.post(f"deployments/{found['id']}/create_flow_run", told)["id"])

    def run(self, run: str) -> dict[str, Any]:
        """The flow run as the server has it."""
        return dict(self.get(f"flow_runs/{run}"))

    def state(self, run: str) -> dict[str, Any]:
        """Its state: `type`, `name`, `message`, `timestamp`."""
        return dict(self.run(run)["state"])

    def states(self, run: str) -> list[str]:
        """The names of all its states, in their order."""
        return [state["name"] for state in self.history(run)]

    def history(self, run: str) -> list[dict[str, Any]]:
        """All its states as the server has them, in their order."""
        return list(self.get("flow_run_states/", flow_run_id=run))

    def set_state(self, run: str, type_: str, name: str | None = None, *, force: bool = True) -> dict[str, Any]:
        """Give it another state, as the UI does."""
        return dict(self.post(f"flow_runs/{run}/set_state", {"state": {"type": type_, "name": name}, "force": force}))

    def wait(self, run: str, types: Collection[str] = FINAL, seconds: float = 120.0) -> dict[str, Any]:
        """Poll until the run's state is of one of the types; gives the state. The server may be away meanwhile.

        Raises:
            AssertionError: it was not in time.
        """
        until = time.monotonic() + seconds
        state: dict[str, Any] = {}
        while True:
            with contextlib.suppress(httpx.HTTPError):
                state = self.state(run)
                if state["type"] in types:
                    return state
            assert time.monotonic() < until, f"{run} is {state}, not one of {sorted(types)}; logs in {self.home}"
            time.sleep(0.25)

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """All runs of a flow, the first one first."""
        told = {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_ASC"}
        return list(self.post("flow_runs/filter", told))

    def processes_of(self, run: str) -> list[psutil.Process]:
        """The processes of that run: the one that runs the flow, and its children, in the order of their start."""
        found = [process for process in children(self.mark) if _environ(process).get("PREFECT__FLOW_RUN_ID") == run]
        return sorted(found, key=lambda process: process.create_time())

    def process_of(self, run: str, seconds: float = 60.0) -> psutil.Process:
        """The process that runs the flow, once there is one: the worker's child becomes it by exec.

        Raises:
            AssertionError: there was none in time.
        """
        until = time.monotonic() + seconds
        while True:
            for process in self.processes_of(run):
                if "prefect.engine" in _words(process):
                    return process
            assert time.monotonic() < until, f"no process of {run} in {seconds} s; logs in {self.home}"
            time.sleep(0.05)

    def kill(self, run: str, with_signal: signal.Signals = signal.SIGKILL) -> psutil.Process:
        """Send the process that runs the flow a signal; gives the process."""
        process = self.process_of(run)
        process.send_signal(with_signal)
        return process

    def get(self, path: str, **query: str) -> Any:
        return self._asked("GET", path, params=query)

    def post(self, path: str, told: Mapping[str, Any] | None = None) -> Any:
        return self._asked("POST", path, json=dict(told or {}))

    def delete(self, path: str) -> None:
        self._asked("DELETE", path)

    def patch(self, path: str, told: Mapping[str, Any]) -> None:
        self._asked("PATCH", path, json=dict(told))

    def _asked(self, method: str, path: str, **what: Any) -> Any:
        return asked(method, f"{self.api_url}/{path}", access.login_of(self.tidegate), **what)

    def stop(self) -> None:
        """End everything, whatever state it is in."""
        self.kill_worker(signal.SIGTERM)
        self.kill_server(signal.SIGTERM)
        end_children(self.mark)

    def _workers(self) -> list[dict[str, Any]]:
        return list(self.post(f"work_pools/{POOL}/workers/filter"))

    @contextmanager
    def _own_environment(self) -> Iterator[None]:
        """The parts inherit the environment of the process that starts them, so it is this site's meanwhile."""
        before = dict(os.environ)
        os.environ.pop("PREFECT_API_URL", None)
        os.environ.update(self.environment)
        os.environ[MARK] = self.mark
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


@contextmanager
def started_site(
    folder: Path,
    environment: Mapping[str, str] | None = None,
    *,
    worker: bool = True,
    schedules: bool = False,
    registered: bool = True,
) -> Iterator[Site]:
    """A site in `folder`, everything up; stopped at the end of the block, however that ends. One that is not registered
    is a server with nothing of ours on it.

    Without `schedules`, recover and maintain run only when a test triggers them: with a limit of one, a scheduled one
    that is at work would have the test's own cancelled.
    """
    home = folder / "site"
    home.mkdir(parents=True)
    told = {
        **QUICK,
        "HOME": str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "TIDEGATE_HOME": str(home / "tidegate"),
        "PYTHONPATH": str(ROOT),
        "TIDEGATE_NETWORK_ALLOW": "127.0.0.1",  # where tests have their origins; a deployment reaches no loopback else
        "TIDEGATE_ROOTS": os.pathsep.join(map(str, (folder.parent, CLIPS))),
        **(environment or {}),
    }
    with marking() as mark:
        site = Site(home, folder / "out", mark, told)
        try:
            prefect_database.laid_into(home / "prefect")
            site.start_server()
            if registered:
                site.register()
            if registered and not schedules:
                site.pause("recover", "maintain")
            if worker and registered:
                site.start_worker()
            yield site
        finally:
            site.stop()


def asked(method: str, address: str, login: str, **what: Any) -> Any:
    """What an API answers; a server whose SQLite is busy says 503, and is asked again as Prefect's own client does."""
    for _ in range(20):
        answer = httpx.request(method, address, headers={"Authorization": access.basic(login)}, timeout=30, **what)
        if answer.status_code != 503:
            break
        time.sleep(0.5)
    answer.raise_for_status()
    return answer.json() if answer.content else None


def _ended(process: subprocess.Popen[bytes] | None, with_signal: signal.Signals) -> None:
    if process is None:
        return
    process.send_signal(with_signal)
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _environ(process: psutil.Process) -> Mapping[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.Error, OSError):
        return []

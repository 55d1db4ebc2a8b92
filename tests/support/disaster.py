"""Runs of a site that are killed, recovered and looked at afterwards: what recovery and maintenance are proven with.

Tests trigger a `Triggered` run with a source and an output folder of its own, let something happen to it, call
`recover`, and end with `went_on_well`: once completed, once published, nothing done twice, nothing left.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from flows import access
from tests.support import fake_tool
from tests.support.command import wait_until
from tests.support.hosts import Host
from tests.support.leaks import children, command_lines, leftovers
from tests.support.site import Site
from tidegate.durable.children import ATTEMPT_VARIABLE as ATTEMPT_MARK
from tidegate.durable.home import Home
from tidegate.durable.ledger import Attempt, AttemptState, Ledger, Recovery
from tidegate.media.ffmpeg import Toolchain
from tidegate.settings import LedgerSettings, ToolSettings

Fresh = Callable[[str], Path]
"""Gives a copy of a film that no run has seen before."""
MIB = 1024 * 1024


_numbers = itertools.count(1)


@dataclass
class Folders:
    """Watches an output folder from beside the run: every folder that ever stood there, by inode, in order."""

    output: Path
    seen: dict[tuple[str, int], float] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def watched(self) -> Iterator[Folders]:
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.look()

    def look(self) -> None:
        with suppress(OSError):
            for entry in os.scandir(self.output):
                if not entry.name.startswith("."):
                    self.seen.setdefault((entry.name, entry.inode()), time.monotonic())


@dataclass
class Triggered:
    """One ingest of a site, with a folder of its own below the site's output."""

    site: Site
    id: str
    output: Path
    environment: dict[str, str]

    @property
    def state(self) -> str:
        return str(self.site.state(self.id)["type"])

    @property
    def home(self) -> Home:
        return Home(self.site.home / "tidegate")

    def attempts(self) -> list[Attempt]:
        """Its rows in the ledger, the oldest first."""
        return [one for one in attempts_of(self.site) if one.flow_run == self.id]

    def process(self, seconds: float = 60.0) -> psutil.Process:
        return self.site.process_of(self.id, seconds)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> float:
        """Send its flow process a signal; gives when."""
        self.site.kill(self.id, number)
        return time.monotonic()

    def wait(self, *types: str, seconds: float = 120.0) -> dict[str, Any]:
        return self.site.wait(self.id, types or ("COMPLETED",), seconds)

    def wait_for_last_word(self) -> None:
        """Wait until the worker has told of every process that it lost a second time.

        That comes 2 s after the first, and 10 s on a busy machine: then it would overwrite what a recover has set,
        and Prefect would end the new process with it. That heals with the next recover; tests do with one.
        """
        log = self.site.home / "worker.log"

        def told(by: str) -> int:
            return len(re.findall(rf"\| {re.escape(by)} - Check whether", log.read_text()))

        until = time.monotonic() + 20
        while told("prefect.flow_runs.worker") < told("prefect.runner.flow_run_executor") and time.monotonic() < until:
            time.sleep(0.2)
        time.sleep(1)

    def wait_for(self, what: Callable[[Attempt], object], seconds: float = 60.0) -> Attempt:
        """Wait until its latest attempt is as `what` says; gives the attempt."""
        found: list[Attempt] = []

        def so() -> bool:
            found[:] = self.attempts()[-1:]
            return bool(found and what(found[0]))

        wait_until(so, seconds=seconds, what=f"for an attempt of {self.id}")
        return found[0]

    def folders(self) -> list[Path]:
        return sorted(path for path in self.output.glob("*") if path.is_dir())

    def media(self) -> bytes:
        """The published video."""
        [folder] = self.folders()
        [video] = folder.glob("*.mp4")
        return video.read_bytes()

    def errors(self) -> list[str]:
        """What its log says as errors, as far as the server has heard."""
        told = {"logs": {"flow_run_id": {"any_": [self.id]}, "level": {"ge_": logging.ERROR}}}
        return [one["message"] for one in self.site.post("logs/filter", told)]

    def made(self) -> Counter[str]:
        """How often each stage was done to its end, as far as Prefect has heard; from a checkpoint it was not done."""
        told = {"flow_runs": {"id": {"any_": [self.id]}}}
        runs = self.site.post("task_runs/filter", told)
        return Counter(
            run["task_key"].partition("-")[0] for run in runs if (run["state"] or {}).get("name") == "Completed"
        )


def triggered(
    site: Site, name: str, source: str, environment: Mapping[str, str] | None = None, **parameters: Any
) -> Triggered:
    """Trigger the deployment `ingest`; its process gets `environment` as well, and what fake tools are allowed here."""
    output = site.output / f"{name}-{next(_numbers)}"
    told = {"source": {"url": source}, "output_dir": str(output), **parameters}
    env = fake_tool.permission() | dict(environment or {})
    return Triggered(site, site.trigger("ingest", told, {"env": env}), output, env)


@dataclass
class Undisturbed:
    """One command that ingests all films while nobody disturbs it; the others are compared with what it publishes."""

    process: subprocess.Popen[str]
    films: Mapping[str, Path]
    _published: dict[str, Path] = field(default_factory=dict)

    def media(self, film: str) -> bytes:
        """The video published of that film."""
        if not self._published:
            stdout, stderr = self.process.communicate(timeout=180)
            assert self.process.returncode == 0, stderr
            told = json.loads(stdout)["results"]
            self._published = {name: Path(one["output"]["path"]) for name, one in zip(self.films, told, strict=True)}
        return self._published[film].read_bytes()


@contextmanager
def undisturbed(site: Site, folder: Path, films: Mapping[str, Path]) -> Iterator[Undisturbed]:
    """Begin with it; it has time until somebody asks."""
    command = site.command()
    command.environment["TIDEGATE_HOME"] = str(folder / "home")
    command.output = folder / "out"
    with command.started(*(str(film) for film in films.values())) as process:
        yield Undisturbed(process, films)


def ledger_of(site: Site) -> Ledger:
    """The site's ledger; close it."""
    return Ledger.open(LedgerSettings(url=site.environment.get("TIDEGATE_LEDGER_URL")), Home(site.home / "tidegate"))


def attempts_of(site: Site) -> list[Attempt]:
    """All rows of the site's ledger, the oldest first."""
    ledger = ledger_of(site)
    try:
        return ledger.recent(10 * 24 * 3600)
    finally:
        ledger.close()


def recoveries_of(run: Triggered) -> Recovery | None:
    """What the ledger has counted of its recoveries."""
    ledger = ledger_of(run.site)
    try:
        return ledger.recoveries_of([run.id]).get(run.id)
    finally:
        ledger.close()


def without_automation(site: Site) -> None:
    """The server sets no run to Crashed by itself. Recovery does not need it, and what it does costs the server's
    SQLite database locks that last a minute when several runs change their states at once.
    """
    for automation in site.post("automations/filter"):
        site.patch(f"automations/{automation['id']}", {"enabled": False})


def caretaker(
    site: Site, flow: str, *words: str, environment: Mapping[str, str] | None = None, on: Host | None = None
) -> subprocess.Popen[str]:
    """`python -m flows.runs recover` (or `maintain`), started, here or on another host."""
    argv = [sys.executable, "-m", "flows.runs", flow, "--json", *words]
    return subprocess.Popen(
        on.argv(argv) if on else argv,
        env={**site.env(), **(environment or {})},
        cwd=site.home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told_by(process: subprocess.Popen[str], seconds: float = 120.0) -> list[dict[str, Any]]:
    """What a started caretaker said it did."""
    stdout, stderr = process.communicate(timeout=seconds)
    assert process.returncode == 0, stdout + stderr
    told: list[dict[str, Any]] = json.loads(stdout)
    return told


def recover(site: Site, *words: str, environment: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """One recover by hand; what it did, by flow run."""
    told = told_by(caretaker(site, "recover", *words, environment=environment))
    return {str(rescue["run"]): rescue for rescue in told}


def recover_here(site: Site, environment: Mapping[str, str] | None = None, *, dry_run: bool = False) -> dict[str, Any]:
    """The same flow in this process, which has imported Prefect already: saves some seconds."""
    with _inside(site, environment or {}):
        from flows.recover import recover as flow

        rescues = asyncio.run(flow(dry_run))
    return {str(rescue.run): rescue for rescue in rescues}


@contextmanager
def _inside(site: Site, environment: Mapping[str, str]) -> Iterator[None]:
    """This process belongs to the site for a while."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_HOME, temporary_settings

    before = dict(os.environ)
    os.environ.update({**site.environment, **environment})
    told = {
        PREFECT_API_URL: site.api_url,
        PREFECT_API_AUTH_STRING: access.login_of(site.tidegate),
        PREFECT_HOME: site.home / "prefect",
    }
    try:
        with temporary_settings(told):
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


SLOW_ONCE = """#!/bin/sh
echo "$*" >> {calls}
case " $* " in *" idet "*) exec {real} "$@" ;; *" -progress "*) ;; *) exec {real} "$@" ;; esac
if mkdir {marker} 2>/dev/null; then
    {before}
    exec {real} {slowly} "$@"
fi
exec {real} "$@"
"""


def slow_once(folder: Path, before: str = "", slowly: str = "-re") -> Path:
    """The ffmpeg that a run finds, whose first piece of work takes as long as its input plays, and every later one as
    usual. A look at samples of the pictures is none.

    `before` is said to the shell right before that first piece of work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tool = folder / "ffmpeg-slow-once"
    quoted = {
        "calls": shlex.quote(str(folder / "ffmpeg-slow-once.calls")),
        "marker": shlex.quote(str(folder / "slow")),
        "real": shlex.quote(str(Toolchain.find(ToolSettings()).ffmpeg.absolute())),
    }
    tool.write_text(SLOW_ONCE.format(before=before, slowly=slowly, **quoted))
    tool.chmod(0o755)
    fake_tool.allow(tool.parent)
    return tool


def is_slow_now(tool: Path) -> bool:
    """Whether its slow piece of work has begun."""
    return (tool.parent / "slow").exists()


STUBBORN = "(trap '' TERM INT HUP; exec sleep 600) >/dev/null 2>&1 &"
"""For `slow_once`: a grandchild of the run that is deaf to every polite signal."""
DETACHED = "setsid sh -c \"trap '' TERM INT HUP; exec sleep 600\" >/dev/null 2>&1 &"
"""The same in a session of its own."""


def went_on_well(run: Triggered, folders: Folders, undisturbed: bytes, *, attempts: int, completed: int = 1) -> None:
    """The run ended once, well, and left nothing: all that a recovery promises.

    It made so many `attempts`; more than one of them `completed` if Prefect was not told of the first.

    Raises:
        AssertionError: something of that does not hold.
    """
    states = run.site.states(run.id)
    assert states[-1] == "Completed" and states.count("Completed") == 1, states
    rows = run.attempts()
    told = [(row.state.value, row.failure, row.stage) for row in rows]
    assert [row.state for row in rows].count(AttemptState.COMPLETED) == completed, told
    assert not {row.state for row in rows} & {AttemptState.RUNNING, AttemptState.INTERRUPTED}, told
    assert len(rows) == attempts, told
    assert all(row.slot_at is None for row in rows), rows
    published_once(run, folders)
    assert run.media() == undisturbed, "the media differ from those of an undisturbed run"
    assert max(run.made().values(), default=1) == 1, run.made()
    nothing_left(run)


def published_once(run: Triggered, folders: Folders) -> None:
    """One folder, and the same one since it first appeared."""
    folders.look()
    assert len(run.folders()) == 1, run.folders()
    stood = [name for name, _ in folders.seen]
    assert stood == [run.folders()[0].name], folders.seen


def nothing_left(run: Triggered) -> None:
    """No process, no scratch, no lock, no held work, nothing half-made."""
    wait_until(lambda: not processes_of(run), seconds=10, what=f"for the processes of {run.id}: {processes_of(run)}")
    keys = {row.work_key for row in run.attempts() if row.work_key}
    scratch = run.home.root / "scratch"
    assert [path.name for path in scratch.iterdir() if path.name.partition(".")[0] in keys] == []
    assert leftovers(run.output, ("*.tmp", "*.partial", "*.part*")) == []
    assert held(run.site) & keys == set()


def held(site: Site) -> set[str]:
    """The work keys that some attempt holds."""
    with sqlite3.connect(site.home / "tidegate" / "ledger.db") as connection:
        return {key for (key,) in connection.execute("SELECT work_key FROM works WHERE holder IS NOT NULL")}


def processes_of(run: Triggered) -> list[str]:
    """The command lines of what lives of the run: its flow process, and whatever carries a mark of its attempts."""
    marks = {row.id for row in run.attempts()}
    return command_lines(
        process
        for process in children(run.site.mark)
        if _says(process, "PREFECT__FLOW_RUN_ID") == run.id or _says(process, ATTEMPT_MARK) in marks
    )


def _says(process: psutil.Process, name: str) -> str | None:
    with suppress(psutil.Error, OSError):
        return process.environ().get(name)
    return None

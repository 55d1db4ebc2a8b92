"""Two hosts with one PostgreSQL ledger and one store: nothing is done twice, and whoever is cut off stops in time."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import hosts, postgres
from tests.support.aftermath import end_of
from tests.support.command import wait_until
from tests.support.disaster import (
    Folders,
    Fresh,
    Undisturbed,
    caretaker,
    slow_once,
    told_by,
    triggered,
)
from tests.support.leaks import children
from tests.support.proxy import Proxy
from tests.support.site import Site
from tidegate.durable.home import Home
from tidegate.durable.ledger import Attempt, AttemptState, Ledger
from tidegate.settings import LedgerSettings

MISSING = postgres.missing() or hosts.missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

SHORT = {
    "TIDEGATE_LEDGER_RENEW_EVERY": "1",
    "TIDEGATE_LEDGER_GIVE_UP": "8",
    "TIDEGATE_LEDGER_LEASE": "12",
    "TIDEGATE_LEDGER_BUSY_TIMEOUT": "2",
    "TIDEGATE_LEDGER_STATEMENT_TIMEOUT": "2",
}
"""The same order as deployed: renewals, then giving up, then the end of the lease."""


@dataclass
class Hosts:
    """Two hosts, what they share, and their ledger."""

    site: Site
    one: hosts.Host
    other: hosts.Host
    environment: dict[str, str]
    """Of everything that runs on either."""
    ledger: Ledger

    def run(self, host: hosts.Host, output: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
        """`python -m flows.run` on that host, started."""
        argv = [sys.executable, "-m", "flows.run", *words, "--output-dir", str(output), "--json"]
        return subprocess.Popen(
            host.argv(argv),
            env={**self.site.env(), **self.environment, **host.environment, **environment},
            cwd=self.site.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def attempts(self, film: Path) -> list[Attempt]:
        return [one for one in self.ledger.recent(3600) if one.title.endswith(film.name)]

    def attempt(self, film: Path, host: hosts.Host) -> Attempt | None:
        return next((one for one in self.attempts(film) if one.owner.host == host.name), None)


@pytest.fixture(scope="module")
def pair(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with ExitStack() as stack:
        network = stack.enter_context(hosts.network())
        one, other = network.add(), network.add()
        cluster = stack.enter_context(postgres.cluster(network.address))
        database = stack.enter_context(cluster.database())
        api = Proxy(("127.0.0.1", site.port), network.address)
        stack.callback(api.close)
        site.environment["TIDEGATE_SERVE_ADDRESSES"] = f"http://{api.host}:{api.port}"
        site.kill_server()
        site.start_server()
        environment = {
            **SHORT,
            "TIDEGATE_LEDGER_URL": cluster.url(database),
            "PREFECT_API_URL": f"http://{api.host}:{api.port}/api",
            "TIDEGATE_HOME": str(tmp_path_factory.mktemp("shared") / "home"),
        }
        ledger = Ledger.open(LedgerSettings(url=cluster.url(database)), Home(Path(environment["TIDEGATE_HOME"])))
        stack.callback(ledger.close)
        yield Hosts(site, one, other, environment, ledger)


def ffmpeg_of(site: Site, tool: Path) -> list[psutil.Process]:
    """The ffmpeg that the slow tool has become, and is still at work."""
    return [one for one in children(site.mark) if "-re" in one.cmdline() and str(tool.parent) in str(one.environ())]


def test_two_commands_of_one_source_on_two_hosts_do_the_work_once(
    pair: Hosts, fresh: Fresh, straight: Undisturbed, tmp_path: Path
) -> None:
    film, output = fresh("minute"), tmp_path / "out"
    tool = slow_once(tmp_path / "tool", slowly="-readrate 8")
    with Folders(output).watched() as folders:
        first = pair.run(pair.one, output, str(film), TIDEGATE_TOOLS_FFMPEG=str(tool))
        second = pair.run(pair.other, output, str(film), TIDEGATE_TOOLS_FFMPEG=str(tool))
        ended = [end_of(process, seconds=120) for process in (first, second)]
    assert [one.code for one in ended] == [0, 0], [one.stderr for one in ended]
    made = [[name for name, record in one.document["stages"].items() if not record["cached"]] for one in ended]
    assert sorted(made, key=len) == [[], ["probe", "download", "remux", "analyze", "publish"]]
    assert Path(ended[0].document["output"]["path"]).read_bytes() == straight.media("minute")
    folders.look()
    assert len(folders.seen) == 1
    assert {one.state for one in pair.attempts(film)} == {AttemptState.COMPLETED}


@pytest.mark.slow
def test_a_host_that_is_cut_off_stops_before_the_other_takes_over(
    pair: Hosts, fresh: Fresh, straight: Undisturbed, tmp_path: Path
) -> None:
    film, output = fresh("transcoded"), tmp_path / "out"
    tool = slow_once(tmp_path / "tool")
    with Folders(output).watched() as folders:
        cut = pair.run(pair.one, output, str(film), TIDEGATE_TOOLS_FFMPEG=str(tool))
        try:
            wait_until(lambda: (one := pair.attempt(film, pair.one)) and one.stage == "remux" and one.done, seconds=60)
            [working] = ffmpeg_of(pair.site, tool)
            winner = pair.run(pair.other, output, str(film))
            wait_until(lambda: (one := pair.attempt(film, pair.other)) and one.waiting_for, seconds=60)
            pair.one.cut_off()
            cut_at, stopped_at, taken_at = time.monotonic(), 0.0, 0.0
            while not taken_at:
                assert time.monotonic() - cut_at < 60
                if not stopped_at and not working.is_running():
                    stopped_at = time.monotonic()
                waiting = pair.attempt(film, pair.other)
                if waiting is not None and waiting.epoch:
                    taken_at = time.monotonic()
            assert stopped_at, "the loser's ffmpeg was still at work when the other one took over"
            won = end_of(winner, seconds=120)
        finally:
            pair.one.reconnect()
        lost = end_of(cut, seconds=180)
    assert won.code == 0, won.stderr
    assert lost.code == 1 and lost.failure["type"] in ("lease_lost", "superseded"), lost.stdout + lost.stderr
    assert Path(won.document["output"]["path"]).read_bytes() == straight.media("transcoded")
    folders.look()
    assert len(folders.seen) == 1, folders.seen


@pytest.mark.slow
def test_two_recovers_on_two_hosts_take_up_a_run_once_its_lease_has_ended(
    pair: Hosts, fresh: Fresh, straight: Undisturbed, tmp_path: Path
) -> None:
    """The process of a third host is gone; nobody can know it before the lease ends."""
    of_run: Mapping[str, str] = {
        **{name: value for name, value in pair.environment.items() if not name.startswith("PREFECT")},
        "TIDEGATE_HOST_ID": "a-third-host",
        "TIDEGATE_CRASH_AT": "remux: started",
        "TIDEGATE_CRASH_ONCE": str(tmp_path / "crashed"),
    }
    film = fresh("copied")
    run = triggered(pair.site, "third", str(film), of_run)
    run.wait("CRASHED")
    crashed_at = time.monotonic()
    told: list[dict[str, Any]] = []
    while not told:
        assert time.monotonic() - crashed_at < 90
        both = [
            caretaker(pair.site, "recover", environment={**pair.environment, **host.environment}, on=host)
            for host in (pair.one, pair.other)
        ]
        told = [rescue for process in both for rescue in told_by(process) if rescue["run"] == run.id]
    assert len(told) == 1, told
    run.wait("COMPLETED")
    states = pair.site.states(run.id)
    assert states.count("AwaitingRecovery") == 1 and states.count("Completed") == 1
    rows = pair.attempts(film)
    assert [one.state for one in rows] == [AttemptState.ABANDONED, AttemptState.COMPLETED]
    assert (rows[0].ended_at or 0) - rows[0].renewed_at >= float(SHORT["TIDEGATE_LEDGER_LEASE"])
    assert run.media() == straight.media("copied")

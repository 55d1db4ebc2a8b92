"""A ledger that is damaged, away, silent or slow under a run: it says so, nothing is published twice or by a loser.

The file is damaged on disk; PostgreSQL stands behind a proxy with a switch. A run outlasts what is short, ends itself
before somebody else may take its work, and the same command goes on from its checkpoints.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.aftermath import (
    end_of,
    failure_told,
    left_running,
    made_now,
    nothing_left_but_evidence,
    unfinished_files,
    wait_in,
    witness,
    works,
)
from tests.support.clips import bulk_clip
from tests.support.command import Command, Ended
from tests.support.leaks import marking
from tests.support.origin import Origin, Resource
from tests.support.postgres import Cluster
from tests.support.proxy import Proxy, Way, proxy

MIB = 1024 * 1024
SECONDS_LONG, VERY_LONG = "-readrate 0.1", "-readrate 0.02"
"""For ffmpeg: a step of some seconds, or of more than `give_up`, for something to happen to the ledger meanwhile."""
QUICK_LEASE = {
    "TIDEGATE_LEDGER_RENEW_EVERY": "0.5",
    "TIDEGATE_LEDGER_GIVE_UP": "5",
    "TIDEGATE_LEDGER_LEASE": "8",
    "TIDEGATE_LEDGER_BUSY_TIMEOUT": "2",
    "TIDEGATE_LEDGER_STATEMENT_TIMEOUT": "2",
    "TIDEGATE_LEDGER_PATIENCE": "3",
}
"""The same order of limits as the defaults have, in seconds instead of minutes."""


@pytest.fixture(scope="module")
def source(clips: Path) -> Iterator[Origin]:
    with Origin({"film.mp4": Resource(bulk_clip(clips, 4 * MIB))}) as origin:
        yield origin


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory, prefect_server: str, source: Origin) -> bytes:
    """What an undisturbed run publishes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    environment = {"PREFECT_API_URL": prefect_server, "HOME": str(folder), "PREFECT_HOME": str(folder / "prefect")}
    with marking() as mark:
        ended = Command(folder, folder / "out", environment, mark).run(source.url("film.mp4"))
    assert ended.code == 0, ended.stderr
    return Path(ended.document["output"]["path"]).read_bytes()


@pytest.fixture
def quick(command: Command) -> Command:
    command.environment |= QUICK_LEASE
    return command


@contextmanager
def slow_ffmpeg(command: Command, folder: Path, slowly: str = VERY_LONG) -> Iterator[Path]:
    """The real ffmpeg, slowly; the other runs of this command have it as fast as ever."""
    tool = witness(folder, options=slowly)
    command.environment["TIDEGATE_TOOLS_FFMPEG"] = str(tool)
    try:
        yield tool
    finally:
        del command.environment["TIDEGATE_TOOLS_FFMPEG"]


def completed(command: Command, ended: Ended, film: bytes) -> None:
    """It ended well, once, and left nothing."""
    assert ended.code == 0, ended.stderr
    assert Path(ended.document["output"]["path"]).read_bytes() == film
    assert len([path for path in command.published() if list(path.glob("*.mp4"))]) == 1
    nothing_half_made(command)
    assert list((command.home / "tidegate" / "scratch").iterdir()) == []


def nothing_half_made(command: Command) -> None:
    assert left_running(command) == [] and unfinished_files(command) == []


def nothing_published(command: Command) -> None:
    assert list(command.output.rglob("*.mp4")) == []
    nothing_half_made(command)


# --- a damaged file --------------------------------------------------------------------------------


def garbage(file: Path) -> None:
    file.write_bytes(b"This is no database, and never was. " * 1000)


def cut_in_half(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def torn_page(file: Path) -> None:
    """Noise where the list of tables was, as after a write that the disk lost half of."""
    with file.open("r+b") as handle:
        handle.seek(100)
        handle.write(os.urandom(2000))


def emptied(file: Path) -> None:
    os.truncate(file, 0)


def removed(file: Path) -> None:
    for one in file.parent.glob("ledger.db*"):
        one.unlink()


Damage = Callable[[Path], None]
IS_TOLD = (garbage, cut_in_half, torn_page)
"""Damage that shows; an empty or a missing file is one that nobody has written yet."""


@pytest.mark.slow
@pytest.mark.parametrize("damage", [garbage, cut_in_half, torn_page, emptied, removed])
def test_a_damaged_ledger_is_put_aside_and_told_and_the_run_takes_its_checkpoints(
    damage: Damage, quick: Command, source: Origin, film: bytes
) -> None:
    assert quick.run(source.url("film.mp4"), "--until", "probe").code == 0
    file = quick.home / "tidegate" / "ledger.db"
    damage(file)
    ended = quick.run(source.url("film.mp4"))
    completed(quick, ended, film)
    assert made_now(ended) == ["download", "remux", "analyze", "publish"]
    asides = [path for path in file.parent.glob("ledger.db.damaged-*") if not path.name.endswith(("-wal", "-shm"))]
    assert len(asides) == (damage in IS_TOLD)
    assert all("The ledger was damaged" in ended.stderr and path.name in ended.stderr for path in asides)


@pytest.mark.parametrize(
    "damage",
    [
        garbage,
        pytest.param(emptied, marks=pytest.mark.slow),
        pytest.param(cut_in_half, marks=pytest.mark.slow),
        pytest.param(torn_page, marks=pytest.mark.slow),
        pytest.param(removed, marks=pytest.mark.slow),
    ],
)
def test_a_run_whose_ledger_is_lost_under_it_stops_and_says_so_and_the_next_goes_on(
    damage: Damage, quick: Command, source: Origin, film: bytes, tmp_path: Path
) -> None:
    with slow_ffmpeg(quick, tmp_path) as ffmpeg, quick.started(source.url("film.mp4")) as process:
        wait_in(process, lambda: works(ffmpeg))
        damage(quick.home / "tidegate" / "ledger.db")
        ended = end_of(process)
    failure = failure_told(ended, code=1, kind="lease_lost")
    assert failure["retryable"] and "Another run" not in ended.stderr
    told = ended.stderr + failure["message"]  # by whom it is noticed first, a renewal or a gate, is chance
    assert "The ledger does not answer" in told or "The ledger was begun anew" in told
    nothing_published(quick)
    again = quick.run(source.url("film.mp4"))
    completed(quick, again, film)
    assert made_now(again) == ["remux", "analyze", "publish"]


# --- a bad way to it -------------------------------------------------------------------------------


@dataclass
class Remote:
    """A command whose ledger is a PostgreSQL behind a switch."""

    command: Command
    between: Proxy
    cluster: Cluster
    database: str

    def states(self) -> list[str]:
        """Of its attempts, the oldest first."""
        return self.cluster.run("SELECT state FROM attempts ORDER BY created_at", self.database).split()

    def published(self) -> list[str]:
        return self.cluster.run("SELECT folder FROM publications", self.database).splitlines()

    def held(self) -> str:
        return self.cluster.run("SELECT count(*) FROM works WHERE holder IS NOT NULL", self.database)

    def all_is_told(self, *states: str) -> None:
        assert self.states() == list(states)
        assert len(self.published()) == 1 and self.held() == "0"


@pytest.fixture
def remote(quick: Command, postgres: Cluster) -> Iterator[Remote]:
    with postgres.database() as name, proxy((postgres.host, postgres.port)) as between:
        quick.environment["TIDEGATE_LEDGER_URL"] = postgres.url(name, host=between.host, port=between.port)
        yield Remote(quick, between, postgres, name)


OUTAGES = [
    pytest.param(6, {"TIDEGATE_LEDGER_GIVE_UP": "30", "TIDEGATE_LEDGER_LEASE": "40"}, id="6 s"),
    pytest.param(60, dict.fromkeys(QUICK_LEASE, ""), marks=pytest.mark.slow, id="60 s, with the limits as they are"),
]


@pytest.mark.parametrize("way", [Way.REFUSE, pytest.param(Way.BLACK_HOLE, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("seconds", "limits"), OUTAGES)
def test_a_run_outlasts_a_ledger_that_is_away_for_a_while(
    way: Way, seconds: float, limits: dict[str, str], remote: Remote, source: Origin, film: bytes, tmp_path: Path
) -> None:
    command = remote.command
    command.environment |= {**limits, "TIDEGATE_LEDGER_PATIENCE": "120"}
    with slow_ffmpeg(command, tmp_path, SECONDS_LONG) as ffmpeg, command.started(source.url("film.mp4")) as process:
        wait_in(process, lambda: works(ffmpeg))
        remote.between.turn(way)
        time.sleep(seconds)
        assert process.poll() is None, process.communicate()
        assert list(command.output.rglob("*.mp4")) == [], "it may not publish without asking"
        remote.between.turn(Way.PASS)
        ended = end_of(process, seconds=120)
    completed(command, ended, film)
    if way is Way.REFUSE:  # who only hears nothing may be answered before he gives up asking
        assert "trying again" in ended.stderr, "the person is told"
    remote.all_is_told("completed")


@pytest.mark.slow
def test_a_ledger_that_is_away_from_the_start_is_waited_for_and_then_told(
    remote: Remote, source: Origin, film: bytes
) -> None:
    command, asked = remote.command, len(source.requests)
    remote.between.turn(Way.REFUSE)
    ended = command.run(source.url("film.mp4"))
    failure = failure_told(ended, code=1, kind="ledger_unavailable")
    assert failure["retryable"] and any("TIDEGATE_LEDGER_URL" in action for action in failure["suggested_actions"])
    assert "trying again for 0:00:03" in ended.stderr
    assert len(source.requests) == asked, "no work that nobody knows of"
    nothing_left_but_evidence(command)
    remote.between.turn(Way.PASS)
    ended = command.run(source.url("film.mp4"))
    assert ended.code == 0, ended.stderr
    assert Path(ended.document["output"]["path"]).read_bytes() == film
    remote.all_is_told("completed")


@pytest.mark.slow
@pytest.mark.parametrize("way", [Way.BLACK_HOLE, Way.REFUSE])
def test_a_run_that_cannot_renew_its_lease_ends_itself_before_another_may_begin(
    way: Way, remote: Remote, source: Origin, film: bytes, tmp_path: Path
) -> None:
    command = remote.command
    with slow_ffmpeg(command, tmp_path) as ffmpeg, command.started(source.url("film.mp4")) as process:
        wait_in(process, lambda: works(ffmpeg))
        began = time.monotonic()
        remote.between.turn(way)
        ended = end_of(process)
        stopped_after = time.monotonic() - began
    failure = failure_told(ended, code=1, kind="lease_lost")
    assert failure["retryable"] and "could not be renewed" in failure["message"]
    done = [name for name, stage in ended.document["stages"].items() if stage["state"] == "completed"]
    assert done == ["probe", "download"], "it was at its third"
    assert stopped_after > 3, "not at the first renewal that failed"
    nothing_published(command)
    remote.between.turn(Way.PASS)
    assert remote.states() == ["running"], "the ledger does not know how it ended, and another takes over"
    again = command.run(source.url("film.mp4"))
    completed(command, again, film)
    assert made_now(again) == ["remux", "analyze", "publish"]
    assert remote.states()[-1] == "completed" and remote.held() == "0" and len(remote.published()) == 1


CHUNK_SECONDS = 0.25
"""In each direction: half a second for each question and its answer."""


@pytest.mark.slow
def test_half_a_second_on_each_call_of_the_ledger_costs_time_and_nothing_else(
    remote: Remote, source: Origin, film: bytes
) -> None:
    command = remote.command
    command.environment |= dict.fromkeys(QUICK_LEASE, "")
    assert command.run(str(bad_film(command)), "--until", "probe").code == 1, "the tables are made"
    source.tell("film.mp4", "throttle 1M, ok")
    before = source.bytes_sent("film.mp4")
    remote.cluster.run(f"ALTER DATABASE {remote.database} SET log_statement = 'all'")
    logged = len(statements(remote))
    remote.between.turn(Way.PASS, delay_seconds=CHUNK_SECONDS)
    began = time.monotonic()
    with command.started(source.url("film.mp4")) as process:
        wait_in(process, lambda: source.bytes_sent("film.mp4") - before > 1.5 * MIB)
        gained = [source.bytes_sent("film.mp4") for _ in every(0.5, times=5)]
        ended = end_of(process, seconds=120)
        took_seconds = time.monotonic() - began
    source.tell("film.mp4", "ok")
    completed(command, ended, film)
    assert all(later > earlier for earlier, later in itertools.pairwise(gained)), gained
    assert remote.states()[-1] == "completed" and remote.held() == "0" and len(remote.published()) == 1
    asked = len(statements(remote)) - logged
    meanwhile = 2 * took_seconds  # renewals, and what origins are known to do
    assert 40 < asked < 140 + meanwhile, "opening, beginning, claiming, slots, fence, noting, ending"


def statements(remote: Remote) -> list[str]:
    """What this database's sessions have asked so far, as its server has logged it."""
    lines = (remote.cluster.folder / "log").read_text().splitlines()
    return [line for line in lines if re.search(r"LOG:  (statement|execute [^:]*): ", line)]


def bad_film(command: Command) -> Path:
    path = command.home / "no-film.mp4"
    path.write_text("<html></html>")
    return path


def every(seconds: float, *, times: int) -> Iterator[int]:
    for number in range(times):
        time.sleep(seconds)
        yield number

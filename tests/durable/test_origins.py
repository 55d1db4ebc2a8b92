"""Origins in the ledger, on both of its databases: breakers, connections and counts that all processes share.

The processes are real: forked, killed, stopped. A lease's length is waited for nowhere; where time has to pass, the row
is set back.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text

from tests.support.forked import Pipe, forked, many, most_at_once
from tidegate.durable.home import Home
from tidegate.durable.ledger import Ledger
from tidegate.durable.ledger.origins import Origins
from tidegate.durable.owner import this_process
from tidegate.model import OriginStats
from tidegate.resilience.breaker import BreakerState
from tidegate.resilience.sharing import Call, CallResult, ShareAnswer, ShareRequest
from tidegate.settings import GateSettings, LedgerSettings

HOST = "https://host:443"
LIMITS = GateSettings()
HERE = this_process()
ELSEWHERE = HERE.model_copy(update={"host": "another-host"})
GOOD, BAD = Call(CallResult.SUCCEEDED), Call(CallResult.FAILED)
VERSION_1 = Path(__file__).parent / "version_1"


@pytest.fixture
def origins(ledger: Ledger) -> Origins:
    return ledger.origins


def told(origins: Origins, *calls: Call, run: str = "run", origin: str = HOST) -> ShareAnswer:
    gained = OriginStats(origin=origin, attempts=len(calls), failures={"server_error": calls.count(BAD)})
    return origins.exchange(HERE, origin, ShareRequest(run, 0, 0, calls, gained), LIMITS)


def opened(origins: Origins, origin: str = HOST) -> None:
    assert told(origins, *[BAD] * 5, origin=origin).breaker.state is BreakerState.OPEN


def rested(ledger: Ledger) -> None:
    """Let the rest of all open breakers be over."""
    with ledger._database.transaction() as connection:
        for origin, breaker in connection.execute(text("SELECT origin, breaker FROM origins")).all():
            earlier = json.dumps({**json.loads(breaker), "since": json.loads(breaker)["since"] - 3600})
            connection.execute(
                text("UPDATE origins SET breaker = :breaker WHERE origin = :origin"),
                {"breaker": earlier, "origin": origin},
            )


def aged(ledger: Ledger, table: str, column: str, seconds: float, run: str = "%") -> None:
    which = "WHERE run LIKE :run" if table == "origin_shares" else "WHERE :run = :run"
    with ledger._database.transaction() as connection:
        connection.execute(
            text(f"UPDATE {table} SET {column} = {column} - :seconds {which}"), {"seconds": seconds, "run": run}
        )


def state(origins: Origins, origin: str = HOST) -> BreakerState:
    [one] = [one for one in origins.all(HERE, LIMITS) if one.record.origin == origin]
    return one.record.breaker.state


def proven(origins: Origins) -> None:
    told(origins, GOOD)


# --- what is kept ---------------------------------------------------------------------------------


def test_what_one_run_tells_all_others_know(origins: Origins) -> None:
    told(origins, GOOD, BAD, run="a")
    told(origins, BAD, run="b")
    answer = told(origins, run="c")
    assert answer.breaker.consecutive == 2
    [one] = origins.all(HERE, LIMITS)
    assert one.record.statistics.attempts == 3
    assert one.record.statistics.failures == {"server_error": 2}
    assert one.record.proven_at == pytest.approx(one.now, abs=60)


def test_a_breaker_that_one_run_opened_is_open_for_all(ledger: Ledger, origins: Origins) -> None:
    opened(origins)
    answer = origins.exchange(ELSEWHERE, HOST, ShareRequest("other", 0, 3), LIMITS)
    assert answer.grants == ()
    assert 0 < (answer.retry_after_seconds or 0) <= 75
    rested(ledger)
    assert len(origins.exchange(ELSEWHERE, HOST, ShareRequest("other", 0, 3), LIMITS).grants) == 2


def test_one_origin_says_nothing_of_another(origins: Origins) -> None:
    opened(origins)
    assert told(origins, origin="https://host:8443").breaker.state is BreakerState.CLOSED


def test_a_look_changes_nothing(origins: Origins) -> None:
    assert origins.look(HERE, HOST, ShareRequest("run", 0), LIMITS).breaker.state is BreakerState.CLOSED
    assert origins.all(HERE, LIMITS) == []
    opened(origins)
    before = [one.record for one in origins.all(HERE, LIMITS)]
    assert origins.look(HERE, HOST, ShareRequest("run", 0), LIMITS).breaker.state is BreakerState.OPEN
    assert [one.record for one in origins.all(HERE, LIMITS)] == before


def test_a_person_isolates_and_resets(origins: Origins) -> None:
    origins.isolate(HOST)
    assert origins.exchange(HERE, HOST, ShareRequest("run", 0, 1), LIMITS).grants == ()
    origins.reset(HOST)
    assert len(origins.exchange(HERE, HOST, ShareRequest("run", 0, 1), LIMITS).grants) == 1


def test_statistics_are_reset_without_touching_the_breaker(origins: Origins) -> None:
    opened(origins)
    told(origins, GOOD, origin="https://other:443")
    assert origins.reset_statistics(HOST) == 1
    counts = {one.record.origin: one.record.statistics.attempts for one in origins.all(HERE, LIMITS)}
    assert counts == {HOST: 0, "https://other:443": 1}
    assert state(origins) is BreakerState.OPEN
    assert origins.reset_statistics() == 2


def test_origins_that_nobody_asks_any_more_are_forgotten_but_not_a_persons_word(
    ledger: Ledger, origins: Origins
) -> None:
    month = timedelta(days=30).total_seconds()
    for name in ("old", "isolated"):
        told(origins, GOOD, origin=name)
    origins.isolate("isolated")
    aged(ledger, "origins", "seen_at", month + 1)
    told(origins, GOOD, origin="young")
    assert origins.clear(month) == 1
    assert [one.record.origin for one in origins.all(HERE, LIMITS)] == ["isolated", "young"]


# --- leases ---------------------------------------------------------------------------------------


def test_what_a_killed_process_held_is_free_at_once(origins: Origins, limits: LedgerSettings, home: Home) -> None:
    proven(origins)

    def hold(pipe: Pipe) -> None:
        answer = Ledger.open(limits, home).origins.exchange(this_process(), HOST, ShareRequest("child", 0, 20), LIMITS)
        pipe.say(len(answer.grants))
        pipe.hear()

    with forked(hold) as child:
        assert child.hear() == "7"
        assert len(origins.exchange(HERE, HOST, ShareRequest("run", 0, 20), LIMITS).grants) == 1
        child.kill()
        assert len(origins.exchange(HERE, HOST, ShareRequest("run", 1, 20), LIMITS).grants) == 6


def test_what_a_run_on_another_host_held_is_free_when_its_lease_is_over(ledger: Ledger, origins: Origins) -> None:
    proven(origins)
    assert len(origins.exchange(ELSEWHERE, HOST, ShareRequest("other", 0, 20), LIMITS).grants) == 7
    aged(ledger, "origin_shares", "asked_at", LIMITS.lease.total_seconds() - 5, "other")
    assert len(origins.exchange(HERE, HOST, ShareRequest("run", 0, 20), LIMITS).grants) == 1
    aged(ledger, "origin_shares", "asked_at", 10, "other")
    assert len(origins.exchange(HERE, HOST, ShareRequest("run", 1, 20), LIMITS).grants) == 6


def test_who_gives_everything_back_leaves_no_row(ledger: Ledger, origins: Origins) -> None:
    origins.exchange(HERE, HOST, ShareRequest("run", 0, 1), LIMITS)
    origins.exchange(HERE, HOST, ShareRequest("run", 0, 0, (GOOD,)), LIMITS)
    with ledger._database.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM origin_shares")).scalar_one() == 0


def test_a_killed_probe_does_not_wedge_the_breaker(
    ledger: Ledger, origins: Origins, limits: LedgerSettings, home: Home
) -> None:
    opened(origins)
    rested(ledger)

    def probe(pipe: Pipe) -> None:
        answer = Ledger.open(limits, home).origins.exchange(this_process(), HOST, ShareRequest("child", 0, 5), LIMITS)
        pipe.say(sum(grant.probe is not None for grant in answer.grants))
        pipe.hear()

    with forked(probe) as child:
        assert child.hear() == "2"
        assert origins.exchange(HERE, HOST, ShareRequest("run", 0, 1), LIMITS).grants == ()
        child.kill()
        for _ in range(2):
            [grant] = origins.exchange(HERE, HOST, ShareRequest("run", 0, 1), LIMITS).grants
            told(origins, Call(CallResult.SUCCEEDED, probe=grant.probe))
    assert state(origins) is BreakerState.CLOSED


def test_four_processes_admit_no_more_probes_than_they_may(
    ledger: Ledger, origins: Origins, limits: LedgerSettings, home: Home, tmp_path: Path
) -> None:
    """Each asks as fast as it can, holds what it gets for a moment, and lets it go without a word; one is killed."""
    opened(origins)
    rested(ledger)

    def probe(pipe: Pipe) -> None:
        mine, here, run = Ledger.open(limits, home).origins, this_process(), f"run {os.getpid()}"
        log = tmp_path / str(os.getpid())
        pipe.hear()
        begun, made = time.monotonic(), 0
        # Four seconds, and on a slow machine as long as it takes to have had some of them.
        while (spent := time.monotonic() - begun) < 4 or (made < 12 and spent < 40):
            for grant in mine.exchange(here, HOST, ShareRequest(run, 0, 2), LIMITS).grants:
                began = time.monotonic()
                with log.open("a") as told:  # a killed one has said when it began
                    told.write(f"\n{began}")
                time.sleep(0.005)
                with log.open("a") as told:
                    told.write(f" {time.monotonic()}")
                mine.exchange(
                    here, HOST, ShareRequest(run, 0, 0, (Call(CallResult.SILENT, probe=grant.probe),)), LIMITS
                )
                made += 1

    killed_at = 0.0
    with many(probe, 4) as children:
        for child in children:
            child.say("go")
        time.sleep(1.5)
        children[0].kill()
        killed_at = time.monotonic()
        codes = [child.wait() for child in children]
    assert codes == [-signal.SIGKILL, 0, 0, 0]
    lines = [
        line.split() for log in tmp_path.iterdir() if log.is_file() for line in log.read_text().split("\n") if line
    ]
    spans = [(float(line[0]), float(line[1]) if len(line) > 1 else killed_at) for line in lines if line[0][0].isdigit()]
    assert len(spans) > 20
    assert most_at_once(spans) <= LIMITS.probes
    assert max(began for began, _ in spans) > killed_at, "the others went on"


def test_four_processes_have_no_more_connections_than_there_are(
    origins: Origins, limits: LedgerSettings, home: Home
) -> None:
    """Many origins at once, and each asked for by itself: what is counted for the host is never of one row only."""
    narrow = GateSettings(connections=7, connections_per_origin=5)
    names = [f"https://host-{number}:443" for number in range(8)]
    for name in names:
        told(origins, GOOD, origin=name)

    def fetch(pipe: Pipe) -> None:
        mine, here, run = Ledger.open(limits, home).origins, this_process(), f"run {os.getpid()}"
        spans: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        rng = random.Random(os.getpid())
        pipe.hear()
        until = time.monotonic() + 4
        while time.monotonic() < until:
            name = rng.choice(names)
            granted = len(mine.exchange(here, name, ShareRequest(run, 0, 3), narrow).grants)
            began = time.monotonic()
            time.sleep(0.002)
            spans[name] += [(began, time.monotonic())] * granted
            mine.exchange(here, name, ShareRequest(run, 0, 0, (GOOD,)), narrow)
        pipe.say(json.dumps(spans))

    with many(fetch, 4) as children:
        for child in children:
            child.say("go")
        spans_of = [json.loads(child.hear()) for child in children]
    for name in names:
        assert most_at_once([span for one in spans_of for span in one[name]]) <= 5
    assert most_at_once([span for one in spans_of for spans in one.values() for span in spans]) <= 7
    counts = [sum(map(len, one.values())) for one in spans_of]
    assert min(counts) > 0, f"nobody starves: {counts}"


def test_runs_that_count_at_once_lose_nothing(origins: Origins, limits: LedgerSettings, home: Home) -> None:
    def count(pipe: Pipe) -> None:
        mine = Ledger.open(limits, home).origins
        for _ in range(25):
            told(mine, GOOD, run=str(os.getpid()))

    with many(count, 4) as children:
        assert [child.wait() for child in children] == [0] * 4
    [one] = origins.all(HERE, LIMITS)
    assert one.record.statistics.attempts == 100


# --- the schema -----------------------------------------------------------------------------------


def test_a_ledger_of_version_1_gets_its_origins_and_keeps_its_attempts(
    limits: LedgerSettings, home: Home, tmp_path: Path
) -> None:
    made_by_version_1(limits, home)
    ledger = Ledger.open(limits, home)
    attempt = ledger.attempt("attempt")
    assert attempt is not None
    assert (attempt.state, attempt.epoch, attempt.created_at) == ("running", 3, 1000.5)
    opened(ledger.origins)
    ledger.close()
    again = Ledger.open(limits, home)
    assert state(again.origins) is BreakerState.OPEN
    with again._database.connect() as connection:
        assert connection.execute(text("SELECT version FROM schema_version")).scalar_one() == 3
    again.close()


def test_a_migrated_ledger_has_the_tables_of_a_new_one(
    limits: LedgerSettings, home: Home, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    made_by_version_1(limits, home)
    Ledger.open(limits, home).close()
    migrated = shape(limits, home)
    fresh = Home(tmp_path / "fresh")
    if limits.url is None:
        Ledger.open(limits, fresh).close()
        assert shape(limits, fresh) == migrated
        return
    with request.getfixturevalue("postgres").database() as name:
        elsewhere = LedgerSettings(url=request.getfixturevalue("postgres").url(name))
        Ledger.open(elsewhere, fresh).close()
        assert shape(elsewhere, fresh) == migrated


def made_by_version_1(limits: LedgerSettings, home: Home) -> None:
    home.root.mkdir(parents=True)
    engine = create_engine(limits.url or f"sqlite:///{home.root}/ledger.db")
    script = (VERSION_1 / f"{engine.dialect.name}.sql").read_text().partition("\n")[2]
    with engine.begin() as connection:
        for statement in script.split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)
    engine.dispose()


def shape(limits: LedgerSettings, home: Home) -> dict[str, object]:
    """Columns with their types, keys and indexes of every table."""
    engine = create_engine(limits.url or f"sqlite:///{home.root}/ledger.db")
    try:
        found = inspect(engine)
        return {
            name: (
                {one["name"]: (same(str(one["type"])), one["nullable"]) for one in found.get_columns(name)},
                found.get_pk_constraint(name)["constrained_columns"],
                sorted((one["name"] or "", tuple(one["column_names"])) for one in found.get_indexes(name)),
            )
            for name in found.get_table_names()
        }
    finally:
        engine.dispose()


def same(kind: str) -> str:
    """SQLite keeps a type's name as it was written, and takes these for the same."""
    return "REAL" if kind.startswith("DOUBLE") else kind

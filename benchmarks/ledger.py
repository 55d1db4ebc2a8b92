"""What the ledger costs: an attempt, a renewal, and recovery's look at many attempts.

The peer of the first two is the least that a durable record can cost: one row inserted and committed by the standard
library's sqlite3 in the same mode. The look is recovery's own, against a real Prefect server, one attempt in a hundred
being lost.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import insert

from benchmarks.command_start import ROOT, environment, prefect_server
from benchmarks.figures import Figure, plot
from benchmarks.pairs import Pairs, measure
from tidegate.durable.home import Home
from tidegate.durable.ledger import AttemptProgress, AttemptState, Ledger, NewAttempt
from tidegate.durable.ledger.schema import attempts
from tidegate.durable.owner import this_process
from tidegate.settings import LedgerSettings

ROUNDS = 100
SIZES = (1_000, 10_000, 30_000, 100_000)
LOST_ONE_IN = 100
PICTURE = ROOT / "docs" / "benchmarks-recover.svg"

LOOK = """
import asyncio, sys, time
from prefect import get_client
from flows.attempts import open_ledger
from flows.recover import Rescuer
from tidegate.events import ignore_events
from tidegate.settings import Settings

async def look():
    settings = Settings.load()
    async with open_ledger(settings, ignore_events) as ledger, get_client() as client:
        rescuer = Rescuer(client, ledger, settings, ignore_events)
        started = time.perf_counter()
        cases = await rescuer.cases()
        print(time.perf_counter() - started, len(cases))

asyncio.run(look())
"""


def results() -> Iterator[Pairs]:
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        ledger = Ledger.open(LedgerSettings(), home)
        bare = Path(folder) / "bare.db"
        _bare(bare).execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, told TEXT)")
        attempt = ledger.begin(NewAttempt("ingest", "benchmark"))
        yield measure(
            f"{ROUNDS} attempts (begin, claim, end) ÷ {ROUNDS} bare commits",
            lambda: [_whole_attempt(ledger, number) for number in range(ROUNDS)],
            lambda: [_commit(bare) for _ in range(ROUNDS)],
            goal=12.0,
            pairs=5,
        )
        yield measure(
            f"{ROUNDS} renewals ÷ {ROUNDS} bare commits",
            lambda: [ledger.renew(attempt.id, AttemptProgress(stage="download"), advanced=True) for _ in range(ROUNDS)],
            lambda: [_commit(bare) for _ in range(ROUNDS)],
            goal=4.0,
            pairs=5,
        )


def figures() -> Iterator[Figure]:
    points = []
    with tempfile.TemporaryDirectory() as folder, prefect_server(Path(folder)) as api:
        for size in SIZES:
            seconds = _look(Path(folder, str(size)), api, size)
            points.append((float(size), seconds))
            goal = 5.0 if size == 10_000 else None
            yield Figure(f"recover's look at {size:,} running attempts, 1 % of them lost", seconds, "s", goal)
    plot(PICTURE, "recover's look", points, ("running attempts", "seconds"))


def _look(home: Path, api: str, size: int) -> float:
    ledger = Ledger.open(LedgerSettings(), Home(home))
    _fill(ledger, size)
    told = environment(home, PREFECT_API_URL=api, TIDEGATE_HOME=str(home))
    done = subprocess.run(
        [sys.executable, "-c", LOOK], env=told, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    seconds, cases = done.stdout.split()
    assert int(cases) == size // LOST_ONE_IN, "every lost attempt is a case, and no other"
    return float(seconds)


def _fill(ledger: Ledger, size: int) -> None:
    """Attempts of this living process; one in a hundred of a process that never was."""
    owner = this_process()
    gone = owner.model_copy(update={"started": 1})
    now = ledger.now()
    rows = [
        {
            "id": f"{number:016x}",
            "kind": "ingest",
            "epoch": 0,
            "title": f"https://origin.example/{number}.mp4",
            "request": json.dumps({"source": {"url": f"https://origin.example/{number}.mp4"}}),
            **(gone if number % LOST_ONE_IN == 0 else owner).model_dump(),
            "alone": True,
            "state": AttemptState.RUNNING,
            "created_at": now,
            "renewed_at": now,
            "records": "{}",
            "groups": "[]",
        }
        for number in range(size)
    ]
    with ledger._database.transaction() as connection:
        connection.execute(insert(attempts), rows)


def _whole_attempt(ledger: Ledger, number: int) -> None:
    attempt = ledger.begin(NewAttempt("ingest", "benchmark"))
    ledger.claim(attempt.id, f"{number:032x}", attempt.owner)
    ledger.end(attempt.id, AttemptState.COMPLETED)


def _bare(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _commit(path: Path) -> None:
    """One row, on a connection of its own, as the ledger's calls are."""
    connection = _bare(path)
    connection.execute("INSERT INTO rows (told) VALUES (?)", (f"{os.getpid()} {time.time()}",))
    connection.close()

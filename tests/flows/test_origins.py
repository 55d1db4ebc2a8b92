"""`python -m flows.origins`, the real command: what it shows, what a person changes with it, and who notices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import text

from flows import doctor
from tests.support.aftermath import failure_told
from tests.support.clips import clip
from tests.support.command import ROOT, Command
from tests.support.origin import Origin, Resource
from tidegate.durable.home import Home
from tidegate.durable.ledger import Ledger
from tidegate.durable.owner import this_process
from tidegate.errors import CircuitOpen, NotFound, ServerError, TidegateError
from tidegate.settings import GateSettings, LedgerSettings, Settings, StoreSettings
from tidegate.transfer.gates.gates import Gates

pytestmark = pytest.mark.ci


HOST, OTHER = "https://cdn.example.org:443", "https://other.example.org:443"


def origins(home: Home, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TIDEGATE_HOME": str(home.root), "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    argv = [sys.executable, "-m", "flows.origins", *words]
    done = subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr + done.stdout
    return done


def listed(home: Home, *words: str) -> dict[str, dict[str, Any]]:
    return {one["origin"]: one for one in json.loads(origins(home, *words, "--json").stdout)}


def used(ledger: Ledger, *errors: TidegateError | None, origin: str = HOST, gained: int = 1000) -> None:
    """A run that has made these calls and is over."""

    async def use() -> None:
        gates = Gates(GateSettings(), ledger)
        for error in errors:
            try:
                async with gates.through(origin) as passage:
                    passage.report_bytes(gained)
                    if error is not None:
                        raise error
            except TidegateError:
                pass
        await gates.flush()

    anyio.run(use)


def may_be_asked(ledger: Ledger, origin: str = HOST) -> bool:
    async def ask() -> bool:
        try:
            async with Gates(GateSettings(), ledger).through(origin):
                return True
        except CircuitOpen:
            return False

    return anyio.run(ask)


def test_it_lists_what_all_runs_have_seen(ledger: Ledger, home: Home) -> None:
    used(ledger, None, None, NotFound("404"))
    used(ledger, None, ServerError("503"))
    used(ledger, *[ServerError("503")] * 5, origin=OTHER)
    shown = listed(home)
    assert list(shown) == [HOST, OTHER]
    one = shown[HOST]
    assert (one["attempts"], one["successes"], one["bytes_received"]) == (5, 3, 5000)
    assert one["failures"] == {"not_found": 1, "server_error": 1}
    assert (one["breaker"], one["failures_in_a_row"], one["why"]) == ("closed", 1, "")
    assert one["bytes_per_second"] > 0 and one["connections"] == one["waiting"] == 0
    other = shown[OTHER]
    assert (other["breaker"], other["why"]) == ("open", "5 failures in a row")
    assert 0 < other["retry_after_seconds"] <= 75
    told = origins(home).stdout
    assert HOST in told and OTHER in told
    assert "server_error 5" in told
    assert listed(home, "list").keys() == shown.keys()


def test_before_anything_was_asked_it_says_so(home: Home) -> None:
    assert "No requests have been made yet" in origins(home).stdout
    assert listed(home) == {}


def test_an_isolated_origin_is_asked_by_nobody_until_it_is_reset(ledger: Ledger, home: Home) -> None:
    used(ledger, None)
    [told] = listed(home, "isolate", "https://CDN.example.org/path?token=hidden").values()
    assert (told["origin"], told["breaker"], told["retry_after_seconds"]) == (HOST, "isolated", None)
    assert not may_be_asked(ledger)
    assert may_be_asked(ledger, OTHER)
    assert "blocked by hand" in origins(home, "list").stdout
    [told] = listed(home, "reset", HOST).values()
    assert told["breaker"] == "closed"
    assert may_be_asked(ledger)


def test_one_that_nobody_has_asked_yet_can_be_isolated_and_so_can_a_site(ledger: Ledger, home: Home) -> None:
    origins(home, "isolate", "http://never.example.org")
    origins(home, "isolate", "site:youtube")
    assert not may_be_asked(ledger, "http://never.example.org:80")
    assert not may_be_asked(ledger, "site:youtube")


def test_a_reset_ends_a_rest(ledger: Ledger, home: Home) -> None:
    used(ledger, *[ServerError("503")] * 5)
    assert not may_be_asked(ledger)
    origins(home, "reset", HOST)
    assert may_be_asked(ledger)


def test_statistics_are_reset_by_themselves(ledger: Ledger, home: Home) -> None:
    used(ledger, *[ServerError("503")] * 5)
    used(ledger, None, origin=OTHER)
    before = time.time()
    [told] = listed(home, "reset", HOST, "--statistics").values()
    assert (told["attempts"], told["failures"], told["bytes_received"], told["breaker"]) == (0, {}, 0, "open")
    assert told["counted_since"] == pytest.approx(before, abs=60)
    assert listed(home)[OTHER]["attempts"] == 1
    origins(home, "reset", "--statistics")
    assert listed(home)[OTHER]["attempts"] == 0


@pytest.mark.parametrize(
    "words", [("isolate", "nonsense"), ("reset", "https://nobody.example.org"), ("isolate", "ftp://x")]
)
def test_what_is_no_origin_or_not_known_is_told_and_changes_nothing(home: Home, words: tuple[str, ...]) -> None:
    told = origins(home, *words, code=1).stderr
    assert "bad_input" in told
    assert listed(home) == {}


def test_a_reset_of_nothing_in_particular_is_a_usage_error(home: Home) -> None:
    assert "reset needs an origin" in origins(home, "reset", code=2).stderr


def test_doctor_tells_of_breakers_that_keep_runs_waiting(ledger: Ledger, home: Home) -> None:
    def told() -> list[str]:
        settings = Settings(store=StoreSettings(home=home.root))
        return [one.message for one in doctor.ledger_and_runs(settings) if one.subject == "origins"]

    used(ledger, None, origin="http://well:80")
    assert told() == ["1 known, requests to none of them are paused"]
    used(ledger, *[ServerError("503")] * 5)
    ledger.origins.isolate(OTHER)
    assert told() == [f"blocked by hand: {OTHER}", f"paused after failures: {HOST}"]


def test_a_ledger_that_is_away_is_a_failure_that_is_told(home: Home) -> None:
    home.root.mkdir()
    (home.root / "ledger.db").mkdir()
    assert "ledger_unavailable" in origins(home, "--json", code=1).stderr


def test_a_run_leaves_what_it_has_seen_for_the_list(command: Command, clips: Path) -> None:
    """Through the real flow: refused with 404, then an origin in trouble, then a whole file."""
    film = clip(clips)
    with Origin({"film.mp4": film, "sick.mp4": Resource(film, story="always: 503")}) as origin:
        failure_told(command.run(origin.url("missing.mp4")), code=1, kind="not_found")
        failure_told(command.run(origin.url("sick.mp4")), code=1, kind="server_error")
        assert command.run(origin.url("film.mp4"), "--until", "download").code == 0
        requests = len(origin.requests)
        name = origin.url().rstrip("/")
    told = listed(Home(Path(command.env()["TIDEGATE_HOME"])))[name]
    assert told["attempts"] == requests
    assert told["failures"] == {"not_found": 1, "server_error": 3}
    assert told["bytes_received"] >= film.stat().st_size
    assert (told["breaker"], told["failures_in_a_row"], told["connections"]) == ("closed", 0, 0)


def test_maintenance_forgets_origins_of_long_ago(command: Command) -> None:
    home = Home(Path(command.env()["TIDEGATE_HOME"]))
    ledger = Ledger.open(LedgerSettings(), home)
    used(ledger, None, origin=OTHER)
    with ledger._database.transaction() as connection:
        month = timedelta(days=30, hours=1).total_seconds()
        connection.execute(text("UPDATE origins SET seen_at = seen_at - :seconds"), {"seconds": month})
    used(ledger, None)
    argv = [sys.executable, "-m", "flows.runs", "maintain", "--json"]
    done = subprocess.run(argv, env=command.env(), cwd=command.home, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["rows"] == 1
    assert [one.record.origin for one in ledger.origins.all(this_process(), GateSettings())] == [HOST]

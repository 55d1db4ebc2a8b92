"""The gates of a run: what counts and what does not, who is let through and when, in one process and in four.

Calls go through real gates with a real ledger; what they do inside is as short as it can be. Processes are forked.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from datetime import timedelta

import anyio
import pytest
from anyio.lowlevel import checkpoint

from tests.support.forked import Pipe, forked, many, most_at_once
from tidegate.durable.home import Home
from tidegate.durable.ledger import Ledger
from tidegate.durable.owner import this_process
from tidegate.errors import (
    POLICIES,
    CircuitOpen,
    ConnectionFailed,
    NotFound,
    ServerError,
    TidegateError,
)
from tidegate.events import Event, Note, Waiting
from tidegate.resilience.breaker import BreakerState
from tidegate.resilience.sharing import ShareAnswer, ShareRequest
from tidegate.settings import GateSettings, LedgerSettings
from tidegate.transfer.gates import gates as gates_module
from tidegate.transfer.gates import records
from tidegate.transfer.gates.gates import GAIN_BYTES, Gates, Passage, origin_of

HOST, OTHER = "http://host:80", "http://other:80"
POLL = timedelta(seconds=0.1)
QUICK = GateSettings(poll=POLL)
RESTED = timedelta(seconds=0.3)


@pytest.fixture(params=["memory", "ledger"])
def make(request: pytest.FixtureRequest) -> Callable[[GateSettings], Gates]:
    """Gates of a new run, with a ledger or without."""
    if request.param == "memory":
        return Gates
    ledger: Ledger = request.getfixturevalue("ledger")
    return lambda limits: Gates(limits, ledger)


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Never for longer than a minute."""

    async def bounded() -> None:
        with anyio.fail_after(60):
            await test()

    anyio.run(bounded)


async def call(gates: Gates, error: BaseException | None = None, *, origin: str = HOST, gained: int = 0) -> None:
    """One call, which ends with `error`."""
    async with gates.through(origin) as passage:
        passage.report_answer()
        passage.report_bytes(gained)
        if error is not None:
            raise error


async def fails(gates: Gates, error: TidegateError, times: int = 1, *, origin: str = HOST, gained: int = 0) -> None:
    for _ in range(times):
        with pytest.raises(type(error)):
            await call(gates, error, origin=origin, gained=gained)


async def refused(gates: Gates, origin: str = HOST) -> CircuitOpen:
    with pytest.raises(CircuitOpen) as caught:
        await call(gates, origin=origin)
    return caught.value


@asynccontextmanager
async def held(gates: Gates, number: int, origin: str = HOST) -> AsyncIterator[list[Passage]]:
    """So many calls that are under way all the while, as soon as they all are."""
    inside: list[Passage] = []
    over, all_inside = anyio.Event(), anyio.Event()

    async def hold() -> None:
        async with gates.through(origin) as passage:
            inside.append(passage)
            if len(inside) == number:
                all_inside.set()
            await over.wait()

    async with anyio.create_task_group() as calls:
        for _ in range(number):
            calls.start_soon(hold)
        await all_inside.wait()
        yield inside
        over.set()


# --- what counts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://User:pw@Host.Example/a?token=1", "https://host.example:443"),
        ("http://host/", "http://host:80"),
        ("HTTP://host:8080/x", "http://host:8080"),
        ("https://[2001:DB8::1]/", "https://[2001:db8::1]:443"),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, origin: str) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize("kind", list(POLICIES))
def test_exactly_the_failures_that_the_table_counts_open_the_breaker(kind: type[TidegateError]) -> None:
    async def test() -> None:
        gates = Gates(QUICK)
        await fails(gates, kind("it failed"), 5)
        if POLICIES[kind].counts_against_origin:
            await refused(gates)
        else:
            await call(gates)

    run(test)


def test_a_failure_that_is_no_failure_of_ours_counts(make: Callable[[GateSettings], Gates]) -> None:
    """What a library raises and nobody has translated is an unknown failure, and those count."""

    async def test() -> None:
        gates = make(QUICK)
        for _ in range(5):
            with pytest.raises(ValueError, match="odd"):
                await call(gates, ValueError("odd"))
        await refused(gates)

    run(test)


def test_a_try_that_gained_enough_is_no_failure(make: Callable[[GateSettings], Gates]) -> None:
    async def test() -> None:
        gates = make(QUICK)
        await fails(gates, ConnectionFailed("cut"), 20, gained=GAIN_BYTES)
        await fails(gates, ConnectionFailed("cut"), 5, gained=GAIN_BYTES - 1)
        await refused(gates)

    run(test)


def test_calls_that_are_cut_together_do_not_open_it(make: Callable[[GateSettings], Gates]) -> None:
    async def test() -> None:
        gates = make(QUICK)
        cut = anyio.Event()

        async def fetch() -> None:
            with pytest.raises(ConnectionFailed):
                async with gates.through(HOST):
                    await cut.wait()
                    raise ConnectionFailed("cut")

        await call(gates)
        async with anyio.create_task_group() as calls:
            for _ in range(7):
                calls.start_soon(fetch)
            await anyio.sleep(0.3)
            cut.set()
        await fails(gates, ServerError("503"), 3)
        await call(gates)

    run(test)


def test_one_that_is_still_under_way_has_shown_that_the_origin_is_well() -> None:
    """Hours may pass until it ends."""

    async def test() -> None:
        gates = Gates(QUICK)
        await fails(gates, ServerError("503"), 4)
        async with gates.through(HOST) as passage:
            passage.report_bytes(GAIN_BYTES)
            await fails(gates, ServerError("503"), 4)
            await fails(gates, ServerError("503"))
            await refused(gates)

    run(test)


def test_answers_that_come_too_late_open_it_though_they_are_good() -> None:
    async def test() -> None:
        gates = Gates(GateSettings(poll=POLL, slow_after=timedelta(seconds=0.01), least_calls=3))
        for _ in range(3):
            async with gates.through(HOST) as passage:
                await anyio.sleep(0.03)
                passage.report_answer()
        await anyio.sleep(1)  # successes are told now and then
        assert "took over" in (await refused(gates)).message

    run(test)


def test_everything_is_counted(make: Callable[[GateSettings], Gates]) -> None:
    async def test() -> None:
        gates = make(QUICK)
        await call(gates, gained=1000)
        await fails(gates, ServerError("503"), 2, gained=10)
        await fails(gates, NotFound("404"))
        async with gates.through(OTHER, retry=True):
            pass
        host, other = gates.statistics()
        assert (host.origin, host.attempts, host.successes, host.retries) == (HOST, 4, 1, 0)
        assert host.failures == {"not_found": 1, "server_error": 2}
        assert host.bytes_received == 1020
        assert host.breaker == "closed"
        assert (other.origin, other.attempts, other.retries) == (OTHER, 1, 1)

    run(test)


# --- open and half-open ---------------------------------------------------------------------------


def test_a_run_whose_own_failure_opened_the_breaker_learns_which(make: Callable[[GateSettings], Gates]) -> None:
    async def test() -> None:
        gates = make(QUICK)
        last = ServerError("HTTP 503", hint="the last one")
        await fails(gates, ServerError("HTTP 500"), 4)
        await fails(gates, last)
        caught = await refused(gates)
        assert isinstance(caught.own, ServerError)
        assert caught.own.hint == "the last one"
        assert 0 < (caught.retry_after_seconds or 0) <= 75

    run(test)


def test_a_run_that_finds_it_open_by_others_waits_for_it_instead(ledger: Ledger) -> None:
    async def test() -> None:
        await fails(Gates(QUICK, ledger), ServerError("503"), 5)
        told: list[Event] = []
        caught = await refused(Gates(QUICK, ledger, told.append))
        assert caught.own is None
        assert 0 < (caught.retry_after_seconds or 0) <= 75
        assert any(isinstance(event, Note) and "are paused for" in event.message for event in told)

    run(test)


def test_a_run_hears_within_a_moment_that_others_have_opened_it(ledger: Ledger) -> None:
    async def test() -> None:
        mine, others = Gates(QUICK, ledger), Gates(QUICK, ledger)
        async with mine.through(HOST):
            await fails(others, ServerError("503"), 5)
            await until(lambda: mine.statistics()[0].breaker == "open")
        await refused(mine)

    run(test)


def test_after_its_rest_probes_decide_and_those_behind_them_wait_for_that(
    make: Callable[[GateSettings], Gates],
) -> None:
    async def test() -> None:
        gates = make(GateSettings(poll=POLL, open_for=RESTED))
        await fails(gates, ServerError("503"), 5)
        await refused(gates)
        await anyio.sleep(0.5)
        most, now = 0, 0

        async def probe() -> None:
            nonlocal most, now
            async with gates.through(HOST):
                most, now = max(most, now + 1), now + 1
                await anyio.sleep(0.3)
                now -= 1

        started = time.monotonic()
        async with anyio.create_task_group() as calls:
            for _ in range(2):
                calls.start_soon(probe)
            await anyio.sleep(0.1)
            for _ in range(4):
                calls.start_soon(call, gates)
            await checkpoint()
        assert most <= 2
        assert time.monotonic() - started >= 0.3
        assert gates.statistics()[0].breaker == "closed"

    run(test)


def test_a_probe_that_gains_enough_closes_it_before_it_ends(make: Callable[[GateSettings], Gates]) -> None:
    async def test() -> None:
        gates = make(GateSettings(poll=POLL, open_for=RESTED, probes=1))
        await fails(gates, ServerError("503"), 5)
        await anyio.sleep(0.5)
        async with gates.through(HOST) as passage:
            passage.report_bytes(GAIN_BYTES)
            await call(gates)

    run(test)


def test_probes_that_fail_do_not_count_as_this_runs_end_only(ledger: Ledger) -> None:
    """The one that probes ends with its own failure, the others with the open circuit."""

    async def test() -> None:
        limits = GateSettings(poll=POLL, open_for=RESTED)
        first, second = Gates(limits, ledger), Gates(limits, ledger)
        await fails(first, ServerError("503"), 5)
        await anyio.sleep(0.5)
        await fails(second, ConnectionFailed("refused"))
        assert isinstance((await refused(second)).own, ConnectionFailed)
        assert (await refused(first)).own is None

    run(test)


def test_an_isolated_origin_is_asked_nothing_until_a_person_resets_it(ledger: Ledger) -> None:
    async def test() -> None:
        gates = Gates(QUICK, ledger)
        await call(gates)
        ledger.origins.isolate(HOST)
        await until(lambda: gates.statistics()[0].breaker == "isolated", lambda: call(gates))
        caught = await refused(gates)
        assert caught.retry_after_seconds is None
        assert "flows.origins reset" in caught.hint
        await call(gates, origin=OTHER)
        ledger.origins.reset(HOST)
        await anyio.sleep(0.3)
        await call(gates)

    run(test)


# --- connections, in one run ----------------------------------------------------------------------


def test_no_more_calls_are_under_way_than_may(make: Callable[[GateSettings], Gates]) -> None:
    async def test() -> None:
        gates = make(GateSettings(poll=POLL, connections_per_origin=3))
        most, now = 0, 0

        async def fetch() -> None:
            nonlocal most, now
            async with gates.through(HOST):
                most, now = max(most, now + 1), now + 1
                await anyio.sleep(0.01)
                now -= 1

        await call(gates)
        async with anyio.create_task_group() as calls:
            for _ in range(60):
                calls.start_soon(fetch)
        assert most == 3
        assert gates.statistics()[0].successes == 61

    run(test)


def test_calls_of_a_run_go_in_the_order_in_which_they_came() -> None:
    async def test() -> None:
        gates, order = Gates(GateSettings(poll=POLL, connections_per_origin=1)), []

        async def fetch(number: int) -> None:
            async with gates.through(HOST):
                order.append(number)

        async with anyio.create_task_group() as calls:
            for number in range(20):
                calls.start_soon(fetch, number)
                await checkpoint()
        assert order == list(range(20))

    run(test)


def test_who_is_cancelled_while_he_waits_takes_no_place_with_him(make: Callable[[GateSettings], Gates]) -> None:
    async def test() -> None:
        gates = make(GateSettings(poll=POLL, connections_per_origin=1))
        for wait in (0.0, 0.001, 0.02, 0.1):
            async with held(gates, 1), anyio.create_task_group() as calls:
                for _ in range(5):
                    calls.start_soon(call, gates)
                await anyio.sleep(wait)
                calls.cancel_scope.cancel()
            async with anyio.create_task_group() as calls:  # and who is cancelled just when it is his turn
                for _ in range(5):
                    calls.start_soon(call, gates)
                await anyio.sleep(wait)
                calls.cancel_scope.cancel()
        await call(gates)
        async with held(gates, 1):
            pass

    run(test)


def test_who_is_cancelled_before_his_time_has_come_gives_his_connection_back(
    make: Callable[[GateSettings], Gates],
) -> None:
    async def test() -> None:
        gates = make(GateSettings(poll=POLL, spacing=timedelta(seconds=0.5), connections_per_origin=1))
        for _ in range(3):
            await call(gates)
            with anyio.move_on_after(0.2) as patience:
                await call(gates)
            assert patience.cancelled_caught

    run(test)


def test_a_call_that_is_cancelled_is_no_failure(make: Callable[[GateSettings], Gates]) -> None:
    async def test() -> None:
        gates = make(QUICK)
        for _ in range(10):
            async with anyio.create_task_group() as calls:
                calls.start_soon(forever, gates)
                await anyio.sleep(0.01)
                calls.cancel_scope.cancel()
        await call(gates)
        assert gates.statistics()[0].failures == {}

    async def forever(gates: Gates) -> None:
        async with gates.through(HOST):
            await anyio.sleep_forever()

    run(test)


def test_a_long_wait_is_told_and_its_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates_module, "SILENT_WAIT_SECONDS", 0.2)

    async def test() -> None:
        told: list[Event] = []
        gates = Gates(GateSettings(poll=POLL, spacing=timedelta(seconds=1)), observe=told.append)
        for _ in range(2):
            await call(gates)
        waits = [event for event in told if isinstance(event, Waiting)]
        assert [wait.what for wait in waits] == [f"a request to {HOST}", None]

    run(test)


def test_requests_keep_the_rate(make: Callable[[GateSettings], Gates]) -> None:
    async def test() -> None:
        gates = make(GateSettings(poll=POLL, requests_per_second=10))
        started = time.monotonic()
        async with anyio.create_task_group() as calls:
            for _ in range(12):
                calls.start_soon(call, gates)
        assert time.monotonic() - started >= 1.09

    run(test)


def test_nothing_is_left_of_a_run_that_is_over(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates_module, "LINGER_SECONDS", 0.2)

    async def test() -> None:
        gates = Gates(QUICK, ledger)
        async with held(gates, 2):
            pass
        await gates.flush()
        assert connections(ledger) == {HOST: 0}
        await until(lambda: not any(thread.name.startswith("gates") for thread in threading.enumerate()))
        await call(gates)
        assert gates.statistics()[0].successes == 3

    run(test)


def test_what_a_run_has_seen_is_in_the_ledger_at_its_end(ledger: Ledger) -> None:
    async def test() -> None:
        gates = Gates(QUICK, ledger)
        await call(gates, gained=5000)
        await fails(gates, NotFound("404"))
        await gates.flush()
        [known] = ledger.origins.all(this_process(), QUICK)
        [seen] = gates.statistics()
        assert known.record.statistics == seen
        assert seen.bytes_received == 5000

    run(test)


def test_a_held_connection_is_renewed_however_long_it_lasts(ledger: Ledger) -> None:
    async def test() -> None:
        limits = GateSettings(poll=POLL, lease=timedelta(seconds=1), connections_per_origin=1)
        gates, other = Gates(limits, ledger), Gates(limits, ledger)
        async with held(gates, 1):
            with anyio.move_on_after(2.5) as patience:
                await call(other)
            assert patience.cancelled_caught
        await call(other)

    run(test)


@pytest.mark.parametrize("failure", [BrokenPipeError(), SystemExit(1)])
def test_who_cannot_show_what_the_gates_tell_holds_up_no_call(failure: BaseException) -> None:
    def show(event: Event) -> None:
        raise failure

    async def test() -> None:
        gates = Gates(QUICK, None, show)
        await fails(gates, ServerError("503"), 5)
        await refused(gates)
        with anyio.fail_after(5):
            await call(gates, origin="http://other:80")

    run(test)


# --- a ledger that is away ------------------------------------------------------------------------


def test_a_ledger_that_cannot_be_opened_stops_no_transfer_and_is_told_once(ledger: Ledger, home: Home) -> None:
    async def test() -> None:
        told: list[Event] = []
        gates = Gates(QUICK, ledger, told.append)
        await call(gates)
        for file in home.root.glob("ledger.db*"):
            file.unlink()
        (home.root / "ledger.db").mkdir()
        for _ in range(3):
            await call(gates)
            await anyio.sleep(0.2)
        await fails(gates, ServerError("503"), 5)
        await refused(gates)
        await gates.flush()
        notes = [event for event in told if isinstance(event, Note) and "shares no breakers" in event.message]
        assert len(notes) == 1
        assert notes[0].level == "warning"

    run(test)


def test_a_ledger_that_does_not_answer_is_not_waited_for(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "PATIENCE_SECONDS", 0.5)
    ledger = Ledger.open(LedgerSettings(busy_timeout=timedelta(seconds=20)), home)

    async def test() -> None:
        told: list[Event] = []
        gates = Gates(QUICK, ledger, told.append)
        with closing(sqlite3.connect(home.root / "ledger.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with anyio.fail_after(10):
                for _ in range(3):
                    await call(gates)
                await gates.flush()
            other.execute("ROLLBACK")
        assert any(isinstance(event, Note) and "shares no breakers" in event.message for event in told)

    run(test)


def test_a_ledger_that_is_back_is_shared_again(ledger: Ledger, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "AWAY_SECONDS", 0.5)

    async def test() -> None:
        gates = Gates(QUICK, ledger)
        aside = home.root.with_name("aside")
        home.root.rename(aside)
        home.root.write_text("in the way")
        await call(gates)
        home.root.unlink()
        aside.rename(home.root)
        await anyio.sleep(1)
        await fails(gates, ServerError("503"), 5)
        await until(lambda: state(ledger) is BreakerState.OPEN)

    run(test)


def test_an_origin_whose_calls_are_shorter_than_an_exchange_keeps_no_other_waiting() -> None:
    """A busy machine: each answer of the ledger takes longer than a call, so the first origin always has something to
    ask when the lease thread looks."""
    gates = Gates(GateSettings(poll=POLL, spacing=timedelta(microseconds=1)))
    asked: list[str] = []

    class Slow(records.MemoryRecords):
        def exchange(self, origin: str, ask: ShareRequest, *, store: bool = True) -> ShareAnswer:
            asked.append(origin)
            time.sleep(0.03)
            return super().exchange(origin, ask, store=store)

    async def busy(number: int) -> None:
        while True:
            async with gates.through(HOST):
                await anyio.sleep(0.005 + 0.005 * number)

    async def test() -> None:
        gates._records = Slow(gates.limits, gates.clock)
        async with anyio.create_task_group() as calls:
            for number in range(16):
                calls.start_soon(busy, number)
            await until(lambda: len(asked) > 20)
            for number in range(5):
                before = len(asked)
                await call(gates, origin=f"http://other-{number}:80")
                assert len(asked) - before <= 4
            calls.cancel_scope.cancel()

    run(test)


# --- four processes -------------------------------------------------------------------------------


LONG = 0.25
"""Seconds of a call that is longer than an exchange takes, on a busy machine too: with shorter ones the processor deals
out the turns, and not the ledger."""


def spans_of(
    home: Home, limits: GateSettings, origins: list[str], seconds: float, call_seconds: float, at_once: int = 6
) -> Callable[[Pipe], None]:
    """A process that calls these origins as often as it may, and then says when each call was under way."""

    def work(pipe: Pipe) -> None:
        spans: dict[str, list[tuple[float, float]]] = {origin: [] for origin in origins}

        async def fetch(gates: Gates, origin: str, until: float) -> None:
            while time.monotonic() < until:
                async with gates.through(origin):
                    began = time.monotonic()
                    await anyio.sleep(call_seconds)
                    spans[origin].append((began, time.monotonic()))

        async def fetch_all() -> None:
            told: list[Event] = []
            gates = Gates(limits, ledger, told.append)
            until = time.monotonic() + seconds
            async with anyio.create_task_group() as calls:
                for origin in origins * at_once:
                    calls.start_soon(fetch, gates, origin, until)
            await gates.flush()
            assert not any(isinstance(event, Note) for event in told), "the ledger was there all the while"

        ledger = Ledger.open(LedgerSettings(), home)
        pipe.say("ready")
        pipe.hear()
        anyio.run(fetch_all)
        pipe.say(json.dumps(spans))

    return work


def gathered(work: Callable[[Pipe], None], number: int = 4) -> list[dict[str, list[tuple[float, float]]]]:
    with many(work, number) as children:
        for child in children:  # who began a second later would have had a second less of the others' company
            child.hear()
        for child in children:
            child.say("go")
        return [json.loads(child.hear()) for child in children]


def test_four_processes_share_the_connections_of_an_origin_and_none_starves(ledger: Ledger, home: Home) -> None:
    limits = GateSettings(poll=POLL, connections_per_origin=6)
    run(lambda: call(Gates(limits, ledger)))
    told = gathered(spans_of(home, limits, [HOST], 6, LONG))
    assert most_at_once([span for one in told for span in one[HOST]]) <= 6
    counts = [len(one[HOST]) for one in told]
    assert sum(counts) > 6 / LONG * 5 / 2, f"and they are used: {counts}"
    assert min(counts) * 4 > max(counts), f"by all alike: {counts}"


def test_four_processes_share_the_connections_of_a_host(ledger: Ledger, home: Home) -> None:
    limits = GateSettings(poll=POLL, connections=7, connections_per_origin=5)
    told = gathered(spans_of(home, limits, [HOST, OTHER], 6, LONG, at_once=3))
    spans = [span for one in told for each in one.values() for span in each]
    assert most_at_once(spans) <= 7
    for origin in (HOST, OTHER):
        assert most_at_once([span for one in told for span in one[origin]]) <= 5
    counts = [len(one[origin]) for one in told for origin in (HOST, OTHER)]
    assert min(counts) * 4 > max(counts), f"all alike: {counts}"


def test_more_runs_than_connections_take_turns(ledger: Ledger, home: Home) -> None:
    limits = GateSettings(poll=POLL, connections_per_origin=2)
    told = gathered(spans_of(home, limits, [HOST], 8, LONG, at_once=2))
    assert most_at_once([span for one in told for span in one[HOST]]) <= 2
    counts = [len(one[HOST]) for one in told]
    assert min(counts) > 0, counts
    assert min(counts) * 5 > max(counts), counts


def test_four_processes_together_keep_the_rate(ledger: Ledger, home: Home) -> None:
    limits = GateSettings(poll=POLL, requests_per_second=10)
    told = gathered(spans_of(home, limits, [HOST], 4, 0.001, at_once=2))
    begun = sorted(began for one in told for began, _ in one[HOST])
    assert len(begun) <= 10 * (begun[-1] - begun[0]) + 3
    assert len(begun) >= 20, "and the rate is used"
    counts = [len(one[HOST]) for one in told]
    assert min(counts) > 0, counts


def test_what_a_killed_run_held_is_free_for_the_others(ledger: Ledger, home: Home) -> None:
    limits = GateSettings(poll=POLL, connections_per_origin=3)
    run(lambda: call(Gates(limits, ledger)))

    def hold(pipe: Pipe) -> None:
        async def hold_all() -> None:
            async with held(Gates(limits, Ledger.open(LedgerSettings(), home)), 3):
                pipe.say("held")
                await anyio.sleep_forever()

        anyio.run(hold_all)

    async def all_are_taken() -> None:
        with anyio.move_on_after(1) as patience:
            await call(Gates(limits, ledger))
        assert patience.cancelled_caught

    async def all_can_be_had() -> None:
        async with held(Gates(limits, ledger), 3):
            pass

    with forked(hold) as child:
        child.hear()
        run(all_are_taken)
        child.kill()
        run(all_can_be_had)


def test_a_dead_origin_costs_the_others_nothing(ledger: Ledger, home: Home) -> None:
    """Three processes ask origins that take connections and never answer; the fourth has a healthy one.

    It makes as many calls as it would alone, give or take what the machine does meanwhile.
    """
    limits = GateSettings(poll=POLL, connections=12, connections_per_origin=6)
    healthy = spans_of(home, limits, [HOST], 3, 0.05)
    run(lambda: call(Gates(limits, ledger)))
    alone = len(gathered(healthy, 1)[0][HOST])

    def ask_the_dead(pipe: Pipe) -> None:
        async def ask(gates: Gates, origin: str) -> None:
            while True:
                try:
                    async with gates.through(origin):
                        await anyio.sleep(1)  # a request timeout
                        raise ConnectionFailed("no answer")
                except ConnectionFailed:
                    pass
                except CircuitOpen:
                    await anyio.sleep(0.2)

        async def ask_all() -> None:
            gates = Gates(limits, Ledger.open(LedgerSettings(), home))
            async with anyio.create_task_group() as calls:
                for number in range(12):
                    calls.start_soon(ask, gates, f"http://dead-{number % 4}:80")
                await anyio.sleep(0.3)
                pipe.say("asking")

        anyio.run(ask_all)

    with many(ask_the_dead, 3) as dead:
        for child in dead:
            child.hear()
        beside = len(gathered(healthy, 1)[0][HOST])
    assert beside > alone * 0.6, f"{beside} calls beside the dead, {alone} alone"


def test_a_breaker_opens_for_four_processes_after_five_failures_of_all(ledger: Ledger, home: Home) -> None:
    """Each stops at its first refusal. Of an origin that is not known there are two calls at once, and two that fail
    together count once."""

    def fail(pipe: Pipe) -> None:
        async def fail_until_refused() -> None:
            gates, failures = Gates(QUICK, Ledger.open(LedgerSettings(), home)), 0
            while True:
                try:
                    await call(gates, ServerError("503"))
                except ServerError:
                    failures += 1
                except CircuitOpen:
                    break
            pipe.say(failures)

        pipe.hear()
        anyio.run(fail_until_refused)

    with many(fail, 4) as children:
        for child in children:
            child.say("go")
        failures = [int(child.hear()) for child in children]
    assert 5 <= sum(failures) <= 5 * 2
    assert state(ledger) is BreakerState.OPEN


# --- looking --------------------------------------------------------------------------------------


async def until(holds: Callable[[], bool], meanwhile: Callable[[], Awaitable[None]] | None = None) -> None:
    with anyio.fail_after(20):
        while not holds():
            if meanwhile is not None:
                try:
                    await meanwhile()
                except CircuitOpen:
                    continue
            await anyio.sleep(0.02)


def connections(ledger: Ledger) -> dict[str, int]:
    return {one.record.origin: one.connections for one in ledger.origins.all(this_process(), QUICK)}


def state(ledger: Ledger, origin: str = HOST) -> BreakerState:
    return next(
        one.record.breaker.state for one in ledger.origins.all(this_process(), QUICK) if one.record.origin == origin
    )

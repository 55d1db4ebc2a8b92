"""An attempt's hold on its work while the work goes on: renewed, lost, taken over, given up. With a real ledger."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from sqlalchemy import text

from tests.support.forked import Pipe, forked
from tests.support.postgres import Cluster
from tests.support.proxy import Proxy, Way, proxy
from tidegate.durable.children import ProcessGroup, mark_variable, register_child
from tidegate.durable.home import Home
from tidegate.durable.ledger import Attempt, AttemptState, Ledger, NewAttempt
from tidegate.durable.ledger.decide import is_stuck
from tidegate.durable.ledger.lease import Lease, current_lease, hold_lease
from tidegate.durable.owner import this_process
from tidegate.errors import DiskFull, LeaseLost, LedgerUnavailable, Superseded
from tidegate.events import Advance, Event, Note, StageEnded, StageStarted, ignore_events
from tidegate.settings import AdmissionSettings, LedgerSettings

WORK = "a" * 64
TARGET = Path("/out/film-1")
PATIENCE = 30.0
LONG = timedelta(hours=1)


@pytest.fixture
def quick(limits: LedgerSettings) -> LedgerSettings:
    """Renewals every moment; nothing is given up."""
    return limits.model_copy(update={"renew_every": timedelta(seconds=0.1), "poll": timedelta(seconds=0.1)})


@pytest.fixture
def ledger(quick: LedgerSettings, home: Home) -> Iterator[Ledger]:
    opened = Ledger.open(quick, home)
    yield opened
    opened.close()


def beginning(kind: Any = "ingest", **facts: Any) -> NewAttempt:
    return NewAttempt(kind=kind, title="http://host/film.mp4", **facts)


@asynccontextmanager
async def at_work(
    ledger: Ledger, observe: Callable[[Event], None] = ignore_events, **facts: Any
) -> AsyncIterator[Lease]:
    with anyio.fail_after(PATIENCE):
        async with hold_lease(ledger, beginning(**facts), observe) as lease:
            yield lease


def row(ledger: Ledger, attempt: Attempt) -> Attempt:
    found = ledger.attempt(attempt.id)
    assert found is not None
    return found


async def until(ledger: Ledger, lease: Lease, condition: Callable[[Attempt], object]) -> Attempt:
    """The row, once it is so. The loop must go on meanwhile: it renews."""
    with anyio.fail_after(PATIENCE):
        while not condition(seen := await to_thread.run_sync(row, ledger, lease.attempt)):  # noqa: ASYNC110
            await anyio.sleep(0.02)
    return seen


def only(ledger: Ledger) -> Attempt:
    """The one attempt there is."""
    (attempt,) = ledger.recent(3600)
    return attempt


# --- renewals --------------------------------------------------------------------------------------


def test_renewals_carry_how_far_the_run_is(ledger: Ledger) -> None:
    async def work() -> None:
        async with at_work(ledger) as lease:
            await until(ledger, lease, lambda seen: seen.renewed_at > seen.created_at)
            lease(StageStarted("probe"))
            lease(StageEnded("probe", "completed", cached=True, seconds=0.0, record="key of probe"))
            lease(StageStarted("download"))
            lease(Advance("download", 500.0, 1000.0, "bytes"))
            seen = await until(ledger, lease, lambda seen: seen.done)
            assert (seen.stage, seen.done, seen.total, seen.unit) == ("download", 500.0, 1000.0, "bytes")
            assert seen.records == {"probe": "key of probe"}
            assert seen.progressed_at is not None
            lease(StageEnded("download", "failed", cached=False, seconds=0.0))
            lease(StageStarted("remux"))
            seen = await until(ledger, lease, lambda seen: seen.stage == "remux")
            assert (seen.done, seen.records) == (None, {"probe": "key of probe"})

    anyio.run(work)


def test_what_must_survive_a_kill_is_told_at_once_and_not_with_the_next_renewal(ledger: Ledger) -> None:
    ledger.limits = ledger.limits.model_copy(update={"renew_every": LONG})
    group = ProcessGroup(group=123, started=456, name="ffmpeg")

    async def work() -> None:
        async with at_work(ledger) as lease:
            assert mark_variable() == {"TIDEGATE_ATTEMPT": lease.attempt.id}
            await to_thread.run_sync(lease, StageStarted("remux"))  # from a thread, as transfers do
            await until(ledger, lease, lambda seen: seen.stage == "remux")
            with register_child(group):
                await until(ledger, lease, lambda seen: seen.groups == (group,))
            await until(ledger, lease, lambda seen: seen.groups == ())
            with lease.note_wait("a slot"):
                await until(ledger, lease, lambda seen: seen.waiting_for == "a slot")
            await until(ledger, lease, lambda seen: seen.waiting_for is None)

    anyio.run(work)
    assert mark_variable() == {} and current_lease() is None


def test_renewing_alone_is_no_progress(ledger: Ledger) -> None:
    async def work() -> None:
        async with at_work(ledger) as lease:
            lease(Advance("remux", 5.0, 10.0, "seconds"))
            first = await until(ledger, lease, lambda seen: seen.progressed_at)
            for _ in range(5):  # ffmpeg repeats itself while it hangs
                lease(Advance("remux", 5.0, 10.0, "seconds"))
                await anyio.sleep(0.1)
            seen = await until(ledger, lease, lambda seen: seen.renewed_at > first.renewed_at + 0.3)
            assert seen.progressed_at == first.progressed_at

    anyio.run(work)


@pytest.mark.parametrize("start", [0.0, 3.0])
def test_a_stage_that_has_to_begin_again_progresses_while_it_makes_up_for_it(start: float, ledger: Ledger) -> None:
    """A source without ranges that cuts at 90 % after five hours; a transcode after a copy that was refused."""

    async def work() -> None:
        async with at_work(ledger) as lease:
            lease(Advance("download", 900.0, 1000.0, "bytes"))
            first = await until(ledger, lease, lambda seen: seen.progressed_at)
            lease(Advance("download", start, 1000.0, "bytes"))
            back = await until(ledger, lease, lambda seen: seen.done == start)
            assert back.progressed_at == first.progressed_at, "falling back is none"
            lease(Advance("download", start + 1, 1000.0, "bytes"))
            again = await until(ledger, lease, lambda seen: seen.done == start + 1)
            assert (again.progressed_at or 0) > (first.progressed_at or 0)

    anyio.run(work)


def test_one_that_waits_by_name_is_not_stuck_and_its_clock_begins_anew_afterwards(ledger: Ledger) -> None:
    async def work() -> None:
        async with at_work(ledger) as lease:
            with lease.note_wait("another run of the same work"):
                seen = await until(ledger, lease, lambda seen: seen.waiting_for)
                assert not is_stuck(seen, seen.renewed_at + 1e6, timedelta(hours=2))
            seen = await until(ledger, lease, lambda seen: seen.waiting_for is None)
            assert seen.progressed_at is not None and abs(seen.progressed_at - seen.renewed_at) < 5
            assert not is_stuck(seen, seen.renewed_at + 7000, timedelta(hours=2))
            assert is_stuck(seen, seen.renewed_at + 7300, timedelta(hours=2))

    anyio.run(work)


def test_a_batch_gets_on_as_its_sources_do_and_not_otherwise(ledger: Ledger) -> None:
    async def work() -> None:
        async with at_work(ledger, kind="batch", flow_run="batch") as parent:
            async with at_work(ledger, flow_run="child", root_run="batch") as child:
                assert current_lease() is child
                await until(ledger, parent, lambda seen: seen.renewed_at > seen.created_at + 0.5)
                assert row(ledger, parent.attempt).progressed_at is None
                child(Advance("download", 1.0, None, "bytes"))
                first = await until(ledger, parent, lambda seen: seen.progressed_at)
                with child.note_wait("a slot"):
                    await until(
                        ledger, parent, lambda seen: (seen.progressed_at or 0) > (first.progressed_at or 0) + 0.5
                    )
            assert current_lease() is parent

    anyio.run(work)


# --- taking over and being taken over --------------------------------------------------------------


def test_a_second_run_waits_visibly_and_goes_on_when_the_first_has_ended(ledger: Ledger) -> None:
    notes: list[str] = []

    def observe(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.message)

    async def work() -> None:
        async with anyio.create_task_group() as both:
            first_done, second_waits = anyio.Event(), anyio.Event()

            async def second() -> None:
                async with at_work(ledger, observe) as lease:
                    both.start_soon(watch, lease)
                    await lease.claim(WORK, TARGET)
                    assert first_done.is_set()
                    seen = await until(ledger, lease, lambda seen: seen.waiting_for is None)
                    assert (seen.work_key, seen.target, seen.epoch) == (WORK, TARGET, lease.attempt.epoch)

            async def watch(lease: Lease) -> None:
                seen = await until(ledger, lease, lambda seen: seen.waiting_for)
                assert seen.waiting_for == "another run of the same work"
                second_waits.set()

            async with at_work(ledger) as lease:
                await lease.claim(WORK, TARGET)
                both.start_soon(second)
                await second_waits.wait()
                first_done.set()

    anyio.run(work)
    assert notes == ["Another run is doing the same work; waiting for it"]


def test_a_killed_run_is_taken_over_and_that_is_said(ledger: Ledger, quick: LedgerSettings, home: Home) -> None:
    notes: list[str] = []

    def hold(pipe: Pipe) -> None:
        async def work() -> None:
            mine = Ledger.open(quick, home)
            async with hold_lease(mine, beginning(), ignore_events) as lease:
                await lease.claim(WORK, TARGET)
                pipe.say(lease.attempt.id)
                await anyio.sleep(PATIENCE)

        anyio.run(work)

    async def take(before: str) -> None:
        async with at_work(ledger, lambda event: notes.append(getattr(event, "message", ""))) as lease:
            await lease.claim(WORK, TARGET)
            assert lease.attempt.epoch == 2
        assert notes == [f"Taking over from attempt {before}, whose process is gone"]

    with forked(hold) as child:
        before = child.hear()
        child.kill()
        anyio.run(take, before)


def end_it(ledger: Ledger, attempt: Attempt, how: str) -> None:
    if how == "stuck":
        assert ledger.mark_stuck(row(ledger, attempt), "too long")
    elif how == "abandoned":
        while not ledger.abandon(row(ledger, attempt)):  # it renews all the time
            pass
    else:  # by another host, after the length of a lease
        away = this_process().model_copy(update={"host": "away"})
        other = ledger.begin(beginning(owner=away))
        while ledger.claim(other.id, WORK, away).epoch is None:
            with ledger._database.transaction() as connection:
                aged = text("UPDATE attempts SET renewed_at = renewed_at - 400 WHERE id = :id")
                connection.execute(aged, {"id": attempt.id})


@pytest.mark.parametrize(
    ("how", "ends_as"),
    [("stuck", AttemptState.STUCK), ("abandoned", AttemptState.ABANDONED), ("taken over", AttemptState.SUPERSEDED)],
)
def test_who_is_ended_by_somebody_else_stops_and_publishes_nothing(
    how: str, ends_as: AttemptState, ledger: Ledger
) -> None:
    seen: dict[str, Any] = {"cleaned": False}

    async def work() -> None:
        with pytest.raises(Superseded):
            async with at_work(ledger) as lease:
                seen["attempt"] = lease.attempt
                await lease.claim(WORK, TARGET)
                try:
                    await to_thread.run_sync(end_it, ledger, lease.attempt, how)
                    await anyio.sleep(PATIENCE)
                finally:
                    with anyio.CancelScope(shield=True):
                        await anyio.sleep(0.1)
                        with pytest.raises(Superseded):
                            await to_thread.run_sync(lease.fence().__enter__)
                        seen["cleaned"] = True

    anyio.run(work)
    assert seen["cleaned"], "the block was cancelled, and could clean up"
    assert row(ledger, seen["attempt"]).state is ends_as


# --- the end ---------------------------------------------------------------------------------------


async def concluded(lease: Lease) -> None:
    lease.conclude(AttemptState.FAILED, "not_found")


async def fails(lease: Lease) -> None:
    raise DiskFull("no space")


async def breaks(lease: Lease) -> None:
    raise ZeroDivisionError


async def breaks_in_a_group(lease: Lease) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(fails, lease)
        await anyio.sleep(PATIENCE)


async def passes(lease: Lease) -> None: ...


@pytest.mark.parametrize(
    ("body", "raises", "state", "failure"),
    [
        (passes, None, AttemptState.COMPLETED, None),
        (concluded, None, AttemptState.FAILED, "not_found"),
        (fails, DiskFull, AttemptState.FAILED, "disk_full"),
        (breaks_in_a_group, DiskFull, AttemptState.FAILED, "disk_full"),
        (breaks, ZeroDivisionError, AttemptState.FAILED, "unknown"),
    ],
)
def test_how_the_block_ended_is_written(
    body: Callable[[Lease], Any],
    raises: type[Exception] | None,
    state: AttemptState,
    failure: str | None,
    ledger: Ledger,
) -> None:
    async def work() -> None:
        async with at_work(ledger) as lease:
            await lease.claim(WORK, TARGET)
            await body(lease)

    if raises:
        with pytest.raises(raises):
            anyio.run(work)
    else:
        anyio.run(work)
    ended = only(ledger)
    assert (ended.state, ended.failure) == (state, failure)
    assert ended.ended_at is not None
    assert ledger.claim(ledger.begin(beginning()).id, WORK, this_process()).epoch is not None, "the work is free"


@pytest.mark.parametrize("how", ["a cancelled scope", "Ctrl-C", "a worker that ends it"])
def test_one_that_is_stopped_from_outside_says_so(how: str, ledger: Ledger) -> None:
    async def work() -> None:
        with anyio.CancelScope() as scope:
            async with at_work(ledger):
                if how == "Ctrl-C":
                    raise KeyboardInterrupt
                if how == "a worker that ends it":
                    raise SystemExit(143)
                scope.cancel()
                await anyio.sleep(PATIENCE)

    if how == "a cancelled scope":
        anyio.run(work)
    else:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            anyio.run(work)
    assert only(ledger).state is AttemptState.INTERRUPTED


# --- a ledger that is away -------------------------------------------------------------------------


@pytest.fixture
def through(postgres: Cluster, home: Home) -> Iterator[tuple[Proxy, Ledger, Ledger]]:
    """A switch; the ledger behind it, with tiny limits; and the same ledger on the straight way."""
    tiny = {"renew_every": 0.2, "give_up": 3, "lease": 6, "poll": 0.2, "patience": 2}
    with postgres.database() as name, proxy((postgres.host, postgres.port)) as between:
        url = postgres.url(name, host=between.host, port=between.port)
        behind = Ledger.open(LedgerSettings(url=url, busy_timeout=1, statement_timeout=1, **tiny), home)
        straight = Ledger.open(LedgerSettings(url=postgres.url(name)), home)
        yield between, behind, straight
        behind.close()
        straight.close()


@pytest.mark.parametrize("way", [Way.BLACK_HOLE, Way.REFUSE])
def test_a_run_that_cannot_renew_stops_itself_before_others_take_over(
    way: Way, through: tuple[Proxy, Ledger, Ledger]
) -> None:
    between, behind, straight = through
    times: dict[str, float] = {}

    async def work() -> None:
        with pytest.raises(LeaseLost):
            async with at_work(behind) as lease:
                await lease.claim(WORK, TARGET)
                times["away"] = time.monotonic()
                between.turn(way)
                try:
                    await anyio.sleep(PATIENCE)
                finally:
                    times["stopped"] = time.monotonic()

    anyio.run(work)
    assert 2 < times["stopped"] - times["away"] < 20
    assert only(straight).state is AttemptState.RUNNING, "nobody could tell the ledger: recovery sees an orphan"
    between.turn(Way.PASS)


def test_a_run_that_lost_its_lease_is_left_for_recovery_and_not_written_off(
    through: tuple[Proxy, Ledger, Ledger],
) -> None:
    between, behind, straight = through

    async def work() -> None:
        with pytest.raises(LeaseLost):
            async with at_work(behind) as lease:
                await lease.claim(WORK, TARGET)
                between.turn(Way.REFUSE)
                try:
                    await anyio.sleep(PATIENCE)
                finally:
                    between.turn(Way.PASS)

    anyio.run(work)
    ended = only(straight)
    assert (ended.state, ended.failure) == (AttemptState.INTERRUPTED, "lease_lost")
    assert straight.open_attempts() == [ended]


def test_an_outage_shorter_than_the_lease_is_survived_and_said_once(through: tuple[Proxy, Ledger, Ledger]) -> None:
    between, behind, straight = through
    behind.limits = behind.limits.model_copy(update={"give_up": timedelta(seconds=25)})
    warnings: list[Note] = []

    def observe(event: Event) -> None:
        if isinstance(event, Note) and event.level == "warning":
            warnings.append(event)

    async def work() -> None:
        async with at_work(behind, observe) as lease:
            await lease.claim(WORK, TARGET)
            between.turn(Way.REFUSE)
            lease(Advance("download", 77.0, None, "bytes"))
            await anyio.sleep(2)
            between.turn(Way.PASS)
            seen = await until(straight, lease, lambda seen: seen.done == 77.0)
            assert seen.progressed_at is not None, "what was gained meanwhile is not forgotten"

    anyio.run(work)
    assert len(warnings) == 1 and "trying again" in warnings[0].message
    assert only(straight).state is AttemptState.COMPLETED


def test_a_claim_a_slot_and_the_end_outlast_an_outage(through: tuple[Proxy, Ledger, Ledger]) -> None:
    between, behind, straight = through
    behind.limits = LedgerSettings()

    async def back_soon() -> None:
        await anyio.sleep(1.5)
        between.turn(Way.PASS)

    async def work() -> None:
        async with anyio.create_task_group() as group, at_work(behind) as lease:
            for call in (
                lambda: lease.claim(WORK, TARGET),
                lambda: lease.take_slot(AdmissionSettings()),
                lambda: lease.note_publication(TARGET),
            ):
                between.turn(Way.REFUSE)
                group.start_soon(back_soon)
                await call()
            between.turn(Way.REFUSE)
            group.start_soon(back_soon)

    anyio.run(work)
    assert only(straight).state is AttemptState.COMPLETED
    assert straight.publication_folders() == [TARGET]


def test_a_run_does_not_begin_without_its_ledger(through: tuple[Proxy, Ledger, Ledger]) -> None:
    between, behind, straight = through
    between.turn(Way.REFUSE)

    async def work() -> None:
        async with at_work(behind):
            raise AssertionError("nobody works unseen")

    with pytest.raises(LedgerUnavailable):
        anyio.run(work)
    between.turn(Way.PASS)
    assert straight.recent(3600) == []


def test_half_a_second_on_every_call_costs_no_lease(through: tuple[Proxy, Ledger, Ledger]) -> None:
    between, behind, straight = through
    behind.limits = behind.limits.model_copy(update={"give_up": timedelta(seconds=20)})

    async def work() -> None:
        async with at_work(behind) as lease:
            await lease.claim(WORK, TARGET)
            between.turn(Way.PASS, delay_seconds=0.25)
            lease(Advance("download", 5.0, None, "bytes"))
            await until(straight, lease, lambda seen: seen.done == 5.0)
            between.turn(Way.PASS)

    anyio.run(work)
    assert only(straight).state is AttemptState.COMPLETED


def test_many_runs_in_one_process_leave_no_connections_behind(postgres: Cluster, home: Home) -> None:
    with postgres.database() as name:
        ledger = Ledger.open(LedgerSettings(url=postgres.url(name)), home)

        async def one(number: int) -> None:
            async with at_work(ledger) as lease:
                await lease.claim(f"work {number}", TARGET)

        async def all_of_them() -> None:
            async with anyio.create_task_group() as group:
                for number in range(12):
                    group.start_soon(one, number)

        anyio.run(all_of_them)
        count = int(postgres.run(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"))
        assert count <= 10, "5 + 5"
        assert ledger.counts() == {"completed": 12}
        ledger.close()

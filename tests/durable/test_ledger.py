"""The ledger on both of its databases: who holds what, who may publish, and what a disaster leaves of it.

Other owners are real: forked processes that are killed and stopped, and hosts by another name. A lease's length is
waited for nowhere; where time has to pass, the row is set back.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text

from tests.support.command import wait_until
from tests.support.forked import Pipe, forked, many
from tests.support.leaks import open_descriptors
from tests.support.postgres import Cluster
from tests.support.proxy import Proxy, Way, proxy
from tidegate.durable.home import Home
from tidegate.durable.ledger import (
    Attempt,
    AttemptProgress,
    AttemptState,
    LeaseState,
    Ledger,
    NewAttempt,
    Recovery,
    insist,
    schema,
)
from tidegate.durable.ledger.ledger import _claim
from tidegate.durable.ledger.rows import Reach
from tidegate.durable.owner import this_process
from tidegate.errors import BadInput, LedgerUnavailable, Superseded, TidegateError
from tidegate.settings import AdmissionSettings, LedgerSettings

WORK = "a" * 64
FOREIGN = this_process().model_copy(update={"host": "another-host"})
SLOTS = AdmissionSettings(slots=2)


def begun(ledger: Ledger, **facts: object) -> Attempt:
    return ledger.begin(NewAttempt(kind="ingest", title="http://host/film.mp4", **facts))  # type: ignore[arg-type]


def held(ledger: Ledger, work: str = WORK, **facts: object) -> Attempt:
    """An attempt that holds its work."""
    attempt = begun(ledger, **facts)
    assert ledger.claim(attempt.id, work, this_process()).epoch is not None
    return row(ledger, attempt)


def row(ledger: Ledger, attempt: Attempt) -> Attempt:
    found = ledger.attempt(attempt.id)
    assert found is not None
    return found


def age(ledger: Ledger, attempt: Attempt, column: str, seconds: float) -> None:
    """Let a time of that row be so long ago."""
    with ledger._database.transaction() as connection:
        change = text(f"UPDATE attempts SET {column} = {column} - :seconds WHERE id = :id")
        connection.execute(change, {"seconds": seconds, "id": attempt.id})


def epoch(ledger: Ledger, work: str = WORK) -> int:
    with ledger._database.connect() as connection:
        return int(
            connection.execute(text("SELECT epoch FROM works WHERE work_key = :key"), {"key": work}).scalar_one()
        )


# --- an attempt's own life -------------------------------------------------------------------------


def test_what_began_can_be_read_and_is_told_by_the_databases_clock(ledger: Ledger) -> None:
    before = ledger.now()
    request = {"source": {"url": "http://host/film.mp4?…"}, "quality": "auto"}
    attempt = begun(ledger, flow_run="run", deployment="deployment", request=request, alone=True)
    after = ledger.now()
    assert row(ledger, attempt) == attempt
    assert before - 0.01 <= attempt.created_at == attempt.renewed_at <= after + 0.01
    assert abs(after - time.time()) < 60
    assert attempt.progressed_at is None and attempt.work_key is None and attempt.epoch == 0
    assert (attempt.owner, attempt.request, attempt.root_run) == (this_process(), request, "run")
    assert (attempt.alone, attempt.state, attempt.groups) == (True, AttemptState.RUNNING, ())


def test_the_first_to_claim_holds_and_the_second_learns_who_does(ledger: Ledger) -> None:
    first, second = held(ledger), begun(ledger)
    claim = ledger.claim(second.id, WORK, this_process())
    assert claim.epoch is None
    assert claim.holder is not None and claim.holder.id == first.id
    assert row(ledger, second).work_key is None


def test_claiming_twice_is_claiming_once(ledger: Ledger) -> None:
    attempt = held(ledger)
    assert ledger.claim(attempt.id, WORK, this_process()).epoch == attempt.epoch == epoch(ledger)


def test_different_works_do_not_know_each_other(ledger: Ledger) -> None:
    assert held(ledger, "one").epoch == held(ledger, "two").epoch == 1


def test_the_work_of_one_that_ended_is_free_and_its_epoch_goes_up(ledger: Ledger) -> None:
    first = held(ledger)
    assert ledger.end(first.id, AttemptState.COMPLETED)
    ended = row(ledger, first)
    assert ended.state is AttemptState.COMPLETED and ended.ended_at is not None
    second = held(ledger)
    assert second.epoch > first.epoch


def test_an_attempt_ends_once(ledger: Ledger) -> None:
    attempt = held(ledger)
    assert ledger.end(attempt.id, AttemptState.FAILED, "disk_full")
    assert not ledger.end(attempt.id, AttemptState.COMPLETED)
    assert (row(ledger, attempt).state, row(ledger, attempt).failure) == (AttemptState.FAILED, "disk_full")


def test_a_renewal_tells_everything_and_only_an_advance_counts_as_progress(ledger: Ledger) -> None:
    attempt = held(ledger)
    progress = AttemptProgress(
        stage="download", done=5.0, total=10.0, unit="bytes", records={"probe": "key"}, waiting_for="x"
    )
    assert ledger.renew(attempt.id, progress, advanced=False) is LeaseState.HELD
    told = row(ledger, attempt)
    assert told.progressed_at is None and told.renewed_at >= attempt.renewed_at
    assert AttemptProgress.model_validate(told.model_dump()) == progress
    assert told.reached == Reach(stages=1, done=5.0)
    assert ledger.renew(attempt.id, AttemptProgress(), advanced=True) is LeaseState.HELD
    moved = row(ledger, attempt)
    assert moved.progressed_at == pytest.approx(moved.renewed_at, abs=1)
    assert moved.waiting_for is None and moved.reached == Reach()


def test_a_renewal_that_meets_its_own_claim_is_no_loss(ledger: Ledger) -> None:
    attempt = begun(ledger)
    renewals: list[LeaseState] = []
    renewal = threading.Thread(
        target=lambda: renewals.append(ledger.renew(attempt.id, AttemptProgress(), advanced=True)), daemon=True
    )
    with ledger._database.transaction() as connection:
        claimed = _claim(connection, attempt.id, WORK, this_process(), ledger.limits, None)
        renewal.start()
        time.sleep(0.5)  # it waits for what this has locked
    renewal.join(30)
    assert claimed.epoch == 1 and renewals == [LeaseState.HELD]


def test_one_that_holds_nothing_yet_renews(ledger: Ledger) -> None:
    assert ledger.renew(begun(ledger).id, AttemptProgress(), advanced=False) is LeaseState.HELD


def test_an_attempt_that_the_ledger_does_not_know_is_superseded(ledger: Ledger) -> None:
    assert ledger.renew("unknown", AttemptProgress(), advanced=True) is LeaseState.SUPERSEDED
    assert not ledger.end("unknown", AttemptState.COMPLETED)
    with pytest.raises(Superseded), ledger.fence("unknown"):
        pass


# --- taking over -----------------------------------------------------------------------------------


def test_eight_processes_hold_one_work_one_after_the_other_under_rising_epochs(
    ledger: Ledger, limits: LedgerSettings, home: Home, tmp_path: Path
) -> None:
    inside, log = tmp_path / "inside", tmp_path / "log"

    def work(pipe: Pipe) -> None:
        mine = Ledger.open(limits, home)
        for _ in range(3):
            attempt = begun(mine)
            while (claim := insist(lambda: mine.claim(attempt.id, WORK, this_process()), 30)).epoch is None:  # noqa: B023
                time.sleep(0.01)
            handle = os.open(inside, os.O_CREAT | os.O_EXCL)  # fails if somebody else is inside
            with log.open("a") as file:
                file.write(f"{claim.epoch}\n")
            os.close(handle)
            inside.unlink()
            insist(lambda: mine.end(attempt.id, AttemptState.COMPLETED), 30)  # noqa: B023

    with many(work, 8) as children:
        assert [child.wait() for child in children] == [0] * 8
    epochs = [int(line) for line in log.read_text().split()]
    assert len(epochs) == 24 and epochs == sorted(set(epochs))
    assert list((home.root / "scratch").glob("*")) == []


def test_a_killed_holder_is_taken_over_at_once_on_its_host(ledger: Ledger, limits: LedgerSettings, home: Home) -> None:
    def hold(pipe: Pipe) -> None:
        pipe.say(held(Ledger.open(limits, home)).id)
        signal.pause()

    with forked(hold) as child:
        before = child.hear()
        waiting = begun(ledger)
        assert ledger.claim(waiting.id, WORK, this_process()).epoch is None
        child.send(signal.SIGSTOP)
        assert ledger.claim(waiting.id, WORK, this_process()).epoch is None, "it is not dead"
        child.kill()
        claim = ledger.claim(waiting.id, WORK, this_process())
    assert claim.epoch == 2
    assert claim.holder is not None and claim.holder.id == before
    assert ledger.renew(before, AttemptProgress(), advanced=True) is LeaseState.SUPERSEDED
    with pytest.raises(Superseded), ledger.fence(before):
        pass


def test_a_zombie_holds_nothing(ledger: Ledger, limits: LedgerSettings, home: Home) -> None:
    with forked(lambda pipe: pipe.say(held(Ledger.open(limits, home)).id)) as child:
        child.hear()
        wait_until(lambda: Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
        assert ledger.claim(begun(ledger).id, WORK, this_process()).epoch == 2


def test_a_holder_on_another_host_is_taken_over_only_after_its_lease(ledger: Ledger) -> None:
    attempt, waiting = held(ledger, owner=FOREIGN), begun(ledger)
    assert ledger.claim(waiting.id, WORK, this_process()).epoch is None
    age(ledger, attempt, "renewed_at", 290)
    assert ledger.claim(waiting.id, WORK, this_process()).epoch is None
    age(ledger, attempt, "renewed_at", 20)
    assert ledger.claim(waiting.id, WORK, this_process()).epoch == 2
    with pytest.raises(Superseded), ledger.fence(attempt.id):
        pass
    assert ledger.renew(attempt.id, AttemptProgress(), advanced=True) is LeaseState.SUPERSEDED


def test_a_renewal_after_a_long_silence_keeps_the_work_if_nobody_wanted_it(ledger: Ledger) -> None:
    attempt = held(ledger, owner=FOREIGN)
    age(ledger, attempt, "renewed_at", 3600)
    assert ledger.renew(attempt.id, AttemptProgress(), advanced=False) is LeaseState.HELD
    assert ledger.claim(begun(ledger).id, WORK, this_process()).epoch is None


def test_one_that_was_ended_while_it_waited_takes_nothing(ledger: Ledger) -> None:
    waiting = begun(ledger)
    assert ledger.abandon(waiting)
    for identifier in (waiting.id, "unknown"):
        with pytest.raises(Superseded):
            ledger.claim(identifier, WORK, this_process())
    assert ledger.claim(begun(ledger).id, WORK, this_process()).epoch == 1


# --- publishing ------------------------------------------------------------------------------------


def test_nobody_takes_over_from_a_stopped_process_that_is_publishing_and_others_go_on(
    ledger: Ledger, limits: LedgerSettings, home: Home
) -> None:
    def publish(pipe: Pipe) -> None:
        mine = Ledger.open(limits, home)
        attempt = held(mine)
        with mine.fence(attempt.id):
            pipe.say(attempt.id)
            pipe.hear()
        pipe.say("published")

    impatient = Ledger.open(limits.model_copy(update={"statement_timeout": limits.poll}), home)
    with forked(publish) as child:
        holder = child.hear()
        child.send(signal.SIGSTOP)
        age(ledger, row(ledger, begun(ledger)), "renewed_at", 1000)  # others' rows are free
        other, waiting = held(ledger, "other work"), begun(ledger)
        assert ledger.renew(other.id, AttemptProgress(stage="probe"), advanced=True) is LeaseState.HELD
        with ledger.fence(other.id):
            assert ledger.renew(other.id, AttemptProgress(), advanced=True) is LeaseState.HELD
        try:
            assert impatient.claim(waiting.id, WORK, FOREIGN).epoch is None
        except LedgerUnavailable as error:
            assert limits.url and "timeout" in str(error)
        child.send(signal.SIGCONT)
        child.say("go")
        assert child.hear() == "published"
        assert child.wait() == 0
    assert ledger.claim(waiting.id, WORK, this_process()).epoch == 2
    assert row(ledger, waiting).id != holder
    impatient.close()


def test_its_own_renewals_go_on_while_an_attempt_publishes(ledger: Ledger) -> None:
    attempt = held(ledger)
    with ledger.fence(attempt.id):
        assert ledger.renew(attempt.id, AttemptProgress(), advanced=True) is LeaseState.HELD


def test_a_process_killed_while_it_publishes_leaves_nothing_locked(
    ledger: Ledger, limits: LedgerSettings, home: Home
) -> None:
    def publish(pipe: Pipe) -> None:
        mine = Ledger.open(limits, home)
        with mine.fence(held(mine).id):
            pipe.say("publishing")
            signal.pause()

    with forked(publish) as child:
        child.hear()
        child.kill()
    waiting = begun(ledger)
    assert insist(lambda: ledger.claim(waiting.id, WORK, this_process()), 30).epoch == 2
    with ledger.fence(waiting.id):
        pass


def test_a_failure_while_publishing_comes_through_and_leaves_the_work_held(ledger: Ledger) -> None:
    attempt = held(ledger)
    with pytest.raises(ValueError, match="inside"), ledger.fence(attempt.id):
        raise ValueError("inside")
    with ledger.fence(attempt.id):
        pass
    assert row(ledger, attempt).state is AttemptState.RUNNING


def test_somebody_who_looks_for_long_whether_the_work_is_free_does_not_supersede_its_holder(
    home: Home,
) -> None:
    """SQLite: a claim holds the lock of the work for as long as it waits for the database."""
    ledger = Ledger.open(LedgerSettings(busy_timeout=1), home)
    attempt = held(ledger)
    home.lock(WORK).parent.mkdir(exist_ok=True)

    def look(pipe: Pipe) -> None:
        import fcntl

        handle = os.open(home.lock(WORK), os.O_RDWR | os.O_CREAT)
        fcntl.flock(handle, fcntl.LOCK_EX)
        pipe.say("looks")
        time.sleep(3)

    with forked(look) as child:
        child.hear()
        with pytest.raises(LedgerUnavailable), ledger.fence(attempt.id):
            pass
        child.wait()
    with ledger.fence(attempt.id):
        pass


# --- what recovery and maintenance do --------------------------------------------------------------


def test_only_an_attempt_that_stayed_as_it_was_seen_is_abandoned(ledger: Ledger) -> None:
    seen = held(ledger)
    age(ledger, seen, "renewed_at", 400)
    stale = row(ledger, seen)
    assert not ledger.abandon(seen)
    ledger.renew(seen.id, AttemptProgress(), advanced=False)
    assert not ledger.abandon(stale)
    assert ledger.abandon(row(ledger, seen))
    ended = row(ledger, seen)
    assert ended.state is AttemptState.ABANDONED and ended.ended_at is not None
    assert not ledger.abandon(ended.model_copy(update={"state": AttemptState.RUNNING}))
    assert ledger.renew(seen.id, AttemptProgress(), advanced=True) is LeaseState.SUPERSEDED
    assert epoch(ledger) == seen.epoch + 1
    with pytest.raises(Superseded), ledger.fence(seen.id):
        pass


def test_an_interrupted_attempt_can_be_closed_under_the_state_that_its_run_has(ledger: Ledger) -> None:
    attempt = held(ledger)
    ledger.end(attempt.id, AttemptState.INTERRUPTED)
    assert [one.id for one in ledger.open_attempts()] == [attempt.id]
    assert ledger.abandon(row(ledger, attempt), AttemptState.CANCELLED)
    assert ledger.open_attempts() == []
    assert row(ledger, attempt).state is AttemptState.CANCELLED


def test_abandoning_the_loser_leaves_the_winner_its_work(ledger: Ledger) -> None:
    loser = held(ledger, owner=FOREIGN)
    age(ledger, loser, "renewed_at", 400)
    winner = held(ledger)
    assert ledger.abandon(row(ledger, loser))
    assert epoch(ledger) == winner.epoch
    with ledger.fence(winner.id):
        pass


def test_stuck_carries_its_reason_and_fences_the_attempt_off(ledger: Ledger) -> None:
    attempt = held(ledger)
    assert ledger.mark_stuck(attempt, "No progress for 2:00:00")
    ended = row(ledger, attempt)
    assert (ended.state, ended.failure, ended.error_reason) == (AttemptState.STUCK, "stuck", "No progress for 2:00:00")
    assert ended.marked_stuck_at is not None and ended.marked_stuck_at == pytest.approx(ended.ended_at, abs=1)
    assert ledger.renew(attempt.id, AttemptProgress(), advanced=True) is LeaseState.SUPERSEDED
    with pytest.raises(Superseded), ledger.fence(attempt.id):
        pass


@pytest.mark.parametrize("meanwhile", [{"advanced": True}, {"waiting": "a slot"}, {"ended": True}])
def test_what_got_somewhere_since_it_was_seen_is_not_stuck(meanwhile: dict[str, object], ledger: Ledger) -> None:
    seen = held(ledger)
    if "ended" in meanwhile:
        ledger.end(seen.id, AttemptState.COMPLETED)
    else:
        progress = AttemptProgress(waiting_for=meanwhile.get("waiting"))
        ledger.renew(seen.id, progress, advanced="advanced" in meanwhile)
    assert not ledger.mark_stuck(seen, "too long")
    assert row(ledger, seen).state is not AttemptState.STUCK


def test_a_bare_renewal_does_not_save_a_stuck_attempt(ledger: Ledger) -> None:
    seen = held(ledger)
    ledger.renew(seen.id, AttemptProgress(), advanced=False)
    assert ledger.mark_stuck(seen, "too long")


def test_two_that_want_to_end_one_attempt_at_once_do_it_once(
    ledger: Ledger, limits: LedgerSettings, home: Home
) -> None:
    seen = held(ledger)

    def end(pipe: Pipe) -> None:
        mine = Ledger.open(limits, home)
        pipe.hear()
        pipe.say(mine.abandon(seen))

    with many(end, 4) as children:
        for child in children:
            child.say("go")
        assert sorted(child.hear() for child in children) == ["False", "False", "False", "True"]
    assert epoch(ledger) == seen.epoch + 1


def test_attempts_are_found_by_run_and_by_the_beginning_of_an_id(ledger: Ledger) -> None:
    batch = begun(ledger, flow_run="batch-run")
    child = begun(ledger, flow_run="child-run", root_run="batch-run")
    other = begun(ledger, flow_run="x%y")
    assert [one.id for one in ledger.attempts_of(["batch-run", "unknown"])] == [batch.id, child.id]
    assert [one.id for one in ledger.find("child-")] == [child.id]
    assert [one.id for one in ledger.find(batch.id[:8])] == [batch.id]
    assert [one.id for one in ledger.find("x%")] == [other.id]
    assert ledger.find("%") == [] and ledger.attempts_of([]) == []
    assert ledger.counts() == {"running": 3}
    age(ledger, batch, "created_at", 100)
    assert [one.id for one in ledger.recent(50)] == [child.id, other.id]


# --- recoveries ------------------------------------------------------------------------------------


def test_recoverys_own_rerun_is_counted_and_a_persons_sets_the_count_back(ledger: Ledger) -> None:
    record = Recovery(root_run="run", consecutive=2, reached=Reach(stages=1, done=7.0), last_at=5.0, scheduled=True)
    ledger.put_recovery(record)
    assert ledger.recoveries_of(["run", "unknown"]) == {"run": record}
    begun(ledger, flow_run="child", root_run="run")
    assert ledger.recoveries_of(["run"])["run"].scheduled, "a batch's source is not the batch"
    begun(ledger, flow_run="run")
    assert ledger.recoveries_of(["run"]) == {"run": record.model_copy(update={"scheduled": False})}
    begun(ledger, flow_run="run")
    assert ledger.recoveries_of(["run"]) == {}


def test_a_beginning_that_is_told_twice_because_the_answer_was_lost_happens_once(ledger: Ledger) -> None:
    ledger.put_recovery(Recovery(root_run="run", consecutive=2, scheduled=True))
    beginning = NewAttempt(kind="ingest", title="film", flow_run="run")
    assert ledger.begin(beginning).id == ledger.begin(beginning).id
    assert len(ledger.open_attempts()) == 1
    assert ledger.recoveries_of(["run"])["run"].consecutive == 2


# --- slots -----------------------------------------------------------------------------------------


def test_a_host_has_so_many_slots_and_who_holds_them_is_told(ledger: Ledger) -> None:
    here = this_process()
    first, second, third = (held(ledger, f"work {number}") for number in range(3))
    assert ledger.take_slot(first.id, here, SLOTS) == ()
    assert ledger.take_slot(first.id, here, SLOTS) == (), "its own does not count"
    assert ledger.take_slot(second.id, here, SLOTS) == ()
    assert {one.id for one in ledger.take_slot(third.id, here, SLOTS)} == {first.id, second.id}
    assert row(ledger, third).slot_at is None
    ledger.free_slot(first.id)
    assert ledger.take_slot(third.id, here, SLOTS) == ()


@pytest.mark.parametrize("end", [AttemptState.COMPLETED, AttemptState.INTERRUPTED])
def test_an_attempt_that_ended_holds_no_slot(end: AttemptState, ledger: Ledger) -> None:
    attempt = held(ledger)
    ledger.take_slot(attempt.id, this_process(), AdmissionSettings(slots=1))
    ledger.end(attempt.id, end)
    assert ledger.take_slot(held(ledger).id, this_process(), AdmissionSettings(slots=1)) == ()


def test_an_idle_holder_loses_its_slot_and_a_progressing_one_keeps_it(ledger: Ledger) -> None:
    one = AdmissionSettings(slots=1)
    attempt, waiting = held(ledger), held(ledger, "other")
    ledger.take_slot(attempt.id, this_process(), one)
    age(ledger, attempt, "slot_at", 100)
    assert ledger.take_slot(waiting.id, this_process(), one) != ()
    age(ledger, attempt, "slot_at", 30)
    ledger.renew(attempt.id, AttemptProgress(), advanced=True)
    assert ledger.take_slot(waiting.id, this_process(), one) != ()
    ledger.renew(attempt.id, AttemptProgress(), advanced=False)
    age(ledger, attempt, "progressed_at", 130)
    assert ledger.take_slot(waiting.id, this_process(), one) == ()


def test_a_killed_holder_frees_its_slot_at_once(ledger: Ledger, limits: LedgerSettings, home: Home) -> None:
    one = AdmissionSettings(slots=1)

    def hold(pipe: Pipe) -> None:
        mine = Ledger.open(limits, home)
        pipe.say(mine.take_slot(held(mine).id, this_process(), one))
        signal.pause()

    waiting = held(ledger, "other")
    with forked(hold) as child:
        assert child.hear() == "()"
        assert ledger.take_slot(waiting.id, this_process(), one) != ()
        child.kill()
        assert ledger.take_slot(waiting.id, this_process(), one) == ()


def test_other_hosts_have_slots_of_their_own(ledger: Ledger) -> None:
    one = AdmissionSettings(slots=1)
    away, here = held(ledger, "away", owner=FOREIGN), held(ledger, "here")
    assert ledger.take_slot(away.id, FOREIGN, one) == ()
    assert ledger.take_slot(here.id, this_process(), one) == ()


def test_many_that_want_the_slots_at_once_get_no_more_than_there_are(
    ledger: Ledger, limits: LedgerSettings, home: Home
) -> None:
    def want(pipe: Pipe) -> None:
        mine = Ledger.open(limits, home)
        attempt = held(mine, str(os.getpid()))
        pipe.say("ready")
        pipe.hear()
        pipe.say(insist(lambda: mine.take_slot(attempt.id, this_process(), SLOTS), 30) == ())
        pipe.hear()

    with many(want, 6) as children:
        for child in children:
            child.hear()
        for child in children:
            child.say("go")
        assert sum(child.hear() == "True" for child in children) == 2


# --- publications and old rows ---------------------------------------------------------------------


def test_published_folders_are_remembered_once_until_they_are_forgotten(ledger: Ledger) -> None:
    folder, other = Path("/out/film-1"), Path("/out/film-2")
    for _ in range(2):
        ledger.add_publication(folder, WORK)
    ledger.add_publication(other, "other")
    assert sorted(ledger.publication_folders()) == [folder, other]
    ledger.forget_publication(folder)
    ledger.forget_publication(folder)
    assert ledger.publication_folders() == [other]


def test_old_rows_go_and_what_may_still_matter_stays(ledger: Ledger) -> None:
    day = 86400.0
    old, young, running, interrupted = (held(ledger, f"work {number}") for number in range(4))
    for attempt, state in ((old, "completed"), (young, "failed"), (interrupted, "interrupted")):
        ledger.end(attempt.id, AttemptState(state))
    for attempt in (old, running):
        age(ledger, attempt, "created_at", 100 * day)
    age(ledger, old, "ended_at", 91 * day)
    age(ledger, interrupted, "ended_at", 89 * day)
    ledger.put_recovery(Recovery(root_run="old", last_at=ledger.now() - 91 * day))
    ledger.put_recovery(Recovery(root_run="young", last_at=ledger.now() - 89 * day))
    assert ledger.clear_rows(90 * day) == 1
    assert ledger.attempt(old.id) is None
    assert all(ledger.attempt(one.id) for one in (young, running, interrupted))
    assert set(ledger.recoveries_of(["old", "young"])) == {"young"}
    assert ledger.clear_rows(90 * day) == 0


# --- the schema ------------------------------------------------------------------------------------


def _seat(connection: object) -> None:
    connection.execute(text("ALTER TABLE works ADD COLUMN seat TEXT"))  # type: ignore[attr-defined]


def tables(limits: LedgerSettings, home: Home) -> dict[str, set[str]]:
    engine = create_engine(limits.url or f"sqlite:///{home.root}/ledger.db")
    try:
        found = inspect(engine)
        return {name: {column["name"] for column in found.get_columns(name)} for name in found.get_table_names()}
    finally:
        engine.dispose()


def test_an_older_database_becomes_todays_and_keeps_its_rows(
    ledger: Ledger, limits: LedgerSettings, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = held(ledger)
    before = tables(limits, home)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, _seat))
    for _ in range(2):
        newer = Ledger.open(limits, home)
        assert newer.attempt(attempt.id) == attempt
        newer.close()
    assert tables(limits, home) == {**before, "works": before["works"] | {"seat"}}


def test_a_step_that_fails_leaves_the_database_as_it_was(
    ledger: Ledger, limits: LedgerSettings, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(connection: object) -> None:
        _seat(connection)
        connection.execute(text("SELECT nonsense"))  # type: ignore[attr-defined]

    before = tables(limits, home)
    with monkeypatch.context() as patched:
        patched.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, break_off))
        with pytest.raises(LedgerUnavailable):
            Ledger.open(limits, home)
    assert tables(limits, home) == before
    held(Ledger.open(limits, home))


def test_a_new_database_is_the_same_as_a_migrated_one(
    limits: LedgerSettings, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that is added together with its column in the tables must not be applied to what has it already."""
    from sqlalchemy import Column, Text

    grown = schema.metadata.__class__()
    for table in schema.metadata.sorted_tables:
        table.to_metadata(grown)
    grown.tables["works"].append_column(Column("seat", Text))
    monkeypatch.setattr(schema, "metadata", grown)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, _seat))
    Ledger.open(limits, home).close()
    assert "seat" in tables(limits, home)["works"]


def test_a_database_of_a_newer_tidegate_is_refused_and_left_alone(
    ledger: Ledger, limits: LedgerSettings, home: Home
) -> None:
    with ledger._database.transaction() as connection:
        connection.execute(text("UPDATE schema_version SET version = 99"))
    with pytest.raises(LedgerUnavailable, match="99") as refused:
        Ledger.open(limits, home)
    assert "update" in refused.value.hint
    with ledger._database.connect() as connection:
        assert connection.execute(text("SELECT version FROM schema_version")).scalar_one() == 99


def test_eight_processes_that_begin_at_once_make_one_schema(limits: LedgerSettings, home: Home) -> None:
    def begin(pipe: Pipe) -> None:
        pipe.hear()
        begun(Ledger.open(limits, home))

    with many(begin, 8) as children:
        for child in children:
            child.say("go")
        assert [child.wait() for child in children] == [0] * 8
    ledger = Ledger.open(limits, home)
    assert ledger.counts() == {"running": 8}
    with ledger._database.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM schema_version")).scalar_one() == 1


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://host/db", "sqlite://", "sqlite:///:memory:", "postgresql+nodriver://host/db"]
)
def test_what_is_no_database_that_can_be_used_is_bad_input(url: str, home: Home) -> None:
    with pytest.raises(BadInput, match="TIDEGATE_LEDGER_URL"):
        Ledger.open(LedgerSettings(url=url), home)


def test_a_password_in_the_url_is_not_told_when_the_database_is_away(home: Home) -> None:
    url = "postgresql+psycopg://me:pw-77c3@127.0.0.1:1/db"
    with pytest.raises(LedgerUnavailable) as failed:
        Ledger.open(LedgerSettings(url=url), home)
    assert "pw-77c3" not in repr(failed.value) + str(failed.value)


# --- a damaged file --------------------------------------------------------------------------------


def filled(home: Home) -> Attempt:
    """A ledger of many pages, closed; gives its last attempt."""
    ledger = Ledger.open(LedgerSettings(), home)
    for number in range(300):
        attempt = begun(ledger, flow_run=f"run {number}", request={"filler": "x" * 200})
    with contextlib.closing(sqlite3.connect(home.root / "ledger.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return attempt


def garbage(file: Path) -> None:
    file.write_bytes(b"This is no database, and never was. " * 1000)


def torn_page_of(table: str) -> Callable[[Path], None]:
    """Zeros and noise where a page of that table was, as after a lost write."""

    def tear(file: Path) -> None:
        with contextlib.closing(sqlite3.connect(file)) as connection:
            (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
            (size,) = connection.execute("PRAGMA page_size").fetchone()
        with file.open("r+b") as handle:
            handle.seek((page - 1) * size)
            handle.write(os.urandom(size))

    return tear


def cut_in_half(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "garbage": garbage,
    "torn attempts": torn_page_of("attempts"),
    "torn version": torn_page_of("schema_version"),
    "torn list of tables": lambda file: _overwrite(file, 100, 2000),
    "cut in half": cut_in_half,
}


def _overwrite(file: Path, start: int, size: int) -> None:
    with file.open("r+b") as handle:
        handle.seek(start)
        handle.write(os.urandom(size))


def asides(home: Home) -> list[Path]:
    return sorted(path for path in home.root.glob("ledger.db.damaged-*") if not path.name.endswith(("-wal", "-shm")))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_moved_aside_and_a_new_one_begun(damage: str, home: Home) -> None:
    lost = filled(home)
    DAMAGES[damage](home.root / "ledger.db")
    content = (home.root / "ledger.db").read_bytes()
    ledger = Ledger.open(LedgerSettings(), home)
    attempt = insist(lambda: held(ledger), 5)
    assert [one.id for one in ledger.open_attempts()] == [attempt.id]
    (aside,) = asides(home)
    assert aside.read_bytes() == content
    assert ledger.renew(lost.id, AttemptProgress(), advanced=True) is LeaseState.SUPERSEDED, "nobody works unseen"


def test_damage_that_shows_only_while_it_runs_heals_too(home: Home) -> None:
    filled(home)
    ledger = Ledger.open(LedgerSettings(), home)
    torn_page_of("attempts")(home.root / "ledger.db")
    attempt = insist(lambda: held(ledger), 5)
    assert [one.id for one in ledger.open_attempts()] == [attempt.id]
    assert len(asides(home)) == 1


@pytest.mark.parametrize("damage", ["garbage", "torn attempts", "torn version"])
def test_several_that_meet_the_damage_at_once_move_it_aside_once(damage: str, home: Home) -> None:
    filled(home)
    DAMAGES[damage](home.root / "ledger.db")

    def begin(pipe: Pipe) -> None:
        pipe.hear()
        ledger = insist(lambda: Ledger.open(LedgerSettings(), home), 30)
        attempt = insist(lambda: held(ledger, str(os.getpid())), 30)
        pipe.say(attempt.id)

    with many(begin, 6) as children:
        for child in children:
            child.say("go")
        ids = {child.hear() for child in children}
    assert len(asides(home)) == 1
    assert {one.id for one in Ledger.open(LedgerSettings(), home).open_attempts()} == ids


def test_an_empty_file_becomes_a_ledger(home: Home) -> None:
    home.root.mkdir()
    (home.root / "ledger.db").touch()
    held(Ledger.open(LedgerSettings(), home))
    assert asides(home) == []


def test_a_file_that_vanished_is_begun_again(home: Home) -> None:
    ledger = Ledger.open(LedgerSettings(), home)
    attempt = held(ledger)
    for file in home.root.glob("ledger.db*"):
        file.unlink()
    with pytest.raises((LedgerUnavailable, Superseded)), ledger.fence(attempt.id):
        pass
    held(Ledger.open(LedgerSettings(), home))


# --- a disk that refuses ---------------------------------------------------------------------------


@pytest.fixture
def small_home(small_volume: Path) -> Home:
    return Home(small_volume)


def remount(folder: Path, how: str) -> None:
    done = subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"remounting needs rights: {done.stderr}")


def test_a_read_only_ledger_is_unavailable_and_comes_back(small_home: Home) -> None:
    ledger = Ledger.open(LedgerSettings(), small_home)
    attempt = held(ledger)
    remount(small_home.root, "ro")
    calls: list[Callable[[], object]] = [
        lambda: Ledger.open(LedgerSettings(), small_home),
        lambda: begun(ledger),
        lambda: ledger.renew(attempt.id, AttemptProgress(), advanced=True),
        lambda: ledger.claim(attempt.id, WORK, this_process()),
        lambda: ledger.fence(attempt.id).__enter__(),
        lambda: ledger.end(attempt.id, AttemptState.COMPLETED),
    ]
    try:
        for call in calls:
            with pytest.raises(TidegateError):
                call()
    finally:
        remount(small_home.root, "rw")
    assert ledger.renew(attempt.id, AttemptProgress(), advanced=True) is LeaseState.HELD
    assert asides(small_home) == []


def test_a_home_that_cannot_be_written_is_a_failure_of_ours(small_volume: Path) -> None:
    remount(small_volume, "ro")
    with pytest.raises(TidegateError):
        Ledger.open(LedgerSettings(), Home(small_volume / "home"))


def test_a_full_disk_makes_the_ledger_unavailable_and_space_brings_it_back(small_home: Home) -> None:
    ledger = Ledger.open(LedgerSettings(), small_home)
    attempt = held(ledger)
    ballast = small_home.root / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(LedgerUnavailable):
        for _ in range(50):
            begun(ledger, request={"filler": "x" * 4096})
    assert Path(ledger._database.file or "").exists()
    ballast.unlink()
    assert ledger.renew(attempt.id, AttemptProgress(), advanced=True) is LeaseState.HELD
    assert asides(small_home) == []


# --- a bad network ---------------------------------------------------------------------------------


@pytest.fixture
def through(postgres: Cluster) -> Iterator[tuple[Proxy, LedgerSettings]]:
    """PostgreSQL behind a proxy, and settings that lead through it."""
    with postgres.database() as name, proxy((postgres.host, postgres.port)) as between:
        url = postgres.url(name, host=between.host, port=between.port)
        yield between, LedgerSettings(url=url, busy_timeout=2, statement_timeout=2)


@pytest.mark.slow
def test_half_a_second_on_every_call_changes_nothing_but_time(
    through: tuple[Proxy, LedgerSettings], home: Home
) -> None:
    between, limits = through
    limits = limits.model_copy(update={name: LedgerSettings().busy_timeout for name in ("busy_timeout",)})
    Ledger.open(limits, home).close()
    between.turn(Way.PASS, delay_seconds=0.25)
    ledger = Ledger.open(limits, home)
    attempt = held(ledger)
    assert ledger.renew(attempt.id, AttemptProgress(), advanced=True) is LeaseState.HELD
    with ledger.fence(attempt.id):
        pass
    assert ledger.end(attempt.id, AttemptState.COMPLETED)


@pytest.mark.parametrize("way", [Way.REFUSE, Way.BLACK_HOLE])
def test_a_ledger_that_is_away_is_unavailable_soon_and_used_again_when_it_is_back(
    way: Way, through: tuple[Proxy, LedgerSettings], home: Home
) -> None:
    between, limits = through
    ledger = Ledger.open(limits, home)
    attempt = held(ledger)
    between.turn(way)
    with pytest.raises(LedgerUnavailable):
        ledger.renew(attempt.id, AttemptProgress(), advanced=True)
    with pytest.raises(LedgerUnavailable):
        Ledger.open(limits, home)
    between.turn(Way.PASS)
    assert insist(lambda: ledger.renew(attempt.id, AttemptProgress(), advanced=True), 10) is LeaseState.HELD


def test_insisting_outlasts_an_outage(through: tuple[Proxy, LedgerSettings], home: Home) -> None:
    between, limits = through
    ledger = Ledger.open(limits, home)
    attempt = held(ledger)
    between.turn(Way.REFUSE)
    tries: list[float] = []

    def try_again() -> None:
        tries.append(time.monotonic())
        if len(tries) == 3:
            between.turn(Way.PASS)

    standing = insist(lambda: ledger.renew(attempt.id, AttemptProgress(), advanced=True), 60, try_again)
    assert standing is LeaseState.HELD and len(tries) >= 3


def test_insisting_has_an_end_and_can_be_given_up(home: Home) -> None:
    away = LedgerSettings(url="postgresql+psycopg://me@127.0.0.1:1/db")
    with pytest.raises(LedgerUnavailable):
        insist(lambda: Ledger.open(away, home), 0)

    def give_up() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        insist(lambda: Ledger.open(away, home), 60, give_up)


def test_connections_that_were_cut_are_made_anew(through: tuple[Proxy, LedgerSettings], home: Home) -> None:
    between, limits = through
    ledger = Ledger.open(limits, home)
    attempt = held(ledger)
    between.cut()
    assert ledger.renew(attempt.id, AttemptProgress(), advanced=True) is LeaseState.HELD


def test_a_statement_that_waits_for_a_lock_ends_at_its_limit(postgres: Cluster, home: Home) -> None:
    with postgres.database() as name:
        ledger = Ledger.open(LedgerSettings(url=postgres.url(name), statement_timeout=1), home)
        attempt = held(ledger)
        with ledger._database.transaction() as connection:
            connection.execute(text("LOCK TABLE attempts IN ACCESS EXCLUSIVE MODE"))
            started = time.monotonic()
            with pytest.raises(LedgerUnavailable, match="timeout"):
                ledger.renew(attempt.id, AttemptProgress(), advanced=True)
            assert time.monotonic() - started > 0.9
        assert ledger.renew(attempt.id, AttemptProgress(), advanced=True) is LeaseState.HELD
        ledger.close()


def test_a_closed_ledger_leaves_no_connection(postgres: Cluster, home: Home) -> None:
    before = open_descriptors()
    with postgres.database() as name:
        ledger = Ledger.open(LedgerSettings(url=postgres.url(name)), home)
        held(ledger)
        ledger.close()
        count = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"
        wait_until(lambda: postgres.run(count) == "0", what="for the connections to go")
    assert open_descriptors().items() <= before.items(), "others' may have gone meanwhile"

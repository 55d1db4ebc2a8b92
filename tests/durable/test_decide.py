"""The rules over the ledger's rows, with the clock passed in: who is lost, who is stuck, who goes on."""

from __future__ import annotations

from datetime import timedelta
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.durable.ledger import Attempt, AttemptState, Recovery
from tidegate.durable.ledger.decide import (
    Condition,
    Do,
    RunFacts,
    Verdict,
    condition,
    count_recovery,
    holds_slot,
    idle_seconds,
    is_orphaned,
    is_overdue,
    is_parking_over,
    is_stuck,
    latest_by_run,
    may_take_over,
    next_stage,
    pause_before,
    verdict_on_orphan,
    verdict_on_run,
)
from tidegate.durable.ledger.rows import Reach
from tidegate.durable.owner import Owner, this_process
from tidegate.model import STAGES
from tidegate.settings import AdmissionSettings, LedgerSettings, RecoverySettings

HOUR = 3600.0
NOW = 1_800_000_000.0
LEDGER, RECOVERY, ADMISSION = LedgerSettings(), RecoverySettings(), AdmissionSettings()
AWAY = Owner(host="away", boot="boot", namespace=1, pid=1, started=1)
NEVER = Owner(**{**this_process().model_dump(), "started": 1})
"""On this host, and provably gone: its number is ours, its start is not."""

ENDED = [state for state in AttemptState if state not in (AttemptState.RUNNING, AttemptState.INTERRUPTED)]
PREFECT = ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING", "COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def attempt(**facts: Any) -> Attempt:
    row: dict[str, Any] = dict.fromkeys(Attempt.model_fields)
    row |= {"id": "a", "kind": "ingest", "work_key": "work", "epoch": 1, "title": "film", "request": {}, "groups": ()}
    row |= {"owner": AWAY, "alone": True, "state": AttemptState.RUNNING, "records": {}, "root_run": "run"}
    row |= {"created_at": NOW - 60, "renewed_at": NOW}
    return Attempt.model_validate(row | facts)


def run(state: str = "RUNNING", *, ago: float = HOUR, **facts: Any) -> RunFacts:
    told: dict[str, Any] = {"id": "run", "name": "name", "flow": "ingest", "message": "", "deployment": "deployment"}
    return RunFacts(**{**told, "state": state, "since": NOW - ago, **facts})


def recovery(**facts: Any) -> Recovery:
    return Recovery(root_run="run", **facts)


# --- shown ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "true"),
    [
        ({}, Condition.AT_WORK),
        ({"renewed_at": NOW - 45}, Condition.AT_WORK),
        ({"renewed_at": NOW - 46}, Condition.SILENT),
        ({"renewed_at": NOW - 301}, Condition.LOST_CONTACT),
        ({"owner": NEVER}, Condition.CUT_SHORT),
        ({"owner": NEVER, "renewed_at": NOW - 301}, Condition.CUT_SHORT),
        ({"owner": this_process(), "renewed_at": NOW - 301}, Condition.LOST_CONTACT),
        *(({"state": state, "owner": NEVER}, None) for state in [*ENDED, AttemptState.INTERRUPTED]),
    ],
)
def test_what_is_shown_of_an_attempt_is_what_recovery_would_find(facts: dict[str, Any], true: Condition | None) -> None:
    one = attempt(**facts)
    assert condition(one, NOW, this_process(), LEDGER) is true
    lost = true in (Condition.CUT_SHORT, Condition.LOST_CONTACT)
    assert lost == is_orphaned(one, NOW, this_process(), LEDGER)


def test_a_parking_that_prefect_never_takes_is_given_up_after_an_hour() -> None:
    park = Verdict(Do.PARK, "its deployment was deleted")
    assert not is_parking_over(park, recovery(), NOW)
    assert not is_parking_over(park, recovery(parked_at=NOW - HOUR), NOW)
    assert is_parking_over(park, recovery(parked_at=NOW - HOUR - 1), NOW)
    assert not is_parking_over(Verdict(Do.CANCEL, ""), recovery(parked_at=NOW - 2 * HOUR), NOW)


# --- lost ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "lost"),
    [
        ({}, False),
        ({"renewed_at": NOW - 300}, False),
        ({"renewed_at": NOW - 300.001}, True),
        ({"owner": this_process(), "renewed_at": NOW - 301}, True),  # it lives, and its lease is over all the same
        ({"owner": this_process()}, False),
        ({"owner": NEVER}, True),
        ({"created_at": NOW - 9 * HOUR}, False),  # age is no sign of death
        ({"created_at": NOW - 9 * HOUR, "progressed_at": NOW - 9 * HOUR}, False),
        ({"renewed_at": NOW + 5}, False),
        *(
            ({"state": state, "renewed_at": NOW - HOUR, "owner": NEVER}, False)
            for state in AttemptState
            if state != "running"
        ),
    ],
)
def test_lost_is_who_is_gone_or_has_not_renewed_for_five_minutes(facts: dict[str, Any], lost: bool) -> None:
    assert is_orphaned(attempt(**facts), NOW, this_process(), LEDGER) is lost
    free = lost or facts.get("state", AttemptState.RUNNING) is not AttemptState.RUNNING
    assert may_take_over(attempt(**facts), NOW, this_process(), LEDGER) is free


def test_what_nobody_holds_may_be_taken() -> None:
    assert may_take_over(None, NOW, this_process(), LEDGER)


def test_who_has_asked_the_process_table_already_is_believed() -> None:
    assert is_orphaned(attempt(), NOW, this_process(), LEDGER, gone=True)
    assert not is_orphaned(attempt(owner=NEVER), NOW, this_process(), LEDGER, gone=False)


@given(age=st.floats(0, 299), idle=st.floats(0, 1e6), created=st.floats(0, 1e7))
def test_nobody_who_renews_elsewhere_is_ever_lost(age: float, idle: float, created: float) -> None:
    one = attempt(renewed_at=NOW - age, progressed_at=NOW - idle, created_at=NOW - created)
    assert not is_orphaned(one, NOW, this_process(), LEDGER)


# --- stuck -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"progressed_at": NOW - 1.99 * HOUR}, False),
        ({"progressed_at": NOW - 7140}, False),  # 1 h 59
        ({"progressed_at": NOW - 7199.9}, False),
        ({"progressed_at": NOW - 7200}, True),
        ({"progressed_at": None, "created_at": NOW - 7140}, False),
        ({"progressed_at": None, "created_at": NOW - 7200}, True),  # never began: from its creation
        ({"progressed_at": NOW - 10, "created_at": NOW - 5 * HOUR}, False),  # five hours, and moving
        ({"progressed_at": NOW - 9 * HOUR, "waiting_for": "another run of the same work"}, False),
        *(({"progressed_at": NOW - 9 * HOUR, "state": state}, False) for state in AttemptState if state != "running"),
    ],
)
def test_stuck_is_two_hours_without_progress_unless_it_waits(facts: dict[str, Any], expected: bool) -> None:
    assert is_stuck(attempt(**facts), NOW, RECOVERY.stuck_after) is expected


@given(steps=st.lists(st.floats(1, 7199), min_size=1, max_size=30))
def test_whoever_moves_every_two_hours_is_never_stuck_however_long_it_takes(steps: list[float]) -> None:
    now = moved = NOW
    for step in steps:
        now = moved + step
        one = attempt(created_at=NOW, progressed_at=moved)
        assert not is_stuck(one, now, RECOVERY.stuck_after)
        assert idle_seconds(one, now) == now - moved
        moved = now


@pytest.mark.parametrize("state", PREFECT)
def test_only_pending_and_cancelling_can_last_too_long(state: str) -> None:
    after = RECOVERY.stuck_after
    assert not is_overdue(run(state, ago=7199), NOW, after)
    assert is_overdue(run(state, ago=7200), NOW, after) is (state in ("PENDING", "CANCELLING"))


# --- slots -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"slot_at": None}, False),
        ({"slot_at": NOW - 120}, True),
        ({"slot_at": NOW - 121}, False),
        ({"slot_at": NOW - HOUR, "progressed_at": NOW - 119}, True),
        ({"slot_at": NOW - HOUR, "progressed_at": NOW - 121}, False),
        ({"slot_at": NOW - 10, "progressed_at": NOW - HOUR}, True),  # it has only just got it
        ({"slot_at": NOW, "owner": NEVER}, False),
        *(({"slot_at": NOW, "state": state}, False) for state in AttemptState if state != "running"),
    ],
)
def test_a_slot_is_held_by_who_lives_and_moves(facts: dict[str, Any], expected: bool) -> None:
    assert holds_slot(attempt(**facts), NOW, this_process(), ADMISSION) is expected


# --- the next stage --------------------------------------------------------------------------------


def test_stages_are_repeated_from_the_first_that_is_not_done() -> None:
    assert [next_stage(STAGES[:count]) for count in range(len(STAGES))] == list(STAGES)
    assert next_stage(STAGES) is None
    assert next_stage(["remux", "probe"]) == "download", "a checkpoint beyond a gap does not skip the gap"
    assert next_stage(["probe_completed", "download_completed"]) == "probe", "only a stage's own name counts"


def test_a_stage_that_was_only_begun_is_repeated() -> None:
    one = attempt(stage="remux", records={"probe": "1", "download": "2"})
    assert next_stage(one.records) == "remux"
    assert one.reached == Reach(stages=2, done=0.0)
    assert attempt(stage="download", done=7.0, records={"probe": "1"}).reached == Reach(stages=1, done=7.0)


@pytest.mark.parametrize(
    ("one", "other", "beyond"),
    [((1, 0), (0, 9e9), True), ((1, 5), (1, 4), True), ((1, 5), (1, 5), False), ((1, 9e9), (2, 0), False)],
)
def test_a_stage_counts_more_than_any_number_of_bytes(
    one: tuple[int, float], other: tuple[int, float], beyond: bool
) -> None:
    assert Reach(stages=one[0], done=one[1]).beyond(Reach(stages=other[0], done=other[1])) is beyond


# --- what recovery does about a lost attempt -------------------------------------------------------


def on_orphan(one: Attempt, told: RunFacts | None, record: Recovery | None = None, **facts: Any) -> Do:
    return verdict_on_orphan(
        one, told, record or recovery(), **{"succeeded_by": False, "now": NOW, "limits": RECOVERY, **facts}
    ).do


@pytest.mark.parametrize(
    ("state", "message", "do", "ends_as"),
    [
        ("COMPLETED", "", Do.CLOSE, AttemptState.COMPLETED),
        ("CANCELLED", "", Do.CLOSE, AttemptState.CANCELLED),
        ("FAILED", "not_found: 404", Do.CLOSE, AttemptState.FAILED),
        ("FAILED", "parked: taken up 3 times", Do.CLOSE, AttemptState.FAILED),
        ("FAILED", "stuck: No progress for 2:00:00", Do.CLOSE, AttemptState.FAILED),
        ("FAILED", "the message mentions lease_lost: somewhere", Do.CLOSE, AttemptState.FAILED),
        ("FAILED", "lease_lost: The lease could not be renewed", Do.RESCHEDULE, AttemptState.ABANDONED),
        ("FAILED", "ledger_unavailable: away", Do.RESCHEDULE, AttemptState.ABANDONED),
        ("FAILED", "server_unavailable: away", Do.RESCHEDULE, AttemptState.ABANDONED),
        ("CANCELLING", "", Do.CANCEL, AttemptState.CANCELLED),
        ("SCHEDULED", "", Do.CLOSE, AttemptState.ABANDONED),
        ("PENDING", "", Do.CLOSE, AttemptState.ABANDONED),
        ("RUNNING", "", Do.RESCHEDULE, AttemptState.ABANDONED),
        ("CRASHED", "", Do.RESCHEDULE, AttemptState.ABANDONED),
    ],
)
@pytest.mark.parametrize("found", [AttemptState.RUNNING, AttemptState.INTERRUPTED])
def test_a_lost_attempt_of_a_deployed_run(
    found: AttemptState, state: str, message: str, do: Do, ends_as: AttemptState
) -> None:
    one, told = attempt(state=found), run(state, message=message)
    verdict = verdict_on_orphan(one, told, recovery(), succeeded_by=False, now=NOW, limits=RECOVERY)
    assert (verdict.do, verdict.ends_as) == (do, ends_as)
    assert verdict.why


@pytest.mark.parametrize("state", PREFECT)
@pytest.mark.parametrize("found", [AttemptState.RUNNING, AttemptState.INTERRUPTED])
def test_what_has_no_deployment_or_a_schedule_of_its_own_is_never_scheduled(found: AttemptState, state: str) -> None:
    for facts in ({"deployment": None}, {"flow": "recover"}, {"flow": "maintain"}):
        do = on_orphan(attempt(state=found), run(state, **facts))
        assert do not in (Do.RESCHEDULE, Do.PARK, Do.WAIT)
    if state in ("RUNNING", "CRASHED") and found is AttemptState.RUNNING:
        assert on_orphan(attempt(), run(state, deployment=None)) is Do.MARK_CRASHED


def test_what_a_person_stopped_by_hand_is_left_for_that_person() -> None:
    one = attempt(state=AttemptState.INTERRUPTED)
    assert on_orphan(one, run("CRASHED", deployment=None)) is Do.NOTHING
    assert on_orphan(one, None) is Do.NOTHING


def test_a_run_that_goes_on_already_or_that_nobody_knows_is_closed() -> None:
    assert on_orphan(attempt(), run(), succeeded_by=True) is Do.CLOSE
    assert on_orphan(attempt(), None) is Do.CLOSE


# --- what recovery does about a run without an attempt ---------------------------------------------


def on_run(told: RunFacts, latest: Attempt | None = None, record: Recovery | None = None) -> Do:
    return verdict_on_run(told, latest, record or recovery(), now=NOW, limits=RECOVERY).do


def over(ended: float, **facts: Any) -> Attempt:
    """An attempt that ended so long ago."""
    facts = {"state": AttemptState.FAILED, "created_at": NOW - ended - 10, **facts}
    return attempt(ended_at=NOW - ended, **facts)


@pytest.mark.parametrize(
    ("told", "latest", "do"),
    [
        (run("PENDING", ago=599), None, Do.NOTHING),
        (run("PENDING", ago=601), None, Do.RESCHEDULE),
        (run("RUNNING", ago=599), None, Do.NOTHING),
        (run("RUNNING", ago=601), None, Do.RESCHEDULE),
        # Its process ended its attempt, and may still be telling Prefect.
        (run("RUNNING", ago=HOUR), over(59), Do.NOTHING),
        (run("RUNNING", ago=HOUR), over(61), Do.RESCHEDULE),
        # It was scheduled again, and the new process is only just starting: the attempt is of the time before.
        (run("RUNNING", ago=120), over(HOUR), Do.NOTHING),
        (run("RUNNING", ago=601), over(HOUR), Do.RESCHEDULE),
        (run("CANCELLING", ago=59), None, Do.NOTHING),
        (run("CANCELLING", ago=61), None, Do.CANCEL),
        (run("CANCELLING", ago=61), over(HOUR), Do.CANCEL),
        # Prefect saw the process die before it had begun an attempt.
        (run("CRASHED", ago=4), None, Do.NOTHING),
        (run("CRASHED", ago=6), None, Do.RESCHEDULE),
        (run("CRASHED", ago=6), over(10), Do.NOTHING),
        # It had done its work, and died before it could tell Prefect.
        (run("CRASHED", ago=6), over(10, state=AttemptState.COMPLETED), Do.RESCHEDULE),
        # A recovery ended the attempt, and was killed before it had scheduled the run.
        (run("CRASHED", ago=60), over(60, state=AttemptState.ABANDONED), Do.RESCHEDULE),
        # Crashes of long ago, whose attempts were cleared away or lost with a ledger, are history.
        (run("CRASHED", ago=8 * 24 * HOUR), None, Do.NOTHING),
        (run("CRASHED", ago=8 * 24 * HOUR), over(8 * 24 * HOUR, state=AttemptState.ABANDONED), Do.NOTHING),
        (run("CRASHED", ago=60, flow="recover"), None, Do.NOTHING),
        (run("CRASHED", ago=60, deployment=None), None, Do.NOTHING),
        (run("PENDING", ago=HOUR, flow="maintain"), None, Do.MARK_CRASHED),
    ],
)
def test_a_run_of_which_the_ledger_has_no_living_attempt(told: RunFacts, latest: Attempt | None, do: Do) -> None:
    assert on_run(told, latest) is do


def test_a_run_that_recovery_scheduled_and_that_crashed_before_it_began_goes_on() -> None:
    told, before = run("CRASHED", ago=60), over(HOUR, state=AttemptState.FAILED)
    assert on_run(told, before, recovery(scheduled=True, consecutive=1, last_at=NOW - HOUR)) is Do.RESCHEDULE
    assert on_run(told, before, recovery(scheduled=False, consecutive=1)) is Do.NOTHING


# --- nothing that is over is ever run again --------------------------------------------------------


@pytest.mark.parametrize("state", ["COMPLETED", "CANCELLED", "CANCELLING", "FAILED"])
@given(
    idle=st.floats(0, 1e7),
    consecutive=st.integers(0, 10),
    scheduled=st.booleans(),
    state_of=st.sampled_from(list(AttemptState)),
    succeeded=st.booleans(),
    ago=st.floats(0, 1e7),
    flow=st.sampled_from(["ingest", "batch", "recover", "maintain"]),
    deployment=st.sampled_from([None, "deployment"]),
)
def test_what_prefect_calls_over_is_never_run_again(
    state: str,
    idle: float,
    consecutive: int,
    scheduled: bool,
    state_of: AttemptState,
    succeeded: bool,
    ago: float,
    flow: str,
    deployment: str | None,
) -> None:
    told = run(state, ago=ago, flow=flow, deployment=deployment, message="disk_full: no space")
    ended = None if state_of is AttemptState.RUNNING else NOW - idle
    one = attempt(state=state_of, ended_at=ended, renewed_at=NOW - idle, created_at=NOW - 2 * idle)
    record = recovery(consecutive=consecutive, scheduled=scheduled)
    ways = {on_orphan(one, told, record, succeeded_by=succeeded), on_run(told, one, record), on_run(told, None, record)}
    assert ways <= {Do.NOTHING, Do.CLOSE, Do.CANCEL}
    assert (Do.CANCEL in ways) <= (state == "CANCELLING")


@pytest.mark.parametrize(("state", "ended"), list(product(PREFECT, ENDED)))
def test_recovery_looks_at_every_state_without_a_word_missing(state: str, ended: AttemptState) -> None:
    verdict = verdict_on_run(run(state), over(HOUR, state=ended), recovery(), now=NOW, limits=RECOVERY)
    assert bool(verdict.why) is (verdict.do is not Do.NOTHING)


# --- how often -------------------------------------------------------------------------------------


def taken_up(reached: list[Reach]) -> list[Do]:
    """What recovery does, kill by kill, with the run as far as told each time; it waits for its backoff."""
    record, now, done = recovery(), NOW, []
    for where in reached:
        one = attempt(records={str(number): "key" for number in range(where.stages)}, stage="download", done=where.done)
        while (do := on_orphan(one, run(), record, now=now)) is Do.WAIT:
            now += 30
        done.append(do)
        if do is Do.RESCHEDULE:
            record = count_recovery(record, where, now).model_copy(update={"scheduled": False})
    return done


def test_it_is_parked_after_three_recoveries_in_a_row_without_a_new_checkpoint() -> None:
    here = Reach(stages=1, done=100.0)
    assert taken_up([here] * 5) == [Do.RESCHEDULE] * 3 + [Do.PARK] * 2
    assert taken_up([Reach()] * 4) == [Do.RESCHEDULE] * 3 + [Do.PARK]


def test_every_gain_sets_the_count_back() -> None:
    further = [Reach(stages=1, done=float(mark)) for mark in (1, 1, 1, 2, 2, 2, 3, 3, 3, 3)]
    assert taken_up(further) == [Do.RESCHEDULE] * 9 + [Do.PARK]
    assert taken_up([Reach(stages=1, done=float(mark)) for mark in range(50)]) == [Do.RESCHEDULE] * 50


def test_falling_back_is_no_gain() -> None:
    assert taken_up([Reach(stages=2), Reach(stages=1, done=9e9), Reach(stages=0), Reach(stages=2)]) == [
        *[Do.RESCHEDULE] * 3,
        Do.PARK,
    ]


def test_the_pause_before_each_further_recovery_doubles() -> None:
    minutes = [pause_before(count, RECOVERY) / timedelta(minutes=1) for count in range(4)]
    assert minutes == [0, 2, 4, 8]
    assert pause_before(10**6, RECOVERY) < timedelta(days=365)


def test_it_waits_for_its_backoff_and_not_longer() -> None:
    record = recovery(consecutive=1, last_at=NOW - 119)
    assert on_orphan(attempt(), run(), record) is Do.WAIT
    assert on_orphan(attempt(), run(), record.model_copy(update={"last_at": NOW - 120})) is Do.RESCHEDULE
    gained = attempt(records={"probe": "key"})
    assert on_orphan(gained, run(), record) is Do.RESCHEDULE, "one that gained goes on at once"


@given(stages=st.integers(0, 5), done=st.floats(0, 1e12), more=st.floats(1, 1e12), consecutive=st.integers(0, 100))
def test_a_record_never_forgets_the_furthest_point(stages: int, done: float, more: float, consecutive: int) -> None:
    before = recovery(consecutive=consecutive, reached=Reach(stages=stages, done=done))
    same = count_recovery(before, Reach(stages=stages, done=done), NOW)
    assert (same.consecutive, same.reached, same.last_at, same.scheduled) == (
        consecutive + 1,
        before.reached,
        NOW,
        True,
    )
    further = count_recovery(before, Reach(stages=stages + 1, done=0.0), NOW)
    assert (further.consecutive, further.reached.stages) == (1, stages + 1)
    back = count_recovery(before, Reach(stages=max(0, stages - 1), done=done + more), NOW)
    assert stages == 0 or (back.consecutive, back.reached) == (consecutive + 1, before.reached)


def test_the_latest_attempt_of_a_run_is_the_one_that_began_last() -> None:
    attempts = [attempt(id=name, root_run=root, created_at=at) for name, root, at in (("b", "x", 2), ("a", "x", 1))]
    assert latest_by_run([*attempts, attempt(root_run=None)])["x"].id == "b"
    assert set(latest_by_run([attempt(root_run=None)])) == set()

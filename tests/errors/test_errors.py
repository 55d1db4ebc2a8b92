"""The failure tree: each failure has its row, says something, survives pickling, and means what DESIGN §4 says."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegate import errors
from tidegate.errors import (
    OUTPUT_CHARS,
    POLICIES,
    AvailabilityFailure,
    BadInput,
    ConnectionFailed,
    Coordination,
    DiskFull,
    Evidence,
    HostFailure,
    HttpRefused,
    NotFound,
    PermissionRefused,
    ProcessFailure,
    SourceFailure,
    StalledTransfer,
    StoreUnavailable,
    TidegateError,
    Unknown,
    UsageError,
    as_failure,
    from_os_error,
    policy_of,
    snake_case,
)

FAMILIES = {UsageError, AvailabilityFailure, SourceFailure, ProcessFailure, HostFailure, Coordination}
"""Inner nodes of the tree: nobody raises them, so they need no row."""


def below(family: type[TidegateError]) -> Iterator[type[TidegateError]]:
    for child in family.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from below(child)


TREE = sorted(set(below(TidegateError)), key=lambda failure: failure.__name__)
RAISED = [failure for failure in TREE if failure not in FAMILIES]

# DESIGN §4, column by column; a failure that a column does not name has that column's "no".
TASK_RETRIES = {"process_killed": 2, "store_unavailable": 2, "ledger_unavailable": 2, "unknown": 1}
ANOTHER_RENDITION = {
    "request_timeout",
    "download_deadline",
    "stalled_transfer",
    "segment_gap",
    "tool_failed",
    "memory_exhausted",
}
SMALLER_PICTURE = {"process_timeout", "memory_exhausted"}
CLIMBS = {"bad_timestamps", "refused_by_muxer", "verification_failed"}
COUNTS_AGAINST_ORIGIN = {
    "connection_failed",
    "request_timeout",
    "download_deadline",
    "stalled_transfer",
    "server_error",
    "not_media",
    "wrong_digest",
    "truncated_body",
    "range_mismatch",
    "segment_gap",
    "tool_failed",
    "unknown",
}


def name_of(failure: type[TidegateError]) -> str:
    return snake_case(failure.__name__)


@pytest.mark.parametrize("failure", RAISED, ids=name_of)
def test_every_failure_has_a_row_of_its_own_or_inherits_a_real_one(failure: type[TidegateError]) -> None:
    assert any(base in POLICIES for base in failure.__mro__), "it would silently count as unknown"


def test_the_table_names_no_family_and_nothing_outside_the_tree() -> None:
    assert set(POLICIES) <= set(RAISED)


def test_the_tree_in_the_module_docstring_is_the_tree_in_the_code() -> None:
    told = errors.__doc__ or ""
    assert [failure.__name__ for failure in TREE if failure.__name__ not in told] == []


@pytest.mark.parametrize("failure", RAISED, ids=name_of)
def test_the_columns_that_decide_are_those_of_the_design(failure: type[TidegateError]) -> None:
    name, policy = name_of(failure), policy_of(failure)
    assert policy.task_retries == TASK_RETRIES.get(name, 0)
    assert policy.another_rendition is (name in ANOTHER_RENDITION)
    assert policy.smaller_picture is (name in SMALLER_PICTURE)
    assert policy.climbs is (name in CLIMBS)
    assert policy.counts_against_origin is (name in COUNTS_AGAINST_ORIGIN)


def test_every_name_in_the_design_is_a_failure_of_the_tree() -> None:
    named = {*TASK_RETRIES, *ANOTHER_RENDITION, *SMALLER_PICTURE, *CLIMBS, *COUNTS_AGAINST_ORIGIN}
    assert named <= {name_of(failure) for failure in RAISED}


@pytest.mark.parametrize("failure", RAISED, ids=name_of)
def test_every_row_tells_a_person_what_happened_and_what_to_do(failure: type[TidegateError]) -> None:
    policy = policy_of(failure)
    assert policy.friendly.endswith(".") and policy.friendly[0].isupper()
    assert policy.actions and all(action.strip() for action in policy.actions)


def test_time_and_memory_failures_name_the_rung_to_try() -> None:
    for failure, policy in POLICIES.items():
        if (policy.another_rendition or policy.smaller_picture) and name_of(failure) != "segment_gap":
            assert any("--quality" in action for action in policy.actions), failure


def test_a_failure_without_a_row_takes_its_parents() -> None:
    class Gone(NotFound):
        pass

    assert policy_of(Gone) is POLICIES[NotFound]
    assert POLICIES[NotFound] is not POLICIES[HttpRefused]


@pytest.mark.parametrize("failure", TREE, ids=name_of)
def test_every_failure_survives_pickling_with_all_it_says(failure: type[TidegateError]) -> None:
    evidence = Evidence(url="https://host/film.mp4", exit_code=3, output_tail="last words", notes={"a": "b"})
    error = failure("It broke", hint="Mend it", evidence=evidence, retry_after_seconds=7.5, stage="remux")
    error.add_note("seen twice")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is failure
    assert (back.message, back.hint, back.evidence, back.retry_after_seconds, back.stage) == (
        "It broke",
        "Mend it",
        evidence,
        7.5,
        "remux",
    )
    assert str(back) == "It broke" and back.__notes__ == ["seen twice"]
    assert back.type == name_of(failure) and back.policy is error.policy


@pytest.mark.parametrize("nothing", ["", " ", "\n\t"])
@pytest.mark.parametrize("failure", TREE, ids=name_of)
def test_a_message_is_never_empty(failure: type[TidegateError], nothing: str) -> None:
    assert failure.__name__ in failure(nothing).message
    assert str(failure(nothing)).strip()


def test_public_names_are_snake_case_and_unique() -> None:
    assert snake_case("StalledTransfer") == "stalled_transfer"
    assert len({name_of(failure) for failure in TREE}) == len(TREE)


def test_evidence_keeps_head_and_tail_of_output_within_bounds_and_drops_what_says_nothing() -> None:
    long = "a" * OUTPUT_CHARS + "b" * OUTPUT_CHARS
    told = Evidence(output_head=long, output_tail=long, exit_code=0).as_dict()
    assert told == {"output_head": "a" * OUTPUT_CHARS, "output_tail": "b" * OUTPUT_CHARS, "exit_code": 0}


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EACCES, PermissionRefused),
        (errno.EPERM, PermissionRefused),
        (errno.EROFS, PermissionRefused),
        (errno.EIO, StoreUnavailable),
        (errno.ESTALE, StoreUnavailable),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
def test_an_operating_system_error_becomes_ours_and_says_what_where_and_while(
    number: int, expected: type[TidegateError]
) -> None:
    failure = from_os_error(OSError(number, os.strerror(number), "/data/film.mp4"), "writing film.mp4", "/data")
    assert type(failure) is expected
    for part in (os.strerror(number), "writing film.mp4", "/data/film.mp4"):
        assert part in failure.message


def test_a_full_disk_is_always_named_although_a_write_names_none() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError, match="No space") as caught:
        full.write(b"x")
    assert "(/media/films)" in from_os_error(caught.value, "publishing", Path("/media/films")).message
    told = as_failure(caught.value)
    assert isinstance(told, DiskFull) and "TIDEGATE_HOME" in told.message and "TMPDIR" in told.message


def test_an_operating_system_error_met_for_real_is_translated(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "absent").read_bytes()
    assert str(tmp_path / "absent") in from_os_error(caught.value, "reading", None).message


def test_ours_stays_the_same_object() -> None:
    error = StalledTransfer("No byte for 30 s")
    assert as_failure(error) is error


@pytest.mark.parametrize("foreign", [ValueError("odd"), KeyError("x"), TimeoutError("late"), ConnectionResetError()])
def test_anything_unforeseen_is_unknown_and_names_its_kind(foreign: Exception) -> None:
    failure = as_failure(foreign)
    assert type(failure) is Unknown
    assert failure.message.startswith(f"{type(foreign).__name__}: ")
    assert not failure.message.rstrip().endswith(":")


def test_a_full_disk_from_anywhere_is_a_full_disk() -> None:
    assert type(as_failure(OSError(errno.ENOSPC, "No space left on device"))) is DiskFull


def test_the_first_of_ours_in_nested_groups_speaks_for_all() -> None:
    ours = ConnectionFailed("Cut")
    inner = ExceptionGroup("inner", [ValueError("ended because of it"), ExceptionGroup("deeper", [ours])])
    outer = ExceptionGroup("outer", [OSError(errno.ENOSPC, "full"), inner, BadInput("second of ours")])
    assert as_failure(outer) is ours


def test_a_nested_group_of_strangers_is_told_by_its_first_leaf() -> None:
    group = BaseExceptionGroup("outer", [BaseExceptionGroup("inner", [OSError(errno.ENOSPC, "full")]), KeyError("x")])
    assert type(as_failure(group)) is DiskFull

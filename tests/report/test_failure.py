"""A failure report says all that DESIGN §4 asks for, within bounds, and without secrets."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest

from tidegate.errors import (
    POLICIES,
    Evidence,
    MemoryExhausted,
    NotFound,
    NotMedia,
    RequestTimeout,
    ServerError,
    StalledTransfer,
    Throttled,
    TidegateError,
    ToolMissing,
    VerificationFailed,
)
from tidegate.model import Failure
from tidegate.report.failure import EVIDENCE_BYTES, describe, err_log

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
SECRET = "s3cr3t-5f1c0a7e"
LINK = f"https://me:{SECRET}@host/film.mp4?token={SECRET}"


def test_a_report_carries_what_the_person_and_the_program_need(failure: Failure) -> None:
    policy = POLICIES[StalledTransfer]
    assert failure == Failure(
        id="0badcafe",
        type="stalled_transfer",
        category="network_error",
        message="No byte for 30 s",
        friendly_message=policy.friendly,
        suggested_actions=("Try at night", *policy.actions),
        retryable=True,
        stage="download",
        reference="TG-20260304-050607-0badcafe",
        evidence={
            "url": "https://host/film.mp4",
            "received_bytes": 1000,
            "waited_seconds": 30.0,
            "output_tail": "last words",
        },
        at=NOW,
    )


def test_a_report_survives_json(failure: Failure) -> None:
    assert Failure.model_validate_json(failure.model_dump_json()) == failure


def test_each_report_gets_a_reference_of_its_own() -> None:
    references = {describe(ToolMissing("No ffmpeg"), now=NOW).reference for _ in range(20)}
    assert len(references) == 20
    assert all(re.fullmatch(r"TG-20260304-050607-[0-9a-f]{8}", reference) for reference in references)


@pytest.mark.parametrize(
    ("height", "named"), [(None, "480p"), (1080, "720p"), (720, "480p"), (480, "360p"), (360, None), (240, None)]
)
def test_where_memory_did_not_do_the_rung_to_try_is_named(height: int | None, named: str | None) -> None:
    error = MemoryExhausted("8 GB were not enough")
    error.target_height = height
    actions = describe(error, now=NOW).suggested_actions
    assert actions[0] == "give it more memory"
    assert re.findall(r"--quality (\w+)", " ".join(actions)) == ([named] if named else [])


@pytest.mark.parametrize("kind", [NotMedia, NotFound])
def test_a_local_file_is_not_said_to_need_a_login_or_a_link(kind: type[TidegateError]) -> None:
    told = {}
    for source in ("file:///films/film.mp4", "https://host/film.mp4"):
        failure = describe(kind("No"), now=NOW, source=source)
        told[source[:4]] = " ".join([failure.friendly_message, *failure.suggested_actions])
    assert "link" in told["http"]
    assert not [word for word in ("link", "login", "header", "--header") if word in told["file"]]


@pytest.mark.parametrize(
    ("stage", "said"), [(None, "to retry"), ("probe", "to retry"), ("download", "it resumes"), ("remux", "it resumes")]
)
def test_a_run_that_has_downloaded_something_resumes_and_another_is_tried_again(stage: str | None, said: str) -> None:
    actions = describe(ServerError("503", stage=stage), now=NOW).suggested_actions
    assert [action for action in actions if "same command again" in action and said in action]


def test_waiting_time_and_exit_code_are_passed_on() -> None:
    throttled = describe(Throttled("Slow down", retry_after_seconds=120.0), now=NOW)
    assert throttled.retryable and throttled.retry_after_seconds == 120.0
    failed = describe(VerificationFailed("Short", evidence=Evidence(exit_code=0)), now=NOW)
    assert not failed.retryable and failed.exit_code == 0


def test_a_timeout_names_the_rung_to_try() -> None:
    assert any("--quality 480p" in action for action in describe(RequestTimeout("Late"), now=NOW).suggested_actions)


@pytest.mark.parametrize(
    "output",
    [
        f"opening {LINK} failed",
        f'opening "{LINK}" failed',
        f'{{"url": "{LINK}", "code": 1}}',
        f"opening '{LINK}':\n second line\twith tab",
        f"{LINK}\nnext line stays",
        f"{LINK}\\nnext",
    ],
)
def test_output_of_a_tool_is_redacted_and_stays_readable(output: str) -> None:
    evidence = Evidence(output_head=output, output_tail=output, command=("tool", LINK), notes={"seen": output})
    failure = describe(StalledTransfer(output, hint=output, evidence=evidence), now=NOW)
    told = failure.model_dump_json() + err_log(failure, "https://host/film.mp4")
    assert SECRET not in told
    for text in (failure.message, failure.evidence["output_tail"], failure.evidence["notes"]["seen"]):
        assert "https://host/film.mp4?token=REDACTED" in text
        assert text.count("\n") == output.count("\n")
    for word in ("opening", "failed", "second line\twith tab", "next line stays"):
        assert (word in output) == (word in failure.evidence["output_tail"])


def test_a_log_tells_everything_in_a_form_that_is_read_by_people(failure: Failure) -> None:
    told = err_log(failure, "https://host/film.mp4")
    for part in (
        failure.reference,
        "source:   https://host/film.mp4",
        "stage:    download",
        "stalled_transfer (network_error)",
        "No byte for 30 s",
        failure.friendly_message,
        *failure.suggested_actions,
        "may succeed when run again: yes",
        "received_bytes: 1000",
        "last words",
    ):
        assert part in told
    assert told.endswith("\n")


def test_a_log_is_bounded_however_much_evidence_there_is() -> None:
    notes = {f"note {number}": "ü" * 50_000 for number in range(50)}
    for message in ("short", "ü" * EVIDENCE_BYTES):
        told = err_log(describe(StalledTransfer(message, evidence=Evidence(notes=notes)), now=NOW), "source")
        assert len(told.encode()) <= EVIDENCE_BYTES
        assert told.startswith("TG-") and told.endswith("\n")


def test_output_that_is_no_valid_text_can_be_logged() -> None:
    evidence = Evidence(output_tail="\udcff\x00\x1b[31m", command=("tool", "\udcfe"))
    failure = describe(StalledTransfer("\udcff", evidence=evidence), now=NOW)
    err_log(failure, "\udcff").encode()
    json.dumps(failure.evidence)

"""The JSON interface is what docs/json.md says: no field less, and none more."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.command import ROOT
from tidegate.model import Outcome, StreamInfo, TransferStats
from tidegate.report.document import document

BY_NAME = {"stages": "NAME", "analysis": "DETECTOR", "resources": "STAGE"}
"""Objects whose keys are names of stages and detectors."""
TAKEN_APART = ("download", "output", "report")
"""Objects of which the page lists each field."""
MEANINGS = (
    "media",
    "failure",
    "stages.NAME",
    "analysis.DETECTOR",
    "resources.STAGE",
    "output.ladder",
    "output.verification",
    "findings",
)
"""Fields whose inner names stand in the column `meaning`."""

PAGE = (ROOT / "docs" / "json.md").read_text()


def rows() -> Iterator[tuple[list[str], str]]:
    """The fields of each row of the table, and their meaning."""
    for line in PAGE.splitlines():
        if line.startswith("| `") and line.count("|") == 4:
            first, _, meaning = (cell.strip() for cell in line.strip("|").split("|", 2))
            yield list(full_names(re.findall(r"`([^`]+)`", first))), meaning


def full_names(told: list[str]) -> Iterator[str]:
    """`download.size_bytes`, `.digest` → both with their object's name."""
    group = told[0].partition(".")[0]
    yield from (group + name if name.startswith(".") else name for name in told)


def fields(told: dict[str, Any]) -> Iterator[str]:
    for name, value in told.items():
        if name in BY_NAME:
            yield f"{name}.{BY_NAME[name]}"
        elif name in TAKEN_APART:
            yield from (f"{name}.{inner}" for inner in value)
        else:
            yield name


def inner_names(told: dict[str, Any], field: str) -> set[str]:
    """The keys of an object of the document, or of the objects of an array."""
    value: Any = told
    for part in field.split("."):
        value = next(iter(value.values())) if part in BY_NAME.values() else value[part]
    objects = value if isinstance(value, list) else [value]
    return {name for each in objects for name in each}


def test_the_page_lists_every_field_of_the_document_and_no_other(outcome: Outcome) -> None:
    listed = [name for names, _ in rows() for name in names]
    assert len(listed) == len(set(listed)) > 30
    assert set(listed) == set(fields(document(outcome)))


@pytest.mark.parametrize("field", MEANINGS)
def test_the_page_lists_every_name_inside_an_object_and_no_other(field: str, outcome: Outcome) -> None:
    (meaning,) = [meaning for names, meaning in rows() if field in names]
    without_values = re.sub(r"\([^)]*\)", "", meaning)
    assert set(re.findall(r"`(\w+)`", without_values)) == inner_names(document(outcome), field)


def test_the_document_is_json_of_which_nothing_is_lost(outcome: Outcome) -> None:
    told = document(outcome)
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_what_a_run_did_not_get_to_is_null_and_no_field_is_missing(outcome: Outcome) -> None:
    told = document(Outcome(status="interrupted", source="https://host/film.mp4"))
    assert set(told) == set(document(outcome))
    for name in ("media", "download", "output", "analysis", "report", "failure", "failure_log", "ui_url"):
        assert told[name] is None
    assert (told["stages"], told["findings"]) == ({}, [])


def test_an_output_that_is_not_published_yet_has_no_path(outcome: Outcome) -> None:
    told = document(outcome.model_copy(update={"published": None}))
    assert told["output"]["path"] is None and told["output"]["size_bytes"] == 12_345_678


def test_bytes_that_this_run_did_not_fetch_were_reused(outcome: Outcome) -> None:
    for received, reused in ((0, 12_345_678), (12_345_678, 0), (20_000_000, 0)):
        this_run = outcome.model_copy(update={"transfer": TransferStats(bytes_received=received)})
        told = document(this_run)["download"]
        assert (told["bytes_received"], told["bytes_reused"]) == (received, reused)


def test_evidence_of_a_failure_stays_in_the_log(outcome: Outcome) -> None:
    assert "last words" not in json.dumps(document(outcome))


def test_a_failed_run_names_its_report_and_where_an_earlier_success_stands_none(outcome: Outcome) -> None:
    failed = outcome.model_copy(update={"published": None})
    assert document(failed)["report"] is None
    folder = outcome.published.folder if outcome.published else None
    told = document(failed.model_copy(update={"report_folder": folder}))["report"]
    assert told == {"html": f"{folder}/report.html", "json": f"{folder}/report.json"}


def test_seconds_are_rounded_to_milliseconds(outcome: Outcome) -> None:
    told = document(outcome.model_copy(update={"transfer": TransferStats(seconds=1.23456)}))
    assert told["download"]["seconds"] == 1.235


def test_the_page_lists_every_field_of_a_stream(outcome: Outcome) -> None:
    section = PAGE.partition("## A stream")[2]
    listed = {name for line in section.splitlines() if line.startswith("| `") for name in
              re.findall(r"`(\w+)`", line.split("|")[1])}  # fmt: skip
    assert listed == set(StreamInfo.model_fields)

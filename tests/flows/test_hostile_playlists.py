"""Playlists that mean harm, through the real command: each ends typed, and nobody takes more than he may.

All go in one batch, so that one which exhausts its reader is seen to leave the others alone.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.flows.test_manners import end_of, peak_until_end
from tests.support.aftermath import left_running
from tests.support.command import Command
from tests.support.hostile import MEMORY, SMALL, TIME, Hostile, packed_zeros
from tests.support.origin import Origin
from tests.transfer.scripted import Scripted

CAP = 100_000_000
MOST_MB = 400
"""Of the command itself, with Prefect's client in it, which alone is half of that."""
FEW = ("repeats.mpd", "laughs.mpd", "names-in-names.mpd", "a-name-without-end.m3u8", "a-line.m3u8", "itself.m3u8")


ALL = pytest.param(tuple(SMALL), marks=[pytest.mark.slow, pytest.mark.timeout(1200)])


@pytest.mark.parametrize("names", [FEW, ALL], ids=["few", "all"])
def test_each_ends_typed_and_the_command_stays_small(names: tuple[str, ...], command: Command) -> None:
    command.environment["TIDEGATE_TRANSFER_PLAYLIST_MEMORY"] = str(CAP)
    command.environment["TIDEGATE_TRANSFER_LIVE_PATIENCE"] = "2"
    # One origin has them all, and would be given a rest after the fifth.
    command.environment |= {"TIDEGATE_GATE_FAILURES": "1000", "TIDEGATE_GATE_FAILURE_RATE": "1"}
    texts = {name: SMALL[name] for name in names} | {"memory.mpd": MEMORY}
    files = {name: one.text for name, one in texts.items()} | {"comments.mp4": b"<!---->" * 580 + b"<"}
    with Scripted(packed_zeros) as bomb, Origin(files) as origin:
        links = [*map(origin.url, files), bomb.url("zeros.m3u8")]
        with command.started(*links) as process, ThreadPoolExecutor(1) as beside:
            looking = beside.submit(peak_until_end, process)
            ended = end_of(process, seconds=200.0 if names == FEW else 1000.0)
            peak = looking.result()
    expected = texts | {
        "comments.mp4": Hostile(b"", ("not_media",)),
        "zeros.m3u8": Hostile(b"", ("not_media", "memory_exhausted")),
    }
    results = ended.document["results"]
    wrong = {
        name: _told(one)
        for (name, hostile), one in zip(expected.items(), results, strict=True)
        if not _fits(hostile, one)
    }
    assert wrong == {}
    assert peak < MOST_MB
    assert "Traceback" not in ended.stderr
    assert left_running(command) == []


def test_a_playlist_that_takes_too_long_is_ended_with_its_cure(command: Command) -> None:
    command.environment["TIDEGATE_TRANSFER_PLAYLIST_TIMEOUT"] = "2"
    with Origin({"list.mpd": TIME.text}) as origin:
        ended = command.run(origin.url("list.mpd"))
    assert ended.failure["type"] == "process_timeout"
    assert "takes longer than the 2 s" in ended.failure["message"]
    assert "TIDEGATE_TRANSFER_PLAYLIST_TIMEOUT" in json.dumps(ended.failure)
    assert left_running(command) == []


def _fits(hostile: Hostile, result: dict[str, Any]) -> bool:
    return result["status"] != "completed" and result["failure"]["type"] in hostile.failures


def _told(result: dict[str, Any]) -> str:
    failure = result["failure"] or {}
    return json.dumps([result["status"], failure.get("type"), failure.get("message")])

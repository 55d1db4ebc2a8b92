"""A source that is given a rest: a run by hand waits for it, a batch goes on with the others and comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.aftermath import failure_told, left_running
from tests.support.clips import clip
from tests.support.command import Command
from tests.support.origin import Origin, Resource

QUICK = {"TIDEGATE_GATE_FAILURES": "2", "TIDEGATE_GATE_OPEN_FOR": "10", "TIDEGATE_TRANSFER_BACKOFF_BASE": "0.1"}


@pytest.fixture
def resting(command: Command, clips: Path) -> Iterator[Origin]:
    """An origin that has just failed so often that its breaker is open, and is well by now."""
    command.environment |= QUICK
    with Origin({"film.mp4": Resource(clip(clips), story="from-first: 503, 503, ok")}) as origin:
        failure_told(command.run(origin.url("film.mp4")), code=1, kind="server_error")
        assert len(origin.requests) == 2, "a transfer whose own failures opened the breaker ends with its own failure"
        yield origin


def test_a_run_by_hand_waits_visibly_and_asks_nothing_meanwhile(resting: Origin, command: Command) -> None:
    ended = command.run(resting.url("film.mp4"), "--until", "download")
    assert ended.code == 0, ended.stderr
    gap = resting.requests[2].at - resting.requests[1].at
    assert gap > 4, "the breaker was open until then"
    [told] = [origin for origin in ended.document["origins"] if origin["origin"] in resting.url()]
    assert told["breaker"] == "closed" and told["failures"] == {}
    assert left_running(command) == []


@pytest.mark.slow
def test_a_batch_goes_on_with_the_others_and_comes_back(command: Command, clips: Path) -> None:
    """The breaker opens in the batch itself: it is open still when the second source is asked for, however slow the
    machine is."""
    command.environment |= QUICK
    media = {"first.mp4": Resource(clip(clips), story="always: 503"), "film.mp4": clip(clips)}
    with Origin(media) as sick, Origin({"other.mp4": clip(clips, seconds=3)}) as healthy:
        sources = [sick.url("first.mp4"), sick.url("film.mp4"), healthy.url("other.mp4")]
        ended = command.run(*sources, "--until", "download")
        assert ended.code == 3, ended.stderr
        film = [request.at for request in sick.requests if request.path == "/film.mp4"]
        assert max(request.at for request in healthy.requests) < min(film)
    results = [(result["source"], result["status"]) for result in ended.document["results"]]
    expected = list(zip(sources, ["failed", "completed", "completed"], strict=True))
    assert results == expected, "in the order that was asked for"


def test_a_dead_origin_costs_the_others_nothing(command: Command, clips: Path) -> None:
    command.environment |= QUICK | {"TIDEGATE_GATE_OPEN_FOR": "600"}
    sick = Resource(clip(clips), story="always: 503")
    with Origin({"film.mp4": clip(clips)}) as healthy, Origin({"a.mp4": sick}) as dead:
        failure_told(command.run(dead.url("a.mp4")), code=1, kind="server_error")
        asked = len(dead.requests)
        failure_told(command.run(dead.url("a.mp4")), code=1, kind="circuit_open")
        assert len(dead.requests) == asked, "not one more request"
        assert command.run(healthy.url("film.mp4"), "--until", "download").code == 0

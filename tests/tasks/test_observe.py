"""Events of the engine reach the run's log and every listener of the process."""

from __future__ import annotations

import logging
import threading

import pytest

from tasks.observe import listen, run_observer
from tidegate.events import Advance, Event, Note, OutcomeFacts, PathTaken, StageEnded, StageStarted, ToolEnded, together
from tidegate.model import ResourceUse

EVENTS: list[Event] = [
    StageStarted("remux"),
    Note("the audio is converted", "warning"),
    Advance("remux", 1.0, 2.0, "seconds"),
    StageEnded("remux", "completed", cached=False, seconds=1.25),
    StageEnded("probe", "completed", cached=True, seconds=0.01),
    PathTaken("process", "full"),
    PathTaken("transfer", "plain", "TIDEGATE_TRANSFER_ENGINE=25%"),
]


def test_a_listener_hears_every_event_while_it_listens_and_none_after() -> None:
    heard: list[Event] = []
    tell = run_observer()
    tell(EVENTS[0])
    with listen(heard.append):
        for event in EVENTS:
            tell(event)
    tell(EVENTS[0])
    assert heard == EVENTS


def test_a_listener_hears_observers_made_before_it_came_and_from_other_threads() -> None:
    heard: list[Event] = []
    tell = run_observer()
    with listen(heard.append):
        threads = [threading.Thread(target=tell, args=(event,)) for event in EVENTS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(heard) == len(EVENTS) and all(event in heard for event in EVENTS)


def test_listeners_leave_even_when_the_run_fails() -> None:
    heard: list[Event] = []
    with pytest.raises(ValueError, match="run"), listen(heard.append):
        raise ValueError("run")
    run_observer()(EVENTS[0])
    assert heard == []


def test_the_log_tells_stages_and_notes_at_their_level_and_no_progress(caplog: pytest.LogCaptureFixture) -> None:
    tell = run_observer()
    with caplog.at_level(logging.DEBUG, "tidegate"):
        for event in EVENTS:
            tell(event)
    assert [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "tidegate"] == [
        ("INFO", "remux: started"),
        ("WARNING", "the audio is converted"),
        ("INFO", "remux: completed after 1.2 s"),
        ("INFO", "probe: already done"),
        ("INFO", "process: the full path"),
        ("INFO", "transfer: the plain path (TIDEGATE_TRANSFER_ENGINE=25%)"),
    ]


def test_observers_can_be_put_together() -> None:
    one: list[Event] = []
    other: list[Event] = []
    together(one.append, other.append)(EVENTS[0])
    assert one == other == [EVENTS[0]]


def test_the_account_of_a_run_keeps_the_plain_path_and_adds_up_what_tools_used() -> None:
    account = OutcomeFacts()
    for event in (
        PathTaken("process", "full"),
        PathTaken("transfer", "plain", "it broke"),
        PathTaken("transfer", "full"),
        ToolEnded("remux", "ffmpeg", ResourceUse(seconds=2, peak_memory_bytes=5)),
        ToolEnded("remux", "the probe", ResourceUse(seconds=1, peak_memory_bytes=7)),
        ToolEnded(None, "ffmpeg", ResourceUse(seconds=9)),
    ):
        account(event)
    assert account.facts["paths"] == {"process": "full", "transfer": "plain"}
    [(stage, used)] = account.facts["resources"].items()
    assert (stage, used.seconds, used.peak_memory_bytes) == ("remux", 3.0, 7)

"""Events of the engine reach the run's log and every listener of the process."""

from __future__ import annotations

import logging
import threading

import pytest

from tasks.observe import listening, run_observer
from tidegate.events import Advance, Event, Note, StageEnded, StageStarted, together

EVENTS: list[Event] = [
    StageStarted("remux"),
    Note("the audio is converted", "warning"),
    Advance("remux", 1.0, 2.0, "seconds"),
    StageEnded("remux", "completed", cached=False, seconds=1.25),
    StageEnded("probe", "completed", cached=True, seconds=0.01),
]


def test_a_listener_hears_every_event_while_it_listens_and_none_after() -> None:
    heard: list[Event] = []
    tell = run_observer()
    tell(EVENTS[0])
    with listening(heard.append):
        for event in EVENTS:
            tell(event)
    tell(EVENTS[0])
    assert heard == EVENTS


def test_a_listener_hears_observers_made_before_it_came_and_from_other_threads() -> None:
    heard: list[Event] = []
    tell = run_observer()
    with listening(heard.append):
        threads = [threading.Thread(target=tell, args=(event,)) for event in EVENTS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(heard) == len(EVENTS) and all(event in heard for event in EVENTS)


def test_listeners_leave_even_when_the_run_fails() -> None:
    heard: list[Event] = []
    with pytest.raises(ValueError, match="run"), listening(heard.append):
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
        ("INFO", "probe: from its checkpoint"),
    ]


def test_observers_can_be_put_together() -> None:
    one: list[Event] = []
    other: list[Event] = []
    together(one.append, other.append)(EVENTS[0])
    assert one == other == [EVENTS[0]]

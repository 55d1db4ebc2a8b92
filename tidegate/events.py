"""What the engine says while it works.

Stages and the layers below them report to an `Observer`; terminal, run logs and artifacts are observers. Events are
for people and statistics only: no decision depends on one, so a lost event loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from tidegate.model import Outcome, ResourceUse
from tidegate.redact import visible_line

NoteLevel = Literal["debug", "detail", "info", "warning", "error"]
"""`detail` is for logs, and for a terminal only when it was asked to tell everything."""


@dataclass(frozen=True)
class Note:
    """Something happened that a person may want to read in a log. `facts` are its values, already redacted."""

    message: str
    level: NoteLevel = "info"
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Servers and files have words in it, and it goes to terminals and logs.
        object.__setattr__(self, "message", visible_line(self.message))


@dataclass(frozen=True)
class Advance:
    """How far a stage is: `done` and `total` in `unit` ("bytes" or "seconds" of media); total None is unknown."""

    stage: str
    done: float
    total: float | None
    unit: Literal["bytes", "seconds"]
    per_second: float | None = None
    doing: str = ""
    """What it does, where that is not its main work: "checking" what it made."""


Risk = Literal["low", "medium", "high", "critical"]
"""How near a process is to one of its limits of time; see `resilience.risk`."""


@dataclass(frozen=True)
class Strain:
    """What a tool uses right now, told every few seconds, and how near its end by a limit is."""

    stage: str | None
    tool: str
    memory_bytes: int
    cpu_percent: float
    """Of one core."""
    elapsed_seconds: float
    deadline_seconds: float
    risk: Risk
    memory_cap_bytes: int | None = None


@dataclass(frozen=True)
class RunStarted:
    """The run for one source begins; `source` is redacted."""

    source: str


@dataclass(frozen=True)
class RunEnded:
    """It ended by itself, with a result or a failure; an interrupted one never says so."""

    outcome: Outcome


@dataclass(frozen=True)
class StageStarted:
    stage: str


@dataclass(frozen=True)
class StageEnded:
    stage: str
    state: Literal["completed", "failed", "interrupted"]
    cached: bool
    seconds: float
    record: str | None = None
    """The name under which the result is recorded; None where it is not."""


@dataclass(frozen=True)
class ToolEnded:
    """A tool has ended, in whatever way, and this is what it used."""

    stage: str | None
    tool: str
    resources: ResourceUse


@dataclass(frozen=True)
class PathTaken:
    """Which way a part of the engine goes in this run: with everything it has, or the plain one."""

    part: Literal["transfer", "process"]
    path: Literal["full", "plain"]
    why: str = ""


@dataclass(frozen=True)
class Waiting:
    """The run waits for something that it can name; None when it goes on."""

    what: str | None


Event = Note | Waiting | Advance | Strain | ToolEnded | PathTaken | RunStarted | RunEnded | StageStarted | StageEnded


class Observer(Protocol):
    """Takes events. Called from the event loop and from worker threads: it must be quick and thread-safe."""

    def __call__(self, event: Event, /) -> None: ...


def ignore_events(event: Event) -> None:
    """The observer for library use: nobody is looking."""


def together(*observers: Observer) -> Observer:
    """One observer that passes every event on to all of `observers`."""

    def tell_all(event: Event) -> None:
        for observer in observers:
            observer(event)

    return tell_all


class OutcomeFacts:
    """An observer that keeps what a run's report tells of its tools.

    `paths`: which way each part went; the plain one, should it have been taken even once. `resources`: what the tools
    of each stage used, those that failed too.
    """

    def __init__(self) -> None:
        self.paths: dict[str, str] = {}
        self.resources: dict[str, ResourceUse] = {}

    def __call__(self, event: Event, /) -> None:
        match event:
            case PathTaken() if self.paths.get(event.part) != "plain":
                self.paths[event.part] = event.path
            case ToolEnded(stage=str(stage)):
                before = self.resources.get(stage)
                self.resources[stage] = before + event.resources if before else event.resources
            case _:
                pass

    @property
    def facts(self) -> dict[str, Any]:
        """As fields of an outcome."""
        return {"paths": dict(self.paths), "resources": dict(self.resources)}

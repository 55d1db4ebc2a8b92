"""The ledger's rows as values, for decisions and for people.

`Ledger` makes them from what the database holds; `decide` and the flows read them. Times are seconds of the Unix epoch
by the database's clock, the one clock that all hosts share.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tidegate.durable.children import ProcessGroup
from tidegate.durable.owner import Owner
from tidegate.model import Value

AttemptKind = Literal["ingest", "batch", "recover", "maintain"]


class AttemptState(StrEnum):
    """What became of an attempt. Only RUNNING and INTERRUPTED leave something to be done."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """Stopped from outside, and able to say so: Ctrl-C, SIGTERM."""
    ABANDONED = "abandoned"
    """Its process was lost; recovery has freed the work and seen to the run."""
    SUPERSEDED = "superseded"
    STUCK = "stuck"
    CANCELLED = "cancelled"


class Reach(Value):
    """How far a run's checkpoints go: the number of its stages that are done, and bytes of the one it was in."""

    stages: int = 0
    done: float = 0.0

    def beyond(self, other: Reach) -> bool:
        return (self.stages, self.done) > (other.stages, other.done)


class Attempt(Value):
    """One process's attempt at one piece of work."""

    id: str
    kind: AttemptKind
    work_key: str | None
    """None until the source is identified."""
    epoch: int
    """0 until the work is held."""
    target: Path | None
    """The folder that it is to publish; None until the source is identified."""
    flow_run: str | None
    root_run: str | None
    """The flow run that has to be run again: a batch for its sources, else the run itself."""
    deployment: str | None
    title: str
    """What it works on, redacted."""
    request: dict[str, Any]
    """What to ask for to have it done again, without secrets."""
    owner: Owner
    alone: bool
    """Whether the process was started for this run and nothing else."""
    state: AttemptState
    created_at: float
    renewed_at: float
    progressed_at: float | None
    ended_at: float | None
    stage: str | None
    done: float | None
    total: float | None
    unit: str | None
    records: dict[str, str]
    """The names of the stages' recorded results, by stage."""
    waiting_for: str | None
    slot_at: float | None
    groups: tuple[ProcessGroup, ...]
    failure: str | None
    error_reason: str | None
    marked_stuck_at: float | None

    @property
    def reached(self) -> Reach:
        """Only a download keeps what it has of an unfinished stage."""
        return Reach(stages=len(self.records), done=(self.done or 0.0) if self.stage == "download" else 0.0)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Attempt:
        """From a row of the table `attempts`."""
        owner = Owner(**{name: row[name] for name in Owner.model_fields})
        groups = tuple(ProcessGroup(**group) for group in json.loads(row["groups"]))
        fields = {name: json.loads(row[name]) for name in ("request", "records")}
        return cls.model_validate({**row, **fields, "owner": owner, "groups": groups})


class Recovery(Value):
    """How often a run was taken up again."""

    root_run: str
    consecutive: int = 0
    """Recoveries in a row without a new checkpoint."""
    reached: Reach = Reach()
    last_at: float = 0.0
    scheduled: bool = False
    """Whether recovery has scheduled the run and no attempt has begun since; what a person starts does not count."""
    parked_at: float | None = None


class LeaseState(StrEnum):
    """What a renewal finds out."""

    HELD = "held"
    SUPERSEDED = "superseded"
    """A later attempt holds the work, or maintenance has ended this one."""


class AttemptProgress(Value):
    """What a renewal tells."""

    stage: str | None = None
    done: float | None = None
    total: float | None = None
    unit: str | None = None
    records: dict[str, str] = Field(default_factory=dict)
    waiting_for: str | None = None
    groups: tuple[ProcessGroup, ...] = ()

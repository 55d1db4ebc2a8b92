"""One run of a tool, as it is asked for, and as it ended by itself. Values only; `supervise.run` goes between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tidegate.errors import Evidence
from tidegate.events import Observer, ignore_events
from tidegate.model import ResourceUse
from tidegate.process.confine import NetworkAccess
from tidegate.process.output import LineSink, Output, ignore_line
from tidegate.resilience.quality import MACHINE_SHARE
from tidegate.settings import ProcessSettings


@dataclass
class Job:
    """One run of a tool."""

    name: str
    """For messages: "ffmpeg"."""
    argv: list[str]
    deadline_seconds: float
    outputs: tuple[Path, ...] = ()
    """Files whose growth counts as progress: a muxer is silent while it rewrites its output."""
    marks: Callable[[], dict[str, float]] = dict
    """The latest progress marks, as the job's own parser has them."""
    share: Callable[[], float | None] = lambda: None
    """How much of the work is done, 0 to 1; None where nobody can tell, and then the deadline is final."""
    on_stdout: LineSink = ignore_line
    on_stderr: LineSink = ignore_line
    environment: Mapping[str, str] | None = None
    """What its environment has beyond what it gets of ours."""
    folder: Path | None = None
    """Where it runs, and may write; None: here, where it may not."""
    reads: tuple[Path, ...] = ()
    """Files, and folders with all that is in them, that it may read beside the host's programs and libraries."""
    programs: tuple[str, ...] = ()
    """What it starts itself, where that is not on PATH."""
    writes: tuple[Path, ...] = ()
    """Files and folders that it may write, beside the folders of `outputs`."""
    network: NetworkAccess = "none"
    """What it may reach outside of itself."""
    memory_cap_bytes: int | None = None
    """What it and everything that it starts may use together; None: what is set for tools without a rung."""
    stage: str | None = None
    observe: Observer = ignore_events
    """Hears of alerts, of risk, and of what it uses."""
    left_out: frozenset[str] = frozenset()
    """Words that no evidence shows, nor the option before each: lists of kilobytes, the same in every command."""
    clock: Callable[[], float] = time.monotonic


def memory_cap(job: Job, limits: ProcessSettings) -> int | None:
    """Bytes that the job may use: the lower of its own cap and of the one that is set."""
    if limits.supervision == "off":
        return None
    usual = min(limits.tool_memory_cap, int(psutil.virtual_memory().total * MACHINE_SHARE))
    own = usual if job.memory_cap_bytes is None else job.memory_cap_bytes
    return own if limits.memory_cap is None else min(own, limits.memory_cap)


@dataclass(frozen=True)
class JobResult:
    """A child that ended by itself."""

    job: Job = field(repr=False)
    exit_code: int
    """As a shell tells it, but −N for signal N."""
    stdout: Output
    stderr: Output
    seconds: float
    resources: ResourceUse = field(default_factory=ResourceUse)
    monitored: bool = False
    """Whether it was watched with everything there is: clock, caps and monitor; see `ProcessSettings.supervision`."""

    @property
    def evidence(self) -> Evidence:
        return evidence_of(self.job, self.stderr, self.resources, self.exit_code)


def evidence_of(
    job: Job, stderr: Output, use: ResourceUse, exit_code: int | None, idle: float | None = None
) -> Evidence:
    """What was seen of a job until now, or until its end."""
    numbers = use.model_dump(exclude={"curve", "alerts", "enforced_by", "memory_cap_bytes"})
    guard = {"enforced_by": use.enforced_by} if use.enforced_by != "none" else {}
    return Evidence(
        command=_command_of(job),
        exit_code=exit_code,
        output_head=stderr.head,
        output_tail=stderr.tail,
        waited_seconds=idle,
        resources={name: value for name, value in numbers.items() if value or name == "seconds"}
        | ({"memory_cap_bytes": use.memory_cap_bytes} if use.memory_cap_bytes else {}),
        curve=use.curve,
        notes={name: f"{value:g}" for name, value in job.marks().items()}
        | guard
        | ({"alerts": "; ".join(use.alerts)} if use.alerts else {}),
    )


def _command_of(job: Job) -> tuple[str, ...]:
    """As evidence shows it."""
    following = [*job.argv[1:], ""]
    kept = zip(job.argv, following, strict=True)
    return tuple(word for word, after in kept if word not in job.left_out and after not in job.left_out)

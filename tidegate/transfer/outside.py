"""What everything that talks to the outside is given: limits, gates, tools, and somebody to tell.

The probe and download stages make one per run (`tidegate.stages.outside.outside_of`) and hand it to resolvers. It holds
no state of its own; what the gates learn of an origin is kept in the ledger and outlives a crash.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal, Protocol

from tidegate.durable.roots import Roots
from tidegate.errors import Evidence, ToolMissing
from tidegate.events import Observer, ignore_events
from tidegate.model import MediaInfo
from tidegate.settings import ToolSettings, TransferSettings
from tidegate.transfer.gates.gates import Gates

LineSink = Callable[[str], None]


class ToolEnd(Protocol):
    """How a tool ended by itself."""

    @property
    def exit_code(self) -> int:
        """As a shell tells it, but −N for signal N."""

    @property
    def seconds(self) -> float: ...

    @property
    def evidence(self) -> Evidence: ...


class RunTool(Protocol):
    """Runs an external tool under supervision: own session, stdin closed, watched, its whole group gone at the end.

    The stages bind it to `process.supervise.run`, which this layer does not know. Lines end at `\\n` and at `\\r`.

    Raises:
        ToolMissing, StalledProcess, ProcessTimeout, MemoryExhausted, ProcessKilled: see `supervise.run`.
    """

    async def __call__(
        self,
        *,
        name: str,
        argv: list[str],
        deadline_seconds: float,
        stall_timeout: timedelta | None = None,
        outputs: tuple[Path, ...] = (),
        marks: Callable[[], dict[str, float]] = dict,
        on_stdout: LineSink = ...,
        on_stderr: LineSink = ...,
        environment: dict[str, str] | None = None,
        folder: Path | None = None,
        memory_cap_bytes: int | None = None,
        network: Literal["none", "any"] | int | None = None,
    ) -> ToolEnd:
        """`network`: none, any, or the one port of this host to which it may connect; None: that of the proxy to which
        `environment` leads it, or else any. It may read the files that `argv` names, and write into `folder`."""


ReadHeaders = Callable[[Path], Awaitable[MediaInfo]]
"""Reads the headers of a local file in a supervised child; raises NotMedia where no demuxer opens it."""


async def _no_tools(**_: object) -> ToolEnd:
    raise ToolMissing("This program was given no way to run tools")


def _no_ffmpeg() -> Path:
    raise ToolMissing("This program was given no ffmpeg")


async def _unseen(path: Path) -> MediaInfo:
    raise ToolMissing("This program was given no way to look into media")


@dataclass(frozen=True)
class Outside:
    """Everything that a resolver needs to talk to a source, and nothing about which source it is."""

    limits: TransferSettings
    gates: Gates = field(default_factory=Gates)
    observe: Observer = ignore_events
    trust: timedelta = timedelta(hours=24)
    """How old what came from a source without validator may be."""
    tools: ToolSettings = field(default_factory=ToolSettings)
    ffmpeg: Callable[[], Path] = _no_ffmpeg
    """Which one tools are to use."""
    run_tool: RunTool = _no_tools
    look: ReadHeaders = _unseen
    roots: Roots | None = None
    """Which files of this host may be read; None: whatever the user may."""

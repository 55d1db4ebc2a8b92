"""What a stage hands to resolvers: the run's limits and gates, and tools that run under supervision.

The probe and download stages call it. It holds nothing.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from tidegate.model import MediaInfo
from tidegate.process.inspect import inspect
from tidegate.process.supervise import Finished, Job, run
from tidegate.stages.workbench import Workbench
from tidegate.transfer.outside import Outside


def outside_of(bench: Workbench, stage: str) -> Outside:
    """What resolvers need of this run."""
    return Outside(
        limits=bench.settings.transfer,
        gates=bench.gates,
        observe=bench.observe,
        trust=bench.settings.store.unvalidated_trust,
        tools=bench.settings.tools,
        roots=bench.roots,
        ffmpeg=lambda: bench.toolchain().ffmpeg,
        run_tool=partial(_supervised, bench, stage),
        look=partial(_look, bench, stage),
    )


async def _supervised(bench: Workbench, stage: str, *, stall_timeout: timedelta | None = None, **job: Any) -> Finished:
    """See `transfer.outside.RunTool`, whose other arguments are those of `Job`."""
    limits = bench.settings.process
    if stall_timeout is not None:
        limits = limits.model_copy(update={"stall_timeout": stall_timeout})
    return await run(Job(**job, stage=stage, observe=bench.observe), limits)


async def _look(bench: Workbench, stage: str, path: Path) -> MediaInfo:
    limits = bench.settings.process
    seconds = limits.probe_timeout.total_seconds()
    return await inspect(path, "header", limits, seconds, stage=stage, observe=bench.observe)

"""What a stage hands to resolvers: the run's limits and gates, and tools that run under supervision.

The probe and download stages call it. It holds nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

from tidegate.model import MediaInfo
from tidegate.process.inspect import inspect
from tidegate.process.output import LineSink, ignore_line
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
        run_tool=partial(_supervised, bench),
        look=partial(_look, bench, stage),
    )


async def _supervised(
    bench: Workbench,
    *,
    name: str,
    argv: list[str],
    deadline_seconds: float,
    stall_timeout: timedelta | None = None,
    outputs: tuple[Path, ...] = (),
    marks: Callable[[], dict[str, float]] = dict,
    on_stdout: LineSink = ignore_line,
    on_stderr: LineSink = ignore_line,
    environment: dict[str, str] | None = None,
    folder: Path | None = None,
) -> Finished:
    """See `transfer.outside.RunTool`."""
    limits = bench.settings.process
    if stall_timeout is not None:
        limits = limits.model_copy(update={"stall_timeout": stall_timeout})
    job = Job(
        name,
        argv,
        deadline_seconds,
        outputs=outputs,
        marks=marks,
        on_stdout=on_stdout,
        on_stderr=on_stderr,
        environment=environment,
        folder=folder,
    )
    return await run(job, limits)


async def _look(bench: Workbench, stage: str, path: Path) -> MediaInfo:
    limits = bench.settings.process
    seconds = limits.probe_timeout.total_seconds()
    return await inspect(path, "header", limits, seconds, stage=stage, observe=bench.observe)

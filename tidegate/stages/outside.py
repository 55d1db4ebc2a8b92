"""What a stage hands to resolvers: the run's limits and gates, and tools that run under supervision.

The probe and download stages call it. It holds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from tidegate.errors import ToolMissing
from tidegate.media.inspect import inspect
from tidegate.model import MediaInfo
from tidegate.process.confine import NetworkAccess
from tidegate.process.supervise import Job, JobResult, run
from tidegate.stages.workbench import Workbench
from tidegate.transfer.outside import Outside

UNPACKED = "DOTNET_BUNDLE_EXTRACT_BASE_DIR"
PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy"})


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
        run_tool=partial(_run_tool, bench, stage),
        look=partial(_inspect_header, bench, stage),
    )


async def _run_tool(
    bench: Workbench,
    stage: str,
    *,
    network: NetworkAccess | None = None,
    stall_timeout: timedelta | None = None,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> JobResult:
    """A `RunTool` for resolvers: in a folder of its own, with no more of the network than it needs.

    Its other arguments are those of `Job`.
    """
    limits, variables = bench.settings.process, dict(environment or {})
    if stall_timeout is not None:
        limits = limits.model_copy(update={"stall_timeout": stall_timeout})
    reach = reach_of(variables) if network is None else network
    with nullcontext(folder) if folder else _temporary_folder() as at:
        if reach != "none":
            # Programs of .NET unpack their libraries before they begin, by default into the person's home.
            variables = {"TMPDIR": str(at), UNPACKED: str(at)} | variables
        job = Job(
            **options,
            environment=variables,
            folder=at,
            network=reach,
            programs=_ffmpeg_of(bench) if reach != "none" else (),
            stage=stage,
            observe=bench.observe,
        )
        return await run(job, limits)


def reach_of(environment: Mapping[str, str]) -> NetworkAccess:
    """What of the network a tool needs: where it is led through a proxy of ours, that one port of this host."""
    proxies = {value for name, value in environment.items() if value and name.lower() in PROXIES}
    parts = urlsplit(proxies.pop()) if len(proxies) == 1 else None
    with suppress(ValueError):  # a port that is no number
        if parts is not None and parts.port and parts.hostname in ("127.0.0.1", "::1"):
            return parts.port
    return "any"


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="tidegate-tool-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _ffmpeg_of(bench: Workbench) -> tuple[str, ...]:
    """What a downloader may start itself."""
    with suppress(ToolMissing):
        return (str(bench.toolchain().ffmpeg),)
    return ()


async def _inspect_header(bench: Workbench, stage: str, path: Path) -> MediaInfo:
    limits = bench.settings.process
    seconds = limits.probe_timeout.total_seconds()
    return await inspect(path, "header", limits, seconds, stage=stage, observe=bench.observe)

"""Task `download`: the source's bytes in the store. Its checkpoint belongs to identity and rendition."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from tasks.policies import Stage, stage_task
from tasks.probe import is_trusted
from tidegate import stages
from tidegate.model import NO_WISH, DownloadResult, ProbeResult, Rendition, Source, Wish
from tidegate.resilience.admission import OUTPUT_FACTOR, STORE_FACTOR, Needs
from tidegate.stages.download import RECIPE
from tidegate.stages.workbench import Workbench

WHOLE = frozenset({"direct", "local"})
"""Resolvers that bring the very bytes that the identity names; what others bring depends on them too."""


@stage_task("download")
async def download(
    bench: Workbench, source: Source, probe: ProbeResult, rendition: Rendition, key: str, wish: Wish
) -> DownloadResult:
    """Fetch, verify, inspect and store the source."""
    return await stages.download(bench, source, probe, rendition, key, wish)


def stage(
    bench: Workbench,
    source: Source,
    probe: ProbeResult,
    rendition: Rendition,
    key: str,
    output: Path,
    wish: Wish,
) -> Stage[DownloadResult]:
    """The stage. `output` is the folder in which results are published: there must be room for one, too."""
    size = rendition.size_bytes or probe.identity.size_bytes or 0
    here = bench.home.scratch_bytes(key)  # an earlier run's part is a share of the first of them
    disk = {str(bench.home.root): max(0, STORE_FACTOR * size - here), str(output): OUTPUT_FACTOR * size}

    def whole(result: DownloadResult) -> bool:
        trusted = is_trusted(bench, probe.identity, result.recorded_at, datetime.now(UTC))
        as_asked = source.sha256 is None or source.sha256 in result.checked
        return trusted and as_asked and bench.store.whole(result.asset)

    return Stage(
        name="download",
        task=download,
        recipe=RECIPE,
        inputs=(
            probe.identity.key,
            rendition.id,
            *([] if probe.resolver in WHOLE else [probe.resolver]),
            *([] if wish == NO_WISH else [wish.model_dump()]),
        ),
        result=DownloadResult,
        whole=whole,
        needs=Needs(disk_bytes=disk),
        timeout_seconds=None,  # stall clock and adaptive deadline end it; a fixed limit kills big files
    )

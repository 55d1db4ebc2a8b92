"""Task `remux`: the playable file. Its checkpoint belongs to the content of the download, profile and quality."""

from __future__ import annotations

import psutil

from tasks.policies import Stage, stage_task
from tidegate import stages
from tidegate.model import DownloadResult, ProfileName, Quality, RemuxResult, Strategy
from tidegate.resilience.admission import Needs, memory_for
from tidegate.resilience.deadline import LONGEST_EXTENDED, outer
from tidegate.stages.decide import decide
from tidegate.stages.remux import RECIPE
from tidegate.stages.workbench import Workbench

RUNS = 2 * 3
"""The most children one after the other: tool and verification on each of three rungs."""


@stage_task("remux")
async def remux(
    bench: Workbench, source: DownloadResult, profile: ProfileName, quality: Quality, key: str
) -> RemuxResult:
    """Copy, repair or transcode, and verify by decoding."""
    return await stages.remux(bench, source, profile, quality, key)


def stage(bench: Workbench, source: DownloadResult, profile: ProfileName, quality: Quality) -> Stage[RemuxResult]:
    inner = RUNS * LONGEST_EXTENDED.total_seconds()
    return Stage(
        name="remux",
        task=remux,
        recipe=RECIPE,
        inputs=(source.asset.address, profile, quality.height, source.length_confirmed),
        result=RemuxResult,
        whole=lambda result: bench.store.whole(result.asset),
        timeout_seconds=outer(inner),
        needs=_needs(source, profile, quality),
    )


def _needs(source: DownloadResult, profile: ProfileName, quality: Quality) -> Needs:
    """A slot; and for a transcode the memory that its rung is recommended to have."""
    transcode = decide(source.media, profile, quality).strategy is Strategy.TRANSCODE
    available = psutil.virtual_memory().available
    memory = memory_for(
        quality, transcode=transcode, available_bytes=available, media_seconds=source.media.length_seconds
    )
    return Needs(memory_bytes=memory, slot=True)

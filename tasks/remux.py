"""Task `remux`: the playable file. Its checkpoint belongs to the content of the download, profile and quality."""

from __future__ import annotations

from tasks.dask import with_cluster
from tasks.policies import Stage, stage_task
from tidegate import stages
from tidegate.model import Aim, DownloadResult, ProfileName, Quality, RemuxResult, Strategy
from tidegate.resilience.admission import Needs
from tidegate.resilience.deadline import LONGEST_EXTENSION, outer_seconds
from tidegate.resilience.quality import memory_for
from tidegate.stages.host import available_bytes
from tidegate.stages.remux import RECIPE, plan
from tidegate.stages.workbench import Workbench

RUNS = 2 * 3
"""The most children one after the other: tool and verification on each of three rungs."""


@stage_task("remux")
async def remux(
    bench: Workbench, source: DownloadResult, profile: ProfileName, quality: Quality, key: str, aim: Aim
) -> RemuxResult:
    """Copy, repair or transcode, and verify by decoding."""
    return await stages.remux(with_cluster(bench), source, profile, quality, key, aim)


def stage(
    bench: Workbench, source: DownloadResult, profile: ProfileName, quality: Quality, aim: Aim
) -> Stage[RemuxResult]:
    inner = RUNS * LONGEST_EXTENSION.total_seconds()
    stepped_down = [] if aim.height is None else [aim.height]
    return Stage(
        name="remux",
        task=remux,
        recipe=RECIPE,
        inputs=(source.asset.address, profile, quality.height, source.length_confirmed, *stepped_down),
        result=RemuxResult,
        whole=lambda result: bench.store.whole(result.asset),
        timeout_seconds=outer_seconds(inner),
        needs=_needs(source, profile, quality, aim),
    )


def _needs(source: DownloadResult, profile: ProfileName, quality: Quality, aim: Aim) -> Needs:
    """A slot; and for a transcode the memory that its rung is recommended to have."""
    transcode = plan(source.media, profile, quality, aim)[0].strategy is Strategy.TRANSCODE
    rung = quality if aim.height is None else aim.rung
    memory = memory_for(
        rung, transcode=transcode, available_bytes=available_bytes(), media_seconds=source.media.length_seconds
    )
    return Needs(memory_bytes=memory, slot=True)

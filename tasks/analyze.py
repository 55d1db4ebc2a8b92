"""Task `analyze`: what the detectors see. Its checkpoint belongs to the content of the output."""

from __future__ import annotations

from tasks.policies import Stage, stage_task
from tidegate import stages
from tidegate.model import AnalysisResult, RemuxResult
from tidegate.resilience.admission import Needs
from tidegate.resilience.deadline import LONGEST_EXTENSION, outer_seconds
from tidegate.resilience.quality import LEAST_MEMORY_BYTES
from tidegate.stages.analyze import RECIPE
from tidegate.stages.detectors import DETECTORS
from tidegate.stages.workbench import Workbench


@stage_task("analyze")
async def analyze(bench: Workbench, media: RemuxResult, key: str) -> AnalysisResult:
    """Run every detector in one decode pass."""
    return await stages.analyze(bench, media, key)


def stage(bench: Workbench, media: RemuxResult) -> Stage[AnalysisResult]:
    passes = 1 + len(DETECTORS)
    inner = passes * LONGEST_EXTENSION.total_seconds()
    return Stage(
        name="analyze",
        task=analyze,
        recipe=RECIPE,
        inputs=(media.asset.address,),
        result=AnalysisResult,
        whole=lambda result: result.asset is None or bench.store.whole(result.asset),
        timeout_seconds=outer_seconds(inner),
        needs=Needs(memory_bytes=LEAST_MEMORY_BYTES, slot=True),
    )

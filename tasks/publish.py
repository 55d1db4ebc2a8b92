"""Task `publish`: the folder that a person opens. Its checkpoint belongs to what is in it and where it stands."""

from __future__ import annotations

from pathlib import Path

from tasks.policies import Stage, stage_task
from tidegate import stages
from tidegate.durable.store import holds
from tidegate.model import AnalysisResult, Outcome, PublishResult, RemuxResult
from tidegate.resilience.deadline import outer, publish_seconds
from tidegate.stages.publish import RECIPE
from tidegate.stages.workbench import Workbench


@stage_task("publish")
async def publish(bench: Workbench, outcome: Outcome, target: Path) -> PublishResult:
    """Swap the folder in whole."""
    return await stages.publish(bench, outcome, target)


def stage(bench: Workbench, media: RemuxResult, analysis: AnalysisResult, target: Path) -> Stage[PublishResult]:
    return Stage(
        name="publish",
        task=publish,
        recipe=RECIPE,
        inputs=(media.asset.address, [d.model_dump() for d in analysis.detections], str(target)),
        result=PublishResult,
        whole=lambda result: all(holds(result.folder / track.name, track) for track in result.tracks),
        timeout_seconds=outer(publish_seconds(media.asset.main.size_bytes)),
    )

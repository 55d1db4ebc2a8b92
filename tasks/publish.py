"""Task `publish`: the folder that a person opens. Its checkpoint belongs to what is in it and where it stands."""

from __future__ import annotations

from pathlib import Path

from tasks.policies import Stage, stage_task
from tidegate import stages
from tidegate.durable.store import holds
from tidegate.model import AnalysisResult, Outcome, PublishResult, RemuxResult
from tidegate.resilience.deadline import outer_seconds, publish_seconds
from tidegate.stages.publish import ERR_LOGS, RECIPE
from tidegate.stages.workbench import Workbench


@stage_task("publish")
async def publish(bench: Workbench, outcome: Outcome, target: Path) -> PublishResult:
    """Swap the folder in whole."""
    return await stages.publish(bench, outcome, target)


def stage(bench: Workbench, media: RemuxResult, analysis: AnalysisResult, target: Path) -> Stage[PublishResult]:
    pictures = analysis.asset.address if analysis.asset else None
    return Stage(
        name="publish",
        task=publish,
        recipe=RECIPE,
        inputs=(media.asset.address, pictures, [d.model_dump() for d in analysis.detections], str(target)),
        result=PublishResult,
        whole=_whole,
        timeout_seconds=outer_seconds(publish_seconds(media.asset.main.size_bytes)),
    )


def _whole(result: PublishResult) -> bool:
    """Every file as it was, and no log of a run that failed since: it would tell of a failure that is over."""
    if any(result.folder.glob(ERR_LOGS)):
        return False
    return all(holds(result.folder / track.name, track) for track in result.tracks)

"""The JSON interface: one document for one run, as `--json` prints it and `report.json` holds it.

`docs/json.md` describes every field; programs depend on it. Pure.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tidegate.model import (
    AnalysisResult,
    DownloadResult,
    MediaInfo,
    Outcome,
    PublishResult,
    RemuxResult,
    Sidecar,
    StreamInfo,
)


def document(outcome: Outcome) -> dict[str, Any]:
    """The document of an outcome; what a run did not get to is null."""
    published = outcome.published
    return {
        "status": outcome.status,
        "source": outcome.source,
        "profile": outcome.profile.value,
        "quality": outcome.quality.value,
        "work_key": outcome.work_key,
        "flow_run_id": outcome.flow_run_id,
        "ui_url": outcome.ui_url,
        "stages": {name: record.model_dump() for name, record in outcome.stages.items()},
        "media": _media(outcome.probe.preview) if outcome.probe and outcome.probe.preview else None,
        "download": _download(outcome, outcome.download) if outcome.download else None,
        "tried": [tried.model_dump() for tried in outcome.tried],
        "resources": {stage: used.model_dump(mode="json") for stage, used in outcome.resources.items()},
        "paths": dict(outcome.paths),
        "origins": [origin.model_dump() for origin in outcome.origins],
        "output": _output(outcome.remux, published) if outcome.remux else None,
        "analysis": _analysis(outcome.analysis) if outcome.analysis else None,
        "findings": [finding.model_dump() for finding in outcome.findings],
        "not_carried": [lost.model_dump() for lost in outcome.remux.not_carried] if outcome.remux else [],
        "report": _report(published.folder if published else outcome.report_folder),
        "failure": outcome.failure.model_dump(mode="json", exclude={"at", "evidence"}) if outcome.failure else None,
        "failure_log": str(outcome.failure_log) if outcome.failure_log else None,
    }


def _download(outcome: Outcome, download: DownloadResult) -> dict[str, Any]:
    path, track = outcome.download_path, download.asset.main
    return {
        "path": str(path) if path else None,
        "size_bytes": download.asset.size_bytes,
        "digest": track.digest,
        "checked": list(download.checked),
        "resolver": outcome.probe.resolver if outcome.probe else None,
        "rendition": download.rendition.model_dump(),
        "gaps": [gap.model_dump() for gap in download.gaps],
        **transfer(outcome, download.asset.size_bytes),
    }


def transfer(outcome: Outcome, size_bytes: int) -> dict[str, Any]:
    """This run's requests and bytes; whatever of the file they did not bring came from an earlier run."""
    cost = outcome.transfer
    reused = max(0, size_bytes - cost.bytes_received)
    return cost.model_dump() | {"bytes_reused": reused, "seconds": round(cost.seconds, 3)}


def _output(remux: RemuxResult, published: PublishResult | None) -> dict[str, Any]:
    track = remux.asset.main
    return {
        "path": str(published.video) if published else None,
        "size_bytes": track.size_bytes,
        "digest": track.digest,
        "duration_seconds": round(remux.media.length_seconds or 0.0, 3),
        "strategy": remux.decision.strategy.value,
        "reasons": list(remux.decision.reasons),
        "aim": remux.aim.model_dump(mode="json") if remux.aim else None,
        "ladder": [step.model_dump(mode="json") for step in remux.ladder],
        "chunks": remux.chunks.model_dump(mode="json") if remux.chunks else None,
        "verification": remux.verification.model_dump(mode="json"),
        "video": _stream(remux.media.video),
        "audio": _stream(remux.media.audio),
        "sidecars": [
            {"path": str(path) if path else None, "stream": sidecar.index, "size_bytes": size}
            for sidecar, path, size in _sidecar_files(remux, published)
        ],
    }


def _sidecar_files(remux: RemuxResult, published: PublishResult | None) -> list[tuple[Sidecar, Path | None, int]]:
    """Each with its published file, if there is one, and its size."""
    sizes = {track.name: track.size_bytes for track in remux.asset.tracks}
    return [
        (one, published.beside(one.name) if published else None, sizes.get(one.name, 0))
        for one in remux.decision.sidecars
    ]


def _media(media: MediaInfo) -> dict[str, Any]:
    return {
        "container": media.container,
        "duration_seconds": media.duration_seconds,
        "streams": [_stream(stream) for stream in media.streams],
    }


def _stream(stream: StreamInfo | None) -> dict[str, Any] | None:
    return stream.model_dump(mode="json", exclude_none=True) if stream else None


def _analysis(analysis: AnalysisResult) -> dict[str, Any]:
    return {d.detector: d.model_dump(mode="json", exclude={"detector"}) for d in analysis.detections}


def _report(folder: Path | None) -> dict[str, str] | None:
    return {"html": str(folder / "report.html"), "json": str(folder / "report.json")} if folder else None

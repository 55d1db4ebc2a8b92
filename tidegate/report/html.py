"""The report as one self-contained page: pictures inside, no script, no request.

The publish stage writes it. Values are escaped by the template engine; names and messages come from strangers.
"""

from __future__ import annotations

import base64
from datetime import datetime
from pathlib import Path
from typing import Any

from tidegate.model import Detection, MediaInfo, Outcome, StreamInfo
from tidegate.redact import visible
from tidegate.report.document import transfer
from tidegate.report.units import MADE, clock, duration, human_size, quantity

_MIME = {".jpg": "image/jpeg", ".png": "image/png"}


def html_report(outcome: Outcome, pictures: dict[str, Path], *, title: str, now: datetime) -> str:
    """The page for an outcome. `pictures` maps a caption to an image file."""
    # Here, because a run that finds its checkpoints writes no report and need not pay for the import.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tidegate.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=lambda value: visible(value) if isinstance(value, str) else value,
    )
    environment.filters |= {
        "clock": clock,
        "size": human_size,
        "quantity": quantity,
        "took": duration,
        "labels": labels,
    }
    return environment.get_template("report.html.j2").render(
        outcome=outcome,
        title=title,
        now=now,
        pictures={caption: _data_url(path) for caption, path in pictures.items()},
        duration=_duration(outcome),
        timelines=_timelines(outcome),
        loudness=_loudness(outcome),
        files=_files(outcome),
        streams=_streams(outcome),
        made=MADE,
        seconds=(now - outcome.started_at).total_seconds() if outcome.started_at else None,
        transfer=transfer(outcome, outcome.download.asset.main.size_bytes) if outcome.download else None,
    )


def _files(outcome: Outcome) -> list[tuple[str, str]]:
    """(what it is, file name) of what lies beside the page; links to it go on working when the folder is moved."""
    files = [("video", outcome.published.video.name)] if outcome.published else []
    if outcome.failure_log:
        files.append(("error log", outcome.failure_log.name))
    return [*files, ("JSON", "report.json")]


def _streams(outcome: Outcome) -> list[tuple[str, MediaInfo]]:
    """The source and the result, so that a person can compare them."""
    pages = [("Streams of the source", outcome.download.media)] if outcome.download else []
    return [*pages, *([("Streams of the result", outcome.remux.media)] if outcome.remux else [])]


def labels(stream: StreamInfo) -> str:
    """What a stream says of itself: for whom it is, how it is to be shown."""
    colors = "/".join(word for word in (stream.color_primaries, stream.transfer, stream.color_space) if word)
    words = (
        stream.language if stream.language != "und" else None,
        f"“{stream.title}”" if stream.title else None,
        "default" if stream.default else None,
        *(role.replace("_", " ") for role in stream.roles),
        f"turned by {stream.rotation}°" if stream.rotation else None,
        f"pixels {stream.sample_aspect:.3g}:1" if stream.sample_aspect else None,
        stream.field_order if stream.field_order not in (None, "progressive") else None,
        colors or None,
        f"Dolby Vision {stream.dolby_vision.profile}" if stream.dolby_vision else None,
        "captions inside" if stream.captions else None,
    )
    return ", ".join(word for word in words if word)


def _duration(outcome: Outcome) -> float:
    return (outcome.remux.media.length_seconds if outcome.remux else None) or 0.0


def _timelines(outcome: Outcome) -> list[tuple[Detection, list[tuple[float, float]]]]:
    """Each detector that looks for stretches and measures nothing, with (left, width) of each in per cent."""
    length = _duration(outcome)
    if outcome.analysis is None or not length:
        return []
    shown = [d for d in outcome.analysis.detections if not d.values]
    return [(d, [_bar(i.start_seconds, i.end_seconds, length) for i in d.intervals]) for d in shown]


def _bar(start: float, end: float, length: float) -> tuple[float, float]:
    return round(100 * start / length, 3), round(max(0.3, 100 * (end - start) / length), 3)


def _loudness(outcome: Outcome) -> dict[str, Any]:
    detection = outcome.analysis.of("loudness") if outcome.analysis else None
    return dict(detection.values) if detection else {}


def _data_url(path: Path) -> str:
    return f"data:{_MIME[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"

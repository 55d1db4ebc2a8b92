"""What was decided about a file and why, as Markdown for the Prefect UI.

`tasks/decision.py` shows it once the file is made. Pure; names and messages come from strangers and are escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tidegate.model import LadderStep, MediaInfo, Outcome, RemuxResult, StreamInfo
from tidegate.report.units import clock, human_size

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")


def decision_markdown(outcome: Outcome, remux: RemuxResult) -> str:
    """The decision, every strategy that was tried, and what was checked."""
    return "\n".join(_lines(outcome, remux)) + "\n"


def _lines(outcome: Outcome, remux: RemuxResult) -> Iterator[str]:
    yield f"# {remux.decision.strategy.value} to {remux.decision.container}"
    yield ""
    source = " ".join(outcome.source.replace("`", "").split())
    yield f"`{source}` for the profile **{outcome.profile}**, quality **{outcome.quality}**"
    if remux.aim is not None:
        height = f", at most {remux.aim.height} lines after a step down" if remux.aim.height else ""
        yield f"within the limits of **{remux.aim.rung}**{height}"
    yield ""
    yield from (f"- {plain(reason)}" for reason in remux.decision.reasons)
    yield ""
    yield "| | source | result |"
    yield "|---|---|---|"
    media = outcome.download.media if outcome.download else None
    yield f"| picture | {_picture(media)} | {_picture(remux.media)} |"
    yield f"| sound | {_sound(media)} | {_sound(remux.media)} |"
    yield f"| length | {clock(media.length_seconds) if media else '?'} | {clock(remux.media.length_seconds)} |"
    yield f"| size | {human_size(outcome.download.asset.size_bytes) if outcome.download else '?'} | {_size(remux)} |"
    yield ""
    yield "| tried | how it went | seconds | most memory |"
    yield "|---|---|---|---|"
    yield from (
        f"| {plain(tried.label)} | {tried.failure}: {plain(tried.message)} | {tried.seconds:.1f} | |"
        for tried in outcome.tried
    )
    yield from (_step(step) for step in remux.ladder)
    yield ""
    yield f"Checked: {'; '.join(plain(check) for check in remux.verification.checks)}."
    yield from (f"\n**{finding.code}**: {plain(finding.message)}" for finding in remux.findings)


def _step(step: LadderStep) -> str:
    how = step.outcome if step.failure is None else f"{step.failure}: {plain(step.message)}"
    memory = human_size(step.resources.peak_memory_bytes) if step.resources else ""
    return f"| {step.strategy.value} | {how} | {step.seconds:.1f} | {memory} |"


def _picture(media: MediaInfo | None) -> str:
    video = media.video if media else None
    return plain(" ".join(_words(video))) if video else "–"


def _words(video: StreamInfo) -> Iterator[str]:
    yield video.codec
    yield f"{video.width}×{video.height}"
    if video.bit_depth:
        yield f"{video.bit_depth} bit"
    if video.frame_rate:
        yield f"{video.frame_rate:.3g} fps"


def _sound(media: MediaInfo | None) -> str:
    streams = media.of_kind("audio") if media else ()
    return plain(", ".join(f"{s.codec} {s.channels or '?'} ch" for s in streams)) or "–"


def _size(remux: RemuxResult) -> str:
    return human_size(remux.asset.main.size_bytes)


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))

"""Stage `remux`: the source as a playable file, by copy, repair or transcode.

Asks the decision table, climbs the ladder on failures that the policy table lets climb, and believes no exit code:
every output is decoded whole and compared with its source. Works on a `.partial` file in scratch; only a verified
one enters the store, so a crash leaves nothing that could be taken for a result.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import psutil

from tidegate.durable.children import own_name
from tidegate.durable.threads import in_thread
from tidegate.errors import TidegateError
from tidegate.events import Note
from tidegate.media.ffmpeg import Toolchain, base_arguments, can_tone_map, file_url, run_ffmpeg, version_of
from tidegate.model import (
    Aim,
    ChunkRecord,
    Decision,
    DownloadResult,
    Finding,
    LadderStep,
    MediaInfo,
    ProfileName,
    Quality,
    RemuxResult,
    ResourceUse,
    Strategy,
    Verification,
)
from tidegate.resilience.quality import first_aim, rung_of, threads_for
from tidegate.stages.decide import decide, findings, ladder, smaller, worth_a_look
from tidegate.stages.recipes import offsets_seconds, output_arguments, repair_arguments
from tidegate.stages.scan import look_at_samples
from tidegate.stages.sidecars import make_sidecars
from tidegate.stages.transcode import Film, memory_cap, transcode, verified
from tidegate.stages.verification import damage_of
from tidegate.stages.workbench import Workbench

RECIPE = 2
"""Raise it when the same source and profile would give another file: old checkpoints are then not believed."""

Made = tuple[MediaInfo, Verification, ChunkRecord | None]

TRACK = "media"
"""The name of the file inside the asset, before its suffix."""


async def remux(
    bench: Workbench,
    source: DownloadResult,
    profile: ProfileName,
    quality: Quality,
    key: str,
    aim: Aim | None = None,
) -> RemuxResult:
    """Make and verify the output. `key` is the work key.

    Args:
        aim: Whose limits hold, and the height after a step down; None: as `aim_of` says.

    Raises:
        VerificationFailed, RefusedByMuxer, BadTimestamps: the last rung of the ladder failed as well.
        MemoryExhausted, ProcessTimeout: where a picture was being encoded, with `target_height` set: a smaller one may
            succeed.
        StalledProcess, DiskFull …: what the policy table does not let climb.
    """
    started = time.monotonic()
    toolchain = bench.toolchain()
    version = await version_of(toolchain, bench.settings.process)  # first, so that a wrong tool costs no work
    aim = aim or aim_of(source.media, quality)
    toolchain = replace(toolchain, threads=toolchain.threads or _threads(aim))
    source, tone_maps = await _looked_into(bench, toolchain, source, profile, quality, aim)
    steps: list[LadderStep] = []
    rungs = plan(source.media, profile, quality, aim, can_tone_map=tone_maps)
    decision = rungs[0]
    output = bench.home.scratch(key, own_name("output")) / f"{TRACK}{suffix(decision)}.partial"
    try:
        while True:
            rung = rungs[len(steps)]
            film = Film(bench, toolchain, version, source, rung, output, key, aim)
            made = await _climb(film, steps, rungs)
            if made is not None:
                break
        media, verification, chunks = made
        beside, lost = await make_sidecars(bench, toolchain, source, rung, output.parent, memory_cap(aim))
        rung = rung.model_copy(
            update={"sidecars": tuple(sidecar for sidecar in rung.sidecars if sidecar.name in beside)}
        )
        asset = await in_thread(bench.store.put, {f"{TRACK}{suffix(rung)}": output, **beside})
    finally:
        output.unlink(missing_ok=True)
        for sidecar in decision.sidecars:
            (output.parent / sidecar.name).unlink(missing_ok=True)
    return RemuxResult(
        asset=asset,
        decision=rung,
        media=media,
        verification=verification,
        ladder=tuple(steps),
        chunks=chunks,
        aim=aim,
        findings=(
            *findings(source.media, rung),
            *_length_finding(source),
            *_gap_findings(source),
            *_damage(steps, verification, sum(film.concealed)),
            *damage_of(source.media, media, rung),
            *_given_up(chunks),
            *lost,
        ),
        ffmpeg_version=version,
        seconds=time.monotonic() - started,
        recorded_at=datetime.now(UTC),
    )


def aim_of(media: MediaInfo, quality: Quality) -> Aim:
    """What this host would begin with for such a source."""
    return first_aim(quality, psutil.virtual_memory().available, media.length_seconds)


def plan(
    media: MediaInfo, profile: ProfileName, quality: Quality, aim: Aim, *, can_tone_map: bool = True
) -> tuple[Decision, ...]:
    """The strategies in their order. After a step down only those that encode the picture, and make it smaller."""
    decision = decide(media, profile, quality, can_tone_map=can_tone_map)
    rungs = ladder(decision, profile, media, can_tone_map=can_tone_map)
    if aim.height is None:
        return rungs
    return tuple(smaller(rung, aim.height) for rung in rungs if rung.video == "h264")


def _threads(aim: Aim) -> int:
    return threads_for(rung_of(aim.rung), os.cpu_count() or 1, psutil.virtual_memory().available)


async def _looked_into(
    bench: Workbench, toolchain: Toolchain, source: DownloadResult, profile: ProfileName, quality: Quality, aim: Aim
) -> tuple[DownloadResult, bool]:
    """The source with what a look at its pictures added, and whether HDR could be tone-mapped."""
    media, tone_maps = source.media, True
    if media.video is not None and worth_a_look(media, profile, decide(media, profile, quality)):
        media = await look_at_samples(bench, toolchain, source, memory_cap(aim))
    if media.video is not None and media.video.color_transfer:
        tone_maps = await can_tone_map(toolchain, bench.settings.process)
    return source.model_copy(update={"media": media}), tone_maps


async def _climb(film: Film, steps: list[LadderStep], rungs: tuple[Decision, ...]) -> Made | None:
    """One rung. Nothing comes back when it failed in a way that lets the next one try."""
    started, rung, observe = time.monotonic(), film.decision, film.bench.observe
    how = "without re-encoding" if rung.strategy is Strategy.COPY else rung.strategy
    observe(Note(f"remux: {how} ({'; '.join(rung.reasons)})"))
    try:
        made = await _make(film)
    except TidegateError as failure:
        if failure.policy.of_our_tools and rung.video == "h264":
            failure.target_height = rung.height or (film.media.video.height if film.media.video else None)
        steps.append(_failed(film, failure, time.monotonic() - started))
        if not failure.policy.climbs or len(steps) == len(rungs):
            raise
        observe(Note(f"remux: {how} failed: {failure.message}", "warning"))
        return None
    seconds = time.monotonic() - started
    steps.append(LadderStep(strategy=rung.strategy, outcome="completed", seconds=seconds, resources=_most(film.used)))
    return made


async def _make(film: Film) -> Made:
    if film.decision.strategy is Strategy.TRANSCODE:
        return await transcode(film, _whole)
    return *await _whole(film), None


async def _whole(film: Film) -> tuple[MediaInfo, Verification]:
    """By one call of ffmpeg, verified."""
    bench, rung, output = film.bench, film.decision, film.output
    transcodes = rung.strategy is Strategy.TRANSCODE
    bench.require_space(output.parent, 0 if transcodes else film.source.asset.size_bytes)
    command = [
        *base_arguments(
            film.toolchain.ffmpeg,
            *film.originals,
            demuxer_options=repair_arguments(rung),
            offsets_seconds=offsets_seconds(film.media),
        ),
        *film.encoder.adapt(output_arguments(rung, film.media, film.toolchain.encoder_threads)),
        file_url(output),
    ]
    ran = await run_ffmpeg(
        film.encoder.with_device(command),
        stage="remux",
        doing="transcode" if transcodes else "",
        limits=bench.settings.process,
        deadline_seconds=film.deadline_seconds,
        media_seconds=film.media.length_seconds,
        observe=bench.observe,
        outputs=(output,),
        memory_cap_bytes=film.memory_cap_bytes,
    )
    film.used.append(ran.resources)
    film.concealed[:] = [ran.concealed]  # chunks that were given up for this saw the same places
    return await verified(film)


def suffix(decision: Decision) -> str:
    """The file name's ending that players expect."""
    if decision.container == "matroska":
        return ".mkv"
    return ".m4a" if decision.video == "none" else ".mp4"


def _failed(film: Film, failure: TidegateError, seconds: float) -> LadderStep:
    seen = failure.evidence
    used = [ResourceUse.model_validate(seen.resources | {"curve": seen.curve})] if seen.resources else film.used
    return LadderStep(
        strategy=film.decision.strategy,
        outcome="failed",
        failure=failure.type,
        message=failure.message,
        seconds=seconds,
        resources=_most(used),
    )


def _most(used: Sequence[ResourceUse]) -> ResourceUse | None:
    """Of several tools, the one that had the most memory."""
    return max(used, key=lambda use: use.peak_memory_bytes, default=None)


def _length_finding(source: DownloadResult) -> tuple[Finding, ...]:
    if source.length_confirmed:
        return ()
    message = "The length cannot be confirmed: neither the container nor the source says how long it should be"
    return (Finding(code="length_unconfirmed", message=message),)


def _gap_findings(source: DownloadResult) -> tuple[Finding, ...]:
    return tuple(
        Finding(
            code="gap",
            message=f"{gap.start_seconds:.1f} s to {gap.end_seconds:.1f} s are missing at the source: {gap.why}",
        )
        for gap in source.gaps
    )


def _given_up(chunks: ChunkRecord | None) -> tuple[Finding, ...]:
    """Chunks that lack pictures tell of a damage that one encoding of the whole passes over."""
    if chunks is None or not chunks.planned or chunks.why_whole is None:
        return ()
    return (Finding(code="encoded_whole", message=f"The film was transcoded in one piece: {chunks.why_whole}"),)


def _damage(steps: list[LadderStep], verification: Verification, concealed: int) -> tuple[Finding, ...]:
    """What the ladder and the decoder found wrong with the source. `concealed`: places that the encoder did not see."""
    told: dict[str, list[str]] = {}
    for step in steps:
        if step.outcome == "failed":
            told.setdefault(step.message, []).append(step.strategy)
    messages = [f"{' and '.join(rungs)} did not give a complete file: {message}" for message, rungs in told.items()]
    if verification.decode_errors:
        messages.append(f"The very beginning or end cannot be decoded ({verification.decode_errors} ×)")
    if concealed:
        messages.append(f"The source is damaged: its decoder made up what it could not decode, {concealed} ×")
    return tuple(Finding(code="source_damaged", message=message) for message in messages)

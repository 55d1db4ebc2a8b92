"""Stage `remux`: the source as a playable file, by copy, repair or transcode.

Asks the decision table, climbs the ladder on failures that the policy table lets climb, and believes no exit code:
every output is decoded whole and compared with its source. Works on a `.partial` file in scratch; only a verified
one enters the store, so a crash leaves nothing that could be taken for a result.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tidegate.durable.children import own_name
from tidegate.durable.threads import in_thread
from tidegate.errors import TidegateError
from tidegate.events import Note
from tidegate.media.ffmpeg import Toolchain, base_arguments, can_tone_map, file_url, run_ffmpeg, version_of
from tidegate.model import (
    Aim,
    Asset,
    ChunkRecord,
    Decision,
    DownloadResult,
    Finding,
    LadderStep,
    MediaInfo,
    NotCarried,
    ProfileName,
    Quality,
    RemuxResult,
    ResourceUse,
    Strategy,
)
from tidegate.stages.carried import WHOLE_STREAM, find_losses
from tidegate.stages.decide import decide, findings, ladder, smaller, worth_a_look
from tidegate.stages.host import aim_for, encoder_threads
from tidegate.stages.recipes import offsets_seconds, output_arguments, repair_arguments
from tidegate.stages.scan import look_at_samples
from tidegate.stages.sidecars import make_sidecars
from tidegate.stages.transcode import Film, VerifiedOutput, memory_cap, transcode, verify_output
from tidegate.stages.verification import damage_of
from tidegate.stages.workbench import Workbench

RECIPE = 3
"""Raise it when the same source and profile would give another file: old checkpoints are then not believed."""

SHOWN_LOSSES = 3
"""How many the finding names."""
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
        aim: Whose limits hold, and the height after a step down; None: as `host.aim_for` says.

    Raises:
        VerificationFailed, RefusedByMuxer, BadTimestamps: the last rung of the ladder failed as well.
        MemoryExhausted, ProcessTimeout: where a picture was being encoded, with `target_height` set: a smaller one may
            succeed.
        StalledProcess, DiskFull …: what the policy table does not let climb.
    """
    started = time.monotonic()
    toolchain = bench.toolchain()
    version = await version_of(toolchain, bench.settings.process)  # first, so that a wrong tool costs no work
    aim = aim or aim_for(quality, source.media.length_seconds)
    toolchain = replace(toolchain, threads=toolchain.threads or encoder_threads(aim))
    source, tone_maps = await _look_at_pictures(bench, toolchain, source, profile, quality, aim)
    rungs = plan(source.media, profile, quality, aim, can_tone_map=tone_maps)
    output = bench.home.scratch(key, own_name("output")) / f"{TRACK}{suffix(rungs[0])}.partial"
    try:
        film, result, steps = await _climb(Film(bench, toolchain, version, source, rungs[0], output, key, aim), rungs)
        asset, decision, lost = await _put_into_store(film)
    finally:
        _remove_files(output, rungs[0])
    losses = find_losses(source.media, result.media, decision)
    return RemuxResult(
        asset=asset,
        decision=decision,
        media=result.media,
        verification=result.verification,
        ladder=steps,
        chunks=result.chunks,
        aim=aim,
        findings=(*_all_findings(source, decision, result, steps), *lost, *_loss_finding(losses)),
        not_carried=losses,
        ffmpeg_version=version,
        seconds=time.monotonic() - started,
        recorded_at=datetime.now(UTC),
    )


async def _put_into_store(film: Film) -> tuple[Asset, Decision, tuple[Finding, ...]]:
    """The film and the files beside it as an asset; the decision with those that could be made; what could not be."""
    bench, rung, folder = film.bench, film.decision, film.output.parent
    beside, lost = await make_sidecars(bench, film.toolchain, film.source, rung, folder, memory_cap(film.aim))
    kept = tuple(sidecar for sidecar in rung.sidecars if sidecar.name in beside)
    asset = await in_thread(bench.store.put, {f"{TRACK}{suffix(rung)}": film.output, **beside})
    return asset, rung.model_copy(update={"sidecars": kept}), lost


def _remove_files(output: Path, decision: Decision) -> None:
    """What this attempt wrote in scratch; the store has links of its own."""
    for path in (output, *(output.parent / sidecar.name for sidecar in decision.sidecars)):
        path.unlink(missing_ok=True)


def plan(
    media: MediaInfo, profile: ProfileName, quality: Quality, aim: Aim, *, can_tone_map: bool = True
) -> tuple[Decision, ...]:
    """The strategies in their order. After a step down only those that encode the picture, and make it smaller."""
    decision = decide(media, profile, quality, can_tone_map=can_tone_map)
    rungs = ladder(decision, profile, media, can_tone_map=can_tone_map)
    if aim.height is None:
        return rungs
    return tuple(smaller(rung, aim.height) for rung in rungs if rung.video == "h264")


async def _look_at_pictures(
    bench: Workbench, toolchain: Toolchain, source: DownloadResult, profile: ProfileName, quality: Quality, aim: Aim
) -> tuple[DownloadResult, bool]:
    """The source with what a look at its pictures added, and whether HDR could be tone-mapped."""
    media, tone_maps = source.media, True
    if media.video is not None and worth_a_look(media, profile, decide(media, profile, quality)):
        media = await look_at_samples(bench, toolchain, source, memory_cap(aim))
    if media.video is not None and media.video.color_transfer:
        tone_maps = await can_tone_map(toolchain, bench.settings.process)
    return source.model_copy(update={"media": media}), tone_maps


async def _climb(film: Film, rungs: tuple[Decision, ...]) -> tuple[Film, VerifiedOutput, tuple[LadderStep, ...]]:
    """One strategy after the other, until one gives a whole file; with how each of them went."""
    steps: list[LadderStep] = []
    for number, rung in enumerate(rungs, start=1):
        film = replace(film, decision=rung)
        step, result = await _try_strategy(film, is_last=number == len(rungs))
        steps.append(step)
        if result is not None:
            return film, result, tuple(steps)
    raise AssertionError("the last strategy gives a file or raises")


async def _try_strategy(film: Film, *, is_last: bool) -> tuple[LadderStep, VerifiedOutput | None]:
    """How it went, and what came out: nothing where it failed in a way that lets the next strategy try."""
    started, rung, observe = time.monotonic(), film.decision, film.bench.observe
    how = "without re-encoding" if rung.strategy is Strategy.COPY else rung.strategy
    observe(Note(f"remux: {how} ({'; '.join(rung.reasons)})"))
    used: list[ResourceUse] = []
    try:
        result = await _make(replace(film, note_use=used.append))
    except TidegateError as failure:
        if failure.policy.of_our_tools and rung.video == "h264":
            failure.target_height = rung.height or (film.media.video.shown_lines if film.media.video else None)
        if not failure.policy.climbs or is_last:
            raise
        observe(Note(f"remux: {how} failed: {failure.message}", "warning"))
        return _step_of_failure(rung, failure, used, time.monotonic() - started), None
    seconds = time.monotonic() - started
    return LadderStep(strategy=rung.strategy, outcome="completed", seconds=seconds, resources=_most(used)), result


async def _make(film: Film) -> VerifiedOutput:
    if film.decision.strategy is Strategy.TRANSCODE:
        return await transcode(film, _make_in_one_call)
    return await _make_in_one_call(film)


async def _make_in_one_call(film: Film) -> VerifiedOutput:
    """By one call of ffmpeg, verified."""
    bench, rung, output = film.bench, film.decision, film.output
    transcodes = rung.strategy is Strategy.TRANSCODE
    bench.require_space(output.parent, 0 if transcodes else film.source.asset.size_bytes)
    command = [
        *base_arguments(
            film.toolchain.ffmpeg,
            *film.originals,
            demuxer_options=repair_arguments(rung, film.media),
            offsets_seconds=offsets_seconds(film.media),
        ),
        *film.encoder.adapt(output_arguments(rung, film.media, film.toolchain.encoder_threads)),
        file_url(output),
    ]
    result = await run_ffmpeg(
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
    film.note_use(result.resources)
    media, verification = await verify_output(film)
    return VerifiedOutput(media, verification, result.concealed)


def suffix(decision: Decision) -> str:
    """The file name's ending that players expect."""
    if decision.container == "matroska":
        return ".mkv"
    return ".m4a" if decision.video == "none" else ".mp4"


def _step_of_failure(rung: Decision, failure: TidegateError, used: Sequence[ResourceUse], seconds: float) -> LadderStep:
    """With what the tool that failed had used, where the failure knows it."""
    seen = failure.evidence
    own = [ResourceUse.model_validate(seen.resources | {"curve": seen.curve})] if seen.resources else used
    return LadderStep(
        strategy=rung.strategy,
        outcome="failed",
        failure=failure.type,
        message=failure.message,
        seconds=seconds,
        resources=_most(own),
    )


def _most(used: Sequence[ResourceUse]) -> ResourceUse | None:
    """Of several tools, the one that had the most memory."""
    return max(used, key=lambda use: use.peak_memory_bytes, default=None)


def _all_findings(
    source: DownloadResult, decision: Decision, result: VerifiedOutput, steps: Sequence[LadderStep]
) -> tuple[Finding, ...]:
    """What the result lacks of its source, and what is wrong with the source itself."""
    return (
        *findings(source.media, decision),
        *_length_finding(source),
        *_gap_findings(source),
        *_damage_messages(steps, result),
        *damage_of(source.media, result.media, decision),
        *_chunk_findings(result.chunks),
    )


def _loss_finding(losses: Sequence[NotCarried]) -> tuple[Finding, ...]:
    """One sentence for all that has no finding of its own; the report lists each with its reason."""
    unnamed = [loss.what for loss in losses if loss.where != WHOLE_STREAM or "data track" in loss.what]
    if not unnamed:
        return ()
    few = "; ".join(unnamed[:SHOWN_LOSSES]) + (
        f" and {len(unnamed) - SHOWN_LOSSES} more" if len(unnamed) > SHOWN_LOSSES else ""
    )
    return (
        Finding(
            code="not_carried",
            message=f"The result does not have: {few}. The reasons stand beside the streams in the report",
        ),
    )


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


def _chunk_findings(chunks: ChunkRecord | None) -> tuple[Finding, ...]:
    """Chunks that lack pictures tell of a damage that one encoding of the whole passes over."""
    if chunks is None or not chunks.planned or chunks.why_whole is None:
        return ()
    return (Finding(code="encoded_whole", message=f"The film was transcoded in one piece: {chunks.why_whole}"),)


def _damage_messages(steps: Sequence[LadderStep], result: VerifiedOutput) -> tuple[Finding, ...]:
    """What the ladder and the decoder found wrong with the source."""
    failed: dict[str, list[str]] = {}
    for step in steps:
        if step.outcome == "failed":
            failed.setdefault(step.message, []).append(step.strategy)
    messages = [f"{' and '.join(rungs)} did not give a complete file: {message}" for message, rungs in failed.items()]
    if result.verification.decode_errors:
        messages.append(f"The very beginning or end cannot be decoded ({result.verification.decode_errors} ×)")
    if result.concealed:
        messages.append(f"The source is damaged: its decoder made up what it could not decode, {result.concealed} ×")
    return tuple(Finding(code="source_damaged", message=message) for message in messages)

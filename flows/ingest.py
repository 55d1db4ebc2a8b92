"""The way of one file: probe → download → remux/transcode → analyze → publish.

Called by `python -m flows.run`, by deployments and by `flows/batch.py`. Always ends: with a published folder, or with
a Failed state that carries a failure report. After a crash the same call finds the checkpoints of the stages that had
completed and goes on inside the one that had not.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

from anyio import to_thread
from prefect import flow
from prefect.blocks.core import Block
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import Abort
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from blocks import MediaProfile, MediaSource, MediaStore, MediaToolchain
from flows.attempts import beginning, opened_ledger, seen_to_by_others, why_superseded
from flows.request import SourceRequest, require_writable, source_of
from tasks import analyze, download, probe, publish, remux
from tasks.observe import run_observer
from tasks.policies import Stage
from tasks.progress import shown
from tidegate.durable.ledger import AttemptState, Beginning
from tidegate.durable.ledger.decide import LOST_TOUCH
from tidegate.durable.ledger.lease import Lease, leased
from tidegate.errors import BadInput, Coordination, SourceChanged, Superseded, TidegateError, Unknown, as_failure
from tidegate.events import Note, RunEnded, RunStarted, together
from tidegate.model import (
    Detection,
    Finding,
    Identity,
    Order,
    Outcome,
    ProfileName,
    Quality,
    Source,
    StageName,
    StageRecord,
    TransferStats,
)
from tidegate.redact import redact_url
from tidegate.report.failure import describe
from tidegate.settings import Settings
from tidegate.stages import Workbench, choose_rendition, identify, publish_failure, work_key
from tidegate.stages.publish import folder_before_identity, folder_of

B = TypeVar("B", bound=Block)

IDENTIFIED_AT_MOST = 3
"""How often a source that changes while it is read is identified anew before the run gives up."""


class Way:
    """One run's way: what it was asked, and what it has come to so far."""

    def __init__(
        self, bench: Workbench, outcome: Outcome, output_dir: Path, *, until: StageName, refresh: bool
    ) -> None:
        self.bench = bench
        self.outcome = outcome
        self.target = output_dir / folder_before_identity(outcome.source, outcome.profile, outcome.quality)
        self.output_dir = output_dir
        self._until = until
        self._refresh = refresh

    async def go(self, source: Source, lease: Lease) -> None:
        """Identify the source, then take every stage in its order, alone: a second run of this work waits."""
        identity, cost = await identify(self.bench, source)
        self._note(transfer=cost)
        key = work_key(identity, self.outcome.profile, self.outcome.quality)
        self.target = self.output_dir / folder_of(identity, key)
        self._note(work_key=key)
        await lease.claim(key, self.target)
        if self._refresh:
            self.bench.home.clear_scratch(key)  # a part and its journal are a checkpoint too
        await self._stages(source, identity, key)
        if self.outcome.published:
            await lease.published(self.outcome.published.folder)
        if self._until != "probe":  # its part holds the download's first bytes
            self.bench.home.clear_scratch(key)  # every stage has left its checkpoint

    async def _stages(self, source: Source, identity: Identity, key: str) -> None:
        profile, quality = self.outcome.profile, self.outcome.quality

        probed = await self._stage(probe.stage(self.bench, identity), source, identity, key)
        self._note(probe=probed)
        self._count("probe", probed.transfer)
        if self._until == "probe":
            return

        rendition = choose_rendition(probed.renditions, quality)
        downloaded = await self._stage(
            download.stage(self.bench, source, probed, rendition, key, self.output_dir), source, probed, rendition, key
        )
        self._note(download=downloaded, download_path=self.bench.store.path(downloaded.asset))
        self._count("download", downloaded.transfer)
        if self._until == "download":
            return

        media = await self._stage(
            remux.stage(self.bench, downloaded, profile, quality), downloaded, profile, quality, key
        )
        self._note(remux=media, findings=media.findings)
        if self._until == "remux":
            return

        analysis = await self._stage(analyze.stage(self.bench, media), media, key)
        self._note(analysis=analysis, findings=(*media.findings, *_not_run(analysis.detections)))
        if self._until == "analyze":
            return

        published = await self._stage(
            publish.stage(self.bench, media, analysis, self.target), self.outcome, self.target
        )
        self._note(published=published)

    async def _stage(self, stage: Stage[Any], *arguments: Any) -> Any:
        started = time.monotonic()
        try:
            result, record = await stage.run(self.bench, *arguments, refresh=self._refresh)
        except Exception:
            seconds = round(time.monotonic() - started, 3)
            self._record(stage.name, StageRecord(state="failed", seconds=seconds))
            raise
        self._record(stage.name, record)
        return result

    def _count(self, name: StageName, cost: TransferStats) -> None:
        """Add what a stage cost in this run; a stage from its checkpoint cost nothing."""
        if not self.outcome.stages[name].cached:
            self._note(transfer=self.outcome.transfer + cost)

    def _record(self, name: StageName, record: StageRecord) -> None:
        self._note(stages={**self.outcome.stages, name: record})

    def _note(self, **facts: Any) -> None:
        self.outcome = self.outcome.model_copy(update=facts)


def _run_name() -> str:
    request = cast("SourceRequest | dict[str, str]", flow_run.parameters["source"])
    told = request if isinstance(request, dict) else request.model_dump()
    return f"ingest {redact_url(told.get('url') or '') or told.get('block')}"


@flow(name="ingest", flow_run_name=_run_name, persist_result=False)
async def ingest(
    source: SourceRequest,
    profile: ProfileName = ProfileName.UNIVERSAL,
    quality: Quality = Quality.AUTO,
    output_dir: Path = Path("media"),
    until: StageName = "publish",
    refresh: bool = False,
    profile_block: str | None = None,
    store_block: str | None = None,
    toolchain_block: str | None = None,
) -> State[Outcome]:
    """Ingest one source.

    Args:
        source: What to ingest.
        profile: Where the result must play.
        quality: The rung that is asked for.
        output_dir: The folder, on the worker, that gets a folder for this source; relative to TIDEGATE_HOME.
        until: The last stage to run.
        refresh: Ignore every checkpoint.
        profile_block: Name of a Media Profile block, in place of profile and quality.
        store_block: Name of a Media Store block, in place of the worker's settings.
        toolchain_block: Name of a Media Toolchain block, in place of the worker's settings.

    Returns:
        Completed or Failed, with the `Outcome` as its data.
    """
    observe = run_observer()
    observe(RunStarted(_told(source)))
    try:
        order = await _order(profile_block, Order(profile=profile, quality=quality))
        outcome = Outcome(
            status="completed",
            source=_told(source),
            profile=order.profile,
            quality=order.quality,
            flow_run_id=_flow_run_id(),
        )
        bench = Workbench(await _settings(store_block, toolchain_block), observe)
        way = Way(bench, outcome, require_writable(bench.home.root / output_dir), until=until, refresh=refresh)
        engine_source = await _source(source, bench)
    except Exception as error:  # noqa: BLE001  # whatever it is, the run ends with a report
        ended = failed_before_it_began(source, error)
    else:
        request = _asked(source, order, output_dir, until)
        ended = await _leased(way, engine_source, beginning("ingest", _told(source), request))
    observe(RunEnded(ended))
    return _failed(ended) if ended.failure else Completed(message=_summary(ended), data=ended)


def failed_before_it_began(source: SourceRequest, reason: object) -> Outcome:
    """The outcome of a run that never got as far as having one; `reason` is an exception, or what came instead."""
    unexpected = reason if isinstance(reason, BaseException) else Unknown(f"The run ended with {reason!r}")
    return Outcome(
        status="failed",
        source=_told(source),
        flow_run_id=_flow_run_id(),
        failure=describe(as_failure(unexpected), now=datetime.now(UTC)),
    )


def _asked(source: SourceRequest, order: Order, output_dir: Path, until: StageName) -> dict[str, Any]:
    """What has to be asked for to have the same done again."""
    return {
        "source": source.model_dump(exclude_none=True),
        "profile": order.profile.value,
        "quality": order.quality.value,
        "output_dir": str(output_dir),
        "until": until,
    }


async def _leased(way: Way, source: Source, begins: Beginning) -> Outcome:
    """Go the way as an attempt in the ledger.

    Raises:
        Abort: somebody else speaks for this run now; nothing more is reported of it here.
    """
    observe, lease = way.bench.observe, None
    try:
        async with opened_ledger(way.bench.settings, observe) as ledger, leased(ledger, begins, observe) as lease:
            async with shown() as progress:
                way.bench = replace(way.bench, observe=together(observe, lease, progress), fence=lease.fence)
                outcome = await _to_its_end(way, source, lease)
            _conclude(lease, outcome)
        return outcome
    except Superseded as error:
        if lease is None:
            return _failure(way, error)
        reason = await why_superseded(lease, error)
        if await seen_to_by_others(lease):
            observe(Note(f"{reason.message}; this process leaves without a word to Prefect", "warning"))
            raise Abort(reason.message) from error
        return _failure(way, reason)
    except Coordination as error:
        return _failure(way, error)
    except Exception as error:  # noqa: BLE001  # whatever it is, the run ends with a report
        return await _evidence(way, as_failure(error))


def _conclude(lease: Lease, outcome: Outcome) -> None:
    """What failed for want of the ledger or the server has not failed for good: recovery takes it up again."""
    failure = outcome.failure.type if outcome.failure else None
    state = AttemptState.FAILED if failure else AttemptState.COMPLETED
    lease.conclude(AttemptState.INTERRUPTED if failure in LOST_TOUCH else state, failure)


async def _to_its_end(way: Way, source: Source, lease: Lease) -> Outcome:
    """Go the way; a source that changes under it is identified anew. Failures become part of the outcome."""
    for identified in range(1, IDENTIFIED_AT_MOST + 1):
        try:
            await way.go(source, lease)
        except SourceChanged as error:
            if identified == IDENTIFIED_AT_MOST:
                return await _evidence(way, error)
            way.bench.observe(Note(f"{error.message}; beginning again with what it is now", "warning"))
        except Coordination:  # the work is somebody else's now, and so are its scratch and its folder
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, the run ends with a report
            return await _evidence(way, as_failure(error))
        else:
            break
    return way.outcome


async def _evidence(way: Way, error: TidegateError) -> Outcome:
    """The outcome of a failed run, with its report written."""
    failed = _failure(way, error)
    assert failed.failure is not None  # noqa: S101
    outcome = await to_thread.run_sync(publish_failure, failed, way.target)
    if outcome.work_key and not failed.failure.retryable:
        way.bench.home.clear_scratch(outcome.work_key)  # no later run could use it
    return outcome


def _failure(way: Way, error: TidegateError) -> Outcome:
    failure = describe(error, now=datetime.now(UTC))
    return way.outcome.model_copy(update={"status": "failed", "failure": failure})


async def _block(kind: type[B], name: str) -> B:
    """The saved block.

    Raises:
        BadInput: the server has none of that kind and name.
    """
    try:
        return cast("B", await cast("Any", kind.aload(name)))
    except ValueError as error:
        raise BadInput(f"There is no block {kind.get_block_type_slug()}/{name}") from error


async def _order(block: str | None, otherwise: Order) -> Order:
    return (await _block(MediaProfile, block)).order() if block else otherwise


async def _settings(store_block: str | None, toolchain_block: str | None) -> Settings:
    settings = Settings.load()
    if store_block:
        settings = settings.model_copy(update={"store": (await _block(MediaStore, store_block)).settings()})
    if toolchain_block:
        settings = settings.model_copy(update={"tools": (await _block(MediaToolchain, toolchain_block)).settings()})
    return settings


async def _source(request: SourceRequest, bench: Workbench) -> Source:
    if request.block:
        return (await _block(MediaSource, request.block)).source()
    return source_of(request, bench.home)


def _told(request: SourceRequest) -> str:
    return redact_url(request.url) or f"block {request.block}"


def _not_run(detections: tuple[Detection, ...]) -> tuple[Finding, ...]:
    return tuple(
        Finding(code="detector_not_run", message=f"The detector {d.detector} did not run: {d.reason}")
        for d in detections
        if d.state == "not_run"
    )


def _failed(outcome: Outcome) -> State[Outcome]:
    assert outcome.failure is not None  # noqa: S101
    failure = outcome.failure
    return Failed(message=f"{failure.type}: {failure.message} ({failure.reference})", data=outcome)


def _summary(outcome: Outcome) -> str:
    return f"Published in {outcome.published.folder}" if outcome.published else f"Done up to {list(outcome.stages)[-1]}"


def _flow_run_id() -> str | None:
    context = FlowRunContext.get()
    return str(context.flow_run.id) if context and context.flow_run else None

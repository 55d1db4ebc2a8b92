"""The way of one file: probe → download → remux/transcode → analyze → publish.

Called by `python -m flows.run`, by deployments and by `flows/batch.py`. Always ends: with a published folder, or with
a Failed state that carries a failure report. After a crash the same call finds the checkpoints of the stages that had
completed and goes on inside the one that had not.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import anyio
import psutil
from anyio import to_thread
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.attempts import asked, beginning
from flows.ending import attempted, failed_before_it_began, flow_run_id, told
from flows.fallback import Descent, brought, forget, given_up, offered
from flows.open_breaker import comes_again, comes_back, patience_seconds, scheduled_again
from flows.port import hold
from flows.request import SourceRequest, require_output
from flows.roots import roots_of
from flows.smaller import Reduction, made, note_aim, recorded_aim
from flows.stored import order_of, settings_of, source_in
from tasks import analyze, download, probe, publish, remux
from tasks.decision import show_decision
from tasks.observe import run_observer
from tasks.policies import Stage
from tidegate.durable.ledger.lease import Lease
from tidegate.errors import CircuitOpen
from tidegate.events import Account, RunEnded, RunStarted
from tidegate.model import (
    NO_WISH,
    Aim,
    Detection,
    DownloadResult,
    Finding,
    Identity,
    Order,
    Outcome,
    ProbeResult,
    ProfileName,
    Quality,
    RemuxResult,
    Rendition,
    Source,
    StageName,
    StageRecord,
    TransferStats,
    Tried,
    Wish,
)
from tidegate.redact import redact_url
from tidegate.resilience.quality import first_aim
from tidegate.stages import Workbench, identify, work_key
from tidegate.stages.publish import folder_before_identity, folder_of
from tidegate.transfer.resolvers import resolver_for

T = TypeVar("T")


class Way:
    """One run's way: what it was asked, and what it has come to so far."""

    def __init__(
        self,
        bench: Workbench,
        outcome: Outcome,
        output_dir: Path,
        *,
        until: StageName,
        refresh: bool,
        wish: Wish = NO_WISH,
    ) -> None:
        self.bench = bench
        self.outcome = outcome
        self.target = output_dir / folder_before_identity(outcome.source, outcome.profile, outcome.quality)
        self.output_dir = output_dir
        self._until = until
        self._refresh = refresh
        self._wish = wish
        self._lease: Lease | None = None
        self._patience_seconds = patience_seconds()
        self.account = Account()
        self._tried: list[Tried] = []

    async def go(self, source: Source, lease: Lease) -> None:
        """Identify the source, then take every stage in its order, alone: a second run of this work waits."""
        self._lease = lease
        identity, cost = await self._rested(lambda: identify(self.bench, source))
        self._note(transfer=cost)
        key = work_key(identity, self.outcome.profile, self.outcome.quality, self._wish)
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
        first = resolver_for(source, identity).name
        probed = await offered(self.bench, source, first, partial(self._probed, source, identity, key))
        if self._until == "probe":
            return

        aim = self._aimed(probed, key)
        downloaded = await self._downloaded(source, probed, key, aim)
        if self._until == "download":
            return

        media = await self._made(downloaded, key, aim)
        found = (*self._stepped_down(media), *media.findings)
        self._note(remux=media, findings=found)
        if not self.outcome.stages["remux"].cached:
            await show_decision(self.outcome, media)
        if self._until == "remux":
            return

        analysis = await self._stage(analyze.stage(self.bench, media), media, key)
        self._note(analysis=analysis, findings=(*found, *_not_run(analysis.detections)))
        if self._until == "analyze":
            return

        self._note(origins=self.bench.gates.statistics(), **self.account.facts)
        published = await self._stage(
            publish.stage(self.bench, media, analysis, self.target), self.outcome, self.target
        )
        self._note(published=published)

    async def _probed(self, source: Source, identity: Identity, key: str, resolver: str | None = None) -> ProbeResult:
        """What the source offers, as the first resolver that fits sees it, or the one that is named."""
        stage = probe.stage(self.bench, identity, resolver)
        probed: ProbeResult = await self._stage(stage, source, identity, key, resolver)
        self._note(probe=probed)
        self._count("probe", probed.transfer)
        return probed

    def _aimed(self, probed: ProbeResult, key: str) -> Aim:
        """The rung that this run begins with: chosen once for this work, by what was asked and by the host's memory."""
        scratch = self.bench.home.scratch_of(key)
        known = None if self._refresh else recorded_aim(scratch, self.target)
        aim = known or first_aim(self.outcome.quality, psutil.virtual_memory().available, probed.promised_seconds)
        note_aim(scratch, aim)
        return aim

    async def _downloaded(self, source: Source, probed: ProbeResult, key: str, aim: Aim) -> DownloadResult:
        """The best rendition at or below what was asked for that can be had."""

        async def take(offer: ProbeResult, rendition: Rendition) -> DownloadResult:
            stage = download.stage(self.bench, source, offer, rendition, key, self.output_dir, self._wish)
            got: DownloadResult = await self._stage(stage, source, offer, rendition, key, self._wish)
            return got

        folder = self.bench.home.scratch_of(key)
        descent = Descent(
            bench=self.bench,
            source=source,
            key=key,
            quality=aim.rung if self.outcome.quality is Quality.AUTO else self.outcome.quality,
            probed=probed,
            probe=partial(self._probed, source, probed.identity, key),
            download=take,
            tried=self._tried,
        )
        self._tried[:] = given_up(folder)
        try:
            taken, downloaded = await brought(descent)
        except Exception:
            forget(folder)  # this run tells what it tried; the next one begins at the top
            raise
        finally:
            self._note(tried=tuple(self._tried))
        self._note(probe=taken, download=downloaded, download_path=self.bench.store.path(downloaded.asset))
        self._count("download", downloaded.transfer)
        return downloaded

    async def _made(self, downloaded: DownloadResult, key: str, aim: Aim) -> RemuxResult:
        """The playable file, with the largest picture that can be made."""
        profile, quality = self.outcome.profile, self.outcome.quality

        async def make(aim: Aim) -> RemuxResult:
            stage = remux.stage(self.bench, downloaded, profile, quality, aim)
            media: RemuxResult = await self._stage(stage, downloaded, profile, quality, key, aim)
            return media

        scratch = self.bench.home.scratch_of(key)
        try:
            return await made(Reduction(self.bench, self.outcome.source, scratch, make, self._tried), aim)
        finally:
            self._note(tried=tuple(self._tried))

    def _stepped_down(self, media: RemuxResult) -> tuple[Finding, ...]:
        tried = ", ".join(f"{one.label} ({one.message})" for one in self.outcome.tried)
        if tried:
            return (Finding(code="stepped_down", message=f"A lower quality was taken; before it failed {tried}"),)
        if media.aim is None or media.aim.height is None:
            return ()
        told = f"A picture of {media.aim.height} lines, because an earlier run could make none larger within its memory"
        return (Finding(code="stepped_down", message=f"{told} and time; --refresh tries again"),)

    async def _stage(self, stage: Stage[Any], *arguments: Any) -> Any:
        started = time.monotonic()
        try:
            run = partial(stage.run, self.bench, *arguments, refresh=self._refresh)
            result, record = await self._rested(run)
        except Exception:
            seconds = round(time.monotonic() - started, 3)
            self._record(stage.name, StageRecord(state="failed", seconds=seconds))
            raise
        self._record(stage.name, record)
        return result

    async def _rested(self, act: Callable[[], Awaitable[T]]) -> T:
        """Do it; where requests to the source are paused, after the pause.

        Raises:
            CircuitOpen: the rest is longer than this run may wait. A deployed run is scheduled for later instead, and
                a batch comes back to the source.
        """
        while True:
            try:
                return await act()
            except CircuitOpen as error:
                if self._lease is None or error.retry_after_seconds is None:  # None: only a person ends it
                    raise
                rest = max(1.0, error.retry_after_seconds)
                if rest > self._patience_seconds:
                    raise
                self._patience_seconds -= rest
                with self._lease.waiting(error.message):
                    await anyio.sleep(rest)

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
    source = request if isinstance(request, dict) else request.model_dump()
    return f"ingest {redact_url(source.get('url') or '') or source.get('block')}"


@flow(name="ingest", flow_run_name=_run_name, persist_result=False)
async def ingest(
    source: SourceRequest,
    profile: ProfileName = ProfileName.UNIVERSAL,
    quality: Quality = Quality.AUTO,
    output_dir: Path = Path("media"),
    until: StageName = "publish",
    refresh: bool = False,
    wish: Wish = NO_WISH,
    profile_block: str | None = None,
    store_block: str | None = None,
    toolchain_block: str | None = None,
) -> State[Outcome]:
    """Ingest one source.

    Args:
        source: What to ingest.
        profile: Where the result must play.
        quality: The rung that is asked for.
        output_dir: The folder, on the worker, that gets a folder for this source; relative to TIDEGATE_OUTPUT.
        until: The last stage to run.
        refresh: Ignore every checkpoint.
        wish: What else is asked of the download: gaps that are allowed, how much of a live source.
        profile_block: Name of a Media Profile block, in place of profile and quality.
        store_block: Name of a Media Store block, in place of the worker's settings.
        toolchain_block: Name of a Media Toolchain block, in place of the worker's settings.

    Returns:
        Completed or Failed, with the `Outcome` as its data.

    Raises:
        Abort: somebody else speaks for this run now, or it was scheduled for later because requests to its
            source are paused.
    """
    hold()
    observe = run_observer()
    observe(RunStarted(told(source)))
    try:
        order = await order_of(profile_block, Order(profile=profile, quality=quality))
        outcome = Outcome(
            status="completed",
            source=told(source),
            profile=order.profile,
            quality=order.quality,
            flow_run_id=flow_run_id(),
        )
        wish = _of_its_own(wish)
        settings = await settings_of(store_block, toolchain_block)
        bench = Workbench(settings, observe, roots=await to_thread.run_sync(roots_of, settings))
        engine_source = await source_in(source, bench)
        wanted = bench.home.outputs(output_dir, settings.store.output)
        folder = require_output(wanted, bench.home, bench.require_publishable)
        way = Way(bench, outcome, folder, until=until, refresh=refresh, wish=wish)
    except Exception as error:  # noqa: BLE001  # whatever it is, the run ends with a report
        ended = failed_before_it_began(source, error)
    else:
        sought = source.model_dump(exclude_none=True)
        request = asked(order.profile, order.quality, output_dir, until, wish, source=sought)
        ended = await attempted(way, engine_source, beginning("ingest", told(source), request))
    if comes_again(ended) and comes_back.get() is None:
        await scheduled_again(ended)
    if not comes_again(ended):
        observe(RunEnded(ended))
    return _failed(ended) if ended.failure else Completed(message=_summary(ended), data=ended)


def _of_its_own(wish: Wish) -> Wish:
    """A recording is told from the next one of the same source by its flow run; recovery and `--resume` keep it."""
    if wish.duration_seconds is None or wish.occasion is not None:
        return wish
    return wish.model_copy(update={"occasion": flow_run_id()})


def _not_run(detections: tuple[Detection, ...]) -> tuple[Finding, ...]:
    return tuple(
        Finding(code="detector_not_run", message=f"The detector {d.detector} did not run: {d.reason}")
        for d in detections
        if d.state == "not_run"
    )


def _failed(outcome: Outcome) -> State[Outcome]:
    assert outcome.failure is not None  # noqa: S101
    failure = outcome.failure
    to_do = f" To do: {failure.suggested_actions[0]}." if failure.suggested_actions else ""
    return Failed(message=f"{failure.type}: {failure.message} ({failure.reference}).{to_do}", data=outcome)


def _summary(outcome: Outcome) -> str:
    return f"Published in {outcome.published.folder}" if outcome.published else f"Done up to {list(outcome.stages)[-1]}"

"""The run of one source: what it is asked for, what it has come to, and each stage with its fallback.

`flows/ingest.py` makes one and calls its stages in their order; `flows/ending.py` gives it its lease and makes an
outcome of whatever it raises. After a crash a run that is made anew finds the checkpoints of the stages that had
completed, the rung that was chosen and the renditions that were given up, and goes on from there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio

from flows.fallback import (
    RenditionLadder,
    download_stepping_down,
    forget_given_up,
    probe_with_alternatives,
    read_given_up,
)
from flows.open_breaker import patience_seconds
from flows.smaller import HeightLadder, note_aim, read_aim, remux_stepping_down
from tasks import analyze, download, probe, publish, remux
from tasks.decision import show_decision
from tasks.policies import Stage
from tidegate.durable.ledger.lease import Lease
from tidegate.errors import TidegateError
from tidegate.events import Observer, OutcomeFacts, together
from tidegate.model import (
    NO_WISH,
    Aim,
    AnalysisResult,
    Detection,
    DownloadResult,
    Finding,
    Identity,
    Outcome,
    ProbeResult,
    Quality,
    RemuxResult,
    Rendition,
    Source,
    StageName,
    StageRecord,
    TransferStats,
    Tried,
    Value,
    Wish,
)
from tidegate.stages import Workbench, identify, work_key
from tidegate.stages.host import aim_for
from tidegate.stages.publish import folder_before_identity, folder_of
from tidegate.transfer.gates.gates import Gates
from tidegate.transfer.resolvers import resolver_for
from tidegate.transfer.transport import pool_of

Result = TypeVar("Result", bound=Value)
Answer = TypeVar("Answer")


class IngestRun:
    """One run of one source. Its stages may be called under `hold_lease` only, in their order."""

    def __init__(
        self,
        bench: Workbench,
        source: Source,
        outcome: Outcome,
        output_dir: Path,
        *,
        until: StageName,
        refresh: bool,
        wish: Wish = NO_WISH,
    ) -> None:
        self.bench = bench
        self.source = source
        self.outcome = outcome
        self.target = output_dir / folder_before_identity(outcome.source, outcome.profile, outcome.quality)
        """The folder of its result; a better name is known once the source is identified."""
        self.output_dir = output_dir
        self.until = until
        self.wish = wish
        self._refresh = refresh
        self._account = OutcomeFacts()
        self._tried: list[Tried] = []
        self._patience_seconds = patience_seconds()
        self._lease: Lease
        self._identity: Identity
        self._key: str

    @contextlib.asynccontextmanager
    async def hold_lease(self, lease: Lease, observe: Observer) -> AsyncIterator[None]:
        """Work under this lease: it guards what is published, and the gates of its ledger what is asked of origins."""
        everybody = together(observe, self._account)
        settings = self.bench.settings
        gates = Gates(settings.gate, lease.ledger, everybody, addresses=settings.network.addresses)
        self.bench = replace(self.bench, observe=everybody, fence=lease.fence, gates=gates)
        self._lease = lease
        try:
            yield
        finally:
            await gates.flush()
            pool_of(gates).close()

    @property
    def facts(self) -> dict[str, Any]:
        """What an outcome says besides the results of its stages: its origins, and what its events add up to."""
        return {"origins": self.bench.gates.statistics(), **self._account.facts}

    def is_until(self, stage: StageName) -> bool:
        """Whether this was the last stage that was asked for."""
        return self.until == stage

    async def identify(self) -> None:
        """Ask the source what it is, and take the work, alone: a second run of this work waits."""
        self._identity, cost = await self._wait_out_breaker(lambda: identify(self.bench, self.source))
        self._note(transfer=cost)
        self._key = work_key(self._identity, self.outcome.profile, self.outcome.quality, self.wish)
        self.target = self.output_dir / folder_of(self._identity, self._key)
        self._note(work_key=self._key)
        await self._lease.claim(self._key, self.target)
        if self._refresh:
            self.clear_scratch()  # a part and its journal are a checkpoint too

    async def probe(self) -> ProbeResult:
        """What the source offers, to the first resolver that fits or else to another one."""
        first = resolver_for(self.source, self._identity).name
        return await probe_with_alternatives(self.bench, self.source, first, self._probe_with)

    async def _probe_with(self, resolver: str | None = None) -> ProbeResult:
        """What the source offers, as the first resolver that fits sees it, or the one that is named."""
        stage = probe.stage(self.bench, self._identity, resolver)
        probed: ProbeResult = await self._run_stage(stage, self.source, self._identity, self._key, resolver)
        self._note(probe=probed)
        self._count("probe", probed.transfer)
        return probed

    def choose_aim(self, probed: ProbeResult) -> Aim:
        """The rung that this run begins with: chosen once for this work, by what was asked and by the host's memory."""
        known = None if self._refresh else read_aim(self._scratch, self.target)
        aim = known or aim_for(self.outcome.quality, probed.promised_seconds)
        note_aim(self._scratch, aim)
        return aim

    async def download(self, probed: ProbeResult, aim: Aim) -> DownloadResult:
        """The best rendition at or below what was asked for that can be had."""
        ladder = RenditionLadder(
            bench=self.bench,
            source=self.source,
            key=self._key,
            quality=aim.rung if self.outcome.quality is Quality.AUTO else self.outcome.quality,
            probed=probed,
            probe=self._probe_with,
            download=self._download_one,
            tried=self._tried,
        )
        self._tried[:] = read_given_up(self._scratch)
        try:
            offer, downloaded = await download_stepping_down(ladder)
        except Exception:
            forget_given_up(self._scratch)  # this run tells what it tried; the next one begins at the top
            raise
        finally:
            self._note(tried=tuple(self._tried))
        self._note(probe=offer, download=downloaded, download_path=self.bench.store.path(downloaded.asset))
        self._count("download", downloaded.transfer)
        return downloaded

    async def _download_one(self, offer: ProbeResult, rendition: Rendition) -> DownloadResult:
        stage = download.stage(self.bench, self.source, offer, rendition, self._key, self.output_dir, self.wish)
        return await self._run_stage(stage, self.source, offer, rendition, self._key, self.wish)

    async def remux(self, downloaded: DownloadResult, aim: Aim) -> RemuxResult:
        """The playable file: a remux where that is enough, else a transcode to the largest picture that can be made."""
        media = await self._remux_for(downloaded, aim)
        self._note(remux=media, findings=(*self._lower_quality(media), *media.findings))
        if not self.outcome.stages["remux"].cached:
            await show_decision(self.outcome, media)
        return media

    async def _remux_for(self, downloaded: DownloadResult, first: Aim) -> RemuxResult:
        profile, quality = self.outcome.profile, self.outcome.quality

        async def make(aim: Aim) -> RemuxResult:
            stage = remux.stage(self.bench, downloaded, profile, quality, aim)
            return await self._run_stage(stage, downloaded, profile, quality, self._key, aim)

        try:
            ladder = HeightLadder(self.bench, self.outcome.source, self._scratch, make, self._tried)
            return await remux_stepping_down(ladder, first)
        finally:
            self._note(tried=tuple(self._tried))

    def _lower_quality(self, media: RemuxResult) -> tuple[Finding, ...]:
        tried = ", ".join(f"{one.label} ({one.message})" for one in self.outcome.tried)
        if tried:
            return (Finding(code="stepped_down", message=f"A lower quality was taken; before it failed {tried}"),)
        if media.aim is None or media.aim.height is None:
            return ()
        lines = f"A picture of {media.aim.height} lines"
        why = "because an earlier run could make none larger within its memory and time"
        return (Finding(code="stepped_down", message=f"{lines}, {why}; --refresh tries again"),)

    async def analyze(self, media: RemuxResult) -> AnalysisResult:
        """What the detectors see in the playable file."""
        analysis = await self._run_stage(analyze.stage(self.bench, media), media, self._key)
        self._note(analysis=analysis, findings=(*self.outcome.findings, *_silent_detectors(analysis.detections)))
        return analysis

    async def publish(self, media: RemuxResult, analysis: AnalysisResult) -> None:
        """The result in its folder."""
        self._note(**self.facts)
        stage = publish.stage(self.bench, media, analysis, self.target)
        published = await self._run_stage(stage, self.outcome, self.target)
        self._note(published=published)
        await self._lease.note_publication(published.folder)

    def clear_scratch(self) -> None:
        """Remove what this work has in scratch."""
        self.bench.home.clear_scratch(self._key)

    async def _run_stage(self, stage: Stage[Result], *arguments: Any) -> Result:
        started = time.monotonic()
        try:
            run = partial(stage.run, self.bench, *arguments, refresh=self._refresh)
            result, record = await self._wait_out_breaker(run)
        except Exception:
            seconds = round(time.monotonic() - started, 3)
            self._record(stage.name, StageRecord(state="failed", seconds=seconds))
            raise
        self._record(stage.name, record)
        return result

    async def _wait_out_breaker(self, act: Callable[[], Awaitable[Answer]]) -> Answer:
        """Do it; where requests to the source are paused, after the pause.

        Raises:
            CircuitOpen: the pause is longer than this run may wait. A deployed run is scheduled for later instead,
                and a batch comes back to the source.
        """
        while True:
            try:
                return await act()
            except TidegateError as error:
                # Without a time only a person ends the pause.
                if not error.policy.waits_for_breaker or error.retry_after_seconds is None:
                    raise
                pause_seconds = max(1.0, error.retry_after_seconds)
                if pause_seconds > self._patience_seconds:
                    raise
                self._patience_seconds -= pause_seconds
                with self._lease.note_wait(error.message):
                    await anyio.sleep(pause_seconds)

    @property
    def _scratch(self) -> Path:
        return self.bench.home.scratch_of(self._key)

    def _count(self, name: StageName, cost: TransferStats) -> None:
        """Add what a stage cost in this run; a stage from its checkpoint cost nothing."""
        if not self.outcome.stages[name].cached:
            self._note(transfer=self.outcome.transfer + cost)

    def _record(self, name: StageName, record: StageRecord) -> None:
        self._note(stages={**self.outcome.stages, name: record})

    def _note(self, **facts: Any) -> None:
        self.outcome = self.outcome.model_copy(update=facts)


def _silent_detectors(detections: tuple[Detection, ...]) -> tuple[Finding, ...]:
    return tuple(
        Finding(code="detector_not_run", message=f"The detector {one.detector} did not run: {one.reason}")
        for one in detections
        if one.state == "not_run"
    )

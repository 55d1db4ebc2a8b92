"""Step down: when the rendition that was chosen cannot be had, the next one below it, then the next resolver's.

`flows/ingest_run.py` enters this subflow only then, so that the UI shows it and the usual way pays nothing. Each rung
is the whole item again, never a mix; nothing of one that was given up is left. What was given up is noted in the
scratch folder, so that a run which is taken up after a crash does not try it again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from prefect import flow
from pydantic import TypeAdapter, ValidationError

from tidegate.durable.atomic import write_atomic
from tidegate.errors import SegmentGap, TidegateError, as_failure
from tidegate.events import Note
from tidegate.model import DownloadResult, ProbeResult, Quality, Rendition, Source, Tried
from tidegate.stages import Workbench, choose_rendition
from tidegate.stages.probe import rank_renditions
from tidegate.transfer.resolvers import alternatives

_TRIED: TypeAdapter[tuple[Tried, ...]] = TypeAdapter(tuple[Tried, ...])

TRANSCODE = "transcode"
"""What stands in place of a resolver's name where it was no rendition but a target of the transcode."""

Probe = Callable[[str | None], Awaitable[ProbeResult]]
"""The probe stage by the resolver of that name; None: by the first that fits."""
Download = Callable[[ProbeResult, Rendition], Awaitable[DownloadResult]]
"""The download stage for one rendition."""


@dataclass
class RenditionLadder:
    """One source on its way down. The subflow's parameters are for people; this is what it works on."""

    bench: Workbench
    source: Source
    key: str
    quality: Quality
    probed: ProbeResult
    probe: Probe
    download: Download
    tried: list[Tried]

    async def take(self, rendition: Rendition, probed: ProbeResult) -> DownloadResult:
        """One rung; what it leaves when it fails is gone before the failure is told.

        Raises:
            TidegateError: it could not be had.
        """
        started = time.monotonic()
        try:
            return await self.download(probed, rendition)
        except Exception as error:
            failure = as_failure(error)
            if failure.policy.another_rendition:
                self._give_up(probed.resolver, rendition, failure, time.monotonic() - started)
            raise

    @property
    def given_up(self) -> list[Tried]:
        """The renditions among what was tried; the others are targets of a transcode."""
        return [tried for tried in self.tried if tried.resolver != TRANSCODE]

    def rungs(self, probed: ProbeResult) -> Iterator[Rendition]:
        """What this probe offers, from the one that is asked for downwards, without what was tried."""
        ranked = rank_renditions(probed.renditions)
        begin = ranked.index(choose_rendition(probed.renditions, self.quality))
        given_up = {tried.rendition for tried in self.tried if tried.resolver == probed.resolver}
        return (rendition for rendition in reversed(ranked[: begin + 1]) if rendition.id not in given_up)

    def _give_up(self, resolver: str, rendition: Rendition, failure: TidegateError, seconds: float) -> None:
        self.tried.append(
            Tried(
                resolver=resolver,
                rendition=rendition.id,
                label=rendition.label,
                failure=failure.type,
                message=failure.message,
                seconds=round(seconds, 3),
            )
        )
        scratch = self.bench.home.scratch_of(self.key)
        note_given_up(scratch, self.tried)
        shutil.rmtree(scratch / rendition.id, ignore_errors=True)
        self.bench.observe(Note(f"{rendition.label} could not be had: {failure.message}", "warning"))


async def probe_with_alternatives(bench: Workbench, source: Source, first: str, probe: Probe) -> ProbeResult:
    """What the source offers to the resolver named `first`, or to the next one that can be asked.

    Raises:
        TidegateError: the first one's failure, when it says enough, or no other one does better.
    """
    try:
        return await probe(None)
    except TidegateError as error:
        if not error.policy.another_resolver:
            raise
        probed, _ = await _next(bench, source, probe, first, error)
        if probed is None:
            raise
        return probed


_ladder: ContextVar[RenditionLadder] = ContextVar("ladder")


async def download_stepping_down(ladder: RenditionLadder) -> tuple[ProbeResult, DownloadResult]:
    """The rendition that was asked for, or the best below it that can be had.

    Raises:
        TidegateError: the first failure that no other rendition cures, or the last one's.
    """
    first = next(ladder.rungs(ladder.probed), None)
    if first is not None and not ladder.given_up:
        try:
            return ladder.probed, await ladder.take(first, ladder.probed)
        except TidegateError as error:
            if not _leads_on(error, ladder):
                raise
            why = error.type
    else:
        why = ladder.given_up[-1].failure if ladder.given_up else "resumed"
    token = _ladder.set(ladder)
    try:
        return await download_fallback(ladder.probed.identity.url, [tried.label for tried in ladder.given_up], why)
    finally:
        _ladder.reset(token)


@flow(name="download fallback", flow_run_name="step down after {why}", persist_result=False)
async def download_fallback(source: str, given_up: list[str], why: str) -> tuple[ProbeResult, DownloadResult]:
    """Try what is left, from the top.

    Args:
        source: The source, redacted.
        given_up: Renditions that could not be had.
        why: The last one's failure.

    Raises:
        TidegateError: nothing is left; the last failure.
    """
    ladder = _ladder.get()
    probed: ProbeResult | None = ladder.probed
    last: TidegateError | None = None
    while probed is not None:
        for rendition in ladder.rungs(probed):
            ladder.bench.observe(Note(f"Stepping down to {rendition.label} ({probed.resolver})"))
            try:
                return probed, await ladder.take(rendition, probed)
            except TidegateError as error:
                last = error
                if not error.policy.another_rendition:
                    break
        if last is not None and not last.policy.another_resolver:
            raise last
        probed, last = await _next(ladder.bench, ladder.source, ladder.probe, probed.resolver, last)
    raise last or _none_left(ladder)


async def _next(
    bench: Workbench, source: Source, probe: Probe, after: str, last: TidegateError | None
) -> tuple[ProbeResult | None, TidegateError | None]:
    """What the next resolver that can be asked offers; and, where none can, why."""
    for resolver in alternatives(source, after):
        bench.observe(Note(f"Asking {resolver.name} for the same source"))
        try:
            return await probe(resolver.name), last
        except TidegateError as error:
            bench.observe(Note(f"{resolver.name}: {error.message}", "warning"))
            last = last or error
    return None, last


def _leads_on(error: TidegateError, ladder: RenditionLadder) -> bool:
    """Whether another rendition or resolver may do better: this one's lower rungs, or somebody else's."""
    if not error.policy.another_resolver:
        return False
    lower = error.policy.another_rendition and next(ladder.rungs(ladder.probed), None) is not None
    return lower or bool(alternatives(ladder.source, ladder.probed.resolver))


def _none_left(ladder: RenditionLadder) -> TidegateError:
    return SegmentGap("Every rendition of the source was tried: " + "; ".join(t.message for t in ladder.tried))


def note_given_up(folder: Path, tried: list[Tried]) -> None:
    """Keep it for attempts to come; `folder` is the work's scratch."""
    write_atomic(_record_path(folder), _TRIED.dump_json(tuple(tried)))


def read_given_up(folder: Path) -> list[Tried]:
    """What an earlier attempt at the same work gave up, from its scratch folder; nothing where that is not known."""
    try:
        return list(_TRIED.validate_json(_record_path(folder).read_bytes()))
    except (OSError, ValidationError):
        return []


def forget_given_up(folder: Path) -> None:
    """A run that ended has told what it tried; the next one begins at the top."""
    _record_path(folder).unlink(missing_ok=True)


def _record_path(folder: Path) -> Path:
    return folder / "tried.json"

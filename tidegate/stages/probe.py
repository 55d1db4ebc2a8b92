"""Stage `probe`: what is this source, and what does it offer?

`identify` asks the source itself, with one request at most, and is never cached; `probe` lets the source's resolver
look at what it offers and is. What was looked at stays in the rendition's scratch folder, so its bytes are fetched
once. After a crash both are simply asked again.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

from anyio import to_thread

from tidegate.durable.secrets import distinguish
from tidegate.events import Note
from tidegate.model import (
    NO_WISH,
    Identity,
    ProbeResult,
    ProfileName,
    Quality,
    Rendition,
    Source,
    TransferStats,
    Wish,
    fingerprint,
)
from tidegate.stages.outside import outside_of
from tidegate.stages.workbench import Workbench
from tidegate.transfer.resolvers import Resolver, by_name, resolver_for
from tidegate.transfer.resolvers.base import Offer, OtherKind

RECIPE = 2
"""Raise it when the same source would give another `ProbeResult`: old checkpoints are then not believed."""


async def identify(bench: Workbench, source: Source) -> tuple[Identity, TransferStats]:
    """What tells this source's content from any other, and what asking cost: one request, unless it has to be retried.

    Raises:
        UnsupportedSource: no resolver handles it.
        TidegateError: the source cannot be reached, refuses, or is empty.
    """
    outside, resolver = outside_of(bench, "probe"), resolver_for(source)
    identity, cost = await resolver.identify(outside, source)
    other = resolver_for(source, identity)
    if other is not resolver:  # what the link alone did not tell: a page or a playlist knows better what it is
        own, more = await other.identify(outside, source)
        identity, cost = own.model_copy(update={"content_type": identity.content_type}), cost + more
    return await to_thread.run_sync(distinguish, identity, source, bench.home.secrets), cost


def work_key(identity: Identity, profile: ProfileName, quality: Quality, wish: Wish = NO_WISH) -> str:
    """What two runs share when they do the same work: source identity + profile + requested quality, and what else was
    asked for that makes another result."""
    more = () if wish == NO_WISH else (wish.model_dump(),)
    return fingerprint("work", identity.key, profile, quality, *more)


async def probe(
    bench: Workbench, source: Source, identity: Identity, key: str, resolver: str | None = None
) -> ProbeResult:
    """Ask what the source offers. `key` is the work key; `resolver` names one, in place of the first that fits.

    Raises:
        NotMedia: text, markup, nothing, or a file that no demuxer opens although all of it was seen.
        TidegateError: the source cannot be read.
    """
    chosen = by_name(resolver) if resolver else resolver_for(source, identity)
    try:
        offer = await _offer(bench, chosen, source, identity, key)
    except OtherKind as other:
        bench.observe(Note(other.message))
        chosen = by_name(other.resolver)
        offer = await _offer(bench, chosen, source, identity, key)
    return ProbeResult(
        identity=identity,
        resolver=chosen.name,
        renditions=offer.renditions,
        preview=offer.preview,
        promised_seconds=offer.promised_seconds,
        transfer=offer.cost,
        recorded_at=datetime.now(UTC),
    )


def choose_rendition(renditions: tuple[Rendition, ...], quality: Quality) -> Rendition:
    """The highest rendition at or below the rung, else the lowest; without a rung the best, for `worst` the lowest."""
    ranked = rank_renditions(renditions)
    if quality is Quality.WORST:
        return ranked[0]
    cap = quality.height
    fitting = [r for r in ranked if cap is None or (r.height or 0) <= cap]
    return fitting[-1] if fitting else ranked[0]


def rank_renditions(renditions: tuple[Rendition, ...]) -> list[Rendition]:
    """The lowest first: by height, then by bandwidth."""
    return sorted(renditions, key=lambda r: (r.height or 0, r.bandwidth_bps or 0))


async def _offer(bench: Workbench, resolver: Resolver, source: Source, identity: Identity, key: str) -> Offer:
    return await resolver.offer(outside_of(bench, "probe"), source, identity, partial(bench.home.scratch, key))

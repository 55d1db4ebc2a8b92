"""Stage `probe`: what is this source, and what does it offer?

`identify` asks the source itself, with one request, and is never cached; `probe` looks at head and tail through our
own transport and is. The head stays in the download's part file, so its bytes are fetched once. After a crash both
are simply asked again.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path

from anyio import to_thread

from tidegate.durable.secrets import distinguished
from tidegate.errors import NotMedia, from_os_error
from tidegate.model import (
    Identity,
    MediaInfo,
    ProbeResult,
    ProfileName,
    Quality,
    Rendition,
    Source,
    TransferStats,
    fingerprint,
)
from tidegate.process.inspect import inspect
from tidegate.stages.workbench import Workbench
from tidegate.transfer import fetch
from tidegate.transfer.exchange import Connect
from tidegate.transfer.part import Part, opened_part
from tidegate.transfer.resolvers import resolver_for
from tidegate.transfer.verify import refuse_text

RECIPE = 1
"""Raise it when the same source would give another `ProbeResult`: old checkpoints are then not believed."""

PEEK_BYTES = 1024 * 1024
"""How much of head and tail is looked at (DESIGN §2.2)."""


async def identify(bench: Workbench, source: Source) -> tuple[Identity, TransferStats]:
    """What tells this source's content from any other, and what asking cost: one request, unless it has to be retried.

    Raises:
        UnsupportedSource: no resolver handles it.
        TidegateError: the source cannot be reached, refuses, or is empty.
    """
    identity, cost = await fetch.identify(connector(bench, source), bench.settings.transfer, bench.observe)
    return await to_thread.run_sync(distinguished, identity, source, bench.home.secrets), cost


def work_key(identity: Identity, profile: ProfileName, quality: Quality) -> str:
    """What two runs share when they do the same work: source identity + profile + requested quality."""
    return fingerprint("work", identity.key, profile, quality)


async def probe(bench: Workbench, source: Source, identity: Identity, key: str) -> ProbeResult:
    """Look at the source's head and, where that is not enough, at its tail. `key` is the work key.

    Raises:
        NotMedia: text, markup, nothing, or a file that no demuxer opens although all of it was seen.
        TidegateError: the source cannot be read.
    """
    resolver = resolver_for(source)
    renditions = resolver.renditions(identity)
    folder = bench.home.scratch(key, renditions[0].id)
    connect = connector(bench, source)
    limits, trust = bench.settings.transfer, bench.settings.store.unvalidated_trust
    async with opened_part(folder, identity, limits, bench.observe, trust=trust) as part:
        peek = fetch.Fetch(connect, part, limits, bench.observe, stage="probe", until=PEEK_BYTES)
        await peek.run()
        refuse_text(part.read(0, PEEK_BYTES), identity.content_type)
        preview = await _preview(bench, peek)
    return ProbeResult(
        identity=identity,
        resolver=resolver.name,
        renditions=renditions,
        preview=preview,
        transfer=peek.stats,
        recorded_at=datetime.now(UTC),
    )


def choose_rendition(renditions: tuple[Rendition, ...], quality: Quality) -> Rendition:
    """The highest rendition at or below the rung, else the lowest; without a rung the best, for `worst` the lowest."""
    ranked = sorted(renditions, key=lambda r: (r.height or 0, r.bandwidth_bps or 0))
    if quality is Quality.WORST:
        return ranked[0]
    cap = quality.height
    fitting = [r for r in ranked if cap is None or (r.height or 0) <= cap]
    return fitting[-1] if fitting else ranked[0]


def connector(bench: Workbench, source: Source) -> Connect:
    """Makes exchanges with this source."""
    resolver = resolver_for(source)
    return lambda: resolver.exchange(source, bench.settings.transfer)


async def _preview(bench: Workbench, looking: fetch.Fetch) -> MediaInfo | None:
    """What head and tail tell; None when only the whole file can tell."""
    part = looking.part
    if part.complete:
        return await _look(bench, part.path)
    with contextlib.suppress(NotMedia):
        media = await _look(bench, part.path)
        if media.streams and (media.declares_duration or not part.identity.ranges):
            return media
    tail_start = max(part.received_bytes, (part.identity.size_bytes or 0) - PEEK_BYTES)
    tail = await looking.tail(tail_start)
    if tail is None:
        return None
    try:
        peek = await to_thread.run_sync(_head_and_tail, part, tail)
    except OSError as error:
        raise from_os_error(error, "probing") from error
    try:
        return await _look(bench, peek)
    except NotMedia:
        return None
    finally:
        peek.unlink(missing_ok=True)


def _head_and_tail(part: Part, tail: bytes) -> Path:
    """A sparse file of the source's size with a hole in the middle: demuxers find the index wherever it is."""
    peek = part.path.with_name("peek.tmp")
    with peek.open("wb") as file:
        file.write(part.read(0, PEEK_BYTES))
        file.truncate(part.identity.size_bytes or 0)
        file.seek((part.identity.size_bytes or 0) - len(tail))
        file.write(tail)
    return peek


async def _look(bench: Workbench, path: Path) -> MediaInfo:
    limits = bench.settings.process
    seconds = limits.probe_timeout.total_seconds()
    return await inspect(path, "header", limits, seconds, stage="probe", observe=bench.observe)

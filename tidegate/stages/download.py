"""Stage `download`: the chosen rendition's bytes, whole and verified, in the asset store.

Resumes from the part file that an earlier run (or the probe) left; a crash costs at most what was not journaled. The
part's journal stays until the flow clears the scratch folder: it tells the next run where the bytes went.
The file is inspected packet by packet, and one that holds less than it promises is refused here, before any tool
could make a shorter, valid-looking file of it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from tidegate.durable.hashing import blake3_of
from tidegate.durable.store import describe
from tidegate.durable.threads import in_thread, still_wanted
from tidegate.errors import Evidence, NotMedia, TruncatedMedia, WrongDigest
from tidegate.model import Asset, Digest, DownloadResult, MediaInfo, ProbeResult, Rendition, Source, TransferStats
from tidegate.process.inspect import inspect
from tidegate.resilience.deadline import processing_seconds
from tidegate.stages.probe import connector
from tidegate.stages.verification import tolerance_seconds
from tidegate.stages.workbench import Workbench
from tidegate.transfer.fetch import Fetch
from tidegate.transfer.part import Part, opened_part
from tidegate.transfer.verify import check_digests

RECIPE = 1
"""Raise it when the same source would give another `DownloadResult`: old checkpoints are then not believed."""

TRACK = "source"
"""The name of the file inside the asset; not the source's, so that equal bytes have one address."""


async def download(
    bench: Workbench, source: Source, probe: ProbeResult, rendition: Rendition, key: str
) -> DownloadResult:
    """Fetch, verify, inspect and store. `key` is the work key.

    Raises:
        TruncatedMedia: the file holds less than its header promises.
        NotMedia: it has neither picture nor sound.
        TidegateError: whatever `Fetch.run` raises.
    """
    folder = bench.home.scratch(key, rendition.id)
    promised_seconds = probe.preview.duration_seconds if probe.preview else None
    promised = set(probe.identity.digests) | ({source.sha256} if source.sha256 else set())
    limits, trust = bench.settings.transfer, bench.settings.store.unvalidated_trust
    async with opened_part(folder, probe.identity, limits, bench.observe, trust=trust) as part:
        asset, stats, promised = await _bytes(bench, source, part, promised)
        media = await _inspected(
            bench, bench.store.path(asset) if part.stored_as else part.path, asset, promised_seconds
        )
        if part.stored_as is None:
            await in_thread(_store, bench, part, asset)
    return DownloadResult(
        asset=asset,
        rendition=rendition,
        media=media,
        transfer=stats,
        checked=tuple(sorted(promised)),
        length_confirmed=part.end_is_certain or media.declares_duration or bool(promised),
        recorded_at=datetime.now(UTC),
    )


async def _bytes(
    bench: Workbench, source: Source, part: Part, promised: set[Digest]
) -> tuple[Asset, TransferStats, set[Digest]]:
    """The asset that the source's bytes are or will be, what they cost, and the digests that were found to hold."""
    stored = await _stored(bench, part, promised)
    if stored is not None:
        return stored, TransferStats(bytes_reused=stored.main.size_bytes), promised
    _require_space(bench, part)
    fetch = Fetch(connector(bench, source), part, bench.settings.transfer, bench.observe, promised=promised)
    stats = await fetch.run()
    known = {TRACK: fetch.blake3} if fetch.blake3 else None
    asset = await in_thread(describe, {TRACK: part.path}, known)
    return asset, stats, fetch.promised


async def _stored(bench: Workbench, part: Part, promised: set[Digest]) -> Asset | None:
    """What an earlier run stored before it could say so, if that is whole and as promised; otherwise what is left in
    the part is good for going on from."""
    stored = part.stored_as
    if stored is None:
        return None
    if await in_thread(bench.store.whole, stored):
        try:
            await in_thread(check_digests, bench.store.path(stored), frozenset(promised), still_wanted)
        except WrongDigest:
            part.restart()
        else:
            return stored
    elif part.complete and await in_thread(blake3_of, part.path) != stored.main.digest:
        part.restart()  # the same damaged bytes, linked from the store and from here
    part.stored_as = None
    return None


def _store(bench: Workbench, part: Part, asset: Asset) -> None:
    part.will_be(asset)
    bench.store.place(asset, {TRACK: part.path})


def _require_space(bench: Workbench, part: Part) -> None:
    remaining = (part.identity.size_bytes or 0) - part.received_bytes
    bench.require_space(part.path.parent, remaining)


async def _inspected(bench: Workbench, path: Path, asset: Asset, promised: float | None) -> MediaInfo:
    limits = bench.settings.process
    seconds = processing_seconds(limits, asset.main.size_bytes)
    media = await inspect(
        path, "packets", limits, seconds, stage="download", observe=bench.observe, total_seconds=promised
    )
    if not media.of_kind("video") and not media.of_kind("audio"):
        raise NotMedia("The file has neither picture nor sound")
    refuse_truncated(media)
    return media


def refuse_truncated(media: MediaInfo) -> None:
    """Compare what the header promises with what the packets hold.

    Raises:
        TruncatedMedia: more than the tolerance is missing at the end of the file or of a stream, the container's boxes
            reach beyond the file's end, or the sound has holes.
    """
    if media.missing_bytes:
        raise _truncated(media, f"The file ends {media.missing_bytes} bytes before its container does")
    promised = media.duration_seconds
    if promised is None or not (media.declares_duration or media.container == "flv"):
        return
    if promised - media.reach_seconds > tolerance_seconds(promised):
        raise _truncated(media, f"The file promises {promised:.2f} s and holds {media.reach_seconds:.2f} s")
    for stream in media.of_kind("video") + media.of_kind("audio"):
        own = stream.duration_seconds or 0.0  # in Matroska it is where the stream ends, elsewhere how long it is
        held = max((stream.span_seconds or 0.0) + stream.lead_seconds, stream.end_seconds or 0.0)
        if stream.packets and own - held > tolerance_seconds(own):
            raise _truncated(media, f"The {stream.kind} promises {own:.2f} s and holds {held:.2f} s")
    sound = media.of_kind("audio")
    if sound and all(stream.gap_seconds > tolerance_seconds(stream.span_seconds or 0.0) for stream in sound):
        raise _truncated(media, f"The sound has holes of {sound[0].gap_seconds:.2f} s in all: the middle is damaged")


def _truncated(media: MediaInfo, message: str) -> TruncatedMedia:
    held, promised = media.reach_seconds, media.duration_seconds or 0.0
    notes = {"held_seconds": f"{held:.3f}", "promised_seconds": f"{promised:.3f}"}
    return TruncatedMedia(message, evidence=Evidence(notes=notes))

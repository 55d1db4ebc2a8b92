"""Stage `download`: the chosen rendition's bytes, whole and verified, in the asset store.

Its resolver resumes from what an earlier run (or the probe) left in the rendition's folder; a crash costs at most what
was not journaled. A note beside the bytes says which asset they are about to become: it tells the next run where they
went, and stays until the flow clears the scratch folder. Every file is inspected packet by packet, and one that holds
less than it promises is refused here, before any tool could make a shorter, valid-looking file of it.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, ValidationError

from tidegate.durable.atomic import write_atomic
from tidegate.durable.crash_points import crash_point
from tidegate.durable.lock import acquire_when_free, release_at_end
from tidegate.durable.store import describe
from tidegate.durable.threads import check_cancellation, in_thread
from tidegate.errors import Evidence, NotMedia, TidegateError, TruncatedMedia, WrongDigest, from_os_error
from tidegate.events import Note, PathTaken
from tidegate.media.inspect import inspect
from tidegate.media.join import join
from tidegate.model import (
    NO_WISH,
    Asset,
    Digest,
    DownloadResult,
    Gap,
    MediaInfo,
    ProbeResult,
    Rendition,
    Source,
    TransferStats,
    Value,
    Wish,
)
from tidegate.report.units import human_size
from tidegate.resilience.deadline import process_seconds
from tidegate.resilience.rollout import path_of
from tidegate.stages.outside import outside_of
from tidegate.stages.verification import tolerance_seconds
from tidegate.stages.workbench import Workbench
from tidegate.transfer.outside import Outside
from tidegate.transfer.resolvers import by_name
from tidegate.transfer.resolvers.base import FetchRequest, FetchResult
from tidegate.transfer.verify import check_digests

RECIPE = 2
"""Raise it when the same source would give another `DownloadResult`: old checkpoints are then not believed."""

NOTE = "asset.journal"
"""Beside the bytes: which asset they are, or were, about to become. Maintenance reads it for assets that are needed."""
PLAYLIST_SHARE = 0.02
"""How much less than its playlist promises a rendition may hold: segment durations are rounded, one by one."""


class AssetNote(Value):
    """The note: everything that moving the bytes away would make unknown."""

    identity: str
    """The key of the identity that they belong to."""
    asset: Asset
    end_is_certain: bool
    promised_seconds: float | None = None
    gaps: tuple[Gap, ...] = ()
    noted_at: AwareDatetime


async def download(
    bench: Workbench, source: Source, probe: ProbeResult, rendition: Rendition, key: str, wish: Wish = NO_WISH
) -> DownloadResult:
    """Fetch, verify, inspect and store. `key` is the work key.

    Raises:
        TruncatedMedia: the file holds less than its header or its playlist promises.
        NotMedia: it has neither picture nor sound.
        TidegateError: whatever the resolver raises.
    """
    folder = bench.home.scratch(key, rendition.id)
    promised = frozenset(probe.identity.digests) | ({source.sha256} if source.sha256 else set())
    what = FetchRequest(
        identity=probe.identity,
        rendition=rendition,
        folder=folder,
        promised=promised,
        allow_gaps=wish.allow_gaps,
        duration_seconds=wish.duration_seconds,
    )
    async with _hold_folder(bench, folder):
        note, stats, checked, media = await _obtain(bench, source, probe, what, key)
    return DownloadResult(
        asset=note.asset,
        rendition=rendition,
        media=media,
        transfer=stats,
        checked=tuple(sorted(checked)),
        length_confirmed=note.end_is_certain or media.declares_duration or bool(checked),
        gaps=note.gaps,
        recorded_at=datetime.now(UTC),
    )


@contextlib.asynccontextmanager
async def _hold_folder(bench: Workbench, folder: Path) -> AsyncIterator[None]:
    """One run at a time works in this folder; another one waits, visibly."""
    waiting = Note("Another run is downloading the same source; waiting for it")
    lock = folder / "download.lock"
    try:
        handle = await acquire_when_free(lock, lambda: bench.observe(waiting))
    except OSError as error:
        raise from_os_error(error, "opening the download's lock", lock) from error
    with release_at_end(handle, lock):
        yield


async def _obtain(
    bench: Workbench, source: Source, probe: ProbeResult, what: FetchRequest, key: str
) -> tuple[AssetNote, TransferStats, frozenset[Digest], MediaInfo]:
    """The asset in the store, what it cost, which digests hold, and what is in it."""
    earlier = _read_note(bench, what, datetime.now(UTC))
    if earlier is not None and await _is_in_store(bench, earlier, what):
        media = await _inspect_tracks(bench, _paths(bench, earlier.asset), earlier)
        return earlier, TransferStats(bytes_reused=earlier.asset.size_bytes), what.promised, media
    fetched, files, asset = await _fetch(bench, source, probe.resolver, what, key)
    if earlier is not None and earlier.asset != asset:
        # They were whole when the note was written: the disk has changed them since, here or in the store, or both.
        bench.observe(Note("The bytes here are not those that were received; fetching them again", "warning"))
        await in_thread(_empty_folder, what.folder)
        fetched, files, asset = await _fetch(bench, source, probe.resolver, what, key)
    note = AssetNote(
        identity=what.identity.key,
        asset=asset,
        end_is_certain=fetched.end_is_certain,
        promised_seconds=fetched.promised_seconds,
        gaps=fetched.gaps,
        noted_at=datetime.now(UTC),
    )
    media = await _inspect_tracks(bench, list(files.values()), note)
    await in_thread(_store, bench, note, files, what.folder)
    return note, fetched.stats, what.promised | fetched.checked, media


async def _fetch(
    bench: Workbench, source: Source, resolver: str, what: FetchRequest, key: str
) -> tuple[FetchResult, dict[str, Path], Asset]:
    """The rendition in its folder, and the asset that it will be."""
    fetched = await _fetch_on_path(bench, source, resolver, what, key)
    files = await _single(bench, fetched, what.folder)
    return fetched, files, await in_thread(describe, files, dict(fetched.known))


async def _fetch_on_path(bench: Workbench, source: Source, resolver: str, what: FetchRequest, key: str) -> FetchResult:
    """Fetch on the path that the rollout switch gives this work; the plain one stands in for a full one that broke.

    What both leave in the folder is the same, so the one goes on where the other ended.
    """
    outside, engine = outside_of(bench, "download"), bench.settings.transfer.engine
    fetch = by_name(resolver).fetch
    if path_of(engine, key) == "plain":
        bench.observe(PathTaken("transfer", "plain", f"TIDEGATE_TRANSFER_ENGINE={engine}"))
        return await fetch(_plain(outside), source, what)
    bench.observe(PathTaken("transfer", "full"))
    try:
        return await fetch(outside, source, what)
    except (TidegateError, OSError):
        raise
    except Exception as error:  # noqa: BLE001  # a mistake of ours must not cost the download
        reason = f"{type(error).__name__}: {error}"
        bench.observe(Note(f"The transfer engine failed ({reason}); taking a single stream instead", "warning"))
        bench.observe(PathTaken("transfer", "plain", "the full path failed"))
        return await fetch(_plain(outside), source, what)


def _plain(outside: Outside) -> Outside:
    """One connection, and one segment at a time."""
    return replace(outside, limits=outside.limits.model_copy(update={"connections": 1, "segments_at_once": 1}))


async def _single(bench: Workbench, fetched: FetchResult, folder: Path) -> dict[str, Path]:
    """One file for each track; files that follow each other in time are joined without encoding."""
    files = {}
    for name, pieces in fetched.tracks.items():
        files[name] = (
            pieces[0]
            if len(pieces) == 1
            else await join(bench.toolchain(), pieces, folder / f"{name}.joined", bench.settings.process)
        )
    return files


def _read_note(bench: Workbench, what: FetchRequest, now: datetime) -> AssetNote | None:
    """The note of an earlier run, where it is about this content. Without a validator only its age speaks for that."""
    try:
        earlier = AssetNote.model_validate_json((what.folder / NOTE).read_bytes())
    except (OSError, ValidationError):
        return None
    young = now - earlier.noted_at <= bench.settings.store.unvalidated_trust
    believed = earlier.identity == what.identity.key and (what.identity.has_validator or young)
    return earlier if believed else None


async def _is_in_store(bench: Workbench, earlier: AssetNote, what: FetchRequest) -> bool:
    """Whether the asset is in the store, whole and as promised."""
    if not await in_thread(bench.store.whole, earlier.asset):
        return False
    try:
        await in_thread(check_digests, bench.store.path(earlier.asset), what.promised, check_cancellation)
    except WrongDigest:
        return False
    return True


def _store(bench: Workbench, note: AssetNote, files: Mapping[str, Path], folder: Path) -> None:
    try:
        write_atomic(folder / NOTE, note.model_dump_json().encode())
    except OSError as error:
        raise from_os_error(error, "noting where the download goes", folder) from error
    crash_point("download: noted")
    bench.store.place(note.asset, dict(files))


def _empty_folder(folder: Path) -> None:
    """Forget everything but the lock. What is linked from the store as well stays there."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix != ".lock":
            path.unlink()


def _paths(bench: Workbench, asset: Asset) -> list[Path]:
    return [bench.store.path(asset, track) for track in asset.tracks]


async def _inspect_tracks(bench: Workbench, paths: list[Path], note: AssetNote) -> MediaInfo:
    limits = bench.settings.process
    tracks = []
    for path, track in zip(paths, note.asset.tracks, strict=True):
        seconds = process_seconds(limits, track.size_bytes)
        tracks.append(
            await inspect(
                path,
                "packets",
                limits,
                seconds,
                stage="download",
                observe=bench.observe,
                total_seconds=note.promised_seconds,
            )
        )
        require_whole(tracks[-1])
    media = MediaInfo.of_tracks(tracks)
    if not media.of_kind("video") and not media.of_kind("audio"):
        raise NotMedia("The file has neither picture nor sound")
    require_promised_length(media, note)
    return media


def require_promised_length(media: MediaInfo, note: AssetNote) -> None:
    """Compare what a playlist or a site promises with what came.

    Raises:
        TruncatedMedia: more is missing than the gaps that are known, and than rounding explains.
    """
    if note.promised_seconds is None:
        return
    known = sum(gap.end_seconds - gap.start_seconds for gap in note.gaps)
    expected, held = note.promised_seconds - known, media.length_seconds or 0.0
    if expected - held > max(1.0, tolerance_seconds(expected), PLAYLIST_SHARE * expected):
        raise _truncation(media, f"The source announces {expected:.2f} s, only {held:.2f} s came")


def require_whole(media: MediaInfo) -> None:
    """Compare what the header promises with what the packets hold.

    Raises:
        TruncatedMedia: more than the tolerance is missing at the end of the file or of a stream, the container's boxes
            reach beyond the file's end, or the sound has holes.
    """
    if media.missing_bytes:
        raise _truncation(media, f"{human_size(media.missing_bytes)} are missing at the end")
    promised = media.duration_seconds
    if promised is None or not (media.declares_duration or media.container == "flv"):
        return
    if promised - media.reach_seconds > tolerance_seconds(promised):
        raise _truncation(media, f"Its header says {promised:.2f} s, it holds {media.reach_seconds:.2f} s")
    for stream in media.of_kind("video") + media.of_kind("audio"):
        own = stream.duration_seconds or 0.0  # in Matroska it is where the stream ends, elsewhere how long it is
        held = max((stream.span_seconds or 0.0) + stream.lead_seconds, stream.end_seconds or 0.0)
        if stream.packets and own - held > tolerance_seconds(own):
            raise _truncation(media, f"The header says {own:.2f} s of {stream.kind}, the file holds {held:.2f} s")
    sound = media.of_kind("audio")
    if sound and all(stream.gap_seconds > tolerance_seconds(stream.span_seconds or 0.0) for stream in sound):
        raise _truncation(media, f"{sound[0].gap_seconds:.2f} s of the sound are missing in the middle")


def _truncation(media: MediaInfo, message: str) -> TruncatedMedia:
    held, promised = media.reach_seconds, media.duration_seconds or 0.0
    notes = {"held_seconds": f"{held:.3f}", "promised_seconds": f"{promised:.3f}"}
    return TruncatedMedia(message, evidence=Evidence(notes=notes))

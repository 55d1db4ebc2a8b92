"""What the beginning of a track shows, before anything else of it is fetched.

The resolvers of playlists ask while they say what a source offers. What is fetched for it stays in the track's folder,
so that neither the download nor the next run after a crash fetches it again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from tidegate.durable.threads import in_thread
from tidegate.errors import TidegateError, from_os_error
from tidegate.events import Note
from tidegate.model import MediaInfo, Source, TransferStats
from tidegate.transfer.outside import Outside
from tidegate.transfer.playlists.media import Segment
from tidegate.transfer.segments.journal import open_track_journal, segment_name
from tidegate.transfer.segments.session import DownloadSession
from tidegate.transfer.segments.track import SegmentTrack, TrackDownload


async def preview_of(
    outside: Outside, source: Source, track: SegmentTrack, segments: Sequence[Segment], seconds: float | None
) -> tuple[MediaInfo | None, TransferStats]:
    """What the first segment shows, and what it cost; None where it cannot be had. `seconds` is how long the whole is,
    where that is known."""
    session = DownloadSession(outside, source)
    try:
        if track.file is not None:
            media = await session.peek_file(track.file, track.folder)
        else:
            media = await _look_at_first(session, track, segments)
    except TidegateError as error:
        outside.observe(Note(f"The beginning cannot be looked at: {error.message}", "warning"))
        return None, session.stats
    return _of_the_whole(media, seconds) if media else None, session.stats


async def _look_at_first(
    session: DownloadSession, track: SegmentTrack, segments: Sequence[Segment]
) -> MediaInfo | None:
    first = next((segment for segment in segments if not segment.missing), None)
    if first is None:
        return None
    paths = await _fetch_segment(session, track, first)
    beginning = await in_thread(_concatenate, paths, track.folder / "peek.tmp")
    try:
        return await session.outside.look(beginning)
    finally:
        beginning.unlink(missing_ok=True)


async def _fetch_segment(session: DownloadSession, track: SegmentTrack, segment: Segment) -> list[Path]:
    """One segment, and what belongs before it, kept for the download; where they lie, in their order.

    Raises:
        TidegateError: it cannot be had.
    """
    outside = session.outside
    async with open_track_journal(track.folder, track.contents, outside.observe, trust=outside.trust) as journal:
        download = TrackDownload(session, track, journal)
        async with download.at_work():
            if segment_name(segment) not in journal.held:
                await download.take(segment)
        return download.paths([segment])


def _concatenate(paths: Sequence[Path], target: Path) -> Path:
    try:
        with target.open("wb") as whole:
            for path in paths:
                with path.open("rb") as part:
                    shutil.copyfileobj(part, whole)
    except OSError as error:
        raise from_os_error(error, "looking at the beginning", target) from error
    return target


def _of_the_whole(beginning: MediaInfo, seconds: float | None) -> MediaInfo:
    """What one segment says of itself is not said of the whole: its length, above all."""
    unknown = {"duration_seconds": None, "start_seconds": None, "end_seconds": None}
    streams = tuple(stream.model_copy(update=unknown) for stream in beginning.streams)
    known = {"streams": streams, "duration_seconds": seconds, "size_bytes": None}
    return beginning.model_copy(update=known | {"declares_duration": False, "missing_bytes": 0})

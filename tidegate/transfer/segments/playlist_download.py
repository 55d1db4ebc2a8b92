"""All tracks of one rendition, fetched at the same time under one deadline.

The resolvers of playlists make a `PlaylistDownload` and give it tracks. It keeps nothing itself: what is held is in the
journals of the tracks, from which the next run goes on after a crash, and what it costs is counted by the session.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

from tidegate.durable.threads import in_thread
from tidegate.errors import DownloadDeadline, TidegateError
from tidegate.events import Advance, Note
from tidegate.model import Digest, Gap
from tidegate.resilience.deadline import DownloadSpeed, download_seconds, slower_of
from tidegate.resilience.load import LoadMeter
from tidegate.resilience.stall import SpeedWindow
from tidegate.transfer.playlists.media import Resource
from tidegate.transfer.segments.journal import open_track_journal
from tidegate.transfer.segments.session import DownloadSession
from tidegate.transfer.segments.track import SegmentTrack, TrackDownload, single_failure

SHOWN_EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class TrackFiles:
    """A track as it lies in its folder."""

    files: tuple[Path, ...]
    digests: tuple[Digest, ...]
    gaps: tuple[Gap, ...]
    seconds: float


@dataclass(frozen=True)
class Counts:
    """What has been counted so far."""

    bytes_received: int
    requests: int
    """Those that have ended."""
    throttled_seconds: float
    """How long the source has asked to be left alone."""

    def is_at_work_since(self, before: Counts) -> bool:
        """Whether bytes came, or could have. Where no request has ended either, a gate, a pause that the source asked
        for, or a live source is waited for."""
        refused = self.throttled_seconds > before.throttled_seconds
        return self.bytes_received > before.bytes_received or (self.requests > before.requests and not refused)


class PlaylistDownload:
    """The tracks of one rendition on their way, within one session."""

    def __init__(self, session: DownloadSession) -> None:
        self._session = session
        self._total_seconds: float | None = None
        self._load = LoadMeter()

    async def fetch(self, tracks: Sequence[SegmentTrack]) -> dict[str, TrackFiles]:
        """Fetch every track; those that are not vital may be missing from the result.

        Raises:
            SegmentGap: a segment cannot be had, and gaps are not allowed.
            TidegateError: whatever else ended the transfer.
        """
        lengths = [track.seconds for track in tracks]
        self._total_seconds = None if None in lengths else sum(length or 0.0 for length in lengths)
        found: dict[str, TrackFiles] = {}

        async def one(track: SegmentTrack) -> None:
            files = await self._fetch_or_leave_out(track)
            if files is not None:
                found[track.name] = files

        async with single_failure(), anyio.create_task_group() as everything:
            everything.start_soon(self._watch)
            async with anyio.create_task_group() as downloads:
                for track in tracks:
                    downloads.start_soon(one, track)
            everything.cancel_scope.cancel()
        return {track.name: found[track.name] for track in tracks if track.name in found}

    async def _fetch_or_leave_out(self, track: SegmentTrack) -> TrackFiles | None:
        try:
            return await self._fetch_track(track)
        except TidegateError as error:
            if track.vital or not error.policy.leaves_out_track:
                raise
            self._session.observe(Note(f"Left out {track.name}: {error.message}", "warning", {"failure": error.type}))
            return None

    async def _fetch_track(self, track: SegmentTrack) -> TrackFiles:
        if track.file is not None:
            return await self._fetch_file(track, track.file)
        async with open_track_journal(
            track.folder, track.contents, self._session.observe, trust=self._session.outside.trust
        ) as journal:
            whole = journal.whole
            if whole is not None and (self._session.allow_gaps or not whole.gaps) and await in_thread(journal.stands):
                self._session.bytes_reused += sum(file.size_bytes for file in whole.files)
                self._session.done_seconds += whole.seconds
            else:
                journal.unfinish()
                whole = await TrackDownload(self._session, track, journal).complete()
            return TrackFiles(
                files=tuple(track.folder / file.name for file in whole.files),
                digests=tuple(file.digest for file in whole.files),
                gaps=whole.gaps,
                seconds=whole.seconds,
            )

    async def _fetch_file(self, track: SegmentTrack, file: Resource) -> TrackFiles:
        fetched = await self._session.fetch_as_file(file, track.folder, track.name)
        self._session.done_seconds += track.seconds or 0.0
        self._session.bytes_reused += fetched.stats.bytes_reused
        return TrackFiles((fetched.path,), (fetched.blake3,), (), track.seconds or 0.0)

    async def _watch(self) -> None:
        """Show how far it is, and keep the deadline. Each request has its own stall clock."""
        limits = self._session.limits
        window = SpeedWindow(limits.stall_timeout, limits.minimum_speed)
        pace, before = DownloadSpeed(limits.minimum_speed), self._counts()
        while True:
            now, seen = self._session.clock(), self._counts()
            window.record(now, seen.bytes_received)
            pace.record(now, seen.bytes_received, could_come=seen.is_at_work_since(before))
            before = seen
            self._show(window.speed())
            self._judge(pace.speed(), now)
            await anyio.sleep(SHOWN_EVERY_SECONDS)

    def _counts(self) -> Counts:
        return Counts(self._session.bytes_received, self._session.requests, self._session.retry.asked.seconds)

    def _show(self, speed: float) -> None:
        done = self._session.bytes_received + self._session.bytes_reused
        self._session.observe(Advance("download", done, self._estimate_bytes(done), "bytes", speed or None))

    def _estimate_bytes(self, done: int) -> float | None:
        """How many bytes there will be, if the rest is like what came."""
        if not self._total_seconds or not self._session.done_seconds:
            return None
        return max(float(done), done * self._total_seconds / self._session.done_seconds)

    def _judge(self, pace: float | None, now: float) -> None:
        if pace is None:
            return
        elapsed = now - self._session.started
        done = self._session.bytes_received + self._session.bytes_reused
        estimate = self._estimate_bytes(done)
        limit = download_seconds(
            least=self._session.limits.deadline,
            elapsed=elapsed,
            remaining_bytes=round(estimate - done) if estimate is not None else None,
            speed=slower_of(pace, self._session.bytes_received, elapsed),
            minimum_speed=self._session.limits.minimum_speed,
            load=self._load.sample(),
        )
        if limit is not None and elapsed > limit:
            raise DownloadDeadline(f"Not complete after {elapsed:.0f} s")

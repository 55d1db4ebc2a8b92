"""All tracks of one rendition: brought together, watched, and shown.

The HLS and DASH modules make a `Haul` and give it tracks. It keeps nothing itself: what is held lies on the tracks'
shelves, and what it costs is counted by their supply.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

from tidegate.durable.threads import in_thread
from tidegate.errors import DownloadDeadline, TidegateError
from tidegate.events import Advance, Note
from tidegate.model import Digest, Gap, Source, TransferStats
from tidegate.resilience.deadline import Pace, download_seconds, slower_of
from tidegate.resilience.load import LoadMeter
from tidegate.resilience.stall import SpeedWindow
from tidegate.transfer.outside import Outside
from tidegate.transfer.playlists.media import Resource, Segment
from tidegate.transfer.segments.journal import opened_shelf, segment_name
from tidegate.transfer.segments.supply import Supply
from tidegate.transfer.segments.track import OF_A_SEGMENT, Track, TrackRun, reasoned

SHOWN_EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class Hauled:
    """A track as it lies in its folder."""

    files: tuple[Path, ...]
    digests: tuple[Digest, ...]
    gaps: tuple[Gap, ...]
    seconds: float


@dataclass(frozen=True)
class Look:
    """What has been counted so far."""

    bytes_received: int
    requests: int
    """Those that have ended."""
    throttled_seconds: float
    """How long the source has asked to be left alone."""

    def at_work_since(self, before: Look) -> bool:
        """Whether bytes came, or could have. Where no request has ended either, a gate, a pause that the source asked
        for, or a live source is waited for."""
        refused = self.throttled_seconds > before.throttled_seconds
        return self.bytes_received > before.bytes_received or (self.requests > before.requests and not refused)


class Haul:
    """See the module."""

    def __init__(
        self,
        outside: Outside,
        source: Source,
        *,
        allow_gaps: bool = False,
        may_renew: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.supply = Supply(outside, source, allow_gaps=allow_gaps, may_renew=may_renew, clock=clock)
        self._total_seconds: float | None = None
        self._load = LoadMeter()

    @property
    def outside(self) -> Outside:
        return self.supply.outside

    @property
    def source(self) -> Source:
        return self.supply.source

    @property
    def stats(self) -> TransferStats:
        """What it has cost until now."""
        return self.supply.stats

    async def bring(self, tracks: Sequence[Track]) -> dict[str, Hauled]:
        """Bring every track; those that are not vital may be missing from the result.

        Raises:
            SegmentGap: a segment cannot be had, and gaps are not allowed.
            TidegateError: whatever else ended the transfer.
        """
        lengths = [track.seconds for track in tracks]
        self._total_seconds = None if None in lengths else sum(length or 0.0 for length in lengths)
        brought: dict[str, Hauled] = {}

        async def one(track: Track) -> None:
            hauled = await self._track_or_note(track)
            if hauled is not None:
                brought[track.name] = hauled

        async with reasoned(), anyio.create_task_group() as everything:
            everything.start_soon(self._watch)
            async with anyio.create_task_group() as hauls:
                for track in tracks:
                    hauls.start_soon(one, track)
            everything.cancel_scope.cancel()
        return {track.name: brought[track.name] for track in tracks if track.name in brought}

    async def fetch(self, track: Track, segments: Sequence[Segment]) -> list[Path]:
        """Some segments of a track, and what belongs before them, kept for `bring`; where they lie, in their order.

        Raises:
            TidegateError: they cannot be had.
        """
        async with opened_shelf(track.folder, track.contents, self.outside.observe, trust=self.outside.trust) as shelf:
            run = TrackRun(self.supply, track, shelf)
            async with run.at_work():
                for segment in segments:
                    if segment_name(segment) not in shelf.held:
                        await run.take(segment)
            return run.paths(segments)

    async def _track_or_note(self, track: Track) -> Hauled | None:
        try:
            return await self._track(track)
        except TidegateError as error:
            if track.vital or not isinstance(error, OF_A_SEGMENT):
                raise
            self.outside.observe(Note(f"Left out {track.name}: {error.message}", "warning", {"failure": error.type}))
            return None

    async def _track(self, track: Track) -> Hauled:
        if track.file is not None:
            return await self._file(track, track.file)
        async with opened_shelf(track.folder, track.contents, self.outside.observe, trust=self.outside.trust) as shelf:
            whole = shelf.whole
            if whole is not None and (self.supply.allow_gaps or not whole.gaps) and await in_thread(shelf.stands):
                self.supply.bytes_reused += sum(file.size_bytes for file in whole.files)
                self.supply.done_seconds += whole.seconds
            else:
                shelf.unfinish()
                whole = await TrackRun(self.supply, track, shelf).complete()
            return Hauled(
                files=tuple(track.folder / file.name for file in whole.files),
                digests=tuple(file.digest for file in whole.files),
                gaps=whole.gaps,
                seconds=whole.seconds,
            )

    async def _file(self, track: Track, file: Resource) -> Hauled:
        fetched = await self.supply.file(file, track.folder, track.name)
        self.supply.done_seconds += track.seconds or 0.0
        self.supply.bytes_reused += fetched.stats.bytes_reused
        return Hauled((fetched.path,), (fetched.blake3,), (), track.seconds or 0.0)

    async def _watch(self) -> None:
        """Show how far it is, and keep the deadline. Each request has its own stall clock."""
        limits = self.outside.limits
        window = SpeedWindow(limits.stall_timeout, limits.minimum_speed)
        pace, before = Pace(limits.minimum_speed), self._look()
        while True:
            now, seen = self.supply.clock(), self._look()
            window.record(now, seen.bytes_received)
            pace.record(now, seen.bytes_received, could_come=seen.at_work_since(before))
            before = seen
            self._show(window.speed())
            self._judge(pace.speed(), now)
            await anyio.sleep(SHOWN_EVERY_SECONDS)

    def _look(self) -> Look:
        return Look(self.supply.bytes_received, self.supply.requests, self.supply.retry.throttled_seconds)

    def _show(self, speed: float) -> None:
        done = self.supply.bytes_received + self.supply.bytes_reused
        self.outside.observe(Advance("download", done, self._estimated_bytes(done), "bytes", speed or None))

    def _estimated_bytes(self, done: int) -> float | None:
        """How many bytes there will be, if the rest is like what came."""
        if not self._total_seconds or not self.supply.done_seconds:
            return None
        return max(float(done), done * self._total_seconds / self.supply.done_seconds)

    def _judge(self, pace: float | None, now: float) -> None:
        if pace is None:
            return
        elapsed = now - self.supply.started
        done = self.supply.bytes_received + self.supply.bytes_reused
        estimated = self._estimated_bytes(done)
        limit = download_seconds(
            least=self.outside.limits.deadline,
            elapsed=elapsed,
            remaining_bytes=round(estimated - done) if estimated is not None else None,
            speed=slower_of(pace, self.supply.bytes_received, elapsed),
            minimum_speed=self.outside.limits.minimum_speed,
            load=self._load.sample(),
        )
        if limit is not None and elapsed > limit:
            raise DownloadDeadline(f"Not complete after {elapsed:.0f} s")

"""One track on its way: what is missing is fetched, compared with what is held, and put together.

`PlaylistDownload` makes one for each track. What a crash leaves in the journal is taken up again if the source still
has the same segments; a segment that cannot be had ends the transfer, or becomes a gap that is told.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from tidegate.durable.threads import in_thread
from tidegate.errors import (
    Evidence,
    ExpiredLink,
    Link,
    NotMedia,
    OfSegment,
    SegmentGap,
    TidegateError,
    reason_of,
)
from tidegate.events import Note, NoteLevel
from tidegate.model import Digest, Gap
from tidegate.redact import redact_url
from tidegate.resilience.retry import Retry
from tidegate.transfer.playlists.media import Resource, Segment
from tidegate.transfer.segments.assemble import DamagedSegments, assemble
from tidegate.transfer.segments.journal import HeldSegment, TrackJournal, WholeTrack, init_name, segment_name
from tidegate.transfer.segments.session import DownloadSession, validator_of
from tidegate.transfer.segments.sync_queue import SyncQueue, open_sync_queue

MOST_REPAIRS = 2
"""How often damaged segments are fetched again before the disk is given up."""

MOST_COMPARED = 3
"""Held segments that are asked for again, one after the other, until one tells whether the source is the same."""

Feed = Callable[[Mapping[int, float]], AsyncIterator[Sequence[Segment]]]
"""Gives the track's segments in their order, all at once or as they appear. It is told which numbers are held already,
and how many seconds each of them lasts."""


def whole_feed(segments: Sequence[Segment]) -> Feed:
    """All segments of a track at once: its playlist has ended."""

    async def feed(held: Mapping[int, float]) -> AsyncIterator[Sequence[Segment]]:
        yield segments

    return feed


@dataclass(frozen=True)
class SegmentTrack:
    """What is to be fetched: one of picture, sound or subtitles."""

    name: str
    folder: Path
    """Of this track alone."""
    contents: tuple[str, ...]
    """Fingerprints of playlists whose segments may be taken up again; the first is written down."""
    feed: Feed
    file: Resource | None = None
    """Where the whole track is one file; it then has no segments to feed."""
    seconds: float | None = None
    """How long it is, where that is known before its end."""
    vital: bool = True
    """Whether the rendition is nothing without it."""


@dataclass
class TrackDownload:
    """One track on its way to its folder: every segment ends in the journal, or as a gap."""

    session: DownloadSession
    track: SegmentTrack
    journal: TrackJournal
    gaps: dict[int, Gap] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._init_locks: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)
        self._syncs: SyncQueue

    async def complete(self) -> WholeTrack:
        """Fetch what is missing, put it together, and settle it in the journal."""
        for repairs_left in reversed(range(MOST_REPAIRS + 1)):
            await self._fetch_all()
            if not self.journal.numbers:
                raise SegmentGap(f"None of the segments of {self.track.name} can be had")
            try:
                files = await in_thread(assemble, self.journal, self.track.name)
            except DamagedSegments as damage:
                if not repairs_left:
                    raise NotMedia(f"The disk does not keep what is written to it: {damage}") from damage
                self._tell(f"{damage}: fetching them again")
                self.journal.forget(damage.names)
                continue
            whole = WholeTrack(files=files, gaps=_merge_gaps(self.gaps), seconds=self._seconds())
            await in_thread(self.journal.finish, whole)
            return whole
        raise AssertionError("the last repair returns or raises")

    async def take(self, segment: Segment) -> None:
        """One segment and its init section, into the journal; or its gap.

        Raises:
            SegmentGap: it cannot be had.
            TidegateError: nothing can be had from there.
        """
        if segment.missing:
            self._record_gap(segment, "the playlist says that it is not there")
            return
        for resource in filter(None, (segment.init, segment.resource)):
            if resource.key is not None:  # a key that cannot be had concerns all segments, and is no gap
                await self.session.secret(resource.key)
        arrived = self.session.arrived
        try:
            init = await self._init(segment.init) if segment.init else None
            async with self.session.slot():
                await self._fetch(segment_name(segment), segment.resource, segment, init)
        except TidegateError as error:
            self._record_gap(segment, self._why(error, arrived), error)

    def paths(self, segments: Sequence[Segment]) -> list[Path]:
        """Where segments lie that are held, and what belongs before them, in their order."""
        names = [held.name for segment in segments if (held := self.journal.held.get(segment_name(segment)))]
        inits = [init for name in names if (init := self.journal.held[name].init)]
        return [self.journal.path(name) for name in dict.fromkeys([*inits, *names])]

    def _seconds(self) -> float:
        held = sum(held.seconds for held in self.journal.numbers.values())
        return held + sum(gap.end_seconds - gap.start_seconds for gap in self.gaps.values())

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """The time in which segments may be taken; after it they are durable."""
        async with single_failure(), open_sync_queue(self.journal) as self._syncs:
            yield

    async def _fetch_all(self) -> None:
        send, receive_ = anyio.create_memory_object_stream[Segment](0)
        self.gaps = {}
        async with self.at_work(), anyio.create_task_group() as group:
            for _ in range(self.session.limits.segments_at_once):
                group.start_soon(self._work, receive_.clone())
            receive_.close()
            await self._hand_out(send)

    async def _work(self, segments: MemoryObjectReceiveStream[Segment]) -> None:
        async with segments:
            async for segment in segments:
                await self.take(segment)
                self.session.done_seconds += segment.seconds

    async def _hand_out(self, send: MemoryObjectSendStream[Segment]) -> None:
        async with send:
            numbers = self.journal.numbers
            async for segments in self.track.feed({number: held.seconds for number, held in numbers.items()}):
                await self._compare(segments)
                for segment in segments:
                    if self._is_held(segment):
                        self.session.done_seconds += segment.seconds
                        self.session.bytes_reused += self.journal.held[segment_name(segment)].size_bytes
                    else:
                        await send.send(segment)

    def _is_held(self, segment: Segment) -> bool:
        held = self.journal.held.get(segment_name(segment))
        return (
            held is not None
            and held.fingerprint == segment.fingerprint
            and (held.init is None or held.init in self.journal.held)
        )

    async def _compare(self, segments: Sequence[Segment]) -> None:
        """Before anything is added to what an earlier run left: is the source still the same?

        The playlist is, but files may have been replaced behind the same links, and few origins give validators that
        can be relied on. So a segment that is held is fetched again; if it differs, nothing of it is mixed.
        """
        if self.journal.fresh or not segments:
            return
        held = [segment for segment in segments if self._is_held(segment)]
        listed = [segment for segment in segments if segment_name(segment) in self.journal.held]
        beyond = [number for number in self.journal.numbers if number > segments[-1].number]
        # Where all are held nothing is added yet; what the disk has lost of them may be fetched again later.
        self.journal.fresh = len(held) < len(segments)
        if len(listed) > len(held) or beyond:
            self._begin_anew("its segments are others than those that an earlier run left")
        elif held and len(held) < len(segments) and await self._differs(held):
            self._begin_anew("its segments have changed since an earlier run, or are gone")

    def _begin_anew(self, why: str) -> None:
        self._tell(f"{why}: beginning again", "warning")
        self.journal.restart(self.track.contents[0], datetime.now(UTC))

    async def _differs(self, held: Sequence[Segment]) -> bool:
        """Whether the source has other bytes now. Of the last segments that are held the first that comes tells; where
        all of them are gone nothing speaks for the same, and nothing is taken for it.

        Raises:
            TidegateError: nobody can tell now. What is held stays for the next run.
        """
        known = self.journal.held[segment_name(held[-1])].validator
        if known is not None and await self.session.validator(held[-1].resource) == known:
            return False
        budget = self.session.budget(f"{self.track.name}, comparison")
        failure: TidegateError | None = None
        for segment in reversed(held[-MOST_COMPARED:]):
            if segment.resource.key is not None:
                await self.session.secret(segment.resource.key)
            try:
                return await self._digest_now(segment, budget) != self.journal.held[segment_name(segment)].digest
            except TidegateError as error:  # of this one alone? others have one try more
                if error.policy.of_segment is OfSegment.NO:
                    raise
                if error.policy.link is Link.GONE:
                    continue
                self._require_lasting_links(error)
                failure = error
        if failure is not None:
            raise failure
        return True

    async def _digest_now(self, segment: Segment, budget: Retry) -> Digest:
        """Of the bytes that the source has for a segment now."""
        path = self.journal.path(f"{segment_name(segment)}.again")

        async def one_try() -> Digest:
            sink, _ = await self.session.receive_segment(path, segment.resource, budget)
            sink.close()
            return sink.digest

        try:
            async with self.session.slot():
                return await budget.run(one_try)
        finally:
            path.unlink(missing_ok=True)

    async def _init(self, init: Resource) -> str:
        """The name of an init section that is held."""
        name = init_name(init)
        async with self._init_locks[name]:
            if name not in self.journal.held:
                async with self.session.slot():
                    await self._fetch(name, init, None, None)
        return name

    async def _fetch(self, name: str, resource: Resource, segment: Segment | None, init: str | None) -> None:
        what = f"{self.track.name}, segment {segment.number}" if segment else f"{self.track.name}, init section"
        budget = self.session.budget(what)

        async def one_try() -> None:
            sink, answer = await self.session.receive_segment(self.journal.path(name), resource, budget)
            held = HeldSegment(
                name=name,
                fingerprint=segment.fingerprint if segment else resource.fingerprint,
                size_bytes=sink.size_bytes,
                digest=sink.digest,
                kind=sink.kind,
                validator=validator_of(answer),
                number=segment.number if segment else None,
                seconds=segment.seconds if segment else 0.0,
                stretch=segment.stretch if segment else 0,
                init=init,
            )
            await self._syncs.put(held, sink)

        await budget.run(one_try)
        self.session.arrived += segment is not None

    def _why(self, error: TidegateError, arrived_before: int) -> str:
        """Why a segment cannot be had. A failure that is not about this segment is raised on."""
        session = self.session
        self._require_lasting_links(error)
        if error.policy.link is Link.REFUSED and not session.arrived and not self.journal.numbers:
            raise error
        of_it = {
            OfSegment.NO: False,
            OfSegment.ALWAYS: True,
            OfSegment.IF_ANY_CAME: session.arrived > 0,
            OfSegment.IF_OTHERS_COME: session.arrived > arrived_before,
        }
        if not of_it[error.policy.of_segment]:
            raise error
        return error.message

    def _require_lasting_links(self, error: TidegateError) -> None:
        """A link that is refused may have expired, while somebody can read the playlist again."""
        if self.session.may_renew and error.policy.link is Link.REFUSED:
            raise ExpiredLink(f"{error.message}: the playlist's links may have expired") from error

    def _record_gap(self, segment: Segment, why: str, cause: TidegateError | None = None) -> None:
        gap = Gap(start_seconds=segment.start_seconds, end_seconds=segment.end_seconds, why=why)
        if not self.session.allow_gaps:
            raise _segment_gap(self.track.name, segment, why) from cause
        self._tell(f"segment {segment.number} is missing: {why}", "warning")
        self.gaps[segment.number] = gap

    def _tell(self, message: str, level: NoteLevel = "info") -> None:
        self.session.observe(Note(f"{self.track.name}: {message}", level))


def _segment_gap(name: str, segment: Segment, why: str) -> SegmentGap:
    notes = {
        "track": name,
        "segment": str(segment.number),
        "start_seconds": f"{segment.start_seconds:.3f}",
        "end_seconds": f"{segment.end_seconds:.3f}",
        "why": why,
    }
    interval = f"{segment.start_seconds:.1f} s to {segment.end_seconds:.1f} s"
    return SegmentGap(
        f"Segment {segment.number} of {name} ({interval}) cannot be had: {why}",
        evidence=Evidence(url=redact_url(segment.resource.url), notes=notes),
    )


def _merge_gaps(gaps: dict[int, Gap]) -> tuple[Gap, ...]:
    """In their order; neighbours with one reason as one."""
    merged: list[Gap] = []
    last = None
    for number in sorted(gaps):
        gap = gaps[number]
        if merged and last == number - 1 and merged[-1].why == gap.why:
            merged[-1] = merged[-1].model_copy(update={"end_seconds": gap.end_seconds})
        else:
            merged.append(gap)
        last = number
    return tuple(merged)


@contextlib.asynccontextmanager
async def single_failure() -> AsyncIterator[None]:
    """One failure out of a group of siblings: the one that ended the others."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise reason_of(group) from group

"""What is held of one track: a file for each segment, and a journal that says which of them are good.

The segment engine writes into it from worker threads. A segment's line is appended only after its bytes are synced, so
after a crash the journal never promises more than the disk holds: a torn last line costs one segment, a lost journal
all of them, and a file without a line is ignored. One process at a time: the journal is its own lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from blake3 import blake3
from pydantic import AwareDatetime, TypeAdapter

from tidegate.durable.crash_points import crash_point
from tidegate.durable.hashing import blake3_of
from tidegate.durable.lock import acquire_when_free
from tidegate.durable.threads import in_thread
from tidegate.errors import from_os_error
from tidegate.events import Note, Observer
from tidegate.model import Digest, Gap, Value
from tidegate.transfer.playlists.media import Resource, Segment
from tidegate.transfer.playlists.plausible import SegmentKind

JOURNAL = "segments.journal"
SEGMENTS = "segments"
SEAL_DIGITS = 16


class BegunTrack(Value):
    """The first line: which playlist the segments belong to."""

    record: Literal["begun"] = "begun"
    content: str
    at: AwareDatetime


class HeldSegment(Value):
    """One segment or init section that is on disk, synced."""

    record: Literal["held"] = "held"
    name: str
    """Of its file; numbers sort as they follow each other."""
    fingerprint: str
    size_bytes: int
    digest: Digest
    kind: SegmentKind
    validator: str | None = None
    """ETag or Last-Modified of what was received."""
    number: int | None = None
    """None for an init section."""
    seconds: float = 0.0
    stretch: int = 0
    init: str | None = None
    """The name of the init section that belongs before it."""


class ForgottenSegment(Value):
    """A segment whose bytes turned out to be bad."""

    record: Literal["forgotten"] = "forgotten"
    name: str


class FinishedFile(Value):
    """A file of the finished track."""

    name: str
    size_bytes: int
    digest: Digest


class WholeTrack(Value):
    """The last line: the track is put together, and its segments may be gone."""

    record: Literal["whole"] = "whole"
    files: tuple[FinishedFile, ...]
    gaps: tuple[Gap, ...] = ()
    seconds: float = 0.0
    """What the playlist says of its length, gaps included."""


Line = BegunTrack | HeldSegment | ForgottenSegment | WholeTrack
_LINES: TypeAdapter[Line] = TypeAdapter(Line)


def segment_name(segment: Segment) -> str:
    return f"{segment.number:010d}"


def init_name(init: Resource) -> str:
    return f"init-{init.fingerprint}"


@dataclass
class TrackJournal:
    """What is held of one track, in memory and on disk. All methods block; `open_track_journal` gives one."""

    folder: Path
    held: dict[str, HeldSegment] = field(default_factory=dict)
    whole: WholeTrack | None = None
    fresh: bool = True
    """Nothing was taken over from an earlier run."""
    _handle: int = -1
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def path(self, name: str) -> Path:
        return self.folder / SEGMENTS / f"{name}.seg"

    @property
    def numbers(self) -> dict[int, HeldSegment]:
        """The segments by their number, init sections left out."""
        return {held.number: held for held in self.held.values() if held.number is not None}

    def take_up(self, contents: tuple[str, ...], trust: timedelta, now: datetime) -> None:
        """Go on from the journal if it is about one of these playlists; otherwise begin anew with the first."""
        try:
            lines = self._read()
        except OSError as error:
            raise from_os_error(error, "reading a track's journal", self.folder) from error
        begun = lines[0] if lines else None
        believed = (
            isinstance(begun, BegunTrack) and begun.content in contents and timedelta(0) <= now - begun.at <= trust
        )
        if not believed:
            self.restart(contents[0], now)
            return
        for line in lines[1:]:
            self._learn(line)
        self.held = {name: held for name, held in self.held.items() if self._is_there(held)}
        self.held = {name: held for name, held in self.held.items() if held.init is None or held.init in self.held}
        self.fresh = not self.held and self.whole is None

    def keep(self, finished: Sequence[tuple[HeldSegment, int]]) -> None:
        """Make the bytes of segments durable, then say so; with each comes the handle of its file."""
        try:
            for _, handle in finished:
                crash_point("segments: written")
                os.fdatasync(handle)
                crash_point("segments: synced")
            self._append(*(held for held, _ in finished))
            for _ in finished:  # as many points in each run, however many came together
                crash_point("segments: journaled")
        except OSError as error:
            raise from_os_error(error, "keeping a segment", self.folder) from error

    def forget(self, names: Sequence[str]) -> None:
        """Their bytes are not what was journaled: they have to be fetched again."""
        self._append(*(ForgottenSegment(name=name) for name in names))
        for name in names:
            self.held.pop(name, None)

    def finish(self, whole: WholeTrack) -> None:
        """The track is there as a whole; its segments are no longer needed."""
        self._append(whole)
        crash_point("segments: whole")
        self.whole = whole
        shutil.rmtree(self.folder / SEGMENTS, ignore_errors=True)

    def stands(self) -> bool:
        """Whether the finished files are there, byte for byte."""
        return self.whole is not None and all(self._stands(file) for file in self.whole.files)

    def restart(self, content: str, now: datetime) -> None:
        """Forget everything: what comes next does not continue it."""
        try:
            os.ftruncate(self._handle, 0)
            crash_point("segments: emptied")
            shutil.rmtree(self.folder / SEGMENTS, ignore_errors=True)
            (self.folder / SEGMENTS).mkdir(parents=True, exist_ok=True)
            self._append(BegunTrack(content=content, at=now))
        except OSError as error:
            raise from_os_error(error, "beginning a track", self.folder) from error
        self.held, self.whole, self.fresh = {}, None, True

    def unfinish(self) -> None:
        """The finished files are gone or damaged: the track has to be put together again."""
        self.whole = None
        (self.folder / SEGMENTS).mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _learn(self, line: Line) -> None:
        match line:
            case HeldSegment():
                self.held[line.name], self.whole = line, None
            case ForgottenSegment():
                self.held.pop(line.name, None)
            case WholeTrack():
                self.whole = line

    def _is_there(self, held: HeldSegment) -> bool:
        """Its digest is compared when the track is put together."""
        try:
            return self.path(held.name).stat().st_size == held.size_bytes
        except OSError:
            return False

    def _stands(self, file: FinishedFile) -> bool:
        path = self.folder / file.name
        try:
            return path.stat().st_size == file.size_bytes and blake3_of(path) == file.digest
        except OSError:
            return False

    def _append(self, *lines: Line) -> None:
        with self._lock:
            end = os.lseek(self._handle, 0, os.SEEK_END)
            try:
                _write_whole(self._handle, b"".join(_to_line(line.model_dump(mode="json")) for line in lines))
                os.fdatasync(self._handle)
            except OSError as error:
                with contextlib.suppress(OSError):  # or the next line would be glued to half of this one
                    os.ftruncate(self._handle, end)
                raise from_os_error(error, "writing a journal", self.folder) from error

    def _read(self) -> list[Line]:
        """The lines up to the first that is torn; the file is cut there, so that the next one is appended cleanly."""
        content = os.pread(self._handle, os.fstat(self._handle).st_size, 0)
        lines, good = [], 0
        for raw in content.splitlines(keepends=True):
            line = _from_line(raw)
            if line is None:
                break
            lines.append(line)
            good += len(raw)
        if good < len(content):
            os.ftruncate(self._handle, good)
        return lines


def _write_whole(handle: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(handle, view) :]


def _to_line(record: dict[str, Any]) -> bytes:
    text = json.dumps(record, separators=(",", ":")).encode()
    return b"%s %s\n" % (_seal(text), text)


def _from_line(raw: bytes) -> Line | None:
    seal, _, text = raw.rstrip(b"\n").partition(b" ")
    if not raw.endswith(b"\n") or seal != _seal(text):
        return None
    try:
        return _LINES.validate_json(text)
    except ValueError:  # written by another version
        return None


def _seal(text: bytes) -> bytes:
    return blake3(text).hexdigest()[:SEAL_DIGITS].encode()


@contextlib.asynccontextmanager
async def open_track_journal(
    folder: Path,
    contents: tuple[str, ...],
    observe: Observer,
    *,
    trust: timedelta,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> AsyncIterator[TrackJournal]:
    """The journal in `folder`, held by this run alone; waits visibly while another run holds it."""
    waiting = Note("Another run is downloading the same track; waiting for it")
    try:
        (folder / SEGMENTS).mkdir(parents=True, exist_ok=True)
        handle = await acquire_when_free(folder / JOURNAL, lambda: observe(waiting))
    except OSError as error:
        raise from_os_error(error, "opening a track's journal", folder) from error
    journal = TrackJournal(folder, _handle=handle)
    try:
        await in_thread(journal.take_up, contents, trust, now())
        yield journal
    finally:
        journal.close()

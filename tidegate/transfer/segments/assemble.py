"""Segments put together to files that a demuxer can read, in the order of their numbers.

The segment engine calls it when everything is held. Each segment's digest is compared while it is copied, so a disk
that changed one is noticed; the files appear under their names only when all of them are complete. The same segments
give the same bytes, in whatever order they came and however often the work was cut short.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3

from tidegate.durable.atomic import sync_folder
from tidegate.durable.crash_points import crash_point
from tidegate.durable.threads import check_cancellation
from tidegate.errors import LimitReached, from_os_error
from tidegate.model import Digest
from tidegate.transfer.playlists.captions import merge_captions
from tidegate.transfer.playlists.plausible import SegmentKind
from tidegate.transfer.playlists.timing import Edges, continues, edges_of
from tidegate.transfer.segments.journal import FinishedFile, HeldSegment, TrackJournal
from tidegate.transfer.segments.sink import COPY_BYTES

ID3_HEADER_BYTES = 10
MOST_CAPTION_BYTES = 16 * 1024 * 1024
"""Of all segments of subtitles together; a film has a hundredth of it. They are put together in memory."""
LARGEST_TIMED_BYTES = 64 * 1024 * 1024
"""A longer segment's timestamps are not looked at: it begins a file of its own at a discontinuity."""


class DamagedSegments(Exception):  # never leaves the engine
    """Segments on disk are not what the journal says."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"{len(names)} segments are damaged")
        self.names = tuple(names)


@dataclass
class OutputFile:
    """Segments that make one file, with what belongs before them."""

    kind: SegmentKind
    init: HeldSegment | None
    segments: list[HeldSegment] = field(default_factory=list)

    @property
    def members(self) -> Iterator[HeldSegment]:
        if self.init is not None:
            yield self.init
        yield from self.segments


def assemble(journal: TrackJournal, name: str) -> tuple[FinishedFile, ...]:
    """Write the track's files and give them their names. Blocking: call it in a thread.

    Raises:
        Damaged: segments have to be fetched again.
        LimitReached: subtitles that are longer than any.
        DiskFull, PermissionRefused, StoreUnavailable: the operating system refused.
    """
    try:
        files = output_files_of(journal)
        names = _file_names(name, files)
        finished = [
            _write(journal, file, journal.folder / f"{file_name}.part")
            for file_name, file in zip(names, files, strict=True)
        ]
        crash_point("segments: assembled")
        for file_name in names:
            (journal.folder / f"{file_name}.part").rename(journal.folder / file_name)
            crash_point("segments: in place")
        sync_folder(journal.folder)
    except OSError as error:
        raise from_os_error(error, "putting segments together", journal.folder) from error
    return tuple(
        FinishedFile(name=file_name, size_bytes=size, digest=digest)
        for file_name, (size, digest) in zip(names, finished, strict=True)
    )


def output_files_of(journal: TrackJournal) -> list[OutputFile]:
    """Which segments may follow each other in one file: those of one packing, with one init section, whose timestamps
    go on. A demuxer that meets a jump backwards, or other parameters, loses what follows."""
    ordered = [held for _, held in sorted(journal.numbers.items())]
    files: list[OutputFile] = []
    for (kind, init, _), group in groupby(
        ordered, key=lambda held: (held.kind, _init_digest(journal, held), held.stretch)
    ):
        segments = list(group)
        if (
            files
            and (files[-1].kind, _digest_of(files[-1].init)) == (kind, init)
            and _goes_on(journal, files[-1], segments)
        ):
            files[-1].segments += segments
        else:
            files.append(OutputFile(kind, journal.held[segments[0].init] if segments[0].init else None, segments))
    return files


def _goes_on(journal: TrackJournal, file: OutputFile, segments: list[HeldSegment]) -> bool:
    if file.kind in (SegmentKind.SOUND, SegmentKind.TEXT):  # they carry no timestamps of their own
        return True
    return file.kind is SegmentKind.TS and continues(_edges(journal, file.segments[-1]), _edges(journal, segments[0]))


def _edges(journal: TrackJournal, held: HeldSegment) -> Edges:
    if held.size_bytes > LARGEST_TIMED_BYTES:
        return Edges()
    return edges_of(journal.path(held.name).read_bytes())


def _init_digest(journal: TrackJournal, held: HeldSegment) -> Digest | None:
    """Two links to the same init section make no new file."""
    return _digest_of(journal.held.get(held.init)) if held.init else None


def _digest_of(held: HeldSegment | None) -> Digest | None:
    return held.digest if held else None


def _file_names(name: str, files: Sequence[OutputFile]) -> list[str]:
    if len(files) == 1:
        return [f"{name}.{files[0].kind}"]
    return [f"{name}.{number:04d}.{file.kind}" for number, file in enumerate(files)]


def _write(journal: TrackJournal, file: OutputFile, path: Path) -> tuple[int, Digest]:
    """Write one file, synced; its size and digest."""
    hasher, size, damaged = blake3(), 0, []
    with path.open("wb") as target:

        def put(block: bytes) -> None:
            nonlocal size
            hasher.update(block)
            target.write(block)
            size += len(block)

        if file.kind is SegmentKind.TEXT:
            damaged += _write_captions(journal, file, put)
        else:
            for held in file.members:
                check_cancellation()
                damaged += _copy(journal, held, put)
        target.flush()
        os.fdatasync(target.fileno())
    if damaged:
        raise DamagedSegments(damaged)
    return size, f"blake3:{hasher.hexdigest()}"


def _copy(journal: TrackJournal, held: HeldSegment, put: Callable[[bytes], None]) -> list[str]:
    """Copy one segment; its name if it is not what was journaled."""
    hasher = blake3()
    try:
        with journal.path(held.name).open("rb") as file:
            skipped = _tag_bytes(file) if held.kind is SegmentKind.SOUND else 0
            hasher.update(file.read(skipped))
            while block := file.read(COPY_BYTES):
                hasher.update(block)
                put(block)
    except FileNotFoundError:
        return [held.name]
    return [] if f"blake3:{hasher.hexdigest()}" == held.digest else [held.name]


def _tag_bytes(file: BinaryIO) -> int:
    """How long the ID3 tag is with which a segment of packed audio begins; in the middle of a file it is noise."""
    head = file.read(ID3_HEADER_BYTES)
    file.seek(0)
    if len(head) < ID3_HEADER_BYTES or not head.startswith(b"ID3"):
        return 0
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte & 0x7F
    return ID3_HEADER_BYTES + size


def _write_captions(journal: TrackJournal, file: OutputFile, put: Callable[[bytes], None]) -> list[str]:
    if sum(held.size_bytes for held in file.segments) > MOST_CAPTION_BYTES:
        raise LimitReached(f"The subtitles are longer than {MOST_CAPTION_BYTES} bytes")
    texts = [(held, _read_caption(journal, held)) for held in file.segments]
    damaged = [held.name for held, text in texts if text is None]
    if not damaged:
        put(merge_captions(text for _, text in texts if text is not None).encode())
    return damaged


def _read_caption(journal: TrackJournal, held: HeldSegment) -> str | None:
    try:
        content = journal.path(held.name).read_bytes()
    except FileNotFoundError:
        return None
    return content.decode("utf-8", "replace") if f"blake3:{blake3(content).hexdigest()}" == held.digest else None

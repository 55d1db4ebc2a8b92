"""The `.part` file of one download and its journal.

The fetch loop writes into it from worker threads, at any place; the journal is written after the bytes are synced, so
it never promises more than the disk holds. After a crash `Part.open` takes the file back to what the journal vouches
for and goes on; with another identity, a torn journal or none it begins at zero, and so it does when a part is too old
for a source that nothing validates. One process at a time: the file is locked.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from pydantic import AwareDatetime, model_validator

from tidegate.durable.atomic import write_atomic
from tidegate.durable.crash_points import crash_point
from tidegate.durable.lock import acquire, acquire_when_free
from tidegate.errors import from_os_error
from tidegate.events import Note, Observer
from tidegate.model import Identity, Value
from tidegate.settings import TransferSettings
from tidegate.transfer.file.pieces import Span, Spans
from tidegate.transfer.file.preallocate import preallocate

UNHURRIED_SECONDS, UNHURRIED_BYTES = 0.1, 4 * 1024 * 1024
"""A source that needs so long for so much leaves time to sync more often than every `checkpoint_bytes`, at no cost to
its speed: a crash costs less then."""
PART = "{}.part"
"""The name of the file that holds the bytes; it is its own lock."""
JOURNAL = "{}.journal"

UNVALIDATED_TRUST = timedelta(hours=24)
"""How old a part of a source without validator may be, where the caller says nothing else."""


class Journal(Value):
    """What is known to be on disk."""

    identity: Identity
    received_bytes: int = 0
    received: tuple[tuple[int, int], ...] = ()
    """Spans of bytes, each from its first up to, not including, its end."""
    complete: bool = False
    end_is_certain: bool = False
    begun_at: AwareDatetime | None = None
    """When the first of these bytes was asked for."""

    @model_validator(mode="before")
    @classmethod
    def _from_one_span(cls, journal: Any) -> Any:
        """Journals of earlier versions know only how far the bytes reach."""
        if isinstance(journal, dict) and "received" not in journal and journal.get("received_bytes"):
            return {**journal, "received": ((0, journal["received_bytes"]),)}
        return journal

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        spans = Spans.of(self.received)
        if spans.each != self.received or spans.size != self.received_bytes:
            raise ValueError("the spans contradict each other")
        return self


class Part:
    """Bytes received so far: a prefix of the source, or several spans of it."""

    def __init__(self, folder: Path, name: str, identity: Identity, limits: TransferSettings, now: datetime) -> None:
        self.path = folder / PART.format(name)
        self.identity = identity
        self._journal_path = folder / JOURNAL.format(name)
        self._limits = limits
        self._since_checkpoint = 0
        self._checkpointed_at = 0.0
        self._reserved = False
        self._file = -1
        self._now = self._begun_at = now
        self._lock = threading.Lock()
        self._journaling = threading.Lock()
        self.spans = Spans()
        """What is here. Replaced as a whole, so any thread may look."""
        self.generation = 0
        """Raised whenever bytes are forgotten."""
        self.complete = False
        self.end_is_certain = False
        """Whether something said that nothing is missing at the end; meaningful once complete."""

    @classmethod
    def open(
        cls,
        folder: Path,
        identity: Identity,
        limits: TransferSettings,
        *,
        trust: timedelta = UNVALIDATED_TRUST,
        now: datetime | None = None,
        name: str = "source",
    ) -> Self:
        """Take up what an earlier run left for this identity, or begin at zero.

        What is older than `trust` at `now` (aware; None: the present) is only taken up from a source with a validator.

        Raises:
            BlockingIOError: another process is working on this part.
        """
        with _translate_errors(folder):
            return cls._of(acquire(folder / PART.format(name)), folder, name, identity, limits, trust, now)

    @classmethod
    def _of(
        cls,
        locked: int,
        folder: Path,
        name: str,
        identity: Identity,
        limits: TransferSettings,
        trust: timedelta,
        now: datetime | None,
    ) -> Self:
        part = cls(folder, name, identity, limits, now or datetime.now(UTC))
        part._file = locked
        try:
            journal = part._read_journal()
            part._take_up(journal if journal is not None and part._believes(journal, trust) else None)
        except BaseException:
            part.close()
            raise
        return part

    @property
    def received_bytes(self) -> int:
        """How many bytes are here."""
        return self.spans.size

    @property
    def prefix_bytes(self) -> int:
        """How many of them follow each other from the first on."""
        return self.spans.prefix

    @property
    def allocated_bytes(self) -> int:
        """What the file takes on its volume."""
        return os.fstat(self._file).st_blocks * 512

    @property
    def unjournaled_bytes(self) -> int:
        """What a crash would cost now."""
        return self._since_checkpoint

    def reserve(self) -> None:
        """Take the space that the whole source needs, where the file system can. The file looks no longer for it.

        Raises:
            DiskFull: it is not to be had, and what was taken for it is given back.
        """
        if self.complete or not self.identity.size_bytes:
            return
        try:
            preallocate(self._file, self.identity.size_bytes)
        except OSError as error:
            raise from_os_error(error, "reserving space for the download", self.path) from error
        self._reserved = True

    def write(self, chunk: bytes, now: float) -> None:
        """Append to what is there from the first byte on, and journal when that is due.

        Raises:
            DiskFull: no space; what was journaled stays good.
        """
        self.write_at(self.prefix_bytes, memoryview(chunk))
        if self.checkpoint_is_due(now):
            self.checkpoint(now)

    def write_at(self, offset: int, block: memoryview) -> None:
        """Write some bytes at their place. From any thread; journals nothing.

        Raises:
            DiskFull: no space; what was journaled stays good.
        """
        try:
            written = 0
            while written < len(block):
                written += os.pwrite(self._file, block[written:], offset + written)
        except OSError as error:
            raise from_os_error(error, "writing the download", self.path) from error
        with self._lock:  # only now: a checkpoint must not vouch for what is still on its way
            self.spans = self.spans.plus(Span(offset, offset + len(block)))
            self._since_checkpoint += len(block)

    def checkpoint_is_due(self, now: float) -> bool:
        """Whether enough bytes or time have passed (seconds of a monotonic clock)."""
        waited, since = now - self._checkpointed_at, self._since_checkpoint
        enough = since >= self._limits.checkpoint_bytes or (waited >= UNHURRIED_SECONDS and since >= UNHURRIED_BYTES)
        late = waited >= self._limits.checkpoint_interval.total_seconds()
        return enough or (late and since > 0)

    def checkpoint(self, now: float = 0.0) -> None:
        """Make everything received durable, then say so in the journal. One at a time; others may write meanwhile.

        Raises:
            HostFailure: the operating system refused; what was journaled before stays good.
        """
        with self._journaling:
            with self._lock:
                # Taken before the sync: what is written while it runs is not vouched for yet.
                spans, since = self.spans, self._since_checkpoint
            crash_point("part: written")
            try:
                os.fdatasync(self._file)
            except OSError as error:
                raise from_os_error(error, "writing the download", self.path) from error
            crash_point("part: synced")
            self._write_journal(spans)
            crash_point("part: journaled")
            with self._lock:
                self._since_checkpoint -= since
            self._checkpointed_at = now

    def finish(self, *, end_is_certain: bool) -> None:
        """The source is here as a whole."""
        self.complete = True
        self.end_is_certain = end_is_certain
        self.checkpoint()

    def restart(self) -> None:
        """Forget all bytes: what comes next is not known to continue them."""
        self._begun_at = self._now
        self._empty()

    def read(self, start: int, count: int) -> bytes:
        """Bytes that were received."""
        return os.pread(self._file, count, start)

    def readinto(self, start: int, buffer: memoryview) -> int:
        """The same, into memory that is there already.

        Raises:
            HostFailure: the disk does not give them back.
        """
        try:
            return os.preadv(self._file, [buffer], start)
        except OSError as error:
            raise from_os_error(error, "reading the download", self.path) from error

    def close(self) -> None:
        """Release the lock; the file stays for a later run, which takes anew the space that no byte needed yet."""
        if self._file >= 0:
            if self._reserved and not self.complete:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, os.fstat(self._file).st_size)
            os.close(self._file)
            self._file = -1

    def _empty(self) -> None:
        with self._lock:
            self.spans, self._since_checkpoint = Spans(), 0
            self.generation += 1
        self.complete = False
        if os.fstat(self._file).st_nlink > 1:
            self._leave_the_store_its_bytes()
        os.ftruncate(self._file, 0)
        self.checkpoint()
        if self._reserved:
            self.reserve()

    def _leave_the_store_its_bytes(self) -> None:
        """A crash while storing leaves the file linked from there as well: it must not be cut under the asset."""
        self.path.unlink()
        crash_point("part: left to the store")
        locked, self._file = self._file, acquire(self.path)
        os.close(locked)

    def _believes(self, journal: Journal, trust: timedelta) -> bool:
        """Whether the journal is about this content. Without a validator only its age speaks for that."""
        if journal.identity.key != self.identity.key:
            return False
        begun = journal.begun_at
        young = begun is not None and timedelta(0) <= self._now - begun <= trust
        return self.identity.has_validator or young

    def _take_up(self, journal: Journal | None) -> None:
        """Go on from a journal that is believed, as far as the disk holds what it says."""
        if journal is not None:
            self.end_is_certain = journal.end_is_certain
            self._begun_at = journal.begun_at or self._now
        spans = Spans.of(journal.received) if journal is not None else Spans()
        if journal is None or spans.end > os.fstat(self._file).st_size:
            self._empty()
            return
        self.spans = spans
        self.complete = journal.complete
        os.ftruncate(self._file, spans.end)

    def _read_journal(self) -> Journal | None:
        try:
            return Journal.model_validate(json.loads(self._journal_path.read_text()))
        except (OSError, ValueError):
            return None

    def _write_journal(self, spans: Spans) -> None:
        journal = Journal(
            identity=self.identity,
            received_bytes=spans.size,
            received=spans.each,
            complete=self.complete,
            end_is_certain=self.end_is_certain,
            begun_at=self._begun_at,
        )
        write_atomic(self._journal_path, journal.model_dump_json().encode())


@contextlib.asynccontextmanager
async def open_part(
    folder: Path,
    identity: Identity,
    limits: TransferSettings,
    observe: Observer,
    *,
    trust: timedelta = UNVALIDATED_TRUST,
    now: datetime | None = None,
    name: str = "source",
) -> AsyncIterator[Part]:
    """As `Part.open`, held by this run alone; waits visibly while another run holds it."""
    waiting = Note("Another run is downloading the same source; waiting for it")
    with _translate_errors(folder):
        locked = await acquire_when_free(folder / PART.format(name), lambda: observe(waiting))
        part = Part._of(locked, folder, name, identity, limits, trust, now)
    try:
        yield part
    finally:
        part.close()


@contextlib.contextmanager
def _translate_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except BlockingIOError:
        raise
    except OSError as error:
        raise from_os_error(error, "opening the part file", folder) from error

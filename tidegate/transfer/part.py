"""The `.part` file of one download and its journal.

The fetch loop writes into it from a worker thread; the journal is written after the bytes are synced, so it never
promises more than the disk holds. After a crash `Part.open` takes the file back to the last journaled byte and goes
on; with another identity, a torn journal or none it begins at zero, and so it does when a part is too old for a source
that nothing validates. One process at a time: the file is locked.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from pydantic import AwareDatetime

from tidegate.durable.atomic import write_atomic
from tidegate.durable.crash_points import reached
from tidegate.durable.lock import acquire, acquired
from tidegate.errors import from_os_error
from tidegate.events import Note, Observer
from tidegate.model import Asset, Identity, Value
from tidegate.settings import TransferSettings

PART = "source.part"
"""The name of the file that holds the bytes; it is its own lock."""

UNVALIDATED_TRUST = timedelta(hours=24)
"""How old a part of a source without validator may be, where the caller says nothing else."""


class Journal(Value):
    """What is known to be on disk."""

    identity: Identity
    received_bytes: int = 0
    complete: bool = False
    end_is_certain: bool = False
    stored_as: Asset | None = None
    """Where the complete bytes were about to be moved."""
    begun_at: AwareDatetime | None = None
    """When the first of these bytes was asked for."""


class Part:
    """Bytes received so far, from the start of the source on, without a hole."""

    def __init__(self, folder: Path, identity: Identity, limits: TransferSettings, now: datetime) -> None:
        self.path = folder / PART
        self.identity = identity
        self._journal_path = folder / "source.journal"
        self._limits = limits
        self._since_checkpoint = 0
        self._checkpointed_at = 0.0
        self._file = -1
        self._now = self._begun_at = now
        self.received_bytes = 0
        self.complete = False
        self.end_is_certain = False
        """Whether something said that nothing is missing at the end; meaningful once complete."""
        self.stored_as: Asset | None = None
        """The asset that these bytes became, when a crash came between moving them and recording it."""

    @classmethod
    def open(
        cls,
        folder: Path,
        identity: Identity,
        limits: TransferSettings,
        *,
        trust: timedelta = UNVALIDATED_TRUST,
        now: datetime | None = None,
    ) -> Self:
        """Take up what an earlier run left for this identity, or begin at zero.

        What is older than `trust` at `now` (aware; None: the present) is only taken up from a source with a validator.

        Raises:
            BlockingIOError: another process is working on this part.
        """
        with _translated():
            return cls._of(acquire(folder / PART), folder, identity, limits, trust, now)

    @classmethod
    def _of(
        cls,
        locked: int,
        folder: Path,
        identity: Identity,
        limits: TransferSettings,
        trust: timedelta,
        now: datetime | None,
    ) -> Self:
        part = cls(folder, identity, limits, now or datetime.now(UTC))
        part._file = locked
        try:
            journal = part._read_journal()
            part._take_up(journal if journal is not None and part._believes(journal, trust) else None)
        except BaseException:
            part.close()
            raise
        return part

    def write(self, chunk: bytes, now: float) -> None:
        """Append; journal when enough bytes or time have passed (seconds of a monotonic clock).

        Raises:
            DiskFull: no space; what was journaled stays good.
        """
        try:
            view = memoryview(chunk)
            while view:
                written = os.pwrite(self._file, view, self.received_bytes)
                self.received_bytes += written
                self._since_checkpoint += written
                view = view[written:]
            if self._checkpoint_is_due(now):
                self.checkpoint(now)
        except OSError as error:
            raise from_os_error(error, "writing the download") from error

    def checkpoint(self, now: float = 0.0) -> None:
        """Make everything received durable, then say so in the journal."""
        reached("part: written")
        os.fdatasync(self._file)
        reached("part: synced")
        self._write_journal()
        reached("part: journaled")
        self._since_checkpoint = 0
        self._checkpointed_at = now

    def finish(self, *, end_is_certain: bool) -> None:
        """The source is here as a whole."""
        self.complete = True
        self.end_is_certain = end_is_certain
        self.checkpoint()

    def will_be(self, asset: Asset) -> None:
        """Say where the bytes are about to move, so that a crash after the move does not cost them."""
        self.stored_as = asset
        self.checkpoint()

    def restart(self) -> None:
        """Forget all bytes: what comes next is not known to continue them."""
        self._begun_at = self._now
        self._empty()

    def read(self, start: int, count: int) -> bytes:
        """Bytes that were received."""
        return os.pread(self._file, count, start)

    def close(self) -> None:
        """Release the lock; the file stays for a later run."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _empty(self) -> None:
        self.received_bytes = 0
        self.complete = False
        if os.fstat(self._file).st_nlink > 1:
            self._leave_the_store_its_bytes()
        os.ftruncate(self._file, 0)
        self.checkpoint()

    def _leave_the_store_its_bytes(self) -> None:
        """A crash while storing leaves the file linked from there as well: it must not be cut under the asset."""
        self.path.unlink()
        reached("part: left to the store")
        locked, self._file = self._file, acquire(self.path)
        os.close(locked)

    def _checkpoint_is_due(self, now: float) -> bool:
        enough = self._since_checkpoint >= self._limits.checkpoint_bytes
        return enough or now - self._checkpointed_at >= self._limits.checkpoint_interval.total_seconds()

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
            self.stored_as = journal.stored_as
            self.end_is_certain = journal.end_is_certain
            self._begun_at = journal.begun_at or self._now
        if journal is None or journal.received_bytes > os.fstat(self._file).st_size:
            self._empty()
            return
        self.received_bytes = journal.received_bytes
        self.complete = journal.complete
        os.ftruncate(self._file, self.received_bytes)

    def _read_journal(self) -> Journal | None:
        try:
            return Journal.model_validate(json.loads(self._journal_path.read_text()))
        except (OSError, ValueError):
            return None

    def _write_journal(self) -> None:
        journal = Journal(
            identity=self.identity,
            received_bytes=self.received_bytes,
            complete=self.complete,
            end_is_certain=self.end_is_certain,
            stored_as=self.stored_as,
            begun_at=self._begun_at,
        )
        write_atomic(self._journal_path, journal.model_dump_json().encode())


@contextlib.asynccontextmanager
async def opened_part(
    folder: Path,
    identity: Identity,
    limits: TransferSettings,
    observe: Observer,
    *,
    trust: timedelta = UNVALIDATED_TRUST,
    now: datetime | None = None,
) -> AsyncIterator[Part]:
    """As `Part.open`, held by this run alone; waits visibly while another run holds it."""
    waiting = Note("Another run is downloading the same source; waiting for it")
    with _translated():
        part = Part._of(await acquired(folder / PART, lambda: observe(waiting)), folder, identity, limits, trust, now)
    try:
        yield part
    finally:
        part.close()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except BlockingIOError:
        raise
    except OSError as error:
        raise from_os_error(error, "opening the part file") from error

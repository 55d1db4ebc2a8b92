"""What one transfer has to do, what it has learned of its source, and what it has cost: kept over all its tries.

`Transfer` makes a `TransferState`; each `ParallelTry` and what works for it read it and add to it. It lies in memory
only: after a crash a new transfer begins with what the part's journal says.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tidegate.errors import Evidence, LimitReached
from tidegate.events import Advance, Note, Observer
from tidegate.model import Digest, Identity
from tidegate.settings import TransferSettings
from tidegate.transfer.file.exchange import Connect
from tidegate.transfer.file.follow import Follower
from tidegate.transfer.file.part import Part
from tidegate.transfer.file.tuner import ConnectionTuner
from tidegate.transfer.verify import algorithms_for


@dataclass
class KnownSource:
    """What the answers so far have said of the source, and how far they are believed."""

    identity: Identity
    """What the origin that is asked says the source is."""
    promised: set[Digest]
    """Digests that the whole file must have; those that answers send along are added."""
    trust_ranges: bool = True
    conditional: bool = True
    """Whether a range is asked for with If-Range: some caches answer that with everything, although nothing changed."""
    sniffed: bool = False
    """Whether its beginning was looked at, and may be media."""
    algorithms: frozenset[str] = frozenset()
    """What the whole file is hashed with."""
    _other_etag: str | None = None

    def __post_init__(self) -> None:
        self.add_promises(())

    @property
    def size_bytes(self) -> int | None:
        return self.identity.size_bytes

    @property
    def by_ranges(self) -> bool:
        return self.trust_ranges and self.identity.ranges

    def add_promises(self, digests: Iterable[Digest]) -> None:
        self.promised.update(digests)
        self.algorithms = algorithms_for(frozenset(self.promised))

    def doubts_etag(self, answer: Identity | None, observe: Observer) -> bool:
        """Whether an answer that differs by nothing but its ETag is worth another question: some origins make a new one
        for each answer. One that is told twice is real; once two were told, none counts any more."""
        known = self.identity
        if answer is None or not only_etag_differs(known, answer) or answer.etag == self._other_etag:
            return False
        if self._other_etag is not None:
            observe(Note("The source's ETag changes with each answer; it is not believed", "warning"))
            self.identity = known.model_copy(update={"etag": None})
        self._other_etag = answer.etag
        return True


def only_etag_differs(known: Identity, answer: Identity) -> bool:
    """Whether everything else agrees that both are one file: size, date, digests."""
    same = known.size_bytes is not None and known.size_bytes == answer.size_bytes
    same = same and known.last_modified == answer.last_modified
    other = bool(known.etag and answer.etag and known.etag != answer.etag)
    return other and same and known.model_copy(update={"etag": answer.etag}).same_content_as(answer)


@dataclass
class TransferCounts:
    """What the transfer has cost until now."""

    started: float = 0.0
    """When it began, by the transfer's clock."""
    tries: int = 0
    requests: int = 0
    bytes_received: int = 0
    waited_seconds: float = 0.0
    """How long connections have waited for bytes in all; the rest of their time they were at work with them."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add_block(self, count: int, waited_seconds: float) -> None:
        """`count` bytes came, after such a wait. From any thread."""
        with self._lock:
            self.bytes_received += count
            self.waited_seconds += waited_seconds


@dataclass
class TransferState:
    """One transfer: its task, its source, its costs."""

    connect: Connect
    part: Part
    source: KnownSource
    limits: TransferSettings
    observe: Observer
    stage: str
    until: int | None
    """Where the transfer may end; None: with the source."""
    clock: Callable[[], float]
    tuner: ConnectionTuner
    follower: Follower | None
    """Hashes the part as it grows; None where its digest is not asked for."""
    counts: TransferCounts = field(default_factory=TransferCounts)

    @property
    def evidence(self) -> Evidence:
        identity = self.source.identity
        return Evidence(url=identity.url, received_bytes=self.part.received_bytes, expected_bytes=identity.size_bytes)

    @property
    def bytes_left(self) -> int | None:
        """How much of the source is not here yet, where its size is known."""
        total = self.source.size_bytes
        return None if total is None else max(0, total - self.part.received_bytes)

    def require_small_enough(self, size: int) -> None:
        """Whether a source of this size may be fetched.

        Raises:
            LimitReached: it is larger than somebody allows.
        """
        largest = self.limits.largest
        if largest is not None and size > largest:
            raise LimitReached(f"The source has more than the {largest} bytes that TIDEGATE_TRANSFER_LARGEST allows")

    def show_progress(self, speed: float) -> None:
        """Tell the observer; `speed` in bytes per second, 0 where it is not known."""
        here, total = self.part.received_bytes, self.source.size_bytes
        self.observe(Advance(self.stage, here, total, "bytes", speed or None))

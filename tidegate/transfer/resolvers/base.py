"""What a resolver is: it knows a kind of source, what such a source offers, and how to fetch it.

The probe and download stages talk to resolvers only through this protocol. What a resolver leaves in the folder it is
given is resumable: after a crash `fetch` goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tidegate.errors import UnsupportedSource
from tidegate.model import Digest, Gap, Identity, MediaInfo, Rendition, Source, TransferStats
from tidegate.transfer.outside import Outside

MAIN_TRACK = "source"
"""The track that has the picture, or the file itself; not named like the source: equal bytes have one address."""

WHOLE_FILE = Rendition(id="source", label="the file itself")
"""The only rendition of a source that is one file."""


class OtherKind(UnsupportedSource):
    """The source is of a kind that another resolver knows; found out only when its first bytes came."""

    def __init__(self, message: str, resolver: str) -> None:
        super().__init__(message)
        self.resolver = resolver


@dataclass(frozen=True)
class Offer:
    """What a source offers."""

    renditions: tuple[Rendition, ...]
    preview: MediaInfo | None = None
    """From a look at its beginning; None when only the whole can tell."""
    promised_seconds: float | None = None
    """How long the media is, where a playlist or a site says so."""
    cost: TransferStats = field(default_factory=TransferStats)


@dataclass(frozen=True)
class FetchRequest:
    """What is to be brought, and where to."""

    identity: Identity
    rendition: Rendition
    folder: Path
    """Of this rendition alone; what an earlier run left there is resumed, and nothing else is in it."""
    promised: frozenset[Digest] = frozenset()
    """Digests that the whole file must have."""
    allow_gaps: bool = False
    """Leave out segments that cannot be had, and say so, instead of failing."""
    duration_seconds: float | None = None
    """How much of a live source to take; None: until it ends."""


@dataclass(frozen=True)
class FetchResult:
    """A rendition as it lies in its folder: complete, synced, verified as far as the source allows."""

    tracks: Mapping[str, tuple[Path, ...]]
    """File name → its bytes: one file, or several that follow each other in time and have their own headers. The
    first track has the picture, where there is any; further ones are sound and subtitles that belong to it."""
    stats: TransferStats
    known: Mapping[str, Digest] = field(default_factory=dict)
    """BLAKE3 digests of tracks, where they are known already."""
    checked: frozenset[Digest] = frozenset()
    """Digests that were promised and found to hold."""
    end_is_certain: bool = True
    """Whether something other than the bytes says that nothing is missing at the end."""
    promised_seconds: float | None = None
    gaps: tuple[Gap, ...] = ()
    """What is missing, with `allow_gaps`."""


class Resolver(Protocol):
    """Stateless. A new kind of source is one module with one of these."""

    name: str

    def handles(self, source: Source) -> bool:
        """Whether this source is of its kind; decided from the link alone, without touching the source."""
        ...

    def recognises(self, identity: Identity) -> bool:
        """Whether a source that `direct` has identified is of its kind after all, by its Content-Type."""
        ...

    async def identify(self, outside: Outside, source: Source) -> tuple[Identity, TransferStats]:
        """What tells this source's content from any other, with at most one request that is answered.

        Raises:
            TidegateError: it cannot be reached, refuses, or is empty.
        """
        ...

    async def offer(
        self, outside: Outside, source: Source, identity: Identity, scratch: Callable[[str], Path]
    ) -> Offer:
        """What the source offers. `scratch` gives the folder of a rendition, in which bytes may be kept for `fetch`.

        Raises:
            OtherKind: another resolver knows this.
            NotMedia: there is no media in it.
        """
        ...

    async def fetch(self, outside: Outside, source: Source, what: FetchRequest) -> FetchResult:
        """Bring one rendition. Cancelled or killed, it goes on from the same folder next time.

        Raises:
            SegmentGap: parts of it cannot be had.
            TidegateError: whatever else the transfer may raise.
        """
        ...


def media_type_of(identity: Identity) -> str:
    """The Content-Type without its parameters, in lower case; empty where there is none."""
    return (identity.content_type or "").partition(";")[0].strip().lower()

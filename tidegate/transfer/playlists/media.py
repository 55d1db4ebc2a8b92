"""What a playlist leads to: segments, their keys and init sections, each as a frozen value.

`read_hls` and `read_dash` make them from text, in a child; the segment engine fetches what they name. Pure: the same
text gives the same values and the same fingerprints in every run, so a journal can be compared with the playlist after
a crash. It imports little: the child pays for it at each start.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urljoin, urlsplit

from tidegate.errors import Evidence, NotMedia, UnsupportedSource
from tidegate.redact import redact_url

MOST_SEGMENTS = 200_000
"""Beyond it a playlist is refused: four days of two-second segments."""

LONGEST_SECONDS = 10.0**9
"""Of a segment or a whole presentation, some thirty years: what is said to last longer is damaged."""
MOST_BPS = 10**15
LONGEST_LINK = 32 * 1024
"""Characters of one link; no server takes half of it."""
LONGEST_TEXT = 4096
"""Characters of a name, a language, a list of codecs."""
MOST_LISTED = 300_000
"""Segments of all tracks of one presentation together: six hours of two-second segments in 27 tracks."""


@dataclass(frozen=True)
class ByteRange:
    """Bytes `first` to `first + length - 1` of a resource."""

    first: int
    length: int

    @property
    def last(self) -> int:
        return self.first + self.length - 1

    @property
    def stop(self) -> int:
        """One beyond the last: where a range without an offset of its own goes on."""
        return self.first + self.length


@dataclass(frozen=True)
class Key:
    """AES-128 in CBC mode; the initialization vector is settled, whether it was written or follows from the number."""

    url: str
    iv: bytes


@dataclass(frozen=True)
class Resource:
    """Bytes to be had in one request."""

    url: str
    byte_range: ByteRange | None = None
    key: Key | None = None

    @cached_property
    def fingerprint(self) -> str:
        """The same for the same bytes although tokens in the query, or the host of a delivery network, change."""
        ranged = (self.byte_range.first, self.byte_range.length) if self.byte_range else None
        key = (stable_path(self.key.url), self.key.iv.hex()) if self.key else None
        return fingerprint(stable_path(self.url), ranged, key)


@dataclass(frozen=True)
class Segment:
    """One stretch of a track."""

    number: int
    """The media sequence number: the same segment keeps it as a live playlist moves on."""
    resource: Resource
    seconds: float
    start_seconds: float
    """From the beginning of the playlist's first segment."""
    stretch: int = 0
    """Rises where timestamps or encoding may change: at a discontinuity, or with a period."""
    init: Resource | None = None
    """What a demuxer needs before it."""
    missing: bool = False
    """The playlist itself says that it is not there."""

    @property
    def end_seconds(self) -> float:
        return self.start_seconds + self.seconds

    @cached_property
    def fingerprint(self) -> str:
        init = self.init.fingerprint if self.init else None
        return fingerprint(self.resource.fingerprint, round(self.seconds, 6), self.stretch, init)


def fingerprint(*parts: Any) -> str:
    """The engine's own fingerprint, which is imported only where it is needed: the child that reads never asks for one,
    and pydantic would take three times as long to start as everything else that it needs."""
    from tidegate.model import fingerprint as model_fingerprint

    return model_fingerprint(*parts)


def content_of(segments: Iterable[Segment]) -> str:
    """The fingerprint of a playlist's content."""
    return fingerprint(*((segment.number, segment.fingerprint) for segment in segments))


def stable_path(url: str) -> str:
    """The part of a URL that does not change with each visit."""
    return urlsplit(url).path


def likely_rate(rate_bps: int | None) -> int | None:
    """A bandwidth as a playlist gives it; one that no line has says nothing."""
    return rate_bps if rate_bps is not None and 0 <= rate_bps <= MOST_BPS else None


def web_url(base: str, reference: str, what: str) -> str:
    """The absolute URL of `reference`.

    Raises:
        UnsupportedSource: it leads anywhere but to http or https, such as to a file of this host.
    """
    try:
        url = urljoin(base, reference.strip())
        parts = urlsplit(url)
        reachable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:  # no URL at all, or a port that cannot be
        raise NotMedia(f"The playlist's {what} has no valid link", evidence=Evidence(url=redact_url(base))) from None
    if len(url) > LONGEST_LINK:
        raise playlist_damage(base, f"the link of its {what} is longer than any")
    if not reachable:
        raise UnsupportedSource(
            f"The playlist's {what} leads to {parts.scheme or 'nowhere'}:, and only http and https are followed",
            evidence=Evidence(url=redact_url(base)),
        )
    return url


def short(text: str | None, base: str) -> str | None:
    """A name as a playlist gives it.

    Raises:
        NotMedia: it is no name, so long is it.
    """
    if text is not None and len(text) > LONGEST_TEXT:
        raise playlist_damage(base, "a name in it is longer than any")
    return text


def too_long(base: str) -> UnsupportedSource:
    """The failure for a playlist that lists more than anything lists."""
    return UnsupportedSource("The playlist is longer than any that we read", evidence=Evidence(url=redact_url(base)))


def playlist_damage(base: str, why: str) -> NotMedia:
    """The failure for a playlist that cannot be understood. `why` quotes nothing of it: links carry tokens."""
    return NotMedia(f"The playlist is damaged: {why}", evidence=Evidence(url=redact_url(base)))

"""What a DASH presentation says, as values: its tracks, each with its segments.

`read_dash` makes them from text, in a child; the resolver gets them from `transfer.parsing` and hands the segments
to the segment engine. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tidegate.transfer.playlists.media import Resource, Segment, content_of, fingerprint

TrackKind = Literal["video", "audio", "text"]


@dataclass(frozen=True)
class DashTrack:
    """One representation through all periods."""

    id: str
    """Stable, and safe as a folder's name."""
    kind: TrackKind
    segments: tuple[Segment, ...]
    height: int | None = None
    width: int | None = None
    bandwidth_bps: int | None = None
    codecs: str | None = None
    language: str | None = None
    undivided: bool = False
    """Each period of it is one file."""

    @property
    def seconds(self) -> float:
        return sum(segment.seconds for segment in self.segments)

    @property
    def content(self) -> str:
        return content_of(self.segments)

    @property
    def file(self) -> Resource | None:
        """Where the track is one file, and not cut into segments."""
        first = self.segments[0]
        alone = len(self.segments) == 1 and first.init is None and first.resource.byte_range is None
        return first.resource if alone and self.undivided else None

    @property
    def label(self) -> str:
        shown = f"{self.width}x{self.height}" if self.width and self.height else ""
        rate = f"{self.bandwidth_bps / 1000:.0f} kbit/s" if self.bandwidth_bps else ""
        return ", ".join(filter(None, [shown, self.codecs or "", rate])) or "the only rendition"


@dataclass(frozen=True)
class Presentation:
    """What an MPD offers."""

    renditions: tuple[DashTrack, ...]
    """With a picture, where there is one anywhere; otherwise the sound."""
    sounds: tuple[DashTrack, ...] = ()
    """The best of each adaptation set of sound, to go with a picture."""
    texts: int = 0
    """How many tracks of subtitles there are, which are not read."""

    @property
    def content(self) -> str:
        """A fingerprint; queries of links are left out."""
        return fingerprint("dash", *((track.id, track.content) for track in (*self.renditions, *self.sounds)))

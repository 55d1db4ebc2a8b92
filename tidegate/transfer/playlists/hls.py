"""What an HLS playlist says, as values: renditions and what belongs to them, or segments in their order.

`read_hls` makes them from text, in a child; the resolver gets them from `transfer.parsing` and hands the segments
to the segment engine. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tidegate.transfer.playlists.media import Segment, content_of, fingerprint, stable_path

CompanionKind = Literal["audio", "subtitles"]


@dataclass(frozen=True)
class Companion:
    """A playlist of sound or subtitles that belongs to renditions."""

    kind: CompanionKind
    group: str
    name: str
    url: str
    language: str | None = None
    default: bool = False


@dataclass(frozen=True)
class Variant:
    """One line of a master playlist."""

    id: str
    """Stable, and safe as a folder's name."""
    urls: tuple[str, ...]
    """The playlist, and others with the same content."""
    height: int | None = None
    width: int | None = None
    bandwidth_bps: int | None = None
    average_bps: int | None = None
    codecs: str | None = None
    audio: str | None = None
    """The group that its sound is chosen from; None: it has its own."""
    subtitles: str | None = None

    @property
    def label(self) -> str:
        shown = [f"{self.width}x{self.height}" if self.width else "", self.codecs or ""]
        rate = f"{self.bandwidth_bps / 1000:.0f} kbit/s" if self.bandwidth_bps else ""
        return ", ".join(filter(None, [*shown, rate])) or "the only rendition"


@dataclass(frozen=True)
class MasterPlaylist:
    """What a source offers, as it is listed."""

    variants: tuple[Variant, ...]
    companions: tuple[Companion, ...] = ()

    @property
    def content(self) -> str:
        """A fingerprint; queries of links are left out."""
        listed = [[variant.id, stable_path(variant.urls[0])] for variant in self.variants]
        beside = [[companion.group, companion.name, stable_path(companion.url)] for companion in self.companions]
        return fingerprint("hls", listed, beside)

    def companions_of(self, variant: Variant, kind: CompanionKind) -> tuple[Companion, ...]:
        """Those of the variant's group, the default one first."""
        group = variant.audio if kind == "audio" else variant.subtitles
        found = [one for one in self.companions if one.kind == kind and one.group == group]
        return tuple(sorted(found, key=lambda one: not one.default))


@dataclass(frozen=True)
class MediaPlaylist:
    """Segments in their order."""

    segments: tuple[Segment, ...]
    ended: bool
    """Nothing will be added any more."""
    target_seconds: float
    """No segment is longer, as a rule; a live playlist is asked for again after it."""
    growing: bool = False
    """What is there stays there, though more may come (an event)."""

    @property
    def seconds(self) -> float:
        return sum(segment.seconds for segment in self.segments)

    @property
    def content(self) -> str:
        """A fingerprint; queries of links are left out."""
        return content_of(self.segments)

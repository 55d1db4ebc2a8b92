"""Playlists as plain data: how the child that reads them writes what it read, and how that is checked here.

`parse_child` writes with `messages_of`, `transfer.parsing` checks with `Account`. The child has read hostile bytes, so
nothing that it says is believed for its own sake: types, numbers, links and names are checked, and how much there is.
JSON only. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from tidegate.transfer.playlists.dash import DashTrack, Presentation, TrackKind
from tidegate.transfer.playlists.hls import Companion, CompanionKind, MasterPlaylist, MediaPlaylist, Variant
from tidegate.transfer.playlists.media import (
    LONGEST_LINK,
    LONGEST_SECONDS,
    LONGEST_TEXT,
    MOST_LISTED,
    ByteRange,
    Key,
    Resource,
    Segment,
)
from tidegate.transfer.playlists.metalink import Metalink

Playlist = MasterPlaylist | MediaPlaylist | Presentation | Metalink
Message = dict[str, Any]

SEGMENTS_IN_ONE = 64
"""How many segments one message tells: what is taken at once keeps the event loop for a millisecond."""
MOST_OTHERS = 10_000
"""Of variants, companions, tracks, copies, init sections; readers refuse long before."""
LARGEST_NUMBER = 2**65
"""Sequence numbers have 64 bits, and go on from there."""

_ID = re.compile(r"[0-9a-z-]{1,80}")
"""It becomes a folder's name."""
_DIGEST = re.compile(r"[a-z0-9]{1,16}:[0-9a-f]{32,128}")
_VECTOR = re.compile(r"[0-9a-f]{32}")


class Unbelievable(ValueError):  # becomes a failure in `transfer.parsing`
    """What the child says cannot be what a reader read."""


# --- said by the child ----------------------------------------------------------------------------


def messages_of(playlist: Playlist) -> Iterator[Message]:
    """Everything, in messages of a bounded number of things each; the last one is `{"end": …}`."""
    match playlist:
        case MediaPlaylist():
            facts = {"ended": playlist.ended, "target": playlist.target_seconds, "growing": playlist.growing}
            yield {"media": facts}
            yield from _Rows().messages(playlist.segments)
        case MasterPlaylist():
            yield {"master": {}}
            for variant in playlist.variants:
                yield {"variant": {**vars(variant)}}
            for companion in playlist.companions:
                yield {"companion": {**vars(companion)}}
        case Presentation():
            yield {"presentation": {"texts": playlist.texts}}
            rows = _Rows()
            for place, tracks in (("renditions", playlist.renditions), ("sounds", playlist.sounds)):
                for track in tracks:
                    yield {"track": {**vars(track), "segments": place}}
                    yield from rows.messages(track.segments)
        case Metalink():
            yield {"metalink": {"size": playlist.size_bytes, "digests": sorted(playlist.digests)}}
            for url, priority in playlist.urls.items():
                yield {"copy": [url, priority]}
    yield {"end": True}


@dataclass
class _Rows:
    """Segments as rows; an init section is said once and named by its number."""

    inits: dict[Resource, int] = field(default_factory=dict)

    def messages(self, segments: Sequence[Segment]) -> Iterator[Message]:
        for begin in range(0, len(segments), SEGMENTS_IN_ONE):
            some = segments[begin : begin + SEGMENTS_IN_ONE]
            for init in dict.fromkeys(one.init for one in some if one.init is not None):
                if init not in self.inits:
                    self.inits[init] = len(self.inits)
                    yield {"init": _row_of(init)}
            yield {"segments": [self._row(segment) for segment in some]}

    def _row(self, segment: Segment) -> list[Any]:
        init = None if segment.init is None else self.inits[segment.init]
        times = [segment.seconds, segment.start_seconds]
        return [segment.number, *times, segment.stretch, init, segment.missing, *_row_of(segment.resource)]


def _row_of(resource: Resource) -> list[Any]:
    ranged, key = resource.byte_range, resource.key
    row: list[Any] = [resource.url]
    if ranged is not None or key is not None:
        row += [ranged.first, ranged.length] if ranged else [None, None]
    if key is not None:
        row += [key.url, key.iv.hex()]
    return row


# --- taken by us ----------------------------------------------------------------------------------


@dataclass
class Account:
    """What the child has said so far."""

    complete: bool = False
    _head: tuple[str, Message] | None = None
    _segments: list[Segment] = field(default_factory=list)
    _inits: list[Resource] = field(default_factory=list)
    _variants: list[Variant] = field(default_factory=list)
    _companions: list[Companion] = field(default_factory=list)
    _tracks: list[tuple[str, Message, list[Segment]]] = field(default_factory=list)
    _copies: dict[str, int] = field(default_factory=dict)
    _listed: int = 0

    def take(self, message: object) -> None:
        """One message.

        Raises:
            Unbelievable: no reader of ours says that.
        """
        if not isinstance(message, dict) or len(message) != 1 or self.complete:
            raise Unbelievable("a message that is none")
        [(kind, facts)] = message.items()
        try:
            self._take(kind, facts)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise Unbelievable(f"{type(error).__name__} in what it says of {kind[:20]}") from None

    def playlist(self) -> Playlist:
        """What all messages together say.

        Raises:
            Unbelievable: that is no playlist.
        """
        if not self.complete or self._head is None:
            raise Unbelievable("it is not complete")
        kind, facts = self._head
        try:
            return getattr(self, f"_{kind}")(facts)  # type: ignore[no-any-return]
        except (TypeError, ValueError, KeyError) as error:
            raise Unbelievable(f"{type(error).__name__} in what it says of {kind}") from None

    def _take(self, kind: str, facts: Any) -> None:
        match kind:
            case "media" | "master" | "presentation" | "metalink" if self._head is None:
                self._head = kind, dict(facts)
            case "segments":
                self._listed += len(facts)
                _require(self._listed <= MOST_LISTED)
                segments = self._tracks[-1][2] if self._tracks else self._segments
                segments += [self._segment(*row) for row in facts]
            case "init":
                self._inits.append(_check_resource(*facts))
            case "variant":
                self._variants.append(_check_variant(facts))
            case "companion":
                self._companions.append(_check_companion(facts))
            case "track":
                place = facts.pop("segments")
                self._tracks.append((place, facts, []))
            case "copy":
                self._copies[_check_url(facts[0])] = _check_number(facts[1])
            case "end":
                self.complete = True
            case _:
                raise ValueError(kind)
        others = (self._inits, self._variants, self._companions, self._tracks, self._copies)
        _require(all(len(one) <= MOST_OTHERS or one is self._inits for one in others))
        _require(len(self._inits) <= MOST_LISTED)

    def _segment(
        self, number: int, seconds: float, start: float, stretch: int, init: int | None, missing: bool, *rest: Any
    ) -> Segment:
        return Segment(
            number=_check_number(number),
            resource=_check_resource(*rest),
            seconds=_check_seconds(seconds),
            start_seconds=_check_seconds(start, MOST_LISTED * LONGEST_SECONDS),
            stretch=_check_number(stretch),
            init=None if init is None else self._inits[_check_number(init)],
            missing=_check_flag(missing),
        )

    def _media(self, facts: Message) -> MediaPlaylist:
        ended, growing = _check_flag(facts["ended"]), _check_flag(facts["growing"])
        _require(bool(self._segments) or not ended)
        return MediaPlaylist(tuple(self._segments), ended, _check_seconds(facts["target"]), growing)

    def _master(self, facts: Message) -> MasterPlaylist:
        _require(bool(self._variants))
        _require(len({one.id for one in self._variants}) == len(self._variants))
        return MasterPlaylist(tuple(self._variants), tuple(self._companions))

    def _presentation(self, facts: Message) -> Presentation:
        tracks: dict[str, list[DashTrack]] = {"renditions": [], "sounds": []}
        for place, track, segments in self._tracks:
            tracks[place].append(_check_track(track, segments))
        _require(bool(tracks["renditions"]))
        for some in tracks.values():
            _require(len({one.id for one in some}) == len(some))
        return Presentation(tuple(tracks["renditions"]), tuple(tracks["sounds"]), _check_number(facts["texts"]))

    def _metalink(self, facts: Message) -> Metalink:
        digests = frozenset(_check_pattern(_DIGEST, one) for one in facts["digests"])
        return Metalink(self._copies, digests, _optional(_check_number, facts["size"]))


def _check_resource(
    url: str, first: int | None = None, length: int | None = None, key: str | None = None, iv: str | None = None
) -> Resource:
    ranged = None if first is None else ByteRange(_check_number(first), _check_number(length))
    secret = None if key is None else Key(_check_url(key), bytes.fromhex(_check_pattern(_VECTOR, iv)))
    return Resource(_check_url(url), ranged, secret)


def _check_variant(facts: Message) -> Variant:
    _require(bool(facts["urls"]) and len(facts["urls"]) <= MOST_OTHERS)
    return Variant(
        id=_check_pattern(_ID, facts["id"]),
        urls=tuple(_check_url(url) for url in facts["urls"]),
        height=_optional(_check_number, facts["height"]),
        width=_optional(_check_number, facts["width"]),
        bandwidth_bps=_optional(_check_number, facts["bandwidth_bps"]),
        average_bps=_optional(_check_number, facts["average_bps"]),
        codecs=_optional(_check_text, facts["codecs"]),
        audio=_optional(_check_text, facts["audio"]),
        subtitles=_optional(_check_text, facts["subtitles"]),
    )


def _check_companion(facts: Message) -> Companion:
    _require(facts["kind"] in get_args(CompanionKind))
    return Companion(
        kind=facts["kind"],
        group=_check_text(facts["group"]),
        name=_check_text(facts["name"]),
        url=_check_url(facts["url"]),
        language=_optional(_check_text, facts["language"]),
        default=_check_flag(facts["default"]),
    )


def _check_track(facts: Message, segments: list[Segment]) -> DashTrack:
    _require(facts["kind"] in get_args(TrackKind) and bool(segments))
    return DashTrack(
        id=_check_pattern(_ID, facts["id"]),
        kind=facts["kind"],
        segments=tuple(segments),
        height=_optional(_check_number, facts["height"]),
        width=_optional(_check_number, facts["width"]),
        bandwidth_bps=_optional(_check_number, facts["bandwidth_bps"]),
        codecs=_optional(_check_text, facts["codecs"]),
        language=_optional(_check_text, facts["language"]),
        undivided=_check_flag(facts["undivided"]),
    )


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError


def _optional(check: Any, value: Any) -> Any:
    return None if value is None else check(value)


def _check_number(value: Any) -> int:
    _require(type(value) is int and 0 <= value <= LARGEST_NUMBER)
    return int(value)


def _check_seconds(value: Any, most: float = LONGEST_SECONDS) -> float:
    _require(type(value) in (int, float) and 0 <= value <= most)
    return value  # type: ignore[no-any-return]  # a whole number stays one: its fingerprint is another


def _check_flag(value: Any) -> bool:
    _require(type(value) is bool)
    return bool(value)


def _check_text(value: Any) -> str:
    _require(type(value) is str and len(value) <= LONGEST_TEXT)
    return str(value)


def _check_url(value: Any) -> str:
    _require(
        type(value) is str and len(value) <= LONGEST_LINK and value[:8].lower().startswith(("http://", "https://"))
    )
    return str(value)


def _check_pattern(pattern: re.Pattern[str], value: Any) -> str:
    _require(type(value) is str and pattern.fullmatch(value) is not None)
    return str(value)

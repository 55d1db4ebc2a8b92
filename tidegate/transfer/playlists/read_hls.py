"""Reads HLS playlists (RFC 8216): from text and its address to renditions, or to segments in their order.

Only `parse_child` calls it, in a process of its own: what the text makes of the library, or of this module, costs that
process alone. The `m3u8` library splits the tags; offsets, keys, vectors and addresses are settled here, so that a
segment can be fetched alone, in any order, and again after a crash.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from m3u8.parser import parse

from tidegate.errors import Evidence, NotMedia, UnsupportedSource
from tidegate.redact import redact_url
from tidegate.transfer.playlists.hls import Companion, CompanionKind, MasterPlaylist, MediaPlaylist, Variant
from tidegate.transfer.playlists.media import (
    LONGEST_SECONDS,
    MOST_SEGMENTS,
    ByteRange,
    Key,
    Resource,
    Segment,
    likely_rate,
    playlist_damage,
    short,
    too_long,
    web_url,
)

MOST_VARIANTS = 500
MOST_COMPANIONS = 2000
"""Lines of sound, subtitles and the like."""
MOST_KEYS = 64
"""Keys that are offered for the same segments: one for each DRM system."""
MOST_NUMBER = 2**64 - 1
"""Of a media sequence (RFC 8216 §4.2)."""
IV_BYTES = 16

_UNDERSTOOD = (
    "#EXTM3U",
    "#EXTINF",
    "#EXT-X-BYTERANGE",
    "#EXT-X-MEDIA-SEQUENCE",
    "#EXT-X-DISCONTINUITY",
    "#EXT-X-PLAYLIST-TYPE",
    "#EXT-X-ENDLIST",
    "#EXT-X-I-FRAMES-ONLY",
    "#EXT-X-GAP",
    "#EXT-X-STREAM-INF",
    "#EXT-X-MEDIA:",
)
"""What the library is shown. A date or a cue that it cannot read would cost the whole playlist."""

_ATTRIBUTE = re.compile(r'(?<![A-Z0-9-])([A-Z0-9-]+)=("[^"]*"|[^",]*)')
"""Begins where a name begins: otherwise a name of 100 kB would be tried from each of its letters on."""
_BYTE_RANGE = re.compile(r"^(\d{1,18})(?:@(\d{1,18}))?$")
_HEX = re.compile(r"^0[xX]([0-9a-fA-F]{1,32})$")
_SOUND_ONLY = re.compile(r"^(mp4a|ac-3|ec-3|ac-4|opus|flac|mp3|alac)", re.IGNORECASE)


def read(text: str, url: str) -> MasterPlaylist | MediaPlaylist:
    """What the text of the playlist at `url` says.

    Raises:
        NotMedia: it is no playlist, or a damaged one.
        UnsupportedSource: it is encrypted in a way that is not for us, leads to other places than the web, or uses
            variables.
    """
    text = text.removeprefix("\ufeff").lstrip()
    if not text.startswith("#EXTM3U"):
        raise NotMedia("There is no HLS playlist at this link", evidence=Evidence(url=redact_url(url)))
    if "#EXT-X-DEFINE" in text:
        raise UnsupportedSource("The playlist uses variables (EXT-X-DEFINE)", evidence=Evidence(url=redact_url(url)))
    if text.count("#EXTINF") > MOST_SEGMENTS or text.count("#EXT-X-STREAM-INF") > MOST_VARIANTS:
        raise too_long(url)
    try:
        data = parse(text, custom_tags_parser=_own_tags)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  # the library raises whatever its conversions meet
        raise playlist_damage(url, f"{type(error).__name__} while reading its tags") from None
    try:
        return _master(data, url) if data["is_variant"] else _media(data, url)
    except (ValueError, TypeError, AttributeError, OverflowError, KeyError) as error:
        raise playlist_damage(url, f"{type(error).__name__} while reading its tracks") from None


def _own_tags(line: str, number: int, data: dict[str, Any], state: dict[str, Any]) -> bool:
    """Take tags over from the library; True means that it must not look at the line.

    It keeps only the last of several keys for the same segments (one for each DRM system), and forgets which key was
    in force where an init section was named.
    """
    name, _, value = line.partition(":")
    if name == "#EXT-X-KEY":
        state["current_key"] = _collect_keys(_attributes(value), data, state)
        return True
    if name == "#EXT-X-MAP":
        state["current_segment_map"] = {**_attributes(value), "key": state.get("current_key")}
        return True
    if name == "#EXT-X-TARGETDURATION":
        data["target_seconds"] = float(value)
        return True
    return not line.startswith(_UNDERSTOOD)


def _collect_keys(key: dict[str, str], data: dict[str, Any], state: dict[str, Any]) -> list[dict[str, str]] | None:
    """Keys that follow each other without a segment between them are for the same segments: any of them will do."""
    before = len(data["segments"])
    together = state.get("current_key") if state.get("keys_since") == before else None
    state["keys_since"] = before
    return None if key.get("METHOD") == "NONE" else [*(together or []), key][:MOST_KEYS]


def _attributes(text: str) -> dict[str, str]:
    return {name: value.strip('"') for name, value in _ATTRIBUTE.findall(text)}


# --- master playlists -----------------------------------------------------------------------------


def _master(data: dict[str, Any], url: str) -> MasterPlaylist:
    if len(data["playlists"]) > MOST_VARIANTS or len(data["media"]) > MOST_COMPANIONS:
        raise too_long(url)
    listed = [_read_variant(item, url) for item in data["playlists"]]
    pictures = [variant for variant in listed if not _only_sound(variant)]
    variants = _merge_equal_variants(pictures or listed)
    if not variants:
        raise playlist_damage(url, "it lists no rendition")
    beside = [_read_companion(item, url) for item in data["media"] if item.get("uri")]
    return MasterPlaylist(variants, tuple(one for one in beside if one is not None))


def _read_variant(item: dict[str, Any], url: str) -> Variant:
    facts = item["stream_info"]
    size = re.fullmatch(r'"?(\d{1,9})x(\d{1,9})"?', str(facts.get("resolution", "")).strip())
    height = int(size[2]) if size else None
    bandwidth = likely_rate(facts.get("bandwidth"))
    return Variant(
        id=_variant_id(height, bandwidth),
        urls=(web_url(url, item["uri"], "rendition"),),
        height=height,
        width=int(size[1]) if size else None,
        bandwidth_bps=bandwidth,
        average_bps=likely_rate(facts.get("average_bandwidth")),
        codecs=short(facts.get("codecs") or None, url),
        audio=short(facts.get("audio") or None, url),
        subtitles=short(facts.get("subtitles") or None, url),
    )


def _variant_id(height: int | None, bandwidth: int | None) -> str:
    parts = [f"{height}p" if height else "", f"{round(bandwidth / 1000)}k" if bandwidth else ""]
    return "-".join(filter(None, parts)) or "rendition"


def _only_sound(variant: Variant) -> bool:
    codecs = [codec.strip() for codec in (variant.codecs or "").split(",") if codec.strip()]
    return variant.height is None and bool(codecs) and all(_SOUND_ONLY.match(codec) for codec in codecs)


def _merge_equal_variants(variants: list[Variant]) -> tuple[Variant, ...]:
    """Each once. Lines that say the same are the same content elsewhere; others get an id of their own."""
    found: dict[Variant, list[str]] = {}
    for variant in variants:
        plain = Variant(**{**variant.__dict__, "urls": ()})
        found.setdefault(plain, []).extend(variant.urls)
    taken: dict[str, int] = {}
    distinct = []
    for plain, urls in found.items():
        taken[plain.id] = taken.get(plain.id, 0) + 1
        own = plain.id if taken[plain.id] == 1 else f"{plain.id}-{taken[plain.id]}"
        distinct.append(Variant(**{**plain.__dict__, "id": own, "urls": tuple(dict.fromkeys(urls))}))
    return tuple(distinct)


def _read_companion(item: Mapping[str, Any], url: str) -> Companion | None:
    kinds: dict[str, CompanionKind] = {"AUDIO": "audio", "SUBTITLES": "subtitles"}
    kind = kinds.get(str(item.get("type", "")).upper())
    if kind is None:
        return None
    return Companion(
        kind=kind,
        group=short(str(item.get("group_id", "")), url) or "",
        name=short(str(item.get("name", "")), url) or "",
        url=web_url(url, item["uri"], f"{kind} playlist"),
        language=short(item.get("language") or None, url),
        default=str(item.get("default", "")).upper() == "YES",
    )


# --- media playlists ------------------------------------------------------------------------------


def _media(data: dict[str, Any], url: str) -> MediaPlaylist:
    if data["is_i_frames_only"]:
        raise UnsupportedSource("The playlist holds only key frames", evidence=Evidence(url=redact_url(url)))
    if len(data["segments"]) > MOST_SEGMENTS:  # a range without a duration is one, too
        raise too_long(url)
    stretch = data.get("discontinuity_sequence") or 0
    if not 0 <= stretch <= MOST_NUMBER:
        raise playlist_damage(url, "its discontinuity sequence is no number that it may have")
    segments = _SegmentReader(url, stretch).segments(data)
    ended = bool(data["is_endlist"])
    if not segments and ended:
        raise playlist_damage(url, "it has no segments")
    longest = max((segment.seconds for segment in segments), default=0.0)
    target = data.get("target_seconds") or longest or 10.0
    if not 0 < target <= LONGEST_SECONDS:
        raise playlist_damage(url, "its target duration is no duration")
    growing = str(data.get("playlist_type") or "").upper() in ("EVENT", "VOD")
    return MediaPlaylist(segments, ended, target, growing)


@dataclass
class _SegmentReader:
    """Goes through the segments in their order: ranges, times and stretches follow from what was before."""

    url: str
    stretch: int
    at_seconds: float = 0.0
    last_range: tuple[str, ByteRange] | None = None

    def segments(self, data: dict[str, Any]) -> tuple[Segment, ...]:
        first = data["media_sequence"] or 0
        if not 0 <= first <= MOST_NUMBER:
            raise playlist_damage(self.url, "its media sequence is no number that it may have")
        return tuple(self._segment(item, first + place) for place, item in enumerate(data["segments"]))

    def _segment(self, item: dict[str, Any], number: int) -> Segment:
        if not item.get("uri"):
            raise playlist_damage(self.url, "it breaks off before the link of a segment")
        seconds = float(item.get("duration") or 0.0)
        if not 0 <= seconds <= LONGEST_SECONDS:
            raise playlist_damage(self.url, "the duration of a segment is no duration")
        self.stretch += bool(item.get("discontinuity"))
        start, self.at_seconds = self.at_seconds, self.at_seconds + seconds
        address = web_url(self.url, item["uri"], "segment")
        return Segment(
            number=number,
            resource=Resource(address, self._range(address, item.get("byterange")), self._key(item.get("key"), number)),
            seconds=seconds,
            start_seconds=start,
            stretch=self.stretch,
            init=self._init(item.get("init_section")),
            missing=bool(item.get("gap_tag")),
        )

    def _range(self, address: str, text: str | None) -> ByteRange | None:
        """A range without an offset begins where the one before it ended (RFC 8216 §4.3.2.2)."""
        if not text:
            self.last_range = None
            return None
        length, first = self._parse_range(text)
        if first is not None:
            settled = ByteRange(first, length)
        elif self.last_range is not None and self.last_range[0] == address:
            settled = ByteRange(self.last_range[1].stop, length)
        else:
            raise playlist_damage(self.url, "a byte range follows no other, and has no offset of its own")
        self.last_range = address, settled
        return settled

    def _parse_range(self, text: str) -> tuple[int, int | None]:
        match = _BYTE_RANGE.match(text.strip())
        if match is None or int(match[1]) == 0:
            raise playlist_damage(self.url, "a byte range is no range")
        return int(match[1]), int(match[2]) if match[2] is not None else None

    def _init(self, tag: Mapping[str, Any] | None) -> Resource | None:
        if tag is None:
            return None
        if not tag.get("URI"):
            raise playlist_damage(self.url, "an init section has no link")
        length, first = self._parse_range(tag["BYTERANGE"]) if tag.get("BYTERANGE") else (0, None)
        ranged = ByteRange(first or 0, length) if length else None
        # The vector has to be written for an init section; players take zero where it is not.
        return Resource(web_url(self.url, tag["URI"], "init section"), ranged, self._key(tag.get("key"), 0))

    def _key(self, keys: list[dict[str, str]] | None, number: int) -> Key | None:
        if not keys:
            return None
        for key in keys:
            if key.get("METHOD") == "AES-128" and key.get("KEYFORMAT", "identity").lower() == "identity":
                return Key(self._key_url(key), _vector(key.get("IV"), number, self.url))
        systems = sorted({f"{key.get('METHOD', '?')} {key.get('KEYFORMAT', '')}".strip()[:80] for key in keys})
        raise UnsupportedSource(
            f"The source is encrypted in a way that cannot be opened: {', '.join(systems)}",
            hint="Protected (DRM) media cannot be ingested.",
            evidence=Evidence(url=redact_url(self.url)),
        )

    def _key_url(self, key: Mapping[str, str]) -> str:
        if not key.get("URI"):
            raise playlist_damage(self.url, "a key has no link")
        return web_url(self.url, key["URI"], "key")


def _vector(text: str | None, number: int, url: str) -> bytes:
    """The initialization vector: written, or the media sequence number (RFC 8216 §5.2)."""
    if text is None:
        return number.to_bytes(IV_BYTES, "big")
    match = _HEX.match(text.strip())
    if match is None:
        raise playlist_damage(url, "an initialization vector is no number")
    return int(match[1], 16).to_bytes(IV_BYTES, "big")

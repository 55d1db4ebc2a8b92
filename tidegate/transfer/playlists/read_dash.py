"""Reads DASH presentations (ISO/IEC 23009-1): from the text of a static MPD to tracks with their segments.

Only `parse_child` calls it, in a process of its own: what the text makes of the libraries, or of this module, costs
that process alone. `mpegdash` knows the elements, `defusedxml` refuses documents that define entities; inheritance,
templates and timelines are settled here, so that a DASH track is a list of segments like any other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from xml.parsers.expat import ExpatError
from xml.parsers.expat.errors import XML_ERROR_NO_MEMORY, codes

from defusedxml import DefusedXmlException
from defusedxml.expatbuilder import parseString  # of minidom the same function costs half of the start
from mpegdash.nodes import MPEGDASH
from mpegdash.utils import parse_child_nodes

from tidegate.errors import Evidence, NotMedia, UnsupportedSource
from tidegate.redact import redact_url
from tidegate.transfer.playlists.dash import DashTrack, Presentation, TrackKind
from tidegate.transfer.playlists.media import (
    LONGEST_LINK,
    LONGEST_SECONDS,
    MOST_LISTED,
    MOST_SEGMENTS,
    ByteRange,
    Resource,
    Segment,
    likely_rate,
    playlist_damage,
    short,
    too_long,
    web_url,
)

_DURATION = re.compile(
    r"^P(?:(?P<days>\d+)D)?(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?$"
)
_VARIABLE = re.compile(r"\$(RepresentationID|Number|Time|Bandwidth|)(?:%0(\d{1,2})d)?\$")
_INHERITED = ("timescale", "duration", "start_number", "end_number", "presentation_time_offset", "segment_timelines")
_OF_TEMPLATES = (*_INHERITED, "media", "initialization")
_OF_LISTS = (*_INHERITED, "initializations", "segment_urls")
_TRICKS = "trickmode"


def read(text: str, url: str) -> Presentation:
    """What the MPD from `url` says.

    Raises:
        NotMedia: it is no MPD, or a damaged one.
        UnsupportedSource: it is live, protected, or leads to other places than the web.
    """
    root = _root(text, url)
    if (root.type or "static") != "static":
        raise UnsupportedSource("Live DASH presentations are not read", evidence=Evidence(url=redact_url(url)))
    try:
        return _presentation(url, root)
    except (ValueError, TypeError, AttributeError, OverflowError, KeyError) as error:
        raise playlist_damage(url, f"{type(error).__name__} while reading its tracks") from None


def _root(text: str, url: str) -> Any:
    try:
        document = parseString(text.strip(), forbid_dtd=True)
        found = parse_child_nodes(document, "MPD", MPEGDASH)
    except DefusedXmlException:
        raise UnsupportedSource("The presentation defines entities", evidence=Evidence(url=redact_url(url))) from None
    except (ExpatError, ValueError, TypeError) as error:
        if getattr(error, "code", None) == codes[XML_ERROR_NO_MEMORY]:
            raise MemoryError from None
        raise playlist_damage(url, f"{type(error).__name__} while reading its elements") from None
    if not found:
        raise NotMedia("There is no DASH presentation at this link", evidence=Evidence(url=redact_url(url)))
    return found[0]


# --- from elements to tracks ----------------------------------------------------------------------


def _presentation(url: str, root: Any) -> Presentation:
    reader = _PeriodReader(url, root)
    candidates = reader.candidates()
    free = [candidate for candidate in candidates if not candidate.protected]
    if candidates and not free:
        raise UnsupportedSource(
            "The source is encrypted in a way that cannot be opened",
            hint="Protected (DRM) media cannot be ingested.",
            evidence=Evidence(url=redact_url(url)),
        )
    periods = sorted({candidate.period for candidate in candidates})
    pictures = reader.tracks(periods, [one for one in free if one.kind == "video"])
    sounds = reader.tracks(periods, [one for one in free if one.kind == "audio"])
    if not pictures and not sounds:
        raise playlist_damage(url, "it lists neither picture nor sound")
    if not pictures:
        return Presentation(_with_own_ids(sounds.values()), texts=reader.texts)
    best: dict[int, DashTrack] = {}
    for (place, _), track in sounds.items():
        if place not in best or (track.bandwidth_bps or 0) > (best[place].bandwidth_bps or 0):
            best[place] = track
    return Presentation(_with_own_ids(pictures.values()), _with_own_ids(best.values()), reader.texts)


@dataclass(frozen=True)
class _Candidate:
    """A representation in one period, with what it inherits."""

    url: str
    """Of the presentation."""
    kind: TrackKind
    representation: Any
    set_: Any
    place: int
    """Which adaptation set of its kind it is in."""
    layers: tuple[Any, ...]
    """From the presentation inwards."""
    period: int
    period_start: float
    period_seconds: float | None

    def first(self, name: str) -> Any:
        """The attribute where it is set innermost, of representation and adaptation set."""
        return getattr(self.representation, name) or getattr(self.set_, name)

    @property
    def height(self) -> int:
        return self.first("height") or 0

    @property
    def bandwidth(self) -> int:
        return likely_rate(self.representation.bandwidth) or 0

    @property
    def protected(self) -> bool:
        return bool(self.representation.content_protections or self.set_.content_protections)


@dataclass
class _PeriodReader:
    """Goes through the periods in their order: times and tracks follow from what was before."""

    url: str
    root: Any
    texts: int = 0
    """Tracks of subtitles in the first period."""
    listed: int = 0
    """Segments of all tracks that were put together so far."""

    def candidates(self) -> list[_Candidate]:
        """The representations of all periods, without what nobody needs."""
        periods = self.root.periods or []
        total = _duration_seconds(self.root.media_presentation_duration)
        starts = self._starts(periods)
        found: list[_Candidate] = []
        for number, period in enumerate(periods):
            end = starts[number + 1] if number + 1 < len(starts) else total
            length = _duration_seconds(period.duration) or (end - starts[number] if end is not None else None)
            found += self._read_period(number, period, starts[number], length)
        return found

    def tracks(self, periods: Sequence[int], candidates: Sequence[_Candidate]) -> dict[tuple[int, str], DashTrack]:
        """Each representation of the first period, continued in the others by its like."""
        of_a_period: dict[int, list[_Candidate]] = {period: [] for period in periods}
        for candidate in candidates:
            of_a_period[candidate.period].append(candidate)
        tracks: dict[tuple[int, str], DashTrack] = {}
        for first in of_a_period[periods[0]] if periods else []:
            chain = [first]
            for period in periods[1:]:
                following = _like(first, of_a_period[period])
                if following is None:
                    break
                chain.append(following)
            if len(chain) == len(periods):
                track = tracks[(first.place, str(first.representation.id))] = _join_periods(self.url, chain)
                self.listed += len(track.segments)
                if self.listed > MOST_LISTED:
                    raise too_long(self.url)
        return tracks

    @staticmethod
    def _starts(periods: Sequence[Any]) -> list[float]:
        starts: list[float] = []
        for number, period in enumerate(periods):
            follows = starts[-1] + (_duration_seconds(periods[number - 1].duration) or 0.0) if starts else 0.0
            own = _duration_seconds(period.start)
            starts.append(follows if own is None else own)
        return starts

    def _read_period(self, number: int, period: Any, start: float, seconds: float | None) -> Iterator[_Candidate]:
        places: dict[str, int] = {}
        for set_ in period.adaptation_sets or []:
            kind = _kind_of(set_)
            if kind is None or _is_trick(set_):
                continue
            place = places[kind] = places.get(kind, -1) + 1
            if kind == "text":
                self.texts += number == 0
                continue
            for representation in set_.representations or []:
                layers = (self.root, period, set_, representation)
                yield _Candidate(self.url, kind, representation, set_, place, layers, number, start, seconds)


def _like(first: _Candidate, others: list[_Candidate]) -> _Candidate | None:
    """The same representation in another period: by name, or else the nearest in size and rate."""
    named = [one for one in others if one.representation.id == first.representation.id and one.place == first.place]
    beside = [one for one in others if one.place == first.place] or others
    distance = {id(one): (abs(one.height - first.height), abs(one.bandwidth - first.bandwidth)) for one in beside}
    return named[0] if named else min(beside, key=lambda one: distance[id(one)], default=None)


def _join_periods(url: str, chain: Sequence[_Candidate]) -> DashTrack:
    first = chain[0]
    segments: list[Segment] = []
    for candidate in chain:
        for segment in _segments(url, candidate):
            segments.append(replace(segment, number=len(segments)))
            if len(segments) > MOST_SEGMENTS:
                raise too_long(url)
    if not segments:
        raise playlist_damage(url, "a track has no segments")
    if not sum(segment.seconds for segment in segments) <= LONGEST_SECONDS:
        raise playlist_damage(url, "a track lasts longer than anything does")
    rate = f"{round(first.bandwidth / 1000)}k" if first.bandwidth else ""
    size = f"{first.height}p" if first.kind == "video" and first.height else ""
    return DashTrack(
        id="-".join(filter(None, [size, rate])) or "rendition",
        kind=first.kind,
        segments=tuple(segments),
        height=first.height or None,
        width=first.first("width"),
        bandwidth_bps=first.bandwidth or None,
        codecs=short(first.first("codecs"), url),
        language=short(first.set_.lang, url),
        undivided=not any(_names_segments(candidate) for candidate in chain),
    )


def _with_own_ids(tracks: Iterable[DashTrack]) -> tuple[DashTrack, ...]:
    """With ids of their own."""
    taken: dict[str, int] = {}
    distinct = []
    for track in tracks:
        taken[track.id] = taken.get(track.id, 0) + 1
        distinct.append(track if taken[track.id] == 1 else replace(track, id=f"{track.id}-{taken[track.id]}"))
    return tuple(distinct)


# --- segments -------------------------------------------------------------------------------------


def _names_segments(candidate: _Candidate) -> bool:
    """Whether its elements name segments at all."""
    return any(
        getattr(layer, element, None)
        for layer in candidate.layers[1:]
        for element in ("segment_templates", "segment_lists")
    )


def _segments(url: str, candidate: _Candidate) -> Iterator[Segment]:
    """Numbered later; times from the beginning of the presentation."""
    base = _base(url, candidate.layers)
    template = _inherit(candidate.layers[1:], "segment_templates", _OF_TEMPLATES)
    if template and template.get("media"):
        return _by_template(base, candidate, template)
    listing = _inherit(candidate.layers[1:], "segment_lists", _OF_LISTS)
    if listing and listing.get("segment_urls"):
        return _by_list(base, candidate, listing)
    return iter([_segment(candidate, Resource(base), None, 0.0, candidate.period_seconds or 0.0)])


def _by_template(base: str, candidate: _Candidate, template: dict[str, Any]) -> Iterator[Segment]:
    scale = template.get("timescale") or 1
    offset = template.get("presentation_time_offset") or 0
    init = None
    if template.get("initialization"):
        init = Resource(web_url(base, _fill_template(template["initialization"], candidate, 0, 0), "init section"))
    first = 1 if template.get("start_number") is None else template["start_number"]
    for place, (begin, length) in enumerate(_times(candidate, template, scale, None)):
        link = _fill_template(template["media"], candidate, first + place, begin)
        start = (begin - offset) / scale if template.get("segment_timelines") else begin / scale
        yield _segment(candidate, Resource(web_url(base, link, "segment")), init, start, length / scale)


def _by_list(base: str, candidate: _Candidate, listing: dict[str, Any]) -> Iterator[Segment]:
    scale = listing.get("timescale") or 1
    init = None
    for one in listing.get("initializations") or []:
        link = web_url(base, one.source_url, "init section") if one.source_url else base
        init = Resource(link, _range(base, one.range))
    urls = listing["segment_urls"]
    times = list(_times(candidate, listing, scale, len(urls)))
    for one, (begin, length) in zip(urls, times, strict=False):
        link = web_url(base, one.media, "segment") if one.media else base
        resource = Resource(link, _range(base, one.media_range))
        yield _segment(candidate, resource, init, begin / scale, length / scale)


def _segment(candidate: _Candidate, resource: Resource, init: Resource | None, start: float, seconds: float) -> Segment:
    if seconds < 0:
        raise ValueError("a segment that ends before it begins")
    at = candidate.period_start + max(0.0, start)
    return Segment(0, resource, seconds, at, stretch=candidate.period, init=init)


def _times(candidate: _Candidate, timing: dict[str, Any], scale: int, count: int | None) -> Iterator[tuple[int, int]]:
    """Begin and length of each segment, in units of the timescale."""
    timelines = timing.get("segment_timelines")
    if timelines:
        yield from _by_timeline(candidate, timelines[0].Ss or [], scale, timing.get("presentation_time_offset") or 0)
        return
    length = timing.get("duration")
    if not length:
        if count is None:
            raise ValueError("neither duration nor timeline")
        length = math.ceil((candidate.period_seconds or 0.0) * scale / count)
    total = round((candidate.period_seconds or 0.0) * scale)
    if count is None:
        first = 1 if timing.get("start_number") is None else timing["start_number"]
        last = timing.get("end_number")
        # A rounding error of a thousandth of a segment makes no further one.
        count = last - first + 1 if last is not None else math.ceil(total / length - 0.001)
    if count > MOST_SEGMENTS:
        raise too_long(candidate.url)
    for place in range(count):
        begin = place * length
        yield begin, min(length, total - begin) if total > begin else length


def _by_timeline(candidate: _Candidate, entries: Sequence[Any], scale: int, offset: int) -> Iterator[tuple[int, int]]:
    at = 0
    count = 0
    for place, entry in enumerate(entries):
        at = at if entry.t is None else entry.t
        repeats = entry.r or 0
        if entry.d <= 0:
            raise ValueError("a segment without duration")
        if repeats < 0:  # until the next entry, or the end of the period
            following = entries[place + 1].t if place + 1 < len(entries) else None
            end = following if following is not None else offset + round((candidate.period_seconds or 0.0) * scale)
            repeats = max(0, math.ceil((end - at) / entry.d - 0.001) - 1)
        count += repeats + 1
        if count > MOST_SEGMENTS:
            raise too_long(candidate.url)
        for _ in range(repeats + 1):
            yield at, entry.d
            at += entry.d


def _inherit(layers: Sequence[Any], element: str, names: Sequence[str]) -> dict[str, Any]:
    """Attributes of an element that may stand in period, adaptation set and representation; the innermost wins."""
    values: dict[str, Any] = {}
    for layer in layers:
        for one in getattr(layer, element, None) or []:
            values |= {name: value for name in names if (value := getattr(one, name, None)) is not None}
    return values


def _base(url: str, layers: Sequence[Any]) -> str:
    """The first base of each level, each relative to the one around it."""
    for layer in layers:
        bases = layer.base_urls or []
        if bases and bases[0].base_url_value:
            url = web_url(url, bases[0].base_url_value, "base")
    return url


def _fill_template(template: str, candidate: _Candidate, number: int, time: int) -> str:
    values = {
        "RepresentationID": candidate.representation.id,
        "Bandwidth": candidate.bandwidth,
        "Number": number,
        "Time": time,
    }

    longest = max(len(str(value)) for value in values.values())
    if len(template) + template.count("$") // 2 * longest > 2 * LONGEST_LINK:
        raise playlist_damage(candidate.url, "a template makes links that are longer than any")

    def value(match: re.Match[str]) -> str:
        if not match[1]:
            return "$"
        variable = values[match[1]]
        return f"{variable:0{int(match[2])}d}" if match[2] and isinstance(variable, int) else str(variable)

    return _VARIABLE.sub(value, template)


def _range(url: str, text: str | None) -> ByteRange | None:
    if not text:
        return None
    match = re.fullmatch(r"(\d{1,18})-(\d{1,18})", text.strip())
    if match is None or int(match[2]) < int(match[1]):
        raise playlist_damage(url, "a byte range is no range")
    return ByteRange(int(match[1]), int(match[2]) - int(match[1]) + 1)


def _kind_of(set_: Any) -> TrackKind | None:
    representations = set_.representations or []
    mime = set_.mime_type or next((one.mime_type for one in representations if one.mime_type), "") or ""
    content = (set_.content_type or mime.partition("/")[0]).lower()
    kinds: dict[str, TrackKind] = {"video": "video", "audio": "audio", "text": "text", "application": "text"}
    return kinds.get(content)


def _is_trick(set_: Any) -> bool:
    """Key frames only, for fast forward."""
    return any(_TRICKS in (one.scheme_id_uri or "") for one in set_.essential_properties or [])


def _duration_seconds(text: str | None) -> float | None:
    """An xs:duration; months and years are in no presentation."""
    if text is None:
        return None
    match = _DURATION.match(text.strip())
    if match is None:
        raise ValueError("a duration that is none")
    days, hours, minutes = (int(match[name] or 0) for name in ("days", "hours", "minutes"))
    seconds = ((days * 24 + hours) * 60 + minutes) * 60 + float(match["seconds"] or 0.0)
    if seconds > LONGEST_SECONDS:
        raise ValueError("a duration that is none")
    return seconds

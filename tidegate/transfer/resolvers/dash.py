"""DASH: a static presentation (MPD) behind an http(s) link, with its renditions.

The probe stage looks at the ladder through it and the download stage brings one rung, the sound beside it; the site
resolver fetches formats with it that are listed in a presentation. It is asked for anew in each run; segments that a
look or an earlier run left in the rendition's folder are not fetched again when they belong to the same content.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tidegate.events import Note
from tidegate.model import Identity, Rendition, Source, TransferStats
from tidegate.transfer.asking.ask import Response
from tidegate.transfer.outside import Outside
from tidegate.transfer.parsing import parse_dash
from tidegate.transfer.playlists.dash import DashTrack, Presentation
from tidegate.transfer.playlists.media import Segment
from tidegate.transfer.resolvers.base import Fetched, Fetching, Offer
from tidegate.transfer.resolvers.listed import (
    MAIN,
    Renew,
    ask_text,
    best_of,
    chosen,
    fetch_listed,
    fetched_from,
    listed_identity,
    preview_of,
    track_name,
)
from tidegate.transfer.segments import Haul, Track

TYPE = "application/dash+xml"


class DashResolver:
    """See `Resolver`."""

    name = "dash"

    def handles(self, source: Source) -> bool:
        path = urlsplit(source.url.get_secret_value()).path.lower()
        return source.scheme in ("http", "https") and path.endswith(".mpd")

    def recognises(self, identity: Identity) -> bool:
        return (identity.content_type or "").partition(";")[0].strip().lower() == TYPE

    async def identify(self, outside: Outside, source: Source) -> tuple[Identity, TransferStats]:
        told = await ask_presentation(outside, source, source.url.get_secret_value())
        identity = listed_identity(source, told.answer, told.presentation.content)
        return identity, TransferStats(requests=told.answer.requests)

    async def offer(
        self, outside: Outside, source: Source, identity: Identity, scratch: Callable[[str], Path]
    ) -> Offer:
        told = await ask_presentation(outside, source, source.url.get_secret_value())
        renditions = told.presentation.renditions
        best = best_of(renditions)
        seconds = best.seconds or None
        track = track_of(MAIN, best, Fetching(identity, rendition_of(best), scratch(best.id)))
        preview, cost = await preview_of(outside, source, track, best.segments, seconds)
        return Offer(
            renditions=tuple(rendition_of(one) for one in renditions),
            preview=preview,
            promised_seconds=seconds,
            cost=TransferStats(requests=told.answer.requests) + cost,
        )

    async def fetch(self, outside: Outside, source: Source, what: Fetching) -> Fetched:
        return await fetch_presentation(outside, source, source.url.get_secret_value(), what)


def rendition_of(track: DashTrack) -> Rendition:
    """What the source says of a rendition."""
    rate = track.bandwidth_bps
    return Rendition(
        id=track.id,
        label=track.label,
        height=track.height,
        bandwidth_bps=rate,
        size_bytes=round(rate * track.seconds / 8) if rate and track.seconds else None,
    )


@dataclass(frozen=True)
class Told:
    """A presentation as it was answered."""

    presentation: Presentation
    answer: Response


async def ask_presentation(outside: Outside, source: Source, url: str) -> Told:
    """The presentation behind a link.

    Raises:
        NotMedia: there is none, or a damaged one.
        UnsupportedSource: see `playlists.read_dash.read`.
        MemoryExhausted, ProcessTimeout: reading it takes more than it may.
        TidegateError: it cannot be had.
    """
    answer = await ask_text(outside, source, url)
    return Told(await parse_dash(outside, answer.body, answer.url), answer)


async def fetch_presentation(
    outside: Outside, source: Source, url: str, what: Fetching, *, renew: Renew | None = None
) -> Fetched:
    """Bring one rendition of the presentation behind a link, and its sound; see `hls.fetch_playlist`.

    Raises:
        SegmentGap: segments cannot be had, and gaps are not allowed.
        TidegateError: whatever else ended the transfer.
    """

    async def fetch_from(haul: Haul, link: str) -> Fetched:
        return fetched_from(haul, await haul.bring(await _tracks(haul, link, what)))

    return await fetch_listed(outside, source, url, what, fetch_from, renew)


async def _tracks(haul: Haul, url: str, what: Fetching) -> list[Track]:
    told = await ask_presentation(haul.outside, haul.source, url)
    haul.supply.requests += told.answer.requests
    presentation = told.presentation
    if presentation.texts:
        haul.outside.observe(Note(f"{presentation.texts} tracks of subtitles are left out"))
    main = track_of(MAIN, chosen(presentation.renditions, what.rendition.id), what)
    sounds = enumerate(presentation.sounds, 1)
    return [main, *(track_of(track_name("sound", number, one.language), one, what) for number, one in sounds)]


def track_of(name: str, track: DashTrack, what: Fetching) -> Track:
    """The segments of one representation, as the engine takes them."""

    async def all_at_once(held: Mapping[int, float]) -> AsyncIterator[Sequence[Segment]]:
        yield track.segments

    folder = what.folder / name
    return Track(name, folder, (track.content,), all_at_once, file=track.file, seconds=track.seconds or None)

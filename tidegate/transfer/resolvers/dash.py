"""DASH: a static presentation (MPD) behind an http(s) link, with its renditions.

The probe stage looks at the ladder through it and the download stage brings one rung, the sound beside it; the site
resolver fetches formats with it that are listed in a presentation. It is asked for anew in each run; segments that a
look or an earlier run left in the rendition's folder are not fetched again when they belong to the same content.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tidegate.events import Note
from tidegate.model import Identity, Rendition, Source, TransferStats
from tidegate.transfer.asking.ask import Response
from tidegate.transfer.outside import Outside
from tidegate.transfer.parsing import parse_dash
from tidegate.transfer.playlists.dash import DashTrack, Presentation
from tidegate.transfer.resolvers.base import MAIN_TRACK, FetchRequest, FetchResult, Offer, media_type_of
from tidegate.transfer.resolvers.listed import (
    Renew,
    ask_text,
    best_of,
    choose,
    fetch_tracks,
    leads_to,
    offer_with_preview,
    playlist_identity,
    track_name,
)
from tidegate.transfer.segments import DownloadSession, SegmentTrack, whole_feed

SUFFIX = ".mpd"
TYPE = "application/dash+xml"


class DashResolver:
    """A `Resolver` for static DASH presentations."""

    name = "dash"

    def handles(self, source: Source) -> bool:
        return leads_to(source, SUFFIX)

    def recognises(self, identity: Identity) -> bool:
        return media_type_of(identity) == TYPE

    async def identify(self, outside: Outside, source: Source) -> tuple[Identity, TransferStats]:
        fetched = await ask_presentation(outside, source, source.url.get_secret_value())
        identity = playlist_identity(source, fetched.answer, fetched.presentation.content)
        return identity, TransferStats(requests=fetched.answer.requests)

    async def offer(
        self, outside: Outside, source: Source, identity: Identity, scratch: Callable[[str], Path]
    ) -> Offer:
        fetched = await ask_presentation(outside, source, source.url.get_secret_value())
        best = best_of(fetched.presentation.renditions)
        what = FetchRequest(identity, dash_rendition(best), scratch(best.id))
        return await offer_with_preview(
            outside,
            source,
            map(dash_rendition, fetched.presentation.renditions),
            dash_track(what, MAIN_TRACK, best),
            best.segments,
            seconds=best.seconds or None,
            requests=fetched.answer.requests,
        )

    async def fetch(self, outside: Outside, source: Source, what: FetchRequest) -> FetchResult:
        return await fetch_presentation(outside, source, source.url.get_secret_value(), what)


def dash_rendition(track: DashTrack) -> Rendition:
    """What the source says of a rendition."""
    rate = track.bandwidth_bps
    return Rendition(
        id=track.id,
        label=track.label,
        height=track.height,
        bandwidth_bps=rate,
        size_bytes=round(rate * track.seconds / 8) if rate and track.seconds else None,
    )


async def fetch_presentation(
    outside: Outside, source: Source, url: str, what: FetchRequest, *, renew: Renew | None = None
) -> FetchResult:
    """Bring one rendition of the presentation behind a link, and its sound; see `hls.fetch_playlist`.

    Raises:
        SegmentGap: segments cannot be had, and gaps are not allowed.
        TidegateError: whatever else ended the transfer.
    """

    async def tracks_behind(session: DownloadSession, link: str) -> list[SegmentTrack]:
        return await _dash_tracks(session, link, what)

    return await fetch_tracks(outside, source, url, what, tracks_behind, renew)


# --- asking ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FetchedManifest:
    """A presentation as it was answered."""

    presentation: Presentation
    answer: Response


async def ask_presentation(outside: Outside, source: Source, url: str) -> FetchedManifest:
    """The presentation behind a link.

    Raises:
        NotMedia: there is none, or a damaged one.
        UnsupportedSource: see `playlists.read_dash.read`.
        MemoryExhausted, ProcessTimeout: reading it takes more than it may.
        TidegateError: it cannot be had.
    """
    answer = await ask_text(outside, source, url)
    return FetchedManifest(await parse_dash(outside, answer.body, answer.url), answer)


# --- tracks ---------------------------------------------------------------------------------------


async def _dash_tracks(session: DownloadSession, url: str, what: FetchRequest) -> list[SegmentTrack]:
    """The picture's track first, then those of the sound that goes with it."""
    fetched = await ask_presentation(session.outside, session.source, url)
    session.requests += fetched.answer.requests
    presentation = fetched.presentation
    if presentation.texts:
        session.observe(Note(f"{presentation.texts} tracks of subtitles are left out"))
    main = dash_track(what, MAIN_TRACK, choose(presentation.renditions, what.rendition.id))
    sounds = enumerate(presentation.sounds, 1)
    return [main, *(dash_track(what, track_name("sound", number, one.language), one) for number, one in sounds)]


def dash_track(what: FetchRequest, name: str, track: DashTrack) -> SegmentTrack:
    """The segments of one representation, as the engine takes them."""
    return SegmentTrack(
        name=name,
        folder=what.folder / name,
        contents=(track.content,),
        feed=whole_feed(track.segments),
        file=track.file,
        seconds=track.seconds or None,
    )

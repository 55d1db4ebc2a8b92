"""HLS: a playlist behind an http(s) link, with its renditions.

The probe stage looks at the ladder through it and the download stage brings one rung; the site resolver fetches formats
with it that are playlists. Live ones are followed until they end. Playlists are asked for anew in each run; segments
that a look or an earlier run left in the rendition's folder are not fetched again when they belong to the same content.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

from tidegate.errors import (
    StalledTransfer,
    TidegateError,
    UnsupportedSource,
)
from tidegate.events import Note
from tidegate.model import Identity, Rendition, Source, TransferStats, fingerprint
from tidegate.transfer.asking.ask import Response
from tidegate.transfer.outside import Outside
from tidegate.transfer.parsing import parse_hls
from tidegate.transfer.playlists.hls import Companion, MasterPlaylist, MediaPlaylist, Variant
from tidegate.transfer.playlists.live import LiveCourse
from tidegate.transfer.playlists.media import Segment, stable_path
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
from tidegate.transfer.segments import DownloadSession, Feed, SegmentTrack, single_failure, whole_feed

SUFFIXES = (".m3u8", ".m3u")
TYPES = ("application/vnd.apple.mpegurl", "application/x-mpegurl", "audio/mpegurl", "audio/x-mpegurl")
AT_ONCE = 4
"""Playlists of renditions that are asked for at once."""

ONLY = Variant(id="source", urls=())
"""A media playlist that no master lists."""


class HlsResolver:
    """A `Resolver` for HLS playlists."""

    name = "hls"

    def handles(self, source: Source) -> bool:
        return leads_to(source, SUFFIXES)

    def recognises(self, identity: Identity) -> bool:
        return media_type_of(identity) in TYPES

    async def identify(self, outside: Outside, source: Source) -> tuple[Identity, TransferStats]:
        fetched = await ask_playlist(outside, source, source.url.get_secret_value())
        return identity_of(source, fetched), TransferStats(requests=fetched.answer.requests)

    async def offer(
        self, outside: Outside, source: Source, identity: Identity, scratch: Callable[[str], Path]
    ) -> Offer:
        url = source.url.get_secret_value()
        fetched = await ask_playlist(outside, source, url)
        listings, requests = await _ask_ladder(outside, source, fetched, url)
        renditions = {variant: hls_rendition(variant, listing.playlist) for variant, listing in listings.items()}
        best = best_of(renditions)
        playlist = listings[best].playlist
        what = FetchRequest(identity, renditions[best], scratch(best.id))
        return await offer_with_preview(
            outside,
            source,
            renditions.values(),
            hls_track(outside, source, what, MAIN_TRACK, listings[best]),
            playlist.segments,
            seconds=playlist.seconds if playlist.ended else None,
            requests=fetched.answer.requests + requests,
        )

    async def fetch(self, outside: Outside, source: Source, what: FetchRequest) -> FetchResult:
        return await fetch_playlist(outside, source, source.url.get_secret_value(), what)


def identity_of(source: Source, fetched: FetchedPlaylist) -> Identity:
    """What tells this playlist's content from any other."""
    playlist = fetched.playlist
    if isinstance(playlist, MediaPlaylist) and not playlist.ended:
        return playlist_identity(source, fetched.answer, live_content(fetched.answer.url), live=True)
    return playlist_identity(source, fetched.answer, playlist.content)


def hls_rendition(variant: Variant, playlist: MediaPlaylist) -> Rendition:
    """What the source says of a rendition."""
    rate = variant.average_bps or variant.bandwidth_bps
    return Rendition(
        id=variant.id,
        label=variant.label,
        height=variant.height,
        bandwidth_bps=variant.bandwidth_bps,
        size_bytes=round(rate * playlist.seconds / 8) if rate and playlist.ended else None,
    )


async def fetch_playlist(
    outside: Outside, source: Source, playlist_url: str, what: FetchRequest, *, renew: Renew | None = None
) -> FetchResult:
    """Bring the rendition behind a playlist, with the sound and the subtitles that belong to it.

    `playlist_url` may lead to a master playlist, of which the rendition with the id in `what` is taken (its best where
    there is none of that id), or to the rendition's own. `renew` gives a fresh link to it when what it leads to was
    refused; without, the same link is asked again. Either happens once.

    Raises:
        SegmentGap: segments cannot be had, and gaps are not allowed.
        TidegateError: whatever else ended the transfer.
    """

    async def tracks_behind(session: DownloadSession, url: str) -> list[SegmentTrack]:
        return await _hls_tracks(session, url, what)

    return await fetch_tracks(outside, source, playlist_url, what, tracks_behind, renew)


# --- asking ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FetchedPlaylist:
    """A playlist as it was answered."""

    playlist: MasterPlaylist | MediaPlaylist
    answer: Response


@dataclass(frozen=True)
class Listing:
    """A media playlist, and where to ask for it again."""

    playlist: MediaPlaylist
    url: str


async def ask_playlist(outside: Outside, source: Source, url: str) -> FetchedPlaylist:
    """The playlist behind a link; its own links are relative to where it came from, after redirects.

    Raises:
        NotMedia: there is none, or a damaged one.
        UnsupportedSource: see `playlists.read_hls.read`.
        MemoryExhausted, ProcessTimeout: reading it takes more than it may.
        TidegateError: it cannot be had.
    """
    answer = await ask_text(outside, source, url)
    return FetchedPlaylist(await parse_hls(outside, answer.body, answer.url), answer)


async def ask_media_playlist(outside: Outside, source: Source, urls: Sequence[str]) -> tuple[Listing, int]:
    """The first of several playlists with the same content that can be had, and how many requests it took.

    Raises:
        ProcessFailure: one of them exhausts whoever reads it, and the others are left alone.
        TidegateError: the last one's failure.
    """
    failure: TidegateError = UnsupportedSource("The rendition has no playlist")
    requests = 0
    for url in urls:
        try:
            fetched = await ask_playlist(outside, source, url)
        except TidegateError as error:
            if error.policy.of_our_tools:
                raise
            failure, requests = error, requests + 1
            continue
        if isinstance(fetched.playlist, MasterPlaylist):
            raise UnsupportedSource("A master playlist leads to another master playlist")
        return Listing(fetched.playlist, url), requests + fetched.answer.requests
    raise failure


async def _ask_ladder(
    outside: Outside, source: Source, fetched: FetchedPlaylist, url: str
) -> tuple[dict[Variant, Listing], int]:
    """The playlists of all renditions, and how many requests they took; one that does not answer is left out, and told.

    Raises:
        ProcessFailure: one exhausts whoever reads it. The source is not asked what else it has of that kind.
        TidegateError: none answers; the failure of the first.
    """
    if isinstance(fetched.playlist, MediaPlaylist):
        return {ONLY: Listing(fetched.playlist, url)}, 0
    ladder = _VariantPlaylists(outside, source)
    async with single_failure(), anyio.create_task_group() as group:
        for variant in fetched.playlist.variants:
            group.start_soon(ladder.ask, variant)
    return ladder.in_order_of(fetched.playlist), ladder.requests


class _VariantPlaylists:
    """The playlists of a ladder, several of them asked for at once."""

    def __init__(self, outside: Outside, source: Source) -> None:
        self._outside = outside
        self._source = source
        self._slots = anyio.CapacityLimiter(AT_ONCE)
        self._listings: dict[str, Listing] = {}
        self._failures: dict[str, TidegateError] = {}
        self.requests = 0

    async def ask(self, variant: Variant) -> None:
        async with self._slots:
            try:
                self._listings[variant.id], cost = await ask_media_playlist(self._outside, self._source, variant.urls)
                self.requests += cost
            except TidegateError as error:
                if error.policy.of_our_tools:
                    raise
                self._failures[variant.id] = error
                self.requests += 1
                left_out = f"The rendition {variant.id} is left out: {error.message}"
                self._outside.observe(Note(left_out, "warning", {"failure": error.type}))

    def in_order_of(self, master: MasterPlaylist) -> dict[Variant, Listing]:
        """Those that were answered; the first one's failure where none was."""
        if not self._listings:
            raise self._failures[master.variants[0].id]
        return {variant: self._listings[variant.id] for variant in master.variants if variant.id in self._listings}


# --- tracks ---------------------------------------------------------------------------------------


async def _hls_tracks(session: DownloadSession, url: str, what: FetchRequest) -> list[SegmentTrack]:
    """The picture's track first, then those of the sound and the subtitles that go with it."""
    fetched = await ask_playlist(session.outside, session.source, url)
    session.requests += fetched.answer.requests
    if isinstance(fetched.playlist, MediaPlaylist):
        return [hls_track(session.outside, session.source, what, MAIN_TRACK, Listing(fetched.playlist, url))]
    master = fetched.playlist
    variant = choose(master.variants, what.rendition.id)
    tracks = [await _ask_track(session, MAIN_TRACK, variant.urls, what)]
    for number, companion in enumerate(_beside(master.companions_of(variant, "audio"), variant), 1):
        name = track_name("sound", number, companion.language)
        tracks.append(await _ask_track(session, name, (companion.url,), what))
    for number, companion in enumerate(_beside(master.companions_of(variant, "subtitles"), variant), 1):
        tracks += await _ask_subtitles(session, track_name("subtitles", number, companion.language), companion, what)
    return tracks


async def _ask_track(
    session: DownloadSession, name: str, urls: Sequence[str], what: FetchRequest, *, vital: bool = True
) -> SegmentTrack:
    listing, requests = await ask_media_playlist(session.outside, session.source, urls)
    session.requests += requests
    return hls_track(session.outside, session.source, what, name, listing, vital=vital)


async def _ask_subtitles(
    session: DownloadSession, name: str, companion: Companion, what: FetchRequest
) -> list[SegmentTrack]:
    """A film is not refused for its subtitles: where they cannot be had they are left out, and that is told."""
    try:
        return [await _ask_track(session, name, (companion.url,), what, vital=False)]
    except TidegateError as error:
        if error.policy.of_our_tools:
            raise
        session.observe(Note(f"Left out {name}: {error.message}", "warning", {"failure": error.type}))
        return []


def _beside(companions: Sequence[Companion], variant: Variant) -> list[Companion]:
    """Each link once; a master may list the sound of a rendition under the rendition's own, as it is in there."""
    distinct: dict[str, Companion] = {}
    for companion in companions:
        if companion.url not in variant.urls:
            distinct.setdefault(companion.url, companion)
    return list(distinct.values())


def hls_track(
    outside: Outside, source: Source, what: FetchRequest, name: str, listing: Listing, *, vital: bool = True
) -> SegmentTrack:
    """The track behind a media playlist: its segments, or those that appear while it grows."""
    playlist, alive = listing.playlist, live_content(listing.url)
    return SegmentTrack(
        name=name,
        folder=what.folder / name,
        contents=(playlist.content, alive) if playlist.ended else (alive,),
        feed=whole_feed(playlist.segments) if playlist.ended else _live_feed(outside, source, what, listing),
        seconds=playlist.seconds if playlist.ended else what.duration_seconds,
        vital=vital,
    )


# --- live playlists -------------------------------------------------------------------------------


def live_content(url: str) -> str:
    """What a live playlist is known by: its segments change, its link does not."""
    return fingerprint("live", stable_path(url))


def _live_feed(outside: Outside, source: Source, what: FetchRequest, listing: Listing) -> Feed:
    """The segments of a live playlist as they appear."""

    async def feed(held: Mapping[int, float]) -> AsyncIterator[Sequence[Segment]]:
        async for news in follow(outside, source, listing, LiveCourse(listing.url, held, what.duration_seconds)):
            yield news

    return feed


async def follow(
    outside: Outside,
    source: Source,
    listing: Listing,
    course: LiveCourse,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Sequence[Segment]]:
    """What is new in a live playlist each time it is asked for, until it ends or enough was seen.

    Raises:
        StalledTransfer: nothing new came for longer than `live_patience`, and it did not say that it ended.
    """
    playlist, last_news = listing.playlist, clock()
    patience = outside.limits.live_patience.total_seconds()
    while True:
        news = course.news(playlist)
        if news:
            last_news = clock()
            yield news
        if playlist.ended or course.enough:
            return
        if clock() - last_news > patience:
            raise StalledTransfer(f"The live playlist has shown nothing new for {patience:g} s, and no end")
        # RFC 8216 §6.3.4: after a version that brought nothing, half the time.
        pause = playlist.target_seconds if news else playlist.target_seconds / 2
        await anyio.sleep(min(pause, patience))
        playlist = await _next_version(outside, source, listing.url, playlist)


async def _next_version(outside: Outside, source: Source, url: str, before: MediaPlaylist) -> MediaPlaylist:
    """The playlist as it is now; while it cannot be had, as it was: patience, not one lost answer, ends a recording."""
    try:
        listing, _ = await ask_media_playlist(outside, source, (url,))
    except TidegateError as error:
        if not error.policy.live_goes_on:
            raise
        outside.observe(Note(f"The live playlist did not come: {error.message}", "warning"))
        return before
    return listing.playlist

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
from urllib.parse import urlsplit

import anyio

from tidegate.errors import (
    AvailabilityFailure,
    ProcessFailure,
    ProcessKilled,
    ProcessTimeout,
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
from tidegate.transfer.playlists.media import Segment, lasting
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
from tidegate.transfer.segments.track import reasoned

SUFFIXES = (".m3u8", ".m3u")
TYPES = ("application/vnd.apple.mpegurl", "application/x-mpegurl", "audio/mpegurl", "audio/x-mpegurl")
AT_ONCE = 4
"""Playlists of renditions that are asked for at once."""

ONLY = Variant(id="source", urls=())
"""A media playlist that no master lists."""


class HlsResolver:
    """See `Resolver`."""

    name = "hls"

    def handles(self, source: Source) -> bool:
        path = urlsplit(source.url.get_secret_value()).path.lower()
        return source.scheme in ("http", "https") and path.endswith(SUFFIXES)

    def recognises(self, identity: Identity) -> bool:
        return (identity.content_type or "").partition(";")[0].strip().lower() in TYPES

    async def identify(self, outside: Outside, source: Source) -> tuple[Identity, TransferStats]:
        told = await ask_playlist(outside, source, source.url.get_secret_value())
        return identity_of(source, told), TransferStats(requests=told.answer.requests)

    async def offer(
        self, outside: Outside, source: Source, identity: Identity, scratch: Callable[[str], Path]
    ) -> Offer:
        url = source.url.get_secret_value()
        told = await ask_playlist(outside, source, url)
        listed, requests = await _listed(outside, source, told, url)
        renditions = {variant: rendition_of(variant, listing.playlist) for variant, listing in listed.items()}
        best = best_of(renditions)
        playlist = listed[best].playlist
        seconds = playlist.seconds if playlist.ended else None
        track = track_of(outside, source, Fetching(identity, renditions[best], scratch(best.id)), MAIN, listed[best])
        preview, cost = await preview_of(outside, source, track, playlist.segments, seconds)
        return Offer(
            renditions=tuple(renditions.values()),
            preview=preview,
            promised_seconds=seconds,
            cost=TransferStats(requests=told.answer.requests + requests) + cost,
        )

    async def fetch(self, outside: Outside, source: Source, what: Fetching) -> Fetched:
        return await fetch_playlist(outside, source, source.url.get_secret_value(), what)


def identity_of(source: Source, told: Told) -> Identity:
    """What tells this playlist's content from any other."""
    playlist = told.playlist
    if isinstance(playlist, MediaPlaylist) and not playlist.ended:
        return listed_identity(source, told.answer, live_content(told.answer.url), live=True)
    return listed_identity(source, told.answer, playlist.content)


def rendition_of(variant: Variant, playlist: MediaPlaylist) -> Rendition:
    """What the source says of a rendition."""
    rate = variant.average_bps or variant.bandwidth_bps
    return Rendition(
        id=variant.id,
        label=variant.label,
        height=variant.height,
        bandwidth_bps=variant.bandwidth_bps,
        size_bytes=round(rate * playlist.seconds / 8) if rate and playlist.ended else None,
    )


async def _listed(outside: Outside, source: Source, told: Told, url: str) -> tuple[dict[Variant, Listing], int]:
    """The playlists of all renditions; one that does not answer is left out, and told.

    Raises:
        ProcessFailure: one exhausts whoever reads it. The source is not asked what else it has of that kind.
        TidegateError: none answers; the failure of the first.
    """
    if isinstance(told.playlist, MediaPlaylist):
        return {ONLY: Listing(told.playlist, url)}, 0
    look = _Look(outside, source)
    async with reasoned(), anyio.create_task_group() as group:
        for variant in told.playlist.variants:
            group.start_soon(look.at, variant)
    return look.found(told.playlist), look.requests


class _Look:
    """At the playlists of a ladder, several at once."""

    def __init__(self, outside: Outside, source: Source) -> None:
        self._outside = outside
        self._source = source
        self._slots = anyio.CapacityLimiter(AT_ONCE)
        self._listings: dict[str, Listing] = {}
        self._failures: dict[str, TidegateError] = {}
        self.requests = 0

    async def at(self, variant: Variant) -> None:
        async with self._slots:
            try:
                self._listings[variant.id], cost = await ask_media_playlist(self._outside, self._source, variant.urls)
                self.requests += cost
            except ProcessFailure:
                raise
            except TidegateError as error:
                self._failures[variant.id] = error
                self.requests += 1
                left_out = f"The rendition {variant.id} is left out: {error.message}"
                self._outside.observe(Note(left_out, "warning", {"failure": error.type}))

    def found(self, master: MasterPlaylist) -> dict[Variant, Listing]:
        """In the master's order."""
        if not self._listings:
            raise self._failures[master.variants[0].id]
        return {variant: self._listings[variant.id] for variant in master.variants if variant.id in self._listings}


@dataclass(frozen=True)
class Told:
    """A playlist as it was answered."""

    playlist: MasterPlaylist | MediaPlaylist
    answer: Response


@dataclass(frozen=True)
class Listing:
    """A media playlist, and where to ask for it again."""

    playlist: MediaPlaylist
    url: str


async def ask_playlist(outside: Outside, source: Source, url: str) -> Told:
    """The playlist behind a link; its own links are relative to where it came from, after redirects.

    Raises:
        NotMedia: there is none, or a damaged one.
        UnsupportedSource: see `playlists.read_hls.read`.
        MemoryExhausted, ProcessTimeout: reading it takes more than it may.
        TidegateError: it cannot be had.
    """
    answer = await ask_text(outside, source, url)
    return Told(await parse_hls(outside, answer.body, answer.url), answer)


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
            told = await ask_playlist(outside, source, url)
        except ProcessFailure:
            raise
        except TidegateError as error:
            failure, requests = error, requests + 1
            continue
        if isinstance(told.playlist, MasterPlaylist):
            raise UnsupportedSource("A master playlist leads to another master playlist")
        return Listing(told.playlist, url), requests + told.answer.requests
    raise failure


async def fetch_playlist(
    outside: Outside, source: Source, playlist_url: str, what: Fetching, *, renew: Renew | None = None
) -> Fetched:
    """Bring the rendition behind a playlist, with the sound and the subtitles that belong to it.

    `playlist_url` may lead to a master playlist, of which the rendition with the id in `what` is taken (its best where
    there is none of that id), or to the rendition's own. `renew` gives a fresh link to it when what it leads to was
    refused; without, the same link is asked again. Either happens once.

    Raises:
        SegmentGap: segments cannot be had, and gaps are not allowed.
        TidegateError: whatever else ended the transfer.
    """

    async def fetch_from(haul: Haul, url: str) -> Fetched:
        return fetched_from(haul, await haul.bring(await _tracks(haul, url, what)))

    return await fetch_listed(outside, source, playlist_url, what, fetch_from, renew)


async def _tracks(haul: Haul, url: str, what: Fetching) -> list[Track]:
    told = await ask_playlist(haul.outside, haul.source, url)
    haul.supply.requests += told.answer.requests
    if isinstance(told.playlist, MediaPlaylist):
        return [track_of(haul.outside, haul.source, what, MAIN, Listing(told.playlist, url))]
    variant = chosen(told.playlist.variants, what.rendition.id)
    listing, requests = await ask_media_playlist(haul.outside, haul.source, variant.urls)
    haul.supply.requests += requests
    tracks = [track_of(haul.outside, haul.source, what, MAIN, listing)]
    for number, companion in enumerate(_beside(told.playlist.companions_of(variant, "audio"), variant), 1):
        tracks.append(await _sound(haul, track_name("sound", number, companion.language), companion, what))
    for number, companion in enumerate(_beside(told.playlist.companions_of(variant, "subtitles"), variant), 1):
        tracks += await _subtitles(haul, track_name("subtitles", number, companion.language), companion, what)
    return tracks


async def _sound(haul: Haul, name: str, companion: Companion, what: Fetching) -> Track:
    listing, requests = await ask_media_playlist(haul.outside, haul.source, (companion.url,))
    haul.supply.requests += requests
    return track_of(haul.outside, haul.source, what, name, listing)


async def _subtitles(haul: Haul, name: str, companion: Companion, what: Fetching) -> list[Track]:
    """A film is not refused for its subtitles: where they cannot be had they are left out, and that is told."""
    try:
        listing, requests = await ask_media_playlist(haul.outside, haul.source, (companion.url,))
    except ProcessFailure:
        raise
    except TidegateError as error:
        haul.outside.observe(Note(f"Left out {name}: {error.message}", "warning", {"failure": error.type}))
        return []
    haul.supply.requests += requests
    return [track_of(haul.outside, haul.source, what, name, listing, vital=False)]


def _beside(companions: Sequence[Companion], variant: Variant) -> list[Companion]:
    """Each link once; a master may list the sound of a rendition under the rendition's own, as it is in there."""
    distinct: dict[str, Companion] = {}
    for companion in companions:
        if companion.url not in variant.urls:
            distinct.setdefault(companion.url, companion)
    return list(distinct.values())


def live_content(url: str) -> str:
    """What a live playlist is known by: its segments change, its link does not."""
    return fingerprint("live", lasting(url))


def track_of(
    outside: Outside, source: Source, what: Fetching, name: str, listing: Listing, *, vital: bool = True
) -> Track:
    """The track behind a media playlist: its segments, or those that appear while it grows."""
    playlist, alive = listing.playlist, live_content(listing.url)

    async def all_at_once(held: Mapping[int, float]) -> AsyncIterator[Sequence[Segment]]:
        yield playlist.segments

    async def as_they_appear(held: Mapping[int, float]) -> AsyncIterator[Sequence[Segment]]:
        async for news in follow(outside, source, listing, LiveCourse(listing.url, held, what.duration_seconds)):
            yield news

    return Track(
        name=name,
        folder=what.folder / name,
        contents=(playlist.content, alive) if playlist.ended else (alive,),
        feed=all_at_once if playlist.ended else as_they_appear,
        seconds=playlist.seconds if playlist.ended else what.duration_seconds,
        vital=vital,
    )


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
    except (AvailabilityFailure, ProcessTimeout, ProcessKilled) as error:  # the latter two on a host that is busy
        outside.observe(Note(f"The live playlist did not come: {error.message}", "warning"))
        return before
    return listing.playlist

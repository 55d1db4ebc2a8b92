"""HLS from the outside: playlists asked for, their segments fed to the engine, live ones followed until they end.

The HLS resolver calls it, and the site resolver for formats that are playlists. Playlists are asked for anew in each
run; what their segments left on disk is resumed by the engine when it belongs to the same content.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

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
from tidegate.model import Source, fingerprint
from tidegate.transfer.asking.ask import Answer
from tidegate.transfer.outside import Outside
from tidegate.transfer.parsing import parse_hls
from tidegate.transfer.playlists.hls import Companion, MasterPlaylist, MediaPlaylist, Variant
from tidegate.transfer.playlists.live import LiveCourse
from tidegate.transfer.playlists.media import Segment, lasting
from tidegate.transfer.resolvers.base import Fetched, Fetching
from tidegate.transfer.resolvers.listed import MAIN, Renew, ask_text, chosen, fetch_listed, fetched_from, track_name
from tidegate.transfer.segments import Haul, Track


@dataclass(frozen=True)
class Told:
    """A playlist as it was answered."""

    playlist: MasterPlaylist | MediaPlaylist
    answer: Answer


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

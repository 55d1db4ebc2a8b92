"""HLS: a playlist behind an http(s) link, with its renditions.

The probe stage looks at the ladder through it and the download stage brings one rung. Segments that a look or an
earlier run left in the rendition's folder are not fetched again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import anyio

from tidegate.errors import ProcessFailure, TidegateError
from tidegate.events import Note
from tidegate.model import Identity, Rendition, Source, TransferStats
from tidegate.transfer.hls import (
    Listing,
    Told,
    ask_media_playlist,
    ask_playlist,
    fetch_playlist,
    live_content,
    track_of,
)
from tidegate.transfer.outside import Outside
from tidegate.transfer.playlists.hls import MasterPlaylist, MediaPlaylist, Variant
from tidegate.transfer.resolvers.base import Fetched, Fetching, Offer
from tidegate.transfer.resolvers.listed import MAIN, best_of, listed_identity, preview_of
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

"""DASH: a static presentation (MPD) behind an http(s) link, with its renditions.

The probe stage looks at the ladder through it and the download stage brings one rung, the sound beside it. Segments
that a look or an earlier run left in the rendition's folder are not fetched again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from tidegate.model import Identity, Rendition, Source, TransferStats
from tidegate.transfer.dash import ask_presentation, fetch_presentation, track_of
from tidegate.transfer.outside import Outside
from tidegate.transfer.playlists.dash import DashTrack
from tidegate.transfer.resolvers.base import Fetched, Fetching, Offer
from tidegate.transfer.resolvers.listed import MAIN, best_of, listed_identity, preview_of

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

"""What sources that are playlists have in common: how they are asked, told apart, offered, and asked once more.

The HLS and DASH resolvers are built on it. Nothing is kept here: after a crash the playlist is asked for again, and the
segments that the engine has journaled are taken up.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from tidegate.errors import Link, TidegateError
from tidegate.events import Note
from tidegate.model import Identity, Rendition, Source, TransferStats
from tidegate.transfer.asking.answers import file_name
from tidegate.transfer.asking.ask import Request, Response, ask
from tidegate.transfer.gates.gates import origin_of
from tidegate.transfer.outside import Outside
from tidegate.transfer.playlists.media import Segment
from tidegate.transfer.resolvers.base import MAIN_TRACK, FetchRequest, FetchResult, Offer
from tidegate.transfer.segments import (
    DownloadSession,
    PlaylistDownload,
    SegmentTrack,
    TrackFiles,
    preview_of,
    validator_of,
)

_UNSAFE = re.compile(r"[^a-z0-9]+")


class Listed(Protocol):
    """A rendition as a playlist lists it."""

    @property
    def id(self) -> str: ...
    @property
    def height(self) -> int | None: ...
    @property
    def bandwidth_bps(self) -> int | None: ...


L = TypeVar("L", bound=Listed)

TracksBehind = Callable[[DownloadSession, str], Awaitable[list[SegmentTrack]]]
"""Asks for the playlist behind a link, and says which tracks it leads to."""
Renew = Callable[[], Awaitable[str]]
"""Gives a fresh link to the same playlist."""


def leads_to(source: Source, suffixes: str | tuple[str, ...]) -> bool:
    """Whether a link leads to the web, and its path ends like this."""
    path = urlsplit(source.url.get_secret_value()).path.lower()
    return source.scheme in ("http", "https") and path.endswith(suffixes)


async def ask_text(outside: Outside, source: Source, url: str) -> Response:
    """What lies behind the link of a playlist. Headers of the source go to its own origin only.

    Raises:
        TidegateError: it cannot be had.
    """
    request = Request(
        url,
        headers=source.headers,
        trusted_origin=origin_of(source.url.get_secret_value()) if source.headers else None,
        most_bytes=outside.limits.playlist_bytes,
        what="playlist",
        decode=True,
    )
    return await ask(outside, request)


def playlist_identity(source: Source, answer: Response, content: str, *, live: bool = False) -> Identity:
    """What tells this playlist's content from any other.

    A live playlist is another one each time, and so is one whose links carry tokens: validators are believed only of a
    text that stays as it is.
    """
    lasts = not live and b"?" not in answer.body
    validator = validator_of(answer) if lasts else None
    return Identity(
        url=source.redacted,
        name=file_name(answer.headers, source.redacted),
        etag=validator if validator and validator.startswith('"') else None,
        last_modified=answer.headers.get("Last-Modified") if lasts else None,
        content_type=answer.headers.get("Content-Type"),
        distinct=content,
    )


def best_of(renditions: Iterable[L]) -> L:
    """The highest; of those as high, the one with the most bandwidth."""
    return max(renditions, key=lambda one: (one.height or 0, one.bandwidth_bps or 0))


def choose(renditions: Sequence[L], rendition_id: str) -> L:
    """The one of that id; where there is none, the best."""
    return next((one for one in renditions if one.id == rendition_id), None) or best_of(renditions)


def track_name(kind: str, number: int, language: str | None) -> str:
    """`sound-1-en`: safe as a file's name."""
    return "-".join(filter(None, [kind, str(number), _UNSAFE.sub("-", (language or "").lower()).strip("-")[:16]]))


async def offer_with_preview(
    outside: Outside,
    source: Source,
    renditions: Iterable[Rendition],
    best: SegmentTrack,
    segments: Sequence[Segment],
    *,
    seconds: float | None,
    requests: int,
) -> Offer:
    """What a playlist offers, with a look at the beginning of the best. `requests`: what asking has cost so far."""
    preview, cost = await preview_of(outside, source, best, segments, seconds)
    return Offer(
        renditions=tuple(renditions),
        preview=preview,
        promised_seconds=seconds,
        cost=TransferStats(requests=requests) + cost,
    )


async def fetch_tracks(
    outside: Outside, source: Source, url: str, what: FetchRequest, tracks_behind: TracksBehind, renew: Renew | None
) -> FetchResult:
    """Fetch what a playlist leads to. When its links are refused they may have expired: then it is asked for again,
    once, by a fresh link where `renew` gives one."""
    session = DownloadSession(outside, source, allow_gaps=what.allow_gaps, may_renew=True)
    download = PlaylistDownload(session)
    try:
        return _rendition_of(session, await download.fetch(await tracks_behind(session, url)))
    except TidegateError as error:
        link = error.policy.link
        if link is not Link.EXPIRED and (renew is None or link is not Link.REFUSED):
            raise
        outside.observe(Note(f"{error.message}; asking for the playlist again"))
    session.may_renew = False
    tracks = await tracks_behind(session, await renew() if renew else url)
    return _rendition_of(session, await download.fetch(tracks))


def _rendition_of(session: DownloadSession, tracks: Mapping[str, TrackFiles]) -> FetchResult:
    """The tracks that came, as resolvers hand them over."""
    return FetchResult(
        tracks={name: track.files for name, track in tracks.items()},
        stats=session.stats,
        known={name: track.digests[0] for name, track in tracks.items() if len(track.digests) == 1},
        end_is_certain=True,
        promised_seconds=tracks[MAIN_TRACK].seconds or None,
        gaps=tuple(gap for track in tracks.values() for gap in track.gaps),
    )

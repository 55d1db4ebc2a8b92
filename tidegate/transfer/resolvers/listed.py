"""What sources that are playlists have in common: how they are asked, told apart, looked at, and asked once more.

The HLS and DASH modules build on it. Nothing here is kept over a crash except what the segment engine journals.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from tidegate.durable.threads import in_thread
from tidegate.errors import ExpiredLink, HttpRefused, NotFound, TidegateError, from_os_error
from tidegate.events import Note
from tidegate.model import Identity, MediaInfo, Source, TransferStats
from tidegate.transfer.asking.answers import file_name
from tidegate.transfer.asking.ask import Request, Response, ask
from tidegate.transfer.file.fetch import identify
from tidegate.transfer.file.peek import peek
from tidegate.transfer.gates.gates import origin_of
from tidegate.transfer.outside import Outside
from tidegate.transfer.playlists.media import Resource, Segment
from tidegate.transfer.resolvers.base import Fetched, Fetching
from tidegate.transfer.segments import Haul, Hauled, Track, validator_of

MAIN = "source"
"""The name of the track that has the picture."""

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

FetchFrom = Callable[[Haul, str], Awaitable[Fetched]]
"""Brings what the playlist behind a link leads to."""
Renew = Callable[[], Awaitable[str]]
"""Gives a fresh link to the same playlist."""


async def ask_text(outside: Outside, source: Source, url: str) -> Response:
    """What lies behind the link of a playlist. Headers of the source go to its own origin only.

    Raises:
        TidegateError: it cannot be had.
    """
    wanted = Request(
        url,
        headers=source.headers,
        trusted_origin=origin_of(source.url.get_secret_value()) if source.headers else None,
        most_bytes=outside.limits.playlist_bytes,
        what="playlist",
        decode=True,
    )
    return await ask(outside, wanted)


def listed_identity(source: Source, answer: Response, content: str, *, live: bool = False) -> Identity:
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


def chosen(renditions: Sequence[L], rendition_id: str) -> L:
    """The one of that id; where there is none, the best."""
    return next((one for one in renditions if one.id == rendition_id), None) or best_of(renditions)


def track_name(kind: str, number: int, language: str | None) -> str:
    """`sound-1-en`: safe as a file's name."""
    return "-".join(filter(None, [kind, str(number), _UNSAFE.sub("-", (language or "").lower()).strip("-")[:16]]))


async def fetch_listed(
    outside: Outside, source: Source, url: str, what: Fetching, fetch_from: FetchFrom, renew: Renew | None
) -> Fetched:
    """Bring what a playlist leads to. When its links are refused they may have expired: then it is asked for again,
    once, by a fresh link where `renew` gives one."""
    haul = Haul(outside, source, allow_gaps=what.allow_gaps, may_renew=True)
    try:
        return await fetch_from(haul, url)
    except (ExpiredLink, HttpRefused) as error:
        if isinstance(error, HttpRefused) and (renew is None or isinstance(error, NotFound)):
            raise
        outside.observe(Note(f"{error.message}; asking for the playlist again"))
    haul.supply.may_renew = False
    return await fetch_from(haul, await renew() if renew else url)


def fetched_from(haul: Haul, brought: Mapping[str, Hauled]) -> Fetched:
    """What the engine brought, as resolvers tell it."""
    return Fetched(
        tracks={name: hauled.files for name, hauled in brought.items()},
        stats=haul.stats,
        known={name: hauled.digests[0] for name, hauled in brought.items() if len(hauled.digests) == 1},
        end_is_certain=True,
        promised_seconds=brought[MAIN].seconds or None,
        gaps=tuple(gap for hauled in brought.values() for gap in hauled.gaps),
    )


async def preview_of(
    outside: Outside, source: Source, track: Track, segments: Sequence[Segment], seconds: float | None
) -> tuple[MediaInfo | None, TransferStats]:
    """What the first segment shows, and what it cost; None where it cannot be had. It stays for the download."""
    haul = Haul(outside, source)
    try:
        seen = await (_peeked(haul, track, track.file) if track.file else _first_segment(haul, track, segments))
    except TidegateError as error:
        outside.observe(Note(f"The beginning cannot be looked at: {error.message}", "warning"))
        return None, haul.stats
    return _of_the_whole(seen, seconds) if seen else None, haul.stats


async def _peeked(haul: Haul, track: Track, file: Resource) -> MediaInfo | None:
    """What head and tail of a file show; the head stays in its part."""
    _, connect = haul.supply.connected(file)
    identity, cost = await identify(connect, haul.outside.limits, haul.outside.observe)
    await in_thread(_made, track.folder)
    looked = await peek(haul.outside, connect, track.folder, identity)
    haul.supply.requests += cost.requests + looked.cost.requests
    haul.supply.bytes_received += looked.cost.bytes_received
    return looked.preview


async def _first_segment(haul: Haul, track: Track, segments: Sequence[Segment]) -> MediaInfo | None:
    first = next((segment for segment in segments if not segment.missing), None)
    if first is None:
        return None
    paths = await haul.fetch(track, [first])
    shown = await in_thread(_joined, paths, track.folder / "peek.tmp")
    try:
        return await haul.outside.look(shown)
    finally:
        shown.unlink(missing_ok=True)


def _made(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, "making a track's folder", folder) from error


def _joined(paths: Sequence[Path], target: Path) -> Path:
    try:
        with target.open("wb") as whole:
            for path in paths:
                with path.open("rb") as part:
                    shutil.copyfileobj(part, whole)
    except OSError as error:
        raise from_os_error(error, "looking at the beginning", target) from error
    return target


def _of_the_whole(seen: MediaInfo, seconds: float | None) -> MediaInfo:
    """What one segment says of itself is not said of the whole: its length, above all."""
    unknown = {"duration_seconds": None, "start_seconds": None, "end_seconds": None}
    streams = tuple(stream.model_copy(update=unknown) for stream in seen.streams)
    told = {"streams": streams, "duration_seconds": seconds, "size_bytes": None}
    return seen.model_copy(update=told | {"declares_duration": False, "missing_bytes": 0})

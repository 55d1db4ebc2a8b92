"""DASH from the outside: a presentation asked for, its segments fed to the engine.

The DASH resolver calls it, and the site resolver for formats that are listed in a presentation. It is asked for anew in
each run; what its segments left on disk is resumed by the engine when it belongs to the same content.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from tidegate.events import Note
from tidegate.model import Source
from tidegate.transfer.asking.ask import Answer
from tidegate.transfer.outside import Outside
from tidegate.transfer.parsing import parse_dash
from tidegate.transfer.playlists.dash import DashTrack, Presentation
from tidegate.transfer.playlists.media import Segment
from tidegate.transfer.resolvers.base import Fetched, Fetching
from tidegate.transfer.resolvers.listed import MAIN, Renew, ask_text, chosen, fetch_listed, fetched_from, track_name
from tidegate.transfer.segments import Haul, Track


@dataclass(frozen=True)
class Told:
    """A presentation as it was answered."""

    presentation: Presentation
    answer: Answer


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

"""Media on a page of a site: yt-dlp says where it is, our own engine brings it.

The probe stage asks what a page offers and the download stage brings one rendition: picture and sound as two tracks
where the site keeps them apart. Links are signed and short-lived, so they are never stored: after a crash the page is
asked again, and what an earlier run received is taken up by the format's name and the file's own validator.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from anyio import to_thread

from tidegate.durable.atomic import write_atomic
from tidegate.errors import NotMedia, SourceChanged, TidegateError
from tidegate.events import Advance, Event, Note, Observer
from tidegate.model import Digest, Identity, Rendition, Source, TransferStats, fingerprint
from tidegate.transfer.asking.ask import Request, ask
from tidegate.transfer.file.fetch import fetch_file, identify
from tidegate.transfer.file.http import HttpExchange
from tidegate.transfer.gates.gates import origin_of
from tidegate.transfer.outside import Outside
from tidegate.transfer.resolvers.base import MAIN_TRACK, FetchRequest, FetchResult, Offer, media_type_of
from tidegate.transfer.resolvers.dash import ask_presentation, fetch_presentation
from tidegate.transfer.resolvers.hls import fetch_playlist
from tidegate.transfer.resolvers.listed import track_name
from tidegate.transfer.resolvers.site_extraction import Extraction, ask_extractor, extractor_of
from tidegate.transfer.resolvers.site_formats import (
    Choice,
    Format,
    canonical_link,
    choices_of,
    ends_as_media,
    same_choice,
)

PAGES = ("text/html", "application/xhtml+xml")
PAGE_FOLDER = "page"
"""The scratch folder in which a page is asked, before there is a rendition."""
ROUNDED_SECONDS = 1.0
"""Sites tell lengths in whole seconds."""
MOST_SUBTITLES = 8
MOST_SUBTITLE_BYTES = 16 * 1024 * 1024
SUBTITLE_TYPES = ("vtt", "srt")
MOST_RECENT = 16
"""How many extractions this process keeps, so that the download need not ask again what the probe has just heard."""

_recent: OrderedDict[str, Extraction] = OrderedDict()


class SiteResolver:
    """A `Resolver` for pages that yt-dlp knows, or may."""

    name = "site"

    def handles(self, source: Source) -> bool:
        """Whether an extractor other than the generic one knows such links. Files and links that end as media never
        ask yt-dlp, and neither do bare addresses: sites have names."""
        url = source.url.get_secret_value()
        return source.scheme in ("http", "https") and _may_be_page(url) and extractor_of(url) is not None

    def recognises(self, identity: Identity) -> bool:
        return media_type_of(identity) in PAGES and not ends_as_media(identity.url)

    async def identify(self, outside: Outside, source: Source) -> tuple[Identity, TransferStats]:
        """Without a request: what a page says of itself changes, and where it is does not."""
        url = source.url.get_secret_value()
        site, name = _extractor_for(url) or ("", "")
        last = urlsplit(url).path.rstrip("/").rpartition("/")[2]
        identity = Identity(
            url=canonical_link(url, site),
            name=name or last or (urlsplit(url).hostname or "page"),
            distinct=f"{site.lower()}:{name}" if name else None,
        )
        return identity, TransferStats()

    async def offer(
        self, outside: Outside, source: Source, identity: Identity, scratch: Callable[[str], Path]
    ) -> Offer:
        extraction, cost = await _ask_page(outside, source, scratch(PAGE_FOLDER))
        choices = choices_of(extraction.formats)
        if extraction.unusable:
            outside.observe(
                Note(f"{extraction.unusable} formats of the site are of kinds that cannot be downloaded", "debug")
            )
        outside.observe(
            Note(f"{extraction.extractor}: {extraction.title or extraction.id}", facts={"title": extraction.title})
        )
        return Offer(
            tuple(choice.rendition for choice in choices), promised_seconds=_promise_seconds(extraction), cost=cost
        )

    async def fetch(self, outside: Outside, source: Source, what: FetchRequest) -> FetchResult:
        return await _SiteDownload(outside, source, what).run()


@dataclass
class _SiteDownload:
    """One rendition on its way: all its formats, one after the other."""

    outside: Outside
    source: Source
    what: FetchRequest
    stats: TransferStats = field(default_factory=TransferStats)
    _progress: _JointProgress | None = None

    async def run(self) -> FetchResult:
        extraction = _recall(self.source) or await self._ask()
        choice = self._choose(extraction)
        self._progress = _JointProgress(self.outside.observe, choice.rendition.size_bytes)
        fetched = [await self._fetch_format(choice, number) for number in range(len(choice.formats))]
        tracks = {name: files for one in fetched for name, files in one.tracks.items()}
        tracks |= await self._fetch_subtitles(extraction)
        return FetchResult(
            tracks=tracks,
            stats=self.stats,
            known={name: digest for one in fetched for name, digest in one.known.items()},
            checked=frozenset().union(*(one.checked for one in fetched)),
            end_is_certain=all(one.end_is_certain for one in fetched),
            promised_seconds=fetched[0].promised_seconds or _promise_seconds(extraction),
            gaps=tuple(gap for one in fetched for gap in one.gaps),
        )

    async def _ask(self) -> Extraction:
        extraction, cost = await _ask_page(self.outside, self.source, self.what.folder)
        self.stats += cost
        return extraction

    def _choose(self, extraction: Extraction) -> Choice:
        wanted = self.what.rendition
        choice = same_choice(choices_of(extraction.formats), wanted)
        if choice is None:
            raise SourceChanged(f"The site no longer offers this as {wanted.label}")
        return choice

    async def _fetch_format(self, choice: Choice, number: int) -> FetchResult:
        """One track, or the several that a playlist leads to; under names that fit together."""
        one = choice.formats[number]
        name = MAIN_TRACK if number == 0 else track_name("sound", number, None)
        observe = self._progress or self.outside.observe
        outside, folder = replace(self.outside, observe=observe), self.what.folder / f"{name}-{one.delivery}"
        folder.mkdir(parents=True, exist_ok=True)
        promised = self.what.promised if len(choice.formats) == 1 else frozenset()
        what = replace(self.what, folder=folder, promised=promised)

        async def ask_again() -> Format:
            return self._choose(await self._ask()).formats[number]

        async def fresh_link() -> str:
            return (await ask_again()).url.get_secret_value()

        async def fresh_source() -> Source:
            return _format_source(await ask_again(), self.source)

        media = _format_source(one, self.source)
        if one.delivery == "hls":
            fetched = await fetch_playlist(outside, media, one.url.get_secret_value(), what, renew=fresh_link)
        elif one.delivery == "dash":
            what = replace(what, rendition=await _in_presentation(outside, media, choice.rendition))
            fetched = await fetch_presentation(outside, media, one.url.get_secret_value(), what, renew=fresh_link)
        else:
            fetched = await _fetch_file(outside, media, what, f"{choice.rendition.id}#{number}", fresh_source)
        self.stats += fetched.stats
        if self._progress is not None:
            self._progress.next()
        tracks = {name if track == MAIN_TRACK else track: files for track, files in fetched.tracks.items()}
        known = {name if track == MAIN_TRACK else track: digest for track, digest in fetched.known.items()}
        return replace(fetched, tracks=tracks, known=known)

    async def _fetch_subtitles(self, extraction: Extraction) -> dict[str, tuple[Path, ...]]:
        """Those that somebody made, not those that a machine heard; a film is not refused for its subtitles."""
        tracks: dict[str, tuple[Path, ...]] = {}
        for language, versions in list(extraction.subtitles.items())[:MOST_SUBTITLES]:
            link = next((url for kind in SUBTITLE_TYPES for url, type_ in versions if type_ == kind), None)
            if link is None:
                continue
            name = track_name("subtitles", len(tracks) + 1, language)
            try:
                tracks[name] = (await self._fetch_subtitle(link, name),)
            except TidegateError as error:
                self.outside.observe(Note(f"Left out {name}: {error.message}", "warning", {"failure": error.type}))
        return tracks

    async def _fetch_subtitle(self, url: str, name: str) -> Path:
        request = Request(url, most_bytes=MOST_SUBTITLE_BYTES, what="subtitles", decode=True)
        answer = await ask(self.outside, request)
        self.stats += TransferStats(requests=answer.requests, bytes_received=len(answer.body))
        if b"-->" not in answer.body:
            raise NotMedia("What came are no subtitles")
        kind = "vtt" if answer.body.lstrip(b"\xef\xbb\xbf").startswith(b"WEBVTT") else "srt"
        path = self.what.folder / f"{name}.{kind}"
        await to_thread.run_sync(write_atomic, path, answer.body)
        return path


class _JointProgress:
    """Shows the transfers of one rendition, which follow each other, as one."""

    def __init__(self, observe: Observer, total_bytes: int | None) -> None:
        self._observe, self._total = observe, total_bytes
        self._before = self._done = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Advance) and event.unit == "bytes":
            self._done = max(self._done, self._before + event.done)
            total = max(self._total, self._done) if self._total else None
            event = replace(event, done=self._done, total=total or (event.total if not self._before else None))
        self._observe(event)

    def next(self) -> None:
        """What comes now is beside what has come."""
        self._before = self._done


async def _ask_page(outside: Outside, source: Source, folder: Path) -> tuple[Extraction, TransferStats]:
    """Ask the page, and keep the answer for a while, in memory only."""
    known = _extractor_for(source.url.get_secret_value())
    extraction, cost = await ask_extractor(outside, source, folder, known=known[0] if known else None)
    _recent[_memory_key(source)] = extraction
    while len(_recent) > MOST_RECENT:
        _recent.popitem(last=False)
    return extraction, cost


def _recall(source: Source) -> Extraction | None:
    """What the page said a moment ago, once: whoever comes after that asks again."""
    extraction = _recent.pop(_memory_key(source), None)
    return extraction if extraction is not None and extraction.good_at(time.time()) else None


def _memory_key(source: Source) -> str:
    headers = sorted((name.lower(), value.get_secret_value()) for name, value in source.headers.items())
    return fingerprint(source.url.get_secret_value(), headers)


async def _fetch_file(
    outside: Outside, media: Source, what: FetchRequest, format_name: str, renew: Callable[[], Awaitable[Source]]
) -> FetchResult:
    """A format that is one file. It is known by its place on the page: its link is another one each time."""
    answer, cost = await identify(
        lambda: HttpExchange(media, outside.limits, outside.gates), outside.limits, outside.observe
    )
    identity = answer.model_copy(update={"url": f"{what.identity.url}#{format_name}", "name": what.identity.name})
    file = await fetch_file(outside, media, what.folder, identity, promised=what.promised, renew=renew)
    known: dict[str, Digest] = {MAIN_TRACK: file.blake3}
    return FetchResult(
        tracks={MAIN_TRACK: (file.path,)},
        stats=cost + file.stats,
        known=known,
        checked=file.checked,
        end_is_certain=file.end_is_certain,
    )


async def _in_presentation(outside: Outside, media: Source, wanted: Rendition) -> Rendition:
    """What the presentation itself calls the rendition: the nearest in height, then in rate."""
    fetched = await ask_presentation(outside, media, media.url.get_secret_value())
    height, rate = wanted.height or 0, wanted.bandwidth_bps or 0
    nearest = min(
        fetched.presentation.renditions,
        key=lambda one: (abs((one.height or 0) - height), abs((one.bandwidth_bps or 0) - rate)),
    )
    return wanted.model_copy(update={"id": nearest.id})


def _format_source(one: Format, page: Source) -> Source:
    """The link of a format, with the headers that it wants; the person's own where it lies at the page's origin."""
    url = one.url.get_secret_value()
    given = {name.lower(): name for name in one.headers}
    headers = dict(one.headers)
    if origin_of(url) == origin_of(page.url.get_secret_value()):
        headers |= {name: value for name, value in page.headers.items() if name.lower() not in given}
    return Source(url=one.url, headers=headers)


def _extractor_for(url: str) -> tuple[str, str] | None:
    return extractor_of(url) if _may_be_page(url) else None


def _may_be_page(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return "." in host and not _is_address(host) and not ends_as_media(url)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _promise_seconds(extraction: Extraction) -> float | None:
    """What only a site's own extractor knows is believed; the generic one takes lengths from anywhere."""
    known = extraction.extractor not in ("Generic", "HTML5MediaEmbed")
    return (
        max(0.0, extraction.seconds - ROUNDED_SECONDS) or None
        if known and extraction.seconds and not extraction.live
        else None
    )

"""What the tracks of one rendition share: connections, keys, the budget of tries, and what it all costs.

The resolvers of playlists make one for each download; each request for a segment or a key goes through it. Keys live in
memory only, and so do the counts: after a crash a new session begins at zero, and what is held says what it need not
fetch.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from pathlib import Path

import anyio
from pydantic import SecretStr

from tidegate.durable.threads import check_cancellation, in_thread
from tidegate.errors import (
    AvailabilityFailure,
    Evidence,
    LimitReached,
    NotMedia,
    OfSegment,
    SegmentGap,
    TidegateError,
    from_os_error,
)
from tidegate.events import Advance, Event, Observer
from tidegate.model import Identity, MediaInfo, Source, TransferStats
from tidegate.redact import redact_url
from tidegate.resilience.retry import Retry
from tidegate.transfer.asking.ask import Request, Response, ask, receive
from tidegate.transfer.file.exchange import Connect
from tidegate.transfer.file.fetch import FetchedFile, fetch_file, identify
from tidegate.transfer.file.http import HttpExchange
from tidegate.transfer.file.peek import peek
from tidegate.transfer.gates.gates import origin_of
from tidegate.transfer.outside import Outside
from tidegate.transfer.playlists.media import Key, Resource
from tidegate.transfer.segments.sink import COPY_BYTES, SegmentSink
from tidegate.transfer.transport.base import Headers

KEY_BYTES = 16
MOST_KEY_BYTES = 64 * 1024
"""What is read of an answer that should be a key: enough to see that it is none."""


@dataclass
class DownloadSession:
    """One download: who is asked, with which limits, and what it has cost so far."""

    outside: Outside
    source: Source
    allow_gaps: bool = False
    may_renew: bool = False
    """Whether links that are refused may have expired: somebody can read the playlist again."""
    clock: Callable[[], float] = time.monotonic
    requests: int = 0
    bytes_received: int = 0
    bytes_reused: int = 0
    arrived: int = 0
    """Segments that came in this run."""
    done_seconds: float = 0.0
    """How much of the media is settled: held, or known to be missing."""
    _secrets: dict[str, bytes] = field(default_factory=dict)
    _large: set[Resource] = field(default_factory=set)
    _undivided: set[Resource] = field(default_factory=set)
    """Large too, but their origin serves them in no parts, or without a length: fetched as any other."""

    def __post_init__(self) -> None:
        self.limits, self.observe = self.outside.limits, self.outside.observe
        self.retry = Retry(self.limits, self.observe, "download")
        self.started = self.clock()
        self._slots = anyio.CapacityLimiter(self.limits.segments_at_once)
        self._key_locks: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)

    @property
    def stats(self) -> TransferStats:
        """What it has cost until now."""
        return TransferStats(
            requests=self.requests,
            retries=self.retry.retries,
            bytes_received=self.bytes_received,
            bytes_reused=self.bytes_reused,
            seconds=self.clock() - self.started,
        )

    async def secret(self, key: Key) -> bytes:
        """The key behind a link, asked for once.

        Raises:
            NotMedia: what came is no key.
            TidegateError: it cannot be had.
        """
        async with self._key_locks[key.url]:
            if key.url not in self._secrets:
                self._secrets[key.url] = await self._ask_key(key.url)
            return self._secrets[key.url]

    async def _ask_key(self, url: str) -> bytes:
        tries = self.budget("key")
        try:
            answer = await ask(self.outside, self.request_for(Resource(url), "key", MOST_KEY_BYTES), tries=tries)
        except TidegateError as error:
            raise _about_the_key(error) from error
        self.requests += answer.requests
        if len(answer.body) != KEY_BYTES:
            raise NotMedia(
                "The key server answered with something that is no key",
                hint="Does it need a login (--header)?",
                evidence=Evidence(url=redact_url(url), received_bytes=len(answer.body)),
            )
        return answer.body

    def request_for(self, resource: Resource, what: str, most_bytes: int) -> Request:
        ranged = resource.byte_range
        return Request(
            resource.url,
            headers=self.source.headers,
            trusted_origin=origin_of(self.source.url.get_secret_value()) if self.source.headers else None,
            first=ranged.first if ranged else None,
            last=ranged.last if ranged else None,
            most_bytes=most_bytes,
            what=what,
            decode=True,
        )

    async def receive_segment(self, path: Path, resource: Resource, tries: Retry) -> tuple[SegmentSink, Response]:
        """A resource in its file, decrypted and checked, not yet journaled. One try of `tries`, which runs it; what is
        fetched in parts that are kept goes on within the same budget.

        Raises:
            SegmentGap: what came cannot be a segment; it may be one next time.
        """
        if resource in self._large and (identity := await self._identify_large(resource)) is not None:
            return await self._receive_as_file(path, resource, identity, tries)
        secret = await self.secret(resource.key) if resource.key else None
        sink = SegmentSink(path, secret, resource.key, self._count)
        try:
            answer = await self._answer(resource, sink, tries.what)
            flaw = await in_thread(partial(sink.flaw, length_known=_has_known_length(answer)))
            if flaw is not None:
                evidence = Evidence(url=redact_url(answer.url), received_bytes=sink.received_bytes)
                raise SegmentGap(f"{tries.what}: {flaw}", evidence=evidence)
        except AvailabilityFailure:
            self._note_size(resource, sink.received_bytes)
            sink.close()
            raise
        except BaseException:
            sink.close()
            raise
        return sink, answer

    def _note_size(self, resource: Resource, received_bytes: int) -> None:
        """A segment of which much came before it broke off is fetched as a file from now on: its parts are kept, so
        an origin that cuts every connection does not get away with three tries."""
        gained = received_bytes >= self.limits.gain_bytes
        if resource.byte_range is None and gained and resource not in self._undivided:
            self._large.add(resource)

    async def _identify_large(self, resource: Resource) -> Identity | None:
        """What the origin says of a large segment; None where it does not serve it in parts of a known whole.

        Raises:
            LimitReached: it is longer than a segment may be.
            TidegateError: it cannot be asked. One try: the segment's own budget decides about another.
        """
        exchange, identity = self.connector(resource)(), None
        try:
            identity = await exchange.identify(retry=True)
        except TidegateError as error:
            if error.policy.of_segment is not OfSegment.ALWAYS:  # what is refused in parts may come as a whole
                raise
        finally:
            self.requests += exchange.requests
        if identity is None or identity.size_bytes is None or not identity.ranges:
            self._large.discard(resource)
            self._undivided.add(resource)
            return None
        most_bytes = self.limits.segment_bytes
        if identity.size_bytes > most_bytes:
            raise LimitReached(f"The segment is longer than {most_bytes} bytes")
        return identity

    async def _receive_as_file(
        self, path: Path, resource: Resource, identity: Identity, tries: Retry
    ) -> tuple[SegmentSink, Response]:
        """As `receive_segment`, for a segment so large that its origin cuts it off each time: in parts that are kept.

        Raises:
            SegmentGap: what came cannot be a segment.
        """
        secret = await self.secret(resource.key) if resource.key else None
        fetched = await self._fetch_file(resource, path.parent, path.stem, identity, tries)
        sink = SegmentSink(path, secret, resource.key, lambda _: None)
        try:
            flaw = await in_thread(_pour, fetched.path, sink)
            if flaw is not None:
                raise SegmentGap(f"{tries.what}: {flaw}", evidence=Evidence(url=redact_url(resource.url)))
        except BaseException:
            sink.close()
            raise
        fetched.path.unlink(missing_ok=True)
        return sink, Response(resource.url, HTTPStatus.OK, Headers(), b"", fetched.stats.requests)

    async def fetch_as_file(self, resource: Resource, folder: Path, name: str) -> FetchedFile:
        """A resource that is a file of its own, by the engine for files: resumable inside.

        Raises:
            TidegateError: see `fetch_file`.
        """
        identity, cost = await identify(self.connector(resource), self.limits, self.observe)
        self.requests += cost.requests
        return await self._fetch_file(resource, folder, name, identity)

    async def _fetch_file(
        self, resource: Resource, folder: Path, name: str, identity: Identity, tries: Retry | None = None
    ) -> FetchedFile:
        await in_thread(_make_folder, folder)
        before = self.bytes_received
        outside = replace(self.outside, observe=self._count_progress(self.observe))
        fetched = await fetch_file(outside, self._source_of(resource), folder, identity, name=name, tries=tries)
        self.requests += fetched.stats.requests
        self.retry.retries += 0 if tries else fetched.stats.retries  # the tries of a piece are counted already
        self.bytes_received = max(self.bytes_received, before + fetched.stats.bytes_received)
        return fetched

    async def peek_file(self, resource: Resource, folder: Path) -> MediaInfo | None:
        """What head and tail show of a resource that is a file of its own; the head stays in its part.

        Raises:
            TidegateError: it cannot be had.
        """
        connect = self.connector(resource)
        identity, cost = await identify(connect, self.limits, self.observe)
        await in_thread(_make_folder, folder)
        look = await peek(self.outside, connect, folder, identity)
        self.requests += cost.requests + look.cost.requests
        self.bytes_received += look.cost.bytes_received
        return look.preview

    def connector(self, resource: Resource) -> Connect:
        """What opens exchanges about a resource that is asked for by itself."""
        source = self._source_of(resource)
        return lambda: HttpExchange(source, self.limits, self.outside.gates)

    def _source_of(self, resource: Resource) -> Source:
        """A resource as a source of its own; the person's headers go to their own origin only."""
        trusted = origin_of(resource.url) == origin_of(self.source.url.get_secret_value())
        return Source(url=SecretStr(resource.url), headers=self.source.headers if trusted else {})

    def _count_progress(self, observe: Observer) -> Observer:
        """What the engine for files says of its progress is a part of ours. What was there before is no progress."""
        last: float | None = None

        def tell(event: Event) -> None:
            nonlocal last
            if not isinstance(event, Advance):
                observe(event)
                return
            self.bytes_received += max(0, round(event.done - (event.done if last is None else last)))
            last = event.done

        return tell

    async def _answer(self, resource: Resource, sink: SegmentSink, shown: str) -> Response:
        requests = 1
        try:
            request = self.request_for(resource, "segment", self.limits.segment_bytes)
            answer = await receive(self.outside, request, sink, tries=self.retry.piece(shown, 0))
            requests = answer.requests
            return answer
        finally:
            self.requests += requests

    def budget(self, what: str) -> Retry:
        """The tries of one segment, within those of the whole download."""
        return self.retry.piece(what, self.limits.segment_tries)

    async def validator(self, resource: Resource) -> str | None:
        """What the origin says of a resource now, for the price of one byte. A hint: it has one try."""
        request = self.request_for(resource, "segment", self.limits.segment_bytes)
        first = request.first or 0
        with contextlib.suppress(TidegateError):
            self.requests += 1
            one_byte = replace(request, first=first, last=first)
            return validator_of(await ask(self.outside, one_byte, tries=self.retry.piece("segment", 0)))
        return None

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """One of the few segments that are fetched at once."""
        async with self._slots:
            yield

    def _count(self, received_bytes: int) -> None:
        self.bytes_received += received_bytes


def validator_of(answer: Response) -> str | None:
    """What promises that a resource has not changed, if it is the same later."""
    etag: str | None = answer.headers.get("ETag")
    modified: str | None = answer.headers.get("Last-Modified")
    return etag if etag and not etag.startswith("W/") else modified


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, "making a track's folder", folder) from error


def _pour(path: Path, sink: SegmentSink) -> str | None:
    """Runs in a thread: a file through a sink; why it is no segment."""
    sink.restart()
    buffer = memoryview(bytearray(COPY_BYTES))
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                check_cancellation()
                sink.write(buffer[:count])
    except OSError as error:
        raise from_os_error(error, "reading a segment", path) from error
    return sink.flaw(length_known=True)


def _about_the_key(error: TidegateError) -> TidegateError:
    """The same failure, saying that it met the key."""
    return type(error)(
        f"The key of the segments cannot be had: {error.message}",
        hint=error.hint,
        evidence=error.evidence,
        retry_after_seconds=error.retry_after_seconds,
    )


def _has_known_length(answer: Response) -> bool:
    """Whether an early end of the body would have been noticed."""
    chunked = "chunked" in answer.headers.get("Transfer-Encoding", "").lower()
    return chunked or "Content-Length" in answer.headers

"""HTTP as a byte source: one request at a time, every answer checked before a byte of it is used.

The direct resolver hands `HttpExchange` to the fetch loop. Gates, redirects and connections are the conversation's
business; what an answer says about the file is judged here. It keeps nothing, so a crash costs nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus

from tidegate.errors import NotMedia, RangeMismatch, SourceChanged, UnsupportedSource
from tidegate.model import Identity, Source
from tidegate.settings import TransferSettings
from tidegate.transfer.asking.answers import (
    ambiguous_digests,
    begins_at,
    content_range,
    digests,
    file_name,
    only,
    raise_for_status,
    total_bytes,
)
from tidegate.transfer.asking.conversation import Conversation, OpenResponse, Question
from tidegate.transfer.gates.gates import Gates, origin_of
from tidegate.transfer.transport.base import Headers


class HttpExchange:
    """An `Exchange` with one http(s) source."""

    def __init__(
        self,
        source: Source,
        limits: TransferSettings,
        gates: Gates | None = None,
        what: str = "file",
        note_links: Callable[[str, Headers], None] = lambda url, headers: None,
    ) -> None:
        self._source = source
        self._what = what
        self._conversation = Conversation(gates, limits)
        self._note_links = note_links
        """Is told the headers of each good answer, and where it came from."""
        self.last_identity: Identity | None = None

    @property
    def requests(self) -> int:
        return self._conversation.requests

    async def identify(self, *, retry: bool = False) -> Identity:
        """Ask for the first byte: unlike HEAD, every file server answers that, and the answer tells about ranges."""
        async with self._conversation.ask(self._question({"Range": "bytes=0-0"}), retry=retry) as response:
            if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise NotMedia("The source is empty", evidence=response.evidence)
            raise_for_status(response.status, response.reply.reason, response.headers, response.evidence)
            return self._identity(response)

    @contextlib.asynccontextmanager
    async def open(
        self, start: int, stop: int | None, expected: Identity, *, conditional: bool = True, retry: bool = False
    ) -> AsyncIterator[HttpBody]:
        """A GET, for a range where not all is wanted. A conditional one takes the validator that the source has."""
        headers = _range_headers(start, stop, expected if conditional else None)
        async with self._conversation.ask(self._question(headers), retry=retry) as response:
            body = self._body_of(response, start, expected)
            if not conditional and body.start > 0 and not expected.same_validator_as(body.identity):
                raise RangeMismatch("The part carries no validator to know it by", evidence=response.evidence)
            yield body

    def abort(self) -> None:
        self._conversation.abort()

    def _question(self, headers: dict[str, str]) -> Question:
        url = self._source.url.get_secret_value()
        with contextlib.suppress(ValueError):  # a port that cannot be: the conversation refuses it
            return Question(url, headers, self._source.headers, origin_of(url), self._what)
        return Question(url, headers, what=self._what)

    def _body_of(self, response: OpenResponse, start: int, expected: Identity) -> HttpBody:
        if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return self._empty_body(response, start, expected)
        raise_for_status(response.status, response.reply.reason, response.headers, response.evidence)
        identity = self._identity(response).with_claims_of(expected)
        if not expected.same_content_as(identity):
            if _is_page(identity) and not _is_page(expected):  # a login, a captcha, an error in disguise
                raise NotMedia("The origin answers with a web page now", evidence=response.evidence)
            raise SourceChanged("The source has changed since it was identified", evidence=response.evidence)
        if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
            message = "The origin compresses the file although it was asked not to"
            raise UnsupportedSource(message, evidence=response.evidence)
        return HttpBody(response, begins_at(response.status, response.headers, start, response.evidence), identity)

    def _empty_body(self, response: OpenResponse, start: int, expected: Identity) -> HttpBody:
        """416: right when we have it all already, otherwise the source has become shorter.

        Of a source of unknown size it says that nothing follows, even where it leaves out how long the whole is;
        nothing vouches for that end then.
        """
        stated_total = total_bytes(response.status, response.headers)
        total = start if stated_total is None and expected.size_bytes is None else stated_total
        if total != start or expected.size_bytes not in (None, total):
            raise SourceChanged(f"The source no longer reaches byte {start}", evidence=response.evidence)
        identity = self._identity(response)
        if expected.etag and identity.etag and expected.etag != identity.etag:
            raise SourceChanged("The source has changed since it was identified", evidence=response.evidence)
        # What else the answer says is about its own text, not about the file.
        whole = expected.model_copy(update={"size_bytes": total})
        return HttpBody(response, start, whole, empty=True, end_is_certain=stated_total is not None)

    def _identity(self, response: OpenResponse) -> Identity:
        self._note_links(response.url, response.headers)
        etag = only(response.headers, "ETag")
        partial = response.status == HTTPStatus.PARTIAL_CONTENT
        size = total_bytes(response.status, response.headers)
        whole = not partial or (size is not None and content_range(response.headers) == (0, size - 1))
        weak = etag is not None and etag.startswith("W/")
        self.last_identity = Identity(
            url=self._source.redacted,
            name=file_name(response.headers, self._source.redacted),
            size_bytes=size,
            etag=etag if etag and not weak else None,
            weak_etag=etag if weak else None,
            last_modified=only(response.headers, "Last-Modified"),
            ranges=partial and "Content-Range" in response.headers,
            content_type=response.headers.get("Content-Type"),
            digests=digests(response.headers, whole=whole),
            claims=() if whole else ambiguous_digests(response.headers),
        )
        return self.last_identity


class HttpBody:
    """The body of one answer, already known to be the bytes that were asked for."""

    def __init__(
        self,
        response: OpenResponse,
        start: int,
        identity: Identity,
        *,
        empty: bool = False,
        end_is_certain: bool | None = None,
    ) -> None:
        self.start = start
        self.partial = empty or response.status == HTTPStatus.PARTIAL_CONTENT
        self.identity = identity
        self.total_bytes = identity.size_bytes
        self.end_is_certain = response.reply.end_is_certain if end_is_certain is None else end_is_certain
        self._response = response
        self._left = 0 if empty else _range_length(response)

    @property
    def waited_seconds(self) -> float:
        return self._response.reply.waited_seconds

    def readinto(self, buffer: memoryview) -> int:
        """Take what is there. Never more than the answer said it would hold: what comes after it is nobody's."""
        if self._left == 0:
            return 0
        count = self._response.reply.readinto(buffer if self._left is None else buffer[: self._left])
        if self._left is not None:
            self._left -= count
        return count

    def report_bytes(self, bytes_so_far: int) -> None:
        self._response.passage.report_bytes(bytes_so_far)


def _is_page(identity: Identity) -> bool:
    return (identity.content_type or "").lower().startswith(("text/html", "application/xhtml"))


def _range_length(response: OpenResponse) -> int | None:
    """How many bytes the answer's Content-Range speaks of; None where it has none."""
    covers = content_range(response.headers) if response.status == HTTPStatus.PARTIAL_CONTENT else None
    return None if covers is None else covers[1] - covers[0] + 1


def _range_headers(start: int, stop: int | None, expected: Identity | None) -> dict[str, str]:
    if start == 0 and stop is None:
        return {}
    headers = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
    validator = expected.etag or expected.last_modified if expected else None
    # One that no header may hold cannot be sent back; the answer's own is compared anyway.
    sendable = validator is not None and validator.isascii() and validator.isprintable()
    return headers | ({"If-Range": validator} if validator and sendable else {})

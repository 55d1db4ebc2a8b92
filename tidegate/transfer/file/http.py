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
    begins_at,
    claimed_digests,
    covered,
    digests,
    file_name,
    only,
    raise_for_status,
    total_bytes,
)
from tidegate.transfer.asking.conversation import Conversation, Heard, Question
from tidegate.transfer.gates.gates import Gates, origin_of
from tidegate.transfer.transport.base import Headers


class HttpExchange:
    """See `Exchange`."""

    def __init__(
        self,
        source: Source,
        limits: TransferSettings,
        gates: Gates | None = None,
        what: str = "file",
        noted: Callable[[str, Headers], None] = lambda url, headers: None,
    ) -> None:
        self._source = source
        self._what = what
        self._conversation = Conversation(gates, limits)
        self._noted = noted
        """Is told the headers of each good answer, and where it came from."""
        self.told: Identity | None = None

    @property
    def requests(self) -> int:
        return self._conversation.requests

    async def identify(self, *, retry: bool = False) -> Identity:
        """Ask for the first byte: unlike HEAD, every file server answers that, and the answer tells about ranges."""
        async with self._conversation.ask(self._question({"Range": "bytes=0-0"}), retry=retry) as heard:
            if heard.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise NotMedia("The source is empty", evidence=heard.evidence)
            raise_for_status(heard.status, heard.reply.reason, heard.headers, heard.evidence)
            return self._identity(heard)

    @contextlib.asynccontextmanager
    async def open(
        self, start: int, stop: int | None, expected: Identity, *, conditional: bool = True, retry: bool = False
    ) -> AsyncIterator[HttpBody]:
        """See `Exchange.open`. A conditional range goes along with the validator, when the source has one."""
        headers = _range_headers(start, stop, expected if conditional else None)
        async with self._conversation.ask(self._question(headers), retry=retry) as heard:
            body = self._checked(heard, start, expected)
            if not conditional and body.start > 0 and not expected.same_validator_as(body.identity):
                raise RangeMismatch("The part carries no validator to know it by", evidence=heard.evidence)
            yield body

    def abort(self) -> None:
        self._conversation.abort()

    def _question(self, headers: dict[str, str]) -> Question:
        url = self._source.url.get_secret_value()
        with contextlib.suppress(ValueError):  # a port that cannot be: the conversation refuses it
            return Question(url, headers, self._source.headers, origin_of(url), self._what)
        return Question(url, headers, what=self._what)

    def _checked(self, heard: Heard, start: int, expected: Identity) -> HttpBody:
        if heard.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return self._nothing_left(heard, start, expected)
        raise_for_status(heard.status, heard.reply.reason, heard.headers, heard.evidence)
        identity = self._identity(heard).settled_by(expected)
        if not expected.same_content_as(identity):
            if _is_page(identity) and not _is_page(expected):  # a login, a captcha, an error in disguise
                raise NotMedia("The origin answers with a web page now", evidence=heard.evidence)
            raise SourceChanged("The source has changed since it was identified", evidence=heard.evidence)
        if heard.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
            message = "The origin compresses the file although it was asked not to"
            raise UnsupportedSource(message, evidence=heard.evidence)
        return HttpBody(heard, begins_at(heard.status, heard.headers, start, heard.evidence), identity)

    def _nothing_left(self, heard: Heard, start: int, expected: Identity) -> HttpBody:
        """416: right when we have it all already, otherwise the source has become shorter.

        Of a source of unknown size it says that nothing follows, even where it leaves out how long the whole is;
        nothing vouches for that end then.
        """
        told_total = total_bytes(heard.status, heard.headers)
        total = start if told_total is None and expected.size_bytes is None else told_total
        if total != start or expected.size_bytes not in (None, total):
            raise SourceChanged(f"The source no longer reaches byte {start}", evidence=heard.evidence)
        told = self._identity(heard)
        if expected.etag and told.etag and expected.etag != told.etag:
            raise SourceChanged("The source has changed since it was identified", evidence=heard.evidence)
        # What else the answer says is about its own text, not about the file.
        whole = expected.model_copy(update={"size_bytes": total})
        return HttpBody(heard, start, whole, empty=True, end_is_certain=told_total is not None)

    def _identity(self, heard: Heard) -> Identity:
        self._noted(heard.url, heard.headers)
        etag = only(heard.headers, "ETag")
        partial = heard.status == HTTPStatus.PARTIAL_CONTENT
        size = total_bytes(heard.status, heard.headers)
        whole = not partial or (size is not None and covered(heard.headers) == (0, size - 1))
        weak = etag is not None and etag.startswith("W/")
        self.told = Identity(
            url=self._source.redacted,
            name=file_name(heard.headers, self._source.redacted),
            size_bytes=size,
            etag=etag if etag and not weak else None,
            weak_etag=etag if weak else None,
            last_modified=only(heard.headers, "Last-Modified"),
            ranges=partial and "Content-Range" in heard.headers,
            content_type=heard.headers.get("Content-Type"),
            digests=digests(heard.headers, whole=whole),
            claims=() if whole else claimed_digests(heard.headers),
        )
        return self.told


class HttpBody:
    """The body of one answer, already known to be the bytes that were asked for."""

    def __init__(
        self,
        heard: Heard,
        start: int,
        identity: Identity,
        *,
        empty: bool = False,
        end_is_certain: bool | None = None,
    ) -> None:
        self.start = start
        self.partial = empty or heard.status == HTTPStatus.PARTIAL_CONTENT
        self.identity = identity
        self.total_bytes = identity.size_bytes
        self.end_is_certain = heard.reply.end_is_certain if end_is_certain is None else end_is_certain
        self._heard = heard
        self._left = 0 if empty else _announced(heard)

    @property
    def waited_seconds(self) -> float:
        return self._heard.reply.waited_seconds

    def readinto(self, buffer: memoryview) -> int:
        """See `Body.readinto`. Never more than the answer said it would hold: what comes after it is nobody's."""
        if self._left == 0:
            return 0
        count = self._heard.reply.readinto(buffer if self._left is None else buffer[: self._left])
        if self._left is not None:
            self._left -= count
        return count

    def gained(self, bytes_so_far: int) -> None:
        self._heard.passage.gained(bytes_so_far)


def _is_page(identity: Identity) -> bool:
    return (identity.content_type or "").lower().startswith(("text/html", "application/xhtml"))


def _announced(heard: Heard) -> int | None:
    """How many bytes the answer's Content-Range speaks of; None where it has none."""
    covers = covered(heard.headers) if heard.status == HTTPStatus.PARTIAL_CONTENT else None
    return None if covers is None else covers[1] - covers[0] + 1


def _range_headers(start: int, stop: int | None, expected: Identity | None) -> dict[str, str]:
    if start == 0 and stop is None:
        return {}
    headers = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
    validator = expected.etag or expected.last_modified if expected else None
    # One that no header may hold cannot be sent back; the answer's own is compared anyway.
    sendable = validator is not None and validator.isascii() and validator.isprintable()
    return headers | ({"If-Range": validator} if validator and sendable else {})

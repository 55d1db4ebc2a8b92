"""What an origin answers: from a request, a representation and a step to a status, headers and a body.

`tests.support.origin` calls `answer` once for each request and sends what it gets. Everything here is pure;
the clock is passed in. Only the `Step` makes an answer wrong: without one, RFC 9110 is followed.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

from tests.support.content import Representation
from tests.support.story import PEEK_BYTES, Step

Headers = tuple[tuple[str, str], ...]

LOGIN_PAGE = b"""<!DOCTYPE html>
<html><head><title>Sign in</title></head>
<body><form method="post"><input name="user"><input name="password" type="password"></form></body></html>
"""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of the representation from `first` up to, not including, `end`."""

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, the headers that describe the body, and the body: a literal or a span of the file."""

    status: int
    headers: Headers
    body: bytes | Span


@dataclass(frozen=True, slots=True)
class RequestHead:
    """What a client asked, header names in lower case."""

    method: str
    target: str
    version: str
    headers: Mapping[str, str]

    @property
    def path(self) -> str:
        """The target without its query, and without the host that a client names to a proxy."""
        return re.sub(r"^http://[^/]*", "", self.target.partition("?")[0])

    @property
    def query(self) -> str:
        """What follows the question mark."""
        return self.target.partition("?")[2]

    @property
    def range(self) -> str | None:
        """The Range header as sent."""
        return self.headers.get("range")

    @property
    def peek(self) -> bool:
        """Whether this only looks: `bytes=0-0`, or a bounded or suffix range of at most 1 MiB."""
        match = re.fullmatch(r"bytes=(\d*)-(\d+)", self.range or "")
        if not match:
            return False
        length = int(match[2]) - int(match[1]) + 1 if match[1] else int(match[2])
        return 0 < length <= PEEK_BYTES

    @property
    def keep_alive(self) -> bool:
        """Whether the client wants the connection to go on."""
        asked = self.headers.get("connection", "").lower()
        return "close" not in asked and (self.version == "HTTP/1.1" or "keep-alive" in asked)


class Unsatisfiable(Exception):
    """The range begins beyond the end of the file."""


def answer(head: RequestHead, shown: Representation, step: Step, now: float) -> Answer:
    """Decide status, headers and body of one answer; the framing is added by whoever sends it."""
    if step.subject == "status" and step.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return _unsatisfiable(shown)
    if step.subject == "status":
        return refusal(step.status or 500, _retry_after(step, now))
    if step.subject == "redirect":
        return refusal(302, (("Location", step.location or "/"),))
    if step.subject == "redirect-loop":
        hop = int(re.sub(r"\D", "", head.query) or 0) + 1
        return refusal(302, (("Location", f"{head.path}?hop={hop}"),))
    if step.subject == "html":
        return Answer(200, (("Content-Type", "text/html; charset=utf-8"),), LOGIN_PAGE)
    if step.subject == "empty":
        return Answer(200, _description(shown), b"")
    return _file(head, shown, step)


def refusal(status: int, headers: Headers = ()) -> Answer:
    """An answer that carries a status and a line of text, nothing of the file."""
    text = f"{status} {phrase(status)}\n"
    return Answer(status, (("Content-Type", "text/plain; charset=utf-8"), *headers), text.encode())


def phrase(status: int) -> str:
    """The reason phrase of a status; origins invent statuses, so an unknown one has a phrase too."""
    return HTTPStatus(status).phrase if status in {known.value for known in HTTPStatus} else "Unknown"


def requested_span(text: str | None, size: int) -> Span | None:
    """The one range asked for; None for none, several, or one that RFC 9110 tells to ignore."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", (text or "").replace(" ", ""))
    if not match or not (match[1] or match[2]):
        return None
    if not match[1]:
        first, end = max(0, size - int(match[2])), size
    else:
        first, end = int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)
        if match[2] and int(match[2]) < first:
            return None
    if first >= size:
        raise Unsatisfiable
    return Span(first, end)


def range_condition_holds(condition: str | None, shown: Representation) -> bool:
    """Whether If-Range allows a partial answer: a strong tag or the exact date, nothing weaker."""
    if condition is None:
        return True
    if condition.startswith(("W/", '"')):
        return condition == shown.etag and not condition.startswith("W/")
    return condition == shown.last_modified


def _file(head: RequestHead, shown: Representation, step: Step) -> Answer:
    headers = _description(shown)
    if step.gzip:
        return Answer(200, (*headers, ("Content-Encoding", "gzip")), Span(0, shown.size))
    try:
        whole = step.ignore_range or (step.if_range_whole and "if-range" in head.headers)
        span = None if whole else _honoured_span(head, shown)
    except Unsatisfiable:
        return _unsatisfiable(shown)
    if span is None:
        return Answer(200, headers, Span(0, shown.size))
    if step.wrong_range:
        span = _beside(span, shown.size)
    if shown.resource.digest == "of the part":
        headers = (*headers, ("Digest", f"SHA-256={_part_digest(shown, span)}"))
    return Answer(206, (*headers, ("Content-Range", f"bytes {span.first}-{span.end - 1}/{shown.size}")), span)


def _honoured_span(head: RequestHead, shown: Representation) -> Span | None:
    if shown.resource.accept_ranges == "none" or head.method != "GET":
        return None
    if not range_condition_holds(head.headers.get("if-range"), shown):
        return None
    return requested_span(head.range, shown.size)


def _beside(span: Span, size: int) -> Span:
    first = span.first - 1000 if span.first >= 1000 else min(span.first + 1000, size - 1)
    return Span(first, max(span.end, first + 1))


def _unsatisfiable(shown: Representation) -> Answer:
    return refusal(416, (("Content-Range", f"bytes */{shown.size}"),))


def _retry_after(step: Step, now: float) -> Headers:
    if step.retry_after_seconds is None:
        return ()
    if step.retry_after_as_date:
        return (("Retry-After", formatdate(now + step.retry_after_seconds, usegmt=True)),)
    return (("Retry-After", str(step.retry_after_seconds)),)


def _description(shown: Representation) -> Headers:
    resource = shown.resource
    optional = (
        ("ETag", shown.etag),
        ("Last-Modified", shown.last_modified),
        ("Accept-Ranges", resource.accept_ranges),
        ("Repr-Digest", f"sha-256=:{_base64(shown)}:" if resource.repr_digest else None),
        *_old_digests(shown),
    )
    told = tuple((name, value) for name, value in optional if value is not None)
    return (("Content-Type", shown.content_type), *told)


def _old_digests(shown: Representation) -> tuple[tuple[str, str | None], ...]:
    kind = shown.resource.digest
    return (
        ("Digest", f"SHA-256={_base64(shown)}" if kind == "sha-256" else None),
        ("Digest", f"MD5={_base64(shown, 'md5')}" if kind == "md5" else None),
        ("Content-MD5", _base64(shown, "md5") if kind == "content-md5" else None),
    )


def _part_digest(shown: Representation, span: Span) -> str:
    with shown.reader() as read:
        return base64.b64encode(hashlib.sha256(read(span.first, span.end - span.first)).digest()).decode()


def _base64(shown: Representation, algorithm: str = "sha256") -> str:
    return base64.b64encode(shown.hashed(algorithm)).decode()

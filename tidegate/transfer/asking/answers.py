"""What the status and the headers of an answer mean (RFC 9110, 9530, 6249). Pure.

Conversations and exchanges read answers with these functions only, so that a file, a playlist and a segment are judged
alike. Nothing here asks or keeps anything.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import time
from email.message import Message
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import unquote, urljoin, urlsplit

from tidegate.errors import (
    Evidence,
    HttpRefused,
    NotFound,
    NotMedia,
    RangeMismatch,
    RedirectLoop,
    RequestTimeout,
    ServerError,
    Throttled,
)
from tidegate.model import Digest
from tidegate.transfer.transport.base import Headers

LONGEST_DISPOSITION = 8192
"""Characters of a header with a file's name."""
LONGEST_WAIT_SECONDS = 1e9
"""What a longer Retry-After counts as; a number too large for a float would be infinite, which JSON cannot say."""

_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,40})-(\d{1,40})|\*)/(\d{1,40}|\*)", re.ASCII)
"""No number here has more digits; Python would refuse to read one of thousands."""
_DIGEST_NAMES = {"sha-256": "sha256", "sha-512": "sha512", "md5": "md5", "sha": "sha1"}
"""Algorithms of RFC 9530 and RFC 3230 whose values we check, by hashlib's names."""
_LINK = re.compile(r"<([^<>]*)>((?:\s*;\s*[\w*-]+\s*=\s*(?:\"[^\"]*\"|[^\s\";,]+))*)")
_RESET = re.compile(r"(?:^|[\s,;])(?:t|reset)\s*=\s*(\d+)", re.ASCII)


def raise_for_status(status: int, reason: str, headers: Headers, evidence: Evidence) -> None:
    """Translate a status that is not success (RFC 9110 §15)."""
    if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        return
    message = f"The origin answered {status} {reason}".rstrip()
    wait = wait_seconds(headers, time.time()) if status in (429, 503) else None
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        raise Throttled(message, evidence=evidence, retry_after_seconds=wait)
    if status == HTTPStatus.REQUEST_TIMEOUT:
        raise RequestTimeout(message, evidence=evidence)
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        raise NotFound(message, evidence=evidence)
    if 400 <= status < 500:
        raise HttpRefused(message, evidence=evidence)
    if 500 <= status < 600:
        raise ServerError(message, evidence=evidence, retry_after_seconds=wait)
    raise NotMedia(message, evidence=evidence)


def redirect_target(url: str, status: int, headers: Headers, evidence: Evidence) -> str | None:
    """Where the answer sends us; None when it is no redirect.

    Raises:
        RedirectLoop: it leads nowhere (300 leaves the choice, 304 has no body), or to anything but HTTP.
    """
    if not 300 <= status < 400:
        return None
    place = headers.get("Location")
    if place is None or status not in (301, 302, 303, 307, 308):
        raise RedirectLoop(f"The origin answered {status} and no place to go", evidence=evidence)
    try:
        target: str = urljoin(url, place)
        parts = urlsplit(target)
        leads_on = parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # no URL at all, or a port that cannot be
        leads_on = False
    if not leads_on:
        raise RedirectLoop("The source redirects to something that is not HTTP", evidence=evidence)
    return target


def begins_at(status: int, headers: Headers, start: int, evidence: Evidence) -> int:
    """Where the body begins: 0 for a whole answer, else what Content-Range says, which must be what we asked for.

    Raises:
        RangeMismatch: it covers other bytes, or does not say which.
    """
    if status != HTTPStatus.PARTIAL_CONTENT:
        return 0
    covers = content_range(headers)
    if covers is None or covers[0] != start:
        value = headers.get("Content-Range", "no Content-Range")[:100]
        raise RangeMismatch(f"Asked for bytes from {start}, the origin sent {value!r}", evidence=evidence)
    return start


def content_range(headers: Headers) -> tuple[int, int] | None:
    """First and last byte that a partial answer says it holds."""
    covers = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if covers is None or covers[1] is None or int(covers[2]) < int(covers[1]):
        return None
    return int(covers[1]), int(covers[2])


def total_bytes(status: int, headers: Headers) -> int | None:
    """The size of the whole, which is not that of a partial answer."""
    covers = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if covers is not None:
        return None if covers[3] == "*" else int(covers[3])
    length = headers.get("Content-Length", "")
    return int(length) if re.fullmatch(r"[0-9]{1,40}", length) and status == HTTPStatus.OK else None


def only(headers: Headers, name: str) -> str | None:
    """The value of a header that may be there once. Two that contradict each other say nothing."""
    values = set(headers.get_list(name))
    return values.pop() if len(values) == 1 else None


def wait_seconds(headers: Headers, now: float) -> float | None:
    """How long the origin asks to be left alone: `Retry-After`, else what its rate limit's headers say."""
    wait = retry_after_seconds(headers.get("Retry-After"), now)
    if wait is not None:
        return wait
    limit = _RESET.search(headers.get("RateLimit", ""))
    if limit is not None:
        return min(float(limit[1]), LONGEST_WAIT_SECONDS)
    for name in ("RateLimit-Reset", "X-RateLimit-Reset"):
        value = headers.get(name, "").strip()
        if re.fullmatch(r"[0-9]{1,20}", value):
            # Some count from now, others give the POSIX time of the reset.
            reset = float(value)
            return min(max(0.0, reset - now) if reset > now / 2 else reset, LONGEST_WAIT_SECONDS)
    return None


def retry_after_seconds(value: str | None, now: float) -> float | None:
    """Both forms of Retry-After (RFC 9110 §10.2.3), as seconds from `now` (POSIX time)."""
    if not value:
        return None
    if re.fullmatch(r"[0-9]+", value.strip()):
        return min(float(value), LONGEST_WAIT_SECONDS)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def digests(headers: Headers, *, whole: bool) -> tuple[Digest, ...]:
    """Digests that are certainly of the whole file. `Repr-Digest` always is; the others where the answer is `whole`."""
    values = [headers.get("Repr-Digest", "")]
    if whole:
        values += [headers.get("Content-Digest", ""), headers.get("Digest", ""), _content_md5(headers)]
    return _unanimous(values)


def ambiguous_digests(headers: Headers) -> tuple[Digest, ...]:
    """Digests of which the header does not say whether they are of the whole file, or of the part that was asked for.

    RFC 3230 means the whole file, many servers the part; `Content-MD5` was changed from one to the other. Answers that
    give the same one for different parts settle it.
    """
    return _unanimous([headers.get("Digest", ""), _content_md5(headers)])


def file_name(headers: Headers, redacted: str) -> str:
    """A name for people. It is somebody else's text: whoever makes a path of it sanitises it."""
    message = Message()
    # Of an endless one nothing is a name, and the library's time for it grows with the square of its length.
    disposition = headers.get("Content-Disposition", "")
    message["Content-Disposition"] = disposition if len(disposition) <= LONGEST_DISPOSITION else ""
    given = None
    with contextlib.suppress(ValueError, LookupError):  # a charset that is none, a number without end
        given = message.get_filename()
    return given or unquote(urlsplit(redacted).path.rstrip("/").rpartition("/")[2]) or urlsplit(redacted).netloc


def links_of(headers: Headers, url: str, relation: str) -> tuple[tuple[str, dict[str, str]], ...]:
    """Targets of `Link` headers with this relation (RFC 8288), http(s) only, with their parameters."""
    found = []
    for target, rest in _LINK.findall(headers.get("Link", "")):
        parameters = {
            name.strip().lower(): value.strip().strip('"')
            for name, _, value in (one.partition("=") for one in re.findall(r";\s*([^;\"]*(?:\"[^\"]*\")?)", rest))
        }
        if relation in parameters.get("rel", "").lower().split():
            try:
                whole = urljoin(url, target)
                if urlsplit(whole).scheme in ("http", "https") and urlsplit(whole).hostname:
                    found.append((whole, parameters))
            except ValueError:
                continue
    return tuple(found)


def _content_md5(headers: Headers) -> str:
    value = headers.get("Content-MD5", "")
    return f"md5={value}" if value else ""


def _unanimous(values: list[str]) -> tuple[Digest, ...]:
    """What the headers say, but for algorithms on which they contradict each other."""
    found = dict.fromkeys(filter(None, (_digest(item) for item in ",".join(values).split(","))))
    names = [digest.partition(":")[0] for digest in found]
    return tuple(digest for digest, name in zip(found, names, strict=True) if names.count(name) == 1)


def _digest(item: str) -> Digest | None:
    name, _, value = item.strip().partition("=")
    algorithm = _DIGEST_NAMES.get(name.lower())
    if algorithm is None:
        return None
    try:
        raw = base64.b64decode(value.strip(":"), validate=True)
    except ValueError:  # also binascii.Error
        return None
    return f"{algorithm}:{raw.hex()}" if len(raw) == hashlib.new(algorithm).digest_size else None

"""HTTP as a byte source: one request on one connection, every answer checked before a byte of it is used.

The direct resolver hands `HttpExchange` to the transfer engine, which calls it from worker threads. httpx does the
protocol; redirects are followed here, because headers given for one origin must not travel to another. It keeps
nothing, so there is nothing to lose in a crash.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any, Self
from urllib.parse import unquote, urljoin, urlsplit

import httpx

from tidegate.errors import (
    BadInput,
    ConnectionFailed,
    Evidence,
    HttpRefused,
    NotFound,
    NotMedia,
    RangeMismatch,
    RedirectLoop,
    RequestTimeout,
    ServerError,
    SourceChanged,
    StalledTransfer,
    Throttled,
    TidegateError,
    TruncatedBody,
    UnsupportedSource,
)
from tidegate.model import Digest, Identity, Source
from tidegate.redact import redact_url
from tidegate.settings import TransferSettings

for _chatty in ("httpx", "httpcore"):  # at INFO they log every URL as it is, tokens and all
    logging.getLogger(_chatty).setLevel(logging.WARNING)

LONGEST_WAIT_SECONDS = 1e9
"""What a longer Retry-After counts as; a number too large for a float would be infinite, which JSON cannot say."""

_CONTENT_RANGE = re.compile(r"^bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)$")
_DIGEST_NAMES = {"sha-256": "sha256", "sha-512": "sha512", "md5": "md5", "sha": "sha1"}
"""Algorithms of RFC 9530 and RFC 3230 whose values we check, by hashlib's names."""


class HttpExchange:
    """One request at a time on a connection of its own, which `abort` can break from any thread."""

    def __init__(self, source: Source, limits: TransferSettings) -> None:
        self._source = source
        self._limits = limits
        self.requests = 0
        self._aborted = threading.Event()
        self._socket: socket.socket | None = None
        quiet = limits.stall_timeout + 2 * limits.stall_tick  # the stall clock judges first; this is its safety net
        self._timeout = httpx.Timeout(quiet.total_seconds(), connect=limits.request_timeout.total_seconds())
        self._client: httpx.Client | None = None

    def identify(self) -> Identity:
        """Ask for the first byte: unlike HEAD, every file server answers that, and the answer tells about ranges."""
        response = self._request({"Range": "bytes=0-0"})
        try:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise NotMedia("The source is empty", evidence=self._evidence(response))
            _raise_for_status(response, self._evidence(response))
            return self._identity(response)
        finally:
            self._close(response)

    def open(self, start: int, stop: int | None, expected: Identity, *, conditional: bool = True) -> HttpBody:
        """See `Exchange.open`. A conditional range goes along with the validator, when the source has one."""
        response = self._request(_range_headers(start, stop, expected if conditional else None))
        try:
            body = self._checked(response, start, expected)
            if not conditional and body.start > 0 and not expected.same_validator_as(body.identity):
                raise RangeMismatch("The part carries no validator to know it by", evidence=self._evidence(response))
            return body
        except BaseException:
            self._close(response)
            raise

    def abort(self) -> None:
        self._aborted.set()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # socket.socket's own method: SSLSocket.shutdown drops the TLS state that the reading thread is using.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _checked(self, response: httpx.Response, start: int, expected: Identity) -> HttpBody:
        evidence = self._evidence(response)
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return self._nothing_left(response, start, expected, evidence)
        _raise_for_status(response, evidence)
        identity = self._identity(response)
        if not expected.same_content_as(identity):
            raise SourceChanged("The source has changed since it was identified", evidence=evidence)
        if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
            raise UnsupportedSource("The origin compresses the file although it was asked not to", evidence=evidence)
        offset = _offset(response, start, evidence)
        return HttpBody(self, response, offset, identity)

    def _nothing_left(self, response: httpx.Response, start: int, expected: Identity, evidence: Evidence) -> HttpBody:
        """416: right when we have it all already, otherwise the source has become shorter."""
        total = _total_bytes(response)
        if total is None or total != start:
            raise SourceChanged(f"The source no longer reaches byte {start}", evidence=evidence)
        told = self._identity(response)
        if expected.etag and told.etag and expected.etag != told.etag:
            raise SourceChanged("The source has changed since it was identified", evidence=evidence)
        # What else the answer says is about its own text, not about the file.
        return HttpBody(self, response, start, expected.model_copy(update={"size_bytes": total}), empty=True)

    def _request(self, headers: dict[str, str]) -> httpx.Response:
        url = self._source.url.get_secret_value()
        for _ in range(self._limits.redirects + 1):
            response = self._send(url, headers)
            if not response.has_redirect_location:
                return response
            self._close(response)
            url = _target(url, response)
        raise RedirectLoop(f"More than {self._limits.redirects} redirects", evidence=Evidence(url=redact_url(url)))

    def _send(self, url: str, headers: dict[str, str]) -> httpx.Response:
        sent = {"Accept-Encoding": "identity", "Accept": "*/*", "User-Agent": "tidegate", **headers}
        try:
            if _origin(url) == _origin(self._source.url.get_secret_value()):
                sent |= {name: value.get_secret_value() for name, value in self._source.headers.items()}
            self._client = self._client_for(url)
            request = self._client.build_request("GET", url, headers=sent, extensions={"trace": self._trace})
            self.requests += 1
            return self._client.send(request, stream=True)
        except Exception as error:  # noqa: BLE001  # translated
            raise _translated(error, url, reading=False) from _presentable(error)

    def _client_for(self, url: str) -> httpx.Client:
        """A client for one request. Reading the certificates takes 20 ms, so only https pays for it, and once."""
        tls = _tls() if urlsplit(url).scheme == "https" else False
        one = httpx.Limits(max_connections=1, max_keepalive_connections=0)
        # A hook, because httpx itself looks at the target before it hands the answer over, and fails in its own way.
        hooks = {"response": [self._refuse_dead_end]}
        return httpx.Client(timeout=self._timeout, limits=one, verify=tls, event_hooks=hooks)

    def _refuse_dead_end(self, response: httpx.Response) -> None:
        """A redirect must lead somewhere: to HTTP, and anywhere at all (300 leaves the choice, 304 has no body)."""
        if not response.is_redirect:
            return
        evidence = self._evidence(response)
        if not response.has_redirect_location:
            raise RedirectLoop(f"The origin answered {response.status_code} and no place to go", evidence=evidence)
        if _target(str(response.url), response) == "":
            raise RedirectLoop("The source redirects to something that is not HTTP", evidence=evidence)

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        """Learn the socket as soon as it exists, so that `abort` can break a TLS handshake or a wait for headers."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._socket = info["return_value"].get_extra_info("socket")
            if self._aborted.is_set():
                self.abort()  # it was given up before there was a socket; raising here would leave the socket open

    def _identity(self, response: httpx.Response) -> Identity:
        etag = response.headers.get("ETag")
        partial = response.status_code == httpx.codes.PARTIAL_CONTENT
        weak = etag is not None and etag.startswith("W/")
        return Identity(
            url=self._source.redacted,
            name=_file_name(response, self._source.redacted),
            size_bytes=_total_bytes(response),
            etag=etag if etag and not weak else None,
            weak_etag=etag if weak else None,
            last_modified=response.headers.get("Last-Modified"),
            ranges=partial and "Content-Range" in response.headers,
            content_type=response.headers.get("Content-Type"),
            digests=_digests(response.headers, partial=partial),
        )

    def _evidence(self, response: httpx.Response) -> Evidence:
        return Evidence(url=redact_url(str(response.url)), status=response.status_code)

    def _close(self, response: httpx.Response) -> None:
        # Closing the whole connection: draining what is left of a body could take for ever.
        response.close()
        if self._client is not None:
            self._client.close()


class HttpBody:
    """The body of one answer, already known to be the bytes that were asked for."""

    def __init__(
        self, exchange: HttpExchange, response: httpx.Response, start: int, identity: Identity, *, empty: bool = False
    ) -> None:
        self._exchange = exchange
        self._response = response
        self._empty = empty
        self.start = start
        self.identity = identity
        self.total_bytes = identity.size_bytes
        chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
        self.end_is_certain = chunked or "Content-Length" in response.headers

    def __iter__(self) -> Iterator[bytes]:
        if self._empty:
            return
        try:
            # Without a chunk size: httpx would hold bytes back to fill a chunk, and lose them when the line breaks.
            yield from self._response.iter_raw()
        except Exception as error:  # noqa: BLE001  # translated
            raise _translated(error, str(self._response.url), reading=True) from _presentable(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exchange._close(self._response)


@functools.cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _range_headers(start: int, stop: int | None, expected: Identity | None) -> dict[str, str]:
    if start == 0 and stop is None:
        return {}
    headers = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
    validator = expected.etag or expected.last_modified if expected else None
    return headers | ({"If-Range": validator} if validator else {})


def _target(url: str, response: httpx.Response) -> str:
    """Where a redirect leads; empty for anything but HTTP."""
    try:
        target: str = urljoin(url, response.headers["Location"])
        host = _origin(target)[1]
    except ValueError:  # no URL at all, or a port that cannot be
        return ""
    return target if host and urlsplit(target).scheme in ("http", "https") else ""


def _offset(response: httpx.Response, asked: int, evidence: Evidence) -> int:
    """Where the body begins: 0 for a whole answer, else what Content-Range says, which must be what we asked for."""
    if response.status_code != httpx.codes.PARTIAL_CONTENT:
        return 0
    covers = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    if covers is None or covers[1] is None or int(covers[1]) != asked:
        told = response.headers.get("Content-Range", "no Content-Range")
        raise RangeMismatch(f"Asked for bytes from {asked}, the origin sent {told!r}", evidence=evidence)
    return asked


def _total_bytes(response: httpx.Response) -> int | None:
    covers = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    if covers is not None:
        return None if covers[3] == "*" else int(covers[3])
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() and response.status_code == httpx.codes.OK else None


def _raise_for_status(response: httpx.Response, evidence: Evidence) -> None:
    """Translate a status that is not success (RFC 9110 §15)."""
    status = response.status_code
    if status in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
        return
    said = f"The origin answered {status} {response.reason_phrase}".rstrip()
    wait = _retry_after_seconds(response.headers.get("Retry-After"), time.time())
    if status == httpx.codes.TOO_MANY_REQUESTS:
        raise Throttled(said, evidence=evidence, retry_after_seconds=wait)
    if status == httpx.codes.REQUEST_TIMEOUT:
        raise RequestTimeout(said, evidence=evidence)
    if status in (httpx.codes.NOT_FOUND, httpx.codes.GONE):
        raise NotFound(said, evidence=evidence)
    if httpx.codes.is_client_error(status):
        raise HttpRefused(said, evidence=evidence)
    if httpx.codes.is_server_error(status):
        raise ServerError(said, evidence=evidence, retry_after_seconds=wait)
    raise NotMedia(said, evidence=evidence)


def _retry_after_seconds(value: str | None, now: float) -> float | None:
    """Both forms of Retry-After (RFC 9110 §10.2.3), as seconds from `now` (POSIX time)."""
    if not value:
        return None
    if re.fullmatch(r"[0-9]+", value.strip()):
        return min(float(value), LONGEST_WAIT_SECONDS)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except ValueError:
        return None


def _digests(headers: httpx.Headers, *, partial: bool) -> tuple[Digest, ...]:
    """Digests of the whole representation: `Repr-Digest` always is, the old `Digest` too; `Content-Digest` is not."""
    old = "" if partial else headers.get("Digest", "")
    return tuple(filter(None, (_digest(item) for item in f"{headers.get('Repr-Digest', '')},{old}".split(","))))


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


def _file_name(response: httpx.Response, redacted: str) -> str:
    message = Message()
    message["Content-Disposition"] = response.headers.get("Content-Disposition", "")
    given = message.get_filename()
    return given or unquote(urlsplit(redacted).path.rstrip("/").rpartition("/")[2]) or urlsplit(redacted).netloc


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _presentable(error: Exception) -> Exception | None:
    """The cause to name in a traceback; none where it quotes a header, ours with its secret or the origin's."""
    return None if isinstance(error, httpx.ProtocolError | httpx.InvalidURL | ValueError) else error


def _translated(error: Exception, url: str, *, reading: bool) -> TidegateError:
    """httpx's exceptions as ours; `reading` tells whether the body had begun. None repeats a header or a link."""
    evidence = Evidence(url=redact_url(url))
    host = urlsplit(redact_url(url)).hostname
    detail = str(error) or type(error).__name__
    match error:
        case TidegateError():
            return error
        case httpx.ConnectTimeout():
            return RequestTimeout(f"No connection to {host} in time", evidence=evidence)
        case httpx.ReadTimeout() if reading:
            return StalledTransfer("No byte came for longer than the stall timeout", evidence=evidence)
        case httpx.TimeoutException():
            return RequestTimeout(f"No answer from {host} in time", evidence=evidence)
        case httpx.RemoteProtocolError() if reading:
            return TruncatedBody("The body ended before its announced end", evidence=evidence)
        case httpx.RemoteProtocolError():
            return ConnectionFailed(f"{host} ended the connection or answered with no HTTP", evidence=evidence)
        case httpx.ConnectError():
            return ConnectionFailed(f"No connection to {host}: {detail}", evidence=evidence)
        case httpx.InvalidURL() | httpx.UnsupportedProtocol() | httpx.LocalProtocolError() | ValueError():
            return BadInput("The link or a header is not valid", evidence=evidence)
        case httpx.HTTPError() | OSError():
            return ConnectionFailed(f"The connection to {host} broke: {detail}", evidence=evidence)
        case _:
            return ConnectionFailed(f"The exchange with {host} failed: {detail}", evidence=evidence)

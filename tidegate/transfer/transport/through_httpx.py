"""The transport by httpx: slower, but it knows proxies, and it is there if the socket transport has a bad day.

`Pool` makes these lines where a proxy is set or `TIDEGATE_TRANSFER_TRANSPORT=httpx`. Each is used for one request.
Which proxy, if any, is decided here and not by httpx, so that what is judged and what is done are the same. Without
one, httpx is given an address that was judged in place of the name.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import httpx

from tidegate.addresses import OPEN_POLICY, AddressPolicy, literal_of
from tidegate.errors import (
    BadInput,
    ConnectionFailed,
    RequestTimeout,
    StalledTransfer,
    TidegateError,
    TruncatedBody,
)
from tidegate.redact import redact_url
from tidegate.settings import TransferSettings
from tidegate.transfer.transport.base import USER_AGENT, Headers, evidence_of
from tidegate.transfer.transport.dial import in_turn, look_up, require_for_proxy
from tidegate.transfer.transport.environment import proxy_for
from tidegate.transfer.transport.sockets import tls_context

for _chatty in ("httpx", "httpcore"):  # at INFO they log every URL as it is, tokens and all
    logging.getLogger(_chatty).setLevel(logging.WARNING)

_PORTS = {"http": 80, "https": 443}
_AT = "tidegate.location"
"""Where a redirect's target is kept from httpx."""


class HttpxLine:
    """A `Line` for one request, by httpx."""

    reusable = False

    def __init__(self, limits: TransferSettings, addresses: AddressPolicy = OPEN_POLICY) -> None:
        self._addresses = addresses
        quiet = limits.stall_timeout + 2 * limits.stall_tick  # the stall clock judges first; this is its safety net
        self._timeout = httpx.Timeout(quiet.total_seconds(), connect=limits.request_timeout.total_seconds())
        self._aborted = threading.Event()
        self._socket: socket.socket | None = None
        self._client: httpx.Client | None = None
        self._response: httpx.Response | None = None
        self._lock = threading.Lock()
        self._busy = False

    def ask(self, url: str, headers: dict[str, str]) -> HttpxReply:
        self._begin()
        try:
            proxy = proxy_for(url)
            self._client = self._client_for(url, proxy)
            self._response = self._answer(httpx.URL(url), {"User-Agent": USER_AGENT, **headers}, proxy)
            return HttpxReply(self, self._response, url)
        except Exception as error:  # noqa: BLE001  # translated
            self._aborted.set()
            raise _translate(error, url, reading=False) from _presentable(error)
        finally:
            self._end()

    def abort(self) -> None:
        self._aborted.set()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # socket.socket's own method: SSLSocket.shutdown drops the TLS state that the reading thread is using.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        self.abort()
        with self._lock:
            if not self._busy:
                self._drop()

    def _begin(self) -> None:
        with self._lock:
            self._busy = True

    def _end(self) -> None:
        with self._lock:
            self._busy = False
            if self._aborted.is_set():
                self._drop()

    def _drop(self) -> None:
        # Closing the whole connection: draining what is left of a body could take for ever.
        if self._response is not None:
            self._response.close()
        if self._client is not None:
            self._client.close()
        self._response = self._client = None

    def _client_for(self, url: str, proxy: str | None) -> httpx.Client:
        """A client for one request."""
        tls = tls_context() if urlsplit(url).scheme == "https" else False
        one = httpx.Limits(max_connections=1, max_keepalive_connections=0)
        hooks = {"response": [_hand_over]}
        return httpx.Client(
            timeout=self._timeout, limits=one, verify=tls, event_hooks=hooks, proxy=proxy, trust_env=False
        )

    def _answer(self, url: httpx.URL, headers: dict[str, str], proxy: str | None) -> httpx.Response:
        """Of the first address that takes a connection, or of the proxy.

        Raises:
            AddressRefused: see `dial`.
            Exception: httpx's own.
        """
        host, port = url.raw_host.decode("ascii"), url.port or _PORTS.get(url.scheme, 0)
        if url.scheme not in _PORTS or not host:
            raise httpx.UnsupportedProtocol("neither http nor https")
        if proxy is not None:
            require_for_proxy(host, port, self._addresses)
            return self._send(url, headers, {})
        failure: Exception | None = None
        extensions = {} if literal_of(host) else {"sni_hostname": host}
        for _, address in in_turn(look_up(host, port, self._addresses)):
            at = url.copy_with(host=str(address[0]))
            try:
                return self._send(at, {"Host": url.netloc.decode("ascii"), **headers}, extensions)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
                if self._aborted.is_set():
                    break
        raise failure or httpx.ConnectError("no address")

    def _send(self, url: httpx.URL, headers: dict[str, str], more: dict[str, Any]) -> httpx.Response:
        assert self._client is not None  # noqa: S101  # `ask` has made it
        request = self._client.build_request("GET", url, headers=headers, extensions={"trace": self._trace, **more})
        return self._client.send(request, stream=True)

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        """Learn the socket as soon as it exists, so that `abort` can break a TLS handshake or a wait for headers."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._socket = info["return_value"].get_extra_info("socket")
            if self._aborted.is_set():
                self.abort()  # it was given up before there was a socket; raising here would leave the socket open


class HttpxReply:
    """A `Reply` that httpx reads."""

    def __init__(self, line: HttpxLine, response: httpx.Response, url: str) -> None:
        self.status = response.status_code
        self.reason = response.reason_phrase
        self.headers = Headers(response.headers.raw)
        if _AT in response.extensions:
            self.headers["Location"] = response.extensions[_AT]
        self._line = line
        self._url = url
        # Without a chunk size: httpx would hold bytes back to fill a chunk, and lose them when the line breaks.
        self._chunks = response.iter_raw()
        self._ahead = memoryview(b"")
        self.waited_seconds = 0.0
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        self.end_is_certain = chunked or "Content-Length" in self.headers

    def readinto(self, buffer: memoryview) -> int:
        self._line._begin()
        try:
            while not self._ahead:
                idle = time.monotonic() - time.thread_time()
                chunk = next(self._chunks, None)
                self.waited_seconds += time.monotonic() - time.thread_time() - idle
                if chunk is None:
                    return 0
                self._ahead = memoryview(chunk)
        except Exception as error:  # noqa: BLE001  # translated
            raise _translate(error, self._url, reading=True) from _presentable(error)
        finally:
            self._line._end()
        count = min(len(self._ahead), len(buffer))
        buffer[:count] = self._ahead[:count]
        self._ahead = self._ahead[count:]
        return count


def _hand_over(response: httpx.Response) -> None:
    """httpx looks at where a redirect leads before it hands the answer over, and fails in its own way; we look."""
    if "Location" in response.headers:
        response.extensions[_AT] = response.headers.pop("Location")


def _presentable(error: Exception) -> Exception | None:
    """The cause to name in a traceback; none where it quotes a header, ours with its secret or the origin's."""
    return None if isinstance(error, httpx.ProtocolError | httpx.InvalidURL | ValueError) else error


def _translate(error: Exception, url: str, *, reading: bool) -> TidegateError:
    """httpx's exceptions as ours; `reading` tells whether the body had begun. None repeats a header or a link."""
    evidence = evidence_of(url)
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

"""The bulk transport: HTTP/1.1 on a socket of ours, bodies received straight into the caller's buffer.

`Pool` makes these lines. h11 reads and writes the heads, strictly (http.client takes a truncated body, conflicting
lengths and nonsense between headers without a word); a body with a length never passes through it, which makes this
several times as fast as any HTTP library in Python. docs/benchmarks.md has the measurements.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

import h11
import httpx

from tidegate.addresses import OPEN_POLICY, AddressPolicy
from tidegate.errors import (
    BadInput,
    ConnectionFailed,
    RequestTimeout,
    StalledTransfer,
    TidegateError,
    TruncatedBody,
)
from tidegate.settings import TransferSettings
from tidegate.transfer.transport.base import USER_AGENT, Headers, evidence_of
from tidegate.transfer.transport.dial import dial

HEAD_BYTES = 64 * 1024
"""How much is received at once before the body, and the most that a head may be."""
INTERIM_ANSWERS = 20
"""How many 1xx answers may come before the real one."""

_READ = select.POLLIN | select.POLLHUP | select.POLLERR
_WRITE = select.POLLOUT | select.POLLHUP | select.POLLERR


class SocketLine:
    """A `Line` on a socket of ours."""

    def __init__(self, limits: TransferSettings, addresses: AddressPolicy = OPEN_POLICY) -> None:
        self._addresses = addresses
        self._request_seconds = limits.request_timeout.total_seconds()
        # The stall clock above judges first; this is its safety net.
        self.quiet_seconds = (limits.stall_timeout + 2 * limits.stall_tick).total_seconds()
        self._socket: socket.socket | None = None
        self._poll = select.poll()
        self._lock = threading.Lock()
        self._busy = False
        self._given_up = False
        self._broken: OSError | None = None
        self._has_received = False
        """Whether anything came since the last question."""
        self._reply: SocketReply | None = None
        self.waited_seconds = 0.0
        """For bodies, in all."""

    def ask(self, url: str, headers: dict[str, str]) -> SocketReply:
        """Send a GET and wait for a head. A kept connection that the origin has closed meanwhile is replaced, once."""
        request, parts = _request(url, headers)
        until = time.monotonic() + self._request_seconds
        with self._at_work(url):
            if self._socket is not None:
                try:
                    return self._exchange(request, url, until)
                except (ConnectionFailed, OSError):
                    if self._has_received:
                        raise
                self._raise_if_given_up(url)
                self._drop()
            self._connect(parts, until)
            return self._exchange(request, url, until)

    @property
    def reusable(self) -> bool:
        reply = self._reply
        return self._socket is not None and not self._given_up and reply is not None and reply.goes_on

    @property
    def quiet(self) -> bool:
        """Whether nothing came since the last answer: an origin that has closed the connection would have said so."""
        return self._socket is not None and not self._poll.poll(0)

    def abort(self) -> None:
        self._given_up = True
        if (open_socket := self._socket) is not None:
            with contextlib.suppress(OSError):
                # socket.socket's own method: SSLSocket.shutdown drops the TLS state that the reading thread is using.
                socket.socket.shutdown(open_socket, socket.SHUT_RDWR)

    def close(self) -> None:
        self.abort()
        with self._lock:
            if not self._busy:  # else the thread in it closes the socket: its number must not be used again under it
                self._drop()

    def receive_into(self, buffer: memoryview, url: str) -> int:
        """Fill the buffer with what is there, waiting for the first byte only. 0 at the end of the connection."""
        with self._at_work(url):
            if self._broken is not None:
                raise self._broken
            open_socket, filled = self._open, 0
            receive = _tls_read(open_socket) if isinstance(open_socket, ssl.SSLSocket) else open_socket.recv_into
            while filled < len(buffer):
                try:
                    count = receive(buffer[filled:])
                except (BlockingIOError, ssl.SSLWantReadError):
                    if filled:
                        break
                    self._wait(_READ, self.quiet_seconds, url)
                    continue
                except OSError as error:
                    if not filled:
                        raise
                    self._broken = error  # what came before is kept; the kernel tells of a break only once
                    break
                if count == 0:
                    break
                filled += count
            if not filled:
                self._raise_if_given_up(url)
            return filled

    def _exchange(self, request: h11.Request, url: str, until: float) -> SocketReply:
        talk = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
        data = (talk.send(request) or b"") + (talk.send(h11.EndOfMessage()) or b"")
        self._has_received = False
        self._send(data, url, until)
        for _ in range(INTERIM_ANSWERS):
            event = self._event(talk, url, until)
            if isinstance(event, h11.Response):
                self._reply = SocketReply(self, talk, event, url)
                return self._reply
        raise ConnectionFailed("The origin sends nothing but interim answers", evidence=evidence_of(url))

    def _event(self, talk: h11.Connection, url: str, until: float) -> object:
        try:
            while (event := talk.next_event()) is h11.NEED_DATA:
                talk.receive_data(self._receive(url, until))
        except h11.RemoteProtocolError:  # its text quotes what was received, which may repeat a token of ours
            host = _host(url)
            message = f"{host} ended the connection or answered with no HTTP"
            raise ConnectionFailed(message, evidence=evidence_of(url)) from None
        return event

    def _receive(self, url: str, until: float) -> bytes:
        while True:
            try:
                data = self._open.recv(HEAD_BYTES)
                self._has_received = self._has_received or bool(data)
                return data
            except (BlockingIOError, ssl.SSLWantReadError):
                self._wait_for_head(_READ, url, until)

    def _send(self, data: bytes, url: str, until: float) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._open.send(view) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wait_for_head(_WRITE, url, until)
            except ssl.SSLWantReadError:
                self._wait_for_head(_READ, url, until)

    def _connect(self, parts: httpx.URL, until: float) -> None:
        tls = parts.scheme == "https"
        # Whole names and bracketless addresses: httpx has made a name with other letters into ASCII.
        host = parts.raw_host.decode("ascii")
        port = parts.port or (443 if tls else 80)
        connection = dial(host, port, until - time.monotonic(), lambda: self._given_up, self._addresses)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._adopt(connection)
        if tls:
            self._adopt(tls_context().wrap_socket(connection, server_hostname=host, do_handshake_on_connect=False))
            self._shake_hands(str(parts), until)

    def _adopt(self, connection: socket.socket) -> None:
        self._socket = connection
        self._poll = select.poll()
        self._poll.register(connection, _READ)
        self._reply = None
        if self._given_up:
            self.abort()  # it was given up before there was a socket

    def _shake_hands(self, url: str, until: float) -> None:
        assert isinstance(self._socket, ssl.SSLSocket)  # noqa: S101  # made just now
        while True:
            try:
                self._socket.do_handshake()
                return
            except ssl.SSLWantReadError:
                self._wait_for_head(_READ, url, until)
            except ssl.SSLWantWriteError:
                self._wait_for_head(_WRITE, url, until)

    def _wait_for_head(self, events: int, url: str, until: float) -> None:
        if not self._ready(events, until - time.monotonic(), url):
            raise RequestTimeout(f"No answer from {_host(url)} in time", evidence=evidence_of(url))

    def _wait(self, events: int, seconds: float, url: str) -> None:
        begun = time.monotonic()
        ready = self._ready(events, seconds, url)
        self.waited_seconds += time.monotonic() - begun
        if not ready:
            raise StalledTransfer("No byte came for longer than the stall timeout", evidence=evidence_of(url))

    def _ready(self, events: int, seconds: float, url: str) -> bool:
        self._raise_if_given_up(url)
        self._poll.modify(self._open, events)
        ready = bool(self._poll.poll(max(0.0, seconds) * 1000))
        self._poll.modify(self._open, _READ)
        self._raise_if_given_up(url)
        return ready

    def _raise_if_given_up(self, url: str) -> None:
        if self._given_up:
            raise ConnectionFailed("The connection was given up", evidence=evidence_of(url))

    @property
    def _open(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionFailed("The connection is closed")
        return self._socket

    @contextlib.contextmanager
    def _at_work(self, url: str) -> Iterator[None]:
        """Holds the socket open for this thread, and translates what it meets."""
        with self._lock:
            self._busy = True
        try:
            self._raise_if_given_up(url)
            yield
        except TidegateError:
            self._given_up = True  # nothing of a failed connection is used again
            raise
        except OSError as error:
            self._given_up = True
            detail = error.strerror or str(error) or type(error).__name__
            message = f"The connection to {_host(url)} broke: {detail}"
            raise ConnectionFailed(message, evidence=evidence_of(url)) from error
        finally:
            with self._lock:
                self._busy = False
                if self._given_up:
                    self._drop()

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class SocketReply:
    """A `Reply` whose head h11 has read, and whose body comes from the socket."""

    def __init__(self, line: SocketLine, talk: h11.Connection, head: h11.Response, url: str) -> None:
        self.status = head.status_code
        self.reason = head.reason.decode("latin-1")
        self.headers = Headers([(name, value) for name, value in head.headers])
        self._line = line
        self._talk = talk
        self._url = url
        self._ended = False
        self._ahead = memoryview(b"")
        chunked = "transfer-encoding" in self.headers
        self._left = None if chunked else self._body_length()
        self._chunked = chunked and not self._bodiless
        self.end_is_certain = self._chunked or self._left is not None
        self._wants_on = head.http_version == b"1.1" and "close" not in self.headers.get("Connection", "").lower()
        if not self._chunked:
            self._ahead = memoryview(talk.trailing_data[0])
        if self._left == 0:
            self._ended = True

    @property
    def waited_seconds(self) -> float:
        return self._line.waited_seconds

    @property
    def goes_on(self) -> bool:
        """Whether another question may follow: the body was read to its end, and nothing came after it."""
        return self._ended and self._wants_on and self.end_is_certain and not self._ahead

    @property
    def _bodiless(self) -> bool:
        return self.status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)

    def _body_length(self) -> int | None:
        if self._bodiless:
            return 0
        length = self.headers.get("Content-Length")
        return int(length) if length is not None else None  # h11 has made sure that it is a number, and only one

    def readinto(self, buffer: memoryview) -> int:
        if self._ended:
            return 0
        if self._chunked:
            return self._read_chunk(buffer)
        if self._left is not None:
            buffer = buffer[: self._left]
        count = self._take_ahead(buffer) or self._line.receive_into(buffer, self._url)
        if count == 0:
            self._ended = True
            if self._left is not None:
                raise self._truncation()
        if self._left is not None:
            self._left -= count
            self._ended = self._left == 0
        return count

    def _take_ahead(self, buffer: memoryview) -> int:
        count = min(len(self._ahead), len(buffer))
        buffer[:count] = self._ahead[:count]
        self._ahead = self._ahead[count:]
        return count

    def _read_chunk(self, buffer: memoryview) -> int:
        while not self._ahead:
            try:
                event = self._talk.next_event()
                if event is h11.NEED_DATA:
                    count = self._line.receive_into(buffer, self._url)
                    self._talk.receive_data(bytes(buffer[:count]))
                elif isinstance(event, h11.Data):
                    self._ahead = memoryview(event.data)
                else:
                    self._ended = True
                    self._ahead = memoryview(self._talk.trailing_data[0])
                    return 0
            except h11.RemoteProtocolError:
                self._wants_on = False
                raise self._truncation() from None
        return self._take_ahead(buffer)

    def _truncation(self) -> TruncatedBody:
        return TruncatedBody("The body ended before its announced end", evidence=evidence_of(self._url, self.status))


def _tls_read(line: ssl.SSLSocket) -> Callable[[memoryview], int]:
    """A record is at most 16 KiB, so a gigabyte takes 65 536 of these calls: the shortest way in counts."""

    def read(buffer: memoryview) -> int:
        return line.read(len(buffer), buffer)  # type: ignore[return-value]  # with a buffer it is a count

    return read


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Reading the certificates takes 20 ms, so only https pays for it, and once."""
    context = httpx.create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _request(url: str, headers: dict[str, str]) -> tuple[h11.Request, httpx.URL]:
    """The request as h11 sends it. Errors of both libraries quote what they refuse, so none is passed on."""
    try:
        parts = httpx.URL(url)
        if parts.scheme not in ("http", "https") or not parts.host:
            raise ValueError
        fields = {"Host": parts.netloc.decode("ascii"), "User-Agent": USER_AGENT, **headers}
        if parts.userinfo and not any(name.lower() == "authorization" for name in fields):
            fields["Authorization"] = f"Basic {_login(parts.userinfo)}"
        encoded = [(name.encode("ascii"), value.encode("ascii")) for name, value in fields.items()]
        return h11.Request(method="GET", target=parts.raw_path, headers=encoded), parts
    except (httpx.InvalidURL, ValueError, h11.LocalProtocolError):
        raise BadInput("The link or a header is not valid", evidence=evidence_of(url)) from None


def _login(userinfo: bytes) -> str:
    name, _, password = userinfo.partition(b":")
    return base64.b64encode(unquote_to_bytes(name) + b":" + unquote_to_bytes(password)).decode("ascii")


def _host(url: str) -> str:
    return httpx.URL(url).host

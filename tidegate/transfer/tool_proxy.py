"""The way to the outside for tools that connect by themselves: a proxy of ours, which judges addresses as we do.

The resolvers of sites and of Twitch open one on loopback for the life of one child, wherever the policy is not `open`:
an open one has nothing to judge, and would cost each byte another way through this process. It takes `CONNECT` and
plain requests, from whoever knows the password of this one child, and goes on through the proxy that the environment
names. When the context is left, its port, its connections and its threads are gone; so are they after a crash.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import secrets
import select
import socket
import ssl
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import anyio
import h11
from anyio import to_thread

from tidegate.addresses import OPEN_POLICY, AddressPolicy
from tidegate.errors import (
    AddressRefused,
    AvailabilityFailure,
    BadInput,
    ConnectionFailed,
    RequestTimeout,
    SourceFailure,
    TidegateError,
    Unknown,
    UsageError,
)
from tidegate.events import Note
from tidegate.settings import TransferSettings
from tidegate.transfer.outside import Outside
from tidegate.transfer.transport.dial import dial, require_for_proxy
from tidegate.transfer.transport.environment import proxy_for
from tidegate.transfer.transport.sockets import HEAD_BYTES, tls_context

MOST_CONNECTIONS = 64
"""At once; more wait in the port's queue."""
MOST_QUESTIONS = 3
"""How often one connection may ask without the password: some tools bring it only when they are told to."""
RELAY_BLOCK_BYTES = 64 * 1024
"""How much is passed from one end to the other at once."""
END_SECONDS = 2.0
"""How long a thread is waited for at the end. One that sits in a name lookup ends by itself after it."""

_NAME = "tidegate"
_PORTS = {"http": 80, "https": 443}
_HOP_HEADERS = frozenset(
    {b"connection", b"proxy-connection", b"proxy-authorization", b"keep-alive", b"te", b"upgrade", b"expect"}
)
_OF_THE_SOURCE = (AvailabilityFailure, SourceFailure, UsageError, Unknown)
"""Failures of a tool that may come from an address that was refused to it."""


@contextlib.asynccontextmanager
async def tool_proxy(outside: Outside) -> AsyncIterator[ToolProxy | None]:
    """A proxy for one child; None where the child may connect to any address by itself.

    Raises:
        BadInput: the environment names a proxy that tools cannot be led through.
        AddressRefused: in place of the tool's failure, where an address was refused to it.
    """
    policy = outside.gates.addresses
    if policy.name == "open":
        yield None
        return
    proxy = ToolProxy(policy, outside.limits)
    try:
        yield proxy
    except AddressRefused:
        raise
    except _OF_THE_SOURCE as failure:
        if proxy.refusals:
            raise proxy.refusals[0] from failure
        raise
    else:
        for refusal in proxy.refusals:
            outside.observe(Note(f"The tool got on without one of its requests: {refusal.message}", "warning"))
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(proxy.close)


@dataclass(frozen=True)
class _Target:
    """What a request asks for."""

    scheme: str
    host: str
    port: int
    path: bytes = b""
    """Empty for a tunnel."""

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}"


class ToolProxy:
    """A proxy on loopback for one child. It listens as soon as it is made."""

    def __init__(self, policy: AddressPolicy, limits: TransferSettings) -> None:
        _require_chainable(policy)
        self._policy = policy
        self._connect_seconds = limits.request_timeout.total_seconds()
        self._idle_seconds = limits.tool_stall_timeout.total_seconds()
        password = secrets.token_urlsafe(24)
        self._login = b"Basic " + base64.b64encode(f"{_NAME}:{password}".encode())
        self.refusals: list[AddressRefused] = []
        """What was refused, in order; each once."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=MOST_CONNECTIONS)
        self.port: int = self._listener.getsockname()[1]
        """On 127.0.0.1. The child needs no other."""
        self.url = f"http://{_NAME}:{password}@127.0.0.1:{self.port}"
        self._lock = threading.Lock()
        self._closing = False
        self._open: set[socket.socket] = set()
        self._places = threading.Semaphore(MOST_CONNECTIONS)
        self._threads = {threading.Thread(target=self._accept, name="tool proxy", daemon=True)}
        for thread in self._threads:
            thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """By which a tool finds it; nothing is left out of it."""
        names = ("http_proxy", "https_proxy", "all_proxy")
        variables = {spelled: self.url for name in names for spelled in (name, name.upper())}
        return variables | {"no_proxy": "", "NO_PROXY": ""}

    def close(self) -> None:
        """End the port, every connection and their threads. Blocks for a moment."""
        with self._lock:
            self._closing = True
            ends = [self._listener, *self._open]
            threads = list(self._threads)
        self._places.release()
        for end in ends:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(end, socket.SHUT_RDWR)
        for thread in threads:
            thread.join(END_SECONDS)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            self._places.acquire()
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,), name="tool proxy", daemon=True)
            with self._lock:
                self._threads.add(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError, h11.ProtocolError, TidegateError), self._hold(client):
                client.settimeout(self._connect_seconds)
                inbound = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
                request = self._admit(client, inbound)
                if request is not None:
                    self._pass_on(client, inbound, request)
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())
            self._places.release()

    def _admit(self, client: socket.socket, inbound: h11.Connection) -> h11.Request | None:
        """The first request that brings the password."""
        for _ in range(MOST_QUESTIONS):
            request = _event(inbound, client)
            if not isinstance(request, h11.Request):
                return None
            given = dict(request.headers).get(b"proxy-authorization", b"")
            if hmac.compare_digest(given, self._login):
                return request
            if not isinstance(_event(inbound, client), h11.EndOfMessage):
                return None
            _answer(client, inbound, 407, [(b"Proxy-Authenticate", b'Basic realm="tidegate"')])
            if inbound.our_state is not h11.DONE or inbound.their_state is not h11.DONE:
                return None
            inbound.start_next_cycle()
        return None

    def _pass_on(self, client: socket.socket, inbound: h11.Connection, request: h11.Request) -> None:
        target = _target(request)
        if target is None:
            _answer(client, inbound, 400)
            return
        try:
            upstream, proxy = self._connect(target)
        except AddressRefused as refusal:
            self._note(refusal)
            _answer(client, inbound, 403)
            return
        except RequestTimeout:
            _answer(client, inbound, 504)
            return
        except TidegateError:
            _answer(client, inbound, 502)
            return
        with self._hold(upstream):
            for end in (client, upstream):
                end.settimeout(self._idle_seconds)
            if target.path:
                _exchange(client, inbound, request, upstream, target, proxy)
                return
            if not isinstance(_event(inbound, client), h11.EndOfMessage):
                return
            client.sendall(inbound.send(h11.Response(status_code=200, headers=[], reason=b"Connected")) or b"")
            if ahead := inbound.trailing_data[0]:
                upstream.sendall(ahead)
            self._relay(client, upstream)

    def _connect(self, target: _Target) -> tuple[socket.socket, str | None]:
        """A connection to the target, or through the operator's own proxy; and that one's link, where it has to be told
        the whole link because it is no tunnel.

        Raises:
            AddressRefused, ConnectionFailed, RequestTimeout: see `dial`.
        """
        proxy = proxy_for(target.url)
        if proxy is None:
            return self._dial(target.host, target.port, self._policy), None
        require_for_proxy(target.host, target.port, self._policy)
        parts = urlsplit(proxy)
        host = parts.hostname or ""
        upstream = self._dial(host, parts.port or _PORTS.get(parts.scheme, 80), OPEN_POLICY)  # it is the operator's own
        try:
            if parts.scheme == "https":
                upstream = tls_context().wrap_socket(upstream, server_hostname=host)
            if target.path:
                return upstream, proxy
            _open_tunnel(upstream, target, proxy)
        except (OSError, h11.ProtocolError) as error:
            upstream.close()
            raise ConnectionFailed(f"The proxy does not lead to {target.host}: {error}") from error
        except TidegateError:
            upstream.close()
            raise
        return upstream, None

    def _dial(self, host: str, port: int, policy: AddressPolicy) -> socket.socket:
        connection = dial(host, port, self._connect_seconds, lambda: self._closing, policy)
        connection.settimeout(self._connect_seconds)
        return connection

    def _note(self, refusal: AddressRefused) -> None:
        with self._lock:
            if all(known.message != refusal.message for known in self.refusals):
                self.refusals.append(refusal)

    def _relay(self, client: socket.socket, upstream: socket.socket) -> None:
        """Bytes both ways, until both ends are done or nothing moves for too long."""
        other = {client.fileno(): (client, upstream), upstream.fileno(): (upstream, client)}
        poll = select.poll()
        for number in other:
            poll.register(number, select.POLLIN)
        while other:
            ready = poll.poll(self._idle_seconds * 1000)
            if not ready:
                return
            for number, _ in ready:
                source, sink = other[number]
                if not _carry(source, sink):
                    poll.unregister(number)
                    del other[number]
                    with contextlib.suppress(OSError):
                        socket.socket.shutdown(sink, socket.SHUT_WR)

    @contextlib.contextmanager
    def _hold(self, end: socket.socket) -> Iterator[None]:
        """`close` finds it meanwhile; it is closed at the end."""
        with self._lock:
            self._open.add(end)
            closing = self._closing
        try:
            if not closing:
                yield
            else:
                raise ConnectionFailed("The proxy is closed")
        finally:
            with self._lock:
                self._open.discard(end)
            end.close()


def _require_chainable(policy: AddressPolicy) -> None:
    """Whether the operator's own proxy is one that ours can go on through."""
    for name, link in urllib.request.getproxies().items():
        if name in ("http", "https", "all") and urlsplit(link).scheme.startswith("socks"):
            raise BadInput(
                f"{name}_proxy names a SOCKS proxy, and tools cannot be held to TIDEGATE_NETWORK_POLICY={policy.name} "
                "through one; name an http proxy"
            )


def _target(request: h11.Request) -> _Target | None:
    """None where it names none that we know."""
    try:
        if request.method == b"CONNECT":
            parts = urlsplit(f"//{request.target.decode('ascii')}")
            return _Target("https", parts.hostname or "", parts.port or 443) if parts.hostname else None
        parts = urlsplit(request.target.decode("ascii"))
        if parts.scheme != "http" or not parts.hostname:
            return None
        path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
        path = path if path.startswith("/") else f"/{path}"
        return _Target("http", parts.hostname, parts.port or 80, path.encode("ascii"))
    except ValueError:
        return None


def _event(talk: h11.Connection, end: socket.socket) -> Any:
    while (event := talk.next_event()) is h11.NEED_DATA:
        talk.receive_data(end.recv(RELAY_BLOCK_BYTES))
    return event


def _answer(
    client: socket.socket, inbound: h11.Connection, status: int, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    fields = [(b"Content-Length", b"0"), *(headers or [])]
    client.sendall(inbound.send(h11.Response(status_code=status, headers=fields)) or b"")
    client.sendall(inbound.send(h11.EndOfMessage()) or b"")


def _login_of(proxy: str) -> list[tuple[bytes, bytes]]:
    """The header by which the operator's own proxy knows us, where its link has a login."""
    login, at, _ = urlsplit(proxy).netloc.rpartition("@")
    if not at:
        return []
    return [(b"Proxy-Authorization", b"Basic " + base64.b64encode(unquote(login).encode()))]


def _open_tunnel(upstream: socket.socket, target: _Target, proxy: str) -> None:
    """Ask the operator's own proxy for a tunnel.

    Raises:
        ConnectionFailed: it gives none.
    """
    talk = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
    request = h11.Request(
        method=b"CONNECT",
        target=target.authority,
        headers=[(b"Host", target.authority.encode("ascii")), *_login_of(proxy)],
    )
    upstream.sendall((talk.send(request) or b"") + (talk.send(h11.EndOfMessage()) or b""))
    answer = _event(talk, upstream)
    if not isinstance(answer, h11.Response) or not 200 <= answer.status_code < 300:
        status = getattr(answer, "status_code", "nothing")
        raise ConnectionFailed(f"The proxy answered {status} to a tunnel to {target.host}")


def _exchange(
    client: socket.socket,
    inbound: h11.Connection,
    request: h11.Request,
    upstream: socket.socket,
    target: _Target,
    proxy: str | None,
) -> None:
    """One plain request and its answer; the connection ends with it, so that no second one goes where it must not."""
    outbound = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
    headers = [*_without_hop_headers(request.headers), (b"Connection", b"close"), *(_login_of(proxy) if proxy else [])]
    onward = h11.Request(method=request.method, target=request.target if proxy else target.path, headers=headers)
    upstream.sendall(outbound.send(onward) or b"")
    while isinstance(event := _event(inbound, client), h11.Data):
        upstream.sendall(outbound.send(h11.Data(data=event.data)) or b"")
    upstream.sendall(outbound.send(h11.EndOfMessage()) or b"")
    while not isinstance(event := _event(outbound, upstream), h11.EndOfMessage | h11.ConnectionClosed):
        if isinstance(event, h11.Response):
            headers = [*_without_hop_headers(event.headers), (b"Connection", b"close")]
            response = h11.Response(status_code=event.status_code, headers=headers, reason=event.reason)
            client.sendall(inbound.send(response) or b"")
        elif isinstance(event, h11.Data):
            client.sendall(inbound.send(h11.Data(data=event.data)) or b"")
    client.sendall(inbound.send(h11.EndOfMessage()) or b"")


def _without_hop_headers(headers: Any) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name not in _HOP_HEADERS]


def _carry(source: socket.socket, sink: socket.socket) -> bool:
    """What is there, from one end to the other; False at its end."""
    while True:
        block = source.recv(RELAY_BLOCK_BYTES)
        if not block:
            return False
        sink.sendall(block)
        if not (isinstance(source, ssl.SSLSocket) and source.pending()):
            return True

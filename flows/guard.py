"""The door in front of our Prefect servers: who may not come in is refused before Prefect sees anything of the request.

uvicorn loads `create_app` in the servers that `flows/server.py` launches. Loopback is no wall: every page in a browser
on this machine can send requests there, with any method that a form has, and a page whose name is suddenly said to be
127.0.0.1 (DNS rebinding) reads the answers too. So a request must call the server by a name that it has, must not come
from a page of somebody else, and must know the password. It keeps nothing, so a crash loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from flows.access import basic
from tidegate.settings import Settings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

PORT = "TIDEGATE__SERVER_PORT"
"""The variable that tells a server on which port it is called."""
PROBES = ("health", "ready")
"""Below the API, what may be asked without the password: whether the server is well."""
CONTENT = {
    "default-src": "'self'",
    "script-src": "'self' 'unsafe-eval'",  # the picture of a run compiles its shaders' code; no text becomes a script
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "worker-src": "'self' blob:",
    "object-src": "'none'",
    "frame-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",  # no page lays itself over our buttons
}
"""What a page of the UI may load and run: nothing that it does not bring along. It keeps the password, it shows texts
of strangers, and by itself it asks a service that counts users for a program to run."""
HEADERS = {
    "content-security-policy": "; ".join(f"{what} {whence}" for what, whence in CONTENT.items()),
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "same-origin",
}
"""What browsers are told with every answer."""
SUBPROTOCOL = "prefect"
"""Clients that name it begin with the password; older ones cannot."""
WEBSOCKET_POLICY = 1008
"""The code of a WebSocket that is closed because of who is at the other end."""
FIRST_WORD_SECONDS = 10.0
"""How long a WebSocket may take to say the password."""
STRANGERS = 20
"""How many requests without the password Prefect has at once. On SQLite it has 100 in all, WebSockets too, and the next
one waits: who reads the UI's pages slowly could keep everybody out."""
STRANGER_SECONDS = 30.0
"""How long one of those may take, with its waiting."""


@dataclass(frozen=True)
class Request:
    """What of a request is judged: everything but its body."""

    method: str
    """`WEBSOCKET` for one."""
    path: str
    headers: tuple[tuple[str, str], ...]
    """Names in lower case, as they came: one that comes twice is here twice."""

    def all(self, name: str) -> list[str]:
        return [value for known, value in self.headers if known == name]


@dataclass(frozen=True)
class Refusal:
    """Why a request is not let in."""

    status: int
    message: str


@dataclass(frozen=True)
class Door:
    """Who is let in."""

    names: frozenset[str]
    """What `Host` may say."""
    origins: frozenset[str]
    """Whose pages may ask."""
    login: str
    """`user:password`."""
    api: str = "/api"
    """The path that the API is below."""
    closed: frozenset[str] = frozenset()
    """Pages beside the API that want the password as well."""

    def refusal(self, request: Request) -> Refusal | None:
        """None: Prefect may see it."""
        return _check_address(self, request) or _check_origin(self, request) or _check_password(self, request)

    def is_told_the_password(self, request: Request) -> bool:
        values = request.all("authorization")
        return len(values) == 1 and _is_equal(values[0], basic(self.login))

    def knows(self, login: str) -> bool:
        """Whether that is the password, in a time that does not tell how much of it is right."""
        return _is_equal(login, self.login)


def create_app() -> Application:
    """The application for uvicorn: Prefect's, behind the door.

    Raises:
        RuntimeError: no password was set; such a server does not start.
    """
    from prefect.server.api.server import create_app as prefects_app
    from prefect.settings import get_current_settings

    api = get_current_settings().server.api
    login = api.auth_string.get_secret_value() if api.auth_string else ""
    if not login.strip():
        raise RuntimeError("This server was started without PREFECT_SERVER_API_AUTH_STRING")
    app = prefects_app()
    # FastAPI's pages of documentation load scripts of another site into the origin in which the UI keeps the password.
    closed = {app.docs_url, app.redoc_url, app.openapi_url, app.swagger_ui_oauth2_redirect_url} - {None}
    port = int(os.environ[PORT])
    door = Door(names(port), origins(port), login, api.base_path or "/api", frozenset(map(str, closed)))
    return Guard(door, app)


def door_environment(port: int) -> dict[str, str]:
    """What a server on that port must be told beside its password."""
    return {PORT: str(port), "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(sorted(origins(port)))}


def names(port: int) -> frozenset[str]:
    """What `Host` may say to a server on that port: loopback as people write it, and what the operator has added."""
    return frozenset(urlsplit(origin).netloc for origin in origins(port))


def origins(port: int) -> frozenset[str]:
    """The origins of our own UI."""
    end = "" if port == 80 else f":{port}"
    own = (f"http://{host}{end}" for host in ("127.0.0.1", "localhost", "[::1]"))
    return frozenset((*own, *Settings.load().serve.addresses))


def _check_address(door: Door, request: Request) -> Refusal | None:
    """A rebound name is in `Host` and nowhere else; a target with a host of its own would bypass that."""
    if not request.path.startswith("/"):
        return Refusal(400, "The target of a request to this server is a path.")
    if [host.lower() for host in request.all("host")] not in [[name] for name in door.names]:
        return Refusal(
            421,
            f"This server does not go by that name, but by {', '.join(sorted(door.names))}. Behind a proxy, or under "
            "another name, set TIDEGATE_SERVE_ADDRESSES=https://NAME where `make serve` is started.",
        )
    return None


def _check_origin(door: Door, request: Request) -> Refusal | None:
    """Browsers say whose page asks; what is no browser says nothing."""
    values = request.all("origin")
    if values:
        ours = len(values) == 1 and values[0] in door.origins
    else:
        ours = set(request.all("sec-fetch-site")) <= {"same-origin", "none"} or _opens_a_page(door, request)
    if ours:
        return None
    return Refusal(
        403,
        "A page of another site asks, and this server answers its own pages only. Where its UI is opened under another "
        "address, set TIDEGATE_SERVE_ADDRESSES=https://NAME where `make serve` is started.",
    )


def _opens_a_page(door: Door, request: Request) -> bool:
    """Whether somebody follows a link to the UI, in a window and not in a frame."""
    return (
        request.method == "GET"
        and not _is_below(door.api, request.path)
        and request.all("sec-fetch-mode") == ["navigate"]
        and request.all("sec-fetch-dest") == ["document"]
    )


def _check_password(door: Door, request: Request) -> Refusal | None:
    """Of a WebSocket the first message is asked; of a preflight, which carries none, its origin was."""
    if request.method == "WEBSOCKET" or _is_public(door, request) or _is_preflight(request):
        return None
    if door.is_told_the_password(request):
        return None
    values = request.all("authorization")
    # No WWW-Authenticate: a browser would ask for the password by itself, and then send it with what any page asks.
    return Refusal(
        401,
        f"{'This is not the password of' if values else 'No password was sent to'} this Prefect server. Set "
        "PREFECT_API_AUTH_STRING to the line that stands in `server.password` in the TIDEGATE_HOME of `make serve`: "
        'export PREFECT_API_AUTH_STRING="$(cat "${TIDEGATE_HOME:-$HOME/.local/share/tidegate}/server.password")"',
    )


def _is_equal(text: str, secret: str) -> bool:
    """JSON can say half of a character, which has no bytes of its own."""
    return hmac.compare_digest(text.encode(errors="surrogatepass"), secret.encode())


def _is_public(door: Door, request: Request) -> bool:
    """The pages of the UI, which hold nothing before somebody logs in, and whether the server is well."""
    if request.method not in ("GET", "HEAD"):
        return False
    if _is_below(door.api, request.path):
        return request.path in [f"{door.api}/{probe}" for probe in PROBES]
    return request.path.rstrip("/") not in door.closed


def _is_preflight(request: Request) -> bool:
    return request.method == "OPTIONS" and bool(request.all("origin") and request.all("access-control-request-method"))


def _is_below(folder: str, path: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


@dataclass(frozen=True)
class Guard:
    """An ASGI application behind a door."""

    door: Door
    app: Application
    strangers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(STRANGERS))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        request = _request(scope)
        refusal = self.door.refusal(request)
        if scope["type"] == "websocket":
            await (_refuse_websocket(refusal, scope, receive, send) if refusal else self._open(scope, receive, send))
        elif refusal:
            await _answer(refusal, _with_headers(send))
        elif self.door.is_told_the_password(request):
            await self.app(scope, receive, _with_headers(send))
        else:
            await self._serve_a_stranger(scope, receive, AnswerSender(_with_headers(send)))

    async def _serve_a_stranger(self, scope: Scope, receive: Receive, answering: AnswerSender) -> None:
        """Few at a time and for a short time, so that who knows the password always finds room."""
        try:
            async with asyncio.timeout(STRANGER_SECONDS), self.strangers:
                await self.app(scope, receive, answering.send)
        except TimeoutError:
            if not answering.has_begun:  # else uvicorn hangs up
                await _answer(Refusal(503, "Too many ask at once without the password."), answering.send)

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket, whose first message must say the password: a browser can send no header with one. Prefect hears
        of it after that."""
        connect = await receive()
        first = await _introduction(self.door, scope, receive, send)
        if first is not None:
            heard = IdentifiedWebSocket([connect, first], receive, send)
            await self.app({**scope, "extensions": {}}, heard.receive, heard.send)


@dataclass
class AnswerSender:
    """Sends an answer, and knows whether it has begun."""

    _send: Send
    has_begun: bool = False

    async def send(self, message: Message) -> None:
        self.has_begun = True
        await self._send(message)


async def _introduction(door: Door, scope: Scope, receive: Receive, send: Send) -> Message | None:
    """The first message, where it says the password; else the WebSocket is closed."""
    if SUBPROTOCOL not in (scope.get("subprotocols") or ()):
        await send({"type": "websocket.close", "code": WEBSOCKET_POLICY})
        return None
    await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL})
    first: Message = {}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FIRST_WORD_SECONDS):
            first = await receive()
    if first.get("type") == "websocket.receive" and door.knows(_token(first)):
        return first
    if first.get("type") != "websocket.disconnect":
        reason = "The first message must say the password: PREFECT_API_AUTH_STRING"
        await send({"type": "websocket.close", "code": WEBSOCKET_POLICY, "reason": reason})
    return None


@dataclass
class IdentifiedWebSocket:
    """A WebSocket that has said the password: Prefect hears from its beginning what was said, and its own acceptance
    goes nowhere, because there was one."""

    heard: list[Message]
    _receive: Receive
    _send: Send

    async def receive(self) -> Message:
        return self.heard.pop(0) if self.heard else await self._receive()

    async def send(self, message: Message) -> None:
        if message["type"] != "websocket.accept":
            await self._send(message)


def _token(message: Message) -> str:
    """The password in Prefect's first message; empty where there is none."""
    try:
        word = json.loads(message.get("text") or message.get("bytes") or "")
        return str(word["token"]) if word["type"] == "auth" else ""
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""


def _request(scope: Scope) -> Request:
    headers = tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"])
    method = "WEBSOCKET" if scope["type"] == "websocket" else str(scope["method"]).upper()
    return Request(method, str(scope["path"]), headers)


async def _refuse_websocket(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    if "websocket.http.response" in (scope.get("extensions") or {}):
        await _answer(refusal, send, kind="websocket.http.response")
    else:
        await send({"type": "websocket.close", "code": WEBSOCKET_POLICY})


async def _answer(refusal: Refusal, send: Send, kind: str = "http.response") -> None:
    """As Prefect's own refusals look, so that its clients show the message."""
    body = json.dumps({"exception_message": refusal.message}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    await send({"type": f"{kind}.start", "status": refusal.status, "headers": _encode(headers.items())})
    await send({"type": f"{kind}.body", "body": body})


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_encode(HEADERS.items())]}
        await send(message)

    return send_with_headers


def _encode(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers]

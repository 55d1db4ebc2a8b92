"""The door in front of our Prefect servers: who may not come in is refused before Prefect sees anything of the request.

uvicorn loads `create_app` in the servers that `flows/server.py` launches. Loopback is no wall: every page in a browser
on this machine can send requests there, with any method that a form has, and a page whose name is suddenly said to be
127.0.0.1 (DNS rebinding) reads the answers too. So a request must call the server by a name that it has, must not come
from a page of somebody else, and must know the password. It keeps nothing, so a crash loses nothing.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
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
HEADERS = {
    "content-security-policy": "frame-ancestors 'none'",  # no page lays itself over our buttons
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "same-origin",
}
"""What browsers are told with every answer."""
WEBSOCKET_POLICY = 1008
"""The code of a WebSocket that is closed because of who is at the other end."""


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
        return _misaddressed(self, request) or _foreign(self, request) or _without_password(self, request)

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


def environment(port: int) -> dict[str, str]:
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


def _misaddressed(door: Door, request: Request) -> Refusal | None:
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


def _foreign(door: Door, request: Request) -> Refusal | None:
    """Browsers say whose page asks; what is no browser says nothing."""
    said = request.all("origin")
    if said:
        ours = len(said) == 1 and said[0] in door.origins
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


def _without_password(door: Door, request: Request) -> Refusal | None:
    """Of a WebSocket the first message is asked; of a preflight, which carries none, its origin was."""
    if request.method == "WEBSOCKET" or _is_public(door, request) or _is_preflight(request):
        return None
    said = request.all("authorization")
    if len(said) == 1 and _is_equal(said[0], basic(door.login)):
        return None
    # No WWW-Authenticate: a browser would ask for the password by itself, and then send it with what any page asks.
    return Refusal(
        401,
        f"{'This is not the password of' if said else 'No password was sent to'} this Prefect server. Set "
        "PREFECT_API_AUTH_STRING to the line that stands in `server.password` in the TIDEGATE_HOME of `make serve`: "
        'export PREFECT_API_AUTH_STRING="$(cat "${TIDEGATE_HOME:-$HOME/.local/share/tidegate}/server.password")"',
    )


def _is_equal(said: str, secret: str) -> bool:
    """JSON can say half of a character, which has no bytes of its own."""
    return hmac.compare_digest(said.encode(errors="surrogatepass"), secret.encode())


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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        refusal = self.door.refusal(_request(scope))
        if scope["type"] == "websocket":
            await (_refuse_websocket(refusal, scope, receive, send) if refusal else self._open(scope, receive, send))
        elif refusal:
            await _answer(refusal, _with_headers(send))
        else:
            await self.app(scope, receive, _with_headers(send))

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket, whose first message must say the password: a browser can send no header with one."""
        socket = LockedSocket(self.door, receive, send)
        await self.app(scope, socket.receive, socket.send)


@dataclass
class LockedSocket:
    """Lets nothing in or out but the password, until that was said."""

    door: Door
    _receive: Receive
    _send: Send
    is_open: bool = False
    is_closed: bool = False

    async def receive(self) -> Message:
        """What the client says; a disconnection where it begins with anything but the password."""
        message = await self._receive()
        if message["type"] == "websocket.receive" and not self.is_open:
            self.is_open = not self.is_closed and self.door.knows(_token(message))
            if not self.is_open:
                await self._close()
                return {"type": "websocket.disconnect", "code": WEBSOCKET_POLICY}
        return message

    async def send(self, message: Message) -> None:
        """Pass it on; what would be told before the password was said closes the socket."""
        if self.is_closed:
            return
        if message["type"] == "websocket.send" and not self.is_open:
            await self._close()
            return
        self.is_closed = message["type"] == "websocket.close"
        await self._send(message)

    async def _close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            reason = "The first message must say the password: PREFECT_API_AUTH_STRING"
            await self._send({"type": "websocket.close", "code": WEBSOCKET_POLICY, "reason": reason})


def _token(message: Message) -> str:
    """The password in Prefect's first message; empty where there is none."""
    try:
        said = json.loads(message.get("text") or message.get("bytes") or "")
        return str(said["token"]) if said["type"] == "auth" else ""
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
    await send({"type": f"{kind}.start", "status": refusal.status, "headers": _encoded(headers.items())})
    await send({"type": f"{kind}.body", "body": body})


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_encoded(HEADERS.items())]}
        await send(message)

    return sent


def _encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers]

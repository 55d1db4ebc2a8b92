"""A small site on loopback: pages that lead to media by signed links, which may expire, and that may want a cookie.

Tests of site extraction use it; the misbehaving origin plays bad transfers. What it serves are real files. Each page
that is asked for signs its links anew; a link is good for so many requests, or until `revoke`. Every request is
journaled with its headers. Threads and sockets are gone when it has stopped.
"""

from __future__ import annotations

import contextlib
import http.server
import re
import secrets
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

TYPES = {
    ".mp4": "video/mp4",
    ".m4a": "audio/mp4",
    ".m3u8": "application/vnd.apple.mpegurl",
    ".ts": "video/mp2t",
    ".mpd": "application/dash+xml",
    ".vtt": "text/vtt",
}


@dataclass(frozen=True)
class Request:
    """What was asked, and how it was answered."""

    path: str
    status: int
    headers: dict[str, str]
    signature: str = ""


@dataclass
class Answer:
    """A fixed answer in place of a page."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass
class SitePage:
    """The server. `pages`: path → HTML, in which `{signed:NAME}` becomes a fresh link to a file and `{plain:NAME}` one
    that needs no signature; or an `Answer`. `files`: name → file, or its bytes."""

    pages: dict[str, str | Answer]
    files: Mapping[str, Path | bytes] = field(default_factory=dict)
    uses: tuple[int | None, ...] = (None,)
    """For how many requests a signature is good (None: until it is revoked), each time that a page is asked for; the
    last stands for all that follow."""
    cut_after: int | None = None
    """Signed media ends after so many bytes of a body, whatever was announced."""
    cookie: str | None = None
    """What the Cookie header of every request must hold."""
    hang: frozenset[str] = frozenset()
    """Paths that never answer."""
    requests: list[Request] = field(default_factory=list)
    _rendered: int = 0
    _connections: list[socket.socket] = field(default_factory=list)
    _good: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _released: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                site._connections.append(self.connection)

            def do_GET(self) -> None:
                site.answer(self)

            do_HEAD = do_GET  # noqa: N815  # the name that the library looks for

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._thread.join()
        for connection in self._connections:  # clients keep them for their next request
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}{path}"

    def revoke(self) -> None:
        """No link that was given out until now is good any more."""
        with self._lock:
            self._good.clear()

    def requests_for(self, path: str) -> list[Request]:
        """The requests for one path, in order."""
        with self._lock:
            return [request for request in self.requests if request.path == path]

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        signature = parse_qs(parts.query).get("signature", [""])[0]
        if parts.path in self.hang:
            self._note(handler, parts.path, 0, signature)
            self._released.wait(60)
            return
        found = self._found(handler, parts.path, signature)
        self._note(handler, parts.path, found.status, signature)
        self._send(handler, found, cut=bool(signature))

    def _found(self, handler: http.server.BaseHTTPRequestHandler, path: str, signature: str) -> Answer:
        if self.cookie is not None and self.cookie not in handler.headers.get("Cookie", ""):
            return Answer(403)
        page = self.pages.get(path)
        if isinstance(page, Answer):
            return page
        if page is not None:
            return Answer(200, {"Content-Type": "text/html; charset=utf-8"}, self._signed(page).encode())
        name = path.removeprefix("/media/").removeprefix("/open/")
        if name not in self.files:
            return Answer(404)
        if path.startswith("/media/") and not self._use(signature):
            return Answer(403)
        return self._file(handler, name)

    def _file(self, handler: http.server.BaseHTTPRequestHandler, name: str) -> Answer:
        content = self.files[name]
        body = content if isinstance(content, bytes) else content.read_bytes()
        headers = {"Content-Type": TYPES.get(Path(name).suffix, "application/octet-stream"), "Accept-Ranges": "bytes"}
        headers["ETag"] = f'"{name}-{len(body)}"'
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
        if span is None:
            return Answer(200, headers, body)
        first, last = int(span[1]), min(int(span[2] or len(body)), len(body) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
        return Answer(206, headers, body[first : last + 1])

    def _signed(self, page: str) -> str:
        uses = self.uses[min(self._rendered, len(self.uses) - 1)]
        self._rendered += 1

        def link(found: re.Match[str]) -> str:
            if found[1] == "plain":
                return self.url(f"/open/{found[2]}")
            signature = secrets.token_hex(8)
            with self._lock:
                self._good[signature] = -1 if uses is None else uses
            return self.url(f"/media/{found[2]}?signature={signature}")

        return re.sub(r"\{(signed|plain):([^}]+)\}", link, page)

    def _use(self, signature: str) -> bool:
        with self._lock:
            left = self._good.get(signature, 0)
            if left > 0:
                self._good[signature] = left - 1
            return left != 0

    def _note(self, handler: http.server.BaseHTTPRequestHandler, path: str, status: int, signature: str) -> None:
        with self._lock:
            self.requests.append(Request(path, status, dict(handler.headers), signature))

    def _send(self, handler: http.server.BaseHTTPRequestHandler, found: Answer, *, cut: bool) -> None:
        handler.send_response(found.status)
        for name, value in found.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(found.body)))
        handler.end_headers()
        if handler.command == "HEAD":
            return
        if cut and self.cut_after is not None and len(found.body) > self.cut_after:
            handler.wfile.write(found.body[: self.cut_after])
            handler.close_connection = True
            return
        handler.wfile.write(found.body)

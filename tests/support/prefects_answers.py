"""Something that answers as a Prefect server does, as far as that tells it from any other program.

Tests of finding a server use it: a real one takes seconds to start, and none of another version can be had.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from typing import Any

from flows import access


class PrefectsAnswers(BaseHTTPRequestHandler):
    """Health and version."""

    version = version("prefect")
    seconds = 0.0
    """How long it takes to answer."""
    login: str | None = None
    """Who wants to know its version must say this."""
    heard: list[str]
    """Every `Authorization` that was said to it."""

    def do_GET(self) -> None:
        time.sleep(self.seconds)
        said = self.headers.get("Authorization")
        self.heard += [said] if said else []
        told = {"/api/health": True, "/api/admin/version": self.version}.get(self.path)
        shut = self.login is not None and self.path != "/api/health" and said != access.basic(self.login)
        self.send_response(401 if shut else 200 if told is not None else 404)
        self.end_headers()
        self.wfile.write(json.dumps(told).encode())

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def answering(
    told_version: str = PrefectsAnswers.version,
    seconds: float = 0.0,
    login: str | None = None,
    heard: list[str] | None = None,
) -> Iterator[int]:
    """A program on this host that says, after a while, it is a Prefect server of that version; gives its port."""
    told = {"version": told_version, "seconds": seconds, "login": login, "heard": [] if heard is None else heard}
    handler = type("Answers", (PrefectsAnswers,), told)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as program:
        threading.Thread(target=program.serve_forever, daemon=True).start()
        yield program.server_port
        program.shutdown()

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


class PrefectsAnswers(BaseHTTPRequestHandler):
    """Health and version."""

    version = version("prefect")
    seconds = 0.0
    """How long it takes to answer."""

    def do_GET(self) -> None:
        time.sleep(self.seconds)
        told = {"/api/health": True, "/api/admin/version": self.version}.get(self.path)
        self.send_response(200 if told is not None else 404)
        self.end_headers()
        self.wfile.write(json.dumps(told).encode())

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def answering(told_version: str = PrefectsAnswers.version, seconds: float = 0.0) -> Iterator[int]:
    """A program on this host that says, after a while, it is a Prefect server of that version; gives its port."""
    handler = type("Answers", (PrefectsAnswers,), {"version": told_version, "seconds": seconds})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as program:
        threading.Thread(target=program.serve_forever, daemon=True).start()
        yield program.server_port
        program.shutdown()

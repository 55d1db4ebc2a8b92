"""A real browser that plays a file: Debian's Chromium, headless, with a page served on loopback.

The page tells by itself how it went, in one request. The browser has a folder of its own, asks for nothing beyond
loopback, and ends with its whole group.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MOST_SECONDS = 60.0
"""A browser starts in 2 s on a quiet machine."""
PLAYED_SECONDS = 1.0
"""How far the film must get."""

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--autoplay-policy=no-user-gesture-required",
)

PAGE = """<!doctype html><video id="film" muted playsinline src="/film"></video><script>
const film = document.getElementById("film");
let told = false;
function tell(how) {
  if (told) return;
  told = true;
  const frames = film.getVideoPlaybackQuality().totalVideoFrames;
  const facts = {how, at: film.currentTime, width: film.videoWidth, height: film.videoHeight,
                 seconds: film.duration, frames, error: film.error && film.error.message};
  fetch("/told", {method: "POST", body: JSON.stringify(facts)});
}
film.ontimeupdate = () => { if (film.currentTime > %(played)s) tell("played"); };
film.onerror = () => tell("error");
film.play().catch(error => tell(String(error)));
</script>"""


def chromium() -> str | None:
    return shutil.which("chromium")


def played(film: Path) -> dict[str, Any]:
    """What the browser says of the film: `how` is `played`, or what went wrong."""
    with served(film) as page, tempfile.TemporaryDirectory() as profile:
        words = [str(chromium()), *FLAGS, f"--user-data-dir={profile}", page.url]
        browser = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            page.ended.wait(MOST_SECONDS)
        finally:
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()
    return page.facts


class Served:
    """A page on loopback, and what it told."""

    def __init__(self, film: Path) -> None:
        self.facts: dict[str, Any] = {"how": f"it said nothing within {MOST_SECONDS:g} s"}
        self.ended = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _answering(self, film))
        self.url = f"http://127.0.0.1:{self.server.server_port}/"


@contextmanager
def served(film: Path) -> Iterator[Served]:
    page = Served(film)
    thread = threading.Thread(target=page.server.serve_forever)
    thread.start()
    try:
        yield page
    finally:
        page.server.shutdown()
        page.server.server_close()
        thread.join()


def _answering(page: Served, film: Path) -> type[BaseHTTPRequestHandler]:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            whole = {"/": (PAGE % {"played": PLAYED_SECONDS}).encode(), "/film": film.read_bytes()}
            body = whole.get(self.path, b"")
            self.send_response(200 if self.path in whole else 404)
            self.send_header("Content-Type", "video/mp4" if self.path == "/film" else "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            page.facts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()
            page.ended.set()

        def log_message(self, *_: object) -> None:
            """The test's output is for its result."""

    return Answers

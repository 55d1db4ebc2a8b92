"""A window of a real browser: opens pages, runs JavaScript in them, and tells what the browser complains of.

Spoken to by Chromium's own protocol for developers. It asks for nothing beyond loopback, and ends with its whole group.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.support.browser import FLAGS, MOST_SECONDS, chromium


@dataclass
class Window:
    """One page."""

    _wire: ClientConnection
    _events: list[dict[str, Any]] = field(default_factory=list)
    _asked: int = 0

    def open(self, url: str) -> None:
        self._call("Page.navigate", url=url)
        time.sleep(0.5)

    def run(self, script: str) -> Any:
        """What it comes to, in the page; empty where that is just loading."""
        told = self._call("Runtime.evaluate", expression=script, returnByValue=True, userGesture=True)
        return told.get("result", {}).get("value") or ""

    def complaints(self) -> list[str]:
        """What stands on the browser's console."""
        return [one["params"]["entry"]["text"] for one in self._events if one.get("method") == "Log.entryAdded"]

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._asked += 1
        self._wire.send(json.dumps({"id": self._asked, "method": method, "params": params}))
        while True:
            told = json.loads(self._wire.recv(timeout=MOST_SECONDS))
            if told.get("id") == self._asked:
                return dict(told.get("result", {}))
            self._events.append(told)


@contextmanager
def window() -> Iterator[Window]:
    """A browser of its own, closed at the end of the block."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        words = [str(chromium()), *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
        words.insert(1, "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost")
        quiet = subprocess.DEVNULL
        browser = subprocess.Popen(words, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
        try:
            with connect(_page_of(Path(profile)), max_size=None, proxy=None) as wire:
                shown = Window(wire)
                for domain in ("Page", "Runtime", "Log"):
                    shown._call(f"{domain}.enable")
                yield shown
        finally:
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()


def _page_of(profile: Path) -> str:
    """The address of its first page, once it is there."""
    until = time.monotonic() + MOST_SECONDS
    while time.monotonic() < until:
        try:
            port = (profile / "DevToolsActivePort").read_text().split()[0]
            pages = httpx.get(f"http://127.0.0.1:{port}/json", timeout=5, trust_env=False).json()
            return str(next(page for page in pages if page["type"] == "page")["webSocketDebuggerUrl"])
        except (OSError, IndexError, ValueError, StopIteration, httpx.HTTPError):
            time.sleep(0.1)
    raise TimeoutError("the browser does not start")

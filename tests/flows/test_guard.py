"""Who is let in to our Prefect servers: the decision, request by request. tests/deployments/test_doors.py tries it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flows import guard
from flows.access import basic
from flows.guard import STRANGERS, Door, Guard, Message, Receive, Request, Scope, Send, door_environment, names, origins
from tidegate.errors import BadInput
from tidegate.settings import Settings

PORT = 4200
LOGIN = "tidegate:wörd"
DOOR = Door(names(PORT), origins(PORT), LOGIN, closed=frozenset({"/docs"}))
HOST = ("host", f"127.0.0.1:{PORT}")
PASSWORD = ("authorization", basic(LOGIN))


def status(*headers: tuple[str, str], method: str = "GET", path: str = "/api/variables/name/one") -> int | None:
    refusal = DOOR.refusal(Request(method, path, headers))
    return refusal.status if refusal else None


def test_who_calls_it_by_its_name_and_knows_the_password_is_let_in() -> None:
    for name in ("127.0.0.1:4200", "localhost:4200", "LocalHost:4200", "[::1]:4200"):
        assert status(("host", name), PASSWORD) is None
        assert status(("host", name), PASSWORD, ("origin", "http://localhost:4200"), method="POST") is None


@pytest.mark.parametrize(
    "hosts",
    [
        *([], [""], ["evil.example:4200"], ["127.0.0.1"], ["127.0.0.1:4201"], ["127.0.0.1:04200"], ["localhost.:4200"]),
        *(["127.1:4200"], ["2130706433:4200"], ["0x7f000001:4200"], ["0177.0.0.1:4200"], ["[::ffff:127.0.0.1]:4200"]),
        *(["a@127.0.0.1:4200"], ["127.0.0.1:4200@evil.example"], ["127.0.0.1:4200.evil.example"], ["0.0.0.0:4200"]),
        *(["127.0.0.1:4200", "127.0.0.1:4200"], ["127.0.0.1:4200", "evil.example"], ["127.0.0.1:4200,evil.example"]),
        *(["[::1%lo]:4200"], ["localhost:4200 "], ["tidegate.localhost:4200"]),
    ],
)
def test_any_other_name_is_refused_whoever_knows_the_password(hosts: list[str]) -> None:
    assert status(*(("host", name) for name in hosts), PASSWORD) == 421


@pytest.mark.parametrize("path", ["http://127.0.0.1:4200/api/flows", "127.0.0.1:4200", "*", ""])
def test_a_target_that_is_no_path_is_refused(path: str) -> None:
    assert status(HOST, PASSWORD, path=path) == 400


@pytest.mark.parametrize(
    "origin",
    [
        *(["null"], [""], ["http://evil.example"], ["http://127.0.0.1:4201"], ["http://127.0.0.1"]),
        *(["https://127.0.0.1:4200"], ["http://127.0.0.1:4200/"], ["http://localhost.:4200"], ["file://"]),
        ["http://127.0.0.1:4200", "http://evil.example"],
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "WEBSOCKET"])
def test_a_page_of_somebody_else_is_refused(origin: list[str], method: str) -> None:
    asked = (("access-control-request-method", "POST"),) if method == "OPTIONS" else ()
    assert status(HOST, PASSWORD, *(("origin", one) for one in origin), *asked, method=method) == 403
    assert status(HOST, *(("origin", one) for one in origin), method=method, path="/") == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "same-origin, cross-site", "sideways"])
def test_what_a_browser_says_of_another_site_is_refused_but_for_a_link_to_the_ui(site: str) -> None:
    fetched = ("sec-fetch-site", site)
    followed = (fetched, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"))
    assert status(HOST, fetched, path="/") == 403
    assert status(HOST, *followed, path="/flow-runs") is None
    assert status(HOST, *followed, path="/", method="POST") == 403
    assert status(HOST, *followed, PASSWORD) == 403
    assert status(HOST, *followed[:2], ("sec-fetch-dest", "iframe"), path="/") == 403
    assert status(HOST, ("sec-fetch-site", "same-origin"), PASSWORD) is None


@pytest.mark.parametrize("path", ["/api/health", "/api/ready", "/", "/ui-settings", "/v2/login", "/apiary"])
def test_what_holds_nothing_is_open(path: str) -> None:
    assert status(HOST, path=path) is None
    assert status(HOST, path=path, method="HEAD") is None
    assert status(HOST, path=path, method="POST") == 401


@pytest.mark.parametrize(
    "path",
    [
        *("/api", "/api/", "/api/variables/name/health", "/api/work_pools/ready", "/api/health/", "/api/health/health"),
        *("/api/x/../health", "/api//health", "/api/version", "/api/docs", "/docs", "/docs/", "/api/csrf-token"),
    ],
)
@pytest.mark.parametrize(
    "said",
    [
        *([], ["Basic"], ["Basic x"], [LOGIN], [f"Bearer {LOGIN}"], [basic("tidegate:")], [basic(LOGIN)[:-2]]),
        *([basic(LOGIN), basic(LOGIN)], [basic(LOGIN) + "="], ["Basic \udcff"], [f"{basic(LOGIN)}, {basic(LOGIN)}"]),
    ],
)
def test_everything_else_wants_the_password_also_what_is_called_health(path: str, said: list[str]) -> None:
    assert status(HOST, *(("authorization", one) for one in said), path=path) == 401
    assert status(HOST, PASSWORD, path=path) is None


def test_a_refusal_says_what_to_set() -> None:
    told = DOOR.refusal(Request("GET", "/api/flows", (HOST,)))
    assert told is not None and 'export PREFECT_API_AUTH_STRING="$(cat ' in told.message
    told = DOOR.refusal(Request("GET", "/api/flows", (("host", "evil.example"),)))
    assert told is not None and "TIDEGATE_SERVE_ADDRESSES" in told.message and "evil" not in told.message


def test_a_preflight_of_our_own_page_carries_no_password() -> None:
    asked = (("origin", "http://localhost:4200"), ("access-control-request-method", "POST"))
    assert status(HOST, *asked, method="OPTIONS") is None
    assert status(HOST, asked[1], method="OPTIONS") == 401
    assert status(HOST, *asked, method="POST") == 401


def test_an_operator_adds_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_SERVE_ADDRESSES", "https://Prefect.Example.org:443/, http://192.0.2.7:80,")
    assert {"prefect.example.org", "192.0.2.7", "127.0.0.1:4200"} <= names(PORT)
    assert {"https://prefect.example.org", "http://192.0.2.7"} <= origins(PORT)
    door = Door(names(PORT), origins(PORT), LOGIN)
    through_a_proxy = (("host", "prefect.example.org"), ("origin", "https://prefect.example.org"), PASSWORD)
    assert door.refusal(Request("POST", "/api/flows/", through_a_proxy)) is None
    assert door.refusal(Request("POST", "/api/flows/", (HOST, *through_a_proxy[1:]))) is None
    assert "*" not in door_environment(PORT)["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"]


@pytest.mark.parametrize(
    "address", ["*", "prefect.example.org", "https://", "ftp://x", "https://x/path", "https://a@x"]
)
def test_an_address_that_is_none_is_told(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_SERVE_ADDRESSES", address)
    with pytest.raises(BadInput, match="TIDEGATE_SERVE_ADDRESSES"):
        Settings.load()


class Wire:
    """What a client says over a WebSocket, or in a request, and what comes back."""

    def __init__(self, *said: str | None) -> None:
        self.said = [{"type": "websocket.receive", "text": text} for text in said]
        self.back: list[Message] = []
        self.is_new = True

    async def receive(self) -> Message:
        if self.is_new:
            self.is_new = False
            return {"type": "websocket.connect"}
        if not self.said:
            await asyncio.sleep(3600)
        return self.said.pop(0)

    async def send(self, message: Message) -> None:
        self.back.append(message)

    @property
    def told(self) -> list[str]:
        return [message["type"] for message in self.back]


def scope(kind: str, path: str, **more: Any) -> dict[str, Any]:
    headers = [(b"host", HOST[1].encode())]
    return {"type": kind, "path": path, "method": "GET", "headers": headers, "subprotocols": ["prefect"], **more}


class Prefect:
    """An application that tells the secret to whoever it is asked by."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.heard.append((await receive())["type"])
        await send({"type": "websocket.accept", "subprotocol": "prefect"})
        self.heard += [(await receive())["text"], (await receive())["text"]]
        await send({"type": "websocket.send", "text": "secret"})


RIGHT = '{"type": "auth", "token": "tidegate:w\\u00f6rd"}'


def test_a_websocket_that_says_the_password_first_goes_on() -> None:
    wire, prefect = Wire(RIGHT, '{"type": "filter"}'), Prefect()
    asyncio.run(Guard(DOOR, prefect)(scope("websocket", "/api/events/out"), wire.receive, wire.send))
    assert prefect.heard == ["websocket.connect", RIGHT, '{"type": "filter"}']
    assert wire.told == ["websocket.accept", "websocket.send"] and wire.back[0]["subprotocol"] == "prefect"


@pytest.mark.parametrize(
    "first",
    [
        *("", "x", "[]", "null", "1", '{"type": "filter"}', '{"type": "auth"}', '{"type": "auth", "token": null}'),
        *('{"type": "auth", "token": {}}', '{"token": "tidegate:w\\u00f6rd"}', '{"type": "auth", "token": "\\ud800"}'),
        *("[" * 100_000, None),
    ],
)
def test_a_websocket_that_begins_with_anything_else_is_closed_and_prefect_never_hears_of_it(first: str | None) -> None:
    wire, prefect = Wire(first, RIGHT), Prefect()
    asyncio.run(Guard(DOOR, prefect)(scope("websocket", "/api/events/out"), wire.receive, wire.send))
    assert prefect.heard == [] and wire.told == ["websocket.accept", "websocket.close"]


def test_a_websocket_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "FIRST_WORD_SECONDS", 0.05)
    wire, prefect = Wire(), Prefect()
    asyncio.run(Guard(DOOR, prefect)(scope("websocket", "/api/events/out"), wire.receive, wire.send))
    assert prefect.heard == [] and wire.told == ["websocket.accept", "websocket.close"]


def test_a_websocket_that_cannot_say_the_password_is_not_opened() -> None:
    wire, prefect = Wire(RIGHT), Prefect()
    asking = scope("websocket", "/api/events/out", subprotocols=[])
    asyncio.run(Guard(DOOR, prefect)(asking, wire.receive, wire.send))
    assert prefect.heard == [] and wire.told == ["websocket.close"]


def test_who_is_slow_without_the_password_takes_no_room_from_who_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "STRANGER_SECONDS", 0.2)
    at_work = 0

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal at_work
        at_work += 1
        await asyncio.sleep(0 if any(name == b"authorization" for name, _ in scope["headers"]) else 3600)
        await send({"type": "http.response.start", "status": 200})

    async def play() -> tuple[int, list[Message], list[int]]:
        door = Guard(DOOR, slow)
        wires = [Wire() for _ in range(3 * STRANGERS)]
        strangers = [asyncio.create_task(door(scope("http", "/"), wire.receive, wire.send)) for wire in wires]
        await asyncio.sleep(0.05)
        most, known = at_work, Wire()
        asking = scope("http", "/")
        asking["headers"].append((b"authorization", basic(LOGIN).encode()))
        await door(asking, known.receive, known.send)
        await asyncio.gather(*strangers)
        return most, known.back, [wire.back[0]["status"] for wire in wires]

    most, known, statuses = asyncio.run(play())
    assert most == STRANGERS and known[0]["status"] == 200 and set(statuses) == {503}

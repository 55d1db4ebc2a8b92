"""The proxy for tools: it judges as we do, knows its one child, goes on through the operator's proxy, and ends."""

from __future__ import annotations

import base64
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import anyio
import pytest

from tests.support.origin import Origin
from tests.transfer.scripted import Scripted
from tests.transfer.test_dial import policy
from tidegate.errors import AddressRefused, BadInput, ConnectionFailed, HttpRefused, LeaseLost
from tidegate.events import Event, Note
from tidegate.settings import GateSettings, TransferSettings
from tidegate.transfer import tool_proxy as module
from tidegate.transfer.gates.gates import Gates
from tidegate.transfer.outside import Outside
from tidegate.transfer.tool_proxy import ToolProxy, tool_proxy

pytestmark = pytest.mark.usefixtures("nothing_left")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def port_of(origin: Scripted | Origin) -> int:
    return origin.port if isinstance(origin, Origin) else int(origin.url("").split(":")[2].rstrip("/"))


class OperatorsProxy(ToolProxy):
    """One that goes on through no other, as it does not know this process's environment."""

    def _connect(self, target: Any) -> tuple[socket.socket, str | None]:
        return self._dial(target.host, target.port, self._policy), None


@contextmanager
def proxy_to(*ports: int, limits: TransferSettings, kind: type[ToolProxy] = ToolProxy) -> Iterator[ToolProxy]:
    proxy = kind(policy("allow-list", ",".join(f"127.0.0.1:{port}" for port in ports)), limits)
    try:
        yield proxy
    finally:
        proxy.close()


def ask_through(proxy: str, url: str, body: bytes | None = None) -> tuple[int, bytes]:
    """What a tool gets that honours the usual variables."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy}))
    try:
        with opener.open(urllib.request.Request(url, data=body), timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read()


def said(port: int, words: bytes) -> bytes:
    """What a bare socket hears until the other end is done."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as end:
        end.sendall(words)
        heard = b""
        while block := end.recv(65536):
            heard += block
        return heard


def login(proxy: ToolProxy) -> bytes:
    words = proxy.url.removeprefix("http://").partition("@")[0]
    return b"Proxy-Authorization: Basic " + base64.b64encode(words.encode()) + b"\r\n"


def test_a_plain_request_reaches_what_is_listed_and_nothing_else(limits: TransferSettings) -> None:
    with Origin({"a": b"hello" * 100_000}) as origin, Origin({"a": b"secret"}) as other:
        with proxy_to(origin.port, limits=limits) as proxy:
            assert ask_through(proxy.url, origin.url("a")) == (200, b"hello" * 100_000)
            assert ask_through(proxy.url, other.url("a"))[0] == 403
            assert ask_through(proxy.url, other.url("a").replace("127.0.0.1", "2130706433"))[0] == 403
            assert ask_through(proxy.url, other.url("a").replace("127.0.0.1", "[::1]"))[0] == 403
        assert other.requests == []
        refused = [refusal.evidence.notes["refused"].rpartition(":")[0] for refusal in proxy.refusals]
        assert refused == ["127.0.0.1", "2130706433", "[::1]"]
        [seen] = origin.requests
        assert "proxy-authorization" not in {name.lower() for name in seen.headers}


def test_a_tunnel_reaches_what_is_listed_and_nothing_else(limits: TransferSettings) -> None:
    with Origin({"a": b"hello"}) as origin, Origin({"a": b"secret"}) as other:
        with proxy_to(origin.port, limits=limits) as proxy:
            for target, status in ((origin, b"200"), (other, b"403")):
                words = f"CONNECT 127.0.0.1:{target.port} HTTP/1.1\r\nHost: x\r\n".encode() + login(proxy) + b"\r\n"
                # A tool that does not wait for the answer sends what the tunnel is for right behind.
                inside = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
                heard = said(proxy.port, words + inside)
                assert heard.startswith(b"HTTP/1.1 " + status)
                assert heard.endswith(b"hello") is (target is origin)
        assert (len(origin.requests), other.requests) == (1, [])


def test_a_body_is_passed_on_and_a_cut_answer_is_not_made_whole(limits: TransferSettings) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        proxy_to(listener.getsockname()[1], limits=limits) as proxy,
    ):
        heard: list[bytes] = []

        def serve() -> None:
            end, _ = listener.accept()
            with end:
                while b"a=1&b=2" not in b"".join(heard):
                    heard.append(end.recv(65536))
                end.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello")

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(Exception, match="IncompleteRead"):
            ask_through(proxy.url, f"http://127.0.0.1:{listener.getsockname()[1]}/form?x=1", b"a=1&b=2")
        thread.join()
        assert b"".join(heard).startswith(b"POST /form?x=1 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "words",
    [
        b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic dGlkZWdhdGU6\r\n\r\n",
        b"GET http://127.0.0.1:%d/a HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://127.0.0.1:%d/a HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Bearer x\r\n\r\n",
    ],
)
def test_whoever_does_not_know_the_password_gets_nothing(words: bytes, limits: TransferSettings) -> None:
    with Origin({"a": b"hello"}) as origin:
        with proxy_to(origin.port, limits=limits) as proxy:
            heard = said(proxy.port, (words % origin.port) * 3)
            assert heard.count(b"HTTP/1.1 407") == 3 and b"hello" not in heard
        assert (origin.requests, proxy.refusals) == ([], [])


def test_a_tool_that_brings_the_password_only_when_asked_is_let_in_on_the_same_connection(
    limits: TransferSettings,
) -> None:
    with Origin({"a": b"hello"}) as origin, proxy_to(origin.port, limits=limits) as proxy:
        line = f"CONNECT 127.0.0.1:{origin.port} HTTP/1.1\r\nHost: x\r\n".encode()
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as end:
            end.sendall(line + b"\r\n")
            assert end.recv(65536).startswith(b"HTTP/1.1 407")
            end.sendall(line + login(proxy) + b"\r\n")
            assert end.recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "target",
    [b"GET /a", b"GET https://x/a", b"GET ftp://x/a", b"GET file:///etc/passwd", b"CONNECT :80", b"GET http:///"],
)
def test_what_is_no_request_for_a_proxy_is_refused(target: bytes, limits: TransferSettings) -> None:
    with proxy_to(9, limits=limits) as proxy:
        heard = said(proxy.port, target + b" HTTP/1.1\r\nHost: x\r\n" + login(proxy) + b"\r\n")
        assert heard.startswith(b"HTTP/1.1 400")


def test_a_second_request_on_one_connection_goes_nowhere(limits: TransferSettings) -> None:
    with Origin({"a": b"hello", "b": b"again"}) as origin, proxy_to(origin.port, limits=limits) as proxy:
        one = f"GET {origin.url('a')} HTTP/1.1\r\nHost: x\r\n".encode() + login(proxy) + b"\r\n"
        heard = said(proxy.port, one + one.replace(b"/a ", b"/b "))
        assert heard.count(b"HTTP/1.1") == 1 and b"again" not in heard
        assert b"connection: close" in heard.lower()


def test_it_listens_on_loopback_only_and_its_port_is_closed_with_everything_in_it(limits: TransferSettings) -> None:
    with Origin({"a": b"x" * 1_000_000}, stories={"a": "1K stall"}) as origin:
        proxy = ToolProxy(policy("allow-list", f"127.0.0.1:{origin.port}"), limits)
        assert proxy._listener.getsockname()[0] == "127.0.0.1"
        words = f"GET {origin.url('a')} HTTP/1.1\r\nHost: x\r\n".encode() + login(proxy) + b"\r\n"
        thread = threading.Thread(target=lambda: said(proxy.port, words))
        thread.start()
        origin.wait_for(lambda one: one.bytes_sent("a") > 0)
        with closing(socket.create_connection(("127.0.0.1", proxy.port))):  # one that says nothing
            proxy.close()
        thread.join(60)
        assert not thread.is_alive()
        assert not thread.is_alive()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port))


def test_more_connections_than_there_are_places_wait_and_are_served(
    limits: TransferSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_CONNECTIONS", 2)
    with Origin({"a": b"hello"}) as origin, proxy_to(origin.port, limits=limits) as proxy:
        got: list[tuple[int, bytes]] = []
        threads = [
            threading.Thread(target=lambda: got.append(ask_through(proxy.url, origin.url("a")))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert got == [(200, b"hello")] * 8
        assert origin.most_at_once <= 2


def test_one_that_says_nothing_does_not_keep_its_place(limits: TransferSettings) -> None:
    with proxy_to(9, limits=limits) as proxy, socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as end:
        assert end.recv(1) == b"", "ended after the request timeout"


# --- through the operator's own proxy ---------------------------------------------------------------


@pytest.mark.parametrize("tunnel", [True, False])
def test_it_goes_on_through_the_proxy_that_the_environment_names(
    tunnel: bool, limits: TransferSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Origin({"a": b"hello"}) as origin, Origin({"a": b"secret"}) as other:
        with (
            proxy_to(origin.port, other.port, limits=limits, kind=OperatorsProxy) as operators,
            proxy_to(origin.port, limits=limits) as proxy,
        ):
            for name in ("http_proxy", "https_proxy"):
                monkeypatch.setenv(name, operators.url)
            monkeypatch.delenv("no_proxy", raising=False)
            monkeypatch.delenv("NO_PROXY", raising=False)
            for target, status in ((origin, b"200"), (other, b"403")):
                if tunnel:
                    line = f"CONNECT 127.0.0.1:{target.port} HTTP/1.1\r\nHost: x\r\n".encode()
                    words = line + login(proxy) + b"\r\nGET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
                else:
                    words = f"GET {target.url('a')} HTTP/1.1\r\nHost: x\r\n".encode() + login(proxy) + b"\r\n"
                heard = said(proxy.port, words)
                assert heard.startswith(b"HTTP/1.1 " + status)
                assert heard.endswith(b"hello") is (target is origin)
        assert (len(origin.requests), other.requests, operators.refusals) == (1, [], [])
        assert len(proxy.refusals) == 1


def test_an_operators_proxy_that_refuses_is_no_refusal_of_ours(
    limits: TransferSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Origin({"a": b"hello"}) as origin, proxy_to(9, limits=limits, kind=OperatorsProxy) as operators:
        monkeypatch.setenv("https_proxy", operators.url)
        monkeypatch.delenv("no_proxy", raising=False)
        with proxy_to(origin.port, limits=limits) as proxy:
            line = f"CONNECT 127.0.0.1:{origin.port} HTTP/1.1\r\nHost: x\r\n".encode()
            assert said(proxy.port, line + login(proxy) + b"\r\n").startswith(b"HTTP/1.1 502")
            assert proxy.refusals == []


def test_a_socks_proxy_cannot_be_gone_through_and_that_is_said(
    limits: TransferSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(BadInput, match="SOCKS"):
        ToolProxy(policy(), limits)


# --- what becomes of the tool's failure -------------------------------------------------------------


def outside(limits: TransferSettings, rules: str = "public", told: list[Event] | None = None) -> Outside:
    gates = Gates(GateSettings(), addresses=policy(rules))  # type: ignore[arg-type]
    return Outside(limits=limits, gates=gates, observe=told.append if told is not None else lambda _: None)


@pytest.mark.parametrize("failure", [ConnectionFailed("x"), HttpRefused("x")])
def test_a_tool_that_failed_after_a_refusal_failed_for_it(
    failure: ConnectionFailed | HttpRefused, limits: TransferSettings
) -> None:
    async def work() -> None:
        async with tool_proxy(outside(limits)) as proxy:
            assert proxy is not None
            assert (await anyio.to_thread.run_sync(ask_through, proxy.url, "http://127.0.0.1:9/a"))[0] == 403
            raise failure

    with pytest.raises(AddressRefused, match="loopback"):
        anyio.run(work)


def test_what_a_refusal_cannot_have_caused_stays_what_it_is(limits: TransferSettings) -> None:
    async def work() -> None:
        async with tool_proxy(outside(limits)) as proxy:
            assert proxy is not None
            await anyio.to_thread.run_sync(ask_through, proxy.url, "http://127.0.0.1:9/a")
            raise LeaseLost("x")

    with pytest.raises(LeaseLost):
        anyio.run(work)


def test_a_tool_that_got_on_all_the_same_is_believed_and_the_refusal_is_told(limits: TransferSettings) -> None:
    told: list[Event] = []

    async def work() -> None:
        async with tool_proxy(outside(limits, told=told)) as proxy:
            assert proxy is not None
            await anyio.to_thread.run_sync(ask_through, proxy.url, "http://127.0.0.1:9/a")

    anyio.run(work)
    assert [event.level for event in told if isinstance(event, Note) and "loopback" in event.message] == ["warning"]


def test_with_an_open_policy_there_is_none(limits: TransferSettings) -> None:
    async def work() -> None:
        async with tool_proxy(outside(limits, "open")) as proxy:
            assert proxy is None

    anyio.run(work)

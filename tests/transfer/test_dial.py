"""What the dialler would do, with names that lead where a test says and a connector that only takes notes.

Nothing here connects to anything but loopback: the addresses to which a connection would be made are recorded.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.origin import Origin
from tests.transfer.scripted import Scripted
from tidegate.addresses import AddressPolicy, PolicyName, read_entries
from tidegate.errors import AddressRefused, ConnectionFailed, Evidence, RedirectLoop, UnsupportedSource
from tidegate.settings import GateSettings, TransferSettings
from tidegate.transfer.asking.answers import redirect_target
from tidegate.transfer.gates.gates import CallResult, Gates, _verdict
from tidegate.transfer.playlists.media import web_url
from tidegate.transfer.transport import dial as dialling
from tidegate.transfer.transport import pool_of
from tidegate.transfer.transport.base import Headers
from tidegate.transfer.transport.dial import dial, require_for_proxy
from tidegate.transfer.transport.sockets import SocketLine, tls_context
from tidegate.transfer.transport.through_httpx import HttpxLine

pytestmark = pytest.mark.usefixtures("nothing_left")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
GOOD = "93.184.215.14"
"""A public address; nothing is ever sent to it."""


def policy(name: PolicyName = "public", allow: str = "") -> AddressPolicy:
    return AddressPolicy(name, read_entries(allow))


class Names:
    """In place of the resolver: what each name leads to, one answer after the other. Addresses lead to themselves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []
        self._really = socket.getaddrinfo
        monkeypatch.setattr("tidegate.transfer.transport.dial.socket.getaddrinfo", self._found)

    def lead(self, name: str, *answers: list[str]) -> None:
        self.known[name] = list(answers)

    def _found(self, host: str, port: int, *args: object, **more: object) -> list[tuple[object, ...]]:
        self.asked.append(host)
        if host not in self.known:
            return self._really(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        answers = self.known[host]
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        families = [socket.AF_INET6 if ":" in one else socket.AF_INET for one in found]
        return [
            (family, socket.SOCK_STREAM, 6, "", (one, port) if family is socket.AF_INET else (one, port, 0, 0))
            for family, one in zip(families, found, strict=True)
        ]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


@pytest.fixture
def would_connect(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In place of the connector: the addresses that it was given."""
    taken: list[str] = []

    def note(addresses: list[dialling.Address], host: str, until: float, given_up: Callable[[], bool]) -> socket.socket:
        taken.extend(str(address[0]) for _, address in addresses)
        raise ConnectionFailed("only noted")

    monkeypatch.setattr(dialling, "connect", note)
    return taken


def outcome(host: str, rules: AddressPolicy, port: int = 80) -> str:
    with pytest.raises((AddressRefused, ConnectionFailed)) as caught:
        dial(host, port, 5, lambda: False, rules)
    return caught.value.type


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "0x7f.1", "0x7f000001", "2130706433", "017700000001", "0177.0.0.1", "0", "0.0.0.0"),
        *("::1", "::", "::ffff:127.0.0.1", "::ffff:7f00:1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"),
        *("10.0.0.1", "192.168.257", "169.254.169.254", "0xa9fea9fe", "2852039166", "fe80::1", "fd00:ec2::254"),
        *("224.0.0.1", "255.255.255.255", "100.64.0.1", "198.18.0.1"),
    ],
)
def test_an_address_in_any_spelling_is_refused_before_anything_is_connected_to(
    host: str, names: Names, would_connect: list[str]
) -> None:
    assert outcome(host, policy()) == "address_refused"
    assert would_connect == []


def test_a_public_name_is_connected_to_at_the_address_that_was_judged(names: Names, would_connect: list[str]) -> None:
    names.lead("good.example", [GOOD], ["127.0.0.1"])
    outcome("good.example", policy())
    assert (would_connect, names.asked) == ([GOOD], ["good.example"]), "looked up once: no second answer can be another"


def test_a_name_that_changes_its_mind_is_judged_each_time(names: Names, would_connect: list[str]) -> None:
    names.lead("rebinding.example", [GOOD], ["127.0.0.1"])
    told = [outcome("rebinding.example", policy()) for _ in range(2)]
    assert told == ["connection_failed", "address_refused"]
    assert would_connect == [GOOD]


def test_of_good_and_bad_addresses_only_the_good_ones_are_connected_to(names: Names, would_connect: list[str]) -> None:
    names.lead("mixed.example", ["127.0.0.1", GOOD, "fe80::1", "2606:4700::1111", "10.0.0.1"])
    outcome("mixed.example", policy())
    assert would_connect == [GOOD, "2606:4700::1111"]


def test_an_open_policy_judges_nothing(names: Names, would_connect: list[str]) -> None:
    names.lead("nas.lan", ["192.168.1.20"])
    outcome("nas.lan", policy("open"))
    assert would_connect == ["192.168.1.20"]


def test_the_refusal_names_the_rule_and_the_line_that_allows_it_and_not_the_address(names: Names) -> None:
    names.lead("nas.lan", ["192.168.1.20"])
    with pytest.raises(AddressRefused) as caught:
        dial("nas.lan", 8080, 5, lambda: False, policy())
    failure = caught.value
    assert failure.message == (
        "No connection is made to nas.lan:8080: it is a private network (RFC 1918) (TIDEGATE_NETWORK_POLICY=public)"
    )
    assert failure.hint.endswith("TIDEGATE_NETWORK_ALLOW=nas.lan:8080")
    assert "192.168" not in f"{failure.message}{failure.hint}{failure.evidence}"


def test_a_refusal_is_the_same_whether_somebody_listens_there_or_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as gone:
        there, nobody = listener.getsockname()[1], gone.getsockname()[1]
        gone.close()
        told = []
        for port in (there, nobody):
            with pytest.raises(AddressRefused) as caught:
                dial("127.0.0.1", port, 5, lambda: False, policy())
            told.append(f"{caught.value.message}{caught.value.hint}{caught.value.evidence}".replace(str(port), "PORT"))
        assert told[0] == told[1]
        listener.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listener.accept()


def test_names_that_are_not_listed_are_not_looked_up(names: Names) -> None:
    assert outcome("secret.evil.example", policy("allow-list", "cdn.example")) == "address_refused"
    assert names.asked == []


LEADING_ELSEWHERE = [
    *(
        "file:///etc/passwd",
        "file://localhost/etc/passwd",
        "FILE:/etc/passwd",
        "concat:a|b",
        "ftp://x/a",
        "gopher://x/a",
    ),
    *("subfile,,start,0,end,9,,:/etc/passwd", "data:text/plain,x", "crypto+http://x/a", "pipe:0", "unix:/run/a.sock"),
]


@pytest.mark.parametrize("link", LEADING_ELSEWHERE)
def test_nothing_but_the_web_is_followed_from_a_playlist_or_a_redirect(link: str) -> None:
    """What stands before the first colon and is no scheme at all is part of a path on the same origin."""
    base, told = "http://origin.example/list.m3u8", Headers({"Location": link})
    for follow in (
        lambda: web_url(base, link, "segment"),
        lambda: redirect_target(base, 302, told, Evidence()) or "",
    ):
        try:
            target = follow()
        except (UnsupportedSource, RedirectLoop):
            continue
        assert target.startswith("http://origin.example/"), target
        assert link.startswith("subfile,")


# --- both ways to talk ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SocketLine, HttpxLine])
def test_both_transports_judge(kind: type[SocketLine] | type[HttpxLine], limits: TransferSettings) -> None:
    with Scripted(lambda _: iter([OK])) as origin:
        line = kind(limits, policy())
        with pytest.raises(AddressRefused):
            line.ask(origin.url("a"), {})
        line.close()
        assert origin.seen == []
        port = origin.url("").rstrip("/").rpartition(":")[2]
        line = kind(limits, policy("allow-list", f"127.0.0.1:{port}"))
        assert line.ask(origin.url("a"), {}).status == 200
        line.close()


@pytest.mark.parametrize("kind", [SocketLine, HttpxLine])
def test_a_name_keeps_its_name_in_the_request(
    kind: type[SocketLine] | type[HttpxLine], limits: TransferSettings, names: Names
) -> None:
    names.lead("films.example", ["::1", "127.0.0.1"])  # nobody listens at the first one
    with Scripted(lambda _: iter([OK])) as origin:
        url = origin.url("a").replace("127.0.0.1", "films.example")
        line = kind(limits, policy("public", "films.example"))
        assert line.ask(url, {}).status == 200
        line.close()
    [seen] = origin.seen
    assert seen["host"] == url.split("/")[2]


@pytest.mark.parametrize("kind", [SocketLine, HttpxLine])
@pytest.mark.parametrize(("name", "fits"), [("films.example", True), ("other.example", False)])
def test_over_tls_the_certificate_is_that_of_the_name_and_not_of_the_address(
    name: str,
    fits: bool,
    kind: type[SocketLine] | type[HttpxLine],
    limits: TransferSettings,
    names: Names,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = limits.model_copy(update={"request_timeout": timedelta(seconds=10)})
    key, made = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=films"]
    words += ["-addext", "subjectAltName=DNS:films.example", "-keyout", str(key), "-out", str(made)]
    subprocess.run(["openssl", "req", *words], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, key)
    named: list[str | None] = []
    context.sni_callback = lambda _, server_name, __: named.append(server_name)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        plain, _ = listener.accept()
        with plain, contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as secured:
            if secured.recv(65536):
                secured.sendall(OK)

    thread = threading.Thread(target=serve)
    thread.start()
    monkeypatch.setenv("SSL_CERT_FILE", str(made))
    tls_context.cache_clear()
    names.lead(name, ["127.0.0.1"])
    line = kind(limits, policy("public", name))
    try:
        assert line.ask(f"https://{name}:{listener.getsockname()[1]}/a", {}).status == 200
        assert fits
    except ConnectionFailed as error:
        assert not fits and "certificate" in error.message
    finally:
        line.close()
        thread.join()
        listener.close()
        tls_context.cache_clear()
    assert named == [name]


def test_a_run_never_gets_a_connection_that_another_policy_made(limits: TransferSettings) -> None:
    loose, strict = Gates(GateSettings()), Gates(GateSettings(), addresses=policy())
    with Origin({"a": b"hello"}) as origin:
        url, buffer = origin.url("a"), memoryview(bytearray(100))
        line = pool_of(loose).take(url, limits)
        reply = line.ask(url, {})
        while reply.readinto(buffer):
            pass
        pool_of(loose).give_back(url, line)
        assert pool_of(loose).take(url, limits) is line
        pool_of(loose).give_back(url, line)
        refused = pool_of(strict).take(url, limits)
        with pytest.raises(AddressRefused):
            refused.ask(url, {})
        pool_of(loose).close()
        pool_of(strict).close()


def test_a_refusal_says_nothing_about_the_origin() -> None:
    assert _verdict(AddressRefused("refused")) is CallResult.SILENT


# --- behind the operator's own proxy ----------------------------------------------------------------


@pytest.fixture
def operators_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    with Scripted(lambda _: iter([OK])) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url("").rstrip("/"))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        yield proxy


@pytest.mark.parametrize(
    ("host", "leads_to", "asked"),
    [
        ("good.example", [GOOD], True),
        ("bad.example", ["10.0.0.1"], False),
        ("127.0.0.1", None, False),
        ("2130706433", None, False),
        ("known-to-the-proxy-only.example", "nothing", True),
        ("router", "nothing", False),
        ("db.internal", "nothing", False),
    ],
)
def test_the_proxy_may_lie_anywhere_and_what_it_is_asked_for_is_judged(
    host: str,
    leads_to: list[str] | str | None,
    asked: bool,
    operators_proxy: Scripted,
    limits: TransferSettings,
    names: Names,
) -> None:
    if isinstance(leads_to, list):
        names.lead(host, leads_to)
    line = HttpxLine(limits, policy())
    try:
        assert line.ask(f"http://{host}/film", {}).status == 200
    except AddressRefused:
        assert not asked
    else:
        assert asked
    finally:
        line.close()
    assert bool(operators_proxy.seen) is asked


def test_what_no_proxy_leaves_out_is_judged_as_what_it_is(
    operators_proxy: Scripted, limits: TransferSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    line = HttpxLine(limits, policy())
    with pytest.raises(AddressRefused):
        line.ask("http://127.0.0.1:9/film", {})
    line.close()
    assert operators_proxy.seen == []


def test_an_open_policy_asks_no_resolver_about_what_a_proxy_is_asked_for(names: Names) -> None:
    require_for_proxy("any.example", 80, policy("open"))
    assert names.asked == []

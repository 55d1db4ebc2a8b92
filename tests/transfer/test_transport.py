"""Both transports on wires that lie: what is no HTTP, what ends too early, what never ends, and who answers first."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.transfer.scripted import Scripted
from tidegate.errors import BadInput, ConnectionFailed, RequestTimeout, TidegateError, TruncatedBody
from tidegate.settings import TransferSettings
from tidegate.transfer.transport import Line, Pool
from tidegate.transfer.transport.dial import dial, in_turn
from tidegate.transfer.transport.environment import proxy_for
from tidegate.transfer.transport.sockets import SocketLine, tls_context
from tidegate.transfer.transport.through_httpx import HttpxLine

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(params=[SocketLine, HttpxLine])
def line(request: pytest.FixtureRequest, limits: TransferSettings, nothing_left: None) -> Iterator[Line]:
    made: Line = request.param(limits)
    yield made
    made.close()


def told(line: Line, *blocks: bytes, headers: dict[str, str] | None = None) -> bytes:
    """The body that a line makes of an answer."""
    with Scripted(lambda _: iter(blocks)) as origin:
        reply = line.ask(origin.url("a"), headers or {})
        buffer, taken = memoryview(bytearray(1000)), bytearray()
        while count := reply.readinto(buffer):
            taken += buffer[:count]
        assert reply.readinto(buffer) == 0, "an end is an end"
        return bytes(taken)


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "blocks",
    [
        [OK + b"Content-Length: 5\r\n\r\nhello"],
        [OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"],
        [OK + b"Content-Length: 5\r\n\r\nhello and what nobody asked for"],
        [b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK + b"Content-Length: 5\r\n\r\nhello"],
        [CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"],
        [CHUNKED + b"2;why=not\r\nhe\r\n3\r\nllo\r\n0\r\nLate: trailer\r\n\r\n"],
        [CHUNKED, b"5\r\nhe", b"llo\r\n", b"0\r\n\r\n"],
        [OK + b"\r\nhello"],
        [b"HTTP/1.0 200 OK\r\n\r\nhel", b"lo"],
        [*(bytes([byte]) for byte in OK + b"Content-Length: 5\r\n\r\n"), b"hello"],
    ],
)
def test_a_body_is_what_its_framing_says(blocks: list[bytes], line: Line) -> None:
    assert told(line, *blocks) == b"hello"


@pytest.mark.parametrize(
    "blocks",
    [
        [OK + b"Content-Length: 6\r\n\r\nhello"],
        [CHUNKED + b"5\r\nhello\r\n"],
        [CHUNKED + b"5\r\nhel"],
        [CHUNKED + b"5\r\nhelloXX0\r\n\r\n"],
        [CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n"],
        [CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n"],
        [CHUNKED + b"5\r\nhello\r\n0\r\n"],
    ],
)
def test_a_body_that_ends_before_its_end_is_truncated(blocks: list[bytes], line: Line) -> None:
    with pytest.raises(TruncatedBody):
        told(line, *blocks)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"220 ftp.example ready\r\n\r\n",
        b"HTTP/1.1 two hundred\r\n\r\n",
        OK + b"no colon here\r\n\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        OK + b"Content-Length: five\r\n\r\nhello",
        OK + b"Content-Length: -5\r\n\r\nhello",
        OK + b"X: " + b"y" * 300_000 + b"\r\n\r\n",
        OK + b"".join(b"X-%d: y\r\n" % number for number in range(30_000)) + b"\r\n",
    ],
)
def test_a_head_that_is_none_is_a_failed_connection(head: bytes, line: Line) -> None:
    with pytest.raises(ConnectionFailed):
        told(line, head)


def test_interim_answers_without_end_are_no_answer(limits: TransferSettings) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"HTTP/1.1 102 Processing\r\n\r\n"

    line = SocketLine(limits)
    with Scripted(lambda _: endless()) as origin, pytest.raises(ConnectionFailed):
        line.ask(origin.url("a"), {})
    line.close()


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("http://127.0.0.1:1/a b\r\nX: injected", {}),
        ("http://127.0.0.1:1/a", {"X": "one\r\nY: two"}),
        ("http://127.0.0.1:1/a", {"X\r\nY": "one"}),
        ("http://127.0.0.1:1/a", {"X": "ü"}),
        ("http://127.0.0.1:99999/a", {}),
        ("http:///a", {}),
        ("gopher://127.0.0.1/a", {}),
    ],
)
def test_what_cannot_be_sent_is_never_sent(url: str, headers: dict[str, str], line: Line) -> None:
    with pytest.raises((BadInput, ConnectionFailed)) as caught:
        line.ask(url, headers)
    assert "injected" not in str(caught.value) and "two" not in str(caught.value)


def test_a_target_cannot_carry_a_header(limits: TransferSettings) -> None:
    line = SocketLine(limits)
    with Scripted(lambda _: iter([OK + b"Content-Length: 0\r\n\r\n"])) as origin:
        try:
            line.ask(origin.url("a") + "?x=1\r\nInjected: yes", {})
        except BadInput:
            return
        finally:
            line.close()
        assert not any("injected" in headers for headers in origin.seen)


def test_a_login_in_the_link_is_sent_as_one_and_not_in_the_target(line: Line) -> None:
    with Scripted(lambda _: iter([OK + b"Content-Length: 0\r\n\r\n"])) as origin:
        line.ask(origin.url("a").replace("http://", "http://me:p%40ss@"), {})
        [seen] = origin.seen
    assert seen["authorization"] == "Basic bWU6cEBzcw=="
    assert "me" not in seen["host"]


def test_what_came_before_a_break_is_not_lost(line: Line) -> None:
    with Scripted(lambda _: iter([OK + b"Content-Length: 100\r\n\r\n" + b"x" * 60])) as origin:
        reply = line.ask(origin.url("a"), {})
        buffer, taken = memoryview(bytearray(1000)), 0
        with pytest.raises(TidegateError):
            while count := reply.readinto(buffer):
                taken += count
    assert taken == 60


@pytest.mark.parametrize(
    ("answer", "again"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhello", True),
        (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", True),
        (OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello", False),
        (OK + b"Content-Length: 5\r\n\r\nhello and what nobody asked for", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", False),
    ],
)
def test_a_connection_is_used_again_only_when_nothing_is_left_in_it(
    answer: bytes, again: bool, limits: TransferSettings
) -> None:
    line = SocketLine(limits)
    assert told(line, answer) == b"hello"
    assert line.reusable == again
    line.close()


def test_a_connection_that_was_not_read_to_its_end_is_not_kept(limits: TransferSettings) -> None:
    pool = Pool()
    with Scripted(lambda _: iter([OK + b"Content-Length: 5\r\n\r\nhello"])) as origin:
        line = pool.take(origin.url("a"), limits)
        line.ask(origin.url("a"), {})
        pool.give_back(origin.url("a"), line)
        assert pool.take(origin.url("a"), limits) is not line
    pool.close()


# --- who answers first -----------------------------------------------------------------------------


def test_families_of_addresses_take_turns() -> None:
    six, four = socket.AF_INET6, socket.AF_INET
    given: list[Any] = [(six, ("a", 1)), (six, ("b", 1)), (six, ("c", 1)), (four, ("d", 1))]
    assert [address[0] for _, address in in_turn(given)] == ["a", "d", "b", "c"]


def resolving_to(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
    monkeypatch.setattr("tidegate.transfer.transport.dial.socket.getaddrinfo", lambda *_, **__: found)


def test_an_address_that_leads_nowhere_costs_a_moment_and_no_timeout(
    deaf_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        resolving_to(monkeypatch, deaf_port, listener.getsockname()[1])
        begun = time.monotonic()
        made = dial("host", 80, 120, lambda: False)
        assert made.getpeername() == listener.getsockname()
        assert time.monotonic() - begun < 60, "the timeout was waited for"
        made.close()


def test_an_address_that_refuses_is_passed_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as gone:
        resolving_to(monkeypatch, gone.getsockname()[1], listener.getsockname()[1])
        gone.close()
        dial("host", 80, 120, lambda: False).close()


def test_a_host_none_of_whose_addresses_answers_is_a_failure_in_time(
    deaf_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving_to(monkeypatch, deaf_port, deaf_port)
    with pytest.raises(RequestTimeout):
        dial("host", 80, 0.5, lambda: False)
    with pytest.raises(ConnectionFailed, match="given up"):
        dial("host", 80, 10, lambda: True)


def test_a_proxy_in_the_environment_is_left_to_httpx(monkeypatch: pytest.MonkeyPatch, limits: TransferSettings) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "localhost")
    links = ("http://origin/a", "http://localhost/a", "https://origin/a")
    assert [proxy_for(link) for link in links] == ["http://127.0.0.1:9", None, None]
    assert isinstance(Pool().take("http://origin/a", limits), HttpxLine)


# --- TLS -------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    key, made = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(made)]
    subprocess.run(["openssl", "req", *words], check=True, capture_output=True)
    return made, key


@pytest.fixture
def over_tls(certificate: tuple[Path, Path]) -> Iterator[int]:
    """A server that answers one question after the other with 100 000 bytes, and one in three with too few."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(plain, server_side=True) as connection:
                    for number in range(3):
                        if not connection.recv(65536):
                            break
                        head = OK + b"Content-Length: 100000\r\n\r\n"
                        connection.sendall(head + b"x" * (100_000 if number < 2 else 60_000))
            except OSError:
                plain.close()

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_a_certificate_that_nobody_vouches_for_is_refused(over_tls: int, line: Line) -> None:
    with pytest.raises(ConnectionFailed, match="certificate"):
        line.ask(f"https://127.0.0.1:{over_tls}/a", {})


def test_bodies_come_whole_over_tls_on_one_connection_and_a_cut_is_noticed(
    over_tls: int, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, limits: TransferSettings
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    tls_context.cache_clear()
    line = SocketLine(limits)
    buffer = memoryview(bytearray(1_000_000))
    for _ in range(2):
        reply, taken = line.ask(f"https://127.0.0.1:{over_tls}/a", {}), 0
        while count := reply.readinto(buffer):
            taken += count
        assert (taken, line.reusable) == (100_000, True)
    reply = line.ask(f"https://127.0.0.1:{over_tls}/a", {})
    with pytest.raises((TruncatedBody, ConnectionFailed)):
        while reply.readinto(buffer):
            pass
    line.close()
    tls_context.cache_clear()

"""An origin whose every answer a test writes byte by byte, for faults that no story of `tests.support.origin` tells."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Self

import anyio

from tidegate.model import Identity
from tidegate.transfer.file.exchange import Exchange

Script = Callable[[dict[str, str]], Iterator[bytes]]
"""Takes the headers of a request, names in lower case; gives the answer, head and all."""


class Scripted:
    """Serves one request for each connection, on a thread of its own, and keeps the headers that it saw."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.seen: list[dict[str, str]] = []

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/{name}"

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        asked = b""
        while b"\r\n\r\n" not in asked:
            more = connection.recv(65536)
            if not more:
                return
            asked += more
        lines = asked.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        self.seen.append(headers)
        for block in self._script(headers):
            connection.sendall(block)


def head(status: int, headers: dict[str, str]) -> bytes:
    """Status line and headers."""
    lines = [f"HTTP/1.1 {status} Told", *(f"{name}: {value}" for name, value in headers.items()), "Connection: close"]
    return "\r\n".join([*lines, "", ""]).encode()


def part_of(
    whole: bytes, asked: dict[str, str], headers: dict[str, str] | None = None, most: int | None = None
) -> bytes:
    """The answer to a range, or to none; after `most` bytes of the body it breaks off."""
    told = headers or {}
    if "range" not in asked:
        return head(200, {**told, "Content-Length": str(len(whole))}) + whole[:most]
    first, _, last = asked["range"].removeprefix("bytes=").partition("-")
    begin, end = int(first), min(int(last) + 1 if last else len(whole), len(whole))
    told = {**told, "Content-Range": f"bytes {begin}-{end - 1}/{len(whole)}", "Content-Length": str(end - begin)}
    return head(206, told) + whole[begin:end][:most]


def identified(exchange: Exchange) -> Identity:
    """What the source says it is."""
    return anyio.run(exchange.identify)


def read_from(
    exchange: Exchange,
    start: int,
    expected: Identity,
    *,
    conditional: bool = True,
    between: Callable[[], object] = lambda: None,
) -> bytes:
    """All bytes of the source from `start` on; something may happen after the first block."""

    async def run() -> bytes:
        taken, buffer = bytearray(), memoryview(bytearray(1024 * 1024))
        async with exchange.open(start, None, expected, conditional=conditional) as body:
            while count := body.readinto(buffer):
                if not taken:
                    between()
                taken += buffer[:count]
        return bytes(taken)

    return anyio.run(run)

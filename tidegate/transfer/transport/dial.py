"""A TCP connection to a host by whichever of its addresses answers first (RFC 8305, without its finer points).

The socket transport calls it from a worker thread. A host whose IPv6 leads nowhere costs a quarter of a second, not a
timeout. It leaves no socket behind but the one that it returns.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import time
from collections.abc import Callable

from tidegate.errors import ConnectionFailed, RequestTimeout

STAGGER_SECONDS = 0.25
"""How long an address is waited for before the next one is tried beside it."""
SLICE_SECONDS = 0.1
"""How soon a wait for a connection notices that it was given up: a socket in mid-connect cannot be woken everywhere."""

Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]


def dial(host: str, port: int, seconds: float, given_up: Callable[[], bool]) -> socket.socket:
    """A connected socket that does not block.

    Raises:
        ConnectionFailed: no address, or none that takes connections, or `given_up`.
        RequestTimeout: none answered in `seconds`.
    """
    until = time.monotonic() + seconds
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the name is not valid"
        raise ConnectionFailed(f"No connection to {host}: {reason}") from error
    race = _Race(in_turn([(family, address) for family, _, _, _, address in found]))
    try:
        return race.won(host, until, given_up)
    finally:
        race.close()


def in_turn(addresses: list[Address]) -> list[Address]:
    """Families alternate, in the resolver's order."""
    first = addresses[0][0]
    mine = [one for one in addresses if one[0] == first]
    others = [one for one in addresses if one[0] != first]
    return [one for pair in itertools.zip_longest(mine, others) for one in pair if one is not None]


class _Race:
    """Connections under way."""

    def __init__(self, addresses: list[Address]) -> None:
        self._waiting = addresses
        self._running: dict[int, socket.socket] = {}
        self._poll = select.poll()
        self._error: OSError | None = None

    def won(self, host: str, until: float, given_up: Callable[[], bool]) -> socket.socket:
        next_start = 0.0
        while True:
            now = time.monotonic()
            if given_up():
                raise ConnectionFailed(f"The connection to {host} was given up")
            if now >= until:
                raise RequestTimeout(f"No connection to {host} in time")
            if self._waiting and (now >= next_start or not self._running):
                self._start(*self._waiting.pop(0))
                next_start = now + STAGGER_SECONDS
                continue
            if not self._running:
                detail = self._error.strerror if self._error else "no address"
                raise ConnectionFailed(f"No connection to {host}: {detail}") from self._error
            if winner := self._look(min(until - now, SLICE_SECONDS)):
                return winner

    def close(self) -> None:
        for loser in self._running.values():
            loser.close()

    def _start(
        self, family: socket.AddressFamily, address: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
    ) -> None:
        made: socket.socket | None = None
        try:
            made = socket.socket(family, socket.SOCK_STREAM)
            made.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                made.connect(address)
        except OSError as error:
            self._error = error
            if made is not None:
                made.close()
            return
        self._running[made.fileno()] = made
        self._poll.register(made, select.POLLOUT)

    def _look(self, seconds: float) -> socket.socket | None:
        for number, _ in self._poll.poll(seconds * 1000):
            tried = self._running.pop(number)
            self._poll.unregister(number)
            if not (code := tried.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                return tried
            self._error = OSError(code, os.strerror(code))
            tried.close()
        return None

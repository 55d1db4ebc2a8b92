"""Connections that are kept for the next request to the same origin.

Conversations take a line before they ask and give it back after they have read. A pool lives as long as the gates of
its run, which also say how many connections there may be and which addresses they may lead to: what was connected to
under one policy never serves a run with another. Nothing in it is worth keeping over a crash.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary, finalize

from tidegate.addresses import OPEN_POLICY, AddressPolicy
from tidegate.settings import TransferSettings
from tidegate.transfer.gates.gates import Gates, origin_of
from tidegate.transfer.transport.base import Line
from tidegate.transfer.transport.environment import proxy_for
from tidegate.transfer.transport.sockets import SocketLine
from tidegate.transfer.transport.through_httpx import HttpxLine

KEPT_SECONDS = 15.0
"""How long a connection is kept: many origins close theirs soon after, and a request into a closing one is lost."""


@dataclass(frozen=True)
class _Idle:
    origin: str
    line: SocketLine
    since: float


class Pool:
    """The kept connections of one run."""

    def __init__(
        self, kept: int = 10, clock: Callable[[], float] = time.monotonic, addresses: AddressPolicy = OPEN_POLICY
    ) -> None:
        self._kept = kept
        self._clock = clock
        self._addresses = addresses
        self._lock = threading.Lock()
        self._idle: list[_Idle] = []

    def take(self, url: str, limits: TransferSettings) -> Line:
        """A line to the origin of `url`: one that was kept, or a new one, which connects when it is used."""
        if limits.transport == "httpx" or proxy_for(url) is not None:
            return HttpxLine(limits, self._addresses)
        origin, line = origin_of(url), None
        with self._lock:
            for idle in [one for one in reversed(self._idle) if one.origin == origin]:
                self._idle.remove(idle)
                if line is None and self._clock() - idle.since < KEPT_SECONDS and idle.line.quiet:
                    line = idle.line
                    break
                idle.line.close()
        return line or SocketLine(limits, self._addresses)

    def give_back(self, url: str, line: Line) -> None:
        """Keep the line if it is good for another request, else end it."""
        if not (isinstance(line, SocketLine) and line.reusable):
            line.close()
            return
        with self._lock:
            self._idle.append(_Idle(origin_of(url), line, self._clock()))
            while len(self._idle) > self._kept:
                self._idle.pop(0).line.close()

    def close(self) -> None:
        """End every kept connection."""
        with self._lock:
            while self._idle:
                self._idle.pop().line.close()


def pool_of(gates: Gates) -> Pool:
    """The connections of the run that these gates belong to; they end with it."""
    with _lock:
        if gates not in _pools:
            _pools[gates] = Pool(gates.limits.kept_connections, addresses=gates.addresses)
            finalize(gates, _pools[gates].close)
        return _pools[gates]


_pools: WeakKeyDictionary[Gates, Pool] = WeakKeyDictionary()
_lock = threading.Lock()

"""A TCP connection to a host by whichever of its addresses answers first (RFC 8305, without its finer points).

Both transports and the proxy for tools come here, from worker threads, and here alone it is decided whether an address
may be connected to: a name is looked up once, every address that it leads to is judged, and the connection goes to one
that was judged. So it does not matter how an address was written, where a redirect came from, or what the name leads
to a moment later. Of a name with several addresses only those are left out that are refused: a rebinding name that
mixes good and bad ones gains nothing by it, and a host with one useless address is still reached.

A host whose IPv6 leads nowhere costs a quarter of a second, not a timeout. It leaves no socket behind but the one that
it returns.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import time
from collections.abc import Callable

from tidegate.addresses import OPEN_POLICY, AddressPolicy, literal_of
from tidegate.errors import AddressRefused, ConnectionFailed, Evidence, RequestTimeout

STAGGER_SECONDS = 0.25
"""How long an address is waited for before the next one is tried beside it."""
SLICE_SECONDS = 0.1
"""How soon a wait for a connection notices that it was given up: a socket in mid-connect cannot be woken everywhere."""

Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]


def dial(
    host: str, port: int, seconds: float, given_up: Callable[[], bool], policy: AddressPolicy = OPEN_POLICY
) -> socket.socket:
    """A connected socket that does not block.

    Raises:
        AddressRefused: every address is one that must not be reached. Nothing was sent to any.
        ConnectionFailed: no address, or none that takes connections, or `given_up`.
        RequestTimeout: none answered in `seconds`.
    """
    until = time.monotonic() + seconds
    return connect(look_up(host, port, policy), host, until, given_up)


def look_up(host: str, port: int, policy: AddressPolicy) -> list[Address]:
    """The addresses of a host that may be connected to, at least one.

    Raises:
        AddressRefused: there are only others.
        ConnectionFailed: there are none.
    """
    if (rule := policy.rule_against_name(host, port)) is not None and literal_of(host) is None:
        raise _address_refusal(host, port, rule, policy)
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the name is not valid"
        raise ConnectionFailed(f"No connection to {host}: {reason}") from error
    rules = [policy.rule_against(host, port, str(address[0])) for _, _, _, _, address in answers]
    addresses: list[Address] = [(one[0], one[4]) for one, rule in zip(answers, rules, strict=True) if rule is None]
    if not addresses and answers:
        assert rules[0] is not None  # noqa: S101  # else it were among the addresses
        raise _address_refusal(host, port, rules[0], policy, str(answers[0][4][0]))
    return addresses


def require_for_proxy(host: str, port: int, policy: AddressPolicy) -> None:
    """Judge a host that a proxy of the operator's will look up and connect to.

    The proxy is the operator's own, and may lie anywhere. What it will find is not known here, so the host is looked up
    here too. Where that gives nothing, as in networks whose names only the proxy knows, an address or a name that
    means something in one network only is refused, and everything else is left to the proxy and its own rules.

    Raises:
        AddressRefused: it must not be reached.
    """
    if policy.name == "open":
        return
    try:
        look_up(host, port, policy)
    except ConnectionFailed:
        literal = literal_of(host)
        rule = (
            policy.rule_against(host, port, str(literal)) if literal else policy.rule_against_name_by_proxy(host, port)
        )
        if rule is not None:
            raise _address_refusal(host, port, rule, policy) from None


def _address_refusal(
    host: str, port: int, rule: str, policy: AddressPolicy, address: str | None = None
) -> AddressRefused:
    """Says which rule, and neither the address behind a name nor whether anybody listens there."""
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return AddressRefused(
        f"No connection is made to {shown}: {rule} (TIDEGATE_NETWORK_POLICY={policy.name})",
        hint=policy.cure(host, port, address),
        evidence=Evidence(notes={"refused": shown, "rule": rule, "policy": policy.name}),
    )


def connect(addresses: list[Address], host: str, until: float, given_up: Callable[[], bool]) -> socket.socket:
    """A connection to the first of these addresses that takes one.

    Raises:
        ConnectionFailed, RequestTimeout: see `dial`.
    """
    race = _Race(in_turn(addresses))
    try:
        return race.run(host, until, given_up)
    finally:
        race.close()


def in_turn(addresses: list[Address]) -> list[Address]:
    """Families alternate, in the resolver's order."""
    if not addresses:
        return []
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

    def run(self, host: str, until: float, given_up: Callable[[], bool]) -> socket.socket:
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
        candidate: socket.socket | None = None
        try:
            candidate = socket.socket(family, socket.SOCK_STREAM)
            candidate.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                candidate.connect(address)
        except OSError as error:
            self._error = error
            if candidate is not None:
                candidate.close()
            return
        self._running[candidate.fileno()] = candidate
        self._poll.register(candidate, select.POLLOUT)

    def _look(self, seconds: float) -> socket.socket | None:
        for number, _ in self._poll.poll(seconds * 1000):
            tried = self._running.pop(number)
            self._poll.unregister(number)
            if not (code := tried.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                return tried
            self._error = OSError(code, os.strerror(code))
            tried.close()
        return None

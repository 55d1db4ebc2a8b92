"""Which addresses a source may lie at: the special ones of the Internet, what an operator has listed, the judgement.

`transfer.transport.dial` asks it for every address before it connects, the settings have it read what is listed. Pure:
it looks nothing up, connects to nothing, and holds nothing that a crash could lose.

The table is our own. Python's `ipaddress.is_global` has changed between patch versions (python/cpython#113171), and it
takes addresses that carry an IPv4 address inside for public ones. Sources, as of 2026: the IANA IPv4 and IPv6
Special-Purpose Address Registries (RFC 6890 and those that extend it), IANA's list of global unicast addresses, and
what clouds say of the services that they put beside each machine.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal

PolicyName = Literal["open", "public", "allow-list"]
IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

MOST_ENTRIES = 1000
"""Entries of a list; each is compared with each new connection's addresses."""

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""The last part of an IPv4 address in any of its forms; no name ends so."""
_LOCAL_ENDS = frozenset(
    {"localhost", "local", "localdomain", "internal", "intranet", "private", "corp", "home", "lan", "arpa", "test"}
)
"""Top names that mean something in one network only (RFC 6761, 6762, 8375, 9476, ICANN's reserved ones)."""


@dataclass(frozen=True)
class Special:
    """A block of addresses where no public source lies."""

    network: IPNetwork
    what: str
    own: bool = False
    """Whether people have machines of their own there: a name that is listed may lead to them."""


def _v4(network: str, what: str, *, own: bool = False) -> Special:
    return Special(IPv4Network(network), what, own)


def _v6(network: str, what: str, *, own: bool = False) -> Special:
    return Special(IPv6Network(network), what, own)


SPECIAL_V4: tuple[Special, ...] = (
    _v4("169.254.169.254/32", "the metadata service of a cloud"),
    _v4("169.254.170.2/32", "the metadata service of a cloud"),
    _v4("100.100.100.200/32", "the metadata service of a cloud"),
    _v4("168.63.129.16/32", "the metadata service of a cloud"),
    _v4("192.0.0.192/32", "the metadata service of a cloud"),
    _v4("0.0.0.0/8", "an address of this host on this network (RFC 791)"),
    _v4("10.0.0.0/8", "a private network (RFC 1918)", own=True),
    _v4("100.64.0.0/10", "a provider's shared network (RFC 6598)", own=True),
    _v4("127.0.0.0/8", "loopback, this machine itself (RFC 1122)", own=True),
    _v4("169.254.0.0/16", "link-local (RFC 3927)"),
    _v4("172.16.0.0/12", "a private network (RFC 1918)", own=True),
    _v4("192.0.0.0/24", "reserved for protocols (RFC 6890)"),
    _v4("192.0.2.0/24", "for documentation (RFC 5737)"),
    _v4("192.88.99.0/24", "a relay of 6to4, which is given up (RFC 7526)"),
    _v4("192.168.0.0/16", "a private network (RFC 1918)", own=True),
    _v4("198.18.0.0/15", "for benchmarks (RFC 2544)"),
    _v4("198.51.100.0/24", "for documentation (RFC 5737)"),
    _v4("203.0.113.0/24", "for documentation (RFC 5737)"),
    _v4("224.0.0.0/4", "multicast (RFC 5771)"),
    _v4("255.255.255.255/32", "broadcast (RFC 919)"),
    _v4("240.0.0.0/4", "reserved (RFC 1112)"),
)
"""The first that fits counts."""

SPECIAL_V6: tuple[Special, ...] = (
    _v6("fd00:ec2::254/128", "the metadata service of a cloud"),
    _v6("fd20:ce::254/128", "the metadata service of a cloud"),
    _v6("::1/128", "loopback, this machine itself (RFC 4291)", own=True),
    _v6("::/128", "the unspecified address (RFC 4291)"),
    _v6("::/96", "IPv4-compatible, which is given up (RFC 4291)"),
    _v6("64:ff9b:1::/48", "a local translation to IPv4 (RFC 8215)"),
    _v6("100::/64", "discard-only (RFC 6666)"),
    _v6("2001::/32", "Teredo, which hides an IPv4 address (RFC 4380)"),
    _v6("2001:db8::/32", "for documentation (RFC 3849)"),
    _v6("2001::/23", "reserved for protocols (RFC 2928)"),
    _v6("2002::/16", "6to4, which hides an IPv4 address (RFC 3056)"),
    _v6("3fff::/20", "for documentation (RFC 9637)"),
    _v6("fc00::/7", "a private network (RFC 4193)", own=True),
    _v6("fe80::/10", "link-local (RFC 4291)"),
    _v6("fec0::/10", "site-local, which is given up (RFC 3879)"),
    _v6("ff00::/8", "multicast (RFC 4291)"),
)
GLOBAL_V6 = IPv6Network("2000::/3")
"""All that IANA has given out of IPv6; what lies outside and is no NAT64 is nobody's public address."""
NAT64 = IPv6Network("64:ff9b::/96")
"""How networks without IPv4 reach it: its last four bytes are the address that is meant (RFC 6052)."""
UNASSIGNED = Special(IPv6Network("::/0"), "outside of what IANA has given out (2000::/3)")


def special_of(address: IPAddress) -> Special | None:
    """The block of special addresses that it lies in; None: it is a public one."""
    if isinstance(address, IPv4Address):
        return _first(SPECIAL_V4, address)
    if address.ipv4_mapped is not None:  # the kernel sends it over IPv4
        return _first(SPECIAL_V4, address.ipv4_mapped)
    if address in NAT64:
        hidden = _first(SPECIAL_V4, IPv4Address(address.packed[-4:]))
        return Special(NAT64, f"a translation (RFC 6052) to {hidden.what}") if hidden else None
    return _first(SPECIAL_V6, address) or (None if address in GLOBAL_V6 else UNASSIGNED)


def _first(table: Iterable[Special], address: IPAddress) -> Special | None:
    return next((one for one in table if address in one.network), None)


def read_address(text: str) -> IPAddress | None:
    """An address as resolvers give it, in its own family: without its zone, and IPv4 where IPv6 only wraps it."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def literal_of(host: str) -> IPAddress | None:
    """The address that a host in a link is, in whatever form (`127.1`, `0x7f000001`, `2130706433`); None: a name.

    `inet_aton` reads what the system's resolver reads, and asks nobody.
    """
    address = read_address(host.strip("[]"))
    if address is None and _NUMBER.fullmatch(host.lower().rpartition(".")[2]):
        try:
            return IPv4Address(socket.inet_aton(host))
        except (OSError, UnicodeError):
            return None
    return address


@dataclass(frozen=True)
class Entry:
    """One entry of the list: an address or a network, or a name; at one port or at any."""

    network: IPNetwork | None = None
    name: str = ""
    """In lower case; `.example.org` stands for all names below example.org."""
    port: int | None = None

    def lists_address(self, address: IPAddress, port: int) -> bool:
        return self.network is not None and self.port in (None, port) and address in self.network

    def lists_name(self, name: str, port: int) -> bool:
        if not self.name or self.port not in (None, port):
            return False
        return name.endswith(self.name) if self.name.startswith(".") else name == self.name


def read_entries(text: str) -> tuple[Entry, ...]:
    """`HOST, HOST:PORT, *.domain, 10.0.0.0/8, 10.0.0.0/8:8080, [fd00::/8]:8080`, separated by commas.

    Raises:
        ValueError: one of them is none of these; its text says which.
    """
    entries = tuple(_entry(part.strip()) for part in text.split(",") if part.strip())
    if len(entries) > MOST_ENTRIES:
        raise ValueError(f"there are {len(entries)} entries, and at most {MOST_ENTRIES} may be")
    return entries


def _entry(text: str) -> Entry:
    host, port = _split(text)
    try:
        network = ip_network(host)
    except ValueError as error:
        if "/" in host or ":" in host or literal_of(host) is not None:
            raise ValueError(f"{text!r} is no address or network: {error}") from None
        return Entry(name=_name(host, text), port=port)
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError(f"{text!r} wraps an IPv4 network; give that one")
    return Entry(network=network, port=port)


def _split(text: str) -> tuple[str, int | None]:
    """Host, or network, and port."""
    bracketed = re.fullmatch(r"\[([^\[\]]*)\](?::([0-9]+))?", text)
    plain = re.fullmatch(r"([^:/]*|[^/]*/[0-9]+)(?::([0-9]+))?", text)
    match = bracketed or plain
    if match is None:  # IPv6 without brackets, which cannot have a port
        return text, None
    port = int(match[2]) if match[2] else None
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"{text!r} has a port that cannot be")
    return match[1], port


def _name(host: str, text: str) -> str:
    below = host.startswith("*.")
    try:
        name = plain_name(host.removeprefix("*.").encode("idna").decode("ascii"))
    except UnicodeError:
        name = ""
    labels = name.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels) or _NUMBER.fullmatch(labels[-1]):
        raise ValueError(f"{text!r} is no host, *.domain, address or network, with or without a port")
    return f".{name}" if below else name


def plain_name(host: str) -> str:
    """A name as names are compared."""
    return host.lower().removesuffix(".")


@dataclass(frozen=True)
class AddressPolicy:
    """Where connections may lead to. `open`: anywhere; `public`: public addresses, and what is listed; `allow-list`:
    only what is listed."""

    name: PolicyName = "open"
    entries: tuple[Entry, ...] = ()

    def rule_against(self, host: str, port: int, address: str) -> str | None:
        """Why no connection may be made to this address, which `host` leads to; None: it may.

        A name that is listed is trusted to lead to public addresses and to people's own networks, loopback among
        them. To metadata services, link-local addresses and the like only a listed address leads.
        """
        if self.name == "open":
            return None
        judged = read_address(address)
        if judged is None:
            return "it is no address of the Internet"
        if any(entry.lists_address(judged, port) for entry in self.entries):
            return None
        special = special_of(judged)
        if self._lists_name(host, port):
            return None if special is None or special.own else f"it is {special.what}"
        if self.name == "allow-list":
            return _UNLISTED
        return f"it is {special.what}" if special else None

    def rule_against_name(self, host: str, port: int) -> str | None:
        """Why a name need not even be looked up: nothing that it could lead to is listed. A lookup tells the name's
        owner something, too."""
        if self.name != "allow-list" or self._lists_name(host, port):
            return None
        return None if any(entry.network and entry.port in (None, port) for entry in self.entries) else _UNLISTED

    def rule_against_name_by_proxy(self, host: str, port: int) -> str | None:
        """What can be said of a name that only a proxy can look up: whether it is listed, and whether it means
        something in one network only."""
        if self.name == "open" or self._lists_name(host, port):
            return None
        if self.name == "allow-list":
            return _UNLISTED
        name = plain_name(host)
        local = "." not in name or name.rpartition(".")[2] in _LOCAL_ENDS
        return "its name means something in one network only" if local else None

    def cure(self, host: str, port: int, address: str | None = None) -> str:
        """The line by which an operator allows it, whole."""
        literal = literal_of(host)
        special = special_of(a) if address is not None and (a := read_address(address)) is not None else None
        if literal is None and special is not None and not special.own:
            return "list its address or network in TIDEGATE_NETWORK_ALLOW, should it be meant"
        shown = f"[{literal}]" if isinstance(literal, IPv6Address) else str(literal or plain_name(host))
        who = f"whoever runs this Tidegate can, {_WHERE_SET},"
        if self.entries:  # what is listed already is not shown: it names hosts inside
            return f"{who} add {shown}:{port} to TIDEGATE_NETWORK_ALLOW"
        return f"{who} allow it by one line: TIDEGATE_NETWORK_ALLOW={shown}:{port}"

    def _lists_name(self, host: str, port: int) -> bool:
        return any(entry.lists_name(plain_name(host), port) for entry in self._names)

    @cached_property
    def _names(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.name)


_WHERE_SET = "where make serve, the worker or this command is started (start it again then)"
_UNLISTED = "it is not listed in TIDEGATE_NETWORK_ALLOW"
OPEN_POLICY = AddressPolicy()

"""Which addresses may be reached, by table: the special ones in every spelling, and what an operator lists."""

from __future__ import annotations

import ipaddress

import pytest

from tidegate.addresses import (
    SPECIAL_V4,
    SPECIAL_V6,
    AddressPolicy,
    literal_of,
    read_address,
    read_entries,
    special_of,
)

PUBLIC = AddressPolicy("public")

REFUSED = {
    # IPv4: the first and the last of each block
    "0.0.0.0": "of this host",
    "0.255.255.255": "of this host",
    "10.0.0.0": "private network",
    "10.255.255.255": "private network",
    "100.64.0.0": "shared network",
    "100.127.255.255": "shared network",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "169.254.0.1": "link-local",
    "169.254.169.253": "link-local",
    "172.16.0.1": "private network",
    "172.31.255.255": "private network",
    "192.0.0.1": "reserved for protocols",
    "192.0.2.1": "documentation",
    "192.88.99.1": "6to4",
    "192.168.0.1": "private network",
    "192.168.255.255": "private network",
    "198.18.0.1": "benchmarks",
    "198.19.255.255": "benchmarks",
    "198.51.100.1": "documentation",
    "203.0.113.255": "documentation",
    "224.0.0.1": "multicast",
    "239.255.255.255": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "broadcast",
    # what clouds put beside each machine
    "169.254.169.254": "metadata",
    "169.254.170.2": "metadata",
    "100.100.100.200": "metadata",
    "168.63.129.16": "metadata",
    "192.0.0.192": "metadata",
    "fd00:ec2::254": "metadata",
    # IPv6
    "::": "unspecified",
    "::1": "loopback",
    "::127.0.0.1": "IPv4-compatible",
    "::8.8.8.8": "IPv4-compatible",
    "64:ff9b:1::1": "local translation",
    "64:ff9b:1:ffff::10.0.0.1": "local translation",
    "100::1": "discard-only",
    "100:0:0:1::1": "outside of what IANA",
    "2001::1": "Teredo",
    "2001:0:53aa:64c:0:7a7e:80ff:fffe": "Teredo",
    "2001:2::1": "reserved for protocols",
    "2001:10::1": "reserved for protocols",
    "2001:db8::1": "documentation",
    "2002:7f00:1::1": "6to4",
    "2002:808:808::1": "6to4",
    "3fff::1": "documentation",
    "5f00::1": "outside of what IANA",
    "4000::1": "outside of what IANA",
    "fc00::1": "private network",
    "fdff:ffff::1": "private network",
    "fe80::1": "link-local",
    "fe80::1%lo": "link-local",
    "febf::1": "link-local",
    "fec0::1": "site-local",
    "ff02::1": "multicast",
    # IPv4 inside of IPv6 is judged as what it is
    "::ffff:127.0.0.1": "loopback",
    "::ffff:7f00:1": "loopback",
    "::ffff:169.254.169.254": "metadata",
    "::ffff:10.1.2.3": "private network",
    "::ffff:0:10.1.2.3": "outside of what IANA",
    "64:ff9b::127.0.0.1": "loopback",
    "64:ff9b::a9fe:a9fe": "metadata",
    "64:ff9b::192.168.1.1": "private network",
    # not an address at all
    "": "no address",
    "nonsense": "no address",
}

REACHED = [
    *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255"),
    *("128.0.0.0", "168.63.129.15", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0"),
    *(
        "192.88.98.1",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "203.0.114.0",
        "223.255.255.255",
    ),
    *("2000::1", "2001:200::1", "2001:4860:4860::8888", "2003::1", "2606:4700::1111", "3ffe::1", "3fff:1000::1"),
    *("::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2620:4f:8000::1", "2a00:1450::1"),
]


@pytest.mark.parametrize("address", REFUSED)
def test_a_special_address_is_refused_and_it_is_said_what_it_is(address: str) -> None:
    rule = PUBLIC.rule_against("host.example.org", 443, address)
    assert rule is not None and REFUSED[address] in rule
    assert AddressPolicy("open").rule_against("host.example.org", 443, address) is None
    assert AddressPolicy("allow-list").rule_against("host.example.org", 443, address) is not None


@pytest.mark.parametrize("address", REACHED)
def test_a_public_address_is_reached(address: str) -> None:
    assert PUBLIC.rule_against("host.example.org", 443, address) is None


def test_whatever_this_python_calls_private_or_reserved_is_refused_too() -> None:
    """Its own table is older or newer than ours; what is not global for it and public for us is listed here."""
    known = {"192.88.99.0", "2001:1::1", "2001:1::2", "2001:3::", "2001:4:112::", "2001:20::", "2001:30::"}
    networks = [special.network for special in (*SPECIAL_V4, *SPECIAL_V6)]
    for network in networks:
        for address in (network[0], network[-1]):
            if not address.is_global and str(address) not in known:
                assert special_of(address) is not None, address


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.1", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("0177.0.0.01", "127.0.0.1"),
        ("0", "0.0.0.0"),
        ("192.168.257", "192.168.1.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("localhost", None),
        ("127.0.0.1.example.org", None),
        ("1.example", None),
        ("99999999999", None),
    ],
)
def test_an_address_is_known_as_one_in_every_form(host: str, address: str | None) -> None:
    found = literal_of(host)
    assert found == (None if address is None else ipaddress.ip_address(address))


def listing(text: str, name: str = "public") -> AddressPolicy:
    return AddressPolicy(name, read_entries(text))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "host", "port", "address", "reached"),
    [
        ("192.168.1.20:8080", "192.168.1.20", 8080, "192.168.1.20", True),
        ("192.168.1.20:8080", "nas.lan", 8080, "192.168.1.20", True),
        ("192.168.1.20:8080", "192.168.1.20", 8081, "192.168.1.20", False),
        ("192.168.1.20", "192.168.1.20", 1, "192.168.1.20", True),
        ("192.168.1.0/24", "nas.lan", 80, "192.168.1.7", True),
        ("192.168.1.0/24:8080", "nas.lan", 80, "192.168.1.7", False),
        ("192.168.1.0/24:8080", "nas.lan", 8080, "192.168.1.7", True),
        ("192.168.1.0/24", "nas.lan", 80, "::ffff:192.168.1.7", True),
        ("127.0.0.1", "host", 80, "::1", False),
        ("::1", "host", 80, "::1", True),
        ("[::1]:80", "host", 80, "::1", True),
        ("[::1]:80", "host", 81, "::1", False),
        ("fd00::/8", "host", 80, "fd12::1", True),
        ("[fd00::/8]:80", "host", 443, "fd12::1", False),
        ("nas.lan", "nas.lan", 80, "192.168.1.7", True),
        ("NAS.lan.", "nas.LAN", 80, "192.168.1.7", True),
        ("nas.lan:8080", "nas.lan", 80, "192.168.1.7", False),
        ("nas.lan", "evil-nas.lan", 80, "192.168.1.7", False),
        ("nas.lan", "nas.lan.example.org", 80, "192.168.1.7", False),
        ("*.lan", "nas.lan", 80, "192.168.1.7", True),
        ("*.lan", "a.b.lan", 80, "127.0.0.1", True),
        ("*.lan", "lan", 80, "192.168.1.7", False),
        ("*.lan", "evil-lan", 80, "192.168.1.7", False),
        ("bücher.example", "xn--bcher-kva.example", 80, "10.0.0.1", True),
        # a name leads to people's own networks, and never to a cloud's metadata or to whatever is link-local
        ("nas.lan", "nas.lan", 80, "169.254.169.254", False),
        ("nas.lan", "nas.lan", 80, "fe80::1", False),
        ("nas.lan", "nas.lan", 80, "0.0.0.0", False),
        ("169.254.169.254", "nas.lan", 80, "169.254.169.254", True),
        ("a, b ,,192.168.1.7,", "nas.lan", 80, "192.168.1.7", True),
    ],
)
def test_what_is_listed_is_reached_and_nothing_beside_it(
    text: str, host: str, port: int, address: str, reached: bool
) -> None:
    for name in ("public", "allow-list"):
        assert (listing(text, name).rule_against(host, port, address) is None) is reached


def test_an_allow_list_reaches_only_what_it_lists() -> None:
    only = listing("*.cdn.example,198.51.100.0/24", "allow-list")
    assert only.rule_against("a.cdn.example", 443, "8.8.8.8") is None
    assert only.rule_against("other.example", 443, "198.51.100.9") is None
    assert "not listed" in (only.rule_against("other.example", 443, "8.8.8.8") or "")


def test_a_name_is_not_even_looked_up_where_no_address_is_listed() -> None:
    names = listing("*.cdn.example", "allow-list")
    assert names.rule_against_name("secret-in-a-name.evil.example", 443) is not None
    assert names.rule_against_name("a.cdn.example", 443) is None
    assert listing("10.0.0.0/8", "allow-list").rule_against_name("any.example", 443) is None
    assert PUBLIC.rule_against_name("any.example", 443) is None


@pytest.mark.parametrize(
    ("host", "refused"),
    [
        *(
            (host, True)
            for host in ("localhost", "router", "nas.lan", "a.internal", "x.home.arpa", "db.corp", "a.local")
        ),
        *((host, False) for host in ("example.org", "localhost.example.org", "lan.example", "nas.lan:listed")),
    ],
)
def test_a_name_that_only_a_proxy_knows_is_judged_by_its_form(host: str, refused: bool) -> None:
    host, _, listed = host.partition(":")
    policy = listing(host) if listed else PUBLIC
    assert (policy.rule_against_name_by_proxy(host, 443) is not None) is refused
    assert listing("a.example", "allow-list").rule_against_name_by_proxy(host, 443) is not None


@pytest.mark.parametrize(
    "text",
    [
        *("*", "*.", ".lan", "a b", "http://nas.lan", "nas.lan/path", "user@nas.lan", "nas.lan:0", "nas.lan:65536"),
        *("nas.lan:http", "192.168.1.20/24", "192.168.1.0/33", "2130706433", "0x7f.1", "127.1", "256.1.1.1"),
        *("[::1", "[::1]80", "::1]:80", "[nas.lan", "fe80::1%eth0/64", "::ffff:10.0.0.0/104", "a..b", "-a.lan", "*.1"),
        *("a.*.lan", "nas.lan;10.0.0.1", ",".join(["10.0.0.1"] * 1001)),
    ],
)
def test_an_entry_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        read_entries(f"10.0.0.1,{text}")


@pytest.mark.parametrize(
    ("host", "address", "line"),
    [
        ("192.168.1.20", "192.168.1.20", "TIDEGATE_NETWORK_ALLOW=192.168.1.20:8080"),
        ("NAS.lan", "192.168.1.20", "TIDEGATE_NETWORK_ALLOW=nas.lan:8080"),
        ("2130706433", "127.0.0.1", "TIDEGATE_NETWORK_ALLOW=127.0.0.1:8080"),
        ("::1", "::1", "TIDEGATE_NETWORK_ALLOW=[::1]:8080"),
        ("169.254.169.254", "169.254.169.254", "TIDEGATE_NETWORK_ALLOW=169.254.169.254:8080"),
    ],
)
def test_the_line_that_a_refusal_prints_is_the_one_that_helps(host: str, address: str, line: str) -> None:
    assert PUBLIC.cure(host, 8080, address).endswith(line)
    assert "where make serve, the worker or this command is started" in PUBLIC.cure(host, 8080, address)
    listed = listing(line.partition("=")[2])
    assert listed.rule_against(host, 8080, address) is None
    more = listed.cure("other.lan", 80, "10.0.0.1")
    assert more.endswith("add other.lan:80 to TIDEGATE_NETWORK_ALLOW") and "where make serve" in more


def test_no_line_is_printed_that_would_not_help() -> None:
    assert "=" not in PUBLIC.cure("rebinding.example", 80, "169.254.169.254")


def test_zones_and_wrappings_are_taken_off() -> None:
    assert read_address("fe80::1%eth0") == ipaddress.ip_address("fe80::1")
    assert read_address("::ffff:10.0.0.1") == ipaddress.ip_address("10.0.0.1")
    assert read_address("10.0.0.1, 8.8.8.8") is None

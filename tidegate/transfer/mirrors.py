"""The same file elsewhere: what origins say of its copies, when two files are proven to be one, and when a link is old.

`fetch_file` asks here when an origin does not deliver. Only `Elsewhere.found` asks the outside, for a Metalink; nothing
is kept over a crash.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit
from xml.etree import ElementTree

from tidegate.errors import TidegateError
from tidegate.model import Digest, Identity
from tidegate.transfer.answers import links
from tidegate.transfer.ask import Wanted, ask
from tidegate.transfer.outside import Outside
from tidegate.transfer.transport.base import Headers

METALINK_BYTES = 1024 * 1024
METALINK_TYPES = ("application/metalink4+xml", "application/metalink+xml")
MOST_MIRRORS = 8
"""How many copies are tried at most, however many are told."""

_HASHES = {"sha256": "sha256", "sha512": "sha512", "sha1": "sha1", "sha": "sha1", "md5": "md5"}
"""Types of hashes in a Metalink, without their hyphens, by hashlib's names."""
_EXPIRY = frozenset({"expires", "expire", "expiry", "exp", "e"})
_LEAST_EPOCH = 10**9
"""What is smaller is no point in time."""


@dataclass
class Elsewhere:
    """What the answers so far have told of copies."""

    duplicates: dict[str, int] = field(default_factory=dict)
    """Links, with the priority that the origin gives them: the lowest first."""
    metalinks: dict[str, None] = field(default_factory=dict)
    digests: frozenset[Digest] = frozenset()
    """What a Metalink says that the whole file must have."""

    def note(self, url: str, headers: Headers) -> None:
        """Take down what an answer tells in its `Link` headers (RFC 6249)."""
        for target, told in links(headers, url, "duplicate"):
            self.duplicates[target] = _priority(told.get("pri", ""))
        for target, told in links(headers, url, "describedby"):
            if told.get("type", "").lower() in METALINK_TYPES:
                self.metalinks[target] = None

    @property
    def named(self) -> tuple[str, ...]:
        """Links to copies that are known by now, best first."""
        return tuple(sorted(self.duplicates, key=lambda url: self.duplicates[url]))[:MOST_MIRRORS]

    async def found(self, outside: Outside, size_bytes: int | None) -> tuple[str, ...]:
        """The same, with those of a Metalink, which is asked for now, and whose digests are kept. One that cannot be
        had, or is about a file of another size, is no failure."""
        for url in list(self.metalinks)[:1]:
            with suppress(TidegateError):
                wanted = Wanted(url, most_bytes=METALINK_BYTES, what="metalink", decode=True)
                read = read_metalink((await ask(outside, wanted)).body)
                if size_bytes is None or read.size_bytes in (None, size_bytes):
                    self.duplicates |= read.urls
                    self.digests |= read.digests
        return self.named


@dataclass(frozen=True)
class Metalink:
    """What a Metalink says of its first file."""

    urls: dict[str, int] = field(default_factory=dict)
    """http(s) links, with their priorities."""
    digests: frozenset[Digest] = frozenset()
    size_bytes: int | None = None


def read_metalink(document: bytes) -> Metalink:
    """Read a Metalink (RFC 5854, and the version before it); nothing of what cannot be read."""
    if re.search(rb"<!(?:DOCTYPE|ENTITY)", document, re.IGNORECASE):
        return Metalink()  # nothing that a Metalink needs, and all that can be made to explode
    try:
        root = ElementTree.fromstring(document)  # noqa: S314  # without DOCTYPE and at most 1 MiB of it
    except ElementTree.ParseError:
        return Metalink()
    file = next(root.iterfind(".//{*}file"), None)
    if file is None:
        return Metalink()
    urls = [((one.text or "").strip(), one.get("priority", "")) for one in file.iterfind(".//{*}url")]
    hashes = [_hash(one.get("type", ""), (one.text or "").strip()) for one in file.iterfind(".//{*}hash")]
    size = (file.findtext("{*}size") or "").strip()
    return Metalink(
        {url: _priority(pri) for url, pri in urls if _is_http(url)},
        frozenset(filter(None, hashes)),
        int(size) if re.fullmatch(r"[0-9]{1,18}", size) else None,
    )


def _is_http(url: str) -> bool:
    with suppress(ValueError):  # no URL at all
        return urlsplit(url).scheme in ("http", "https")
    return False


def _hash(kind: str, value: str) -> Digest | None:
    """A hash of the whole file; those of its pieces carry no type."""
    name = _HASHES.get(kind.lower().replace("-", ""))
    fits = name is not None and re.fullmatch(rf"[0-9a-fA-F]{{{2 * hashlib.new(name).digest_size}}}", value)
    return f"{name}:{value.lower()}" if fits else None


def proven_same(source: Identity, other: Identity, promised: frozenset[Digest]) -> bool:
    """Whether bytes of both may go into one file: sizes agree, and a digest of the whole will show any difference."""
    if source.size_bytes is None or source.size_bytes != other.size_bytes:
        return False
    known = {digest.partition(":")[0]: digest for digest in (*source.digests, *promised)}
    theirs = {digest.partition(":")[0]: digest for digest in other.digests}
    agree = all(known[name] == theirs[name] for name in known.keys() & theirs.keys())
    return agree and bool(known)


def expired(url: str, now: float) -> bool:
    """Whether a signed link says itself that its time is over (POSIX seconds)."""
    with suppress(ValueError, OverflowError):  # also a time that no calendar reaches
        told = {name.lower(): value for name, value in parse_qsl(urlsplit(url).query)}
        until = _until(told)
        return until is not None and until < now
    return False


def _until(told: Mapping[str, str]) -> float | None:
    for prefix in ("x-amz", "x-goog"):
        if f"{prefix}-date" in told and told.get(f"{prefix}-expires", "").isdigit():
            begun = datetime.strptime(told[f"{prefix}-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            return (begun + timedelta(seconds=int(told[f"{prefix}-expires"]))).timestamp()
    if "se" in told and "sig" in told:
        return datetime.fromisoformat(told["se"]).timestamp()
    for name in _EXPIRY & told.keys():
        if re.fullmatch(r"[0-9]{10,11}", told[name]) and int(told[name]) >= _LEAST_EPOCH:
            return float(told[name])
    return None


def _priority(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 10**9

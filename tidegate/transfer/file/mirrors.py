"""The same file elsewhere: what origins say of its copies, when two files are proven to be one, and when a link is old.

`fetch_file` asks here when an origin does not deliver. Only `KnownMirrors.look_up` asks the outside, for a Metalink;
nothing is kept over a crash.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit

from tidegate.errors import TidegateError
from tidegate.model import Digest, Identity
from tidegate.transfer.asking.answers import links_of
from tidegate.transfer.asking.ask import Request, ask
from tidegate.transfer.outside import Outside
from tidegate.transfer.parsing import parse_metalink
from tidegate.transfer.playlists.metalink import priority_of
from tidegate.transfer.transport.base import Headers

METALINK_BYTES = 1024 * 1024
METALINK_TYPES = ("application/metalink4+xml", "application/metalink+xml")
MOST_MIRRORS = 8
"""How many copies are tried at most, however many are told."""

_EXPIRY = frozenset({"expires", "expire", "expiry", "exp", "e"})
_LEAST_EPOCH = 10**9
"""What is smaller is no point in time."""


@dataclass
class KnownMirrors:
    """What the answers so far have told of copies."""

    duplicates: dict[str, int] = field(default_factory=dict)
    """Links, with the priority that the origin gives them: the lowest first."""
    metalinks: dict[str, None] = field(default_factory=dict)
    digests: frozenset[Digest] = frozenset()
    """What a Metalink says that the whole file must have."""

    def note(self, url: str, headers: Headers) -> None:
        """Take down what an answer tells in its `Link` headers (RFC 6249)."""
        for target, parameters in links_of(headers, url, "duplicate"):
            self.duplicates[target] = priority_of(parameters.get("pri", ""))
        for target, parameters in links_of(headers, url, "describedby"):
            if parameters.get("type", "").lower() in METALINK_TYPES:
                self.metalinks[target] = None

    @property
    def links(self) -> tuple[str, ...]:
        """Links to copies that are known by now, best first."""
        return tuple(sorted(self.duplicates, key=lambda url: self.duplicates[url]))[:MOST_MIRRORS]

    async def look_up(self, outside: Outside, size_bytes: int | None) -> tuple[str, ...]:
        """The same, with those of a Metalink, which is asked for now, and whose digests are kept. One that cannot be
        had, or is about a file of another size, is no failure."""
        for url in list(self.metalinks)[:1]:
            with suppress(TidegateError):
                request = Request(url, most_bytes=METALINK_BYTES, what="metalink", decode=True)
                metalink = await parse_metalink(outside, (await ask(outside, request)).body)
                if size_bytes is None or metalink.size_bytes in (None, size_bytes):
                    self.duplicates |= metalink.urls
                    self.digests |= metalink.digests
        return self.links


def proven_same(source: Identity, other: Identity, promised: frozenset[Digest]) -> bool:
    """Whether bytes of both may go into one file: sizes agree, and a digest of the whole will show any difference."""
    if source.size_bytes is None or source.size_bytes != other.size_bytes:
        return False
    known = {digest.partition(":")[0]: digest for digest in (*source.digests, *promised)}
    theirs = {digest.partition(":")[0]: digest for digest in other.digests}
    agree = all(known[name] == theirs[name] for name in known.keys() & theirs.keys())
    return agree and bool(known)


def has_expired(url: str, now: float) -> bool:
    """Whether a signed link says itself that its time is over (POSIX seconds)."""
    with suppress(ValueError, OverflowError):  # also a time that no calendar reaches
        parameters = {name.lower(): value for name, value in parse_qsl(urlsplit(url).query)}
        until = _expiry_of(parameters)
        return until is not None and until < now
    return False


def _expiry_of(parameters: Mapping[str, str]) -> float | None:
    for prefix in ("x-amz", "x-goog"):
        if f"{prefix}-date" in parameters and parameters.get(f"{prefix}-expires", "").isdigit():
            begun = datetime.strptime(parameters[f"{prefix}-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            return (begun + timedelta(seconds=int(parameters[f"{prefix}-expires"]))).timestamp()
    if "se" in parameters and "sig" in parameters:
        return datetime.fromisoformat(parameters["se"]).timestamp()
    for name in _EXPIRY & parameters.keys():
        if re.fullmatch(r"[0-9]{10,11}", parameters[name]) and int(parameters[name]) >= _LEAST_EPOCH:
            return float(parameters[name])
    return None

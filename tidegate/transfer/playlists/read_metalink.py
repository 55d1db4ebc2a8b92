"""Reads a Metalink (RFC 5854, and the version before it).

Only `parse_child` calls it, in a process of its own. `defusedxml` refuses documents with a DOCTYPE, in whatever
encoding: nothing that a Metalink needs, and all that can be made to explode.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from tidegate.transfer.playlists.media import LONGEST_LINK
from tidegate.transfer.playlists.metalink import Metalink, priority_of

_HASHES = {"sha256": "sha256", "sha512": "sha512", "sha1": "sha1", "sha": "sha1", "md5": "md5"}
"""Types of hashes, without their hyphens, by hashlib's names."""


def read(document: bytes) -> Metalink:
    """What it says of its first file; nothing of what cannot be read."""
    try:
        root = fromstring(document, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError):  # also an encoding that nobody knows
        return Metalink()
    file = next(root.iterfind(".//{*}file"), None)
    if file is None:
        return Metalink()
    urls = [((one.text or "").strip(), one.get("priority", "")) for one in file.iterfind(".//{*}url")]
    hashes = [_hash(one.get("type", ""), (one.text or "").strip()) for one in file.iterfind(".//{*}hash")]
    size = (file.findtext("{*}size") or "").strip()
    return Metalink(
        {url: priority_of(priority) for url, priority in urls if _is_http(url)},
        frozenset(filter(None, hashes)),
        int(size) if re.fullmatch(r"[0-9]{1,18}", size) else None,
    )


def _is_http(url: str) -> bool:
    with suppress(ValueError):  # no URL at all
        return len(url) <= LONGEST_LINK and urlsplit(url).scheme in ("http", "https")
    return False


def _hash(kind: str, value: str) -> str | None:
    """A hash of the whole file; those of its pieces carry no type."""
    name = _HASHES.get(kind.lower().replace("-", ""))
    fits = name is not None and re.fullmatch(rf"[0-9a-fA-F]{{{2 * hashlib.new(name).digest_size}}}", value)
    return f"{name}:{value.lower()}" if fits else None

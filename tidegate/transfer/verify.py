"""Is it what was promised? Sniffing of the first bytes, and digests of the whole file.

The fetch loop sniffs as soon as bytes come, and the download stage checks digests once all are there. Reads only.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tidegate.durable.hashing import algorithm_of, digests_of
from tidegate.errors import Evidence, NotMedia, UnsupportedSource, WrongDigest
from tidegate.model import Digest

SNIFF_BYTES = 4096

_MARKUP = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<svg", b"<!--", b"<script")
_TEXT_CONTROLS = frozenset(b"\t\n\r\f\x1b")
_PLAYLISTS = {b"#EXTM3U": "an HLS playlist"}


def refuse_text(head: bytes, content_type: str | None = None) -> None:
    """Refuse what is plainly no media: nothing, markup, or text, whatever the file is called.

    What merely looks unknown is left to the demuxers, which know more formats than any table of magic numbers.

    Raises:
        NotMedia: empty, markup or text.
        UnsupportedSource: a playlist.
    """
    told = f" (Content-Type {content_type})" if content_type else ""
    evidence = Evidence(notes={"begins_with": repr(head[:80])})
    if not head:
        raise NotMedia("The source is empty", evidence=evidence)
    begin = head[:SNIFF_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for mark, kind in _PLAYLISTS.items():
        if begin.startswith(mark.lower()):
            raise UnsupportedSource(f"The source is {kind}, which is not supported yet", evidence=evidence)
    if begin.startswith(_MARKUP):
        raise NotMedia(f"The source is a web page, not media{told}", evidence=evidence)
    if _is_text(head[:SNIFF_BYTES]):
        raise NotMedia(f"The source is text, not media{told}", evidence=evidence)


def check_digests(path: Path, promised: frozenset[Digest], each_block: Callable[[], None]) -> Digest:
    """Hash the whole file once; returns its BLAKE3 digest. Blocking: call it in a thread.

    Raises:
        WrongDigest: a promised digest does not hold.
    """
    algorithms = frozenset(algorithm_of(digest) for digest in promised)
    found = digests_of(path, algorithms | {"blake3"}, each_block)
    for digest in sorted(promised):
        actual = found[algorithm_of(digest)]
        if actual != digest.lower():
            raise WrongDigest(f"The file's digest is {actual}, promised was {digest}")
    return found["blake3"]


def _is_text(head: bytes) -> bool:
    """UTF-8 (cut anywhere) without the control characters that every binary format has in its first bytes."""
    if any(byte < 0x20 and byte not in _TEXT_CONTROLS for byte in head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True

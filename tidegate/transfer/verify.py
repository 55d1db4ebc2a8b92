"""Is it what was promised? Sniffing of the first bytes, and digests of the whole file.

The fetch loop sniffs as soon as bytes come, and the download stage checks digests once all are there. Reads only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from tidegate.durable.hashing import algorithm_of, digests_of
from tidegate.errors import NotMedia, UnsupportedSource, WrongDigest
from tidegate.model import Digest

SNIFF_BYTES = 4096
"""How much of the beginning is looked at."""
ENOUGH_BYTES = 512
"""How much of it must be there, unless the source is shorter: the first bytes of a WAV file alone look like text."""

_MARKUP = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<svg", b"<!--", b"<script")
_TEXT_CONTROLS = frozenset(b"\t\n\r\f\x1b")
_MAGIC = {
    b"\xff\xd8\xff": "a JPEG picture",
    b"%PDF-": "a PDF document",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
}
"""What demuxers would take for one frame of video, or for nothing at all."""
_PNG, _MOVES = b"\x89PNG\r\n\x1a\n", b"acTL"
"""How a PNG begins, and the chunk that says of one that it moves; it stands before the picture (PNG, third edition,
§11.3.6.1)."""
_PLAYLISTS = (
    (re.compile(rb"#EXTM3U"), "hls", "an HLS playlist"),
    (re.compile(rb"(?:<\?xml[^>]*\?>\s*)?(?:<!--.*?-->\s*)*+<(?:\w+:)?MPD[\s>]", re.DOTALL), "dash", "a DASH manifest"),
)


class IsPlaylist(UnsupportedSource):
    """The bytes are no media but say where it is; `kind` names the resolver that reads them."""

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


def refuse_text(head: bytes, content_type: str | None = None) -> None:
    """Refuse what is plainly no media: nothing, markup, text or a picture, whatever the file is called.

    The bytes themselves are not told: an origin may repeat the token that it was sent. What merely looks
    unknown is left to the demuxers, which know more formats than any table of magic numbers.

    Raises:
        NotMedia: empty, markup, text, a picture, a document or an archive.
        IsPlaylist: a playlist.
    """
    if not head:
        raise NotMedia("The source is empty")
    if (other := _format_name(head)) is not None:
        raise NotMedia(_instead_of_media(other, content_type))
    begin = head[:SNIFF_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n")
    for mark, kind, name in _PLAYLISTS:
        if mark.match(begin):
            raise IsPlaylist(_instead_of_media(name, content_type), kind)
    if begin.lower().startswith(_MARKUP):
        raise NotMedia(_instead_of_media("a web page", content_type))
    if _is_text(head[:SNIFF_BYTES]):
        raise NotMedia(_instead_of_media("text", content_type))


def _instead_of_media(found: str, content_type: str | None) -> str:
    if not content_type:
        return f"The source is {found}, not media"
    if content_type.lower().startswith(("video/", "audio/")):
        return f"The server says {content_type} but sent {found}"
    return f"The server sent {found} ({content_type}), not media"


def check_digests(path: Path, promised: frozenset[Digest], each_block: Callable[[], None]) -> Digest:
    """Hash the whole file once; returns its BLAKE3 digest. Blocking: call it in a thread.

    Raises:
        WrongDigest: a promised digest does not hold.
    """
    found = digests_of(path, algorithms_for(promised), each_block)
    require_digests(found, promised)
    return found["blake3"]


def algorithms_for(promised: frozenset[Digest]) -> frozenset[str]:
    """What a file has to be hashed with: our own addressing, and whatever was promised."""
    return frozenset(algorithm_of(digest) for digest in promised) | {"blake3"}


def require_digests(found: Mapping[str, Digest], promised: frozenset[Digest]) -> None:
    """Compare what was found, by algorithm, with what was promised.

    Raises:
        WrongDigest: a promised digest does not hold.
    """
    for digest in sorted(promised):
        actual = found[algorithm_of(digest)]
        if actual != digest.lower():
            raise WrongDigest(f"The file's digest is {actual}, promised was {digest}")


def _format_name(head: bytes) -> str | None:
    """GIF is not among them: only its demuxer can tell whether it moves."""
    if head.startswith(_PNG) and _MOVES not in head:
        return "a PNG picture"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "a WebP picture"
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def _is_text(head: bytes) -> bool:
    """UTF-8 (cut anywhere) without the control characters that every binary format has in its first bytes."""
    if any(byte < 0x20 and byte not in _TEXT_CONTROLS for byte in head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True

"""Can these bytes be a segment? A look at magic numbers and at the structure that segments carry in themselves.

The segment engine asks for each one before it is kept: a login page, an error text, a body that was cut where no length
was announced, or the noise that a wrong key leaves must not become part of a film. Reads only.
"""

from __future__ import annotations

import os
from enum import StrEnum
from typing import BinaryIO

from tidegate.durable.threads import check_cancellation
from tidegate.errors import TidegateError
from tidegate.transfer.verify import SNIFF_BYTES, refuse_text

TS_PACKET_BYTES = 188
TS_SYNC = 0x47
_BOX_HEADER_BYTES = 8
MOST_BOXES = 1_000_000
"""What may follow each other in one segment: two hours with a fragment for each picture."""

_BOXES = frozenset(
    {
        b"ftyp",
        b"styp",
        b"moov",
        b"moof",
        b"mdat",
        b"sidx",
        b"ssix",
        b"emsg",
        b"prft",
        b"free",
        b"skip",
        b"uuid",
        b"mfra",
    }
)
"""What may lie at the top of a segment of fragmented MP4."""
_WEBM = (b"\x1a\x45\xdf\xa3", b"\x1f\x43\xb6\x75")
"""An EBML header, and a cluster."""


class SegmentKind(StrEnum):
    """How segments are packed; each is put together in its own way."""

    TS = "ts"
    MP4 = "mp4"
    WEBM = "webm"
    SOUND = "sound"
    """Packed audio: ADTS, MP3, AC-3, with or without an ID3 tag that tells its time."""
    TEXT = "vtt"
    OTHER = "bin"


def segment_kind_of(head: bytes) -> SegmentKind:
    """What begins like this."""
    if head[:1] == bytes([TS_SYNC]) and head[TS_PACKET_BYTES : TS_PACKET_BYTES + 1] in (b"", bytes([TS_SYNC])):
        return SegmentKind.TS
    if head[4:8] in _BOXES:
        return SegmentKind.MP4
    if head.startswith(_WEBM):
        return SegmentKind.WEBM
    if head.startswith((b"ID3", b"\x0b\x77")) or (head[:1] == b"\xff" and head[1:2] and head[1] & 0xE0 == 0xE0):
        return SegmentKind.SOUND
    if head.removeprefix(b"\xef\xbb\xbf").startswith(b"WEBVTT"):
        return SegmentKind.TEXT
    return SegmentKind.OTHER


def flaw_in(file: BinaryIO, size: int, *, encrypted: bool, length_known: bool) -> str | None:
    """Why this is no segment, in words for a person; None when nothing speaks against it. Blocking.

    `length_known`: something announced how long it is, and it is. Without that only its structure can tell.
    """
    if size == 0:
        return "it is empty"
    file.seek(0)
    head = file.read(SNIFF_BYTES)
    kind = segment_kind_of(head)
    if kind is SegmentKind.OTHER:
        return "it does not decrypt to media" if encrypted else _as_text(head)
    if kind is SegmentKind.TS and size % TS_PACKET_BYTES and not length_known:
        return "it ends inside a packet"
    if kind is SegmentKind.MP4:
        return _flaw_in_boxes(file, size)
    return None


def _as_text(head: bytes) -> str | None:
    """What merely looks unknown is left to the demuxers."""
    try:
        refuse_text(head)
    except TidegateError as error:
        return error.message.replace("The source is", "it is", 1)
    return None


def _flaw_in_boxes(file: BinaryIO, size: int) -> str | None:
    """Boxes must follow each other up to the very end."""
    position = 0
    for _ in range(MOST_BOXES):
        if position == size:
            return None
        check_cancellation()
        length = _box_length(file, position, size)
        if length is None or position + length > size:
            return "it ends inside a box"
        position += length
    return "it is cut into more boxes than any film" if position < size else None


def _box_length(file: BinaryIO, position: int, size: int) -> int | None:
    """How long the box at `position` says that it is; None where that cannot be."""
    file.seek(position, os.SEEK_SET)
    header = file.read(2 * _BOX_HEADER_BYTES)
    if len(header) < _BOX_HEADER_BYTES:
        return None
    length, least = int.from_bytes(header[:4], "big"), _BOX_HEADER_BYTES
    if length == 0:  # it reaches to the end
        return size - position
    if length == 1:  # it stands behind the type, in 64 bits
        length, least = int.from_bytes(header[_BOX_HEADER_BYTES:], "big"), 2 * _BOX_HEADER_BYTES
    return length if length >= least else None

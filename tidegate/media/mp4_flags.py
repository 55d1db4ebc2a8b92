"""Which tracks of an MP4 players show unasked: one bit of each track's header, put right after ffmpeg has written it.

ffmpeg's muxer enables the first track of every kind of which none is marked: subtitles that the source hides would be
shown to everybody. The remux stage calls it on its output before that is verified; a crash in between costs the output,
which is not yet anybody's result.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

ENABLED = 0x1
"""The bit in the flags of `tkhd` (ISO/IEC 14496-12 §8.3.2)."""
SUBTITLE_HANDLERS = (b"sbtl", b"text", b"subt", b"clcp")


def hide_subtitles(path: Path, numbers: frozenset[int]) -> None:
    """Clear the bit of the subtitle tracks of these numbers, counted among subtitles from 0."""
    with path.open("r+b") as file:
        size = path.stat().st_size
        subtitles = 0
        for kind, begin, end in _boxes(file, 0, size):
            if kind != b"moov":
                continue
            for track_kind, track, track_end in list(_boxes(file, begin, end)):
                if track_kind == b"trak" and _handler(file, track, track_end) in SUBTITLE_HANDLERS:
                    if subtitles in numbers:
                        _disable(file, track, track_end)
                    subtitles += 1


def _boxes(file: BinaryIO, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, where its content begins, where it ends) of each box between two places."""
    while begin + 8 <= end:
        file.seek(begin)
        length, kind = struct.unpack(">I4s", file.read(8))
        header = 8
        if length == 1:
            length, header = struct.unpack(">Q", file.read(8))[0], 16
        length = end - begin if length == 0 else length
        if length < header:
            return
        yield kind, begin + header, begin + length
        begin += length


def _handler(file: BinaryIO, begin: int, end: int) -> bytes:
    for kind, media, media_end in _boxes(file, begin, end):
        if kind == b"mdia":
            for inner, content, _ in _boxes(file, media, media_end):
                if inner == b"hdlr":
                    file.seek(content + 8)
                    return file.read(4)
    return b""


def _disable(file: BinaryIO, begin: int, end: int) -> None:
    for kind, content, _ in _boxes(file, begin, end):
        if kind == b"tkhd":
            file.seek(content + 3)
            flags = file.read(1)[0]
            file.seek(content + 3)
            file.write(bytes([flags & ~ENABLED]))
            return

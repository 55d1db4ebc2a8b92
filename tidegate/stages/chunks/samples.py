"""How many samples the first track of an MP4 holds, by its index (ISO/IEC 14496-12 §8.7.3).

`job.py` counts a chunk's pictures with it. The file is one that our own ffmpeg has just written; a child that reads
it with a demuxer would cost more than some chunks.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

WAY = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsz")
"""The boxes to go through, the outermost first."""


def samples_in(path: Path) -> int:
    """0 where there is no index.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        begin = 0
        for kind in WAY:
            found = _box(file, kind, begin, end)
            if found is None:
                return 0
            begin, end = found
        file.seek(begin)
        head = file.read(12)
        return int(struct.unpack(">I", head[8:12])[0]) if len(head) == 12 else 0


def _box(file: BinaryIO, wanted: bytes, begin: int, end: int) -> tuple[int, int] | None:
    """Where the content of the first box of this kind begins and ends."""
    while begin + 8 <= end:
        file.seek(begin)
        header = file.read(16)
        length, kind = struct.unpack(">I4s", header[:8])
        content = 8
        if length == 1 and len(header) == 16:
            length, content = struct.unpack(">Q", header[8:])[0], 16
        if length < content:
            return None
        if kind == wanted:
            return begin + content, begin + length
        begin += length
    return None

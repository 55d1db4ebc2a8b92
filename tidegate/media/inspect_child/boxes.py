"""How far the boxes of an MP4 and the chunks of a RIFF reach: a cut file tells by them. Part of the probe child."""

from __future__ import annotations

import struct
from pathlib import Path

MOOV_BYTES = 64 * 1024 * 1024
"""How much of an index is searched for its fragment boxes; they stand near its beginning."""
UNKNOWN_RIFF_LENGTHS = (0, 0xFFFFFFFF)
"""What a recorder writes that could not come back to fill the length in."""
SLOPPY_RIFF_BYTES = 64
"""Writers disagree whether padding and the chunk's own header count."""
MEDIA_BOXES = (b"moov", b"moof", b"mdat")
"""The boxes without which an MP4 cannot be played."""


def mp4_boxes(path: Path) -> tuple[int, bool]:
    """How many bytes the top-level boxes reach beyond the file, and whether it is fragmented without an overall
    duration (ISO/IEC 14496-12 §4.2, §8.8.2)."""
    size, position, missing, fragmented = path.stat().st_size, 0, 0, False
    with path.open("rb") as file:
        while position + 8 <= size:
            file.seek(position)
            header = file.read(16)
            length, kind = struct.unpack(">I4s", header[:8])
            if length == 1 and len(header) == 16:
                length = struct.unpack(">Q", header[8:])[0]
            if length < 8:  # 0: the last box reaches to the end of the file
                break
            if kind == b"moov":
                moov = header + file.read(min(length, MOOV_BYTES))
                fragmented = b"mvex" in moov and b"mehd" not in moov
            position += length
            if position > size and kind not in MEDIA_BOXES:  # trailing tags and garbage are nobody's loss
                break
            missing = max(0, position - size)
    return missing, fragmented


def riff_chunks(path: Path) -> int:
    """How many bytes the RIFF chunks of a WAV or AVI reach beyond the file; 0 for any other format. Its demuxers give
    the duration of what is there, so only the chunks tell of a cut (an AVI beyond 1 GiB has several)."""
    size, position = path.stat().st_size, 0
    with path.open("rb") as file:
        while position + 8 <= size:
            file.seek(position)
            kind, length = struct.unpack("<4sI", file.read(8))
            if kind != b"RIFF" or length in UNKNOWN_RIFF_LENGTHS:
                break
            position += 8 + length
    missing = position - size
    return missing if missing > SLOPPY_RIFF_BYTES else 0

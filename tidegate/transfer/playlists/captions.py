"""WebVTT segments as one text.

`assemble` puts a track of subtitles together with it. Pure: the same segments give the same text, also after a crash.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tidegate.transfer.playlists.timing import TICKS_PER_SECOND

_MAP = re.compile(r"^X-TIMESTAMP-MAP=(.*)$", re.MULTILINE)
_TIME = r"(?:(\d{1,9}):)?(\d{2}):(\d{2})\.(\d{3})"
_CUE = re.compile(rf"^{_TIME}[ \t]+-->[ \t]+{_TIME}", re.MULTILINE)


def merge_captions(texts: Iterable[str]) -> str:
    """All cues, each once, on one clock: that of the first segment.

    A cue that reaches over the end of a segment is in both.
    """
    cues: dict[str, None] = {}
    zero: int | None = None
    for text in texts:
        head, _, body = text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff").partition("\n\n")
        shift = _shift_milliseconds(head)
        zero = shift if zero is None else zero
        for block in re.split(r"\n{2,}", body):
            if _CUE.search(block):
                cues[_shift(block.strip("\n"), shift - zero)] = None
    return "WEBVTT\n\n" + "".join(f"{cue}\n\n" for cue in cues)


def _shift_milliseconds(head: str) -> int:
    """How far the segment's own clock lies behind that of the picture (RFC 8216 §3.5)."""
    mapping = _MAP.search(head)
    if mapping is None:
        return 0
    ticks = re.search(r"MPEGTS:(\d{1,19})(?!\d)", mapping[1])
    local = re.search(rf"LOCAL:{_TIME}", mapping[1])
    base = _milliseconds(*local.groups()) if local else 0
    return round(int(ticks[1]) * 1000 / TICKS_PER_SECOND) - base if ticks else -base


def _shift(block: str, by: int) -> str:
    if by == 0:
        return block

    def shift_times(match: re.Match[str]) -> str:
        begin, end = _milliseconds(*match.groups()[:4]), _milliseconds(*match.groups()[4:])
        return f"{_clock_text(begin + by)} --> {_clock_text(end + by)}"

    return _CUE.sub(shift_times, block, count=1)


def _milliseconds(hours: str | None, minutes: str, seconds: str, thousandths: str) -> int:
    return ((int(hours or 0) * 60 + int(minutes)) * 60 + int(seconds)) * 1000 + int(thousandths)


def _clock_text(milliseconds: int) -> str:
    seconds, thousandths = divmod(max(0, milliseconds), 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{thousandths:03d}"

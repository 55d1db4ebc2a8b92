"""Runs as a child of `timeline.py`: when each picture of one video stream is shown, and where a decoder can begin.

It parses hostile files, so it is a process of its own that may crash, hang or grow without hurting the run. It imports
PyAV and nothing of ours, decodes nothing and writes nothing.

    python timeline_child.py \
        '{"path": file, "place": 0, "allowed": [demuxers], "decoders": "names,…", "spacing_seconds": 1.0}'
"""

from __future__ import annotations

import bisect
import json
import sys
import time
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import av.error
import av.logging

PROGRESS_SECONDS = 0.5
JUMP_SECONDS = 1.0
"""A pause in a transport stream beyond which ffmpeg may move what follows; slides in other containers are slow."""
JOINING = frozenset({"mpegts", "mpeg", "flv", "hls"})
"""Formats (of libavformat) in whose times ffmpeg looks for jumps, and puts them right."""

SEEKING = frozenset({"mp4", "matroska"})
"""Formats in which a seek ends at a keyframe; in the others it may end between two."""


def timeline(request: dict[str, Any]) -> dict[str, Any]:
    # As ffmpeg opens it for a transcode, so that both see the same times.
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": ",".join(request["allowed"]),
        "codec_whitelist": request["decoders"],
        "fflags": "+genpts",
    }
    with av.open(request["path"], options=options, metadata_errors="ignore") as container:
        stream = container.streams[request["place"]]
        shown, decoded, keys, odd = read(container, stream)
        ordered = sorted(shown)
        odd = odd or oddity(ordered, shown, decoded, keys, Fraction(stream.time_base), has_joins(container))
        rates = [Fraction(r) for r in (stream.guessed_rate, stream.average_rate, stream.base_rate) if r]
        rate = None if odd else next((r for r in rates if steady(ordered, Fraction(stream.time_base), r)), None)
        return {
            "time_base": pair(Fraction(stream.time_base)),
            "rate": pair(rate) if rate else None,
            "frames": len(ordered),
            "first": ordered[0] if ordered else 0,
            "last": ordered[-1] if ordered else 0,
            "odd": odd,
            "cuts": [] if odd else cuts(ordered, keys, request["spacing_seconds"] / Fraction(stream.time_base)),
            "exact_seek": bool(SEEKING & set(container.format.name.split(","))),
        }


def read(container: Any, stream: Any) -> tuple[list[int], list[int], list[int], str | None]:
    """(times of showing, times of decoding, times of keyframes, what is odd), in ticks and in the order of the file."""
    shown: list[int] = []
    decoded: list[int] = []
    keys: list[int] = []
    reported_at = time.monotonic()
    for packet in container.demux(stream):
        if not packet.size:
            continue
        if packet.is_discard:
            return shown, decoded, keys, "an edit list hides pictures"
        if packet.pts is None:
            return shown, decoded, keys, "pictures without a time"
        shown.append(packet.pts)
        if packet.dts is not None:
            decoded.append(packet.dts)
        if packet.is_keyframe:
            keys.append(packet.pts)
        if time.monotonic() - reported_at >= PROGRESS_SECONDS:
            reported_at = time.monotonic()
            say({"progress": {"packets": len(shown), "seconds": float(packet.pts * stream.time_base)}})
    return shown, decoded, keys, None


def oddity(
    ordered: list[int], shown: list[int], decoded: list[int], keys: list[int], tick: Fraction, joins: bool
) -> str | None:
    """Why pictures cannot be told apart by their times, if so."""
    if not keys or shown[0] != keys[0] or ordered[0] != keys[0]:
        return "it begins between two keyframes"
    if any(one == other for one, other in pairwise(ordered)):
        return "several pictures at one time"
    if any(one > other for one, other in pairwise(decoded)):
        return "times that run backwards"
    widest = max((other - one for one, other in pairwise(ordered)), default=0)
    if joins and widest * tick > JUMP_SECONDS:
        return "a jump in the times"
    return None


def steady(ordered: list[int], tick: Fraction, rate: Fraction) -> bool:
    """Whether every picture stands, to a tick, where this rate puts it."""
    step = 1 / (rate * tick)
    if step < 2:
        return False
    first = ordered[0]
    return all(abs(at - first - number * step) <= 1 for number, at in enumerate(ordered))


def cuts(ordered: list[int], keys: list[int], spacing: Fraction) -> list[tuple[int, int, int]]:
    """(how many pictures are shown before it, the time of the last of them, its own time) for each keyframe, in ticks;
    one at least `spacing` ticks after the other."""
    found: list[tuple[int, int, int]] = []
    last = ordered[0] if ordered else 0
    for key in sorted(keys):
        number = bisect.bisect_left(ordered, key)
        if number and key - last >= spacing:
            found.append((number, ordered[number - 1], key))
            last = key
    return found


def has_joins(container: Any) -> bool:
    """Whether ffmpeg would look for jumps in its times."""
    return bool(JOINING & set(container.format.name.split(",")))


def pair(ratio: Fraction) -> tuple[int, int]:
    return ratio.numerator, ratio.denominator


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    av.logging.set_level(av.logging.FATAL)
    try:
        say({"timeline": timeline(json.loads(sys.argv[1]))})
    except (av.error.FFmpegError, ValueError, ArithmeticError, OSError, IndexError, MemoryError) as error:
        say({"refused": getattr(error, "strerror", None) or str(error) or type(error).__name__})


if __name__ == "__main__":
    main()

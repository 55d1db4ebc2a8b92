"""Films that are long enough to be cut, in every way in which a cut could go wrong; made by ffmpeg from recipes.

The tests of chunked transcodes use them. None may be copied into the universal profile's MP4, so each is encoded.
"""

from __future__ import annotations

import hashlib
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg

from tests.support.clips import Recipe, lavfi, make

SECONDS = 20
RATE = 25
PICTURE = f"testsrc2=size=160x120:rate={RATE}:duration={{seconds}}"
SOUND = "sine=frequency=440:sample_rate=48000:duration={seconds}"
TEN_BIT = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p10le")
"""Refused by common players, so never copied."""
CLOSED = (*TEN_BIT, "-x264-params", "keyint=30:min-keyint=15:bframes=3")
OPEN = (*TEN_BIT, "-x264-params", "keyint=30:min-keyint=15:bframes=3:open-gop=1")
OPUS = ("-c:a", "libopus")

LINES = """1
00:00:00,500 --> 00:00:01,500
First line

2
00:00:11,000 --> 00:00:12,000
Änd the second
"""
CHAPTERS = """;FFMETADATA1
title=A film
[CHAPTER]
TIMEBASE=1/1000
START=0
END=9000
title=One
[CHAPTER]
TIMEBASE=1/1000
START=9000
END=20000
title=Two
"""

FILMS: dict[str, Recipe] = {
    "closed GOP, MP4": Recipe(".mp4", lavfi(PICTURE, SOUND), (*CLOSED, *OPUS)),
    "closed GOP, no sound": Recipe(".mp4", lavfi(PICTURE), CLOSED),
    "open GOP, Matroska": Recipe(".mkv", lavfi(PICTURE, SOUND), (*OPEN, *OPUS)),
    "MPEG-2 with B-frames, transport stream": Recipe(
        ".ts", lavfi(PICTURE, SOUND), ("-c:v", "mpeg2video", "-b:v", "1M", "-g", "12", "-bf", "2", "-c:a", "mp2")
    ),
    "a late beginning, transport stream": Recipe(
        ".ts", lavfi(PICTURE, SOUND), (*CLOSED, "-c:a", "mp2", "-output_ts_offset", "1000")
    ),
    "29.97 a second, in milliseconds": Recipe(
        ".mkv", lavfi(PICTURE.replace(f"rate={RATE}", "rate=30000/1001"), SOUND), (*CLOSED, *OPUS)
    ),
    "variable rate": Recipe(
        ".mkv",
        lavfi(PICTURE.replace(f"rate={RATE}", "rate=30"), SOUND),
        ("-vf", "select='not(eq(mod(n,7),3)+eq(mod(n,11),5))'", "-fps_mode", "passthrough", *CLOSED, *OPUS),
    ),
    "sound longer than the picture": Recipe(
        ".mkv", (*lavfi(PICTURE), *lavfi("sine=frequency=440:duration=21.3")), (*CLOSED, *OPUS)
    ),
    "two tracks of sound, subtitles, chapters": Recipe(
        ".mkv",
        (
            *lavfi(PICTURE, SOUND),
            *("-itsoffset", "0.35", *lavfi("sine=frequency=880:duration={seconds}")),
            *("-i", "{work}/lines.srt", "-i", "{work}/chapters.txt"),
        ),
        (
            *("-map", "0:v", "-map", "1:a", "-map", "2:a", "-map", "3:s", "-map_metadata", "4", "-map_chapters", "4"),
            *(*CLOSED, "-c:a:0", "libopus", "-c:a:1", "libmp3lame", "-c:s", "srt"),
            *("-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=deu", "-metadata:s:s:0", "language=fra"),
        ),
        {"lines.srt": LINES, "chapters.txt": CHAPTERS},
    ),
    "sound that may be copied": Recipe(".mkv", lavfi(PICTURE, SOUND), (*CLOSED, "-c:a", "aac")),
}

WHOLE: dict[str, tuple[Recipe, str]] = {
    "one keyframe": (Recipe(".mkv", lavfi(PICTURE), (*TEN_BIT, "-g", "100000", "-keyint_min", "100000")), "keyframes"),
    "interlaced": (
        Recipe(
            ".ts",
            lavfi(PICTURE.replace(f"rate={RATE}", f"rate={2 * RATE}")),
            (
                *("-vf", "tinterlace=interleave_top,setfield=tff", "-c:v", "mpeg2video", "-b:v", "1M"),
                *("-flags", "+ilme+ildct"),
            ),
        ),
        "interlaced",
    ),
    "an edit list": (
        Recipe(".mp4", lavfi(PICTURE), (*CLOSED, "-output_ts_offset", "-0.5", "-avoid_negative_ts", "disabled")),
        "edit list",
    ),
}
"""With a word of why each is kept whole."""


def film(folder: Path, name: str, *, seconds: float = SECONDS) -> Path:
    """The film of this name, from the folder if it is there."""
    recipe = FILMS.get(name) or WHOLE[name][0]
    key = hashlib.sha256(name.encode()).hexdigest()[:8]
    return make(folder, f"film-{key}", recipe, seconds=seconds, size="160x120")


def shown(path: Path) -> list[float]:
    """When each picture is shown, in seconds, by decoding all."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        return [float(Fraction(frame.pts) * frame.time_base) for frame in container.decode(stream)]


def sound_of(path: Path, tracks: int) -> list[str]:
    """A digest of every sample of each track of sound."""
    return [_samples(path, number) for number in range(tracks)]


def _samples(path: Path, track: int) -> str:
    words = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-map", f"0:a:{track}", "-f", "md5", "-"]
    return subprocess.run(words, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout

"""Small real media for tests, made by ffmpeg from recipes that are data.

Tests and benchmarks ask for a clip by name and get a file out of their cache folder, made once for each
recipe. A clip is written beside its place and renamed, so that parallel test workers share a folder and a
killed one leaves no half clip.
"""

import hashlib
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import av
import imageio_ffmpeg

FRAME_RATE = 25
PICTURE = f"testsrc2=size={{size}}:rate={FRAME_RATE}:duration={{seconds}}"
SOUND = "sine=frequency=440:sample_rate=48000:duration={seconds}"
H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", str(FRAME_RATE))
HEVC = ("-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-x265-params", "log-level=error")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-pix_fmt", "yuv420p")
AAC = ("-c:a", "aac", "-b:a", "96k", "-ac", "2")
FASTSTART = ("-movflags", "+faststart")

BLACK_SECONDS = (2, 4)
SILENT_SECONDS = (5, 7)
FROZEN_SECONDS = (8, 11)
"""Where `h264_faults_mp4` is black, silent and frozen; it must last at least 12 s."""

BULK_SIZE = "640x360"
BULK_BYTES_PER_SECOND = 8_500_000
"""A first guess of what a second of noise weighs; `bulk_clip` measures and corrects it."""

SUBTITLES = """1
00:00:00,500 --> 00:00:01,500
First line

2
00:00:02,000 --> 00:00:03,000
Änd the second
"""


@dataclass(frozen=True)
class Recipe:
    """How a clip is made: inputs, then output options. `{size}`, `{seconds}` and `{work}` are filled in."""

    suffix: str
    inputs: tuple[str, ...]
    options: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    """Texts to write into `{work}` first."""


def lavfi(*sources: str) -> tuple[str, ...]:
    """Generated inputs, one after the other."""
    return tuple(word for source in sources for word in ("-f", "lavfi", "-i", source))


def _during(seconds: tuple[int, int]) -> str:
    return f"enable='gte(t,{seconds[0]})*lt(t,{seconds[1]})'"


def _faults() -> str:
    first, last = FROZEN_SECONDS[0] * FRAME_RATE, FROZEN_SECONDS[1] * FRAME_RATE - 1
    return (
        f"[0:v]drawbox=color=black:t=fill:{_during(BLACK_SECONDS)},split[moving][still];"
        f"[moving][still]freezeframes=first={first}:last={last}:replace={first}[v];"
        f"[1:a]volume=0:{_during(SILENT_SECONDS)}[a]"
    )


BOTH = lavfi(PICTURE, SOUND)

RECIPES: dict[str, Recipe] = {
    "h264_aac_mp4": Recipe(".mp4", BOTH, (*H264, *AAC, *FASTSTART)),
    "h264_aac_moov_last_mp4": Recipe(".mp4", BOTH, (*H264, *AAC)),
    "h264_aac_mkv": Recipe(".mkv", BOTH, (*H264, *AAC)),
    "h264_aac_ts": Recipe(".ts", BOTH, (*H264, *AAC)),
    "vp9_opus_webm": Recipe(
        ".webm",
        BOTH,
        (*VP9, "-c:a", "libopus"),
    ),
    "hevc_aac_mp4": Recipe(
        ".mp4",
        BOTH,
        (*HEVC, "-tag:v", "hvc1", *AAC, *FASTSTART),
    ),
    "hevc_hev1_mp4": Recipe(
        ".mp4",
        BOTH,
        (*HEVC, "-tag:v", "hev1", *AAC, *FASTSTART),
    ),
    "h264_10bit_mp4": Recipe(
        ".mp4",
        BOTH,
        ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p10le", *AAC, *FASTSTART),
    ),
    "mpeg2_mp2_mpg": Recipe(".mpg", BOTH, ("-c:v", "mpeg2video", "-b:v", "2M", "-c:a", "mp2")),
    "mpeg4_mp3_avi": Recipe(".avi", BOTH, ("-c:v", "mpeg4", "-q:v", "5", "-c:a", "libmp3lame", "-ac", "2")),
    "audio_only_m4a": Recipe(".m4a", lavfi(SOUND), AAC),
    "video_only_mp4": Recipe(".mp4", lavfi(PICTURE), (*H264, *FASTSTART)),
    "h264_faults_mp4": Recipe(
        ".mp4",
        BOTH,
        ("-filter_complex", _faults(), "-map", "[v]", "-map", "[a]", *H264, "-crf", "18", *AAC, *FASTSTART),
    ),
    "h264_cover_mp4": Recipe(
        ".mp4",
        lavfi(PICTURE, SOUND, "color=red:size=128x128:rate=1:duration=1"),
        (
            *("-map", "0:v", "-map", "1:a", "-map", "2:v", *H264, *AAC),
            *("-c:v:1", "mjpeg", "-pix_fmt:v:1", "yuvj420p"),
            *("-disposition:v:1", "attached_pic", *FASTSTART),
        ),
    ),
    "h264_subtitles_mkv": Recipe(
        ".mkv",
        (*BOTH, "-i", "{work}/lines.srt"),
        (
            *("-map", "0:v", "-map", "1:a", "-map", "2:s", *H264, *AAC),
            *("-c:s", "srt", "-metadata:s:s:0", "language=eng"),
        ),
        {"lines.srt": SUBTITLES},
    ),
    "h264_interlaced_ts": Recipe(
        ".ts",
        lavfi(PICTURE.replace(f"rate={FRAME_RATE}", f"rate={2 * FRAME_RATE}"), SOUND),
        (
            *("-vf", "tinterlace=interleave_top,setfield=tff", *H264, "-preset", "veryfast"),
            *("-flags", "+ilme+ildct", "-x264-params", "tff=1", *AAC),
        ),
    ),
}


def clip(
    folder: Path,
    name: str = "h264_aac_mp4",
    *,
    seconds: float = 4,
    size: str = "320x240",
    ffmpeg: str | None = None,
) -> Path:
    """The clip of this name, from the folder if it is there. `h264_faults_mp4` lasts at least 12 s."""
    if name == "h264_faults_mp4":
        seconds = max(seconds, 12)
    return make(folder, name, RECIPES[name], seconds=seconds, size=size, ffmpeg=ffmpeg)


def make(
    folder: Path,
    name: str,
    recipe: Recipe,
    *,
    seconds: float,
    size: str,
    ffmpeg: str | None = None,
) -> Path:
    """Make a clip from any recipe, or find it made."""
    tool = ffmpeg or imageio_ffmpeg.get_ffmpeg_exe()
    key = hashlib.sha256(repr((recipe, seconds, size, Path(tool).name)).encode()).hexdigest()[:12]
    finished = folder / f"{name}-{key}{recipe.suffix}"
    if not finished.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as work:
            Path(_cook(tool, recipe, Path(work), seconds, size)).replace(finished)
    return finished


def cut(path: Path, share: float) -> Path:
    """A copy beside it that ends after this share of its bytes."""
    length = int(path.stat().st_size * share)
    finished = path.with_name(f"{path.stem}-cut{round(share * 100)}{path.suffix}")
    with path.open("rb") as whole, tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as part:
        part.write(whole.read(length))
    return Path(part.name).replace(finished)


def padded(path: Path, size_bytes: int) -> Path:
    """A copy of an mp4 of exactly this size, filled up by a box that players skip."""
    left = size_bytes - path.stat().st_size
    assert left >= 8, f"{path} is too large for {size_bytes} bytes"
    finished = path.with_name(f"{path.stem}-padded{size_bytes}{path.suffix}")
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as made:
        made.write(path.read_bytes() + left.to_bytes(4, "big") + b"free" + bytes(left - 8))
    return Path(made.name).replace(finished)


def long_clip(folder: Path) -> Path:
    """Ten minutes, small: five pictures a second, a keyframe every 2 s."""
    picture = "testsrc2=size=64x48:rate=5:duration={seconds}"
    codec = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "10")
    sound = ("-c:a", "aac", "-ar", "8000", "-ac", "1", "-b:a", "16k")
    return make(folder, "long", Recipe(".mp4", lavfi(picture, SOUND), (*codec, *sound)), seconds=600, size="")


def spoiled(film: Path, at_seconds: float, made: Path) -> Path:
    """A copy in which the first keyframe of the picture from there on is garbage; everything around it is right."""
    with av.open(str(film)) as container:
        place, size = next(
            (packet.pos or 0, packet.size)
            for packet in container.demux(container.streams.video[0])
            if packet.is_keyframe and packet.pts is not None and packet.pts * packet.time_base >= at_seconds
        )
    content = bytearray(film.read_bytes())
    content[place + 5 : place + size] = b"\xa5" * (size - 5)
    made.write_bytes(content)
    return made


def bulk_clip(folder: Path, size_bytes: int, *, ffmpeg: str | None = None) -> Path:
    """A playable mp4 (moov first) of at least this size: noise, which does not compress."""
    recipe = Recipe(
        ".mp4",
        lavfi(f"{PICTURE},noise=alls=100:allf=t+u", SOUND),
        (*H264, "-qp", "8", *AAC, *FASTSTART),
    )
    seconds = max(1, -(-size_bytes // BULK_BYTES_PER_SECOND))
    while True:
        made = make(folder, f"bulk{size_bytes}", recipe, seconds=seconds, size=BULK_SIZE, ffmpeg=ffmpeg)
        weight = made.stat().st_size
        if weight >= size_bytes:
            return made
        made.unlink()
        seconds = int(seconds * size_bytes / weight * 1.05) + 1


def _cook(tool: str, recipe: Recipe, work: Path, seconds: float, size: str) -> Path:
    for name, text in recipe.files.items():
        (work / name).write_text(text)
    made = work / f"clip{recipe.suffix}"
    words = [_filled(word, work, seconds, size) for word in (*recipe.inputs, *recipe.options)]
    command = [tool, "-hide_banner", "-loglevel", "error", "-nostdin", "-y", *words, str(made)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ffmpeg failed with {done.returncode}: {' '.join(command)}\n{done.stderr}")
    return made


def _filled(word: str, work: Path, seconds: float, size: str) -> str:
    for name, value in (("{work}", str(work)), ("{seconds}", f"{seconds:g}"), ("{size}", size)):
        word = word.replace(name, value)
    return word

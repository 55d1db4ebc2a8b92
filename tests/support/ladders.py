"""Segmented media for tests: real segments made by ffmpeg, and playlists that are written out of them.

Tests ask for segments by kind and get files from the folder of clips, made once for each recipe. Encryption, ranges and
tags are added here, so that a test says in a line what its playlist is like.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import imageio_ffmpeg
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7

from tests.support.clips import AAC, FRAME_RATE, H264

Packing = Literal["ts", "mp4", "sound", "vtt"]

PIXELS = "160x120"
"""Small: what is tested is which bytes come, not what they show."""


@dataclass(frozen=True)
class Cut:
    """Media cut into segments of one second."""

    segments: tuple[bytes, ...]
    init: bytes | None = None

    @property
    def whole(self) -> bytes:
        """What they are together."""
        return (self.init or b"") + b"".join(self.segments)


def cut(
    clips: Path,
    packing: Packing = "ts",
    *,
    seconds: int = 8,
    size: str = PIXELS,
    both: bool = True,
    begins_at: float = 0.0,
) -> Cut:
    """A test picture with a tone (or, not `both`, one of them), in segments of one second from `begins_at` on."""
    key = hashlib.sha256(repr((packing, seconds, size, both, begins_at, H264, AAC)).encode()).hexdigest()[:12]
    folder_of_clip = clips / f"cut-{packing}-{key}"
    if not folder_of_clip.exists():
        clips.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=clips, prefix=".making-") as work:
            folder = Path(work) / "cut"
            folder.mkdir()
            _run(_command(packing, seconds, size, both, begins_at), folder)
            with contextlib.suppress(OSError):  # another worker was faster
                folder.rename(folder_of_clip)
    init = folder_of_clip / "init.mp4"
    segments = tuple(path.read_bytes() for path in sorted(folder_of_clip.glob("segment-*")))
    return Cut(segments, init.read_bytes() if init.exists() else None)


def presentation(clips: Path, *, timeline: bool, single: bool = False, seconds: int = 6) -> dict[str, bytes]:
    """What ffmpeg makes of a picture in two sizes with a tone as DASH: `list.mpd` and all that it leads to."""
    options = ("-use_timeline", str(int(timeline)), "-use_template", "1", "-single_file", str(int(single)))
    key = hashlib.sha256(repr((options, seconds, H264, AAC)).encode()).hexdigest()[:12]
    folder_of_clip = clips / f"dash-{key}"
    if not folder_of_clip.exists():
        clips.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=clips, prefix=".making-") as work:
            folder = Path(work) / "dash"
            folder.mkdir()
            sizes = ("-map", "0:v", "-map", "0:v", "-map", "1:a", "-s:v:0", PIXELS, "-s:v:1", "192x144")
            rates = ("-b:v:0", "200k", "-b:v:1", "600k")
            sets = ("-adaptation_sets", "id=0,streams=v id=1,streams=a", "-seg_duration", "1", *options)
            _run([*_inputs(seconds, "320x240"), *sizes, *H264, *rates, *AAC, "-f", "dash", *sets, "list.mpd"], folder)
            with contextlib.suppress(OSError):  # another worker was faster
                folder.rename(folder_of_clip)
    return {path.name: path.read_bytes() for path in sorted(folder_of_clip.iterdir())}


def encrypt(content: bytes, key: bytes, iv: int | bytes) -> bytes:
    """AES-128-CBC with padding, as HLS has it."""
    vector = iv if isinstance(iv, bytes) else iv.to_bytes(16, "big")
    padding, cipher = PKCS7(128).padder(), Cipher(AES(key), CBC(vector)).encryptor()
    return cipher.update(padding.update(content) + padding.finalize()) + cipher.finalize()


def hls_text(
    links: Iterable[str],
    *,
    sequence: int = 0,
    before: Mapping[int, Sequence[str]] | None = None,
    seconds: float = 1.0,
    ended: bool = True,
    head: Sequence[str] = (),
) -> bytes:
    """A media playlist. `before` gives tags by the place, from 0, of the segment that they stand before."""
    lines = ["#EXTM3U", "#EXT-X-VERSION:7", f"#EXT-X-TARGETDURATION:{round(seconds) or 1}"]
    lines += [f"#EXT-X-MEDIA-SEQUENCE:{sequence}", *head]
    for place, link in enumerate(links):
        lines += [*(before or {}).get(place, ()), f"#EXTINF:{seconds:.5f},", link]
    return "\n".join([*lines, *(["#EXT-X-ENDLIST"] if ended else []), ""]).encode()


def ladder(renditions: Mapping[str, str], *, media: Sequence[str] = (), also: str = "") -> bytes:
    """A master playlist: link → size and bandwidth such as `1280x720@2800000`; `also` goes into each line."""
    lines = ["#EXTM3U", *media]
    for link, size_at_rate in renditions.items():
        size, _, rate = size_at_rate.partition("@")
        shown = f",RESOLUTION={size}" if size else ""
        lines += [f"#EXT-X-STREAM-INF:BANDWIDTH={rate}{shown}{also}", link]
    return "\n".join([*lines, ""]).encode()


def name_segments(cut: Cut, pattern: str) -> dict[str, bytes]:
    """The segments as files of an origin: `pattern` such as `s{}.ts`."""
    return {pattern.format(number): segment for number, segment in enumerate(cut.segments)}


def _command(packing: Packing, seconds: int, size: str, both: bool, begins_at: float) -> list[str]:
    picture, sound = _inputs(seconds, size)[:4], _inputs(seconds, size)[4:]
    inputs = {"sound": sound}.get(packing, (*picture, *sound) if both else picture)
    codecs = (() if packing == "sound" else (*H264, "-bf", "0")) + (AAC if both or packing == "sound" else ())
    shift = ("-output_ts_offset", f"{begins_at:g}", "-muxdelay", "0", "-muxpreload", "0")
    if packing == "mp4":
        packed = ("-hls_segment_type", "fmp4", "-hls_fmp4_init_filename", "init.mp4")
        name = "segment-%03d.m4s"
    else:
        packed, name = ("-hls_segment_type", "mpegts"), "segment-%03d.ts"
    cut_ = ("-f", "hls", "-hls_time", "1", "-hls_playlist_type", "vod", *packed, "-hls_segment_filename", name)
    return [*inputs, *codecs, "-shortest", "-flags", "+bitexact", "-fflags", "+bitexact", *shift, *cut_, "list.m3u8"]


def _inputs(seconds: int, size: str) -> tuple[str, ...]:
    picture = ("-f", "lavfi", "-i", f"testsrc2=size={size}:rate={FRAME_RATE}:duration={seconds}")
    return (*picture, "-f", "lavfi", "-i", f"sine=frequency=440:sample_rate=48000:duration={seconds}")


def _run(arguments: list[str], folder: Path) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y", *arguments]
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ffmpeg failed with {done.returncode}: {' '.join(command)}\n{done.stderr}")

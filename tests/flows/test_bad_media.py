"""Files that are hardly media, through the real command: each a verified result or a failure of a known type.

All go in one batch, as they would in an archive of a thousand: one bad file may not hold up the others, nor take more
time or memory than a healthy one.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest

from tests.support.aftermath import left_running
from tests.support.clips import AAC, BOTH, H264, PICTURE, SOUND, Recipe, clip, lavfi, make
from tests.support.command import Command
from tests.support.leaks import leftovers

MOST_SECONDS = 240.0
"""For all of them; each takes a second or two, and the command its start."""
MOST_MEMORY_BYTES = 1024**3
"""Resident, of the largest single process; decoding 160x120 takes some 100 MB."""


@dataclass(frozen=True)
class Ending:
    """How a file may end; no failure means a verified result."""

    failures: tuple[str, ...] = ()
    may_succeed: bool = True


WHOLE = Ending()
REFUSED = Ending(("not_media",), may_succeed=False)
DAMAGED = Ending(("truncated_media", "verification_failed", "refused_by_muxer", "bad_timestamps", "not_media"))

ENDINGS = {
    "flipped-0.ts": DAMAGED,
    "flipped-1.ts": DAMAGED,
    "flipped-header.ts": DAMAGED,
    "nothing-in-it.mp4": Ending(("not_media", "truncated_media"), may_succeed=False),
    "no-size.avi": Ending(("not_media", "verification_failed", "refused_by_muxer"), may_succeed=False),
    "only-sound.wav": WHOLE,
    "only-picture.mp4": WHOLE,
    "still.mp4": REFUSED,
    "garbage.mp4": REFUSED,
    "forty-streams.mkv": WHOLE,
    'it\'s "quoted" & $HOME.mp4': WHOLE,
    "two\nlines.mp4": WHOLE,
    "-rf.mp4": WHOLE,
    "file:concat|x.mp4": WHOLE,
    "growing.ts": Ending(("source_changed", *DAMAGED.failures)),
}

FEW = ("flipped-0.ts", "no-size.avi", "still.mp4", "two\nlines.mp4", "-rf.mp4", "growing.ts")
"""Those of the quick suite; all of them go with the slow tests."""


def flipped(content: bytes, seed: int, *, first: int = 0, end: int | None = None, every: int = 400) -> bytes:
    """The same length, with a random byte in some places."""
    chance, damaged = random.Random(seed), bytearray(content)
    for at in range(first, end or len(content), every):
        damaged[at + chance.randrange(min(every, len(content) - at))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def without_size(avi: bytes) -> bytes:
    """An AVI whose headers say 0x0: width and height in `avih`, and in the stream's BITMAPINFOHEADER."""
    damaged = bytearray(avi)
    for mark, offset in ((b"avih", 8 + 32), (b"strf", 8 + 4)):
        at = damaged.index(mark) + offset
        damaged[at : at + 8] = bytes(8)
    return bytes(damaged)


def nothing_in_it(folder: Path) -> bytes:
    """An MP4 with a track and no sample."""
    empty = folder / "empty.mp4"
    source = ["-f", "lavfi", "-i", "testsrc2=size=160x120:duration=1", "-t", "0", "-c:v", "libx264", "-y", str(empty)]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "quiet", *source], check=False)
    return empty.read_bytes()


def laid_out(folder: Path, clips: Path) -> dict[str, Path]:
    film = clip(clips, seconds=1, size="160x120").read_bytes()
    stream = clip(clips, "h264_aac_ts", seconds=4, size="160x120").read_bytes()
    raw = Recipe(".avi", lavfi(PICTURE), ("-c:v", "rawvideo", "-pix_fmt", "bgr24", "-r", "5"))
    still = Recipe(".jpg", lavfi(PICTURE), ("-frames:v", "1", "-update", "1"))
    many = Recipe(".mkv", BOTH, ("-map", "0:v", *["-map", "1:a"] * 39, *H264, *AAC))
    contents: dict[str, bytes] = {
        "flipped-0.ts": flipped(stream, 0),
        "flipped-1.ts": flipped(stream, 1, every=188 * 40),
        "flipped-header.ts": flipped(stream, 2, end=188 * 4, every=8),
        "nothing-in-it.mp4": nothing_in_it(folder),
        "no-size.avi": without_size(make(clips, "raw", raw, seconds=1, size="160x120").read_bytes()),
        "only-sound.wav": make(
            clips, "sound", Recipe(".wav", lavfi(SOUND), ("-c:a", "pcm_s16le")), seconds=1, size=""
        ).read_bytes(),
        "only-picture.mp4": clip(clips, "video_only_mp4", seconds=1, size="160x120").read_bytes(),
        "still.mp4": make(clips, "still", still, seconds=1, size="160x120").read_bytes(),
        "garbage.mp4": random.Random(3).randbytes(300_000),
        "forty-streams.mkv": make(clips, "forty", many, seconds=1, size="160x120").read_bytes(),
        "growing.ts": stream,
    }
    inputs = folder / "in"
    inputs.mkdir()
    for number, name in enumerate(ENDINGS):
        # Each a file of its own: the same bytes and the same name would be the same work.
        (inputs / name).write_bytes(contents.get(name, film + bytes([0, 0, 0, 9]) + b"free" + bytes([number])))
    return {name: inputs / name for name in ENDINGS}


@contextmanager
def growing(path: Path) -> Iterator[None]:
    """Somebody writes on at the file for as long as the block lasts."""
    more, ended = path.read_bytes()[: 188 * 50], threading.Event()

    def write() -> None:
        while not ended.wait(0.2):
            with path.open("ab") as file:
                file.write(more)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.timeout(MOST_SECONDS + 30)
@pytest.mark.parametrize("names", [FEW, pytest.param(tuple(ENDINGS), marks=pytest.mark.slow)], ids=["few", "all"])
def test_hardly_media_is_a_verified_result_or_a_known_failure(
    names: tuple[str, ...], command: Command, clips: Path, tmp_path: Path
) -> None:
    paths = laid_out(tmp_path, clips)
    with growing(paths["growing.ts"]):
        ended = command.run(*(paths[name].as_posix() for name in names), "--until", "remux", timeout=MOST_SECONDS)
    assert "Traceback" not in ended.stderr
    results = ended.document["results"]
    assert len(results) == len(names)
    wrong = [f"{name!r}: {_told(one)}" for name, one in zip(names, results, strict=True) if not _fits(name, one)]
    assert wrong == [], "\n".join(wrong)
    assert left_running(command) == []
    assert leftovers(command.home / "tidegate" / "scratch", ("*.partial",)) == []
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < MOST_MEMORY_BYTES


def test_forty_streams_are_forty_streams(command: Command, clips: Path, tmp_path: Path) -> None:
    path = laid_out(tmp_path, clips)["forty-streams.mkv"]
    ended = command.run(str(path), "--until", "remux")
    assert ended.code == 0, ended.stderr
    (manifest,) = (command.home / "tidegate" / "assets").rglob("media.mp4")
    probed = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(manifest)], capture_output=True, text=True
    )
    assert probed.stderr.count("Audio: aac") == 39


def _fits(name: str, result: dict[str, Any]) -> bool:
    ending = ENDINGS[name]
    if result["status"] == "completed":
        return ending.may_succeed and result["output"]["verification"]["depth"] == "full"
    return result["failure"]["type"] in ending.failures and bool(result["failure"]["suggested_actions"])


def _told(result: dict[str, Any]) -> str:
    failure = result["failure"] or {}
    return json.dumps([result["status"], failure.get("type"), failure.get("message"), result["findings"]])

"""A tool that has been taken over by the bytes that it reads: through the real command it reaches nobody, reads no
secret and writes nothing but its output. A source that would take all memory, or names a codec of a game, is told so.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import pytest

from tests.process.test_confine import listener
from tests.support.aftermath import failure_told, left_running
from tests.support.clips import clip
from tests.support.command import Command
from tidegate.process.confine import kernel_features

TAKEN_OVER = """#!{python} -I
import json, os, socket, sys
if sys.argv[-1] == "-version":
    sys.exit(print("ffmpeg version 9.9"))
if "-filters" in sys.argv or "-i" not in sys.argv:
    sys.exit(0)
found = {{"environment": sorted(os.environ)}}
def attempt(name, act):
    try:
        found[name] = repr(act())
    except OSError as error:
        found[name] = "refused"
attempt("connect", lambda: socket.create_connection(("127.0.0.1", {port}), 5))
attempt("password", lambda: open({password!r}).read())
attempt("key", lambda: open({key!r}).read())
attempt("escape", lambda: open({escape!r}, "w").write("x"))
attempt("ours", lambda: open(f"/proc/{{os.getppid()}}/environ").read())
attempt("source", lambda: len(open(sys.argv[sys.argv.index("-i") + 1].removeprefix("file:"), "rb").read()) > 0)
print("FOUND " + json.dumps(found), file=sys.stderr)
sys.exit(1)
"""


@pytest.mark.skipif(not kernel_features().whole, reason="this kernel confines nothing")
def test_a_tool_that_was_taken_over_gets_nothing(command: Command, clips: Path, tmp_path: Path) -> None:
    tool, escape = tmp_path / "tool" / "ffmpeg", tmp_path / "escape"
    password, key = command.home / "tidegate" / "secrets" / "password", command.home / ".ssh" / "id_ed25519"
    for path in (tool, password, key):
        path.parent.mkdir(parents=True, exist_ok=True)
    password.write_text("secret")
    key.write_text("secret")
    command.environment |= {"TIDEGATE_TOOLS_FFMPEG": str(tool), "AWS_SECRET_ACCESS_KEY": "secret"}
    with listener() as (port, came):
        words = {"port": port, "password": str(password), "key": str(key), "escape": str(escape)}
        tool.write_text(TAKEN_OVER.format(python=sys.executable, **words))
        tool.chmod(0o755)
        ended = command.run(str(clip(clips, "h264_aac_mp4", seconds=2)))
    output = json.dumps(ended.failure)
    told = next(log for log in command.output.rglob("*.err.log")).read_text() + output
    [line] = {line.partition("FOUND ")[2] for line in told.splitlines() if line.lstrip().startswith("FOUND ")}
    found = json.loads(line)
    assert came == []
    assert not {name for name in found.pop("environment") if name.startswith(("AWS", "PREFECT", "TIDEGATE_HOME"))}
    assert found.pop("source") == "True"
    assert found == dict.fromkeys(("connect", "password", "key", "escape", "ours"), "refused")
    assert not escape.exists()
    assert left_running(command) == []


# --- sources that are all promise -----------------------------------------------------------------


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


SAMPLES = 150_000_000
"""As many as a demuxer believes; it takes 24 bytes for each."""


def endless_table(clip_path: Path) -> bytes:
    """An MP4 whose tables claim so many samples of one size, in four bytes each."""
    data = bytearray(clip_path.read_bytes())
    place = data.find(b"stsz")
    data[place + 8 : place + 16] = struct.pack(">II", 1, SAMPLES)
    place = data.find(b"stts")
    data[place + 12 : place + 16] = struct.pack(">I", SAMPLES)
    place = data.find(b"stsc")
    data[place + 16 : place + 20] = struct.pack(">I", SAMPLES)
    return bytes(data)


def huge_picture(clip_path: Path) -> bytes:
    """A film of PNG pictures, 16,000 pixels wide and high: 250 kB each, and a thousand times as much when opened."""
    side = 16_000

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    lines, squeezed = bytes(side + 1), zlib.compressobj(1)
    body = b"".join([*(squeezed.compress(lines) for _ in range(side)), squeezed.flush()])
    return in_matroska("png", b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", body) + chunk(b"IEND", b""), clip_path)


def in_matroska(codec: str, packet: bytes, near: Path, packets: int = 8) -> bytes:
    """A film whose packets are these bytes."""
    path = near.with_name(f"{codec}.nut")
    with av.open(str(path), "w", format="nut") as container:
        stream = container.add_mux_stream(codec, rate=25, width=64, height=64)
        for number in range(packets):
            one = av.Packet(packet)
            one.stream, one.pts, one.dts, one.is_keyframe = stream, number, number, True
            one.time_base = Fraction(1, 25)
            container.mux(one)
    return path.read_bytes()


def huge_element(clip_path: Path) -> bytes:
    """A Matroska whose first cluster says that it is as long as a disk."""
    return bytes.fromhex("1a45dfa3a34286810142f7810142f2810442f381084282886d6174726f736b614287810442858102") + (
        bytes.fromhex("18538067")
        + b"\x01"
        + b"\xff" * 7
        + bytes.fromhex("1941a469")
        + b"\x08"
        + b"\xff" * 7
        + bytes(4096)
    )


def huge_cover(clip_path: Path) -> bytes:
    """A FLAC whose picture says that it has nearly 16 MB and is 4,000 million pixels wide."""
    info = bytes.fromhex("1000100000000000000ac442f000000000") + bytes(17)
    name = struct.pack(">II", 3, 0xFFFFFFF0) + b"image/png"
    return b"fLaC" + b"\x00" + struct.pack(">I", 34)[1:] + info + b"\x86" + b"\xff\xff\xff" + name + bytes(64)


REFUSED = {"not_media", "refused_by_muxer", "verification_failed", "memory_exhausted"}
HOSTILE: dict[str, tuple[Callable[[Path], bytes], set[str]]] = {
    "a table without end": (
        endless_table,
        {"not_media", "memory_exhausted", "refused_by_muxer", "verification_failed"},
    ),
    "a huge picture": (huge_picture, {"memory_exhausted"}),
    "a huge element": (huge_element, {"not_media", "memory_exhausted"}),
    "a huge cover": (huge_cover, {"not_media", "memory_exhausted"}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_source_that_is_all_promise_ends_typed_and_within_its_memory(
    what: str, command: Command, clips: Path, tmp_path: Path
) -> None:
    build, kinds = HOSTILE[what]
    small = tmp_path / "small.mp4"
    small.write_bytes(clip(clips, "h264_aac_mp4", seconds=2).read_bytes())
    source = tmp_path / "hostile.bin"
    source.write_bytes(build(small))
    command.environment["TIDEGATE_PROCESS_TOOL_MEMORY_CAP"] = "200000000"
    ended = command.run(str(source), timeout=240)
    assert ended.code == 1, ended.document
    assert ended.failure["type"] in kinds, ended.failure
    assert left_running(command) == []


@pytest.mark.parametrize(("suffix", "tag", "codec"), [("avi", b"KMVC", "kmvc"), ("mov", b"tiff", "tiff")])
@pytest.mark.first
def test_a_codec_that_is_not_accepted_is_told_by_its_name(
    suffix: str, tag: bytes, codec: str, command: Command, clips: Path, tmp_path: Path
) -> None:
    """Of a game, and of still pictures, under names that their containers know."""
    source = tmp_path / f"film.{suffix}"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame(64, 64, "yuvj420p")))
        container.mux(stream.encode(None))
    usual = b"MJPG" if suffix == "avi" else b"jpeg"
    source.write_bytes(source.read_bytes().replace(usual, tag))
    failure = failure_told(command.run(str(source)), code=1, kind="unsupported_codec")
    assert codec in failure["message"]

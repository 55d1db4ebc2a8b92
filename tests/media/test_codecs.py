"""One table for what is accepted as media and for which decoders may be opened: held against the ffmpeg and the PyAV
that are at hand, and against everything else here that names a codec.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import anyio
import av
import pytest
from av.codec import Codec

from tidegate.errors import TidegateError, UnsupportedCodec
from tidegate.events import ignore_events
from tidegate.media.codecs import ACCEPTED, COVER, DECODERS, FILM, OTHER_DECODERS, SOUND, SUBTITLES
from tidegate.media.ffmpeg import Toolchain, base_arguments, run_ffmpeg
from tidegate.media.inspect import inspect
from tidegate.settings import ProcessSettings, ToolSettings
from tidegate.stages import decide

HARDWARE = re.compile(r"_(?:cuvid|qsv|v4l2m2m|amf|mediacodec|rkmpp|mmal|vaapi|at|mf|oh)$")


def decoders_of_ffmpeg() -> dict[str, list[str]]:
    """Codec → its decoders, of the ffmpeg that runs use."""
    argv = [str(Toolchain.find(ToolSettings()).ffmpeg), "-hide_banner", "-codecs"]
    found = {}
    for line in subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines():
        if match := re.match(r"^ D[E.][VAS]\S{3} (\S+)", line):
            named = re.search(r"\(decoders: ([^)]*)\)", line)
            found[match[1]] = named[1].split() if named else [match[1]]
    assert len(found) > 300
    return found


def decoders_of_pyav() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in sorted(av.codecs_available):
        try:
            found.setdefault(Codec(name, "r").canonical_name, []).append(name)
        except ValueError:  # it only encodes
            continue
    return found


@pytest.mark.parametrize("decoders", [decoders_of_ffmpeg, decoders_of_pyav])
def test_what_is_accepted_can_be_opened_and_nothing_else(decoders: object) -> None:
    there = decoders()  # type: ignore[operator]
    software = {codec: [n for n in names if not HARDWARE.search(n)] for codec, names in there.items()}
    locked_out = {codec: names for codec, names in software.items() if codec in ACCEPTED and set(names) - set(DECODERS)}
    assert locked_out == {}
    opened = {codec: names for codec, names in software.items() if codec not in ACCEPTED and set(names) & set(DECODERS)}
    assert opened == {}


def test_every_name_in_the_table_is_a_codec() -> None:
    argv = [str(Toolchain.find(ToolSettings()).ffmpeg), "-hide_banner", "-codecs"]
    words = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    known = {*words, *decoders_of_pyav()}
    assert {name for name in ACCEPTED if name not in known} == set()
    assert set(OTHER_DECODERS) <= ACCEPTED
    for names in (FILM, SOUND, COVER, SUBTITLES):
        assert len(names) == len(set(names))


def test_whatever_a_plan_keeps_is_accepted() -> None:
    planned = decide.MATROSKA_SUBTITLES | decide.TEXT_SUBTITLES | decide.MP4_COVERS | set(decide.COVERS)
    planned |= set(decide.PICTURE_SUBTITLES)
    for allowed in decide.ALLOWED.values():
        planned |= allowed.video | allowed.audio
    assert planned <= ACCEPTED
    assert set(decide.COVERS) == set(COVER)


@pytest.fixture
def still_pictures(tmp_path: Path) -> Path:
    """A QuickTime film whose pictures are TIFF, by its own account."""
    path = tmp_path / "film.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame(64, 64, "yuvj420p")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"jpeg", b"tiff"))
    return path


@pytest.mark.parametrize("depth", ["header", "packets", "sampled", "frames"])
def test_another_codec_is_refused_by_its_name_at_every_depth(depth: str, still_pictures: Path) -> None:
    with pytest.raises(UnsupportedCodec, match="codec tiff"):
        anyio.run(look, still_pictures, depth)


async def look(path: Path, depth: str) -> None:
    await inspect(path, depth, ProcessSettings(), 60.0, stage="probe", observe=ignore_events)  # type: ignore[arg-type]


def test_ffmpeg_does_not_open_it_either(still_pictures: Path) -> None:
    argv = [*base_arguments(Toolchain.find(ToolSettings()).ffmpeg, still_pictures), "-f", "null", "-"]
    heard: list[str] = []

    async def main() -> None:
        await run_ffmpeg(
            argv,
            stage="remux",
            limits=ProcessSettings(),
            deadline_seconds=60,
            media_seconds=1,
            observe=ignore_events,
            on_stderr=heard.append,
        )

    with pytest.raises(TidegateError) as refused:
        anyio.run(main)
    assert any("whitelist" in line for line in heard)
    assert "-codec_whitelist" not in refused.value.evidence.command, "three kilobytes of noise"

"""The grid of inputs that the decision table speaks of: what is made of each, under each profile, through the stages.

`tests/stages/test_matrix.py` holds every row to its expectation; `python -m tests.support.matrix` prints the table, and
its last output is kept in docs/evidence/matrix.txt. ffmpeg makes the inputs; files that are named after the command,
such as recordings of real devices, are shown below them.
"""

from __future__ import annotations

import argparse
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import imageio_ffmpeg
from pydantic import SecretStr

from tests.support.clips import AAC, BOTH, FASTSTART, H264, HEVC, PICTURE, SOUND, SUBTITLES, VP9, Recipe, lavfi, make
from tidegate import stages
from tidegate.errors import TidegateError
from tidegate.model import DownloadResult, MediaInfo, ProfileName, Quality, RemuxResult, Source
from tidegate.settings import Settings, StoreSettings
from tidegate.stages import Workbench
from tidegate.stages.decide import ALLOWED

SECONDS, SIZE = 2.0, "160x120"

KEEP, REMADE, MATROSKA = "copy mp4 copy+copy", "transcode mp4 h264+aac", "copy matroska copy+copy"
PICTURE_REMADE, SOUND_REMADE = "transcode mp4 h264+copy", "transcode mp4 copy+aac"

ASS = """[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,20

[Events]
Format: Layer, Start, End, Style, Text
Dialogue: 0,0:00:00.50,0:00:01.50,Default,{\\b1}First{\\b0} line
"""


@dataclass(frozen=True)
class Row:
    """One input, and what must come of it: strategy, container, picture and sound, for each profile."""

    name: str
    recipe: Recipe
    universal: str
    modern: str
    original: str
    size: str = SIZE
    findings: Mapping[ProfileName, frozenset[str]] = field(default_factory=dict)
    """Codes beyond `length_unconfirmed`."""
    often: bool = False
    """Also in the quick suite."""

    def expected(self, profile: ProfileName) -> str:
        told: str = getattr(self, profile.value)
        return told


def _row(name: str, suffix: str, options: tuple[str, ...], expected: tuple[str, str, str], **more: object) -> Row:
    inputs = more.pop("inputs", BOTH)
    files = more.pop("files", {})
    recipe = Recipe(suffix, inputs, options, files)  # type: ignore[arg-type]
    return Row(name, recipe, *expected, **more)  # type: ignore[arg-type]


def _video(*words: str) -> tuple[str, ...]:
    return ("-c:v", *words)


def _x264(pixels: str, *more: str) -> tuple[str, ...]:
    return ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", pixels, *more)


def _hdr(transfer: str) -> tuple[str, ...]:
    colours = f"colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc:log-level=error"
    marks = ("-color_primaries", "bt2020", "-color_trc", transfer, "-colorspace", "bt2020nc", "-tag:v", "hvc1")
    return ("-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p10le", "-x265-params", colours, *marks)


FIELDS = lavfi(PICTURE.replace("rate=25", "rate=50"), SOUND)
LIFE = lavfi("life=size={size}:rate=25:random_seed=7", SOUND)
"""Pictures that idet knows for whole ones; of test cards it says now this, now that."""
BY_FIELDS = ("-preset", "veryfast", "-flags", "+ilme+ildct", "-x264-params", "tff=1")
INTERLACED = ("-vf", "tinterlace=interleave_top,setfield=tff")
MIXED_TIMES = (
    "-vf",
    "select='not(mod(n,3))+between(mod(n,25),15,20)'",
    "-fps_mode",
    "vfr",
    "-enc_time_base",
    "1/90000",
)

EVERYWHERE = (KEEP, KEEP, KEEP)
ONLY_UNIVERSAL = (REMADE, KEEP, KEEP)
PICTURE_UNIVERSAL = (PICTURE_REMADE, KEEP, KEEP)
PICTURE_BOTH = (PICTURE_REMADE, PICTURE_REMADE, KEEP)
SOUND_UNIVERSAL = (SOUND_REMADE, KEEP, KEEP)
SOUND_BOTH = (SOUND_REMADE, SOUND_REMADE, MATROSKA)
ALL_REMADE = (REMADE, REMADE, MATROSKA)

UNIVERSAL, MODERN, ORIGINAL = ProfileName.UNIVERSAL, ProfileName.MODERN, ProfileName.ORIGINAL


def _everywhere(*codes: str) -> dict[ProfileName, frozenset[str]]:
    return dict.fromkeys(ProfileName, frozenset(codes))


CONTAINERS = [
    _row("h264+aac mp4", ".mp4", (*H264, *AAC, *FASTSTART), EVERYWHERE, often=True),
    _row("h264+aac mov", ".mov", (*H264, *AAC), EVERYWHERE),
    _row("h264+aac mkv", ".mkv", (*H264, *AAC), EVERYWHERE),
    _row("h264+aac ts", ".ts", (*H264, *AAC), EVERYWHERE, often=True),
    _row("h264+aac flv", ".flv", (*H264, *AAC), EVERYWHERE),
    _row("h264+aac fragmented mp4", ".mp4", (*H264, *AAC, "-movflags", "+frag_keyframe+empty_moov"), EVERYWHERE),
    _row("h264+mp3 avi", ".avi", (*H264, "-bf", "0", "-c:a", "libmp3lame"), SOUND_UNIVERSAL),
]

PICTURES = [
    _row("h264 baseline", ".mp4", (*H264, "-profile:v", "baseline", *AAC), EVERYWHERE),
    _row("h264 full range", ".mp4", (*_x264("yuvj420p"), *AAC), EVERYWHERE),
    _row("h264 10 bit", ".mp4", (*_x264("yuv420p10le"), *AAC), PICTURE_BOTH, often=True),
    _row("h264 4:2:2", ".mp4", (*_x264("yuv422p"), *AAC), PICTURE_BOTH),
    _row("h264 4:4:4", ".mp4", (*_x264("yuv444p"), *AAC), PICTURE_BOTH),
    _row("h264 lossless 4:2:0", ".mp4", (*_x264("yuv420p", "-qp", "0"), *AAC), PICTURE_BOTH),
    _row("h264 level 6.2", ".mp4", (*_x264("yuv420p", "-level", "6.2"), *AAC), PICTURE_UNIVERSAL),
    _row("hevc hvc1", ".mp4", (*HEVC, "-tag:v", "hvc1", *AAC), PICTURE_UNIVERSAL),
    _row("hevc hev1", ".mp4", (*HEVC, "-tag:v", "hev1", *AAC), PICTURE_UNIVERSAL, often=True),
    _row("hevc ts", ".ts", (*HEVC, *AAC), PICTURE_UNIVERSAL),
    _row("hevc 4:2:2", ".mkv", (*(w.replace("yuv420p", "yuv422p") for w in HEVC), *AAC), PICTURE_BOTH),
    _row("vp8+vorbis webm", ".webm", _video("libvpx", "-deadline", "realtime", "-c:a", "libvorbis"), ALL_REMADE),
    _row("vp9+opus webm", ".webm", (*VP9, "-c:a", "libopus"), ONLY_UNIVERSAL, often=True),
    _row("av1+opus mkv", ".mkv", (*_video("libsvtav1", "-preset", "12"), "-c:a", "libopus"), ONLY_UNIVERSAL),
    _row("mpeg1+mp2 mpg", ".mpg", (*_video("mpeg1video", "-b:v", "1M"), "-c:a", "mp2"), ALL_REMADE),
    _row("mpeg2+mp2 mpg", ".mpg", (*_video("mpeg2video", "-b:v", "1M"), "-c:a", "mp2"), ALL_REMADE),
    _row("mpeg2+ac3 ts", ".ts", _video("mpeg2video", "-b:v", "1M", "-c:a", "ac3"), (REMADE, PICTURE_REMADE, MATROSKA)),
    _row("mpeg4+mp3 avi", ".avi", _video("mpeg4", "-q:v", "5", "-c:a", "libmp3lame"), (REMADE, PICTURE_REMADE, KEEP)),
    _row("msmpeg4+mp3 avi", ".avi", _video("msmpeg4", "-c:a", "libmp3lame"), (REMADE, PICTURE_REMADE, MATROSKA)),
    _row("wmv2+wmav2 wmv", ".wmv", _video("wmv2", "-c:a", "wmav2"), ALL_REMADE),
    _row("h263+aac 3gp", ".3gp", (*_video("h263"), *AAC), (PICTURE_REMADE, PICTURE_REMADE, MATROSKA), size="176x144"),
    _row(
        "flv1+mp3 flv", ".flv", _video("flv", "-c:a", "libmp3lame", "-ar", "44100"), (REMADE, PICTURE_REMADE, MATROSKA)
    ),
    _row("theora+vorbis ogv", ".ogv", _video("libtheora", "-c:a", "libvorbis"), ALL_REMADE),
    _row("mjpeg+pcm avi", ".avi", _video("mjpeg", "-pix_fmt", "yuvj420p", "-c:a", "pcm_s16le"), ALL_REMADE),
    _row("prores+pcm mov", ".mov", _video("prores", "-c:a", "pcm_s24le"), ALL_REMADE),
    _row("ffv1+flac mkv", ".mkv", _video("ffv1", "-c:a", "flac"), (REMADE, PICTURE_REMADE, MATROSKA)),
    _row(
        "dv+pcm avi",
        ".avi",
        _video("dvvideo", "-pix_fmt", "yuv420p", "-c:a", "pcm_s16le"),
        ALL_REMADE,
        size="720x576",
    ),
]

SOUNDS = [
    _row("ac3", ".mkv", (*H264, "-c:a", "ac3"), SOUND_UNIVERSAL, often=True),
    _row("eac3", ".mkv", (*H264, "-c:a", "eac3"), SOUND_UNIVERSAL),
    _row("dts", ".mkv", (*H264, "-c:a", "dca", "-strict", "-2"), SOUND_BOTH),
    _row("opus", ".mkv", (*H264, "-c:a", "libopus"), SOUND_UNIVERSAL),
    _row("flac", ".mkv", (*H264, "-c:a", "flac"), SOUND_UNIVERSAL),
    _row("alac", ".mov", (*H264, "-c:a", "alac"), SOUND_UNIVERSAL),
    _row("pcm 16", ".mov", (*H264, "-c:a", "pcm_s16le"), SOUND_BOTH),
    _row("pcm 24 at 96 kHz", ".mkv", (*H264, "-c:a", "pcm_s24le", "-ar", "96000"), SOUND_BOTH, often=True),
    _row("vorbis", ".mkv", (*H264, "-c:a", "libvorbis"), SOUND_BOTH),
    _row("mp2", ".ts", (*H264, "-c:a", "mp2"), SOUND_BOTH),
    _row("mp3", ".mp4", (*H264, "-c:a", "libmp3lame"), SOUND_UNIVERSAL),
    _row("truehd", ".mkv", (*H264, "-c:a", "truehd", "-strict", "-2", "-ac", "2"), SOUND_BOTH),
    _row("aac 5.1", ".mp4", (*H264, "-c:a", "aac", "-ac", "6"), EVERYWHERE),
    _row("pcm 7.1", ".mkv", (*H264, "-c:a", "pcm_s16le", "-ac", "8"), SOUND_BOTH),
    _row(
        "only mp3",
        ".mp3",
        ("-c:a", "libmp3lame"),
        ("transcode mp4 none+aac", *["copy mp4 none+copy"] * 2),
        inputs=lavfi(SOUND),
    ),
    _row(
        "only flac",
        ".flac",
        ("-c:a", "flac"),
        ("transcode mp4 none+aac", *["copy mp4 none+copy"] * 2),
        inputs=lavfi(SOUND),
    ),
    _row(
        "only wav",
        ".wav",
        ("-c:a", "pcm_s16le"),
        ("transcode mp4 none+aac",) * 2 + ("copy matroska none+copy",),
        inputs=lavfi(SOUND),
    ),
    _row(
        "three tracks",
        ".mkv",
        (
            *("-map", "0:v", "-map", "1:a", "-map", "1:a", "-map", "1:a", *H264, *AAC, "-c:a:1", "ac3"),
            *("-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=deu", "-metadata:s:a:2", "language=jpn"),
            *("-disposition:a:0", "0", "-disposition:a:1", "default", "-disposition:a:2", "0"),
        ),
        SOUND_UNIVERSAL,
        often=True,
    ),
]

TONE_MAPPED = {UNIVERSAL: frozenset({"hdr_tone_mapped"})}
SHAPES = [
    _row(
        "interlaced",
        ".ts",
        (*INTERLACED, *H264, *BY_FIELDS, *AAC),
        PICTURE_UNIVERSAL,
        inputs=FIELDS,
        often=True,
    ),
    _row(
        "interlaced, told as progressive",
        ".mkv",
        (*INTERLACED, *_video("mpeg2video", "-b:v", "2M"), *AAC),
        (PICTURE_REMADE, PICTURE_REMADE, MATROSKA),
        inputs=FIELDS,
    ),
    _row(
        "progressive, told as interlaced",
        ".ts",
        (*H264, *BY_FIELDS, *AAC, "-t", "{seconds}"),
        EVERYWHERE,
        inputs=LIFE,
    ),
    _row("variable rate", ".mp4", (*MIXED_TIMES, *H264, *AAC), EVERYWHERE),
    _row("variable rate, encoded", ".mkv", (*MIXED_TIMES, *HEVC, *AAC), PICTURE_UNIVERSAL, often=True),
    _row("odd size", ".mkv", (*_video("ffv1"), *AAC), (PICTURE_REMADE, PICTURE_REMADE, MATROSKA), size="161x121"),
    _row(
        "anamorphic", ".mpg", (*_video("mpeg2video"), "-vf", "setsar=16/11", "-c:a", "mp2"), ALL_REMADE, size="176x144"
    ),
    _row("anamorphic, copied", ".mp4", (*H264, "-vf", "setsar=16/11", *AAC), EVERYWHERE, size="176x144"),
    _row("hdr pq", ".mp4", (*_hdr("smpte2084"), *AAC), PICTURE_UNIVERSAL, findings=TONE_MAPPED, often=True),
    _row("hdr hlg", ".mp4", (*_hdr("arib-std-b67"), *AAC), PICTURE_UNIVERSAL, findings=TONE_MAPPED),
    _row("only pictures", ".mp4", H264, ("copy mp4 copy+none",) * 3, inputs=lavfi(PICTURE)),
    _row(
        "srt",
        ".mkv",
        ("-map", "0:v", "-map", "1:a", "-map", "2:s", *H264, *AAC, "-c:s", "srt"),
        EVERYWHERE,
        inputs=(*BOTH, "-i", "{work}/s.srt"),
        files={"s.srt": SUBTITLES},
        often=True,
    ),
    _row(
        "ass with a font",
        ".mkv",
        (
            "-map",
            "0:v",
            "-map",
            "1:a",
            "-map",
            "2:s",
            *H264,
            *AAC,
            "-c:s",
            "ass",
            "-attach",
            "{work}/font.ttf",
            "-metadata:s:t",
            "mimetype=application/x-truetype-font",
        ),
        EVERYWHERE,
        inputs=(*BOTH, "-i", "{work}/s.ass"),
        files={"s.ass": ASS, "font.ttf": "no real font"},
        findings=_everywhere("attachment_dropped"),
    ),
    _row(
        "ass with a font, vp8",
        ".mkv",
        (
            "-map",
            "0:v",
            "-map",
            "1:a",
            "-map",
            "2:s",
            *_video("libvpx", "-deadline", "realtime"),
            *AAC,
            "-c:s",
            "ass",
            "-attach",
            "{work}/font.ttf",
            "-metadata:s:t",
            "mimetype=application/x-truetype-font",
        ),
        (PICTURE_REMADE, PICTURE_REMADE, MATROSKA),
        inputs=(*BOTH, "-i", "{work}/s.ass"),
        files={"s.ass": ASS, "font.ttf": "no real font"},
        findings={UNIVERSAL: frozenset({"attachment_dropped"}), MODERN: frozenset({"attachment_dropped"})},
    ),
    _row(
        "webvtt",
        ".webm",
        ("-map", "0:v", "-map", "1:a", "-map", "2:s", *VP9, "-c:a", "libopus", "-c:s", "webvtt"),
        ONLY_UNIVERSAL,
        inputs=(*BOTH, "-i", "{work}/s.srt"),
        files={"s.srt": SUBTITLES},
    ),
    _row(
        "cover art",
        ".mp4",
        (
            "-map",
            "0:v",
            "-map",
            "1:a",
            "-map",
            "2:v",
            *H264,
            *AAC,
            "-c:v:1",
            "mjpeg",
            "-pix_fmt:v:1",
            "yuvj420p",
            "-disposition:v:1",
            "attached_pic",
        ),
        EVERYWHERE,
        inputs=lavfi(PICTURE, SOUND, "color=red:size=64x64:rate=1:duration=1"),
        often=True,
    ),
    _row(
        "cover art, encoded",
        ".mp4",
        (
            "-map",
            "0:v",
            "-map",
            "1:a",
            "-map",
            "2:v",
            *HEVC,
            *AAC,
            "-c:v:1",
            "png",
            "-pix_fmt:v:1",
            "rgb24",
            "-disposition:v:1",
            "attached_pic",
        ),
        PICTURE_UNIVERSAL,
        inputs=lavfi(PICTURE, SOUND, "color=red:size=64x64:rate=1:duration=1"),
    ),
    _row(
        "cover art of a song",
        ".mp3",
        (
            "-map",
            "0:a",
            "-map",
            "1:v",
            "-c:a",
            "libmp3lame",
            "-c:v",
            "mjpeg",
            "-pix_fmt",
            "yuvj420p",
            "-disposition:v",
            "attached_pic",
        ),
        ("transcode mp4 none+aac", *["copy mp4 none+copy"] * 2),
        inputs=lavfi(SOUND, "color=red:size=64x64:rate=1:duration=1"),
    ),
]

ROWS = [*CONTAINERS, *PICTURES, *SOUNDS, *SHAPES]


@dataclass(frozen=True)
class Shown:
    """What came of a row."""

    name: str
    profile: ProfileName
    source: MediaInfo
    result: RemuxResult
    path: Path

    @property
    def decision(self) -> str:
        made = self.result.decision
        return f"{made.strategy} {made.container} {made.video}+{made.audio}"

    @property
    def findings(self) -> frozenset[str]:
        return frozenset(finding.code for finding in self.result.findings) - {"length_unconfirmed"}

    @property
    def lengths(self) -> tuple[float, float]:
        return self.source.length_seconds or 0.0, self.result.media.length_seconds or 0.0


def bench_in(home: Path) -> Workbench:
    return Workbench(Settings.load().model_copy(update={"store": StoreSettings(home=home)}))


def fetched(bench: Workbench, path: Path) -> DownloadResult:
    """A file of this host, through probe and download."""

    async def run() -> DownloadResult:
        source = Source(url=SecretStr(path.as_uri()))
        identity, _ = await stages.identify(bench, source)
        probed = await stages.probe(bench, source, identity, identity.key)
        return await stages.download(bench, source, probed, probed.renditions[0], identity.key)

    return anyio.run(run)


def shown(bench: Workbench, name: str, path: Path, profile: ProfileName) -> Shown:
    """One file under one profile."""
    source = fetched(bench, path)
    result = anyio.run(stages.remux, bench, source, profile, Quality.AUTO, f"{name}{profile}")
    return Shown(name, profile, source.media, result, bench.store.path(result.asset))


def complaints(path: Path) -> str:
    """What ffmpeg says when it decodes everything of a result; nothing is good."""
    words = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-xerror", "-i", f"file:{path}"]
    # Left alone, the null muxer rounds uneven times to the average rate, and complains of its own rounding.
    words += ["-map", "0:v?", "-map", "0:a?", "-fps_mode", "vfr", "-enc_time_base:v", "1/90000", "-f", "null", "-"]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return done.stderr + (f"exit {done.returncode}" if done.returncode else "")


def strangers(shown: Shown) -> list[str]:
    """Codecs and pixel formats of a result that its profile does not allow in an MP4."""
    media, allowed = shown.result.media, ALLOWED[shown.profile]
    if shown.result.decision.container != "mp4":
        return []
    found = [s.codec for s in media.of_kind("video") if s.codec not in allowed.video]
    found += [s.codec for s in media.of_kind("audio") if s.codec not in allowed.audio]
    if shown.profile is UNIVERSAL:
        found += [str(s.pix_fmt) for s in media.of_kind("video") if s.pix_fmt not in ("yuv420p", "yuvj420p")]
    return found


def made(folder: Path, row: Row) -> Path:
    """The row's input."""
    name = "".join(letter if letter.isalnum() else "-" for letter in row.name)
    return make(folder, f"matrix-{name}", row.recipe, seconds=SECONDS, size=row.size)


def with_pgs(folder: Path) -> Path:
    """A film with Blu-ray subtitles; no ffmpeg encodes them, so they are written here."""
    film = make(folder, "h264_aac_mkv", Recipe(".mkv", BOTH, (*H264, *AAC)), seconds=SECONDS, size=SIZE)
    sup, finished = folder / "lines.sup", folder / "matrix-pgs.mkv"
    if not finished.exists():
        sup.write_bytes(b"".join(_pgs(at) for at in (0.5, 1.5)))
        words = ["-i", film, "-f", "sup", "-i", sup, "-map", "0", "-map", "1", "-c", "copy", "-y", finished]
        subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *map(str, words)], check=True)
    return finished


def _pgs(at_seconds: float) -> bytes:
    """One display set that shows a white box of 8x2 pixels: composition, window, palette, object, end."""
    pts = int(at_seconds * 90_000)
    line = bytes([0x00, 0x88, 0x01]) + b"\x00\x00"  # 8 pixels of colour 1, end of the line
    data = line * 2
    segments = (
        (0x16, struct.pack(">HHBHBBBB", 160, 120, 0x10, 1, 0x80, 0, 0, 1) + struct.pack(">HBBHH", 0, 0, 0, 10, 10)),
        (0x17, struct.pack(">BBHHHH", 1, 0, 10, 10, 8, 2)),
        (0x14, bytes([0, 0, 1, 235, 128, 128, 255])),
        (0x15, struct.pack(">HBB", 0, 0, 0xC0) + (len(data) + 4).to_bytes(3, "big") + struct.pack(">HH", 8, 2) + data),
        (0x80, b""),
    )
    return b"".join(b"PG" + struct.pack(">IIBH", pts, 0, kind, len(body)) + body for kind, body in segments)


def table(clips: Path, home: Path, rows: list[Row], files: list[Path]) -> Iterator[str]:
    """Every row and every file under every profile, as text."""
    yield f"{'input':34} {'profile':9} {'made by':32} {'source':>8} {'result':>8}  {'checked':18} playable  told"
    bench = bench_in(home)
    inputs = [(row.name, made(clips, row), row.expected) for row in rows]
    for name, path, expected in [*inputs, *((file.name, file.absolute(), lambda _: None) for file in files)]:
        for profile in ProfileName:
            try:
                yield _line(shown(bench, name, path, profile), expected(profile))
            except TidegateError as error:
                yield f"{name:34} {profile:9} FAILED {error.type}: {error.message}"


def _line(one: Shown, expected: str | None) -> str:
    before, after = one.lengths
    checks = one.result.verification
    said, alien = complaints(one.path), strangers(one)
    good = "yes" if not said and not alien else f"NO: {said or alien}"
    as_expected = "" if expected in (None, one.decision) else f"  EXPECTED {expected}"
    told = ", ".join([*sorted(one.findings), *(sidecar.name for sidecar in one.result.decision.sidecars)]) or "–"
    decoded = f"{checks.depth} {checks.decoded_seconds:.2f} s"
    return (
        f"{one.name:34} {one.profile:9} {one.decision:32} {before:7.2f}s {after:7.2f}s  {decoded:18} {good:9} {told}"
        f"{as_expected}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.matrix", description="The grid of inputs, as a table."
    )
    parser.add_argument("--quick", action="store_true", help="only the rows that the quick suite has")
    parser.add_argument("files", nargs="*", type=Path, help="files to show as well")
    words = parser.parse_args()
    rows = [row for row in ROWS if row.often or not words.quick]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for line in table(Path(folder) / "clips", Path(folder) / "home", rows, words.files):
            wrong += any(word in line for word in ("FAILED", "EXPECTED", "NO: "))
            print(line, flush=True)
    print(f"\n{len(rows) + len(words.files)} inputs, {len(ProfileName)} profiles, {wrong} not as they should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

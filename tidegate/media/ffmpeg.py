"""ffmpeg: which one, how it is called, how its progress is read.

The stages build their command lines on `base_arguments` and run them through `run_ffmpeg`. Input is opened with a
closed list of demuxers and the file protocol only, so a hostile file cannot make ffmpeg read others.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from tidegate.errors import ToolMissing
from tidegate.events import Advance, Observer
from tidegate.media.codecs import WHITELIST
from tidegate.media.demuxers import ALLOWED_DEMUXERS
from tidegate.media.diagnose import diagnose, ran_out_of_space, reports_concealment
from tidegate.model import ResourceUse
from tidegate.process.output import LineSink, ignore_line
from tidegate.process.supervise import Job, run
from tidegate.settings import ProcessSettings, ToolSettings

VERSION_SECONDS = 15.0
_FILE = "file:"
MOST_THREADS = 8


@dataclass(frozen=True)
class Toolchain:
    """The tools that a run uses."""

    ffmpeg: Path
    threads: int | None = None

    @property
    def encoder_threads(self) -> int:
        """As set, else all cores, at most 8: x264 gains nothing beyond, and its result depends on the number."""
        return self.threads or min(os.cpu_count() or 1, MOST_THREADS)

    @classmethod
    def find(cls, settings: ToolSettings) -> Toolchain:
        """The ffmpeg that was set, else the one on PATH, else the one in the imageio-ffmpeg wheel.

        Raises:
            ToolMissing: none of them is there.
        """
        if settings.ffmpeg is not None:
            return cls(_find_program(settings.ffmpeg), settings.threads)
        on_path = shutil.which("ffmpeg")
        return cls(Path(on_path) if on_path else _wheel_ffmpeg(), settings.threads)


@dataclass
class ProgressReader:
    """Reads `-progress` output: lines `key=value`, one block every half second, ended by `progress=`."""

    on_block: Callable[[ProgressReader], None] = lambda _: None
    marks: dict[str, float] = field(default_factory=dict)
    """Furthest out_time_us, frame and total_size so far; `N/A` is skipped."""
    speed: float | None = None
    """Seconds of media per second of time."""

    def feed(self, line: str) -> None:
        name, _, value = line.partition("=")
        name, value = name.strip(), value.strip()
        if name in ("out_time_us", "frame", "total_size") and value.lstrip("-").isdigit():
            self.marks[name] = float(value)
        elif name == "speed":
            self.speed = _number(value.rstrip("x"))
        elif name == "progress":
            self.on_block(self)

    @property
    def out_time_seconds(self) -> float:
        return self.marks.get("out_time_us", 0.0) / 1e6


def base_arguments(
    ffmpeg: Path,
    *sources: Path,
    demuxer_options: tuple[str, ...] = (),
    offsets_seconds: Sequence[float] = (),
) -> list[str]:
    """Everything up to and with the inputs: no stdin, progress on stdout, warnings on stderr, local files only."""
    inputs: list[str] = []
    for source, offset in zip(sources, offsets_seconds or [0.0] * len(sources), strict=True):
        inputs += [*input_restrictions(), *(("-itsoffset", f"{offset:.6f}") if offset else ()), *demuxer_options]
        inputs += ["-i", file_url(source)]
    return [*global_arguments(ffmpeg), *inputs]


def global_arguments(ffmpeg: Path) -> tuple[str, ...]:
    """What every call begins with: no questions, and progress as `ProgressReader` reads it."""
    quiet = ("-nostdin", "-hide_banner", "-nostats", "-y", "-loglevel", "level+info")
    return (str(ffmpeg), *quiet, "-progress", "pipe:1")


def input_restrictions(*also: str) -> tuple[str, ...]:
    """What stands before every input: it is read from a file, by a demuxer that is allowed, or by one of `also`, and
    its streams are opened by decoders of what is accepted as media."""
    formats = ",".join((*also, *ALLOWED_DEMUXERS))
    return ("-protocol_whitelist", "file,pipe", "-format_whitelist", formats, "-codec_whitelist", WHITELIST)


def files_in(argv: Sequence[str]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """(files that a command reads, folders that it writes into); every file in it is written by `file_url`."""
    reads = [Path(_path_of(word)) for before, word in pairwise(argv) if before == "-i" and word.startswith(_FILE)]
    pairs = list(pairwise(argv))
    writes = {Path(_path_of(word)).parent for before, word in pairs if before != "-i" and word.startswith(_FILE)}
    return tuple(reads), tuple(sorted(writes))


def _path_of(word: str) -> str:
    return word.removeprefix(_FILE)


def file_url(path: Path) -> str:
    """A path as ffmpeg takes it whatever its name: never an option, a protocol or a pattern."""
    return f"{_FILE}{path.absolute()}"


@dataclass(frozen=True)
class FfmpegResult:
    """An ffmpeg that came to a good end."""

    resources: ResourceUse
    concealed: int
    """Places of its input that it could not decode, and went on."""


async def run_ffmpeg(
    argv: list[str],
    *,
    stage: str,
    doing: str = "",
    limits: ProcessSettings,
    deadline_seconds: float,
    media_seconds: float | None,
    observe: Observer,
    outputs: tuple[Path, ...] = (),
    on_stderr: LineSink = ignore_line,
    memory_cap_bytes: int | None = None,
    listed: tuple[Path, ...] = (),
) -> FfmpegResult:
    """Run ffmpeg to a good end. It may read its inputs and the files that are `listed` in one of them, and write where
    its outputs are. `memory_cap_bytes` is what it may use; None: what is set for tools without a rung.

    Raises:
        TidegateError: what `diagnose` makes of a bad exit, and whatever `supervise.run` raises.
    """

    def show(progress: ProgressReader) -> None:
        observe(Advance(stage, progress.out_time_seconds, media_seconds, "seconds", progress.speed, doing))

    concealed = 0

    def hear(line: str) -> None:
        nonlocal concealed
        concealed += reports_concealment(line)
        on_stderr(line)

    progress = ProgressReader(show)
    reads, writes = files_in(argv)
    job = Job(
        "ffmpeg",
        argv,
        deadline_seconds,
        outputs=outputs,
        marks=lambda: dict(progress.marks),
        share=lambda: progress.out_time_seconds / media_seconds if media_seconds else None,
        on_stdout=progress.feed,
        on_stderr=hear,
        reads=(*reads, *listed),
        writes=writes,
        memory_cap_bytes=memory_cap_bytes,
        stage=stage,
        observe=observe,
        left_out=frozenset({WHITELIST}),
    )
    result = await run(job, limits)
    if result.exit_code != 0 or ran_out_of_space(result):
        raise diagnose(result, outputs)
    return FfmpegResult(result.resources, concealed)


async def version_of(toolchain: Toolchain, limits: ProcessSettings) -> str:
    """The first line that ffmpeg says of itself.

    Raises:
        ToolMissing: it does not run.
    """
    result = await run(Job("ffmpeg", [str(toolchain.ffmpeg), "-version"], VERSION_SECONDS), limits)
    first_line = result.stdout.head.partition("\n")[0].strip()
    if result.exit_code != 0 or not first_line.startswith("ffmpeg version"):
        raise ToolMissing(f"{toolchain.ffmpeg} is no ffmpeg (exit {result.exit_code})", evidence=result.evidence)
    return first_line


async def can_tone_map(toolchain: Toolchain, limits: ProcessSettings) -> bool:
    """Whether it has the filters that make SDR of HDR; builds without the library zimg do not."""
    missing = {"zscale", "tonemap"}

    def look(line: str) -> None:
        missing.difference_update(line.split()[1:2])

    argv = [str(toolchain.ffmpeg), "-hide_banner", "-filters"]
    await run(Job("ffmpeg", argv, VERSION_SECONDS, on_stdout=look), limits)
    return not missing


def _find_program(path: str) -> Path:
    found = shutil.which(path)
    if found is None:
        raise ToolMissing(f"There is no program {path} (TIDEGATE_TOOLS_FFMPEG)")
    return Path(found)


def _wheel_ffmpeg() -> Path:
    import imageio_ffmpeg

    try:
        return Path(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise ToolMissing("No ffmpeg is on PATH, and the imageio-ffmpeg wheel holds none for this platform") from error


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None

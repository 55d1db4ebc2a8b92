"""TwitchDownloaderCLI as a supervised child: what Twitch offers, and one download of a video.

The twitch resolver runs it. Whatever the tool writes on the way lies in a folder of ours and goes with its end, however
it ends; after a crash the next run clears it. Its own word that it is done is not believed: the file must be there, be
media of the quality that was asked for, and be as long as Twitch says.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import anyio
from anyio import to_thread

from tidegate.durable.children import own_name
from tidegate.errors import (
    DiskFull,
    DownloadDeadline,
    Evidence,
    NotMedia,
    ProcessTimeout,
    RequestTimeout,
    SegmentGap,
    StalledProcess,
    StalledTransfer,
    TidegateError,
    ToolFailed,
    ToolMissing,
)
from tidegate.events import Advance, Note
from tidegate.model import Gap, TransferStats
from tidegate.redact import redact_text
from tidegate.resilience.retry import Retry
from tidegate.settings import ToolSettings
from tidegate.transfer.outside import Outside, ToolEnd
from tidegate.transfer.resolvers.base import FetchRequest
from tidegate.transfer.resolvers.twitch_console import (
    HINT,
    TOOL,
    Console,
    VideoInfo,
    VideoQuality,
    console_failure,
    parse_info,
)
from tidegate.transfer.tool_proxy import tool_proxy

ORIGIN = f"tool:{TOOL}"
"""The gate: what fails here says nothing about other ways to Twitch."""

TOOL_FOLDER = "tool"
"""How the folder begins in which the tool works."""

PART_SECONDS = 10.0
"""How long a part of a VOD is, about; Twitch cuts them so."""
SHORT_SHARE, SHORT_SECONDS = 0.02, 2.0
"""How much less than Twitch promises the file may hold, the larger of both: lengths are told in whole seconds, and
parts are rounded."""
HEIGHT_TOLERANCE = 8
"""Encoders round a picture's height to a multiple of eight."""
TIMES_ITS_SIZE = 2
"""Parts and finished video lie side by side at the end."""


@dataclass(frozen=True)
class TwitchVideo:
    """What a link names."""

    id: str
    clip: bool = False

    @property
    def link(self) -> str:
        return f"https://clips.twitch.tv/{self.id}" if self.clip else f"https://www.twitch.tv/videos/{self.id}"


@dataclass(frozen=True)
class ToolOrder:
    """What the tool is to bring."""

    outside: Outside
    video: TwitchVideo
    quality: VideoQuality
    seconds: float | None
    what: FetchRequest


@dataclass
class ToolRun:
    """One run of the tool."""

    order: ToolOrder
    folder: Path
    """Of this run alone; gone at its end."""
    console: Console = field(default_factory=Console)
    _shown_share: float = 0.0

    @property
    def output(self) -> Path:
        return self.folder / "out.mp4"

    def feed(self, line: str) -> None:
        self.console.feed(line)
        if self.console.share > self._shown_share:
            self._shown_share = self.console.share
            size, seconds = self.order.quality.size_bytes, self.order.seconds
            if size is not None:
                self.order.outside.observe(Advance("download", self._shown_share * size, size, "bytes"))
            elif seconds is not None:
                self.order.outside.observe(Advance("download", self._shown_share * seconds, seconds, "seconds"))

    def marks(self) -> dict[str, float]:
        """What moves while it works: parts grow for minutes before the percentage does."""
        return {"share": self.console.share * 100, "bytes": float(_bytes_below(self.folder))}


async def ask_info(outside: Outside, video: TwitchVideo) -> tuple[VideoInfo, TransferStats]:
    """Ask what Twitch offers: an unknown quality would silently become the best."""
    argv = [_tool(outside.tools), "info", "--id", video.id, "--banner=false"]
    retry = Retry(outside.limits, outside.observe, "info")

    async def one_try() -> VideoInfo:
        lines: list[str] = []
        console = Console()
        async with outside.gates.through(ORIGIN, "info", retry=retry.retries > 0), tool_proxy(outside) as proxy:
            try:
                end = await outside.run_tool(
                    name=TOOL,
                    argv=argv,
                    deadline_seconds=outside.limits.extract_timeout.total_seconds(),
                    stall_timeout=outside.limits.extract_timeout,
                    on_stdout=lines.append,
                    on_stderr=console.feed,
                    environment=proxy.environment if proxy else None,
                )
            except (StalledProcess, ProcessTimeout) as late:
                raise RequestTimeout(f"Twitch did not answer {TOOL} in time", evidence=late.evidence) from late
            if end.exit_code != 0:
                for line in lines:
                    console.feed(line)
                raise _failure(console, end)
        return parse_info(lines)

    info = await retry.run(one_try)
    return info, TransferStats(requests=1 + retry.retries, retries=retry.retries)


async def run_download(run: ToolRun, *, retry: bool) -> tuple[Gap, ...]:
    """Let the tool work, in its folder and through its gate, and look at what it brought; what is missing in it.

    Raises:
        StalledTransfer, DownloadDeadline: it was ended.
        TidegateError: it failed, whatever its exit code says.
    """
    outside, console = run.order.outside, run.console
    async with (
        outside.gates.through(ORIGIN, "download", retry=retry) as passage,
        tool_proxy(outside) as proxy,
    ):
        routing = proxy.environment if proxy else {}
        try:
            end = await outside.run_tool(
                name=TOOL,
                argv=_arguments(run),
                deadline_seconds=outside.limits.tool_deadline.total_seconds(),
                stall_timeout=outside.limits.tool_stall_timeout,
                outputs=(run.output,),
                marks=run.marks,
                on_stdout=run.feed,
                on_stderr=run.feed,
                # What it and its libraries put into the system's folder for temporary files would outlive a kill.
                environment={"TMPDIR": str(run.folder), "NO_COLOR": "1", **routing},
                folder=run.folder,
            )
        except StalledProcess as stalled:
            raise StalledTransfer(
                f"{TOOL} made no progress for {_words(outside.limits.tool_stall_timeout)} and was ended",
                evidence=_evidence(console, stalled.evidence),
            ) from stalled
        except ProcessTimeout as late:
            raise DownloadDeadline(
                f"{TOOL} was ended after {_words(outside.limits.tool_deadline)}; it cannot resume",
                evidence=_evidence(console, late.evidence),
            ) from late
        if end.exit_code != 0 or console.died:
            raise _failure(console, end, run.folder)
        size = size_of(run.output)
        if size == 0:
            raise ToolFailed(f"{TOOL} ended well and left no video", evidence=_evidence(console, end.evidence))
        gaps = await _check_output(run)
        passage.report_bytes(size)  # only now: what it had gained before it failed is lost
        return gaps


def _arguments(run: ToolRun) -> list[str]:
    """Its command line. Without `--collision` it asks, and with stdin closed it then gives up."""
    order = run.order
    tools, limits, video = order.outside.tools, order.outside.limits, order.video
    return [
        _tool(tools),
        "clipdownload" if video.clip else "videodownload",
        *("--id", video.id),
        *("--output", str(run.output)),
        *("--quality", order.quality.name),
        *("--collision", "Overwrite"),
        *("--temp-path", str(run.folder)),
        *(() if video.clip else ("--threads", str(limits.tool_threads))),
        *("--ffmpeg-path", str(order.outside.ffmpeg().absolute())),
        "--banner=false",
        *("--log-level", "Status,Verbose,Info,Warning,Error"),
    ]


async def _check_output(run: ToolRun) -> tuple[Gap, ...]:
    """What is missing in the finished file.

    Raises:
        ToolFailed: it is no media, cut off, or of another quality.
        SegmentGap: something is missing, and that is not allowed.
    """
    console, order = run.console, run.order
    try:
        media = await order.outside.look(run.output)
    except NotMedia as refused:
        message = f"{TOOL} ended well and left a file that nothing opens: {refused.message}"
        raise ToolFailed(message, evidence=_evidence(console, refused.evidence)) from refused
    if media.missing_bytes:
        raise ToolFailed(f"{TOOL} ended well and left a file that lacks its last {media.missing_bytes} bytes")
    height = media.video.height if media.video else None
    if order.quality.height and height and abs(height - order.quality.height) > HEIGHT_TOLERANCE:
        raise ToolFailed(f"{TOOL} was asked for {order.quality.name} and brought a picture {height} pixels high")
    gaps = gaps_of(console, promised=order.seconds, held=media.duration_seconds)
    if gaps and not order.what.allow_gaps:
        raise SegmentGap(f"Parts of the video are missing: {gaps[0].why}", evidence=_evidence(console, Evidence()))
    for gap in gaps:
        order.outside.observe(Note(f"Missing: {gap.why}", "warning"))
    return gaps


def gaps_of(console: Console, *, promised: float | None, held: float | None) -> tuple[Gap, ...]:
    """The stretches that the tool left out, as far as one can tell where they lie: by the numbers of the parts."""
    whole = promised or held or 0.0
    gaps = []
    if console.left_out:
        starts = [number * PART_SECONDS for number in sorted(console.parts_missing)]
        if starts and starts[-1] < whole:
            gaps = [
                Gap(start_seconds=start, end_seconds=min(start + PART_SECONDS, whole), why=f"about: {console.left_out}")
                for start in starts
            ]
        else:
            gaps = [Gap(start_seconds=0.0, end_seconds=whole, why=f"somewhere: {console.left_out}")]
    if promised is not None and held is not None and promised - held > max(SHORT_SECONDS, promised * SHORT_SHARE):
        why = f"Twitch announces {promised:.0f} s, the file holds {held:.1f} s"
        gaps.append(Gap(start_seconds=held, end_seconds=promised, why=why))
    return tuple(gaps)


@contextlib.asynccontextmanager
async def tool_folder(folder: Path) -> AsyncIterator[Path]:
    """A fresh folder for the tool; what an earlier run of it left goes first, and this one goes at the end."""
    await to_thread.run_sync(_clear, folder)
    working = folder / own_name(TOOL_FOLDER)
    working.mkdir(parents=True)
    try:
        yield working
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(_clear, folder)


def _clear(folder: Path) -> None:
    for left in folder.glob(f"{TOOL_FOLDER}*"):
        shutil.rmtree(left, ignore_errors=True)


def require_tool_space(folder: Path, quality: VideoQuality) -> None:
    """Room for what the tool writes, as far as it says how much that is.

    Raises:
        DiskFull: there is less.
    """
    wanted = TIMES_ITS_SIZE * (quality.size_bytes or 0)
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise DiskFull(f"{wanted} bytes are needed on the volume of {folder}, {free} are free")


def _failure(console: Console, end: ToolEnd, folder: Path | None = None) -> TidegateError:
    """`folder` is where it was to write: the message says which volume is full."""
    failure = console_failure(console, end.exit_code, folder)
    failure.evidence = _evidence(console, end.evidence)
    return failure


def _evidence(console: Console, evidence: Evidence) -> Evidence:
    """What the tool said on both streams, in the order in which it came."""
    text = redact_text(console.text)
    where = {"phase": console.phase, "share": f"{console.share:.2f}"}
    return dataclasses.replace(evidence, output_head=text, output_tail=text, notes={**evidence.notes, **where})


def _tool(tools: ToolSettings) -> str:
    """Its path.

    Raises:
        ToolMissing: it is not there.
    """
    found = shutil.which(tools.twitch_downloader or TOOL)
    if found is None:
        raise ToolMissing(f"{tools.twitch_downloader or TOOL} is not installed", hint=HINT)
    return str(Path(found).absolute())


def size_of(path: Path) -> int:
    """Of a file; 0 where there is none."""
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _bytes_below(folder: Path) -> int:
    return sum(size_of(Path(root, name)) for root, _, names in os.walk(folder) for name in names)


def _words(time: timedelta) -> str:
    return f"{time.total_seconds():g} s"

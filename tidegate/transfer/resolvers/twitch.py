"""A VOD or clip on Twitch, fetched by TwitchDownloaderCLI as a supervised child.

The stages ask it for every link to one; where it fails, the site resolver may be next. The tool cannot resume: after a
crash it begins again, unless it had finished; then the finished file is remembered beside itself. Whatever it writes on
the way lies in a folder of ours and goes with its end, however it ends. Its own word that it is done is not believed:
the file must be there, be media of the quality that was asked for, and be as long as Twitch says.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import anyio
from anyio import to_thread
from pydantic import ValidationError

from tidegate.durable.atomic import sync_file, sync_folder, write_atomic
from tidegate.durable.children import own_name
from tidegate.durable.threads import in_thread, still_wanted
from tidegate.errors import (
    DiskFull,
    DownloadDeadline,
    Evidence,
    NotMedia,
    ProcessTimeout,
    RequestTimeout,
    SegmentGap,
    SourceChanged,
    StalledProcess,
    StalledTransfer,
    TidegateError,
    ToolFailed,
    ToolMissing,
)
from tidegate.events import Advance, Note
from tidegate.model import Digest, Gap, Identity, Rendition, Source, TransferStats, Value
from tidegate.redact import redact_text
from tidegate.resilience.retry import Retry
from tidegate.settings import ToolSettings
from tidegate.transfer.outside import Outside, ToolEnd
from tidegate.transfer.resolvers.base import MAIN_TRACK, FetchRequest, FetchResult, Offer
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
from tidegate.transfer.verify import check_digests

ORIGIN = f"tool:{TOOL}"
"""The gate: what fails here says nothing about other ways to Twitch."""


FINISHED = "finished.json"
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

_HOSTS = frozenset({"twitch.tv", "www.twitch.tv", "m.twitch.tv", "go.twitch.tv"})
_VIDEO = re.compile(r"/(?:videos|\w+/v(?:ideo)?)/(\d+)/?")
_CLIP = re.compile(r"/\w+/clip/([A-Za-z0-9][\w-]*)/?")
_CLIP_ALONE = re.compile(r"/([A-Za-z0-9][\w-]*)/?")


class TwitchResolver:
    """A `Resolver` for VODs and clips on Twitch."""

    name = "twitch"

    def handles(self, source: Source) -> bool:
        return _video_of(source) is not None

    def recognises(self, identity: Identity) -> bool:
        return False

    async def identify(self, outside: Outside, source: Source) -> tuple[Identity, TransferStats]:
        video = _require_video(source)
        return Identity(url=video.link, name=f"twitch-{video.id}"), TransferStats()

    async def offer(
        self, outside: Outside, source: Source, identity: Identity, scratch: Callable[[str], Path]
    ) -> Offer:
        info, cost = await _info(outside, _require_video(source))
        renditions = tuple(_rendition(quality) for quality in _usable(info))
        if not renditions:
            raise NotMedia("Twitch offers no quality of this video")
        return Offer(renditions, promised_seconds=info.seconds, cost=cost)

    async def fetch(self, outside: Outside, source: Source, what: FetchRequest) -> FetchResult:
        finished = await to_thread.run_sync(_read_note, what)
        if finished is not None:
            return _rendition_in_place(what, finished, TransferStats(bytes_reused=finished.size_bytes))
        video, started = _require_video(source), time.monotonic()
        info, cost = await _info(outside, video)
        order = _ToolOrder(outside, video, _choose_quality(info, what), info.seconds, what)
        retry = Retry(outside.limits, outside.observe, "download")
        outcome = await retry.run(lambda: _one_try(order, retry=retry.retries > 0))
        if isinstance(outcome, TidegateError):
            raise outcome
        finished, blake3 = outcome
        spent = TransferStats(
            requests=1 + retry.retries,
            retries=retry.retries,
            bytes_received=finished.size_bytes,
            seconds=time.monotonic() - started,
        )
        return _rendition_in_place(what, finished, cost + spent, blake3)


@dataclass(frozen=True)
class _Video:
    """What a link names."""

    id: str
    clip: bool = False

    @property
    def link(self) -> str:
        return f"https://clips.twitch.tv/{self.id}" if self.clip else f"https://www.twitch.tv/videos/{self.id}"


class _FinishedNote(Value):
    """The note beside a finished file."""

    identity: str
    rendition: str
    size_bytes: int
    promised_seconds: float | None
    gaps: tuple[Gap, ...] = ()


@dataclass(frozen=True)
class _ToolOrder:
    """What the tool is to bring."""

    outside: Outside
    video: _Video
    quality: VideoQuality
    seconds: float | None
    what: FetchRequest


@dataclass
class _Download:
    """One run of the tool."""

    order: _ToolOrder
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


def _video_of(source: Source) -> _Video | None:
    try:
        parts = urlsplit(source.url.get_secret_value())
    except ValueError:
        return None
    host = (parts.hostname or "").lower()
    if parts.scheme.lower() not in ("http", "https"):
        return None
    if host == "clips.twitch.tv":
        found = _CLIP_ALONE.fullmatch(parts.path)
        return _Video(found[1], clip=True) if found else None
    if host not in _HOSTS:
        return None
    if found := _VIDEO.fullmatch(parts.path):
        return _Video(found[1])
    found = _CLIP.fullmatch(parts.path)
    return _Video(found[1], clip=True) if found else None


def _require_video(source: Source) -> _Video:
    video = _video_of(source)
    assert video is not None  # noqa: S101  # the registry asks `handles` first
    return video


async def _info(outside: Outside, video: _Video) -> tuple[VideoInfo, TransferStats]:
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


async def _one_try(order: _ToolOrder, *, retry: bool) -> tuple[_FinishedNote, Digest] | TidegateError:
    """The finished file in its place; or, given back and not raised, a failure that must not be tried again here: the
    tool had begun to receive, and would begin at zero. What comes next is for the fallback to say.

    Raises:
        TidegateError: it failed before it received anything.
    """
    what = order.what
    async with _tool_folder(what.folder) as folder:
        _require_space(folder, order.quality)
        download = _Download(order, folder)
        try:
            gaps = await _run(download, retry=retry)
            blake3 = await in_thread(check_digests, download.output, what.promised, still_wanted)
        except TidegateError as failure:
            if download.console.downloading:
                return failure
            raise
        return await to_thread.run_sync(_keep, download, gaps), blake3


async def _run(download: _Download, *, retry: bool) -> tuple[Gap, ...]:
    """Let the tool work, in its folder and through its gate, and look at what it brought; what is missing in it.

    Raises:
        StalledTransfer, DownloadDeadline: it was ended.
        TidegateError: it failed, whatever its exit code says.
    """
    outside, console = download.order.outside, download.console
    async with (
        outside.gates.through(ORIGIN, "download", retry=retry) as passage,
        tool_proxy(outside) as proxy,
    ):
        routing = proxy.environment if proxy else {}
        try:
            end = await outside.run_tool(
                name=TOOL,
                argv=_arguments(download),
                deadline_seconds=outside.limits.tool_deadline.total_seconds(),
                stall_timeout=outside.limits.tool_stall_timeout,
                outputs=(download.output,),
                marks=download.marks,
                on_stdout=download.feed,
                on_stderr=download.feed,
                # What it and its libraries put into the system's folder for temporary files would outlive a kill.
                environment={"TMPDIR": str(download.folder), "NO_COLOR": "1", **routing},
                folder=download.folder,
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
            raise _failure(console, end, download.folder)
        size = _size(download.output)
        if size == 0:
            raise ToolFailed(f"{TOOL} ended well and left no video", evidence=_evidence(console, end.evidence))
        gaps = await _check_output(download)
        passage.report_bytes(size)  # only now: what it had gained before it failed is lost
        return gaps


def _arguments(download: _Download) -> list[str]:
    """Its command line. Without `--collision` it asks, and with stdin closed it then gives up."""
    order = download.order
    tools, limits, video = order.outside.tools, order.outside.limits, order.video
    return [
        _tool(tools),
        "clipdownload" if video.clip else "videodownload",
        *("--id", video.id),
        *("--output", str(download.output)),
        *("--quality", order.quality.name),
        *("--collision", "Overwrite"),
        *("--temp-path", str(download.folder)),
        *(() if video.clip else ("--threads", str(limits.tool_threads))),
        *("--ffmpeg-path", str(order.outside.ffmpeg().absolute())),
        "--banner=false",
        *("--log-level", "Status,Verbose,Info,Warning,Error"),
    ]


async def _check_output(download: _Download) -> tuple[Gap, ...]:
    """What is missing in the finished file.

    Raises:
        ToolFailed: it is no media, cut off, or of another quality.
        SegmentGap: something is missing, and that is not allowed.
    """
    console, order = download.console, download.order
    try:
        media = await order.outside.look(download.output)
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


def _usable(info: VideoInfo) -> tuple[VideoQuality, ...]:
    """Those with a picture, where there are any."""
    return tuple(q for q in info.qualities if not q.audio_only) or info.qualities


def _rendition(quality: VideoQuality) -> Rendition:
    return Rendition(
        id=re.sub(r"[^\w-]+", "-", quality.name).strip("-").lower() or "only",
        label=quality.name,
        height=quality.height,
        bandwidth_bps=quality.bandwidth_bps,
        size_bytes=quality.size_bytes,
    )


def _choose_quality(info: VideoInfo, what: FetchRequest) -> VideoQuality:
    for quality in _usable(info):
        if _rendition(quality).id == what.rendition.id:
            return quality
    offered = ", ".join(quality.name for quality in info.qualities) or "nothing"
    raise SourceChanged(f"Twitch no longer offers this video as {what.rendition.label}; it offers {offered}")


@contextlib.asynccontextmanager
async def _tool_folder(folder: Path) -> AsyncIterator[Path]:
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


def _require_space(folder: Path, quality: VideoQuality) -> None:
    wanted = TIMES_ITS_SIZE * (quality.size_bytes or 0)
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise DiskFull(f"{wanted} bytes are needed on the volume of {folder}, {free} are free")


def _keep(download: _Download, gaps: tuple[Gap, ...]) -> _FinishedNote:
    """Move the finished file to its place, durably, and note that it is whole. Without the note it is nobody's."""
    what = download.order.what
    finished = _FinishedNote(
        identity=what.identity.key,
        rendition=what.rendition.id,
        size_bytes=download.output.stat().st_size,
        promised_seconds=download.order.seconds,
        gaps=gaps,
    )
    sync_file(download.output)
    download.output.rename(what.folder / MAIN_TRACK)
    sync_folder(what.folder)
    write_atomic(what.folder / FINISHED, finished.model_dump_json().encode())
    return finished


def _read_note(what: FetchRequest) -> _FinishedNote | None:
    """What an earlier run finished, if it is what is wanted now."""
    try:
        note = _FinishedNote.model_validate_json((what.folder / FINISHED).read_bytes())
    except (OSError, ValidationError):
        return None
    same = (note.identity, note.rendition) == (what.identity.key, what.rendition.id)
    whole = _size(what.folder / MAIN_TRACK) == note.size_bytes
    return note if same and whole and (what.allow_gaps or not note.gaps) else None


def _rendition_in_place(
    what: FetchRequest, finished: _FinishedNote, stats: TransferStats, blake3: Digest | None = None
) -> FetchResult:
    return FetchResult(
        tracks={MAIN_TRACK: (what.folder / MAIN_TRACK,)},
        stats=stats,
        known={MAIN_TRACK: blake3} if blake3 else {},
        checked=what.promised if blake3 else frozenset(),
        end_is_certain=finished.promised_seconds is not None,
        promised_seconds=finished.promised_seconds,
        gaps=finished.gaps,
    )


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


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _bytes_below(folder: Path) -> int:
    return sum(_size(Path(root, name)) for root, _, names in os.walk(folder) for name in names)


def _words(time: timedelta) -> str:
    return f"{time.total_seconds():g} s"

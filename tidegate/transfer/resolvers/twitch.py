"""A VOD or clip on Twitch, fetched by TwitchDownloaderCLI.

The stages ask it for every link to one; where it fails, the site resolver may be next. The tool (`twitch_tool` starts
it) cannot resume: after a crash it begins again, unless it had finished; then a note beside the file says so, and the
next run takes the file as it is.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from anyio import to_thread
from pydantic import ValidationError

from tidegate.durable.atomic import sync_file, sync_folder, write_atomic
from tidegate.durable.threads import check_cancellation, in_thread
from tidegate.errors import NotMedia, SourceChanged, TidegateError
from tidegate.model import Digest, Gap, Identity, Rendition, Source, TransferStats, Value
from tidegate.resilience.retry import Retry
from tidegate.transfer.outside import Outside
from tidegate.transfer.resolvers.base import MAIN_TRACK, FetchRequest, FetchResult, Offer
from tidegate.transfer.resolvers.twitch_console import VideoInfo, VideoQuality
from tidegate.transfer.resolvers.twitch_tool import (
    ToolOrder,
    ToolRun,
    TwitchVideo,
    ask_info,
    require_tool_space,
    run_download,
    size_of,
    tool_folder,
)
from tidegate.transfer.verify import check_digests

FINISHED = "finished.json"

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
        info, cost = await ask_info(outside, _require_video(source))
        renditions = tuple(_rendition(quality) for quality in _usable(info))
        if not renditions:
            raise NotMedia("Twitch offers no quality of this video")
        return Offer(renditions, promised_seconds=info.seconds, cost=cost)

    async def fetch(self, outside: Outside, source: Source, what: FetchRequest) -> FetchResult:
        finished = await to_thread.run_sync(_read_note, what)
        if finished is not None:
            return _rendition_in_place(what, finished, TransferStats(bytes_reused=finished.size_bytes))
        video, started = _require_video(source), time.monotonic()
        info, cost = await ask_info(outside, video)
        order = ToolOrder(outside, video, _choose_quality(info, what), info.seconds, what)
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


def _video_of(source: Source) -> TwitchVideo | None:
    try:
        parts = urlsplit(source.url.get_secret_value())
    except ValueError:
        return None
    host = (parts.hostname or "").lower()
    if parts.scheme.lower() not in ("http", "https"):
        return None
    if host == "clips.twitch.tv":
        found = _CLIP_ALONE.fullmatch(parts.path)
        return TwitchVideo(found[1], clip=True) if found else None
    if host not in _HOSTS:
        return None
    if found := _VIDEO.fullmatch(parts.path):
        return TwitchVideo(found[1])
    found = _CLIP.fullmatch(parts.path)
    return TwitchVideo(found[1], clip=True) if found else None


def _require_video(source: Source) -> TwitchVideo:
    video = _video_of(source)
    assert video is not None  # noqa: S101  # the registry asks `handles` first
    return video


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


async def _one_try(order: ToolOrder, *, retry: bool) -> tuple[_FinishedNote, Digest] | TidegateError:
    """The finished file in its place; or, given back and not raised, a failure that must not be tried again here: the
    tool had begun to receive, and would begin at zero. What comes next is for the fallback to say.

    Raises:
        TidegateError: it failed before it received anything.
    """
    what = order.what
    async with tool_folder(what.folder) as folder:
        require_tool_space(folder, order.quality)
        run = ToolRun(order, folder)
        try:
            gaps = await run_download(run, retry=retry)
            blake3 = await in_thread(check_digests, run.output, what.promised, check_cancellation)
        except TidegateError as failure:
            if run.console.downloading:
                return failure
            raise
        return await to_thread.run_sync(_keep, run, gaps), blake3


class _FinishedNote(Value):
    """The note beside a finished file."""

    identity: str
    rendition: str
    size_bytes: int
    promised_seconds: float | None
    gaps: tuple[Gap, ...] = ()


def _keep(run: ToolRun, gaps: tuple[Gap, ...]) -> _FinishedNote:
    """Move the finished file to its place, durably, and note that it is whole. Without the note it is nobody's."""
    what = run.order.what
    finished = _FinishedNote(
        identity=what.identity.key,
        rendition=what.rendition.id,
        size_bytes=run.output.stat().st_size,
        promised_seconds=run.order.seconds,
        gaps=gaps,
    )
    sync_file(run.output)
    run.output.rename(what.folder / MAIN_TRACK)
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
    whole = size_of(what.folder / MAIN_TRACK) == note.size_bytes
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

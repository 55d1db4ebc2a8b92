"""What is in a media file, found out by a supervised child with PyAV.

The probe, download, remux and analyze stages ask. The child has a deadline and a stall clock of its own; whatever
the file does to it, this process goes on. Reads only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

import psutil

from tidegate.errors import NotMedia, TidegateError, Unknown, UnsupportedCodec
from tidegate.events import Advance, Observer
from tidegate.media.answer import ChildAnswer
from tidegate.media.codecs import ACCEPTED, DECODERS, UNKNOWN_CODEC
from tidegate.media.demuxers import ALLOWED_DEMUXERS, DECLARING_DEMUXERS, STILL_UNLESS_MOVING
from tidegate.model import MediaInfo, StreamInfo
from tidegate.process.supervise import Job, JobResult, run
from tidegate.resilience.quality import RUNGS, cap_bytes
from tidegate.settings import ProcessSettings

_CHILD = Path(__file__).with_name("inspect_child").absolute()

Depth = Literal["header", "packets", "sampled", "frames"]


async def inspect(
    path: Path,
    depth: Depth,
    limits: ProcessSettings,
    deadline_seconds: float,
    *,
    stage: str,
    observe: Observer,
    total_seconds: float | None = None,
) -> MediaInfo:
    """Look at the headers, at every packet, decode samples as well, or decode every frame.

    Raises:
        NotMedia: no allowed demuxer opens the file, or it crashed its demuxer.
        UnsupportedCodec: its picture or a sound of it has a codec that is not accepted.
        MemoryExhausted: to open it takes more memory than a tool may have.
        StalledProcess, ProcessTimeout: the child did not end in time.
    """

    def tell(marks: dict[str, float]) -> None:
        observe(Advance(stage, marks["seconds"], total_seconds, "seconds", doing="checking"))

    answer = ChildAnswer("media", tell)
    names = json.dumps({"allowed": ALLOWED_DEMUXERS, "declaring": DECLARING_DEMUXERS, "decoders": DECODERS})
    argv = [sys.executable, "-I", str(_CHILD), depth, str(path), names]
    job = Job(
        "the probe",
        argv,
        deadline_seconds,
        marks=lambda: dict(answer.marks),
        share=lambda: answer.marks.get("seconds", 0.0) / total_seconds if total_seconds else None,
        on_stdout=answer.feed,
        reads=(path,),
        memory_cap_bytes=_decoder_cap_bytes() if depth in ("sampled", "frames") else None,
        stage=stage,
        observe=observe,
    )
    result = await run(job, limits)
    if answer.found is None:
        raise _failure(answer, result)
    media = MediaInfo.model_validate(answer.found)
    _require_motion(media)
    if refused := [s for s in (media.video, *media.of_kind("audio")) if s is not None and not _is_accepted(s)]:
        raise UnsupportedCodec(_sentence(refused[0]), evidence=result.evidence)
    return media


def _require_motion(media: MediaInfo) -> None:
    what = STILL_UNLESS_MOVING.get(media.container)
    if what is not None and media.depth != "header" and media.video is not None and (media.video.packets or 0) <= 1:
        raise NotMedia(f"The source is {what} that does not move, not media")


def _is_accepted(stream: StreamInfo) -> bool:
    """Whether its codec is; of one that not even the probe knows, the plan says what becomes of it."""
    return stream.codec in ACCEPTED or stream.codec == UNKNOWN_CODEC


def _sentence(stream: StreamInfo) -> str:
    what = "picture" if stream.kind == "video" else "sound"
    return f"The {what} has the codec {stream.codec}, which is not accepted as media"


def _decoder_cap_bytes() -> int:
    """What decoders may hold: pictures of the largest size, as many as there are threads and references."""
    return cap_bytes(RUNGS[0], psutil.virtual_memory().total)


def _failure(answer: ChildAnswer, result: JobResult) -> TidegateError:
    if answer.refused is not None:
        return NotMedia(f"No media in it: {answer.refused}", evidence=result.evidence)
    if result.exit_code < 0:
        return NotMedia(f"The file crashed its demuxer (signal {-result.exit_code})", evidence=result.evidence)
    return Unknown(f"The probe ended with {result.exit_code} and no answer", evidence=result.evidence)

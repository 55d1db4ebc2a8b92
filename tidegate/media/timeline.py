"""When each picture of a video stream is shown, found out by a supervised child with PyAV, without decoding.

The transcode stage asks before it cuts a film into chunks. The child has a deadline and a stall clock of its own;
whatever the file does to it, this process goes on. Reads only.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from tidegate.errors import NotMedia
from tidegate.media.answer import ChildAnswer
from tidegate.media.codecs import WHITELIST
from tidegate.media.demuxers import ALLOWED_DEMUXERS
from tidegate.media.ffmpeg import Toolchain, base_arguments
from tidegate.model import Value
from tidegate.process.supervise import Job, run
from tidegate.settings import ProcessSettings

_CHILD = Path(__file__).with_name("timeline_child.py").absolute()

BEGINS = re.compile(r"^\S*\s*Duration: [^,]+(?:, start: (?P<seconds>-?[\d.]+))?, bitrate")
"""ffmpeg's line on an input: `  Duration: 00:00:40.01, start: -0.007000, bitrate: 373 kb/s`, behind its level."""
SPACING_SECONDS = 1.0
"""How far two places at which a film may be cut lie apart at least: some have a keyframe every frame."""


class Timeline(Value):
    """The pictures of one video stream, as the container dates them. Times in ticks of `time_base` seconds."""

    time_base: tuple[int, int]
    """Numerator and denominator of a tick in seconds."""
    rate: tuple[int, int] | None
    """Frames per second, if every picture stands where this rate puts it, to a tick; None: the rate varies."""
    begins_us: tuple[int, ...]
    """Where each of the media's files begins, in microseconds, as the ffmpeg at hand sees it: it counts from there, and
    its versions do not agree on sound that begins with silence."""
    track: int
    """Which of these files holds the picture."""
    frames: int
    first: int
    """When the first picture is shown."""
    last: int
    """When the last one is."""
    odd: str | None
    """Why pictures cannot be told apart by their times; there are then no cuts."""
    cuts: tuple[tuple[int, int, int], ...]
    """For each place where the film can be cut: how many pictures are shown before it, when the last of them, when the
    keyframe that begins it."""
    exact_seek: bool
    """Whether a seek ends at a keyframe, by the file's own index; elsewhere it may end between two."""

    @property
    def tick(self) -> Fraction:
        """Seconds."""
        return Fraction(*self.time_base)


async def timeline_of(
    toolchain: Toolchain, paths: Sequence[Path], track: int, place: int, limits: ProcessSettings, deadline: float
) -> Timeline:
    """Read the stream with the number `place` of the file with the number `track`; `deadline` in seconds.

    Raises:
        NotMedia: no allowed demuxer opens the file, or it crashed its demuxer.
        StalledProcess, ProcessTimeout: a child did not end in time.
    """
    answer = ChildAnswer("timeline")
    request = {
        "path": str(paths[track]),
        "place": place,
        "allowed": ALLOWED_DEMUXERS,
        "decoders": WHITELIST,
        "spacing_seconds": SPACING_SECONDS,
    }
    argv = [sys.executable, "-I", str(_CHILD), json.dumps(request)]
    job = Job(
        "the timeline", argv, deadline, marks=lambda: dict(answer.marks), on_stdout=answer.feed, reads=(paths[track],)
    )
    result = await run(job, limits)
    if answer.found is None:
        why = answer.refused or f"its demuxer ended with {result.exit_code}"
        raise NotMedia(f"The pictures' times cannot be read: {why}", evidence=result.evidence)
    begins_us = await _beginnings_us(toolchain, paths, limits)
    return Timeline.model_validate({**answer.found, "begins_us": begins_us, "track": track})


async def _beginnings_us(toolchain: Toolchain, paths: Sequence[Path], limits: ProcessSettings) -> tuple[int, ...]:
    """What ffmpeg says of its inputs; it then ends with an error, because it was given nothing to do."""
    begins_us: list[int] = []

    def listen(line: str) -> None:
        found = BEGINS.search(line)
        if found:
            begins_us.append(round(float(found["seconds"] or 0.0) * 1e6))

    argv = base_arguments(toolchain.ffmpeg, *paths, demuxer_options=("-fflags", "+genpts"))
    job = Job(
        "ffmpeg",
        argv,
        limits.probe_timeout.total_seconds(),
        on_stderr=listen,
        reads=tuple(paths),
        left_out=frozenset({WHITELIST}),
    )
    result = await run(job, limits)
    if len(begins_us) != len(paths):
        raise NotMedia("ffmpeg does not say where the source begins", evidence=result.evidence)
    return tuple(begins_us)

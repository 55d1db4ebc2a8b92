"""What is in a media file, found out by a supervised child with PyAV.

The probe, download, remux and analyze stages ask. The child has a deadline and a stall clock of its own; whatever
the file does to it, this process goes on. Reads only.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tidegate.errors import NotMedia, TidegateError, Unknown
from tidegate.events import Advance, Observer
from tidegate.model import MediaInfo
from tidegate.process.demuxers import ALLOWED_DEMUXERS, DECLARING_DEMUXERS
from tidegate.process.supervise import Finished, Job, run
from tidegate.settings import ProcessSettings

_CHILD = Path(__file__).with_name("inspect_child.py").absolute()

Depth = Literal["header", "packets", "sampled", "frames"]


@dataclass
class _Answer:
    """Collects the child's JSON lines."""

    stage: str
    observe: Observer
    total_seconds: float | None
    media: dict[str, Any] | None = None
    refused: str | None = None
    marks: dict[str, float] = field(default_factory=dict)

    def share(self) -> float | None:
        return self.marks.get("seconds", 0.0) / self.total_seconds if self.total_seconds else None

    def feed(self, line: str) -> None:
        try:
            message = json.loads(line)
        except ValueError:  # a codec library that talks on stdout is not the answer
            return
        self.media = message.get("media", self.media)
        self.refused = message.get("refused", self.refused)
        if "progress" in message:
            self.marks = message["progress"]
            self.observe(Advance(self.stage, self.marks["seconds"], self.total_seconds, "seconds"))


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
        StalledProcess, ProcessTimeout: the child did not end in time.
    """
    answer = _Answer(stage, observe, total_seconds)
    names = json.dumps({"allowed": ALLOWED_DEMUXERS, "declaring": DECLARING_DEMUXERS})
    argv = [sys.executable, "-I", str(_CHILD), depth, str(path), names]
    job = Job(
        "the probe",
        argv,
        deadline_seconds,
        marks=lambda: dict(answer.marks),
        share=answer.share,
        on_stdout=answer.feed,
        stage=stage,
        observe=observe,
    )
    finished = await run(job, limits)
    if answer.media is None:
        raise _failure(answer, finished)
    return MediaInfo.model_validate(answer.media)


def _failure(answer: _Answer, finished: Finished) -> TidegateError:
    if answer.refused is not None:
        return NotMedia(f"No media in it: {answer.refused}", evidence=finished.evidence)
    if finished.exit_code < 0:
        return NotMedia(f"The file crashed its demuxer (signal {-finished.exit_code})", evidence=finished.evidence)
    return Unknown(f"The probe ended with {finished.exit_code} and no answer", evidence=finished.evidence)

"""What the progress artifact says: how far the run is, what its tool uses, and what it waits for."""

from __future__ import annotations

from tasks.progress import Progress
from tidegate.events import Advance, StageEnded, StageStarted, Strain, Waiting

STRAIN = Strain(
    stage="remux",
    tool="ffmpeg",
    memory_bytes=412_300_000,
    cpu_percent=187.4,
    elapsed_seconds=50,
    deadline_seconds=100,
    risk="medium",
    memory_cap_bytes=8_600_000_000,
)


def test_a_tool_at_work_shows_what_it_uses_and_risks_beside_how_far_it_is() -> None:
    progress = Progress()
    progress(StageStarted("remux"))
    progress(Advance("remux", 30, 120, "seconds", 2.0))
    progress(STRAIN)
    assert progress.percent == 25.0
    assert progress.line.startswith("remux  0:30.0 of 2:00.0 (25 %)")
    assert progress.line.endswith("; ffmpeg: 412.3 MB of 8.6 GB, 187 % CPU, risk medium")


def test_what_a_tool_used_is_not_shown_once_it_is_over() -> None:
    progress = Progress()
    for event in (StageStarted("remux"), STRAIN, StageEnded("remux", "completed", False, 3.0)):
        progress(event)
    assert (progress.percent, progress.line) == (100.0, "remux: done")
    progress(STRAIN)
    progress(Waiting("a slot"))
    assert progress.line == "waiting for a slot"

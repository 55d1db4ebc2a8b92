"""What ffmpeg's last words mean: the catalogue of its messages, as data.

`run_ffmpeg` asks once, after a bad exit. An exit that no line explains is a refusal: the next strategy may fare
better. Each pattern carries an example line, and a test holds the two together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tidegate.errors import (
    BadTimestamps,
    DiskFull,
    EncoderUnknown,
    MemoryExhausted,
    PermissionRefused,
    ProcessKilled,
    RefusedByMuxer,
    TidegateError,
)
from tidegate.process.supervise import Finished


@dataclass(frozen=True)
class Pattern:
    """A line of ffmpeg's stderr and the failure that it means."""

    regex: str
    failure: type[TidegateError]
    example: str


CATALOGUE: tuple[Pattern, ...] = (
    Pattern(
        r"No space left on device|Disk quota exceeded",
        DiskFull,
        "av_interleaved_write_frame(): No space left on device",
    ),
    Pattern(r"Permission denied|Read-only file system", PermissionRefused, "out.mp4: Permission denied"),
    Pattern(
        r"Cannot allocate memory|malloc of size \d+ failed",
        MemoryExhausted,
        "Error while filtering: Cannot allocate memory",
    ),
    Pattern(r"Exiting normally, received signal \d+", ProcessKilled, "Exiting normally, received signal 15."),
    Pattern(
        r"Unknown encoder|Encoder not found|No such filter|Unknown filter|Unrecognized option",
        EncoderUnknown,
        "Unknown encoder 'libx264'",
    ),
    Pattern(
        r"[Nn]on[- ]monoton(?:ic|ous)|Invalid DTS|pts \(\S+\) < dts|Timestamps are unset|packet with unknown timestamp",
        BadTimestamps,
        "[mp4 @ 0x1] Application provided invalid, non monotonically increasing dts to muxer in stream 0: 5 >= 4",
    ),
    Pattern(
        r"not currently supported in container|Could not find tag for codec|Invalid data found|Could not write header",
        RefusedByMuxer,
        "Could not find tag for codec vorbis in stream #1, codec not currently supported in container",
    ),
)


def diagnose(finished: Finished) -> TidegateError:
    """The failure that a bad exit means, with its evidence."""
    text = "\n".join(line for line in (finished.stderr.head + finished.stderr.tail).splitlines() if _is_message(line))
    last = _last_complaint(finished.stderr.tail)
    for pattern in CATALOGUE:
        if re.search(pattern.regex, text):
            return pattern.failure(f"ffmpeg failed: {last}", evidence=finished.evidence)
    return RefusedByMuxer(f"ffmpeg failed with exit code {finished.exit_code}: {last}", evidence=finished.evidence)


def _is_message(line: str) -> bool:
    """Whether ffmpeg says it, rather than quotes it: titles and names in the file may hold any words."""
    return not re.match(r"^(?:\[[^\]]*\] )*\[info\]", line) or "Exiting normally" in line


def _last_complaint(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    complaints = [line for line in lines if "[error]" in line or "[fatal]" in line]
    line = (complaints or lines or ["it said nothing"])[-1]
    return re.sub(r"\[[\w#:/]+(?: @ 0x[0-9a-f]+)?\]\s*", "", line).strip()

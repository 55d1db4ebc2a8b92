"""What ffmpeg's last words mean: the catalogue of its messages, as data.

`run_ffmpeg` asks once, after a bad exit. An exit that no line explains is a refusal: the next strategy may fare
better. Each pattern carries an example line, and a test holds the two together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
from tidegate.process.supervise import JobResult


@dataclass(frozen=True)
class FailurePattern:
    """A line of ffmpeg's stderr and the failure that it means."""

    regex: str
    failure: type[TidegateError]
    examples: tuple[str, ...]
    """What builds say: 5.1 first, then newer ones (6.1 to 9.0) where they spell it otherwise."""


CATALOGUE: tuple[FailurePattern, ...] = (
    FailurePattern(
        r"No space left on device|Disk quota exceeded",
        DiskFull,
        (
            "[error] av_interleaved_write_frame(): No space left on device",
            "[error] Error writing trailer of out.mkv: No space left on device",
            "[error] Could not write header for output file #0 (incorrect codec parameters ?): No space left on device",
            "[out#0/mp4 @ 0x1] [error] Task finished with error code: -28 (No space left on device)",
            "[out#0/matroska @ 0x1] [error] Error writing trailer: No space left on device",
        ),
    ),
    FailurePattern(
        r"Permission denied|Read-only file system",
        PermissionRefused,
        (
            "[error] out.mp4: Permission denied",
            "[error] out.mp4: Read-only file system",
            "[out#0/mp4 @ 0x1] [fatal] Error opening output out.mp4: Permission denied",
            "[fatal] Error opening output files: Read-only file system",
        ),
    ),
    FailurePattern(
        r"Cannot allocate memory|malloc of size \d+ failed",
        MemoryExhausted,
        (
            "[error] Error while filtering: Cannot allocate memory",
            "x264 [error]: malloc of size 262146 failed",
            "[vf#0:0 @ 0x1] [error] Error reinitializing filters: Cannot allocate memory",
        ),
    ),
    FailurePattern(
        r"Exiting normally, received signal \d+|Received > \d+ system signals",
        ProcessKilled,
        ("[info] Exiting normally, received signal 15.", "[fatal] Received > 3 system signals, hard exiting"),
    ),
    FailurePattern(
        r"Unknown encoder|Encoder not found|Error selecting an encoder|Unknown decoder|Decoder not found",
        EncoderUnknown,
        (
            "[fatal] Unknown encoder 'libnope'",
            "[vost#0:0 @ 0x1] [fatal] Error selecting an encoder",
            "[fatal] Error opening output files: Encoder not found",
        ),
    ),
    FailurePattern(
        r"No such filter|Filter not found|Unknown filter|Unrecognized option|Option not found|Invalid time base",
        EncoderUnknown,
        (
            "[AVFilterGraph @ 0x1] [error] No such filter: 'nopefilter'",
            "[error] Unrecognized option 'display_rotation'.",
            "[fatal] Error splitting the argument list: Option not found",
            "[fatal] Error opening output files: Filter not found",
            "[vost#0:0/libx264 @ 0x1] [fatal] Invalid time base: -1",
        ),
    ),
    FailurePattern(
        r"[Nn]on[- ]monoton(?:ic|ous)|non monotonically increasing dts|Invalid DTS|pts \(\S+\) < dts",
        BadTimestamps,
        (
            "[mp4 @ 0x1] [warning] Non-monotonous DTS in output stream 0:0; previous: 94, current: 0; changing to 95.",
            "[mp4 @ 0x1] [warning] Invalid DTS: 24040 PTS: 23040 in output stream 0:0, replacing by guess",
            "[mp4 @ 0x1] Application provided invalid, non monotonically increasing dts to muxer in stream 0: 5 >= 4",
            "[mp4 @ 0x1] [error] pts (1) < dts (2) in stream 0",
            "[vost#0:0/copy @ 0x1] [warning] Non-monotonic DTS; previous: 94, current: 0; changing to 95.",
            "[vost#0:0/copy @ 0x1] [warning] Invalid DTS: 24040 PTS: 23040, replacing by guess",
        ),
    ),
    FailurePattern(
        r"Timestamps are unset|packet with unknown timestamp|first pts and dts value must be set",
        BadTimestamps,
        (
            "[mpegts @ 0x1] [warning] Timestamps are unset in a packet for stream 0. This is deprecated and will stop",
            "[matroska @ 0x1] [error] Can't write packet with unknown timestamp",
            "[mpegts @ 0x1] [error] first pts and dts value must be set",
        ),
    ),
    FailurePattern(
        r"not currently supported in container|Could not find tag for codec|Unsupported codec id"
        r"|Could not write header|Invalid data found",
        RefusedByMuxer,
        (
            "[mp4 @ 0x1] [error] Could not find tag for codec ffv1 in stream #0, codec not currently supported in"
            " container",
            "[ogg @ 0x1] [error] Unsupported codec id in stream 0",
            "[error] Could not write header for output file #0 (incorrect codec parameters ?): Invalid argument",
            "[error] in.mp4: Invalid data found when processing input",
            "[out#0/ogg @ 0x1] [error] Could not write header (incorrect codec parameters ?): Invalid argument",
            "[in#0 @ 0x1] [error] Error opening input: Invalid data found when processing input",
        ),
    ),
)

EXIT_CODES: dict[int, type[TidegateError]] = {
    228: DiskFull,
    226: PermissionRefused,
    243: PermissionRefused,
    244: MemoryExhausted,
    8: EncoderUnknown,
    -9: ProcessKilled,
    -15: ProcessKilled,
    137: ProcessKilled,
    143: ProcessKilled,
}
"""What an exit code means that no line explains. Since 6.1 ffmpeg ends with the low byte of its error: 256 - ENOSPC,
EROFS, EACCES, ENOMEM; 8 for an encoder, a filter or an option that it does not know. A signal is negative, or 128 more
where a shell stood between."""


def diagnose(result: JobResult, outputs: Sequence[Path] = ()) -> TidegateError:
    """The failure that a bad exit means, with its evidence. `outputs` are the files that it was to write: where a disk
    is full, ffmpeg itself seldom says which."""
    lines = _messages(result).splitlines()
    for pattern in CATALOGUE:
        telling = [line for line in lines if re.search(pattern.regex, line)]
        if telling:
            where = _where(pattern.failure, outputs)
            return pattern.failure(f"ffmpeg failed: {_strip_tags(telling[-1])}{where}", evidence=result.evidence)
    failure, last = EXIT_CODES.get(result.exit_code, RefusedByMuxer), _last_complaint(result.stderr.tail)
    message = f"ffmpeg failed with exit code {result.exit_code}: {last}{_where(failure, outputs)}"
    return failure(message, evidence=result.evidence)


def _where(failure: type[TidegateError], outputs: Sequence[Path]) -> str:
    """The place that the actions of these failures send people to."""
    if failure not in (DiskFull, PermissionRefused) or not outputs:
        return ""
    return f" (while writing {', '.join(map(str, outputs))})"


CONCEALED = re.compile(r"concealing \d+ DC|Error submitting packet to decoder|Error while decoding stream")
"""What decoders say of a place that they could not decode; ffmpeg goes on after it and exits with 0."""


def reports_concealment(line: str) -> bool:
    """Whether a line of stderr tells of one."""
    return CONCEALED.search(line) is not None


def ran_out_of_space(result: JobResult) -> bool:
    """Whether it did, though it may call that a success: 5.1 exits with 0 when it cannot write Matroska's end."""
    return re.search(CATALOGUE[0].regex, _messages(result)) is not None


def _messages(result: JobResult) -> str:
    return "\n".join(line for line in (result.stderr.head + result.stderr.tail).splitlines() if _is_message(line))


def _is_message(line: str) -> bool:
    """Whether ffmpeg says it, rather than quotes it: titles and names in the file may hold any words."""
    return not re.match(r"^(?:\[[^\]]*\] )*\[info\]", line) or "Exiting normally" in line


def _last_complaint(text: str) -> str:
    lines = [line for line in text.splitlines() if _strip_tags(line)]
    complaints = [line for line in lines if "[error]" in line or "[fatal]" in line]
    return _strip_tags((complaints or lines or ["it said nothing"])[-1])


def _strip_tags(line: str) -> str:
    """A line without the level and the addresses before it."""
    return re.sub(r"\[[\w#:/]+(?: @ 0x[0-9a-f]+)?\]\s*", "", line).strip()

"""What TwitchDownloaderCLI prints, understood: how far it is, what it left out, what it offers, why it failed.

The twitch resolver feeds it every line as it comes; nothing here touches the outside world, so nothing can be lost in
a crash. Written against the sources of versions 1.54 to 1.56, whose texts the tool does not promise to keep: a line
that nobody knows changes nothing, and what the lines say is never the only proof that a download is whole.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tidegate.errors import (
    ConnectionFailed,
    DiskFull,
    HttpRefused,
    MemoryExhausted,
    NotFound,
    PermissionRefused,
    ProcessKilled,
    RequestTimeout,
    SegmentGap,
    ServerError,
    Throttled,
    TidegateError,
    ToolFailed,
    ToolMissing,
    UnsupportedSource,
)

TOOL = "TwitchDownloaderCLI"
HINT = f"install {TOOL}, or set TIDEGATE_TOOLS_TWITCH_DOWNLOADER to its path"

PHASES: tuple[tuple[str, float], ...] = (
    ("Fetching", 0.0),
    ("Downloading", 0.02),
    ("Combining", 0.85),  # until 1.54
    ("Verifying", 0.85),
    ("Finalizing", 0.90),
    ("Encoding", 0.90),  # clips
)
"""How a phase's status begins, and the share of the work that lies before it. Each phase counts from 0 % anew."""

KEPT_LINES = 400
"""How many lines that are no status are kept for the evidence."""

_STATUS = re.compile(r"\[STATUS\] - (?P<phase>[A-Z][a-z]+)(?:[A-Za-z ]*?(?P<percent>-?\d+)%)?")
_REDOWNLOAD = re.compile(r"will be redownloaded")
_PARTS_FAILED = re.compile(r"errors? (?:was|were) encountered while downloading")
_LEFT_OUT = re.compile(
    r"could not be downloaded and will be missing|Failed to emit part stubs|Failed to write stub for part"
)
_PART = re.compile(r"(?<![\w/.-])(?P<number>\d+)(?:-\w+)?\.(?:ts|mp4)\b")
_UNHANDLED = re.compile(r"Unhandled exception")
_STATUS_CODE = re.compile(r"status code does not indicate success: (\d{3})")
_INNERMOST = re.compile(r"(?<!-)-+> \S+?Exception: (.+)")


@dataclass
class Console:
    """The tool's own account of one download."""

    share: float = 0.0
    """How much of the whole is done, 0 to 1; never goes back."""
    phase: str = ""
    percent: int = 0
    """Of the phase."""
    parts_missing: set[int] = field(default_factory=set)
    """Numbers of parts that it gave up."""
    left_out: str = ""
    """Its own words, when parts are missing from the result; empty otherwise."""
    died: bool = False
    """It ended by an exception, whatever its exit code."""
    _redownloading: bool = False
    _lines: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))

    def feed(self, line: str) -> None:
        """One line, or one status between two carriage returns, of stdout or stderr."""
        status = _STATUS.search(line)
        if status is not None:
            self._advance(status["phase"], status["percent"])
        if status is None or _UNHANDLED.search(line):  # it dies in the middle of its status line
            self._hear(line)

    @property
    def text(self) -> str:
        """Everything but the status lines."""
        return "\n".join(self._lines)

    @property
    def finalizing(self) -> bool:
        return self.phase in ("Finalizing", "Encoding")

    @property
    def downloading(self) -> bool:
        """Whether it has begun to receive media."""
        return self.share > dict(PHASES)["Downloading"]

    def _advance(self, phase: str, percent: str | None) -> None:
        if phase != self.phase and self.phase == "Verifying":
            self._judge_verification()
        self.phase = phase
        # It can be out of range: a VOD whose length was unknown began at -237600 %.
        self.percent = min(max(int(percent or 0), 0), 100)
        starts = dict(PHASES)
        if phase in starts:
            start = starts[phase]
            end = min((later for later in starts.values() if later > start), default=1.0)
            self.share = max(self.share, start + (end - start) * self.percent / 100)

    def _judge_verification(self) -> None:
        """Empty parts in the place of missing ones are announced nowhere, but they are counted: the percentage, which
        ends at 100, or at 0 where there was nothing to replace, then ends between them."""
        if 0 < self.percent < 100:
            self.left_out = self.left_out or f"about {self.percent} % of its parts were replaced by empty ones"

    def _hear(self, line: str) -> None:
        if not line.strip():
            return
        self._lines.append(line)
        self.died = self.died or _UNHANDLED.search(line) is not None
        given_up = _LEFT_OUT.search(line) or (self._redownloading and _PARTS_FAILED.search(line))
        if given_up:
            self.left_out = line.partition(" - ")[2] or line
            self.parts_missing.update(int(part["number"]) for part in _PART.finditer(line))
        self._redownloading = self._redownloading or _REDOWNLOAD.search(line) is not None


@dataclass(frozen=True)
class Pattern:
    """Words of the tool, and the failure that they mean."""

    regex: str
    failure: type[TidegateError]
    message: str
    example: str
    hint: str = ""
    of_folder: bool = False
    """Whether it concerns the folder that the tool writes into; the message then names it."""


CATALOGUE: tuple[Pattern, ...] = (
    Pattern(
        r"Invalid (?:VOD|Clip), deleted|Clip has no video qualities",
        NotFound,
        "Twitch has no such video (any more)",
        "System.NullReferenceException: Invalid VOD, deleted/expired VOD possibly?",
    ),
    Pattern(
        r"Insufficient access to VOD",
        HttpRefused,
        "Twitch shows this video to subscribers only",
        "System.NullReferenceException: Insufficient access to VOD, OAuth may be required.",
    ),
    Pattern(
        r"Unable to parse (?:Vod|VOD|Clip)",
        UnsupportedSource,
        f"{TOOL} does not understand this link",
        "[ERROR] - Unable to parse Vod ID/URL.",
    ),
    Pattern(
        r"Too many parts are missing|download thread restart limit",
        SegmentGap,
        "Most parts of this video cannot be had",
        "System.Exception: Too many parts are missing or empty (13619/14089), aborting.",
    ),
    Pattern(
        r"No space left on device|There is not enough space|Disk quota exceeded",
        DiskFull,
        "The volume filled up while the video was downloaded",
        "System.IO.IOException: No space left on device : '/scratch/42.ts'",
        of_folder=True,
    ),
    Pattern(
        r"Access to the path .* is denied|Permission denied|Read-only file system",
        PermissionRefused,
        f"{TOOL} may not write into its folder",
        "System.UnauthorizedAccessException: Access to the path '/scratch' is denied.",
        of_folder=True,
    ),
    Pattern(
        r"OutOfMemoryException|Out of memory",
        MemoryExhausted,
        f"{TOOL} had not enough memory",
        "System.OutOfMemoryException: Exception of type 'System.OutOfMemoryException' was thrown.",
    ),
    Pattern(
        r"Unable to find F[Ff]mpeg",
        ToolMissing,
        f"{TOOL} finds no ffmpeg",
        "[ERROR] - Unable to find FFmpeg, exiting.",
        hint=HINT,
    ),
    Pattern(
        r"(?:Option|Verb) '[\w-]+' is (?:unknown|not recognized)",
        ToolMissing,
        f"This {TOOL} is too old",
        "  Option 'collision' is unknown.",
        hint=HINT,
    ),
    Pattern(
        r"Failed to finalize video",
        ToolFailed,
        f"{TOOL} could not put the video together",
        "[ERROR] - Failed to finalize video (code 1), retrying in 5 seconds...",
    ),
    Pattern(
        r"Name or service not known|Resource temporarily unavailable|Connection refused|Connection reset|"
        r"Network is unreachable|SSL connection could not be established|response ended prematurely|SocketException",
        ConnectionFailed,
        "Twitch could not be reached",
        "System.Net.Http.HttpRequestException: Name or service not known (gql.twitch.tv:443)",
    ),
)
"""In the order in which they are looked for; HTTP status codes come before it."""

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}

_SIGNALLED = {137: "SIGKILL", 143: "SIGTERM", 130: "SIGINT", 129: "SIGHUP"}
"""Exit codes by which a wrapper script says that somebody ended the tool."""


def console_failure(console: Console, exit_code: int, folder: Path | None = None) -> TidegateError:
    """Why a download that did not succeed did not; evidence is the caller's to add. `folder`: where it was to write."""
    text = console.text
    if status := _STATUS_CODE.search(text):
        return _status_failure(int(status[1]))
    for pattern in CATALOGUE:
        if re.search(pattern.regex, text):
            where = f" (while writing into {folder})" if pattern.of_folder and folder else ""
            return pattern.failure(f"{pattern.message}: {_last_words(text)}{where}", hint=pattern.hint)
    if "TaskCanceledException" in text and not console.finalizing:
        return RequestTimeout(f"Twitch did not answer {TOOL} in time")
    if exit_code in _SIGNALLED:
        return ProcessKilled(f"{TOOL} was ended by {_SIGNALLED[exit_code]} from outside")
    where = f" in phase {console.phase!r} at {console.percent} %" if console.phase else ""
    return ToolFailed(f"{TOOL} ended with {exit_code}{where}: {_last_words(text)}")


def _status_failure(status: int) -> TidegateError:
    if status in (404, 410):
        return NotFound(f"Twitch answered {TOOL} with {status}")
    if status == 429:
        return Throttled(f"Twitch asks {TOOL} to slow down")
    kind = ServerError if status >= 500 else HttpRefused
    return kind(f"Twitch answered {TOOL} with {status}")


def _last_words(text: str) -> str:
    """The innermost exception, else the last error, else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    inner = [found[1] for line in lines if (found := _INNERMOST.search(line))]
    errors = [line.partition(" - ")[2] for line in lines if line.startswith("[ERROR]")]
    others = [line for line in lines if not line.startswith("at ")]
    return (inner or errors or others or ["it said nothing"])[-1].rstrip(".")


@dataclass(frozen=True)
class VideoQuality:
    """One row of the table of qualities."""

    name: str
    """What `--quality` takes, to the letter."""
    height: int | None = None
    bandwidth_bps: int | None = None
    size_bytes: int | None = None
    """Estimated by the tool."""

    @property
    def audio_only(self) -> bool:
        return "audio" in self.name.lower()


@dataclass(frozen=True)
class VideoInfo:
    """What `TwitchDownloaderCLI info` tells."""

    title: str
    seconds: float | None
    qualities: tuple[VideoQuality, ...]


def parse_info(lines: Iterable[str]) -> VideoInfo:
    """Read the tables of `info`: "Key | Value" about the video, and "Name | Resolution | …" of its qualities."""
    facts: dict[str, str] = {}
    qualities: list[VideoQuality] = []
    for header, rows in _tables(lines):
        if header[:2] == ["Key", "Value"]:
            facts.update({row[0]: row[1] for row in rows})
        elif header[:2] == ["Name", "Resolution"]:
            qualities += [_quality(dict(zip(header, row, strict=False))) for row in rows]
    return VideoInfo(facts.get("Title", ""), _length_seconds(facts.get("Length", "")), tuple(qualities))


def _tables(lines: Iterable[str]) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Header and rows of each table. Its borders are drawn in box characters, or in ASCII where there are none."""
    kept = [line.strip() for line in lines]
    borders = [number for number, line in enumerate(kept) if line[:1] in ("┌", "├", "└", "+")]
    for top, middle, bottom in zip(borders[::3], borders[1::3], borders[2::3], strict=False):
        header = _merge_lines([_cells(line) for line in kept[top + 1 : middle]])
        # Where 80 columns are too few, a row goes on in the next line, with nothing in the cells that are complete.
        pivot = 1 if header[:1] == ["Name"] else 0
        rows: list[list[list[str]]] = []
        for cells in map(_cells, kept[middle + 1 : bottom]):
            if rows and len(cells) > pivot and not cells[pivot]:
                rows[-1].append(cells)
            else:
                rows.append([cells])
        yield header, [_merge_lines(row) for row in rows]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip(line[:1]).split(line[:1])] if line else []


def _merge_lines(lines: list[list[str]]) -> list[str]:
    return [" ".join(filter(None, column)) for column in zip(*lines, strict=False)]


def _quality(row: dict[str, str]) -> VideoQuality:
    resolution = re.search(r"(?<!\d)\d+x(\d+)", row.get("Resolution", "")) or re.search(r"(\d{3,4})p", row["Name"])
    bitrate = re.search(r"(?<!\d)(\d+)\s*kbps", row.get("Bitrate", ""))
    return VideoQuality(
        name=row["Name"],
        height=int(resolution[1]) if resolution else None,
        bandwidth_bps=int(bitrate[1]) * 1000 if bitrate else None,
        size_bytes=_bytes(row.get("File size", "")),
    )


def _bytes(text: str) -> int | None:
    found = re.search(r"(?<![\d.,])([\d.,]+)\s*([KMGT]?)i?B", text)
    if found is None:
        return None
    return int(float(found[1].replace(",", ".")) * _UNITS[found[2]])


def _length_seconds(text: str) -> float | None:
    """Of `1:05:00`, `5:03` or `42s`."""
    if not re.fullmatch(r"\d+s|\d+(?::\d\d){1,2}", text):
        return None
    seconds = 0
    for part in text.rstrip("s").split(":"):
        seconds = seconds * 60 + int(part)
    return float(seconds)

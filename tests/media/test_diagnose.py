"""The catalogue of ffmpeg's last words: each pattern knows its own example, and real refusals are understood."""

from __future__ import annotations

import re
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path

import imageio_ffmpeg
import pytest

from tests.support.disks import volume
from tidegate.errors import (
    BadTimestamps,
    DiskFull,
    EncoderUnknown,
    MemoryExhausted,
    ProcessKilled,
    RefusedByMuxer,
    TidegateError,
)
from tidegate.media.diagnose import CATALOGUE, EXIT_CODES, FailurePattern, diagnose, ran_out_of_space
from tidegate.process.output import Output
from tidegate.process.supervise import Job, JobResult


def finished(stderr: str, exit_code: int = 1) -> JobResult:
    output = Output()
    output.feed(stderr.encode())
    return JobResult(Job("ffmpeg", ["ffmpeg"], 1.0), exit_code, Output(), output, 0.1)


EXAMPLES = [(pattern, line) for pattern in CATALOGUE for line in pattern.examples]


@pytest.mark.parametrize(("pattern", "line"), EXAMPLES, ids=[line[:60] for _, line in EXAMPLES])
def test_every_example_is_known_by_its_own_pattern_first_and_becomes_its_failure(
    pattern: FailurePattern, line: str
) -> None:
    assert next(p for p in CATALOGUE if re.search(p.regex, line)) is pattern
    failure = diagnose(finished(f"[info] Stream mapping:\n{line}\n"))
    assert type(failure) is pattern.failure
    assert failure.evidence.exit_code == 1
    assert failure.message.startswith("ffmpeg failed: ")
    assert failure.message != "ffmpeg failed: "


def test_every_pattern_has_an_example() -> None:
    assert all(pattern.examples for pattern in CATALOGUE)


@pytest.mark.parametrize(("code", "failure"), EXIT_CODES.items())
def test_an_exit_code_speaks_where_no_line_does(code: int, failure: type[TidegateError]) -> None:
    assert type(diagnose(finished("[warning] something else", code))) is failure
    assert type(diagnose(finished("[error] o.mp4: No space left on device", code))) is DiskFull


def test_a_full_disk_is_seen_although_the_exit_code_is_0() -> None:
    said = "[error] Error writing trailer of out.mkv: No space left on device\n"
    assert ran_out_of_space(finished(said, exit_code=0))
    assert not ran_out_of_space(finished("[info]     title : No space left on device\n", exit_code=0))


@pytest.mark.parametrize("tool", ["ffmpeg", imageio_ffmpeg.get_ffmpeg_exe()], ids=["on PATH", "in the wheel"])
@pytest.mark.parametrize(
    ("words", "failure"),
    [
        (("-c:v", "libnope", "{folder}/o.mp4"), EncoderUnknown),
        (("-vf", "nopefilter", "{folder}/o.mp4"), EncoderUnknown),
        (("-c:v", "ffv1", "-f", "mpegts", "-nopeopt", "1", "{folder}/o.ts"), EncoderUnknown),
        (("-c:v", "libx264", "-f", "ogg", "{folder}/o.ogg"), RefusedByMuxer),
        (("-c:v", "libx264", "-qp", "0", "{full}/o.mkv"), DiskFull),
        (("-c:v", "libx264", "-qp", "0", "{full}/o.mp4"), DiskFull),
    ],
)
def test_what_the_builds_here_say_is_understood(
    tool: str, words: tuple[str, ...], failure: type[TidegateError], tmp_path: Path
) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"there is no {tool}")
    source = ["-f", "lavfi", "-i", "testsrc2=size=320x240:duration=3"]
    with volume(tmp_path / "full", "size=64k") if "{full}" in words[-1] else nullcontext() as full:
        told = [word.format(folder=tmp_path, full=full) for word in words]
        argv = [tool, "-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+info", *source, *told]
        done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    ended = finished(done.stderr, done.returncode)
    assert done.returncode or ran_out_of_space(ended)
    assert type(diagnose(ended)) is failure, done.stderr


@pytest.mark.parametrize(
    ("line", "failure"),
    [
        ("Error writing trailer of out.mp4: No space left on device", DiskFull),
        ("[aost#0:1/libfdk @ 0x1] Unknown encoder 'libfdk_aac'", EncoderUnknown),
        ("[AVFilterGraph @ 0x1] No such filter: 'blackdetekt'", EncoderUnknown),
        ("[mp4 @ 0x1] Non-monotonous DTS in output stream 0:0; previous: 5, current: 4", BadTimestamps),
        ("[mp4 @ 0x1] Non-monotonic DTS; previous: 5, current: 4", BadTimestamps),
        ("[mp4 @ 0x1] pts (1) < dts (2) in stream 0", BadTimestamps),
        ("Can't write packet with unknown timestamp", BadTimestamps),
        ("x264 [error]: malloc of size 3133440 failed", MemoryExhausted),
        ("Exiting normally, received signal 2.", ProcessKilled),
        ("in.mp4: Invalid data found when processing input", RefusedByMuxer),
        ("something that nobody has seen before", RefusedByMuxer),
        ("", RefusedByMuxer),
    ],
)
def test_what_older_and_newer_builds_say_is_understood(line: str, failure: type[TidegateError]) -> None:
    assert type(diagnose(finished(line))) is failure


def test_an_exit_that_nothing_explains_still_says_something() -> None:
    failure = diagnose(finished("", exit_code=-11))
    assert "-11" in failure.message
    assert "it said nothing" in failure.message


def test_the_last_complaint_is_quoted_without_addresses() -> None:
    told = "[error] first\n[mp4 @ 0x55d] [error] the reason\n[info] video:0kB audio:0kB\n"
    assert diagnose(finished(told)).message.endswith(": the reason")


def test_a_complaint_long_before_the_end_is_found(tmp_path: Path) -> None:
    noise = "[info] frame dropped\n" * 20_000
    assert type(diagnose(finished("[error] out.mp4: No space left on device\n" + noise))) is DiskFull

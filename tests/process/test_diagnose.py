"""The catalogue of ffmpeg's last words: each pattern knows its own example, and real refusals are understood."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tidegate.errors import (
    BadTimestamps,
    DiskFull,
    EncoderUnknown,
    MemoryExhausted,
    ProcessKilled,
    RefusedByMuxer,
    TidegateError,
)
from tidegate.process.diagnose import CATALOGUE, Pattern, diagnose
from tidegate.process.output import Output
from tidegate.process.supervise import Finished, Job


def finished(stderr: str, exit_code: int = 1) -> Finished:
    output = Output()
    output.feed(stderr.encode())
    return Finished(Job("ffmpeg", ["ffmpeg"], 1.0), exit_code, Output(), output, 0.1)


@pytest.mark.parametrize("pattern", CATALOGUE, ids=lambda p: p.failure.__name__)
def test_every_example_matches_its_own_pattern_first(pattern: Pattern) -> None:
    assert next(p for p in CATALOGUE if re.search(p.regex, pattern.example)) is pattern


@pytest.mark.parametrize("pattern", CATALOGUE, ids=lambda p: p.failure.__name__)
def test_every_example_becomes_its_failure_with_the_line_in_the_message(pattern: Pattern) -> None:
    failure = diagnose(finished(f"[info] Stream mapping:\n[error] {pattern.example}\n"))
    assert type(failure) is pattern.failure
    assert failure.evidence.exit_code == 1
    assert failure.message.startswith("ffmpeg failed: ")
    assert failure.message != "ffmpeg failed: "


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

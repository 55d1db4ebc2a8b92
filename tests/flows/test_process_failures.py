"""Every failure that a process can raise, tripped in the real flow by a real child: it does what the table says.

The table is that of `tidegate/errors.py`: retried as a task or not, stepped down or not, climbed or not. Where the real
ffmpeg cannot be made to do it, a script around it does, and runs the real one for everything else.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import fake_tool
from tests.support.aftermath import failure_told, left_running, nothing_left_but_evidence, witness, works
from tests.support.clips import clip
from tests.support.command import Command, Ended
from tests.support.disks import volume
from tidegate.process.cgroup import MemoryGroup

MB = 1000**2
COPY = 'case "$*" in *" -progress "*) case "$*" in *libx264*) ;; *) {} ;; esac ;; esac'
"""For the shell: before anything that does not encode."""
WORK = 'case "$*" in *" -progress "*) {} ;; esac'
"""… before any work on media; asking for the version is none."""
LARGE_PICTURE = (
    'case "$*" in *libx264*) lines=$(echo "$*" | sed -n "s/.*scale=[-0-9]*:\\([0-9]*\\).*/\\1/p");'
    ' if [ "${{lines:-9999}}" -gt 300 ]; then {}; fi ;; esac'
)
"""… before it encodes a picture of more than 300 lines."""
NO_COPY = 'echo "[mp4 @ 0x1] [error] Could not find tag for codec h264 in stream #0, codec not currently supported" >&2'
BAD_DTS = 'echo "[mp4 @ 0x1] [error] Application provided invalid, non monotonically increasing dts to muxer" >&2'
NO_ENCODER = """echo "[error] Unknown encoder 'libx264'" >&2"""


@pytest.fixture
def small(clips: Path) -> Path:
    """A film that is copied."""
    return clip(clips, "h264_aac_mp4", seconds=2)


@pytest.fixture
def film(clips: Path) -> Path:
    """A film that is encoded, higher than two rungs."""
    return clip(clips, "vp9_opus_webm", seconds=2, size="854x480")


def run_with(command: Command, source: Path, tool: Path, **environment: object) -> Ended:
    command.environment["TIDEGATE_TOOLS_FFMPEG"] = str(tool)
    command.environment |= {f"TIDEGATE_PROCESS_{name}": str(value) for name, value in environment.items()}
    return command.run(str(source))


def ladder(ended: Ended) -> list[tuple[str, str | None]]:
    return [(step["strategy"], step["failure"]) for step in ended.document["output"]["ladder"]]


def hungry(megabytes: int) -> str:
    """For the shell: a child of the tool that takes so much memory, and is waited for."""
    argv = [sys.executable, "-I", fake_tool.__file__, f"allocate {megabytes}M", "sleep 20s"]
    return shlex.join(argv)


# --- those that end the run -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "before", "limits"),
    [
        ("process_timeout", COPY.format("sleep 300"), {"BASE_TIMEOUT": 4, "LONGEST_TIMEOUT": 4, "STALL_TIMEOUT": 60}),
        pytest.param("stalled_process", COPY.format("kill -STOP $$"), {}, marks=pytest.mark.slow),
        ("encoder_unknown", WORK.format(f"{NO_ENCODER}; exit 1"), {}),
    ],
)
def test_it_ends_the_run_at_once_and_nothing_else_is_tried(
    kind: str, before: str, limits: dict[str, int], command: Command, small: Path, tmp_path: Path
) -> None:
    tool = witness(tmp_path, before=before)
    ended = run_with(command, small, tool, **limits)
    failure = failure_told(ended, code=1, kind=kind)
    assert failure["stage"] == "remux"
    assert len(works(tool)) == 1, "no retry, no other strategy, no smaller picture"
    assert ended.document["tried"] == []
    assert ended.document["paths"]["process"] == "full"
    nothing_left_but_evidence(command)


@pytest.mark.slow
def test_a_missing_tool_ends_the_run_before_any_work(command: Command, small: Path) -> None:
    command.environment["TIDEGATE_TOOLS_FFMPEG"] = "/nowhere/ffmpeg"
    failure = failure_told(command.run(str(small)), code=1, kind="tool_missing")
    assert "/nowhere/ffmpeg" in failure["message"]


@pytest.fixture
def small_home(command: Command, tmp_path: Path) -> Iterator[Command]:
    with volume(tmp_path / "volume", "size=64m") as folder:
        command.home = folder
        yield command


@pytest.mark.slow
def test_a_disk_that_is_full_under_the_tool_ends_the_run(small_home: Command, film: Path, tmp_path: Path) -> None:
    ballast = small_home.home / "ballast"
    fill = f"dd if=/dev/zero of={shlex.quote(str(ballast))} bs=64k 2>/dev/null"
    tool = witness(tmp_path, before=WORK.format(fill))
    try:
        ended = run_with(small_home, film, tool, MEMORY_GUARD="sampling")
    finally:
        ballast.unlink(missing_ok=True)
    assert ended.code == 1, ended.stderr
    assert ended.failure["type"] == "disk_full", ended.failure
    assert len(works(tool)) == 1
    assert left_running(small_home) == []


@pytest.mark.slow
def test_a_folder_that_may_not_be_written_ends_the_run(command: Command, film: Path, tmp_path: Path) -> None:
    made = tmp_path / "mounted"
    read_only = (
        'for last; do :; done; folder=$(dirname "${last#file:}"); '
        'mount --bind "$folder" "$folder" && mount -o remount,bind,ro "$folder"; '
        f'echo "$folder" > {shlex.quote(str(made))}'
    )
    tool = witness(tmp_path, before=WORK.format(read_only))
    try:
        ended = run_with(command, film, tool)
    finally:
        if made.exists():
            subprocess.run(["umount", "-l", made.read_text().strip()], check=False)
    failure = failure_told(ended, code=1, kind="permission_refused")
    assert "Read-only" in failure["message"]
    assert len(works(tool)) == 1
    assert left_running(command) == []


# --- those that climb -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "before", "climbed"),
    [
        (
            "bad_timestamps",
            f'case "$*" in *igndts*|*filter_complex*) ;; *) {COPY.format(f"{BAD_DTS}; exit 1")} ;; esac',
            [("copy", "bad_timestamps"), ("repair", None)],
        ),
        pytest.param(
            "refused_by_muxer",
            COPY.format(f'case "$*" in *"-f null"*|*filter_complex*) ;; *) {NO_COPY}; exit 1 ;; esac'),
            [("copy", "refused_by_muxer"), ("repair", "refused_by_muxer"), ("transcode", None)],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "verification_failed",
            COPY.format('case "$*" in *filter_complex*) ;; *) set -- -t 1 "$@" ;; esac'),
            [("copy", "verification_failed"), ("repair", "verification_failed"), ("transcode", None)],
            marks=pytest.mark.slow,
        ),
    ],
)
@pytest.mark.first
def test_it_climbs_the_ladder_and_the_report_says_so(
    kind: str, before: str, climbed: list[Any], command: Command, small: Path, tmp_path: Path
) -> None:
    ended = run_with(command, small, witness(tmp_path, before=before))
    assert ended.code == 0, ended.stderr
    assert ladder(ended) == climbed
    assert kind == climbed[0][1]
    assert "source_damaged" in [finding["code"] for finding in ended.document["findings"]]
    assert left_running(command) == []


# --- those that step down ---------------------------------------------------------------------------


@pytest.mark.parametrize("guard", ["sampling", pytest.param("cgroup", marks=pytest.mark.slow)])
def test_too_much_memory_steps_down_to_a_smaller_picture_and_the_report_tells_the_story(
    guard: str, command: Command, film: Path, tmp_path: Path
) -> None:
    group = MemoryGroup.make(100 * MB)
    if guard == "cgroup" and (group is None or not group.remove()):
        pytest.skip("this process may make no control groups")
    if group is not None:
        group.remove()
    tool = witness(tmp_path, before=LARGE_PICTURE.format(hungry(1200)))
    ended = run_with(command, film, tool, MEMORY_CAP=1000 * MB, MEMORY_GUARD=guard, STALL_TIMEOUT=60)
    assert ended.code == 0, ended.stderr
    tried = ended.document["tried"]
    assert [one["failure"] for one in tried] == ["memory_exhausted"] * 2
    assert "cap of 1000 MB" in tried[0]["message"]
    assert ended.document["output"]["video"]["height"] == 240
    assert ended.document["paths"] == {"process": "full", "transfer": "full"}
    report = json.loads(Path(ended.document["report"]["json"]).read_text())
    assert report["paths"] == ended.document["paths"]
    used = report["resources"]["remux"]
    assert used["enforced_by"] == guard and used["memory_cap_bytes"] == 1000 * MB
    assert used["peak_memory_bytes"] < 1.1 * 1000 * MB or guard == "sampling"
    assert len(used["curve"]) >= 1
    assert left_running(command) == []


@pytest.mark.slow
def test_too_long_a_transcode_steps_down(command: Command, film: Path, tmp_path: Path) -> None:
    tool = witness(tmp_path, before=LARGE_PICTURE.format("exec sleep 300"))
    ended = run_with(command, film, tool, BASE_TIMEOUT=6, LONGEST_TIMEOUT=6, STALL_TIMEOUT=60)
    assert ended.code == 0, ended.stderr
    assert [one["failure"] for one in ended.document["tried"]] == ["process_timeout"] * 2
    assert ended.document["output"]["video"]["height"] == 240
    assert left_running(command) == []


# --- those that are tried again ---------------------------------------------------------------------


@pytest.mark.slow
def test_a_tool_that_somebody_killed_is_run_again(command: Command, small: Path, tmp_path: Path) -> None:
    once = f"if mkdir {shlex.quote(str(tmp_path / 'killed'))} 2>/dev/null; then kill -9 $$; fi"
    tool = witness(tmp_path, before=COPY.format(once))
    ended = run_with(command, small, tool)
    assert ended.code == 0, ended.stderr
    copies = [call for call in works(tool) if "filter_complex" not in call]
    assert len(copies) == 2 and ladder(ended) == [("copy", None)]
    assert left_running(command) == []


@pytest.mark.slow
def test_a_tool_that_is_killed_every_time_is_run_three_times_in_all(
    command: Command, small: Path, tmp_path: Path
) -> None:
    tool = witness(tmp_path, before=COPY.format("kill -9 $$"))
    ended = run_with(command, small, tool)
    failure = failure_told(ended, code=1, kind="process_killed")
    assert "SIGKILL" in failure["message"]
    assert len(works(tool)) == 3
    nothing_left_but_evidence(command)


# --- the switches -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_without_supervision_a_run_works_and_says_so(command: Command, small: Path, tmp_path: Path) -> None:
    """Also the deadline is kept: clock and caps are dropped, the end is not."""
    command.environment["TIDEGATE_TRANSFER_ENGINE"] = "plain"
    ended = run_with(command, small, witness(tmp_path), SUPERVISION="off", STALL_TIMEOUT=0.1, STARTUP_GRACE=0)
    assert ended.code == 0, ended.stderr
    assert ended.document["paths"] == {"process": "plain", "transfer": "plain"}
    hung = witness(tmp_path, before=COPY.format("sleep 300"))
    ended = run_with(command, small, hung, BASE_TIMEOUT=4, LONGEST_TIMEOUT=4)
    assert ended.code == 0, "from its checkpoints"
    command.environment["TIDEGATE_HOME"] = str(tmp_path / "another")
    failure_told(run_with(command, small, hung), code=1, kind="process_timeout")
    assert left_running(command) == []


def test_a_switch_that_cannot_be_understood_is_refused_before_any_work(command: Command, small: Path) -> None:
    command.environment["TIDEGATE_TRANSFER_ENGINE"] = "sometimes"
    failure = failure_told(command.run(str(small)), code=2, kind="bad_input")
    assert "TIDEGATE_TRANSFER_ENGINE" in failure["message"]

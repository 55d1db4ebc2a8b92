"""A memory cap holds for the whole tree, whoever enforces it: with real children, grandchildren and a real x264."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import psutil
import pytest

from tests.support import fake_tool
from tests.support.command import wait_until
from tests.support.disks import volume
from tests.support.forked import Pipe, forked
from tests.support.leaks import wait_until_childless
from tidegate.durable.owner import this_process
from tidegate.errors import MemoryExhausted, ProcessKilled
from tidegate.events import Event, Note, Strain
from tidegate.media.ffmpeg import Toolchain, global_arguments
from tidegate.process import cgroup
from tidegate.process.cgroup import MemoryGroup, own_group_folder, sweep
from tidegate.process.supervise import Job, JobResult, run
from tidegate.settings import ProcessSettings, ToolSettings

pytestmark = pytest.mark.usefixtures("nothing_left", "no_group_left")

TOOL = [sys.executable, "-I", fake_tool.__file__]
MB = 1000**2
CAP = 100 * MB
GUARDS = ["cgroup", "sampling"]
TICK = 0.2


def groups(pid: int | None = None) -> list[str]:
    """Those that this process (or that one) has made: other tests run beside these."""
    place, namespace = own_group_folder(), this_process().namespace
    mine = f"{cgroup.PREFIX}{namespace}-{pid or os.getpid()}-*"
    return sorted(path.name for path in place.folder.glob(mine)) if place else []


@pytest.fixture
def no_group_left() -> Iterator[None]:
    yield
    assert groups() == []


def limits(guard: str, **more: object) -> ProcessSettings:
    told = {"tick": TICK, "sample_every": TICK, "end_grace": 0.5, "memory_guard": guard, **more}
    return ProcessSettings(**told)  # type: ignore[arg-type]


def run_capped(*acts: str, guard: str, cap: int | None = CAP, events: list[Event] | None = None) -> JobResult:
    if guard == "cgroup" and not groups_possible():
        pytest.skip("this process may make no control groups")
    told = events if events is not None else []
    job = Job("the tool", [*TOOL, *acts], 60.0, memory_cap_bytes=cap, stage="remux", observe=told.append)
    return anyio.run(run, job, limits(guard))


def groups_possible() -> bool:
    group = MemoryGroup.make(CAP)
    return group is not None and group.remove()


# --- within the cap, and beyond it ------------------------------------------------------------------


@pytest.mark.parametrize("guard", GUARDS)
def test_a_tool_within_its_cap_is_left_alone_and_its_use_is_told(guard: str) -> None:
    done = run_capped("allocate 50M", "sleep 2s", guard=guard)
    use = done.resources
    assert done.exit_code == 0
    assert (use.enforced_by, use.memory_cap_bytes) == (guard, CAP)
    assert 50 * MB <= use.peak_memory_bytes < CAP
    assert 0 < use.mean_memory_bytes <= use.peak_memory_bytes
    assert use.samples >= 3 and len(use.curve) == use.samples
    assert max(memory for _, memory, _ in use.curve) == use.peak_memory_bytes


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize(
    "acts",
    [
        ["allocate 20M every 50ms times 20"],
        ["allocate 400M", "hang"],
        ["child allocate 20M every 50ms times 20", "hang"],
        ["orphan allocate 20M every 50ms times 20", "hang"],
        ["allocate 40M", "child allocate 80M every 2s times 1", "hang"],
        ["ignore-term", "child allocate 20M every 50ms times 20", "hang"],
    ],
    ids=["slowly", "at-once", "in-a-child", "in-a-session-of-its-own", "together", "deaf"],
)
def test_a_tree_that_needs_more_is_ended_as_such(guard: str, acts: list[str]) -> None:
    with pytest.raises(MemoryExhausted, match="cap of 100 MB") as caught:
        run_capped("error allocating", *acts, guard=guard)
    evidence = caught.value.evidence
    assert evidence.resources["memory_cap_bytes"] == CAP
    assert evidence.notes["enforced_by"] == guard
    assert evidence.resources["peak_memory_bytes"] > 0
    assert len(evidence.curve) >= 1
    assert "allocating" in evidence.output_tail


@pytest.mark.parametrize("guard", GUARDS)
def test_the_tree_is_never_far_beyond_its_cap_for_longer_than_a_tick(guard: str) -> None:
    """Looked at from outside, fifty times a second."""
    over: list[tuple[float, int]] = []

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(look)
            try:
                await run(
                    Job("it", [*TOOL, "allocate 10M every 20ms times 200"], 60.0, memory_cap_bytes=CAP), limits(guard)
                )
            finally:
                group.cancel_scope.cancel()

    async def look() -> None:
        while True:
            memory = 0
            for child in psutil.Process().children(recursive=True):
                try:
                    memory += child.memory_info().rss
                except psutil.Error:
                    continue
            if memory > 1.1 * CAP:
                over.append((time.monotonic(), memory))
            await anyio.sleep(0.02)

    if guard == "cgroup" and not groups_possible():
        pytest.skip("this process may make no control groups")
    with pytest.raises(BaseExceptionGroup) as caught:
        anyio.run(main)
    assert caught.group_contains(MemoryExhausted)
    lasted = over[-1][0] - over[0][0] if over else 0.0
    assert lasted <= TICK + 0.2, over


@pytest.mark.parametrize("guard", GUARDS)
def test_a_kill_from_outside_is_no_want_of_memory(guard: str) -> None:
    with pytest.raises(ProcessKilled):
        run_capped("allocate 20M", "sleep 300ms", "die SIGKILL", guard=guard)


def test_files_that_a_tool_reads_and_writes_do_not_count_against_it(tmp_path: Path) -> None:
    """A control group counts the page cache too, but gives it back before it ends anybody."""
    film = tmp_path / "film"
    film.write_bytes(bytes(3 * CAP))
    done = run_capped(f"copy {film} {tmp_path / 'copy'}", "sleep 300ms", guard="cgroup")
    assert done.exit_code == 0 and (tmp_path / "copy").stat().st_size == 3 * CAP


def test_output_on_a_disk_of_memory_is_sampled_because_a_group_would_count_the_files(tmp_path: Path) -> None:
    with volume(tmp_path / "ram", "size=300m") as ram:
        film = ram / "film"
        job = Job(
            "it",
            [*TOOL, f"write {film} 40M", "sleep 300ms"],
            60.0,
            outputs=(film,),
            memory_cap_bytes=CAP,
        )
        done = anyio.run(run, job, limits("auto"))
    assert (done.exit_code, done.resources.enforced_by) == (0, "sampling")


@pytest.mark.parametrize("guard", GUARDS)
def test_a_real_encoder_is_held_to_its_cap(guard: str) -> None:
    if guard == "cgroup" and not groups_possible():
        pytest.skip("this process may make no control groups")
    words = ["-f", "lavfi", "-i", "testsrc2=size=1920x1080:rate=30:duration=60", "-c:v", "libx264", "-preset", "slow"]
    argv = [*global_arguments(Toolchain.find(ToolSettings()).ffmpeg), *words, "-f", "null", "-"]
    with pytest.raises(MemoryExhausted) as caught:
        anyio.run(run, Job("ffmpeg", argv, 60.0, memory_cap_bytes=150 * MB), limits(guard))
    assert 0 < caught.value.evidence.resources["seconds"] < 30


# --- alerts ----------------------------------------------------------------------------------------


def test_alerts_and_strain_are_told_while_it_runs() -> None:
    events: list[Event] = []
    done = run_capped("allocate 76M", "sleep 3s", guard="sampling", events=events)
    said = [event.message for event in events if isinstance(event, Note)]
    assert len([note for note in said if "of the 100 MB of memory that it may" in note]) == 1, said
    assert [f"the tool: {alert}" for alert in done.resources.alerts] == said
    strains = [event for event in events if isinstance(event, Strain)]
    assert strains and strains[-1].risk == "low" and strains[-1].stage == "remux"
    # The last look may come when it has just ended.
    assert max(strain.memory_bytes for strain in strains) > 80 * MB and strains[-1].memory_cap_bytes == CAP


def test_the_lower_of_two_caps_counts() -> None:
    low = limits("auto", memory_cap=60 * MB)
    with pytest.raises(MemoryExhausted, match="60 MB"):
        anyio.run(run, Job("it", [*TOOL, "allocate 80M", "hang"], 60.0, memory_cap_bytes=CAP), low)
    high = limits("auto", memory_cap=600 * MB)
    with pytest.raises(MemoryExhausted, match="100 MB"):
        anyio.run(run, Job("it", [*TOOL, "allocate 120M", "hang"], 60.0, memory_cap_bytes=CAP), high)


def test_without_supervision_there_is_no_cap() -> None:
    off = limits("auto", supervision="off")
    done = anyio.run(run, Job("it", [*TOOL, "allocate 120M", "sleep 500ms"], 60.0, memory_cap_bytes=CAP), off)
    assert (done.exit_code, done.monitored, done.resources.enforced_by) == (0, False, "none")


# --- what a killed supervisor leaves ----------------------------------------------------------------


def test_the_group_of_a_supervisor_that_was_killed_is_ended_and_removed_by_the_next(tmp_path: Path, mark: str) -> None:
    if not groups_possible():
        pytest.skip("this process may make no control groups")
    acts = ["spawn-detached 60s", f"pid {tmp_path / 'up'}", "hang"]

    def lost(pipe: Pipe) -> None:
        anyio.run(run, Job("it", [*TOOL, *acts], 60.0, memory_cap_bytes=CAP), limits("cgroup"))

    with forked(lost) as parent:
        wait_until((tmp_path / "up").exists)
        [name] = groups(parent.pid)
        assert name not in sweep(), "its maker lives"
        parent.kill()
        parent.wait()
        assert groups(parent.pid) == [name], "nobody was there to remove it"
        wait_until(lambda: name in sweep() or not groups(parent.pid), seconds=5)  # the kernel is still ending the tool
        assert groups(parent.pid) == []
    assert wait_until_childless(mark) == []


# --- where groups may be made -----------------------------------------------------------------------


V1 = "4:memory:/a/b\n3:cpuset:/\n0::/\n"
V1_MOUNT = "35 31 0:32 {root} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"


def test_the_first_version_puts_groups_below_our_own() -> None:
    place = own_group_folder(V1, V1_MOUNT.format(root="/"))
    assert place is not None
    assert (str(place.folder), place.version) == ("/sys/fs/cgroup/memory/a/b", 1)
    inside = own_group_folder(V1, V1_MOUNT.format(root="/a"))
    assert inside is not None and str(inside.folder) == "/sys/fs/cgroup/memory/b", "a container has mounted its part"


def unified(tmp_path: Path, shares: str, limited: str = "") -> str:
    """A tree as the kernel shows it: `shares` is the group that shares out, `limited` one with a limit of its own."""
    for folder in ("", "slice", "slice/service", "slice/service/main"):
        (tmp_path / folder).mkdir(exist_ok=True)
        given = "memory pids" if folder == shares else "pids"
        (tmp_path / folder / "cgroup.subtree_control").write_text(f"{given}\n")
        if folder:
            (tmp_path / folder / "memory.max").write_text("1000000\n" if folder == limited else "max\n")
    return f"30 20 0:26 / {tmp_path} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.mark.parametrize(
    ("shares", "limited", "found"),
    [
        ("slice/service/main", "", "slice/service/main"),
        ("slice/service", "", "slice/service"),
        ("slice/service", "slice/service", "slice/service"),
        ("slice", "slice/service", None),
        ("nobody", "", None),
    ],
)
def test_the_second_version_takes_the_nearest_group_that_shares_out_and_escapes_no_limit(
    tmp_path: Path, shares: str, limited: str, found: str | None
) -> None:
    place = own_group_folder("0::/slice/service/main\n", unified(tmp_path, shares, limited))
    assert (place and place.folder) == (tmp_path / found if found else None)


def test_the_second_versions_counts_are_read_as_the_kernel_writes_them(tmp_path: Path) -> None:
    group = MemoryGroup(tmp_path, 2, CAP)
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n")
    assert group.was_exhausted()
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 0\noom 0\noom_kill 1\noom_group_kill 0\n")
    assert not group.was_exhausted(), "the machine had none left; the group was not at its cap"


def test_where_no_group_may_be_made_there_is_none() -> None:
    assert own_group_folder("0::/x\n", "30 20 0:26 / /nowhere rw - cgroup2 cgroup2 rw\n") is None
    assert MemoryGroup.make(CAP, cgroup.GroupFolder(Path("/nowhere"), 2)) is None
    assert own_group_folder("", "") is None

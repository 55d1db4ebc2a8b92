"""Kill-and-check: die at one point of a piece of work, go on with it, and compare with the run that nobody disturbed.

A test says how its work is begun and how it goes on (`Work`); the points come from the log that the undisturbed run
leaves, so a stage added later is swept with no test of its own. Complaints come back as text: `== {}` is the assertion.
`docs/crash-testing.md` tells the idea.
"""

from __future__ import annotations

import hashlib
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.command import wait_until

BEGUN, RECORDED = ": started", ": recorded"
"""How the points end between which a stage is at work."""
SHOWN = re.compile(r"swap .*-\*: in place")
"""The point at which a published folder has just appeared; its name ends with a part of the work key."""
REPORTS = (".json", ".html", ".log")
"""Files that tell of the run that made them, and differ from run to run."""
LONGEST_SECONDS = 180.0


@dataclass(frozen=True)
class Work:
    """One piece of work, in folders that it shares with nobody."""

    folder: Path
    """For the log and the marker."""
    output: Path
    """Where the published folder appears."""
    start: Callable[[Mapping[str, str]], subprocess.Popen[Any]]
    """Begin it, in a process that gets these variables as well. That process is the one to be killed."""
    resume: Callable[[Mapping[str, str]], None]
    """Go on after the kill, and bring it to its end; raises AssertionError when it did not end well."""
    left: Callable[[], Iterable[object]]
    """What must not be left at the end: processes, locks, leases, temporary files."""

    @property
    def log(self) -> Path:
        return self.folder / "points.log"

    @property
    def marker(self) -> Path:
        return self.folder / "killed"

    @property
    def points(self) -> list[str]:
        """The points reached so far, in all its processes."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def variables(self, point: str | None = None) -> dict[str, str]:
        """What crash points are told by; with a `point`, the first process to reach it dies."""
        logged = {"TIDEGATE_CRASH_LOG": str(self.log)}
        return logged if point is None else logged | {
            "TIDEGATE_CRASH_AT": point, "TIDEGATE_CRASH_ONCE": str(self.marker)
        }  # fmt: skip


@dataclass(frozen=True)
class Published:
    """What stands in the output folder."""

    inodes: dict[str, int] = field(default_factory=dict)
    """Of each published folder and the files in it that are no reports."""
    digests: dict[str, str] = field(default_factory=dict)
    """Of those files."""

    @classmethod
    def by(cls, work: Work) -> Published:
        folders = [path for path in work.output.glob("[!.]*") if path.is_dir()]
        files = [path for folder in folders for path in folder.iterdir() if path.suffix not in REPORTS]
        return cls(
            {path.name: path.stat().st_ino for path in (*folders, *files)},
            {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        )


@dataclass(frozen=True)
class Undisturbed:
    """What the work comes to when nobody kills it."""

    points: tuple[str, ...]
    """As they were reached, each with its number: `part: synced#2`."""
    published: Published
    seconds: float
    """From its first point to its end."""


def undisturbed(work: Work) -> Undisturbed:
    """Do the work once and learn its points."""
    process = work.start(work.variables())
    wait_until(lambda: work.points or process.poll() is not None, seconds=LONGEST_SECONDS)
    began = time.monotonic()
    assert process.wait(LONGEST_SECONDS) == 0
    seconds = time.monotonic() - began
    assert list(work.left()) == []
    assert work.points, "no point was reached: the environment did not get there"
    published = Published.by(work)
    assert published.digests, "nothing was published"
    return Undisturbed(numbered(work.points), published, seconds)


def numbered(points: Iterable[str]) -> tuple[str, ...]:
    """Each point with how many of its name there were until then."""
    seen: Counter[str] = Counter()
    told = []
    for point in points:
        seen[point] += 1
        told.append(f"{point}#{seen[point]}")
    return tuple(told)


def spread(points: tuple[str, ...], number: int, seed: int) -> list[str]:
    """A sample from beginning to end: one point from each of `number` stretches of equal length."""
    choice, step = random.Random(seed), len(points) / number
    return [points[int((stretch + choice.random()) * step)] for stretch in range(number)]


def killed_at(work: Work, point: str, truth: Undisturbed) -> list[str]:
    """Kill the work at this point and go on with it; what is wrong then."""
    variables = work.variables(point)
    code = work.start(variables).wait(LONGEST_SECONDS)
    if code != -signal.SIGKILL or not work.marker.exists():
        return [f"nobody was killed there: it ended with {code}"]
    return _gone_on_with(work, variables, truth)


def killed_after(work: Work, seconds: float, truth: Undisturbed) -> list[str]:
    """Kill the work so long after its first point and go on with it; what is wrong then."""
    variables = work.variables()
    process = work.start(variables)
    wait_until(lambda: work.points or process.poll() is not None, seconds=LONGEST_SECONDS)
    time.sleep(seconds)
    process.kill()
    process.wait(LONGEST_SECONDS)
    return _gone_on_with(work, variables, truth)


def _gone_on_with(work: Work, variables: Mapping[str, str], truth: Undisturbed) -> list[str]:
    before, then = work.points, Published.by(work)
    try:
        work.resume(variables)
    except AssertionError as failure:
        return [f"it did not go on: {failure}"]
    return [
        *_started_too_often(work.points, before),
        *_published_again(work, then, truth),
        *(f"left behind: {thing}" for thing in work.left()),
    ]


def _started_too_often(points: list[str], before_the_kill: list[str]) -> list[str]:
    """A stage is started once, and once more only when the kill hit it between its start and its record."""
    starts = Counter(point.removesuffix(BEGUN) for point in points if point.endswith(BEGUN))
    hit = {
        stage
        for stage in starts
        if f"{stage}{BEGUN}" in before_the_kill and f"{stage}{RECORDED}" not in before_the_kill
    }
    return [f"{stage} was started {times} times" for stage, times in starts.items() if times > 1 + (stage in hit)]


def _published_again(work: Work, then: Published, truth: Undisturbed) -> list[str]:
    now = Published.by(work)
    complaints = []
    if now.digests != truth.published.digests:
        complaints.append(f"other files than undisturbed: {now.digests} instead of {truth.published.digests}")
    replaced = [name for name, inode in then.inodes.items() if now.inodes.get(name) != inode]
    if replaced:
        complaints.append(f"published before the kill and replaced after it: {replaced}")
    if then.digests and then.digests != truth.published.digests:
        complaints.append(f"not whole when it appeared: {then.digests}")
    shown = sum(bool(SHOWN.fullmatch(point)) for point in work.points)
    if shown > 1:
        complaints.append(f"published {shown} times")
    return complaints

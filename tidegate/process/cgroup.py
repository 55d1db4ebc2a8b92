"""A control group of the kernel's that holds one child and everything it starts to so much memory.

The supervisor makes one for a job with a memory cap, where this process may; elsewhere the monitor samples. The kernel
counts what was killed in it, so an end for want of memory is never guessed from an exit code. A group whose maker was
killed is ended and removed by the next one that is made, and by maintenance.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

from tidegate.durable.owner import Owner, is_provably_gone, this_process

PREFIX = "tidegate-"
_NAME = re.compile(rf"{PREFIX}(\d+)-(\d+)-(\d+)-\d+")
"""PID namespace, number and start of the process that made it, and a number of its own."""
KILL_ROUNDS = 50
"""How often the members of a group are killed: one that forks meanwhile is found in the next round."""
NEAR_CAP = 0.9
"""Of version 1: who was killed needed more than the cap, if the group once had this share of it. The kernel takes
memory in batches, up to two megabytes at once, so it may refuse some before the cap is reached."""

_numbers = itertools.count(1)


@dataclass(frozen=True)
class MemoryGroup:
    """One group; of the memory controller (version 1) or of the unified hierarchy (version 2)."""

    folder: Path
    version: int
    cap_bytes: int

    @classmethod
    def make(cls, cap_bytes: int, place: GroupFolder | None = None) -> MemoryGroup | None:
        """A new group with this cap; None where none can be made, or none that tells why it killed."""
        place = place or own_group_folder()
        if place is None:
            return None
        sweep(place)
        owner = this_process()
        folder = place.folder / f"{PREFIX}{owner.namespace}-{owner.pid}-{owner.started}-{next(_numbers)}"
        group = cls(folder, place.version, cap_bytes)
        try:
            folder.mkdir()
        except OSError:
            return None
        try:
            group._limit()
            group._events()
        except (OSError, KeyError, ValueError):
            group.remove()
            return None
        return group

    def open(self) -> int:
        """A descriptor: whoever writes 0 into it becomes a member."""
        return os.open(self.folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)

    def members(self) -> list[int]:
        """The processes in it; wherever they went, sessions and orphans too."""
        with contextlib.suppress(OSError, ValueError):
            pids = [int(word) for word in (self.folder / "cgroup.procs").read_text().split()]
            return [pid for pid in pids if pid > 0]  # 0: somebody of another PID namespace; to signal it means us
        return []

    def memory_bytes(self) -> int | None:
        """What the kernel counts against the cap: each page once, files that it caches for the members too. None: not
        to be read. (Without the caches it is only known with seconds of delay.)"""
        return self._count("memory.usage_in_bytes", "memory.current")

    def peak_bytes(self) -> int | None:
        """The most that it ever was. None: before Linux 5.19 version 2 does not tell."""
        return self._count("memory.max_usage_in_bytes", "memory.peak")

    def was_exhausted(self) -> bool:
        """Whether a member was killed because the group needed more than its cap.

        A kill alone is not enough: a machine without memory ends members of groups that are far below their cap. Of
        version 1 a group that has read or written many files looks as if it had been at its cap.
        """
        try:
            kills, refusals = self._events()
        except (OSError, KeyError, ValueError):
            return False
        return kills > 0 and refusals > 0

    def kill(self) -> None:
        """SIGKILL to every member."""
        if self.version == 2:
            with contextlib.suppress(OSError):  # before Linux 5.14 there is no such file
                (self.folder / "cgroup.kill").write_text("1")
        for _ in range(KILL_ROUNDS):
            if not (members := self.members()):
                return
            for pid in members:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)

    def remove(self) -> bool:
        """Whether it is gone; it stays while a member lives."""
        with contextlib.suppress(OSError):
            self.folder.rmdir()
        return not self.folder.exists()

    def _limit(self) -> None:
        """Set the cap. Swap counts too: a job that swaps is not within its memory, only slower."""
        if self.version == 1:
            (self.folder / "memory.limit_in_bytes").write_text(str(self.cap_bytes))
            with contextlib.suppress(OSError):  # where the kernel does not count swap
                (self.folder / "memory.memsw.limit_in_bytes").write_text(str(self.cap_bytes))
            return
        (self.folder / "memory.max").write_text(str(self.cap_bytes))
        for name, value in (("memory.swap.max", "0"), ("memory.oom.group", "1")):
            with contextlib.suppress(OSError):
                (self.folder / name).write_text(value)

    def _events(self) -> tuple[int, int]:
        """Members that were killed for want of memory, and whether (or how often) the group was at its cap."""
        if self.version == 1:
            # Its own counts of refusals stay at zero where the limit that includes swap is met first.
            near = (self.peak_bytes() or 0) >= NEAR_CAP * self.cap_bytes
            return _numbers_in(self.folder / "memory.oom_control")["oom_kill"], int(near)
        events = _numbers_in(self.folder / "memory.events")
        return events["oom_kill"], events["oom"]

    def _count(self, version_1: str, version_2: str) -> int | None:
        """The number in a file of that name; None: there is none."""
        with contextlib.suppress(OSError, ValueError):
            return int((self.folder / (version_1 if self.version == 1 else version_2)).read_text())
        return None


@dataclass(frozen=True)
class GroupFolder:
    """A folder in which groups may be made."""

    folder: Path
    version: int


def own_group_folder(cgroup: str | None = None, mounts: str | None = None) -> GroupFolder | None:
    """Where this process may make groups, so that whatever limits it limits them too; None: nowhere.

    `cgroup` and `mounts` are the texts of /proc/self/cgroup and /proc/self/mountinfo, and are read unless given.
    """
    try:
        lines = (cgroup if cgroup is not None else Path("/proc/self/cgroup").read_text()).splitlines()
        mounted = (mounts if mounts is not None else Path("/proc/self/mountinfo").read_text()).splitlines()
    except OSError:
        return None
    paths = {name: path for line in lines for _, names, path in [line.split(":", 2)] for name in names.split(",")}
    for root, mountpoint, kind, options in map(_mount, mounted):
        if kind == "cgroup" and "memory" in options and "memory" in paths:
            return GroupFolder(_below(mountpoint, root, paths["memory"]), 1)
    for root, mountpoint, kind, _ in map(_mount, mounted):
        if kind == "cgroup2" and "" in paths:
            folder = _nearest_group_folder(_below(mountpoint, root, paths[""]), mountpoint)
            return GroupFolder(folder, 2) if folder else None
    return None


def sweep(place: GroupFolder | None = None) -> tuple[str, ...]:
    """End and remove the groups whose maker is gone; gives their names."""
    place = place or own_group_folder()
    if place is None:
        return ()
    here = this_process()
    swept = []
    with contextlib.suppress(OSError):
        for folder in sorted(place.folder.glob(f"{PREFIX}*")):
            maker = _maker(folder.name, here)
            if maker is not None and is_provably_gone(maker, here):
                group = MemoryGroup(folder, place.version, 0)
                group.kill()
                if group.remove():
                    swept.append(folder.name)
    return tuple(swept)


def _maker(name: str, here: Owner) -> Owner | None:
    """Who made the group of this name, where it is known: groups do not outlive a boot."""
    if not (match := _NAME.fullmatch(name)):
        return None
    namespace, pid, started = map(int, match.groups())
    return here.model_copy(update={"namespace": namespace, "pid": pid, "started": started})


def _mount(line: str) -> tuple[str, Path, str, list[str]]:
    """Root, mount point, kind and options of one line of mountinfo (proc(5))."""
    before, _, after = line.partition(" - ")
    _, _, _, root, mountpoint, *_ = before.split(" ")
    kind, _, options = after.split(" ", 2)
    return root, Path(mountpoint), kind, options.split(",")


def _below(mountpoint: Path, root: str, path: str) -> Path:
    """A group's folder: paths count from the hierarchy's root, of which a container has mounted its own part."""
    inside = path[len(root) :] if root != "/" and path.startswith(root) else path
    return mountpoint / inside.lstrip("/")


def _nearest_group_folder(own: Path, mountpoint: Path) -> Path | None:
    """The nearest group, from our own upwards, that shares memory out to groups below it, and none beyond a limit.

    A group with processes of its own may not share out (cgroup-v2, "no internal processes"), so ours seldom does. A
    service manager that delegates puts the service into a group below the one that is delegated.
    """
    folder = own
    while True:
        with contextlib.suppress(OSError):
            if "memory" in (folder / "cgroup.subtree_control").read_text().split():
                return folder
        limit = folder / "memory.max"
        if folder == mountpoint or (limit.exists() and limit.read_text().strip() != "max"):
            return None
        folder = folder.parent


def _numbers_in(file: Path) -> dict[str, int]:
    pairs = (line.split() for line in file.read_text().splitlines())
    return {name: int(value) for name, value in pairs}

"""Disks that fail for real: small, full, out of names, read-only, or refusing to sync.

Tests wrap a home or an output folder in them. Each skips visibly where this machine may not make it, and nothing of it
is left after its block.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SMALLEST_WRITE = 1
LARGEST_WRITE = 1024 * 1024


@contextlib.contextmanager
def volume(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own at `folder`, such as `size=24m` or `size=24m,nr_inodes=20`."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tidegate-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small tmpfs needs root and the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Give a `volume` another size or number of names."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def fill(folder: Path, *, leave_bytes: int = 0) -> Path:
    """Take the space of a volume, to the last byte unless some is left; gives the file to remove again."""
    assert folder.stat().st_dev != Path(tempfile.gettempdir()).stat().st_dev, "this is the machine's own disk"
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as file:
        size = LARGEST_WRITE
        while size >= SMALLEST_WRITE:
            try:
                if shutil.disk_usage(folder).free - size < leave_bytes:
                    raise OSError
                file.write(bytes(size))
            except OSError:
                size //= 2
    return ballast


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody may write below `folder` from now on, root neither; who has a file open goes on writing into it."""
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        _remount_read_only(folder)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _remount_read_only(folder: Path) -> None:
    """The kernel refuses while somebody has just begun to write a file there, and a run writes often."""
    for _ in range(50):
        done = subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], capture_output=True, text=True)
        if done.returncode == 0:
            return
        time.sleep(0.1)
    raise AssertionError(done.stderr)


TRACED = ("-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync")
FAILING = ("-e", "inject=fsync,fdatasync:error=EIO")


def syncs_fail(*paths: Path) -> list[str]:
    """What to put before a command for which syncing these files and folders fails: it has written, but not safely."""
    _require_strace()
    return ["strace", *TRACED, *FAILING, *(word for path in paths for word in ("-P", str(path)))]


@contextlib.contextmanager
def syncs_failing(pid: int, *paths: Path) -> Iterator[None]:
    """The same for a process that runs already, and for as long as the block lasts."""
    argv = [word for word in syncs_fail(*paths) if word != "--seccomp-bpf"]  # needs to start its process itself
    tracer = subprocess.Popen([*argv, "-p", str(pid)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 10
        while f"TracerPid:\t{tracer.pid}\n" not in Path(f"/proc/{pid}/status").read_text():
            assert tracer.poll() is None and time.monotonic() < until, "strace could not attach"
            time.sleep(0.02)
        yield
    finally:
        tracer.terminate()
        tracer.communicate()


def _require_strace() -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    probe = subprocess.run(["strace", *TRACED, "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"strace may not trace here: {probe.stderr.strip()}")

"""Files and folders that are there whole or not at all.

Every layer above writes through these. After a crash at any point a reader sees the old content or the new, never a
mixture; what is left over carries a `.tmp` or `.partial` mark in its name and is nobody's result.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from tidegate.durable import private
from tidegate.durable.crash_points import crash_point
from tidegate.errors import from_os_error

COPY_BLOCK_BYTES = 4 * 1024 * 1024

_FICLONE = 0x40049409
"""ioctl number of a reflink copy, from linux/fs.h."""
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
"""Flag of renameat2(2), from linux/fs.h."""


def temporary_sibling(path: Path) -> Path:
    """A name beside `path` that no reader takes for a result."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Make the bytes of `path` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a small file that is its owner's alone: temporary sibling, fsync, rename, fsync of the folder.

    Raises:
        DiskFull, PermissionRefused, StoreUnavailable: the operating system refused; nothing is left behind.
    """
    _write(path, content, public=False)


def write_public(path: Path, content: bytes) -> None:
    """As `write_atomic`, but for whom the umask lets: players, media servers, other users.

    Raises:
        DiskFull, PermissionRefused, StoreUnavailable: the operating system refused; nothing is left behind.
    """
    _write(path, content, public=True)


def _write(path: Path, content: bytes, *, public: bool) -> None:
    temporary = temporary_sibling(path)
    try:
        if public:
            path.parent.mkdir(parents=True, exist_ok=True)
        else:
            private.make_folder(path.parent)
        crash_point("write {}: begun", path.name)
        mode = 0o666 if public else private.file_mode(temporary)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        crash_point("write {}: synced", path.name)
        temporary.rename(path)
        crash_point("write {}: renamed", path.name)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise from_os_error(error, f"writing {path.name}", path) from error


def copy_file(source: Path, target: Path, each_block: Callable[[], None] = lambda: None) -> None:
    """Copy by reflink where the file system can, else byte by byte, and fsync. Never a hard link: the copy must not
    change when the other side is edited. `each_block` may raise to give up early (a cancelled run).

    Raises:
        OSError: as the operating system says; a half-written target is removed, one that was there before is not.
    """
    with source.open("rb") as reader, target.open("xb") as writer:
        try:
            crash_point("copy {}: begun", target.name)
            if not _reflink(reader.fileno(), writer.fileno()):
                _copy_blocks(reader, writer, each_block)
            writer.flush()
            os.fsync(writer.fileno())
            crash_point("copy {}: synced", target.name)
        except BaseException:
            with contextlib.suppress(OSError):
                target.unlink(missing_ok=True)
            raise


def swap_in(prepared: Path, target: Path) -> None:
    """Put the folder `prepared` in the place of `target` in one step, and remove what was there.

    Both must lie in the same folder; see `put_in_place`.
    """
    aside = put_in_place(prepared, target)
    sync_folder(target.parent)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


def put_in_place(prepared: Path, target: Path) -> Path | None:
    """The renames of `swap_in` alone, and where the folder that was at `target` lies now, if there was one.

    Where the file system cannot exchange two names, the old folder is moved aside first; a crash between the two
    renames leaves it under a `.tmp` name, complete.
    """
    crash_point("swap {}: prepared", target.name)
    aside = _replace(prepared, target)
    crash_point("swap {}: in place", target.name)
    return aside


def _replace(prepared: Path, target: Path) -> Path | None:
    if not target.exists():
        prepared.rename(target)
        return None
    if _exchange(prepared, target):
        return prepared
    aside = temporary_sibling(target)
    target.rename(aside)
    crash_point("swap {}: moved aside", target.name)
    prepared.rename(target)
    return aside


def _copy_blocks(reader: BinaryIO, writer: BinaryIO, each_block: Callable[[], None]) -> None:
    while block := reader.read(COPY_BLOCK_BYTES):
        each_block()
        writer.write(block)


def _reflink(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def _exchange(one: Path, other: Path) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    result = libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if result == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))

"""Space for a file before its bytes come, without making it look longer than it is.

The part asks for it, so that a download that does not fit fails at its beginning, also where several that would fit
alone begin at once, and lies in one piece on the disk. After a crash the reserved space goes with the file.
"""

from __future__ import annotations

import ctypes
import errno
import os

_KEEP_SIZE = 1
"""FALLOC_FL_KEEP_SIZE, from linux/falloc.h: the size stays that of the bytes that were written."""

_CANNOT = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV, errno.EPERM})


def preallocate(handle: int, size: int) -> None:
    """Reserve `size` bytes; does nothing where the file system or the platform cannot.

    Raises:
        OSError: there is no such space.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if size <= 0 or not hasattr(libc, "fallocate64"):
        return
    if libc.fallocate64(handle, _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(size)) == 0:
        return
    code = ctypes.get_errno()
    if code not in _CANNOT and code != errno.EINTR:
        os.ftruncate(handle, os.fstat(handle).st_size)  # some file systems keep what they had found until then
        raise OSError(code, os.strerror(code))

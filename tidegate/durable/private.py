"""Who may read what Tidegate keeps: its owner and nobody else, whatever the umask says.

Everything that makes a folder or a file in the home asks here for its mode; published folders do not, they are as the
umask says. A folder that its owner shares with a group is the one exception: what is made in it can be read and written
by that group, as far as the umask lets it. A mode is given when a file is made and never added afterwards, so a crash
leaves nothing open.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import pwd
import re
import stat
from dataclasses import dataclass
from pathlib import Path

FOLDER, FILE, SEALED = 0o700, 0o600, 0o400
"""Modes of what is its owner's alone; `SEALED` is what nobody changes any more."""
_FOLDER_OF_GROUP, _FILE_OF_GROUP, _SEALED_OF_GROUP = 0o770, 0o660, 0o440
_GROUP = 0o070
OTHERS = 0o077
"""All that is not the owner's."""
_ACCESS_LISTS = ("system.posix_acl_access", "system.posix_acl_default")


@dataclass(frozen=True)
class Permissions:
    """How a file or folder stands to people who do not own it."""

    mode: int
    owner: int
    group: int
    usual_group: int | None
    """The primary group of its owner; None where nobody knows it."""
    private_group: bool
    """Whether that group is for this one user, as many systems make one for each."""
    access_list: bool
    umask: int

    @property
    def open_to_others(self) -> bool:
        return bool(self.mode & OTHERS)


def permissions_of(path: Path) -> Permissions:
    """How it stands now; of a link, what it leads to.

    Raises:
        OSError: there is no such file, or it cannot be looked at.
    """
    found = path.stat()
    usual = _primary_group(found.st_uid)
    return Permissions(
        mode=stat.S_IMODE(found.st_mode),
        owner=found.st_uid,
        group=found.st_gid,
        usual_group=usual,
        private_group=usual is not None and usual == found.st_uid,
        access_list=_has_access_list(path),
        umask=umask(),
    )


def share_reason(one: Permissions) -> str | None:
    """Why it counts as shared with a group on purpose; None where it does not."""
    if not one.mode & _GROUP:
        return None
    if one.mode & stat.S_ISGID:
        return "what is made in it gets its group (setgid)"
    if one.access_list:
        return "it has an access control list"
    if one.group != one.usual_group:
        return "its group is not its owner's usual one"
    by_the_umask = one.private_group and not one.umask & stat.S_IWGRP
    if one.mode & stat.S_IWGRP and not by_the_umask:
        return "its group may write"
    return None


def make_folder(path: Path) -> None:
    """Make the folder and those above it that are missing, all of them private.

    Raises:
        OSError: as `mkdir` does; not where the folder is there already.
    """
    try:
        os.mkdir(path, _FOLDER_OF_GROUP if _is_shared(path.parent) else FOLDER)  # noqa: PTH102
    except FileNotFoundError:
        if path.parent == path:
            raise
        make_folder(path.parent)
        make_folder(path)
    except FileExistsError:
        if not path.is_dir():
            raise


def opener(path: str, flags: int) -> int:
    """For `open(path, "ab", opener=opener)`: a file that is made by it is private."""
    return os.open(path, flags | os.O_CLOEXEC, file_mode(Path(path)))


def make_file(path: Path) -> None:
    """Make it, empty, where it is missing: for programs that would make it as the umask says, such as SQLite.

    Raises:
        OSError: it cannot be made.
    """
    if path.exists():
        return
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, file_mode(path)))
    except FileExistsError:
        return


def file_mode(path: Path) -> int:
    """The mode of a new file of that name."""
    return _FILE_OF_GROUP if _is_shared(path.parent) else FILE


def seal(path: Path) -> None:
    """Let nobody write into it any more.

    Raises:
        OSError: it cannot be changed.
    """
    path.chmod(_SEALED_OF_GROUP if _is_shared(path.parent) else SEALED)


def umask_of_child(folder: Path) -> int:
    """The umask of a program that keeps its files in `folder`; -1, as `subprocess` has it, changes nothing."""
    return -1 if _is_shared(folder) else OTHERS


def umask() -> int:
    """The umask of this process."""
    with contextlib.suppress(OSError, ValueError):
        line = re.search(r"^Umask:\s*([0-7]+)", Path("/proc/self/status").read_text(), re.MULTILINE)
        if line:
            return int(line.group(1), 8)
    before = os.umask(OTHERS)  # elsewhere it can only be read by setting it
    os.umask(before)
    return before


def _is_shared(folder: Path) -> bool:
    try:
        if not folder.stat().st_mode & _GROUP:
            return False
        return share_reason(permissions_of(folder)) is not None
    except OSError:
        return False


@functools.lru_cache(maxsize=64)
def _primary_group(user: int) -> int | None:
    try:
        return pwd.getpwuid(user).pw_gid
    except KeyError:  # a number without a name, as containers have them
        return os.getegid() if user == os.geteuid() else None


def _has_access_list(path: Path) -> bool:
    if not hasattr(os, "getxattr"):
        return False
    for name in _ACCESS_LISTS:
        try:
            os.getxattr(path, name)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOTSUP):
                return False
        else:
            return True
    return False

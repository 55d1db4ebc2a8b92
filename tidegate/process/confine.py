"""What the kernel forbids a child: files that it has no use for, the network, and doors to other processes.

`child.spawn` prepares a confinement before the fork and lets the child put it on between fork and exec. Landlock
names the files (and, from Linux 6.7 on, the ports) that it may use; a seccomp filter refuses sockets and system calls
that no tool of ours needs. Both are for good, for everything that the child starts too, and end with it: nothing is
left after a crash. Linux only. What this kernel does not know is left out, and `kernel_features` says so.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

NetworkAccess = Literal["none", "any"] | int
"""`none`, `any`, or the one TCP port to which it may connect: that of a proxy of ours."""

_libc = ctypes.CDLL(None, use_errno=True)  # here, because nothing may be loaded between fork and exec

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""Landlock's system calls; they have the same numbers everywhere."""
_PATH_BENEATH, _NET_PORT = 1, 2
_PR_SET_NO_NEW_PRIVS, _PR_GET_SECCOMP, _PR_SET_SECCOMP = 38, 21, 22
_SECCOMP_MODE_FILTER = 2
_O_PATH = getattr(os, "O_PATH", 0)

_CAPABILITY_HEADER = struct.pack("=Ii", 0x20080522, 0)
_CAPABILITIES = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 14 | 1 << 23
"""CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER: root reads films of others; CAP_IPC_LOCK and CAP_SYS_NICE:
drivers of graphics processors. A process that gains nothing by exec gets none of the others back."""

# Rights of linux/landlock.h, by the version ("ABI") that brought them.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_ALL_OF_VERSION_1 = (1 << 13) - 1
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
"""What can be allowed for something that is no folder."""
_BIND_TCP, _CONNECT_TCP = 1 << 0, 1 << 1
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1 << 0, 1 << 1

READS = _EXECUTE | _READ_FILE | _READ_DIR
NAMES = _READ_DIR
WRITES = (_ALL_OF_VERSION_1 | _REFER | _TRUNCATE) & ~_EXECUTE
"""It may read there, too, but start nothing that it has put there."""
DEVICE = _READ_FILE | _WRITE_FILE | _READ_DIR | _TRUNCATE | _IOCTL_DEV


@dataclass(frozen=True)
class KernelFeatures:
    """What this kernel can do."""

    landlock: int
    """The version of Landlock; 0: none."""
    seccomp: bool

    @property
    def whole(self) -> bool:
        """Whether files and network both are confined."""
        return self.landlock > 0 and self.seccomp


@cache
def kernel_features() -> KernelFeatures:
    """Asked once; a sandbox around us may forbid what the kernel knows."""
    if sys.platform != "linux":
        return KernelFeatures(0, seccomp=False)
    version = _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    filters = _own_architecture() is not None and _libc.prctl(_PR_GET_SECCOMP, 0, 0, 0, 0) >= 0
    return KernelFeatures(max(version, 0), seccomp=filters)


class Confinement:
    """What one child is held to. Made before the fork, put on after it, closed in the parent when the child runs."""

    def __init__(self, rights: Mapping[Path, int], network: NetworkAccess) -> None:
        features = kernel_features()
        self._ruleset = _ruleset(rights, network, features.landlock) if features.landlock else None
        self._program = _program(filter_of(network)) if features.seccomp else None
        self._capabilities = _fewer_capabilities() if features.landlock else None

    def put_on(self) -> None:
        """Runs in the child, between fork and exec: four system calls.

        Raises:
            OSError: the kernel refuses; the child must not start then.
        """
        _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        if self._capabilities is not None:
            _check(_libc.capset(_CAPABILITY_HEADER, self._capabilities))
        if self._ruleset is not None:
            _check(_libc.syscall(_RESTRICT_SELF, self._ruleset, 0))
        if self._program is not None:
            _check(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(self._program[0]), 0, 0))

    def close(self) -> None:
        """In the parent; twice does no harm."""
        if self._ruleset is not None:
            os.close(self._ruleset)
            self._ruleset = None


def _fewer_capabilities() -> bytes | None:
    """Root's powers, but for those over files, which Landlock holds; None where we have no others.

    With CAP_PERFMON, for one, the environment of every process can be read, Landlock or not.
    """
    held = ctypes.create_string_buffer(24)
    _check(_libc.capget(_CAPABILITY_HEADER, held))
    _, permitted, _, _, more, _ = struct.unpack("=6I", held.raw)
    kept = permitted & _CAPABILITIES
    return struct.pack("=6I", kept, kept, 0, 0, 0, 0) if (permitted, more) != (kept, 0) else None


def _check(result: int) -> int:
    """What a system call has returned.

    Raises:
        OSError: it has failed.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _ruleset(rights: Mapping[Path, int], network: NetworkAccess, version: int) -> int:
    """An open ruleset of Landlock; its descriptor is closed by exec."""
    files = _ALL_OF_VERSION_1 | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    files |= _IOCTL_DEV if version >= 5 else 0
    ports = _BIND_TCP | _CONNECT_TCP if version >= 4 and network != "any" else 0
    scopes = _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS if version >= 6 else 0
    known = 8 if version < 4 else 16 if version < 6 else 24
    attributes = struct.pack("=QQQ", files, ports, scopes)[:known]
    ruleset = _check(_libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(known), ctypes.c_uint32(0)))
    try:
        for path, allowed in rights.items():
            _allow(ruleset, path, allowed & files)
        if ports and isinstance(network, int):
            port = struct.pack("=QQ", _CONNECT_TCP, network)
            _check(_libc.syscall(_ADD_RULE, ruleset, _NET_PORT, port, 0))
    except BaseException:
        os.close(ruleset)
        raise
    return ruleset


def _allow(ruleset: int, path: Path, allowed: int) -> None:
    """What is not there, or is closed to us, the child does not get either."""
    try:
        handle = os.open(path, _O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rule = struct.pack("=Qi", allowed, handle)
        if _libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0) < 0 and ctypes.get_errno() == errno.EINVAL:
            rule = struct.pack("=Qi", allowed & _OF_FILES, handle)  # it is no folder
            _libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
    finally:
        os.close(handle)


# The filter. A list of what is forbidden, not of what is allowed: tools, drivers and C libraries of ten years use more
# system calls than anybody can list, and Landlock already holds the files.

_ARCHITECTURES = {"x86_64": 0xC000003E, "i386": 0x40000003, "aarch64": 0xC00000B7}
"""AUDIT_ARCH_* of linux/audit.h."""
_BESIDE = {"x86_64": ("x86_64", "i386"), "i386": ("i386",), "aarch64": ("aarch64",)}
"""Whose programs a processor runs too: the same call has another number there."""

CallNumbers = tuple[int | None, int | None, int | None]
"""On x86_64, i386 and aarch64; None: there is no such call."""


def _calls(table: str) -> dict[str, CallNumbers]:
    """Name → numbers, of a table `name x86_64 i386 aarch64, …`."""
    rows = (row.split() for row in table.split(","))
    return {name: (_number(a), _number(b), _number(c)) for name, a, b, c in rows}


def _number(word: str) -> int | None:
    return None if word == "-" else int(word)


INTO_OTHERS = _calls("""
    ptrace 101 26 117, process_vm_readv 310 347 270, process_vm_writev 311 348 271, kcmp 312 349 272,
    pidfd_getfd 438 438 438, perf_event_open 298 336 241
""")
"""Into other processes."""
YOUNG = _calls("""
    io_uring_setup 425 425 425, io_uring_enter 426 426 426, io_uring_register 427 427 427, bpf 321 357 280,
    userfaultfd 323 374 282, keyctl 250 288 219, add_key 248 286 217, request_key 249 287 218
""")
"""The kernel's large and young surfaces, in which most of its holes are found; io_uring makes sockets, too."""
WAYS_OUT = _calls("""
    unshare 272 310 97, setns 308 346 268, chroot 161 61 51, pivot_root 155 217 41, mount 165 21 40,
    umount2 166 52 39, move_mount 429 429 429, open_tree 428 428 428, fsopen 430 430 430, fsconfig 431 431 431,
    fsmount 432 432 432, fspick 433 433 433, mount_setattr 442 442 442, open_by_handle_at 304 342 265
""")
"""Out of what confines it: other namespaces, other mounts, files by their number."""
THE_MACHINE = _calls("""
    init_module 175 128 105, finit_module 313 350 273, delete_module 176 129 106, kexec_load 246 283 104,
    kexec_file_load 320 - 294, reboot 169 88 142, swapon 167 87 224, swapoff 168 115 225, acct 163 51 89,
    quotactl 179 131 60, settimeofday 164 79 170, clock_settime 227 264 112, clock_settime64 - 404 -,
    clock_adjtime 305 343 266, clock_adjtime64 - 405 -, adjtimex 159 124 171, sethostname 170 74 161,
    setdomainname 171 121 162, syslog 103 103 116, iopl 172 110 -, ioperm 173 101 -
""")
"""The machine itself; matters where we are root."""
FORBIDDEN = INTO_OTHERS | YOUNG | WAYS_OUT | THE_MACHINE
FORBIDDEN_WITHOUT_NETWORK = _calls("""
    chmod 90 15 -, fchmod 91 94 52, fchmodat 268 306 53, fchmodat2 452 452 452, chown 92 182 -, chown32 - 212 -,
    lchown 94 16 -, lchown32 - 198 -, fchown 93 95 55, fchown32 - 207 -, fchownat 260 298 54, setxattr 188 226 5,
    lsetxattr 189 227 6, fsetxattr 190 228 7, removexattr 197 235 14, lremovexattr 198 236 15,
    fremovexattr 199 237 16, setxattrat 463 463 463, socketcall - 102 -
""")
"""Landlock does not hold who owns a file and who may read it. A downloader may set that for its files; a parser has
none of its own. (`socketcall` is how 32-bit programs used to ask for a socket.)"""
_SOCKET = {"x86_64": 41, "i386": 359, "aarch64": 198}
_SOCKETCALL = {"i386": 102}
_CLONE = {"x86_64": 56, "i386": 120, "aarch64": 220}
_CLONE3 = 435
_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEW* but the one for time."""
_X32_BIT = 0x40000000
_AF_UNIX, _AF_INET, _AF_INET6, _SOCK_STREAM, _SOCKET_KIND = 1, 2, 10, 1, 0xF

# Instructions of classic BPF: (code, jump if true, jump if false, value), see linux/filter.h.
Instruction = tuple[int, int, int, int]
_LOAD, _AND, _JUMP, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x54, 0x05, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT, _SECOND_ARGUMENT_AT = 0, 4, 16, 24
"""Offsets in struct seccomp_data; of an argument the lower half."""
_ALLOW, _KILL_PROCESS, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000


def filter_of(network: NetworkAccess) -> list[Instruction]:
    """The filter for this machine's programs."""
    own = _own_architecture()
    if own is None:
        return []
    program: list[Instruction] = [(_LOAD, 0, 0, _ARCHITECTURE_AT)]
    for name in _BESIDE[own]:
        section = list(_section(name, network))
        program += [(_EQUAL, 1, 0, _ARCHITECTURES[name]), (_JUMP, 0, 0, len(section)), *section]
    return [*program, (_RETURN, 0, 0, _KILL_PROCESS)]


def _section(architecture: str, network: NetworkAccess) -> Iterator[Instruction]:
    """For calls of one architecture."""
    column = list(_ARCHITECTURES).index(architecture)
    named = FORBIDDEN | (FORBIDDEN_WITHOUT_NETWORK if network == "none" else {})
    yield (_LOAD, 0, 0, _NUMBER_AT)
    if architecture == "x86_64":
        yield from _refuse_if((_AT_LEAST, 0, 1, _X32_BIT), errno.ENOSYS)
    for numbers in named.values():
        if (number := numbers[column]) is not None:
            yield from _refuse_if((_EQUAL, 0, 1, number), errno.EPERM)
    # Its flags lie in memory, where a filter cannot look; C libraries fall back to the older call.
    yield from _refuse_if((_EQUAL, 0, 1, _CLONE3), errno.ENOSYS)
    yield from _sockets(architecture, network)
    yield (_EQUAL, 0, 3, _CLONE[architecture])
    yield (_LOAD, 0, 0, _FIRST_ARGUMENT_AT)
    yield from _refuse_if((_ANY_BIT, 0, 1, _NEW_NAMESPACES), errno.EPERM)
    yield (_RETURN, 0, 0, _ALLOW)


def _sockets(architecture: str, network: NetworkAccess) -> Iterator[Instruction]:
    """With one port no datagrams: Landlock holds TCP to it, and name lookups are the proxy's."""
    if network == "none":
        yield from _refuse_if((_EQUAL, 0, 1, _SOCKET[architecture]), errno.EACCES)
    elif network != "any":
        if architecture in _SOCKETCALL:
            yield from _refuse_if((_EQUAL, 0, 1, _SOCKETCALL[architecture]), errno.EPERM)
        yield (_EQUAL, 0, 9, _SOCKET[architecture])
        yield (_LOAD, 0, 0, _FIRST_ARGUMENT_AT)
        yield (_EQUAL, 3, 0, _AF_UNIX)
        yield (_EQUAL, 2, 0, _AF_INET)
        yield (_EQUAL, 1, 0, _AF_INET6)
        yield (_RETURN, 0, 0, _FAIL | errno.EACCES)
        yield (_LOAD, 0, 0, _SECOND_ARGUMENT_AT)
        yield (_AND, 0, 0, _SOCKET_KIND)
        yield (_EQUAL, 1, 0, _SOCK_STREAM)
        yield (_RETURN, 0, 0, _FAIL | errno.EACCES)
        yield (_LOAD, 0, 0, _NUMBER_AT)


def _refuse_if(test: Instruction, number: int) -> Iterable[Instruction]:
    return (test, (_RETURN, 0, 0, _FAIL | number))


def _own_architecture() -> str | None:
    """What this process's calls are; None: one whose numbers are not listed here."""
    machine = platform.machine()
    if machine in ("x86_64", "i686", "i586") and sys.maxsize < 2**32:
        return "i386"
    return machine if machine in _BESIDE else None


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _program(instructions: list[Instruction]) -> tuple[_Program, ctypes.Array[ctypes.c_char]]:
    """What the kernel takes, and the memory to which it points."""
    memory = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in instructions))
    return _Program(len(instructions), ctypes.addressof(memory)), memory

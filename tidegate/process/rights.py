"""Which files a child may use: the programs and libraries of this host, and what its job names. Nothing else.

`child.spawn` asks for every tool. Landlock knows no "all but this", so the list is of what is allowed: the system's
own folders, where the tool and its libraries are, where Python is, the folders on PATH. People's homes, other volumes,
folders for temporary files and Tidegate's own home are not among them; where one of these lies inside an allowed
folder it is cut out. It looks at folders and changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from tidegate.process.confine import DEVICE, NAMES, READS, WRITES
from tidegate.process.environment import CERTIFICATES
from tidegate.process.job import Job
from tidegate.settings import ProcessSettings, StoreSettings

SYSTEM_PATHS = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/etc", "/proc", "/sys"),
    *("/nix/store", "/gnu/store", "/run/current-system", "/run/opengl-driver", "/run/opengl-driver-32", "/app"),
    *("/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf", "/run/udev", "/run/nscd"),
    *("/run/nvidia-persistenced", "/var/cache/fontconfig", "/home/linuxbrew/.linuxbrew"),
)
"""Programs, libraries, certificates, fonts, drivers, and what the kernel tells."""
SECRET_PATHS = (
    *("/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/sudoers", "/etc/sudoers.d", "/etc/ssh"),
    *("/etc/ssl/private", "/etc/pki/tls/private", "/etc/kubernetes", "/etc/rancher", "/etc/wireguard"),
    *("/etc/letsencrypt", "/etc/NetworkManager/system-connections", "/etc/docker", "/etc/krb5.keytab"),
)
"""What the system keeps for root alone, which we are in many a container."""
DEVICES = frozenset(
    {"null", "zero", "full", "random", "urandom", "dri", "kfd", "dma_heap", "mpp_service", "rga"}
    | {"nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", "nvidia-caps"}
)
"""In /dev. Graphics processors and codecs in hardware are among them; no disks."""
NUMBERED_DEVICES = frozenset({"nvidia", "video", "media", "mali"})
BESIDE_BIN = ("lib", "lib64", "lib32", "libexec")
"""Where libraries of a program in a folder `bin` are."""
LOADER_LINE = re.compile(r"^\s*(/\S+)", re.MULTILINE)


def rights_of(job: Job, limits: ProcessSettings, environment: Mapping[str, str]) -> dict[Path, int]:
    """Path → what the child may do there and below."""
    hidden = private_folders()
    searched = environment.get("PATH", ""), _library_path(environment)
    started = (job.argv[0], *job.programs)
    rights = {folder: READS for one in started for folder in program_folders(one, *searched, hidden)}
    rights |= dict.fromkeys(python_folders(hidden), READS)
    if job.argv[0] == sys.executable:
        rights.setdefault(Path(__file__).parents[2], NAMES)  # to import what is in it, Python must see that it is there
    rights |= dict.fromkeys(devices(), DEVICE)
    if job.network != "none":
        rights |= dict.fromkeys((Path(value) for name in CERTIFICATES if (value := environment.get(name))), READS)
    named = [Path(word) for word in job.argv[1:] if word.startswith("/") and Path(word).is_file()]
    rights |= dict.fromkeys((*named, *job.reads), READS)
    for path in (*job.writes, *(output.absolute().parent for output in job.outputs), *filter(None, (job.folder,))):
        rights[path] = rights.get(path, 0) | WRITES
    rights |= dict.fromkeys(limits.allowed_folders, READS | WRITES)
    return rights


def escapes_by_privilege(program: str) -> bool:
    """Whether it is a program that gets rights by being started (setuid), such as every snap: a confined process
    gets none, and it would not start."""
    found = shutil.which(program)
    if found is None:
        return False
    resolved = Path(os.path.realpath(found))
    try:
        mode = resolved.stat().st_mode
    except OSError:
        return False
    return resolved.name == "snap" or bool(mode & (stat.S_ISUID | stat.S_ISGID))


@lru_cache(maxsize=64)
def program_folders(program: str, search_path: str, library_path: str, hidden: tuple[Path, ...]) -> tuple[Path, ...]:
    """Whatever is needed to start a program: the system, its own folder, what it may start itself."""
    folders = [*map(Path, SYSTEM_PATHS), *_loader_libraries(), *_folders_in(library_path)]
    for folder in _folders_in(search_path):
        folders += [folder, *_libraries_beside(folder)]
    found = shutil.which(program)
    if found is not None:
        for place in {Path(found).absolute(), Path(os.path.realpath(found))}:
            folders += [place, place.parent, *_libraries_beside(place.parent)]
    return tuple(dict.fromkeys(part for folder in folders for part in without(folder, hidden)))


@lru_cache(maxsize=4)
def python_folders(hidden: tuple[Path, ...]) -> tuple[Path, ...]:
    """Where this Python and the packages of our children are; not all of `sys.path`: its first entry is wherever
    somebody stood when the command was started."""
    packages = [spec.origin for name in ("av", "yt_dlp") if (spec := find_spec(name)) is not None and spec.origin]
    folders = [sys.prefix, sys.base_prefix, sys.exec_prefix, str(Path(__file__).parents[1])]
    sites = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    folders += [*sites, *(str(Path(origin).parents[1]) for origin in packages)]
    links = [Path(os.path.realpath(sys.executable)).parents[1]]
    return tuple(dict.fromkeys(part for folder in (*map(Path, folders), *links) for part in without(folder, hidden)))


def devices() -> Iterator[Path]:
    """Those that there are now."""
    for name in os.listdir("/dev"):  # noqa: PTH208  # patterns of paths cost ten times as much, at every start
        if name in DEVICES or name.rstrip("0123456789") in NUMBERED_DEVICES:
            yield Path("/dev", name)


def private_folders() -> tuple[Path, ...]:
    """What is cut out of allowed folders: Tidegate's home, people's homes, what the system keeps for root."""
    return _private_folders(*(os.environ.get(name) for name in ("TIDEGATE_HOME", "XDG_DATA_HOME", "HOME")))


@lru_cache(maxsize=8)
def _private_folders(*_: str | None) -> tuple[Path, ...]:
    """The same, for the variables on which it depends."""
    homes = (StoreSettings().home, Path.home(), Path("/root"))
    return tuple(Path(os.path.realpath(home)) for home in homes) + tuple(filter(Path.exists, map(Path, SECRET_PATHS)))


def without(folder: Path, hidden: Iterable[Path]) -> Iterator[Path]:
    """`folder`, or, where something hidden lies in it, everything in it but that. A folder inside a hidden one is
    there because somebody named it."""
    real = os.path.realpath(folder)
    inside = [path for path in map(str, hidden) if path == real or path.startswith(f"{real.rstrip('/')}/")]
    if not inside:
        yield folder
    elif real not in inside:
        with contextlib.suppress(OSError):
            for entry in os.scandir(real):
                yield from without(Path(entry.path), map(Path, inside))


def _libraries_beside(folder: Path) -> list[Path]:
    return [folder.parent / name for name in BESIDE_BIN] if folder.name in ("bin", "sbin") else []


def _folders_in(search_path: str) -> list[Path]:
    return [Path(word) for word in search_path.split(os.pathsep) if word.startswith("/") and word != "/"]


def _library_path(environment: Mapping[str, str]) -> str:
    return os.pathsep.join(environment.get(name, "") for name in ("LD_LIBRARY_PATH", "NIX_LD_LIBRARY_PATH"))


def _loader_libraries() -> list[Path]:
    """What the dynamic loader searches beyond the usual folders (ld.so.conf)."""
    found: list[Path] = []
    for file in (Path("/etc/ld.so.conf"), *sorted(Path("/etc/ld.so.conf.d").glob("*.conf"))):
        try:
            found += [Path(path) for path in LOADER_LINE.findall(file.read_text(errors="replace"))]
        except OSError:
            continue
    return [folder for folder in found if folder != Path("/")]

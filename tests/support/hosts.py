"""Several hosts on one machine: network namespaces on a bridge, which can be cut off from it.

What runs on a `Host` reaches this machine under `Network.address` and nothing else. File systems and process numbers
are shared, as a network file system would have it; `TIDEGATE_HOST_ID` tells the hosts apart. A network bears the number
of the process that made it: what a killed one left would take the addresses of the next, and is removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

BRIDGE_HOST = 1


@dataclass(frozen=True)
class Host:
    """One network namespace."""

    name: str
    cable: str
    """The end of its cable at the bridge."""

    def argv(self, words: list[str]) -> list[str]:
        """The same command on this host; it keeps its process number."""
        return ["ip", "netns", "exec", self.name, *words]

    @property
    def environment(self) -> dict[str, str]:
        return {"TIDEGATE_HOST_ID": self.name}

    def cut_off(self) -> None:
        _ip("link", "set", self.cable, "down")

    def reconnect(self) -> None:
        _ip("link", "set", self.cable, "up")


@dataclass
class Network:
    """The bridge and its hosts."""

    bridge: str
    subnet: str
    """The first three numbers of its addresses."""
    hosts: list[Host] = field(default_factory=list)

    @property
    def address(self) -> str:
        """Of this machine, as the hosts see it."""
        return f"{self.subnet}.{BRIDGE_HOST}"

    def add(self) -> Host:
        number = len(self.hosts) + 1
        host = Host(f"{self.bridge}-{number}", f"{self.bridge}v{number}")
        self.hosts.append(host)
        _ip("netns", "add", host.name)
        _ip("link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", host.name)
        _ip("link", "set", host.cable, "master", self.bridge, "up")
        for words in (
            ("addr", "add", f"{self.subnet}.{BRIDGE_HOST + number}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            _ip("-n", host.name, *words)
        return host


def missing() -> str | None:
    """Why there can be no such network here; None where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "ip is not installed (Debian: apt-get install iproute2)"
    try:
        with network():
            return None
    except subprocess.CalledProcessError as error:
        return f"network namespaces cannot be made here: {error.stderr.strip()}"


@contextmanager
def network() -> Iterator[Network]:
    """A bridge; it is gone after the block, and all hosts with it."""
    _remove_what_the_dead_left()
    pid = os.getpid()
    bridge = f"tg{pid}"
    made = Network(bridge, f"10.{128 + pid % 100}.{pid // 100 % 256}")
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", f"{made.address}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        yield made
    finally:
        _remove(bridge, [host.name for host in made.hosts])


def _remove_what_the_dead_left() -> None:
    bridges = re.findall(r"^\d+: (tg(\d+)):", _ip("-o", "link", "show", "type", "bridge"), re.MULTILINE)
    for bridge, pid in bridges:
        if not psutil.pid_exists(int(pid)):
            _remove(bridge, re.findall(rf"^{bridge}-\d+", _ip("netns", "list"), re.MULTILINE))


def _remove(bridge: str, hosts: list[str]) -> None:
    for words in (*(("netns", "del", host) for host in hosts), ("link", "del", bridge)):
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip(*words)


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=30).stdout

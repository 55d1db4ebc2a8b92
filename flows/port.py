"""The port of a server of ours on loopback, which no other user gets while a process of ours may still talk to it.

`flows/server.py` listens on it, runs and commands hold it. Who is killed gives up what he holds and nothing else: a run
outlives a `make serve` that was killed, and would say the password to whoever listens there next. Linux lets sockets of
one user share a port where all have said so (SO_REUSEPORT), and one that does not listen gets no connections, so the
next server of the same user has the port at once. Elsewhere nothing is held.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

LISTENING = "0A"
"""A socket's state, as `/proc/net/tcp` has it."""
_held: dict[int, socket.socket] = {}
"""By port, until this process ends."""


def listener_on(port: int) -> socket.socket:
    """A socket on this host that a server can be launched on; port 0 is any free one.

    Raises:
        OSError: somebody else has the port.
    """
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the last server's connections linger
        shares = _shares(listener)
        listener.bind(("127.0.0.1", port))
        number = listener.getsockname()[1]
        if shares and _listeners(number):
            raise _port_in_use(number)
        listener.listen(128)
        if shares and _listeners(number) > 1:  # two at one moment: neither
            raise _port_in_use(number)
    except OSError:
        listener.close()
        raise
    return listener


def hold(api_url: str = "") -> None:
    """Let no other user have the port of that server, for as long as this process lives; without an address, of the
    one that this process was told. Of a server on another host, and of one that is not ours, nothing is held."""
    with contextlib.suppress(OSError, ValueError):
        place = urlsplit(api_url or os.environ.get("PREFECT_API_URL", ""))
        port = place.port
        if place.hostname != "127.0.0.1" or port is None or port in _held:
            return
        holder = socket.socket()
        try:
            if not _shares(holder):
                raise _port_in_use(port)
            holder.bind(("127.0.0.1", port))
        except OSError:
            holder.close()
            raise
        _held[port] = holder


def _shares(one: socket.socket) -> bool:
    """Whether other sockets of this user may have its port too. Without a look at who listens, two servers could."""
    if sys.platform != "linux" or not os.access("/proc/net/tcp", os.R_OK):
        return False
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return True


def _listeners(port: int) -> int:
    """How many sockets listen on that port, by IPv4."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = (line.split() for line in lines)
    return sum(one[3] == LISTENING and int(one[1].rpartition(":")[2], 16) == port for one in fields)


def _port_in_use(port: int) -> OSError:
    return OSError(errno.EADDRINUSE, f"Port {port} is taken")

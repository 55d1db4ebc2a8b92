"""One connection of the misbehaving origin: reads heads, sends bytes at a pace, ends well or badly.

`tests.support.origin` gives each connection a thread and one of these. Every wait ends at once when the
client leaves or the origin stops, because stopping shuts the socket down. Linux only: it asks the kernel what
the client has received.
"""

import fcntl
import select
import socket
import struct
import sys
import termios
from collections.abc import Callable

from tests.support.answers import RequestHead

HEAD_LIMIT_BYTES = 64 * 1024
GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR | select.POLLNVAL


class Gone(Exception):
    """The client left, or the origin stopped: nobody listens any more."""


class Wire:
    """A connected socket with the bytes read ahead of it."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ahead = b""
        self.poll = select.poll()
        self.poll.register(connection, GONE)

    def read_head(self) -> RequestHead | None:
        """The next request, or None when the client has none or sends nonsense."""
        while b"\r\n\r\n" not in self.ahead:
            more = self._receive()
            if not more or len(self.ahead) > HEAD_LIMIT_BYTES:
                return None
            self.ahead += more
        text, _, self.ahead = self.ahead.partition(b"\r\n\r\n")
        return _parsed(text.decode("latin-1"))

    def send(self, data: bytes | memoryview, count: Callable[[int], None] = lambda size: None) -> None:
        """Send it all; bytes are counted before they leave, so nobody receives what is not yet counted."""
        view = memoryview(data)
        count(len(view))
        while view:
            try:
                view = view[self.socket.send(view) :]
            except OSError as error:
                count(-len(view))
                raise Gone from error

    def drip(self, data: bytes, rate: int) -> None:
        """Send slowly, byte by byte."""
        for value in data:
            self.send(bytes([value]))
            self.idle(1 / rate)

    def idle(self, seconds: float | None) -> None:
        """Be silent for so long, or (None) until the client leaves."""
        if self.poll.poll(None if seconds is None else max(0.0, seconds) * 1000):
            raise Gone

    def drop(self) -> None:
        """Reset the connection, once the client's kernel holds what was sent."""
        # A reset discards what is still queued here: without the wait, `2M drop` drops after anything up to 2
        # MiB.
        while self._queued_bytes():
            self.idle(0.001)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _queued_bytes(self) -> int:
        answer = fcntl.ioctl(self.socket, termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(answer, sys.byteorder)

    def _receive(self) -> bytes:
        try:
            return self.socket.recv(HEAD_LIMIT_BYTES)
        except OSError:
            return b""


def _parsed(text: str) -> RequestHead | None:
    first, *lines = text.split("\r\n")
    words = first.split(" ")
    if len(words) != 3:
        return None
    fields = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    return RequestHead(words[0], words[1], words[2], headers)

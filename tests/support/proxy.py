"""A TCP proxy with a switch, for tests of what a bad network does to a database or a server.

It passes everything on, delays each chunk, refuses connections and cuts those that stand, or holds everything back
without a word, as a paused pooler or a dead router does. What was held back goes on when the switch is turned again.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from enum import Enum, auto

CHUNK_BYTES = 64 * 1024
LOOK_SECONDS = 0.02


class Way(Enum):
    """What happens to a connection's bytes."""

    PASS = auto()
    REFUSE = auto()
    BLACK_HOLE = auto()


class Proxy:
    """Stands before one address. `turn` may be called from any thread, at any time."""

    def __init__(self, target: tuple[str, int], listen: str = "127.0.0.1") -> None:
        self._target = target
        self._way, self._delay_seconds = Way.PASS, 0.0
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = _listening((listen, 0))
        self.host, self.port = self._listener.getsockname()[:2]
        self.connections = 0
        """How many were taken in all."""
        threading.Thread(target=self._accept, daemon=True).start()

    def turn(self, way: Way, *, delay_seconds: float = 0.0) -> None:
        """Turn the switch; `delay_seconds` for each chunk, in both directions, where they pass."""
        before, self._way, self._delay_seconds = self._way, way, delay_seconds
        if way is Way.REFUSE:
            self._stop_listening()
            self.cut()
        elif before is Way.REFUSE:
            self._listener = _listening((self.host, self.port))
            threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Reset every connection that stands."""
        with self._lock:
            for end in self._open:
                _reset(end)
            self._open.clear()

    def close(self) -> None:
        self._ended.set()
        self._stop_listening()
        self.cut()

    def _stop_listening(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # closing alone does not wake a thread that accepts
        self._listener.close()

    def _accept(self) -> None:
        listener = self._listener
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                self.connections += 1
                threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client: socket.socket) -> None:
        try:
            self._wait_while_black()
            server = socket.create_connection(self._target, timeout=10)
        except OSError:
            _reset(client)
            return
        server.settimeout(None)
        with self._lock:
            self._open |= {client, server}
        ends = ((client, server), (server, client))
        pumps = [threading.Thread(target=self._pump, args=pair, daemon=True) for pair in ends]
        for pump in pumps:
            pump.start()
        for pump in pumps:
            pump.join()
        with self._lock:
            self._open -= {client, server}
        client.close()
        server.close()

    def _pump(self, source: socket.socket, drain: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(CHUNK_BYTES):
                time.sleep(self._delay_seconds)
                self._wait_while_black()
                drain.sendall(chunk)
        with contextlib.suppress(OSError):
            drain.shutdown(socket.SHUT_WR)

    def _wait_while_black(self) -> None:
        while self._way is Way.BLACK_HOLE and not self._ended.is_set():
            time.sleep(LOOK_SECONDS)


@contextlib.contextmanager
def proxy(target: tuple[str, int]) -> Iterator[Proxy]:
    """A proxy before `target`; gone after the block, with every connection."""
    one = Proxy(target)
    try:
        yield one
    finally:
        one.close()


def _listening(address: tuple[str, int]) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(64)
    return listener


def _reset(end: socket.socket) -> None:
    """Close with RST instead of FIN."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RDWR)
    end.close()

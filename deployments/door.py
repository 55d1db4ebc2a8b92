"""A door for containers: the API of a server that listens on loopback only, on a socket in the home.

A container that shares the home comes in through it; nothing listens on any network. `make serve` keeps the outer half,
`deployments/inside.py` starts the inner one. Both carry bytes and know nothing of them: the server asks for its
password as ever. They hold no state, and the kernel ends them with the process that started them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from tidegate.durable import private

BLOCK_BYTES = 64 * 1024
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def door_of(home: Path) -> Path:
    """The socket of a home."""
    return home / "door" / "api.sock"


def listener_at(path: Path) -> socket.socket:
    """A socket of that name, in place of one that a killed process has left.

    Raises:
        OSError: it cannot be made.
    """
    private.make_folder(path.parent)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")  # a socket's name may have 107 bytes, a home's has more
        path.chmod(private.file_mode(path))
    finally:
        os.close(folder)
    listener.listen(128)
    return listener


async def relay(listener: socket.socket, connect: Callable[[], Awaitable[Ends]]) -> None:
    """Join each connection with one that `connect` makes, until cancelled."""

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError), contextlib.closing(writer):
            far_reader, far_writer = await connect()
            with contextlib.closing(far_writer):
                await asyncio.gather(_carry(reader, far_writer), _carry(far_reader, writer))

    kind = asyncio.start_unix_server if listener.family == socket.AF_UNIX else asyncio.start_server
    server = await kind(join, sock=listener)
    async with server:
        await server.serve_forever()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while block := await reader.read(BLOCK_BYTES):
            writer.write(block)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()  # one side is gone: so is the conversation


def main(words: list[str]) -> int:
    """`outside HOME PORT` on the host; `inside FD SOCKET` in the container."""
    side, first, second = words
    if side == "outside":
        listener, port = listener_at(door_of(Path(first))), int(second)
        asyncio.run(relay(listener, lambda: asyncio.open_connection("127.0.0.1", port)))
    else:
        listener = socket.socket(fileno=int(first))
        asyncio.run(relay(listener, lambda: asyncio.open_unix_connection(second)))
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))

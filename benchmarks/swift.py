"""An origin that is no bottleneck: files below a folder, by sendfile, with ranges, over HTTP or TLS.

`benchmarks.transfer` starts it as a process of its own, so that its processor time is nobody's whom it measures.

    python -m benchmarks.swift FOLDER [CERTIFICATE KEY]     prints its port
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import socket
import ssl
import sys
import threading
from pathlib import Path

BLOCK_BYTES = 1024 * 1024
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


def main(folder: Path, certificate: str | None = None, key: str | None = None) -> None:
    context = None
    if certificate and key:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, context, folder), daemon=True).start()


def serve(connection: socket.socket, context: ssl.SSLContext | None, folder: Path) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError, ValueError, BufferError):
        line = context.wrap_socket(connection, server_side=True) if context else connection
        ahead = b""
        while True:
            while b"\r\n\r\n" not in ahead:
                more = line.recv(65536)
                if not more:
                    return
                ahead += more
            head, _, ahead = ahead.partition(b"\r\n\r\n")
            answer(line, head.decode("latin-1").split("\r\n"), folder)
    connection.close()


def answer(line: socket.socket, head: list[str], folder: Path) -> None:
    method, target, _ = head[0].split(" ")
    told = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in head[1:])}
    path = folder / target.lstrip("/").partition("?")[0]
    if not path.is_file():
        line.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        return
    size = path.stat().st_size
    asked = _RANGE.fullmatch(told.get("range", ""))
    first = int(asked[1]) if asked else 0
    end = min(int(asked[2]) + 1, size) if asked and asked[2] else size
    status = "206 Partial Content" if asked else "200 OK"
    covers = f"Content-Range: bytes {first}-{end - 1}/{size}\r\n" if asked else ""
    line.sendall(
        f'HTTP/1.1 {status}\r\nContent-Length: {end - first}\r\n{covers}ETag: "one"\r\nAccept-Ranges: bytes\r\n'
        "Content-Type: video/mp4\r\n\r\n".encode()
    )
    if method == "GET":
        send(line, path, first, end)


def send(line: socket.socket, path: Path, first: int, end: int) -> None:
    with path.open("rb") as file:
        if not isinstance(line, ssl.SSLSocket):
            while first < end:
                first += os.sendfile(line.fileno(), file.fileno(), first, min(end - first, 8 * BLOCK_BYTES))
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held, memoryview(held) as view:
            for offset in range(first, end, BLOCK_BYTES):
                line.sendall(view[offset : min(offset + BLOCK_BYTES, end)])


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:4])

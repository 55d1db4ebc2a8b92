"""A client that says what it is told to say and nothing else: no header is made right, no path is made tidy."""

from __future__ import annotations

import json
import socket
from typing import Any


def ask(
    port: int, method: str, target: str, headers: list[tuple[str, str]], body: Any = None, http: str = "1.1"
) -> tuple[int, str]:
    """One request over a bare socket, as it is written here; status and everything that came."""
    sent = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {target} HTTP/{http}", *(f"{name}: {value}" for name, value in headers), "Connection: close"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(sent)}"] if sent else []
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + sent)
        came = b"".join(iter(lambda: client.recv(65536), b""))
    return int(came.split()[1]), came.decode("latin-1")

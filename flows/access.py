"""Who may talk to the Prefect servers of a home: those who know its password.

`flows/server.py` gives it to the servers that it launches, and to this process when it talks to one of them;
`deployments/` gives it to the worker. It is made when it is first needed, in a file that only its owner can read, and
stays: a crash loses nothing, and two commands that begin at once find the same one.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from tidegate.durable.home import Home

USER = "tidegate"
"""The name before the colon; Prefect's UI asks for both as one text."""


def password_file(home: Path) -> Path:
    return home / "server.password"


def login_of(home: Path) -> str:
    """`user:password`, as Prefect's API and the login page of its UI take it.

    Raises:
        OSError: the home cannot be written or the file cannot be read.
    """
    path = password_file(home)
    if not path.exists():
        _make(path)
    return path.read_text().strip()


def for_server(home: Path) -> dict[str, str]:
    """The variables of a server that lets in only who knows the password."""
    return {"PREFECT_SERVER_API_AUTH_STRING": login_of(home)}


def for_client(home: Path) -> dict[str, str]:
    """The variables of a process that talks to such a server."""
    return {"PREFECT_API_AUTH_STRING": login_of(home)}


def _make(path: Path) -> None:
    """Written aside and linked into its place: who comes second finds what the first one made."""
    Home(path.parent).make()
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(f"{USER}:{secrets.token_urlsafe(24)}\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(aside, path)
        except FileExistsError:
            return
    finally:
        aside.unlink(missing_ok=True)

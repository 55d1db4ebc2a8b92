"""Who may talk to the Prefect servers of a home: those who know its password.

`flows/server.py` gives it to the servers that it launches, and to this process when it talks to one of them;
`deployments/` gives it to the worker. It is made when it is first needed, in a file that only its owner can read, and
stays: a crash loses nothing, and two commands that begin at once find the same one. A password that a person has told
Prefect is used in its place.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from flows.configuration import look_up_in_files, variable
from tidegate.durable.home import Home
from tidegate.errors import ServerUnavailable, from_os_error, is_disk_full

USER = "tidegate"
"""The name before the colon; Prefect's UI asks for both as one text."""
SERVERS, CLIENTS = "server.api.auth_string", "api.auth_string"
"""Prefect's settings of the password: of those who ask for it, and of those who say it."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def password_file(home: Path) -> Path:
    return home / "server.password"


def own_login() -> str | None:
    """The password that a person has told Prefect, in the environment or its files."""
    settings = {path: variable(path) for path in (SERVERS, CLIENTS)}
    logins = (os.environ.get(name, "").strip() or _login_in_files(path) for path, name in settings.items())
    return next((login for login in logins if login), None)


def _login_in_files(path: str) -> str:
    """A variable that is set to nothing takes nothing away here: a server of ours never stands open."""
    configured = look_up_in_files(path)
    return str(configured.value).strip() if configured else ""


def login_of(home: Path) -> str:
    """`user:password`, as Prefect's API and the login page of its UI take it.

    Raises:
        ServerUnavailable: the file can be neither made nor read, or holds none.
    """
    return own_login() or home_login(home)


def home_login(home: Path) -> str:
    """The one in the file of the home, which is made when it is not there.

    Raises:
        ServerUnavailable: the file can be neither made nor read, or holds none.
        DiskFull: there is no room to make it.
    """
    path = password_file(home)
    try:
        if not path.exists():
            _make(path)
        login = path.read_text().strip()
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and is_disk_full(error):
            raise from_os_error(error, "making the server password", path) from error
        raise ServerUnavailable(
            f"The password of the Prefect server cannot be had: {error}. Who owns {path} can tell it; set "
            f"{variable(CLIENTS)} to it"
        ) from error
    if not login or "\n" in login:
        raise ServerUnavailable(f"There is no password in {path}; remove it, and a new one is made")
    return login


def for_server(home: Path) -> dict[str, str]:
    """The variables of a server that lets in only who knows the password."""
    return {variable(SERVERS): login_of(home)}


def for_client(home: Path) -> dict[str, str]:
    """The variables of a process that talks to such a server."""
    return {variable(CLIENTS): login_of(home)}


def is_same(one: str, other: str) -> bool:
    """Whether both address the same API, with loopback written in any way."""
    try:
        return _place(one) == _place(other)
    except ValueError:  # one of them is no address
        return False


def basic(login: str) -> str:
    """The `Authorization` of one who knows the password."""
    return f"Basic {base64.b64encode(login.encode()).decode()}"


def stands_open(api_url: str, seconds: float = 5.0) -> bool:
    """Whether that Prefect server tells its version to one who says no password; then it tells and does everything.

    It is asked whoever it is, also where its certificate cannot be checked: nothing is said to it.
    """
    near = urlsplit(api_url).hostname in LOOPBACK
    handlers = [
        urllib.request.ProxyHandler({} if near else None),
        urllib.request.HTTPSHandler(context=ssl._create_unverified_context()),  # noqa: S323
    ]
    try:
        with urllib.request.build_opener(*handlers).open(f"{api_url.rstrip('/')}/admin/version", timeout=seconds) as it:
            return isinstance(json.load(it), str)
    except (OSError, ValueError):
        return False


def _place(api_url: str) -> tuple[str, str, int | None, str]:
    parts = urlsplit(api_url.lower())
    host = "127.0.0.1" if parts.hostname in LOOPBACK else parts.hostname or ""
    return parts.scheme, host, parts.port, parts.path.rstrip("/")


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

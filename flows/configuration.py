"""What a person told Prefect, read without Prefect: the environment, the files of this folder, the active profile.

`flows/server.py` asks it for the server's address and how to reach it, `flows/safety.py` for settings that are not to
be overruled, both before Prefect is imported, because Prefect reads its settings then. Nothing is ever written.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

DATABASE_OLDER = ("PREFECT_API_DATABASE_",)
"""How variables of the server's database began before; Prefect still reads them."""


@dataclass(frozen=True)
class ConfiguredValue:
    """A value, and where a person can change it."""

    value: Any
    """Text from the environment, `.env` and most profiles; whatever TOML knows from the other files."""
    where: str


@dataclass(frozen=True)
class ClientSettings:
    """How Prefect's client reaches a server."""

    auth_string: str | None = None
    """`user:password` of a server of one's own."""
    key: str | None = None
    """Prefect Cloud's; an auth string comes before it."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent along with each request, for a proxy that stands before the server; they come before the other two."""
    ca_file: str | None = None
    skip_verify: bool = False


def variable(path: str) -> str:
    """`PREFECT_API_URL` for `api.url`."""
    return "PREFECT_" + path.replace(".", "_").upper()


def is_given(path: str, older: Iterable[str] = ()) -> bool:
    """Whether a person has set it, anywhere; `older` are names of environment variables that Prefect still reads."""
    return look_up(path, older) is not None


def look_up(path: str, older: Iterable[str] = ()) -> ConfiguredValue | None:
    """What a person has said: the environment comes first, then the files in Prefect's own order."""
    names = (variable(path), *older)
    for name in names:
        if name in os.environ:
            return ConfiguredValue(os.environ[name], name)
    return look_up_in_files(path, older)


def look_up_in_files(path: str, older: Iterable[str] = ()) -> ConfiguredValue | None:
    """What the files say that Prefect reads: those of this folder, then the active profile."""
    names = (variable(path), *older)
    return next((one for one in _values_in_files(path, names) if one.value not in (None, "")), None)


def client_settings() -> ClientSettings:
    """How a person told Prefect's client to reach the server."""
    return ClientSettings(
        auth_string=_text_of("api.auth_string"),
        key=_text_of("api.key"),
        headers=_headers_in(look_up("client.custom_headers")),
        ca_file=_text_of("api.ssl_cert_file") or os.environ.get("SSL_CERT_FILE"),
        skip_verify=(_text_of("api.tls_insecure_skip_verify") or "").lower() in ("1", "true", "t", "yes", "y", "on"),
    )


def prefect_home() -> Path:
    """Where Prefect keeps its database and what else it writes."""
    configured = look_up("home")
    return Path(str(configured.value)).expanduser() if configured and configured.value else Path.home() / ".prefect"


def server_variables() -> dict[str, str]:
    """What has been said to servers that are started here, by name."""
    dotenv, profile = _dotenv(), _profile()[0]
    named = {**profile, **dotenv, **os.environ}
    variables = {
        name: str(value) for name, value in named.items() if name.startswith(("PREFECT_SERVER_", *DATABASE_OLDER))
    }
    files = {"prefect.toml": _in(_toml(Path("prefect.toml")), "server")}
    files["pyproject.toml"] = _in(_toml(Path("pyproject.toml")), "tool.prefect.server")
    return variables | {name: json.dumps(table, sort_keys=True, default=str) for name, table in files.items() if table}


def _text_of(path: str) -> str | None:
    configured = look_up(path)
    return str(configured.value) if configured and configured.value not in (None, "") else None


def _headers_in(configured: ConfiguredValue | None) -> dict[str, str]:
    """A table of TOML, or the same as JSON; what is neither Prefect itself will complain about."""
    value = configured.value if configured else {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return {str(name): str(text) for name, text in value.items()} if isinstance(value, dict) else {}


def _values_in_files(path: str, names: tuple[str, ...]) -> Iterator[ConfiguredValue]:
    here = Path.cwd()
    dotenv = _dotenv()
    yield from (ConfiguredValue(dotenv.get(name), f"{name} in {here / '.env'}") for name in names)
    yield ConfiguredValue(_in(_toml(Path("prefect.toml")), path), f"{path} in {here / 'prefect.toml'}")
    below = f"tool.prefect.{path}"
    yield ConfiguredValue(_in(_toml(Path("pyproject.toml")), below), f"{below} in {here / 'pyproject.toml'}")
    profile, where = _profile()
    yield from (ConfiguredValue(profile.get(name), f"{name} in {where}") for name in names)


def _dotenv() -> dict[str, str]:
    try:
        lines = dotenv_values(".env")
    except (OSError, ValueError):
        return {}
    return {name.upper(): value for name, value in lines.items() if value is not None}


def _in(table: Any, path: str) -> Any:
    for key in path.split("."):
        table = table.get(key) if isinstance(table, dict) else None
    return table


def _profile() -> tuple[dict[str, Any], str]:
    """What the active profile says, and how one calls it."""
    path = _profiles_path()
    profiles = _toml(path)
    active = os.environ.get("PREFECT_PROFILE") or profiles.get("active", "")
    chosen = (_in(profiles, "profiles") or {}).get(active)
    return (chosen if isinstance(chosen, dict) else {}), f"the profile {active} of {path}"


def _profiles_path() -> Path:
    named = (
        os.environ.get("PREFECT_PROFILES_PATH")
        or _dotenv().get("PREFECT_PROFILES_PATH")
        or _in(_toml(Path("prefect.toml")), "profiles_path")
        or _in(_toml(Path("pyproject.toml")), "tool.prefect.profiles_path")
    )
    return Path(named or Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect") / "profiles.toml")


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}

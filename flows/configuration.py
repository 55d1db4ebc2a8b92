"""What a person told Prefect, read without Prefect: the environment, the files of this folder, the active profile.

`flows/server.py` asks it for an API address and `flows/safety.py` for settings that are not to be overruled, both
before Prefect is imported, because Prefect reads its settings then. Nothing is ever written.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def variable(path: str) -> str:
    """`PREFECT_API_URL` for `api.url`."""
    return "PREFECT_" + path.replace(".", "_").upper()


def is_given(path: str, older: Iterable[str] = ()) -> bool:
    """Whether a person has set it, anywhere; `older` are names of environment variables that Prefect still reads."""
    names = (variable(path), *older)
    return any(name in os.environ for name in names) or in_files(path, names) is not None


def in_files(path: str, names: Iterable[str]) -> str | None:
    """What the files say that Prefect reads: those of this folder, then the active profile."""
    dotenv, profile = _dotenv(), _profile()
    said = [
        *(dotenv.get(name) for name in names),
        _in(_toml(Path("prefect.toml")), path),
        _in(_toml(Path("pyproject.toml")), f"tool.prefect.{path}"),
        *(profile.get(name) for name in names),
    ]
    return next((str(value) for value in said if value not in (None, "")), None)


def _dotenv() -> dict[str, str]:
    try:
        text = Path(".env").read_text()
    except (OSError, ValueError):
        return {}
    lines = re.findall(r"^\s*(?:export\s+)?(\w+)\s*=\s*(.*?)\s*$", text, re.MULTILINE)
    return {name.upper(): value.strip("'\"") for name, value in lines}


def _in(table: Any, path: str) -> Any:
    for key in path.split("."):
        table = table.get(key) if isinstance(table, dict) else None
    return table


def _profile() -> dict[str, Any]:
    """What the active profile says."""
    folder = Path(os.environ.get("PREFECT_HOME", Path.home() / ".prefect"))
    profiles = _toml(Path(os.environ.get("PREFECT_PROFILES_PATH", folder / "profiles.toml")))
    active = os.environ.get("PREFECT_PROFILE", profiles.get("active", ""))
    chosen = (_in(profiles, "profiles") or {}).get(active)
    return chosen if isinstance(chosen, dict) else {}


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError):
        return {}

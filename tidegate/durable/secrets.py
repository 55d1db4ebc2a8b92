"""Secrets of one run, in a file that only its owner can read.

The command writes one when a link or header carries a secret, so that flow parameters hold only its reference; the
flow reads it. The command that wrote it removes it at its end; after a crash the same command writes its own.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, SecretStr

from tidegate.durable.atomic import write_atomic
from tidegate.errors import BadInput

_REFERENCE = re.compile(r"[0-9a-f]{16}")


class _Kept(BaseModel):
    """What a file holds; an error about it does not repeat it."""

    model_config = ConfigDict(hide_input_in_errors=True)

    url: SecretStr
    headers: dict[str, SecretStr]


@dataclass(frozen=True)
class SecretFiles:
    """`root/<reference>.json`, mode 0600."""

    root: Path

    def keep(self, url: str, headers: dict[str, str]) -> str:
        """Store a full URL and headers; returns the reference, which says nothing about them."""
        reference = secrets.token_hex(8)
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(self._path(reference), json.dumps({"url": url, "headers": headers}).encode(), mode=0o600)
        return reference

    def reveal(self, reference: str) -> tuple[SecretStr, dict[str, SecretStr]]:
        """The URL and headers behind a reference.

        Raises:
            BadInput: there is no such secret on this host (any more).
        """
        try:
            kept = _Kept.model_validate_json(self._path(reference).read_bytes())
        except (OSError, ValueError) as error:
            raise BadInput(f"The secret {reference} is not on this host; give the link and headers again") from error
        return kept.url, kept.headers

    def forget(self, reference: str) -> None:
        self._path(reference).unlink(missing_ok=True)

    def _path(self, reference: str) -> Path:
        if not _REFERENCE.fullmatch(reference):
            raise BadInput("A secret's reference is 16 hex characters")
        return self.root / f"{reference}.json"

"""Secrets of one run, in a file that only its owner can read.

The command writes one when a link or header carries a secret, so that flow parameters hold only its reference; the
flow reads it. The command that wrote it removes it at its end; what a killed one left, the next one removes. The key by
which links that look alike are told apart is here too, and stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, SecretStr

from tidegate.durable.atomic import write_atomic
from tidegate.errors import BadInput, from_os_error
from tidegate.model import Identity, Source

_REFERENCE = re.compile(r"[0-9a-f]{16}")


class _Kept(BaseModel):
    """What a file holds; an error about it does not repeat it."""

    model_config = ConfigDict(hide_input_in_errors=True)

    url: SecretStr
    headers: dict[str, SecretStr]


class _Owner(BaseModel):
    """The process that a file belongs to, told from any later one that gets its number."""

    host: str
    boot: str
    pid: int
    started: int
    """Clock ticks from the boot to its start."""

    @property
    def gone(self) -> bool:
        """Whether it has certainly ended. Of another host's nothing is known."""
        if self.host != platform.node():
            return False
        return self != _owner(self.pid)


class _Owned(BaseModel):
    owner: _Owner


@dataclass(frozen=True)
class SecretFiles:
    """`root/<reference>.json`, mode 0600."""

    root: Path

    def keep(self, url: str, headers: dict[str, str]) -> str:
        """Store a full URL and headers; returns the reference, which says nothing about them."""
        reference = secrets.token_hex(8)
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sweep()
        owner = _owner(os.getpid())
        content = {"url": url, "headers": headers, "owner": owner.model_dump() if owner else None}
        write_atomic(self._path(reference), json.dumps(content).encode(), mode=0o600)
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

    def _sweep(self) -> None:
        """Remove what commands left that were killed."""
        for path in self.root.glob("*.json"):
            with contextlib.suppress(OSError, ValueError):  # gone meanwhile, or of nobody that can be named
                if _Owned.model_validate_json(path.read_bytes()).owner.gone:
                    path.unlink()

    def _path(self, reference: str) -> Path:
        if not _REFERENCE.fullmatch(reference):
            raise BadInput("A secret's reference is 16 hex characters")
        return self.root / f"{reference}.json"


def distinguished(identity: Identity, source: Source, root: Path) -> Identity:
    """The identity with a keyed hash of the link and headers, where it would not tell them from others otherwise.

    Two links may differ only in what redaction hides. A validator tells their content apart; without one this does.
    """
    link = source.url.get_secret_value().partition("#")[0]
    headers = sorted((name.lower(), value.get_secret_value()) for name, value in source.headers.items())
    if identity.has_validator or identity.digests or (link == source.redacted and not headers):
        return identity
    told = json.dumps([link, headers]).encode()
    return identity.model_copy(update={"distinct": blake3(told, key=_identity_key(root)).hexdigest()[:32]})


def _identity_key(root: Path) -> bytes:
    """32 random bytes of this home, made when first needed; locked, so that two runs do not make two."""
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(root / "identity.key", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            key = os.pread(handle, 32, 0)
            if len(key) < 32:  # new, or a crash cut its writing short
                key = secrets.token_bytes(32)
                os.pwrite(handle, key, 0)
                os.fsync(handle)
            return key
        finally:
            os.close(handle)
    except OSError as error:
        raise from_os_error(error, "reading the identity key") from error


def _owner(pid: int) -> _Owner | None:
    """The living process of that number; None when there is none, or where the kernel does not tell."""
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return _Owner(host=platform.node(), boot=boot, pid=pid, started=int(started))

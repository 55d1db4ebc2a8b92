"""Secrets of one run, in a file that only its owner can read.

The command writes one when a link or header carries a secret, so that flow parameters hold only its reference; the
flow reads it. The command that wrote it removes it at its end; what a killed one left stays for as long as an
unfinished attempt refers to it, and then goes with the next `sweep`. The key by which links that look alike are told
apart is here too, and stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, SecretStr

from tidegate.durable import private
from tidegate.durable.atomic import write_atomic
from tidegate.durable.clearing import SECRET_FILE, SET_ASIDE, Removal, remove
from tidegate.durable.owner import Owner, is_provably_gone, this_process
from tidegate.errors import BadInput, from_os_error
from tidegate.model import Identity, Source

_REFERENCE = re.compile(r"[0-9a-f]{16}")
_IN_THE_MAKING = timedelta(hours=1)
"""How long a file may be half written; nothing refers to it yet."""


class _SecretContent(BaseModel):
    """What a file holds; an error about it does not repeat it."""

    model_config = ConfigDict(hide_input_in_errors=True)

    url: SecretStr
    headers: dict[str, SecretStr]
    mirrors: tuple[SecretStr, ...] = ()


class _SecretOwner(BaseModel):
    owner: Owner


@dataclass(frozen=True)
class SecretFiles:
    """`root/<reference>.json`, mode 0600."""

    root: Path

    def keep(self, url: str, headers: dict[str, str], mirrors: Sequence[str] = ()) -> str:
        """Store full URLs and headers; returns the reference, which says nothing about them."""
        reference = secrets.token_hex(8)
        content = {"url": url, "headers": headers, "mirrors": mirrors, "owner": this_process().model_dump()}
        write_atomic(self._path(reference), json.dumps(content).encode())
        return reference

    def reveal(self, reference: str) -> Source:
        """The URLs and headers behind a reference.

        Raises:
            BadInput: there is no such secret on this host (any more).
        """
        try:
            kept = _SecretContent.model_validate_json(self._path(reference).read_bytes())
        except (OSError, ValueError) as error:
            raise BadInput(f"The secret {reference} is not on this host; give the link and headers again") from error
        return Source(url=kept.url, headers=kept.headers, mirrors=kept.mirrors)

    def forget(self, reference: str) -> None:
        self._path(reference).unlink(missing_ok=True)

    def sweep(self, needed: Collection[str], *, older_than: timedelta, now: datetime) -> tuple[Removal, ...]:
        """Remove what nobody can need any more; says what went and what could not.

        `needed` are the references of unfinished attempts as they were at `now` (aware). Of the others those go whose
        owner has certainly ended; where that cannot be known, those that are older than `older_than`.
        """
        here, removals = this_process(), []
        for path, written in self._plain_files():
            age = now - written
            if age < timedelta(0) or path.stem in needed:
                continue  # written since somebody looked who needs what
            patience = older_than if SECRET_FILE.fullmatch(path.name) else min(older_than, _IN_THE_MAKING)
            if _is_abandoned(_owner_of(path), here, old=age > patience):
                removals.append(remove(self.root.parent, Path(self.root.name, path.name), "nobody needs this secret"))
        return tuple(removals)

    def _plain_files(self) -> Iterator[tuple[Path, datetime]]:
        """Secrets, and what a crash left of one that was being written, with the time of their writing."""
        with contextlib.suppress(OSError):
            for path in sorted(self.root.iterdir()):
                if not (SECRET_FILE.fullmatch(path.name) or SET_ASIDE.fullmatch(path.name)):
                    continue
                with contextlib.suppress(OSError):
                    found = path.lstat()
                    if stat.S_ISREG(found.st_mode):
                        yield path, datetime.fromtimestamp(found.st_mtime, UTC)

    def _path(self, reference: str) -> Path:
        if not _REFERENCE.fullmatch(reference):
            raise BadInput("A secret's reference is 16 hex characters")
        return self.root / f"{reference}.json"


def distinguish(identity: Identity, source: Source, root: Path) -> Identity:
    """The identity with a keyed hash of the link and headers, where it would not tell them from others otherwise.

    Two links may differ only in what redaction hides. A validator tells their content apart; without one this does.
    """
    link = source.url.get_secret_value().partition("#")[0]
    headers = sorted((name.lower(), value.get_secret_value()) for name, value in source.headers.items())
    if identity.has_validator or identity.digests or (link == source.redacted and not headers):
        return identity
    content = json.dumps([link, headers, identity.distinct]).encode()
    return identity.model_copy(update={"distinct": blake3(content, key=_identity_key(root)).hexdigest()[:32]})


def _identity_key(root: Path) -> bytes:
    """32 random bytes of this home, made when first needed; locked, so that two runs do not make two."""
    try:
        private.make_folder(root)
        key_file = root / "identity.key"
        handle = os.open(key_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, private.file_mode(key_file))
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
        raise from_os_error(error, "reading the identity key", root) from error


def _owner_of(path: Path) -> Owner | None:
    """Whose the file is; None where it does not say so, or says so in the words of an earlier version."""
    try:
        return _SecretOwner.model_validate_json(path.read_bytes()).owner
    except (OSError, ValueError):
        return None


def _is_abandoned(owner: Owner | None, here: Owner, *, old: bool) -> bool:
    """Whether nobody can come for the file any more. An owner whose process table is ours lives until it is gone."""
    if owner is None:
        return old
    in_sight = (owner.host, owner.boot, owner.namespace) == (here.host, here.boot, here.namespace)
    return is_provably_gone(owner, here) or (old and not in_sight)

"""What a person may ask for, checked before any work starts.

The command and the flows share it, so a deployment refuses what the command refuses. It does not import Prefect:
bad usage is answered at once. Secrets go into a file of their own here, so that parameters never hold them.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from tidegate.durable.home import Home
from tidegate.durable.secrets import SecretFiles
from tidegate.errors import BadInput
from tidegate.model import STAGES, Order, Source, StageName, Wish
from tidegate.redact import has_secret, redact_url
from tidegate.transfer.paths import expand_home, local_path, require_possible
from tidegate.transfer.request import (
    PathCheck,
    allow_any,
    check_headers,
    check_headers_for,
    check_sha256,
    check_url,
)

__all__ = [
    "SourceRequest",
    "check_headers",
    "check_headers_for",
    "check_sha256",
    "check_url",
    "request_for",
    "require_output",
    "require_writable",
    "source_of",
]


ROOM_BYTES = 500
"""What must fit behind the path of an output folder or a home: names of our own, and their temporary siblings."""


class SourceRequest(BaseModel):
    """A source as a flow parameter: what the UI's form asks for, free of secrets."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(default="", description="http(s):// link, or path of a local file on the worker.")
    sha256: str | None = Field(default=None, description="SHA-256 that the whole file must have, in hex.")
    mirrors: list[str] = Field(default=[], description="Other http(s):// links to the same bytes.")
    block: str | None = Field(
        default=None, description="Name of a saved Media Source block, in place of the link; for links with secrets."
    )
    secret: str | None = Field(
        default=None, description="Reference of a secret that the command stored; leave it empty here."
    )

    @property
    def shown(self) -> str:
        """What a person calls it: the link without its secrets, or the block."""
        return redact_url(self.url) or f"block {self.block}"


def request_for(
    text: str, *, sha256: str | None, headers: dict[str, str], home: Home, mirrors: Sequence[str] = ()
) -> SourceRequest:
    """The request for a source as it was typed; a secret goes into a file and only its reference into the request.

    Raises:
        BadInput, UnsupportedSource: see `check_url` and `check_sha256`.
    """
    url = check_url(text)
    digest = check_sha256(sha256)
    others = [check_mirror(mirror) for mirror in mirrors]
    hidden = headers or any(has_secret(link) for link in (url, *others))
    secret = SecretFiles(home.secrets).keep(url, headers, others) if hidden else None
    return SourceRequest(
        url=redact_url(url), sha256=digest, mirrors=[redact_url(link) for link in others], secret=secret
    )


def source_of(request: SourceRequest, home: Home, may_read: PathCheck = allow_any) -> Source:
    """The engine's source for a request that names no block.

    Raises:
        BadInput, UnsupportedSource: the request is not valid, or its secret is gone.
        PathRefused: it is a file, and this run may not read it.
    """
    digest = check_sha256(request.sha256)
    sha256 = f"sha256:{digest}" if digest else None
    if request.secret is not None:
        source = SecretFiles(home.secrets).reveal(request.secret)
        if source.scheme == "file":
            may_read(local_path(source.url.get_secret_value()))
        return source.model_copy(update={"sha256": sha256})
    mirrors = tuple(SecretStr(check_mirror(link)) for link in request.mirrors)
    return Source(url=SecretStr(check_url(request.url, may_read)), sha256=sha256, mirrors=mirrors)


def check_mirror(text: str) -> str:
    """Another link to the same bytes.

    Raises:
        BadInput, UnsupportedSource: it is no http(s) link.
    """
    url = check_url(text)
    if url.startswith("file:"):
        raise BadInput("A mirror (--mirror) is an http(s) link")
    return url


def command_for(source: SourceRequest, order: Order, folder: Path, until: StageName, wish: Wish) -> str:
    """What to type for the same again, free of secrets; empty where a saved block names the source."""
    if source.block or not source.url:
        return ""
    words = ["python", "-m", "flows.run", source.url, "--output-dir", str(folder)]
    words += ["--profile", order.profile.value, "--quality", order.quality.value]
    words += ["--until", until] if until != STAGES[-1] else []
    words += ["--sha256", source.sha256] if source.sha256 else []
    words += [word for mirror in source.mirrors for word in ("--mirror", mirror)]
    words += ["--allow-gaps"] if wish.allow_gaps else []
    words += ["--duration", f"{wish.duration_seconds:g}"] if wish.duration_seconds is not None else []
    return shlex.join(words)


def require_output(folder: Path, home: Home, may_write: PathCheck = allow_any) -> Path:
    """The output folder as `require_writable` gives it. In the home too it is as the umask says, and can be reached.

    Raises:
        BadInput: it cannot be created or written, or it lies in a part of the home that is private.
        PathRefused: `may_write` says so; nothing was created or changed.
    """
    folder = expand_home(folder).absolute()
    require_possible(folder, "The output folder", room=ROOM_BYTES)
    may_write(folder)
    if home.root in folder.parents and home.is_private(folder):
        raise BadInput(f"The output folder {folder} lies in a private part of TIDEGATE_HOME; choose another one")
    try:
        home.make_way_to(folder)
    except OSError as error:
        raise BadInput(f"TIDEGATE_HOME {home.root} cannot be written: {error.strerror or error}") from error
    return require_writable(folder)


def require_writable(folder: Path, named: str = "The output folder") -> Path:
    """The folder, absolute, created if need be, and proven by writing into it.

    Raises:
        BadInput: it cannot be created or written.
    """
    folder = expand_home(folder).absolute()
    require_possible(folder, named, room=ROOM_BYTES)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BadInput(f"{named} {folder} cannot be written: {error.strerror or error}") from error
    return folder

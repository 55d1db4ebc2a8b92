"""What a person may ask for, checked before any work starts.

The command and the flows share it, so a deployment refuses what the command refuses. It does not import Prefect:
bad usage is answered at once. Secrets go into a file of their own here, so that parameters never hold them.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from tidegate.durable.home import Home
from tidegate.durable.secrets import SecretFiles
from tidegate.errors import BadInput, UnsupportedSource
from tidegate.model import Source
from tidegate.redact import has_secret, redact_url
from tidegate.transfer.resolvers.local import local_path

_SHA256 = re.compile(r"^(?:sha256:)?([0-9a-fA-F]{64})$")
_HEADER = re.compile(r"^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e]*)$")
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")


class SourceRequest(BaseModel):
    """A source as a flow parameter: what the UI's form asks for, free of secrets."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(default="", description="http(s):// link, or path of a local file on the worker.")
    sha256: str | None = Field(default=None, description="SHA-256 that the whole file must have, in hex.")
    block: str | None = Field(
        default=None, description="Name of a saved Media Source block, in place of the link; for links with secrets."
    )
    secret: str | None = Field(
        default=None, description="Reference of a secret that the command stored; leave it empty here."
    )


def request_for(text: str, *, sha256: str | None, headers: dict[str, str], home: Home) -> SourceRequest:
    """The request for a source as it was typed; a secret goes into a file and only its reference into the request.

    Raises:
        BadInput, UnsupportedSource: see `checked_url` and `checked_sha256`.
    """
    url = checked_url(text)
    digest = checked_sha256(sha256)
    secret = SecretFiles(home.secrets).keep(url, headers) if headers or has_secret(url) else None
    return SourceRequest(url=redact_url(url), sha256=digest, secret=secret)


def source_of(request: SourceRequest, home: Home) -> Source:
    """The engine's source for a request that names no block.

    Raises:
        BadInput, UnsupportedSource: the request is not valid, or its secret is gone.
    """
    digest = checked_sha256(request.sha256)
    sha256 = f"sha256:{digest}" if digest else None
    if request.secret is not None:
        url, headers = SecretFiles(home.secrets).reveal(request.secret)
        return Source(url=url, headers=headers, sha256=sha256)
    return Source(url=SecretStr(checked_url(request.url)), sha256=sha256)


def checked_url(text: str) -> str:
    """A link, or the `file://` URL of a path.

    Raises:
        BadInput: a directory, a missing or special file, or an incomplete link.
        UnsupportedSource: another scheme.
    """
    if not text.strip():
        raise BadInput("The source is empty: give a link or the path of a file")
    if not _SCHEME.match(text):
        return _checked_file(Path(text).expanduser())
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise BadInput(f"{redact_url(text)!r} is not a complete link") from error
    scheme = parts.scheme.lower()
    if scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise BadInput(f"{text!r} names a file on another host; give file:///path")
        return _checked_file(local_path(text))
    if scheme not in ("http", "https"):
        raise UnsupportedSource(f"{scheme}:// links are not supported; give an http(s) link or a local file")
    return _checked_link(text)


def checked_sha256(text: str | None) -> str | None:
    """64 lower-case hex characters.

    Raises:
        BadInput: it is something else.
    """
    if not text:
        return None
    match = _SHA256.match(text.strip())
    if match is None:
        raise BadInput("--sha256 takes 64 hex characters")
    return match[1].lower()


def checked_headers(lines: list[str]) -> dict[str, str]:
    """`["K: V", …]` as a dict.

    Raises:
        BadInput: a line is no header. The message does not repeat it: it may be a secret.
    """
    pairs = [_HEADER.match(line) for line in lines]
    if any(pair is None for pair in pairs):
        raise BadInput("--header takes 'Name: value', in ASCII and on one line")
    return {pair[1]: pair[2].strip() for pair in pairs if pair is not None}


def require_writable(folder: Path) -> Path:
    """The output folder, absolute, created if need be, and proven by writing into it.

    Raises:
        BadInput: it cannot be created or written.
    """
    folder = folder.expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BadInput(f"The output folder {folder} cannot be written: {error.strerror or error}") from error
    return folder


def _checked_link(text: str) -> str:
    try:
        parts = urlsplit(text)
        complete = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        complete = False
    if not complete or any(character.isspace() or ord(character) < 0x20 for character in text):
        raise BadInput(f"{redact_url(text)!r} is not a complete link")
    return text


def _checked_file(path: Path) -> str:
    path = path.absolute()
    if path.is_dir():
        raise BadInput(f"{path} is a directory; give a media file")
    if not path.exists():
        raise BadInput(f"There is no file {path}")
    if not path.is_file():
        raise BadInput(f"{path} is not a regular file")
    if not os.access(path, os.R_OK):
        raise BadInput(f"{path} cannot be read")
    return path.as_uri()

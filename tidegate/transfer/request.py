"""A link, headers and a digest as somebody gave them, checked before any of them is used.

The command, the flows and the blocks share it, so each refuses what the others refuse. It asks no source and keeps
nothing. No message repeats a header: it may be a secret.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from tidegate.errors import BadInput, UnsupportedSource
from tidegate.redact import redact_url
from tidegate.transfer.paths import local_path, printable

_SHA256 = re.compile(r"(?:sha256:)?([0-9a-f]{64})", re.IGNORECASE)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
_PORTS = {"http": 80, "https": 443}

OURS = frozenset({"range", "if-range", "accept-encoding", "host", "connection", "content-length", "transfer-encoding"})
"""Headers by which the transfer itself works; another value would break it or the answer."""


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
            raise BadInput(f"{redact_url(text)!r} names a file on another host; give file:///path")
        try:
            return _checked_file(local_path(text))
        except UnicodeError as error:
            raise BadInput(f"{redact_url(text)!r} names no file") from error
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
    match = _SHA256.fullmatch(text.strip())
    if match is None:
        raise BadInput("A SHA-256 (--sha256) is 64 hex characters")
    return match[1].lower()


def checked_headers(lines: list[str]) -> dict[str, str]:
    """`["K: V", …]` as a dict.

    Raises:
        BadInput: a line is no header, or one that only the transfer may set, or its name is there twice.
    """
    pairs = [(name, value.strip(" \t")) for name, _, value in (line.partition(":") for line in lines)]
    if any(":" not in line for line in lines):
        raise BadInput("--header takes 'Name: value', in ASCII and on one line")
    _require_sendable(pairs)
    return dict(pairs)


def checked_headers_for(headers: dict[str, str], urls: list[str]) -> None:
    """Whether these headers may go to these sources.

    Raises:
        BadInput: one of them cannot be sent, they would go to more than one origin, or a link brings a login as well.
    """
    _require_sendable(list(headers.items()))
    links = [urlsplit(url) for url in urls if url.lower().startswith(("http:", "https:"))]
    if headers and len({(one.scheme, one.hostname, one.port or _PORTS[one.scheme]) for one in links}) > 1:
        raise BadInput("Headers go to one origin only, and these links have several; run them one by one")
    if any(name.lower() == "authorization" for name in headers) and any("@" in one.netloc for one in links):
        raise BadInput("Give either an Authorization header or a login in the link, not both")


def _require_sendable(headers: list[tuple[str, str]]) -> None:
    names = [name.lower() for name, _ in headers]
    if not all(_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value) for name, value in headers):
        raise BadInput("--header takes 'Name: value', in ASCII and on one line")
    if taken := sorted(OURS.intersection(names)):
        raise BadInput(f"The header {taken[0]} is set by the transfer itself")
    if len(set(names)) < len(names):
        raise BadInput("A header is given twice")


def _checked_link(text: str) -> str:
    try:
        parts = urlsplit(text)
        complete = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        complete = False
    if not complete or any(
        character.isspace() or ord(character) < 0x20 or "\ud800" <= character <= "\udfff" for character in text
    ):
        raise BadInput(f"{redact_url(text)!r} is not a complete link")
    return text


def _checked_file(path: Path) -> str:
    path = path.absolute()
    shown = printable(path)
    if path.is_dir():
        raise BadInput(f"{shown} is a directory; give a media file")
    if not path.exists():
        raise BadInput(f"There is no file {shown}")
    if not path.is_file():
        raise BadInput(f"{shown} is not a regular file")
    if not os.access(path, os.R_OK):
        raise BadInput(f"{shown} cannot be read")
    return path.as_uri()

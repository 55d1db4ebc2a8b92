"""A link, headers and a digest as somebody gave them, checked before any of them is used.

The command, the flows and the blocks share it, so each refuses what the others refuse. It asks no source and keeps
nothing. No message repeats a header: it may be a secret.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from tidegate.errors import BadInput, UnsupportedSource
from tidegate.redact import redact_url
from tidegate.transfer.paths import expand_home, local_path, printable, require_possible, shorten

_SHA256 = re.compile(r"(?:sha256:)?([0-9a-f]{64})", re.IGNORECASE)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
_WITHOUT_SLASHES = frozenset(
    {"magnet", "data", "blob", "javascript", "about", "urn", "mailto", "cid", "http", "https", "file", "ftp", "sftp"}
    | {"rtsp", "rtmp", "rtp", "udp", "srt", "mms", "ed2k", "thunder"}
)
"""Schemes that are known for links without `//`, or with it forgotten."""
LONGEST_LINK = 65536
"""Characters. No server takes as many; data that somebody pasted has more."""
_PORTS = {"http": 80, "https": 443}

OURS = frozenset({"range", "if-range", "accept-encoding", "host", "connection", "content-length", "transfer-encoding"})
"""Headers by which the transfer itself works; another value would break it or the answer."""


PathCheck = Callable[[Path], None]
"""Raises PathRefused for a path that this run may not use."""


def allow_any(path: Path) -> None:
    """Who types a command may read what they may read."""


def check_url(text: str, may_read: PathCheck = allow_any) -> str:
    """A link, or the `file://` URL of a path.

    Raises:
        BadInput: a directory, a missing or special file, a name that no file can have, or an incomplete link.
        UnsupportedSource: another scheme.
        PathRefused: `may_read` says so; the file was not looked for.
    """
    if not text.strip():
        raise BadInput("The source is empty: give a link or the path of a file")
    scheme = _scheme_of(text)
    if scheme is None:
        return _check_file(expand_home(Path(text)), may_read)
    if scheme not in ("http", "https", "file"):
        slashes = "://" if _SCHEME.match(text) else ":"
        raise UnsupportedSource(f"{scheme}{slashes} links are not supported; give an http(s) link or a local file")
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise BadInput(f"{_quote(text)} is not a complete link") from error
    if scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise BadInput(f"{_quote(text)} names a file on another host; give file:///path")
        try:
            return _check_file(local_path(text), may_read)
        except UnicodeError as error:
            raise BadInput(f"{_quote(text)} names no file") from error
    return _check_web_link(text)


def _scheme_of(text: str) -> str | None:
    """The scheme of a link, in lower case; None for a path. `magnet:`, `data:` and their like have no slashes, and the
    name of a file may hold a colon: one that is there is a file."""
    if match := _SCHEME.match(text):
        return match[0].partition(":")[0].lower()
    scheme = text.partition(":")[0].lower()
    return scheme if scheme in _WITHOUT_SLASHES and ":" in text and not os.path.lexists(text) else None


def check_sha256(text: str | None) -> str | None:
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


def check_headers(lines: list[str]) -> dict[str, str]:
    """`["K: V", …]` as a dict.

    Raises:
        BadInput: a line is no header, or one that only the transfer may set, or its name is there twice.
    """
    pairs = [(name, value.strip(" \t")) for name, _, value in (line.partition(":") for line in lines)]
    if any(":" not in line for line in lines):
        raise BadInput("--header takes 'Name: value', in ASCII and on one line")
    _require_sendable(pairs)
    return dict(pairs)


def check_headers_for(headers: dict[str, str], urls: list[str]) -> None:
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


def _check_web_link(text: str) -> str:
    try:
        parts = urlsplit(text)
        complete = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        complete = False
    if not complete or any(
        character.isspace() or ord(character) < 0x20 or "\ud800" <= character <= "\udfff" for character in text
    ):
        raise BadInput(f"{_quote(text)} is not a complete link")
    if len(text) > LONGEST_LINK:
        raise BadInput(f"The link has {len(text)} characters; no more than {LONGEST_LINK} can be asked for")
    return text


def _check_file(path: Path, may_read: PathCheck) -> str:
    require_possible(path, "The path")
    path = path.absolute()
    shown = printable(path)
    may_read(path)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise BadInput(_why_not_there(path, error)) from error
    if stat.S_ISDIR(mode):
        raise BadInput(f"{shown} is a directory; give a media file")
    if not stat.S_ISREG(mode):
        raise BadInput(f"{shown} is not a regular file")
    if not os.access(path, os.R_OK):
        raise BadInput(f"{shown} cannot be read")
    return path.as_uri()


def _why_not_there(path: Path, error: OSError) -> str:
    shown = printable(path)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        if path.is_symlink():
            return f"{shown} is a link to {printable(path.readlink())}, which is not there"
        return f"There is no file {shown}"
    if error.errno == errno.ELOOP:
        return f"{shown} is a link that leads back to itself"
    return f"{shown} cannot be read: {error.strerror}"


def _quote(text: str) -> str:
    """A link as a message can take it, without secrets and not longer than a person reads."""
    return repr(shorten(redact_url(text)))

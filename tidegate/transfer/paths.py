"""Paths as people give them, whose names need not be text and may be such as no file can have.

Commands, flows and the local resolver come here before they use one. It looks at no file, and keeps nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from tidegate.errors import BadInput
from tidegate.settings import LONGEST_NAME

LONGEST_PATH = 4095
"""Bytes of a path that the system takes."""
SHOWN_CHARS = 200
"""How much of a text that somebody gave a message repeats."""


def local_path(url: str) -> Path:
    """The path that a `file://` URL names, whose bytes need not be UTF-8."""
    return Path(os.fsdecode(unquote_to_bytes(os.fsencode(urlsplit(url).path))))


def printable(path: Path | str) -> str:
    """A path as JSON and a terminal can take it; bytes that are no UTF-8 are replaced."""
    return os.fsencode(path).decode(errors="replace")


def shorten(text: str) -> str:
    """As much of a text as a person reads."""
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


def expand_home(path: Path) -> Path:
    """`~` and `~user` as their folders; a `~` that is no user's is part of a name."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def require_possible(path: Path, named: str, *, room: int = 0) -> None:
    """Whether any file can have this path, with `room` more bytes behind it. `named` begins the message.

    Raises:
        BadInput: none can: it holds a NUL, or is too long.
    """
    text = str(path)
    if "\0" in text:
        raise BadInput(f"{named} holds a NUL byte, which no file name can: {printable(shorten(text))!r}")
    absolute = os.fsencode(path.absolute())
    longest = max(map(len, absolute.split(b"/")))
    if longest > LONGEST_NAME:
        shown = printable(shorten(text))
        raise BadInput(f"{named} holds a name of {longest} bytes, and a file system takes {LONGEST_NAME}: {shown}")
    if len(absolute) > LONGEST_PATH - room:
        shown = printable(shorten(text))
        raise BadInput(
            f"{named} has {len(absolute)} bytes, and no more than {LONGEST_PATH - room} can be used: {shown}"
        )

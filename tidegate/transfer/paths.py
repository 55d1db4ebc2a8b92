"""Paths of local sources, whose names need not be text. Pure."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit


def local_path(url: str) -> Path:
    """The path that a `file://` URL names, whose bytes need not be UTF-8."""
    return Path(os.fsdecode(unquote_to_bytes(os.fsencode(urlsplit(url).path))))


def printable(path: Path | str) -> str:
    """A path as JSON and a terminal can take it; bytes that are no UTF-8 are replaced."""
    return os.fsencode(path).decode(errors="replace")

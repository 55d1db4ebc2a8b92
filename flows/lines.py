"""Links and headers that are not typed: from standard input (`-`), and from a file (`--header @FILE`).

What is typed stands in the process list, where every user of the machine can read it. `flows/arguments.py` asks, before
any work starts; nothing is kept here. No message repeats a header, or a line that may hold a secret.
"""

from __future__ import annotations

import codecs
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tidegate.errors import BadInput, UsageError
from tidegate.transfer.paths import expand_home, printable

MOST_LINK_BYTES = 16 * 1024 * 1024
MOST_HEADER_BYTES = 1024 * 1024
"""What somebody pipes in by mistake has no end."""
MOST_TOLD = 20
"""Of how many bad lines a message tells."""
_BOMS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
"""PowerShell writes such."""


@dataclass(frozen=True)
class Line:
    """One line that says something."""

    number: int
    text: str


def lines_of(content: bytes, named: str) -> list[Line]:
    """The lines that are neither blank nor a comment (`#`), without their ends.

    Bytes that are no UTF-8 stay what they are: they may be the name of a file.

    Raises:
        BadInput: a line holds a NUL.
    """
    bom = next((bom for bom in _BOMS if content.startswith(bom)), b"")
    if (encoding := _BOMS.get(bom, "utf-8")) == "utf-8":
        text = content.removeprefix(bom).decode("utf-8", "surrogateescape")
    else:
        text = content.removeprefix(bom).decode(encoding, "replace")
    numbered = [Line(number, line.strip()) for number, line in enumerate(text.split("\n"), 1)]
    for line in numbered:
        if "\0" in line.text:
            raise BadInput(f"Line {line.number} of {named} holds a NUL byte: that is no text")
    return [line for line in numbered if line.text and not line.text.startswith("#")]


def read_links(check: Callable[[str], object], forgive: Callable[[UsageError], bool]) -> list[str]:
    """The links and paths on standard input, one a line, each of them good, or wrong in a way that may be forgiven.

    Raises:
        BadInput, UnsupportedSource: what `check` says of each bad line, with its number.
    """
    if sys.stdin is not None and sys.stdin.isatty():
        print("Links, one a line; Ctrl-D ends them:", file=sys.stderr, flush=True)  # noqa: T201  # before any display
    found = lines_of(_standard_input("The source -", MOST_LINK_BYTES), "standard input")
    if not found:
        raise BadInput("Standard input held no link")
    wrong: dict[int, UsageError] = {}
    for line in found:
        try:
            check(line.text)
        except UsageError as error:
            wrong[line.number] = error
    if not all(forgive(error) for error in wrong.values()):
        messages = [f"Line {number} of standard input: {error.message}" for number, error in wrong.items()]
        more = f"; and {len(messages) - MOST_TOLD} more" if len(messages) > MOST_TOLD else ""
        first = next(iter(wrong.values()))
        raise type(first)(f"{'; '.join(messages[:MOST_TOLD])}{more}") from first
    return [line.text for line in found]


def read_headers(given: str, check: Callable[[list[str]], object]) -> list[str]:
    """The headers that `@FILE` or `@-` names, one a line.

    Raises:
        BadInput: there is no such file, or a line of it is no header.
    """
    name = given.removeprefix("@")
    named = "standard input" if name == "-" else f"the header file {printable(name)}"
    content = _standard_input("--header @-", MOST_HEADER_BYTES) if name == "-" else _content(name, named)
    found = lines_of(content, named)
    if not found:
        raise BadInput(f"There is no header in {named}")
    for line in found:
        try:
            check([line.text])
        except BadInput as error:
            raise BadInput(f"Line {line.number} of {named}: {error.message}") from None
    return [line.text for line in found]


def advice_on_file(given: str) -> str | None:
    """What to tell of a header file that every user of this machine can read; None where there is nothing to tell."""
    path = expand_home(Path(given.removeprefix("@")))
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    if not (stat.S_ISREG(found.st_mode) and found.st_mode & stat.S_IROTH):
        return None
    return f"Every user of this machine can read {printable(path)}; to keep it secret: chmod 600 {printable(path)}"


def _content(name: str, named: str) -> bytes:
    """A file's, or of what a shell gives for `<(command)`."""
    if not name or "\0" in name:
        raise BadInput("--header @FILE names no file")
    try:
        handle = os.open(expand_home(Path(name)), os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            return _require_size(file.read(MOST_HEADER_BYTES + 1), named, MOST_HEADER_BYTES)
    except OSError as error:
        raise BadInput(f"{named[0].upper()}{named[1:]} cannot be read: {error.strerror or error}") from error


def _standard_input(who: str, most: int) -> bytes:
    try:
        if sys.stdin is None:
            raise OSError("it is closed")
        return _require_size(sys.stdin.buffer.read(most + 1), "standard input", most)
    except OSError as error:
        raise BadInput(f"{who} needs standard input: {error.strerror or error}") from error


def _require_size(content: bytes, named: str, most: int) -> bytes:
    if len(content) > most:
        raise BadInput(f"There is more than {most // 1024**2} MiB in {named}")
    return content

"""What a child prints: lines for whoever parses them, head and tail for the evidence.

The supervisor feeds raw bytes as they come. Memory is bounded whatever the child prints, also one endless line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

HEAD_BYTES = 4 * 1024
TAIL_BYTES = 16 * 1024
LONGEST_LINE_BYTES = 64 * 1024

LineSink = Callable[[str], None]


def ignore_line(line: str) -> None:
    """For output that only serves as evidence."""


@dataclass
class Output:
    """One pipe of a child: keeps its first and last bytes, and cuts it into lines at LF and at CR (status lines)."""

    on_line: LineSink = ignore_line
    _head: bytearray = field(default_factory=bytearray)
    _tail: bytearray = field(default_factory=bytearray)
    _line: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> None:
        room = HEAD_BYTES - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room > 0 else data
        del self._tail[:-TAIL_BYTES]
        self._cut_lines(data)

    def close(self) -> None:
        """The pipe has ended: what is left counts as a line."""
        self._give_line()

    @property
    def head(self) -> str:
        return self._head.decode(errors="replace")

    @property
    def tail(self) -> str:
        """The last bytes; the whole output while it is short."""
        short = len(self._tail) < TAIL_BYTES
        return (self._head + self._tail if short else self._tail).decode(errors="replace")

    def _cut_lines(self, data: bytes) -> None:
        *whole, rest = data.replace(b"\r", b"\n").split(b"\n")
        for piece in whole:
            self._line += piece
            self._give_line()
        self._line += rest
        if len(self._line) > LONGEST_LINE_BYTES:
            self._give_line()

    def _give_line(self) -> None:
        if self._line:
            self.on_line(self._line.decode(errors="replace").rstrip())
            self._line.clear()

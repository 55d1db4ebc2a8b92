"""What a child of ours says: JSON lines on stdout, of which one is its answer.

`inspect` and `timeline` read their children with it. It keeps nothing; a line that is no JSON is somebody else's. An
answer that is longer than a line may be comes in pieces of its text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MOST_CHARACTERS = 32_000_000
"""Of an answer in pieces: more than the labels and chapters of any film."""


@dataclass
class ChildAnswer:
    """The answer of one child, read from its lines as they come."""

    name: str
    """Under which key the answer comes."""
    on_progress: Callable[[dict[str, float]], None] = lambda marks: None
    found: dict[str, Any] | None = None
    refused: str | None = None
    """Why the child does not answer."""
    marks: dict[str, float] = field(default_factory=dict)
    """How far it is."""
    _pieces: list[str] = field(default_factory=list)
    _length: int = 0

    def feed(self, line: str) -> None:
        """One line of its stdout."""
        try:
            message = json.loads(line)
        except ValueError:  # a codec library that talks on stdout is not the answer
            return
        if "piece" in message:
            self._keep(message["piece"])
        if message.get("whole") == self.name:
            self._put_together()
        self.found = message.get(self.name, self.found)
        self.refused = message.get("refused", self.refused)
        if "progress" in message:
            self.marks = message["progress"]
            self.on_progress(self.marks)

    def _keep(self, piece: str) -> None:
        self._length += len(piece)
        if self._length <= MOST_CHARACTERS:
            self._pieces.append(piece)

    def _put_together(self) -> None:
        if self._length > MOST_CHARACTERS:
            self.refused = "it says more of itself than any film does"
            return
        self.found = json.loads("".join(self._pieces))

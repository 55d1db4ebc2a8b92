"""What a child of ours says: JSON lines on stdout, of which one is its answer.

`inspect` and `timeline` read their children with it. It keeps nothing; a line that is no JSON is somebody else's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


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

    def feed(self, line: str) -> None:
        """One line of its stdout."""
        try:
            message = json.loads(line)
        except ValueError:  # a codec library that talks on stdout is not the answer
            return
        self.found = message.get(self.name, self.found)
        self.refused = message.get("refused", self.refused)
        if "progress" in message:
            self.marks = message["progress"]
            self.on_progress(self.marks)

"""What a Metalink says, as a value: where else a file lies, and what it must be.

`read_metalink` makes it from text, in a child; `mirrors` gets it from `transfer.parsing`. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Metalink:
    """What a Metalink says of its first file."""

    urls: dict[str, int] = field(default_factory=dict)
    """http(s) links, with their priorities: the lowest first."""
    digests: frozenset[str] = frozenset()
    size_bytes: int | None = None


def priority_of(text: str) -> int:
    """The priority that is written; the last one where it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 10**9

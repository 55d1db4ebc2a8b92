"""What a resolver is: it knows a kind of source, its renditions, and how to begin an exchange with it."""

from __future__ import annotations

from typing import Protocol

from tidegate.model import Identity, Rendition, Source
from tidegate.settings import TransferSettings
from tidegate.transfer.exchange import Exchange

WHOLE_FILE = Rendition(id="source", label="the file itself")
"""The only rendition of a source that is one file."""


class Resolver(Protocol):
    """Stateless; its exchanges do the work."""

    name: str

    def handles(self, source: Source) -> bool:
        """Whether this source is of its kind; decided from the link alone, without touching the source."""
        ...

    def exchange(self, source: Source, limits: TransferSettings) -> Exchange:
        """A fresh exchange with the source."""
        ...

    def renditions(self, identity: Identity) -> tuple[Rendition, ...]:
        """What the source offers."""
        ...

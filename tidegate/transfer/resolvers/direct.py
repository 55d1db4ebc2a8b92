"""A media file behind an http(s) link."""

from __future__ import annotations

from tidegate.model import Identity, Rendition, Source
from tidegate.settings import TransferSettings
from tidegate.transfer.http import HttpExchange
from tidegate.transfer.resolvers.base import WHOLE_FILE


class DirectResolver:
    """See `Resolver`."""

    name = "direct"

    def handles(self, source: Source) -> bool:
        return source.scheme in ("http", "https")

    def exchange(self, source: Source, limits: TransferSettings) -> HttpExchange:
        return HttpExchange(source, limits)

    def renditions(self, identity: Identity) -> tuple[Rendition, ...]:
        return (WHOLE_FILE,)

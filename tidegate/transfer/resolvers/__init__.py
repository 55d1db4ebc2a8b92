"""Who can read which source. A new kind of source is one module here and one entry in `RESOLVERS`.

Stages ask `resolver_for` once and then only talk to the `Resolver` protocol.
"""

from __future__ import annotations

from tidegate.errors import UnsupportedSource
from tidegate.model import Source
from tidegate.transfer.resolvers.base import Resolver
from tidegate.transfer.resolvers.direct import DirectResolver
from tidegate.transfer.resolvers.local import LocalResolver

RESOLVERS: tuple[Resolver, ...] = (DirectResolver(), LocalResolver())
"""In the order in which they are asked; the first that handles a source takes it."""


def resolver_for(source: Source) -> Resolver:
    """The resolver of a source.

    Raises:
        UnsupportedSource: none handles it.
    """
    for resolver in RESOLVERS:
        if resolver.handles(source):
            return resolver
    raise UnsupportedSource(f"No resolver handles {source.scheme}: links")

"""Who can read which source: files on this host, single files, HLS, DASH, pages of sites, Twitch.

Stages and flows ask `resolver_for` once and then only talk to the `Resolver` protocol of `base`. A new kind of source
is one module here and one entry in `RESOLVERS`. Parts of one resolver are named after it (`site_child`,
`twitch_console`); `listed` is what HLS and DASH do alike. Resolvers keep no state: what they leave in the rendition's
folder is what the next run goes on from after a crash.
"""

from __future__ import annotations

from tidegate.errors import UnsupportedSource
from tidegate.model import Identity, Source
from tidegate.transfer.resolvers.base import Resolver
from tidegate.transfer.resolvers.dash import DashResolver
from tidegate.transfer.resolvers.direct import DirectResolver
from tidegate.transfer.resolvers.hls import HlsResolver
from tidegate.transfer.resolvers.local import LocalResolver
from tidegate.transfer.resolvers.site import SiteResolver
from tidegate.transfer.resolvers.twitch import TwitchResolver

__all__ = ["RESOLVERS", "Resolver", "alternatives", "by_name", "resolver_for"]

_DIRECT: Resolver = DirectResolver()

RESOLVERS: tuple[Resolver, ...] = (
    LocalResolver(),
    TwitchResolver(),
    HlsResolver(),
    DashResolver(),
    SiteResolver(),
    _DIRECT,
)
"""In the order in which they are asked; the first that handles a source takes it, and the next ones of those that do
are tried when it fails. `direct` takes every http(s) link, so it comes last."""


def resolver_for(source: Source, identity: Identity | None = None) -> Resolver:
    """The resolver of a source: by its link, or by what it is once it was identified.

    Raises:
        UnsupportedSource: none handles it.
    """
    for resolver in RESOLVERS:
        if resolver.handles(source):
            return _recogniser_of(identity) or resolver if resolver is _DIRECT and identity else resolver
    raise UnsupportedSource(f"No resolver handles {source.scheme}: links")


def by_name(name: str) -> Resolver:
    """The resolver that a probe has chosen.

    Raises:
        UnsupportedSource: this Tidegate has none of that name.
    """
    for resolver in RESOLVERS:
        if resolver.name == name:
            return resolver
    raise UnsupportedSource(f"This Tidegate has no resolver {name}")


def alternatives(source: Source, after: str) -> tuple[Resolver, ...]:
    """Who else may be asked when the resolver named `after` could not bring the source, in their order."""
    able = [resolver for resolver in RESOLVERS if resolver is not _DIRECT and resolver.handles(source)]
    names = [resolver.name for resolver in able]
    return tuple(able[names.index(after) + 1 :]) if after in names else ()


def _recogniser_of(identity: Identity) -> Resolver | None:
    return next((resolver for resolver in RESOLVERS if resolver.recognises(identity)), None)

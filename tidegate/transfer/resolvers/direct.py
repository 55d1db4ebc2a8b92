"""A media file behind an http(s) link.

The stages ask it for every http(s) link that no other resolver claims. What it has looked at and fetched lies in the
rendition's folder as a part with its journal, and the next run goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tidegate.errors import Mirror, TidegateError
from tidegate.model import Identity, Source, TransferStats
from tidegate.transfer.file import fetch
from tidegate.transfer.file.exchange import Connect
from tidegate.transfer.file.http import HttpExchange
from tidegate.transfer.file.peek import peek
from tidegate.transfer.outside import Outside
from tidegate.transfer.resolvers.base import MAIN_TRACK, WHOLE_FILE, FetchRequest, FetchResult, Offer, OtherKind
from tidegate.transfer.verify import IsPlaylist


class DirectResolver:
    """A `Resolver` for one file behind an http(s) link."""

    name = "direct"

    def handles(self, source: Source) -> bool:
        return source.scheme in ("http", "https")

    def recognises(self, identity: Identity) -> bool:
        return False

    async def identify(self, outside: Outside, source: Source) -> tuple[Identity, TransferStats]:
        """Asks the link itself; where its origin does not answer, a mirror may say what it is."""
        try:
            return await fetch.identify(_connector(outside, source), outside.limits, outside.observe)
        except TidegateError as failure:
            if failure.policy.mirror is not Mirror.ALWAYS:
                raise
            for mirror in source.mirrors:
                try:
                    other = Source(url=mirror)
                    return await fetch.identify(_connector(outside, other), outside.limits, outside.observe)
                except TidegateError as also:
                    if also.policy.mirror not in (Mirror.ALWAYS, Mirror.NEXT):
                        raise
            raise

    async def offer(
        self, outside: Outside, source: Source, identity: Identity, scratch: Callable[[str], Path]
    ) -> Offer:
        try:
            look = await peek(outside, _connector(outside, source), scratch(WHOLE_FILE.id), identity)
        except IsPlaylist as playlist:
            raise OtherKind(playlist.message, playlist.kind) from playlist
        return Offer((WHOLE_FILE,), look.preview, cost=look.cost)

    async def fetch(self, outside: Outside, source: Source, what: FetchRequest) -> FetchResult:
        try:
            file = await fetch.fetch_file(outside, source, what.folder, what.identity, promised=what.promised)
        except IsPlaylist as playlist:
            raise OtherKind(playlist.message, playlist.kind) from playlist
        return FetchResult(
            tracks={MAIN_TRACK: (file.path,)},
            stats=file.stats,
            known={MAIN_TRACK: file.blake3},
            checked=file.checked,
            end_is_certain=file.end_is_certain,
        )


def _connector(outside: Outside, source: Source) -> Connect:
    return lambda: HttpExchange(source, outside.limits, outside.gates)

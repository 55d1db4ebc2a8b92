"""One file into its folder, from wherever it is to be had: its own origin, its mirrors, a fresh link.

Resolvers call `fetch_file`, and `identify` before it. What a transfer received stays in the part, so a crash or a cut
costs at most what was not journaled yet.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from tidegate.durable.threads import in_thread
from tidegate.errors import (
    DiskFull,
    ExpiredLink,
    Link,
    Mirror,
    SourceChanged,
    TidegateError,
)
from tidegate.events import Note, Observer
from tidegate.model import Digest, Identity, Source, TransferStats
from tidegate.redact import redact_url
from tidegate.resilience.retry import Retry
from tidegate.settings import TransferSettings
from tidegate.transfer.file.exchange import Connect
from tidegate.transfer.file.http import HttpExchange
from tidegate.transfer.file.mirrors import KnownMirrors, has_expired, proven_same
from tidegate.transfer.file.part import Part, open_part
from tidegate.transfer.file.places import Places
from tidegate.transfer.file.transfer import Transfer
from tidegate.transfer.outside import Outside

EXPIRED_STATUS = (401, 403, 404, 410)
"""What origins answer to a link that is no longer good."""


async def identify(connect: Connect, limits: TransferSettings, observe: Observer) -> tuple[Identity, TransferStats]:
    """Ask what the source is: one request, more only when it fails in a way that may pass.

    Raises:
        TidegateError: the last try's failure.
    """
    retry = Retry(limits, observe, "identify")
    requests = 0

    async def one_try() -> Identity:
        nonlocal requests
        exchange = connect()
        try:
            return await exchange.identify(retry=retry.retries > 0)
        finally:
            requests += exchange.requests

    identity = await retry.run(one_try)
    return identity, TransferStats(requests=requests, retries=retry.retries)


@dataclass(frozen=True)
class FetchedFile:
    """A file as it lies in its folder: complete, synced, verified as far as its source allows."""

    path: Path
    stats: TransferStats
    blake3: Digest
    checked: frozenset[Digest]
    """Digests that were promised, by a person or an origin, and found to hold."""
    end_is_certain: bool


Renew = Callable[[], Awaitable[Source]]
"""Gives a fresh link to the same file when the old one has expired."""


async def fetch_file(
    outside: Outside,
    source: Source,
    folder: Path,
    identity: Identity,
    *,
    name: str = "source",
    promised: frozenset[Digest] = frozenset(),
    renew: Renew | None = None,
    tries: Retry | None = None,
) -> FetchedFile:
    """One http(s) file, resumable in its folder under `name`; from a mirror where its own origin does not deliver.

    `promised`: digests that the whole must have, besides those that its identity tells. `tries`: the budget of what the
    file is a piece of; None: one of its own.

    Raises:
        ExpiredLink: the link is no longer good, and `renew` was not given or did not help.
        DiskFull: what is missing does not fit on the volume.
        LimitReached: a limit that somebody set, at whichever origin.
        TidegateError: the first origin's failure, when none of the others helped either.
    """
    promised |= {*identity.digests}
    return await _FileFetch(outside, source, folder, identity, name, promised, renew, tries).with_mirrors()


@dataclass
class _FileFetch:
    """The origins of one file: at once where a digest proves the mixture, else one after the other."""

    outside: Outside
    source: Source
    folder: Path
    identity: Identity
    name: str
    promised: frozenset[Digest]
    renew: Renew | None
    tries: Retry | None = None
    stats: TransferStats = field(default_factory=TransferStats)
    _known_mirrors: KnownMirrors = field(default_factory=KnownMirrors)

    async def with_mirrors(self) -> FetchedFile:
        """From the source's own origin, or from the first of its mirrors that delivers where that one does not."""
        try:
            return await self._into_part(self.source, self.identity, self.name)
        except TidegateError as failure:
            if failure.policy.mirror not in (Mirror.FETCH, Mirror.ALWAYS):
                raise
            async for mirror in self._mirrors(failure):
                try:
                    return await self._mirror_into_part(mirror)
                except TidegateError as also:
                    if also.policy.mirror is Mirror.NO:
                        raise
                    self.outside.observe(Note(f"A mirror failed too: {also.message}", "warning"))
            raise

    async def _mirrors(self, failure: TidegateError) -> AsyncIterator[Source]:
        known = [mirror.get_secret_value() for mirror in self.source.mirrors]
        named = await self._known_mirrors.look_up(self.outside, self.identity.size_bytes)
        self.promised |= self._known_mirrors.digests
        for url in dict.fromkeys([*known, *named]):
            if url != self.source.url.get_secret_value():
                shown = redact_url(url)
                self.outside.observe(Note(f"{failure.message}; trying the mirror {shown}", "warning"))
                yield Source(url=SecretStr(url), sha256=self.source.sha256)

    async def _mirror_into_part(self, mirror: Source) -> FetchedFile:
        """Its bytes go on with what is here only where a digest of the whole proves the result; else they have a part
        of their own, from zero."""
        found = await self._identify(mirror)
        if None not in (found.size_bytes, self.identity.size_bytes) and found.size_bytes != self.identity.size_bytes:
            raise SourceChanged(f"The mirror has {found.size_bytes} bytes, the source {self.identity.size_bytes}")
        if proven_same(self.identity, found, self.promised):
            return await self._into_part(mirror, self.identity, self.name, found)
        return await self._into_part(mirror, found, f"{self.name}.mirror")

    async def _into_part(
        self, source: Source, identity: Identity, name: str, origin_identity: Identity | None = None
    ) -> FetchedFile:
        """One origin's bytes in the part called `name`, which is held by this run alone, with space for the whole.
        `origin_identity`: what this origin says the source is, where that differs from the part's `identity`."""
        limits, observe = self.outside.limits, self.outside.observe
        async with open_part(self.folder, identity, limits, observe, trust=self.outside.trust, name=name) as part:
            require_space(part)
            await in_thread(part.reserve)
            transfer = await self._with_fresh_link(source, part, origin_identity)
            assert transfer.blake3 is not None  # noqa: S101  # it is set wherever `run` returns without `until`
            checked = frozenset(transfer.promised)
            return FetchedFile(part.path, self.stats, transfer.blake3, checked, part.end_is_certain)

    async def _with_fresh_link(self, source: Source, part: Part, origin_identity: Identity | None) -> Transfer:
        """From this link; once from a fresh one, where this one has expired."""
        try:
            return await self._over_places(source, part, origin_identity)
        except TidegateError as refused:
            if refused.policy.link not in (Link.GONE, Link.REFUSED):
                raise
            fresh = await self._renew_link(source, part, refused)
            return await self._over_places(fresh, part, await self._identify_same(fresh, part, refused))

    async def _over_places(self, source: Source, part: Part, origin_identity: Identity | None) -> Transfer:
        """From this origin and the mirrors that hold the same bytes; without those, where the mixture was wrong."""
        # A digest by which another origin's bytes were let in is checked, whoever told it.
        promised = {*self.promised, *part.identity.digests}
        places = self._places(source, promised, trusted=origin_identity is None and source is self.source)
        try:
            return await self._one_transfer(places, part, promised, origin_identity)
        except TidegateError as failure:
            if not (failure.policy.identifies_again and places.mixed):
                raise
            places.distrust()
            return await self._one_transfer(places, part, promised, origin_identity)

    async def _one_transfer(
        self, places: Places, part: Part, promised: set[Digest], origin_identity: Identity | None
    ) -> Transfer:
        """What the part lacks, through as many tries as that may take; what it costs is counted."""
        transfer = Transfer(
            places,
            part,
            self.outside.limits,
            self.outside.observe,
            promised=promised,
            identity=origin_identity,
            distrust=places.distrust,
            tries=self.tries,
        )
        try:
            await transfer.run()
        finally:
            self.stats += transfer.stats
        return transfer

    def _places(self, source: Source, promised: set[Digest], *, trusted: bool) -> Places:
        own = source.url.get_secret_value()

        def links() -> list[str]:
            known = [mirror.get_secret_value() for mirror in source.mirrors]
            return [url for url in dict.fromkeys([*known, *self._known_mirrors.links]) if url != own]

        return Places(
            self._connect(source),
            lambda url: self._connect(Source(url=SecretStr(url))),
            links,
            promised,
            self.outside.observe,
            trusted=trusted,
        )

    async def _renew_link(self, source: Source, part: Part, refused: TidegateError) -> Source:
        """A fresh link in place of one that has expired, once.

        Raises:
            TidegateError: it was refused for another reason.
            ExpiredLink: nobody gives a fresh one.
        """
        late = has_expired(source.url.get_secret_value(), time.time())
        if not late and not (self.renew and part.received_bytes and refused.evidence.status in EXPIRED_STATUS):
            raise refused
        if self.renew is None:
            raise ExpiredLink(f"The link has expired: {refused.message}", evidence=refused.evidence) from refused
        self.outside.observe(Note(f"{refused.message}: the link has expired; asking for a fresh one", "warning"))
        renew, self.renew = self.renew, None
        return await renew()

    async def _identify_same(self, fresh: Source, part: Part, refused: TidegateError) -> Identity:
        """What is behind a fresh link, which must be what the part holds."""
        found = await self._identify(fresh)
        if not (part.identity.same_content_as(found) or proven_same(part.identity, found, self.promised)):
            raise SourceChanged("The fresh link leads to another file", evidence=refused.evidence)
        return found

    async def _identify(self, source: Source) -> Identity:
        identity, cost = await identify(self._connect(source), self.outside.limits, self.outside.observe)
        self.stats += cost
        return identity

    def _connect(self, source: Source) -> Connect:
        outside = self.outside
        return lambda: HttpExchange(source, outside.limits, outside.gates, note_links=self._known_mirrors.note)


def require_space(part: Part) -> None:
    """Whether what is missing of a source fits on the part's volume.

    Raises:
        DiskFull: it does not.
    """
    missing = (part.identity.size_bytes or 0) - part.allocated_bytes
    free = shutil.disk_usage(part.path.parent).free
    if missing > free:
        raise DiskFull(f"The download needs {missing} more bytes, and {free} are free at {part.path.parent}")

"""The fetch loop: one file into one part, from wherever it is to be had, in as many tries as it takes and may take.

Resolvers call `fetch_file`, or `Fetch` where they want only a beginning. What a try received stays in the part, so a
crash or a cut costs at most what was not journaled yet.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from pydantic import SecretStr

from tidegate.durable.threads import in_thread
from tidegate.errors import (
    DiskFull,
    ExpiredLink,
    LimitReached,
    Link,
    Mirror,
    SourceChanged,
    TidegateError,
    WrongDigest,
)
from tidegate.events import Note, Observer
from tidegate.model import Digest, Identity, Source, TransferStats
from tidegate.redact import redact_url
from tidegate.resilience.retry import Retry
from tidegate.settings import TransferSettings
from tidegate.transfer.asking.conversation import read_in_thread
from tidegate.transfer.file.exchange import Body, Connect, Exchange
from tidegate.transfer.file.follow import Follower
from tidegate.transfer.file.http import HttpExchange
from tidegate.transfer.file.mirrors import KnownMirrors, has_expired, proven_same
from tidegate.transfer.file.parallel import ParallelTry
from tidegate.transfer.file.part import Part, open_part
from tidegate.transfer.file.places import Places
from tidegate.transfer.file.state import KnownSource, TransferState
from tidegate.transfer.file.tuner import ConnectionTuner
from tidegate.transfer.outside import Outside
from tidegate.transfer.verify import algorithms_for, require_digests

SMALL_BYTES = 10 * 1000**2
"""Up to which size `small_limit` is the hard end of a transfer."""
EXPIRED_STATUS = (401, 403, 404, 410)
"""What origins answer to a link that is no longer good."""


@dataclass
class Fetch:
    """One transfer: the source's bytes that the part lacks, up to `until` (None: to the end)."""

    connect: Connect
    part: Part
    limits: TransferSettings
    observe: Observer
    stage: str = "download"
    until: int | None = None
    promised: set[Digest] = field(default_factory=set)
    """Digests that the whole file must have; those that the source sends along are added."""
    identity: Identity | None = None
    """What the origin asked says the source is, where that is another one than the part's."""
    blake3: Digest | None = None
    """The whole file's digest, once it is complete and checked."""
    distrust: Callable[[], None] = lambda: None
    """Told that the bytes of all places together were not what was promised."""
    tries: Retry | None = None
    """The budget of what this is a piece of; None: one of its own."""
    clock: Callable[[], float] = time.monotonic
    _seconds: float = 0.0
    _reused: int = 0
    _retries: int = 0

    def __post_init__(self) -> None:
        self._state = TransferState(
            connect=self.connect,
            part=self.part,
            source=KnownSource(self.identity or self.part.identity, self.promised),
            limits=self.limits,
            observe=self.observe,
            stage=self.stage,
            until=self.until,
            clock=self.clock,
            tuner=ConnectionTuner(self.limits.connections),
            follower=Follower(self.part) if self.until is None else None,
        )

    async def run(self) -> TransferStats:
        """Receive until the part is complete, or reaches `until`.

        Raises:
            LimitReached: a limit that somebody set.
            TidegateError: the last try's failure, when the budget of tries is spent or the failure allows none.
        """
        state = self._state
        state.counts.started = self.clock()
        state.require_small_enough(state.source.size_bytes or 0)
        self._reused = self.part.received_bytes
        retry = self.tries or Retry(self.limits, self.observe, self.stage)
        retry.begin_at(self._reused)

        async def one_try() -> None:
            try:
                await self._try()
            finally:
                retry.note_progress(self.part.received_bytes)
                state.counts.tries += 1

        try:
            with anyio.move_on_after(self._hard_end()) as hard:
                await retry.run(one_try)
        finally:
            self._retries, self._seconds = retry.retries, self.clock() - state.counts.started
        if hard.cancelled_caught:
            raise LimitReached(f"The transfer took longer than the {self._hard_end():g} s that it may")
        return self.stats

    @property
    def stats(self) -> TransferStats:
        """What it has cost until now."""
        return TransferStats(
            requests=self._state.counts.requests,
            retries=self._retries,
            bytes_received=self._state.counts.bytes_received,
            bytes_reused=self._reused,
            seconds=self._seconds,
        )

    def _hard_end(self) -> float | None:
        size, limits = self._state.source.size_bytes, self.limits
        ends = [limits.limit, limits.small_limit if size is not None and size < SMALL_BYTES else None]
        return min((end.total_seconds() for end in ends if end is not None), default=None)

    async def _try(self) -> None:
        if not self._is_done():
            await ParallelTry(self._state).run()
        # A look verifies what it has seen whole; what an earlier run left complete is the download's to read.
        if self.part.complete and (self.until is None or self.part.prefix_bytes <= self.until):
            await self._verify()

    def _is_done(self) -> bool:
        reached = self.until is not None and self.part.prefix_bytes >= self.until
        return self.part.complete or reached

    async def _verify(self) -> None:
        promised = frozenset(self.promised)
        follower = self._state.follower or Follower(self.part)
        try:
            found = await in_thread(follower.digests, algorithms_for(promised))
            require_digests(found, promised)
        except WrongDigest:
            self.distrust()
            await in_thread(self.part.restart)
            raise
        self.blake3 = found["blake3"]

    async def tail(self, start: int) -> bytes | None:
        """The bytes from `start` to the end, in memory; None when the source does not serve them.

        A hint only, so never retried. What it costs counts as this transfer's.
        """
        known = self._state.source.identity
        if not known.ranges or known.size_bytes is None:
            return None
        exchange = self.connect()
        try:
            with anyio.fail_after(self.limits.request_timeout.total_seconds()):
                return await self._tail(exchange, start, known.size_bytes)
        except TimeoutError:
            return None
        except TidegateError as error:
            if error.policy.identifies_again:
                raise
            return None
        finally:
            self._state.counts.requests += exchange.requests

    async def _tail(self, exchange: Exchange, start: int, end: int) -> bytes | None:
        async with exchange.open(start, end, self._state.source.identity) as body:
            if body.start != start:
                return None
            return await read_in_thread(exchange.abort, self._read_at_most, body, end - start)

    def _read_at_most(self, body: Body, most: int) -> bytes:
        """The body's bytes, no more than `most` of them: a length is announced, and need not be kept."""
        taken = memoryview(bytearray(most))
        filled = 0
        while filled < most and (count := body.readinto(taken[filled:])):
            filled += count
            body.report_bytes(filled)
            self._state.counts.bytes_received += count
        return bytes(taken[:filled])


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
            fetch = await self._with_fresh_link(source, part, origin_identity)
            assert fetch.blake3 is not None  # noqa: S101  # it is set wherever `run` returns without `until`
            checked = frozenset(fetch.promised)
            return FetchedFile(part.path, self.stats, fetch.blake3, checked, part.end_is_certain)

    async def _with_fresh_link(self, source: Source, part: Part, origin_identity: Identity | None) -> Fetch:
        """From this link; once from a fresh one, where this one has expired."""
        try:
            return await self._over_places(source, part, origin_identity)
        except TidegateError as refused:
            if refused.policy.link not in (Link.GONE, Link.REFUSED):
                raise
            fresh = await self._renew_link(source, part, refused)
            return await self._over_places(fresh, part, await self._identify_same(fresh, part, refused))

    async def _over_places(self, source: Source, part: Part, origin_identity: Identity | None) -> Fetch:
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
    ) -> Fetch:
        """What the part lacks, through as many tries as that may take; what it costs is counted."""
        fetch = Fetch(
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
            await fetch.run()
        finally:
            self.stats += fetch.stats
        return fetch

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

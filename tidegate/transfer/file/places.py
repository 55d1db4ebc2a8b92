"""One file from several places at once: its own origin, and mirrors that are shown to hold the same bytes.

`fetch_file` hands it to the fetch loop in place of a single source; each connection then goes to the place that has
failed least and is least busy. A mirror is asked what it has before its first byte is taken, and a digest of the whole
proves the mixture. Nothing is kept over a crash: the part does not say where its bytes came from.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from tidegate.errors import TidegateError
from tidegate.events import Note, Observer
from tidegate.model import Digest, Identity
from tidegate.redact import redact_url
from tidegate.transfer.file.exchange import Body, Connect, Exchange
from tidegate.transfer.file.mirrors import MOST_MIRRORS, proven_same


@dataclass(eq=False)
class Place:
    """Where the bytes are to be had."""

    connect: Connect
    shown: str = ""
    """Its link as it may be told; empty for the source itself."""
    identity: Identity | None = None
    """What a mirror says that it has, once it was asked."""
    busy: int = 0
    failures: int = 0
    """In a row."""
    unfit: bool = False


@dataclass
class Places:
    """A `Connect` over all places."""

    own: Connect
    mirror: Callable[[str], Connect]
    links: Callable[[], Iterable[str]]
    """Mirrors known by now; the source's own answers may name more of them."""
    promised: set[Digest]
    """Digests that the whole must have, known by now. Without one no mirror is asked."""
    observe: Observer
    trusted: bool = True
    """Whether mirrors are used at all."""
    mixed: bool = False
    """Whether a mirror has given bytes."""
    _mirrors: dict[str, Place] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._own = Place(self.own)

    def __call__(self) -> Exchange:
        return _PlaceExchange(self)

    def distrust(self) -> None:
        """The mixture was wrong: from now on the source itself is asked, alone."""
        if self.mixed and self.trusted:
            self.observe(Note("What the mirrors gave does not fit; they are not asked any more", "warning"))
        self.trusted = False

    def in_order(self, source: Identity) -> list[Place]:
        """Whom to ask first; the source itself is always among them."""
        if self.trusted and (source.digests or self.promised):
            for url in list(self.links())[:MOST_MIRRORS]:
                if url not in self._mirrors:
                    self._mirrors[url] = Place(self.mirror(url), redact_url(url))
        mirrors = [place for place in self._mirrors.values() if self.trusted and not place.unfit]
        return sorted([self._own, *mirrors], key=lambda place: (place.failures, place.busy))

    def exclude(self, place: Place, why: str) -> None:
        place.unfit = True
        self.observe(Note(f"The mirror {place.shown} is not used: {why}", "warning"))


OpenRange = Callable[[Exchange, Identity], AbstractAsyncContextManager[Body]]
"""Asks an exchange for the wanted bytes of a source that is what the identity says."""


class _PlaceExchange:
    """An `Exchange`: one conversation, with whichever place is chosen when it begins."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._exchanges: list[Exchange] = []
        self._aborted = False
        self.last_identity: Identity | None = None

    @property
    def requests(self) -> int:
        return sum(exchange.requests for exchange in self._exchanges)

    async def identify(self, *, retry: bool = False) -> Identity:
        return await self._start_exchange(self._places.own).identify(retry=retry)

    @contextlib.asynccontextmanager
    async def open(
        self, start: int, stop: int | None, expected: Identity, *, conditional: bool = True, retry: bool = False
    ) -> AsyncIterator[Body]:
        """Read at the best place. What is wrong with a mirror is never this call's failure: another place is asked."""

        def ask(exchange: Exchange, identity: Identity) -> AbstractAsyncContextManager[Body]:
            return exchange.open(start, stop, identity, conditional=conditional, retry=retry)

        async with contextlib.AsyncExitStack() as stack:
            place, body = await self._open_best(stack, expected, ask, retry=retry)
            try:
                yield body
            except TidegateError:
                place.failures += 1
                raise
            place.failures = 0

    async def _open_best(
        self, stack: contextlib.AsyncExitStack, source: Identity, ask: OpenRange, *, retry: bool
    ) -> tuple[Place, Body]:
        """The first place that answers with what is wanted; it is busy until the stack is closed."""
        for place in self._places.in_order(source):
            place.busy += 1
            stack.callback(_release, place)
            try:
                body = await self._open_at(stack, place, source, ask, retry=retry)
            except TidegateError as error:
                place.failures += 1
                if not place.shown:
                    raise
                self._places.exclude(place, error.message)
                continue
            if body is not None:
                return place, body
        raise AssertionError("unreachable: the source itself gives a body, or has raised")

    async def _open_at(
        self, stack: contextlib.AsyncExitStack, place: Place, source: Identity, ask: OpenRange, *, retry: bool
    ) -> Body | None:
        """The answer of this place; None where a mirror has something else than the source."""
        exchange = self._start_exchange(place.connect)
        if not place.shown:
            try:
                return await stack.enter_async_context(ask(exchange, source))
            finally:
                self.last_identity = exchange.last_identity
        place.identity = place.identity or await exchange.identify(retry=retry)
        if not (place.identity.ranges and proven_same(source, place.identity, frozenset(self._places.promised))):
            self._places.exclude(place, "it has another file, or no ranges")
            return None
        body = await stack.enter_async_context(ask(exchange, place.identity))
        self._places.mixed = True
        body.identity = source
        return body

    def abort(self) -> None:
        self._aborted = True
        for exchange in self._exchanges:
            exchange.abort()

    def _start_exchange(self, connect: Connect) -> Exchange:
        exchange = connect()
        self._exchanges.append(exchange)
        if self._aborted:
            exchange.abort()
        return exchange


def _release(place: Place) -> None:
    place.busy -= 1

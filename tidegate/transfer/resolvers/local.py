"""A media file on this host, read with the same care as a remote one.

The stages ask it for every path and file: link. Its size, times and inode are its validator: a file that is replaced,
cut or still growing while it is read is noticed and never spliced. The source is opened for reading only and never
linked into the store. What was copied lies in a part with its journal, and the next run goes on from there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

from anyio import to_thread

from tidegate.durable.roots import Roots
from tidegate.errors import ConnectionFailed, NotFound, NotMedia, SourceChanged, UnsupportedSource, from_os_error
from tidegate.model import Identity, Source, TransferStats
from tidegate.transfer.file import fetch
from tidegate.transfer.file.part import open_part
from tidegate.transfer.file.peek import peek
from tidegate.transfer.file.transfer import Transfer
from tidegate.transfer.outside import Outside
from tidegate.transfer.paths import local_path, printable
from tidegate.transfer.resolvers.base import MAIN_TRACK, WHOLE_FILE, FetchRequest, FetchResult, Offer
from tidegate.transfer.verify import IsPlaylist

_NOTHING_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})
"""A folder on the way that is none, links that lead round, and a socket are no file either."""


class LocalResolver:
    """A `Resolver` for files on this host."""

    name = "local"

    def handles(self, source: Source) -> bool:
        return source.scheme == "file"

    def recognises(self, identity: Identity) -> bool:
        return False

    async def identify(self, outside: Outside, source: Source) -> tuple[Identity, TransferStats]:
        return await fetch.identify(lambda: LocalExchange(source, outside.roots), outside.limits, outside.observe)

    async def offer(
        self, outside: Outside, source: Source, identity: Identity, scratch: Callable[[str], Path]
    ) -> Offer:
        """One file. What a playlist on disk names is never read: it would lead to any other file."""
        connect = partial(LocalExchange, source, outside.roots)
        try:
            look = await peek(outside, connect, scratch(WHOLE_FILE.id), identity)
        except IsPlaylist as playlist:
            raise UnsupportedSource(f"{playlist.message}; a playlist is read from its http(s) link") from playlist
        return Offer((WHOLE_FILE,), look.preview, cost=look.cost)

    async def fetch(self, outside: Outside, source: Source, what: FetchRequest) -> FetchResult:
        # One reader: several only make a disk seek.
        limits, observe = outside.limits.model_copy(update={"connections": 1}), outside.observe
        async with open_part(what.folder, what.identity, limits, observe, trust=outside.trust) as part:
            fetch.require_space(part)
            connect = partial(LocalExchange, source, outside.roots)
            copying = Transfer(connect, part, limits, observe, promised=set(what.promised))
            stats = await copying.run()
            return FetchResult(
                tracks={MAIN_TRACK: (part.path,)},
                stats=stats,
                known={MAIN_TRACK: copying.blake3} if copying.blake3 else {},
                checked=frozenset(copying.promised),
                end_is_certain=part.end_is_certain,
            )


class LocalExchange:
    """An `Exchange` with the file system."""

    last_identity = None

    def __init__(self, source: Source, roots: Roots | None = None) -> None:
        self._roots = roots
        self._url = source.redacted
        self._path = local_path(source.url.get_secret_value())
        self._aborted = threading.Event()
        self.requests = 0

    async def identify(self, *, retry: bool = False) -> Identity:
        return await to_thread.run_sync(self._identify_now)

    @contextlib.asynccontextmanager
    async def open(
        self, start: int, stop: int | None, expected: Identity, *, conditional: bool = True, retry: bool = False
    ) -> AsyncIterator[LocalBody]:
        body = await to_thread.run_sync(self._body, start, expected)
        try:
            yield body
        finally:
            body.close()

    def _identify_now(self) -> Identity:
        handle = self._open()
        try:
            identity = self._identity(os.fstat(handle))
        finally:
            os.close(handle)
        if identity.size_bytes == 0:
            raise NotMedia("The source is empty")
        return identity

    def _body(self, start: int, expected: Identity) -> LocalBody:
        handle = self._open()
        identity = self._identity(os.fstat(handle))
        if not expected.same_content_as(identity):
            os.close(handle)
            raise SourceChanged("The file has changed since it was identified")
        return LocalBody(handle, start, identity, self, self._path)

    def abort(self) -> None:
        self._aborted.set()

    @property
    def aborted(self) -> bool:
        return self._aborted.is_set()

    def recheck(self, handle: int, before: Identity) -> None:
        """At the end of a read: the file must still be what it was at its beginning."""
        if self._identity(os.fstat(handle)) != before:
            raise SourceChanged("The file changed while it was read")

    def _open(self) -> int:
        """A handle of the file, which may be read: judged again now that nobody can put another in its place."""
        self.requests += 1
        if self._roots is not None:
            self._roots.require_readable(self._path)
        handle = self._open_path()
        try:
            if self._roots is not None:
                self._roots.require_same(handle, self._path)
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise NotMedia(f"{printable(self._path)} is not a regular file")
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _open_path(self) -> int:
        try:
            # O_NONBLOCK: opening a FIFO must not wait for a writer that may never come.
            return os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _NOTHING_THERE:
                raise NotFound(f"There is no file {printable(self._path)}") from error
            raise from_os_error(error, "opening the source", self._path) from error

    def _identity(self, seen: os.stat_result) -> Identity:
        return Identity(
            url=self._url,
            name=printable(self._path.name),
            size_bytes=seen.st_size,
            # The change time too: `rsync --inplace -t` writes other bytes and sets the modification time back.
            last_modified=f"{seen.st_mtime_ns}/{seen.st_ctime_ns}/{seen.st_ino}",
            ranges=True,
        )


class LocalBody:
    """A `Body` read from a file."""

    end_is_certain = False
    """A file on disk says nothing about how long it was meant to be."""
    partial = True

    def __init__(self, handle: int, start: int, identity: Identity, exchange: LocalExchange, path: Path) -> None:
        self._path = path
        self._handle = handle
        self._exchange = exchange
        self._position = start
        self.start = start
        self.identity = identity
        self.total_bytes = identity.size_bytes

    @property
    def waited_seconds(self) -> float:
        return 0.0

    def readinto(self, buffer: memoryview) -> int:
        if self._exchange.aborted:
            raise ConnectionFailed("The read was given up")
        try:
            count = os.preadv(self._handle, [buffer], self._position)
        except OSError as error:
            raise from_os_error(error, "reading the source", self._path) from error
        if count == 0:
            self._exchange.recheck(self._handle, self.identity)
        self._position += count
        return count

    def report_bytes(self, bytes_so_far: int) -> None:
        """A file has no gate."""

    def close(self) -> None:
        os.close(self._handle)

"""A media file on this host, read with the same care as a remote one.

Its size, times and inode are its validator: a file that is replaced, cut or still growing while it is
read is noticed and never spliced. The source is opened for reading only and never linked into the store.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self
from urllib.parse import unquote_to_bytes, urlsplit

from tidegate.errors import ConnectionFailed, NotFound, NotMedia, SourceChanged, from_os_error
from tidegate.model import Identity, Rendition, Source
from tidegate.settings import TransferSettings
from tidegate.transfer.resolvers.base import WHOLE_FILE

CHUNK_BYTES = 1024 * 1024


class LocalResolver:
    """See `Resolver`."""

    name = "local"

    def handles(self, source: Source) -> bool:
        return source.scheme == "file"

    def exchange(self, source: Source, limits: TransferSettings) -> LocalExchange:
        return LocalExchange(source)

    def renditions(self, identity: Identity) -> tuple[Rendition, ...]:
        return (WHOLE_FILE,)


class LocalExchange:
    """See `Exchange`."""

    def __init__(self, source: Source) -> None:
        self._url = source.redacted
        self._path = local_path(source.url.get_secret_value())
        self._aborted = threading.Event()
        self.requests = 0

    def identify(self) -> Identity:
        handle = self._open()
        try:
            identity = self._identity(os.fstat(handle))
        finally:
            os.close(handle)
        if identity.size_bytes == 0:
            raise NotMedia("The source is empty")
        return identity

    def open(self, start: int, stop: int | None, expected: Identity, *, conditional: bool = True) -> LocalBody:
        handle = self._open()
        identity = self._identity(os.fstat(handle))
        if not expected.same_content_as(identity):
            os.close(handle)
            raise SourceChanged("The file has changed since it was identified")
        return LocalBody(handle, start, identity, self)

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
        self.requests += 1
        try:
            # O_NONBLOCK: opening a FIFO must not wait for a writer that may never come.
            return os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotFound(f"There is no file {printable(self._path)}") from error
        except OSError as error:
            error.filename = printable(self._path)
            raise from_os_error(error, "opening the source") from error

    def _identity(self, stat: os.stat_result) -> Identity:
        return Identity(
            url=self._url,
            name=printable(self._path.name),
            size_bytes=stat.st_size,
            # The change time too: `rsync --inplace -t` writes other bytes and sets the modification time back.
            last_modified=f"{stat.st_mtime_ns}/{stat.st_ctime_ns}/{stat.st_ino}",
            ranges=True,
        )


class LocalBody:
    """See `Body`."""

    end_is_certain = False
    """A file on disk says nothing about how long it was meant to be."""

    def __init__(self, handle: int, start: int, identity: Identity, exchange: LocalExchange) -> None:
        self._handle = handle
        self._exchange = exchange
        self.start = start
        self.identity = identity
        self.total_bytes = identity.size_bytes

    def __iter__(self) -> Iterator[bytes]:
        position = self.start
        while chunk := self._read(position):
            yield chunk
            position += len(chunk)
        self._exchange.recheck(self._handle, self.identity)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def _read(self, position: int) -> bytes:
        if self._exchange.aborted:
            raise ConnectionFailed("The read was given up")
        try:
            return os.pread(self._handle, CHUNK_BYTES, position)
        except OSError as error:
            raise from_os_error(error, "reading the source") from error


def local_path(url: str) -> Path:
    """The path that a `file://` URL names, whose bytes need not be UTF-8."""
    return Path(os.fsdecode(unquote_to_bytes(os.fsencode(urlsplit(url).path))))


def printable(path: Path | str) -> str:
    """A path as JSON and a terminal can take it; bytes that are no UTF-8 are replaced."""
    return os.fsencode(path).decode(errors="replace")

"""What an origin serves: bytes, a file or synthetic data, and what the headers say about it.

`tests.support.origin` asks for a `Representation` per request; a changed file is another generation of the
same content. Nothing here is ever whole in memory except bytes that the caller already holds.
"""

import hashlib
import mimetypes
import os
import random
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from pathlib import Path
from typing import Literal

from tests.support.story import Story

Read = Callable[[int, int], bytes | memoryview]
"""Takes an offset and a length, gives those bytes."""

BLOCK_BYTES = 256 * 1024
STAMP_BYTES = 16
POOL_BYTES = 1024 * 1024
EPOCH_SECONDS = 1_767_225_600  # 2026-01-01, so that the date of bytes in memory is the same in every run
INVERTED = bytes(255 - value for value in range(256))
MEDIA_TYPES = {
    ".mkv": "video/x-matroska",
    ".ts": "video/mp2t",
    ".m4a": "audio/mp4",
    ".m3u8": "application/vnd.apple.mpegurl",
    ".webm": "video/webm",
}


@dataclass(frozen=True, slots=True)
class Synthetic:
    """Deterministic pseudo-random bytes of any size, of which only the block asked for exists.

    Every 64 KiB page starts with a stamp of its own and goes on with a window into one pool of noise at a
    place the stamp decides: a splice at a wrong offset is seen, and a page costs a copy instead of a
    generator.
    """

    size: int
    seed: int = 0

    PAGE_BYTES = 64 * 1024

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from this offset, fewer at the end."""
        length = max(0, min(length, self.size - offset))
        first, last = offset // self.PAGE_BYTES, (offset + length - 1) // self.PAGE_BYTES
        pages = b"".join(self._page(number) for number in range(first, last + 1))
        start = offset - first * self.PAGE_BYTES
        return pages[start : start + length]

    def blocks(self) -> Iterator[bytes]:
        """All bytes in order, block by block."""
        for offset in range(0, self.size, BLOCK_BYTES):
            yield self.read(offset, BLOCK_BYTES)

    def sha256(self) -> str:
        """Hexadecimal digest of the whole."""
        return _digest(self, _examine(self), None).hex()

    def _page(self, number: int) -> bytes:
        stamp = hashlib.blake2b(f"{self.seed}:{number}".encode(), digest_size=STAMP_BYTES).digest()
        start = int.from_bytes(stamp[:4], "big") % POOL_BYTES
        return stamp + _pool(self.seed)[start : start + self.PAGE_BYTES - STAMP_BYTES]


@lru_cache(maxsize=4)
def _pool(seed: int) -> bytes:
    return random.Random(seed).randbytes(POOL_BYTES + Synthetic.PAGE_BYTES)


Content = bytes | Path | Synthetic


@dataclass(frozen=True)
class Resource:
    """One file of an origin: its content, its story and what its headers admit."""

    content: Content
    story: str | Story = "ok"
    etag: str | None = "strong"
    """`strong` and `weak` are made from the content, `token` is another one in each answer; None sends none; other
    text is sent in quotes."""
    last_modified: bool = True
    repr_digest: Literal["sha-256"] | None = None
    """RFC 9530 `Repr-Digest`; hashing a large file takes its time at the first request."""
    digest: Literal["sha-256", "md5", "content-md5", "of the part"] | None = None
    """The older `Digest: SHA-256=…` or `Digest: MD5=…` of RFC 3230, or `Content-MD5`: of the whole file. `of the part`
    is a SHA-256 of what the answer holds, as many servers take RFC 3230 to mean."""
    content_type: str | None = None
    """None guesses by name."""
    replacement: Content | None = None
    """What `change` makes of it, for ever; None: other bytes of the same size, each time."""
    accept_ranges: Literal["bytes", "none"] | None = "bytes"
    """`none` says so and ignores Range; None sends no header but honours Range."""


@dataclass(frozen=True)
class Representation:
    """One generation of a resource, examined once, so that all headers of an answer agree."""

    name: str
    resource: Resource
    generation: int = 0
    examined: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "examined", _examine(self.content))

    @property
    def content(self) -> Content:
        """What is read, before a change that has no replacement is made to it."""
        replaced = self.resource.replacement if self.generation else None
        return self.resource.content if replaced is None else replaced

    @property
    def table(self) -> bytes | None:
        """How a change alters each byte."""
        return None if self.resource.replacement is not None else _table(self.generation)

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.examined[0]

    @property
    def etag(self) -> str | None:
        """The entity tag with its quotes."""
        kind = self.resource.etag
        if kind is None:
            return None
        if kind == "token":
            return f'"{secrets.token_hex(8)}"'
        if kind in ("strong", "weak"):
            return ("W/" if kind == "weak" else "") + f'"{_fingerprint(self.content, self.examined)}-{self.generation}"'
        return f'"{kind}"' if not self.generation else f'"{kind}-{self.generation}"'

    @property
    def last_modified(self) -> str | None:
        """The date as an HTTP header; each generation is an hour younger than the one before."""
        if not self.resource.last_modified:
            return None
        seconds = self.examined[1] // 10**9 or EPOCH_SECONDS
        return formatdate(seconds + 3600 * self.generation, usegmt=True)

    @property
    def content_type(self) -> str:
        """As told, or by name."""
        suffix = Path(self.name).suffix.lower()
        guess = MEDIA_TYPES.get(suffix) or mimetypes.guess_type(self.name)[0]
        return self.resource.content_type or guess or "application/octet-stream"

    def sha256(self) -> bytes:
        """Digest of the whole file in this generation."""
        return self.hashed("sha256")

    def hashed(self, algorithm: str) -> bytes:
        """The same with another algorithm of hashlib's."""
        return _digest(self.content, self.examined, self.table, algorithm)

    @contextmanager
    def reader(self) -> Iterator[Read]:
        """Gives a function that reads this generation; holds the file open meanwhile."""
        with _reader(self.content) as read:
            yield _translated(read, self.table) if self.table else read


def _translated(read: Read, table: bytes) -> Read:
    return lambda offset, length: bytes(read(offset, length)).translate(table)


@lru_cache(maxsize=64)
def _fingerprint(content: Content, examined: tuple[int, int]) -> str:
    known = content if isinstance(content, bytes) else repr((content, examined)).encode()
    return hashlib.blake2b(known, digest_size=8).hexdigest()


def _table(generation: int) -> bytes | None:
    # Inversion alone would bring the first file back at the second change, so each generation also shifts the
    # values.
    if generation == 0:
        return None
    return bytes((value + generation) % 256 for value in INVERTED)


def _examine(content: Content) -> tuple[int, int]:
    if isinstance(content, Path):
        known = content.stat()
        return known.st_size, known.st_mtime_ns
    return (content.size if isinstance(content, Synthetic) else len(content)), 0


@contextmanager
def _reader(content: Content) -> Iterator[Read]:
    if isinstance(content, Synthetic):
        yield content.read
    elif isinstance(content, Path):
        with content.open("rb") as file:
            yield lambda offset, length: os.pread(file.fileno(), length, offset)
    else:
        view = memoryview(content)
        yield lambda offset, length: view[offset : offset + length]


@lru_cache(maxsize=16)
def _digest(content: Content, examined: tuple[int, ...], table: bytes | None, algorithm: str = "sha256") -> bytes:
    size = _examine(content)[0]
    digest = hashlib.new(algorithm)
    with _reader(content) as read:
        for offset in range(0, size, BLOCK_BYTES):
            block = read(offset, BLOCK_BYTES)
            digest.update(block if table is None else bytes(block).translate(table))
    return digest.digest()

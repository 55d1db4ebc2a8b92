"""Where the bytes of one segment go: decrypted and hashed on their way into a file of their own.

The segment engine makes one for each try and hands it to `ask.receive`, which writes from a worker thread. What is in
the file counts only once it is in the track's journal; whatever a crash leaves is overwritten.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7, PaddingContext

from tidegate.errors import from_os_error
from tidegate.model import Digest
from tidegate.transfer.playlists.media import Key
from tidegate.transfer.playlists.plausible import SegmentKind, flaw_in, segment_kind_of

CIPHER_BLOCK_BYTES = 16
COPY_BYTES = 1024 * 1024
"""Of a file, how much is read at once."""


class SegmentSink:
    """A `Sink` for one segment: takes its bytes as they come. Close it after `flaw`, or when it is given up."""

    def __init__(self, path: Path, secret: bytes | None, key: Key | None, count: Callable[[int], None]) -> None:
        self._path = path
        self._secret = secret
        self._key = key
        self._count = count
        self._handle = -1
        self._head = b""
        self._cipher: CipherContext | None = None
        self._padding: PaddingContext | None = None
        self._begin()

    @property
    def handle(self) -> int:
        """Of the open file; -1 before the first `restart`."""
        return self._handle

    @property
    def digest(self) -> Digest:
        """Of what is in the file."""
        return f"blake3:{self._hasher.hexdigest()}"

    @property
    def kind(self) -> SegmentKind:
        return segment_kind_of(self._head)

    def restart(self) -> None:
        try:
            if self._handle < 0:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            os.ftruncate(self._handle, 0)
            os.lseek(self._handle, 0, os.SEEK_SET)
        except OSError as error:
            raise from_os_error(error, "writing a segment", self._path) from error
        self._begin()

    def write(self, block: memoryview, /) -> None:
        self._count(len(block))
        self.received_bytes += len(block)
        if self._cipher is not None and self._padding is not None:
            self._store(self._padding.update(self._cipher.update(block)))
        else:
            self._store(block)

    def flaw(self, *, length_known: bool) -> str | None:
        """Why this is no segment; None when it may be one. Everything was written."""
        if self.received_bytes == 0:
            return "it is empty"
        if (broken := self._flaw_of_cipher()) is not None:
            return broken
        with os.fdopen(os.dup(self._handle), "rb") as file:
            return flaw_in(file, self.size_bytes, encrypted=self._key is not None, length_known=length_known)

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _begin(self) -> None:
        self.received_bytes = self.size_bytes = 0
        self._hasher = blake3()
        self._head = b""
        if self._secret is not None and self._key is not None:
            self._cipher = Cipher(AES(self._secret), CBC(self._key.iv)).decryptor()
            self._padding = PKCS7(8 * CIPHER_BLOCK_BYTES).unpadder()

    def _store(self, block: bytes | memoryview) -> None:
        self._hasher.update(block)
        if len(self._head) < 512:
            self._head += bytes(block[:512])
        view = memoryview(block)
        try:
            while view:
                written = os.write(self._handle, view)
                self.size_bytes += written
                view = view[written:]
        except OSError as error:
            raise from_os_error(error, "writing a segment", self._path) from error

    def _flaw_of_cipher(self) -> str | None:
        if self._cipher is None or self._padding is None:
            return None
        if self.received_bytes % CIPHER_BLOCK_BYTES:
            return "it ends inside a block of its cipher"
        try:
            self._store(self._padding.update(self._cipher.finalize()) + self._padding.finalize())
        except ValueError:  # the padding is none: another key, another vector, or no cipher text at all
            return "it does not decrypt with its key"
        return None

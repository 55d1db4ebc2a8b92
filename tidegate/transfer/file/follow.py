"""Digests of a part while it grows: hashed along the prefix that has no hole, beside the transfer.

The thread that receives gives each block it has written, so that hashing finds it in the processor's cache: reading it
back costs as much as receiving it did. What it could not give (it came before its turn, or before a restart) the
journal thread reads from the part between checkpoints, so that a large file is not read a second time from a cold disk
when its last byte has come. After a crash hashing begins again with the first byte.
"""

from __future__ import annotations

import threading

from tidegate.durable.hashing import Hashing
from tidegate.durable.threads import check_cancellation
from tidegate.model import Digest
from tidegate.transfer.file.part import Part

DIGEST_BLOCK_BYTES = 512 * 1024
"""How much is read back and hashed at once."""
NEAR_BYTES = 4 * DIGEST_BLOCK_BYTES
"""How far hashing may be behind for the receiving thread to make up for it. Farther, it would hold up the line."""
QUICK = frozenset({"blake3"})
"""What is hashed several times as fast as it comes. A core does 4 GB/s of BLAKE3, but 0.2 of SHA-256."""


class Follower:
    """Digests of one part."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._hashing = Hashing(frozenset())
        self._at = 0
        self._generation = -1
        self._buffer = memoryview(bytearray(DIGEST_BLOCK_BYTES))
        self._lock = threading.Lock()

    def take(self, position: int, block: memoryview, algorithms: frozenset[str]) -> None:
        """Hash a block that was just written at `position`, if that is quick: when all before it is hashed, or nearly.

        From any thread. Never waits for another one that hashes.
        """
        if algorithms != QUICK or not self._lock.acquire(blocking=False):
            return
        try:
            self._begin_again_if_other(algorithms)
            behind = position - self._at
            if not 0 <= behind <= NEAR_BYTES or self._part.prefix_bytes < position + len(block):
                return
            while self._at < position and self._follow(position):
                pass
            if self._at == position and self._generation == self._part.generation:
                self._hashing.update(block)
                self._at += len(block)
        finally:
            self._lock.release()

    def follow(self, algorithms: frozenset[str]) -> int:
        """Hash the next block of what nobody gives; tells how many bytes that was. Blocking."""
        near = NEAR_BYTES if algorithms == QUICK else 0
        with self._lock:
            self._begin_again_if_other(algorithms)
            prefix = self._part.prefix_bytes
            return self._follow(prefix) if prefix - self._at > near else 0

    def digests(self, algorithms: frozenset[str]) -> dict[str, Digest]:
        """Of all that is there, which must not grow any more. Blocking, for what was not hashed yet."""
        with self._lock:
            self._begin_again_if_other(algorithms)
            while self._follow(self._part.prefix_bytes):
                check_cancellation()
            return self._hashing.digests()

    def _follow(self, end: int) -> int:
        """Hash the next block before `end` from the disk, or what the system still holds of it."""
        wanted = min(end - self._at, DIGEST_BLOCK_BYTES)
        if wanted <= 0:
            return 0
        count = self._part.readinto(self._at, self._buffer[:wanted])
        if self._generation == self._part.generation:
            self._hashing.update(self._buffer[:count])
            self._at += count
        return count

    def _begin_again_if_other(self, algorithms: frozenset[str]) -> None:
        if self._generation != self._part.generation or not algorithms <= self._hashing.algorithms:
            self._generation, self._at = self._part.generation, 0
            self._hashing = Hashing(algorithms)

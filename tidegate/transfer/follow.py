"""Digests of a part while it grows: hashed behind the prefix that has no hole, beside the transfer.

The fetch loop's keeper thread calls it between checkpoints, so that a large file is not read a second time from a cold
disk when its last byte has come. After a crash it begins again with the first byte.
"""

from __future__ import annotations

from tidegate.durable.hashing import Hashing
from tidegate.durable.threads import still_wanted
from tidegate.model import Digest
from tidegate.transfer.part import Part

BLOCK_BYTES = 512 * 1024


class Follower:
    """Digests of one part."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._hashing = Hashing(frozenset())
        self._at = 0
        self._generation = -1
        self._buffer = memoryview(bytearray(BLOCK_BYTES))

    def follow(self, algorithms: frozenset[str]) -> int:
        """Hash the next block of what is there, with these algorithms; gives how many bytes that was. Blocking."""
        self._begin_again_if_other(algorithms)
        wanted = min(self._part.prefix_bytes - self._at, BLOCK_BYTES)
        if wanted <= 0:
            return 0
        count = self._part.readinto(self._at, self._buffer[:wanted])
        if self._generation == self._part.generation:
            self._hashing.update(self._buffer[:count])
            self._at += count
        return count

    def digests(self, algorithms: frozenset[str]) -> dict[str, Digest]:
        """Of all that is there, which must not grow any more. Blocking, for what was not hashed yet."""
        while self.follow(algorithms):
            still_wanted()
        return self._hashing.digests()

    def _begin_again_if_other(self, algorithms: frozenset[str]) -> None:
        if self._generation != self._part.generation or not algorithms <= self._hashing.algorithms:
            self._generation, self._at = self._part.generation, 0
            self._hashing = Hashing(algorithms)

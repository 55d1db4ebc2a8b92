"""Digests of files, one pass for all algorithms asked for.

The store, the transfer's verification and publishing use it, always off the event loop. Reads only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from blake3 import blake3

from tidegate.durable.threads import check_cancellation
from tidegate.model import Digest

HASH_BLOCK_BYTES = 4 * 1024 * 1024


class _Hasher(Protocol):
    def update(self, data: bytes | memoryview, /) -> object: ...
    def hexdigest(self) -> str: ...


def digests_of(
    path: Path, algorithms: frozenset[str] = frozenset({"blake3"}), each_block: Callable[[], None] = lambda: None
) -> dict[str, Digest]:
    """`{"blake3": "blake3:…"}` for the whole file. `each_block` may raise to give up early (a cancelled run).

    Raises:
        ValueError: an algorithm that hashlib does not know.
        OSError: the file cannot be read.
    """
    hashing = Hashing(algorithms)
    buffer = bytearray(HASH_BLOCK_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            each_block()
            hashing.update(view[:count])
    return hashing.digests()


class Hashing:
    """Several algorithms over the same bytes, which come in order."""

    def __init__(self, algorithms: frozenset[str]) -> None:
        self._hashers: dict[str, _Hasher] = {name: _hasher(name) for name in algorithms}

    @property
    def algorithms(self) -> frozenset[str]:
        return frozenset(self._hashers)

    def update(self, block: memoryview) -> None:
        for hasher in self._hashers.values():
            hasher.update(block)

    def digests(self) -> dict[str, Digest]:
        """By algorithm."""
        return {name: f"{name}:{hasher.hexdigest()}" for name, hasher in self._hashers.items()}


def blake3_of(path: Path) -> Digest:
    """The address of a file's content. A thread whose run was cancelled gives up."""
    return digests_of(path, each_block=check_cancellation)["blake3"]


def algorithm_of(digest: Digest) -> str:
    """`sha256` of `sha256:e3b0…`."""
    return digest.partition(":")[0]


def _hasher(name: str) -> _Hasher:
    return blake3() if name == "blake3" else hashlib.new(name)

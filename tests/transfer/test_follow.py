"""The digest of a part is that of its bytes, whoever hashed them: the thread that wrote them, or the one behind it."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from tidegate.model import Identity
from tidegate.settings import TransferSettings
from tidegate.transfer.file.follow import NEAR_BYTES, QUICK, Follower
from tidegate.transfer.file.part import Part

SIZE = 3 * NEAR_BYTES + 4321
WHOLE = random.Random(5).randbytes(SIZE)
IDENTITY = Identity(url="http://origin/clip.mp4", name="clip.mp4", size_bytes=SIZE, etag='"one"', ranges=True)
SLOW = frozenset({"blake3", "sha256"})


@pytest.fixture
def part(tmp_path: Path) -> Iterator[Part]:
    made = Part.open(tmp_path, IDENTITY, TransferSettings())
    yield made
    made.close()


def digest(whole: bytes = WHOLE) -> str:
    return f"blake3:{blake3(whole).hexdigest()}"


def write(part: Part, follower: Follower, first: int, end: int, whole: bytes = WHOLE) -> None:
    part.write_at(first, memoryview(whole)[first:end])
    follower.take(first, memoryview(whole)[first:end], QUICK)


def test_what_is_given_in_its_turn_is_never_read_back(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    follower = Follower(part)
    monkeypatch.setattr(part, "readinto", lambda *_: pytest.fail("it read the part"))
    for first in range(0, SIZE, 100_000):
        write(part, follower, first, min(first + 100_000, SIZE))
        assert follower.follow(QUICK) == 0
    assert follower.digests(QUICK) == {"blake3": digest()}


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_blocks_and_hashers_makes_the_same_digest(part: Part, seed: int) -> None:
    rng, follower = random.Random(seed), Follower(part)
    cuts = sorted(rng.sample(range(1, SIZE), 12))
    blocks = list(zip([0, *cuts], [*cuts, SIZE], strict=True))
    at = rng.randrange(len(blocks))
    for first, end in [*blocks[at:], *blocks[:at]]:  # as two connections would bring them
        write(part, follower, first, end)
        if rng.random() < 0.3:
            follower.follow(rng.choice([QUICK, SLOW]))
    found = follower.digests(rng.choice([QUICK, SLOW]))
    assert found["blake3"] == digest()


def test_both_hashing_at_once_hash_each_byte_once(part: Part) -> None:
    follower, over = Follower(part), threading.Event()

    def behind() -> None:
        while not over.is_set():
            follower.follow(SLOW if part.prefix_bytes < NEAR_BYTES else QUICK)

    beside = threading.Thread(target=behind)
    beside.start()
    for first in range(0, SIZE, 10_000):
        write(part, follower, first, min(first + 10_000, SIZE))
    over.set()
    beside.join()
    assert follower.digests(QUICK)["blake3"] == digest()


def test_bytes_that_were_forgotten_are_in_no_digest(part: Part) -> None:
    follower, other = Follower(part), bytes(255 - byte for byte in WHOLE)
    write(part, follower, 0, 1_000_000, other)
    part.restart()
    for first in range(0, SIZE, 500_000):
        write(part, follower, first, min(first + 500_000, SIZE))
    assert follower.digests(QUICK) == {"blake3": digest()}


def test_a_slow_digest_does_not_hold_up_the_line(part: Part) -> None:
    follower = Follower(part)
    part.write_at(0, memoryview(WHOLE))
    follower.take(0, memoryview(WHOLE), SLOW)
    assert follower.follow(SLOW) > 0, "it was left to the one behind"
    assert set(follower.digests(SLOW)) == {"blake3", "sha256"}

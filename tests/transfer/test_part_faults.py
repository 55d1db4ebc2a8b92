"""No sequence of writes, checkpoints, crashes and damaged journals makes a part vouch for a byte that it does not hold.

A crash here is the hardest one, a power cut: what the last journal does not vouch for is noise afterwards.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.model import Identity
from tidegate.settings import TransferSettings
from tidegate.transfer.file.part import Part

SIZE = 1024
WHOLE = random.Random(7).randbytes(SIZE)
IDENTITY = Identity(url="http://origin/clip.mp4", name="clip.mp4", size_bytes=SIZE, etag='"one"', ranges=True)
OTHER = IDENTITY.model_copy(update={"etag": '"two"'})
LIMITS = TransferSettings()
EACH = {"one": (IDENTITY, WHOLE), "two": (OTHER, bytes(255 - byte for byte in WHOLE))}


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def assert_true(part: Part, whole: bytes) -> None:
    for span in part.spans.each:
        assert part.read(span.first, span.size) == whole[span.first : span.end]
    assert not part.complete or part.spans.prefix == SIZE


def cut_the_power(part: Part, noise: random.Random) -> None:
    """Everything that was not synced is noise, or was never there."""
    journal = part._read_journal()
    vouched = set() if journal is None else {byte for first, end in journal.received for byte in range(first, end)}
    part.close()
    held = bytearray(part.path.read_bytes())
    reach = max(vouched, default=-1) + 1
    for place in range(len(held)):
        if place not in vouched:
            held[place] = noise.randrange(256)
    part.path.write_bytes(held[: noise.choice([len(held), max(reach, len(held) // 2)])])


def damage(journal: Path, before: bytes | None, how: str) -> None:
    if how == "torn":
        journal.write_bytes(journal.read_bytes()[: len(journal.read_bytes()) // 2])
    elif how == "lost":
        journal.unlink()
    elif how == "one behind" and before is not None:
        journal.write_bytes(before)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_part_never_vouches_for_a_byte_that_it_does_not_hold(data: st.DataObject) -> None:
    noise = random.Random(data.draw(st.integers(0, 10**6)))
    with folder() as home:
        which, before = "one", None
        part = Part.open(home, IDENTITY, LIMITS)
        for _ in range(data.draw(st.integers(1, 15))):
            what = data.draw(st.sampled_from(["write", "write", "write", "checkpoint", "restart", "crash", "change"]))
            whole = EACH[which][1]
            if what == "write":
                first = data.draw(st.integers(0, SIZE - 1))
                end = min(SIZE, first + data.draw(st.integers(1, SIZE)))
                part.write_at(first, memoryview(whole)[first:end])
            elif what == "checkpoint":
                before = part._journal_path.read_bytes() if part._journal_path.exists() else None
                part.finish(end_is_certain=True) if part.spans.prefix == SIZE else part.checkpoint()
            elif what == "restart":
                part.restart()
                before = None  # it is durable before any other byte comes, so no older journal comes back after it
            else:
                cut_the_power(part, noise)
                if what == "change":
                    which = "two" if which == "one" else "one"
                    before = None
                elif part._journal_path.exists():
                    how = data.draw(st.sampled_from(["whole", "torn", "lost", "one behind"]))
                    damage(part._journal_path, before, how)
                part = Part.open(home, EACH[which][0], LIMITS)
            assert_true(part, EACH[which][1])
        part.close()


def test_what_is_written_while_the_disk_syncs_is_not_vouched_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Part.open(tmp_path, IDENTITY, LIMITS)
    part.write_at(0, memoryview(WHOLE)[:100])
    sync = os.fdatasync

    def slow_sync(handle: int) -> None:
        sync(handle)
        part.write_at(100, memoryview(WHOLE)[100:200])

    monkeypatch.setattr("tidegate.transfer.file.part.os.fdatasync", slow_sync)
    part.checkpoint()
    journal = part._read_journal()
    assert journal is not None and journal.received == ((0, 100),)
    assert (part.received_bytes, part.unjournaled_bytes) == (200, 100)
    part.close()

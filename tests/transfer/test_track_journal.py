"""The journal of segments: whatever happens to its bytes, it never promises what it did not say."""

from __future__ import annotations

import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.durable.lock import acquire
from tidegate.model import Gap
from tidegate.transfer.playlists.plausible import SegmentKind
from tidegate.transfer.segments.journal import JOURNAL, SEGMENTS, FinishedFile, HeldSegment, TrackJournal, WholeTrack

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TRUST = timedelta(hours=24)
BYTES = b"what a segment holds"


def open_journal(folder: Path, now: datetime = NOW, *contents: str) -> TrackJournal:
    (folder / SEGMENTS).mkdir(parents=True, exist_ok=True)
    journal = TrackJournal(folder, _handle=acquire(folder / JOURNAL))
    journal.take_up(contents or ("content",), TRUST, now)
    return journal


def held(number: int) -> HeldSegment:
    return HeldSegment(
        name=f"{number:010d}",
        fingerprint=f"of {number}",
        size_bytes=len(BYTES),
        digest="blake3:00",
        kind=SegmentKind.TS,
        number=number,
    )


def keep(journal: TrackJournal, *numbers: int) -> None:
    for number in numbers:
        handle = os.open(journal.path(f"{number:010d}"), os.O_RDWR | os.O_CREAT)
        os.pwrite(handle, BYTES, 0)
        journal.keep([(held(number), handle)])
        os.close(handle)


def filled(folder: Path, count: int) -> None:
    journal = open_journal(folder)
    keep(journal, *range(count))
    journal.close()


def numbers(folder: Path, now: datetime = NOW, *contents: str) -> list[int]:
    journal = open_journal(folder, now, *contents)
    journal.close()
    return sorted(journal.numbers)


def test_what_was_kept_is_there_in_the_next_run(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    assert numbers(tmp_path) == [0, 1, 2]


def test_a_segment_whose_file_is_gone_or_short_is_not(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    (tmp_path / SEGMENTS / "0000000000.seg").unlink()
    (tmp_path / SEGMENTS / "0000000001.seg").write_bytes(BYTES[:-1])
    assert numbers(tmp_path) == [2]


def test_another_playlist_or_too_old_a_journal_begins_anew(tmp_path: Path) -> None:
    for place, (now, content) in enumerate(
        [(NOW, "another"), (NOW + TRUST * 1.01, "content"), (NOW - TRUST, "content")]
    ):
        folder = tmp_path / str(place)
        filled(folder, 3)
        assert numbers(folder, now, content) == []
        assert list((folder / SEGMENTS).iterdir()) == []
    filled(tmp_path / "same", 3)
    assert numbers(tmp_path / "same", NOW + TRUST, "fresh", "content") == [0, 1, 2]


def test_what_is_forgotten_stays_forgotten(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    journal = open_journal(tmp_path)
    journal.forget(["0000000001"])
    journal.close()
    assert numbers(tmp_path) == [0, 2]


def test_a_finished_track_is_believed_while_its_files_are_what_they_were(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    (tmp_path / "source.ts").write_bytes(BYTES)
    digest = "blake3:9c4a1d0a5c8d0c6a"
    gaps = (Gap(start_seconds=1, end_seconds=2, why="x"),)
    journal.finish(WholeTrack(files=(FinishedFile(name="source.ts", size_bytes=len(BYTES), digest=digest),), gaps=gaps))
    journal.close()
    again = open_journal(tmp_path)
    again.close()
    assert again.whole is not None and again.whole.gaps == gaps
    assert not again.stands(), "the digest is another"


@given(harm=st.lists(st.tuples(st.sampled_from(["cut", "flip", "repeat"]), st.floats(0, 1)), min_size=1, max_size=6))
@settings(max_examples=150, deadline=None)
def test_no_harm_to_the_journal_makes_it_promise_what_it_did_not_say(harm: list[tuple[str, float]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        filled(folder, 5)
        journal = folder / JOURNAL
        content = bytearray(journal.read_bytes())
        for kind, share in harm:
            place = min(int(share * len(content)), max(0, len(content) - 1))
            if kind == "cut":
                del content[place:]
            elif kind == "flip" and content:
                content[place] ^= 0x55
            else:
                content += content[place:]
        journal.write_bytes(content)
        journal = open_journal(folder)
        assert all(journal.held[name] == held(int(name)) for name in journal.held)
        keep(journal, 7)
        journal.close()
        assert 7 in numbers(folder), "what is kept after the harm is found"

"""What decides how segments are put together: their packing, their timestamps, their captions."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import pytest

from tests.support.ladders import cut
from tidegate.transfer.playlists.captions import merge_captions
from tidegate.transfer.playlists.plausible import MOST_BOXES, SegmentKind, flaw_in, segment_kind_of
from tidegate.transfer.playlists.timing import continues, edges_of


def flaw(content: bytes, *, encrypted: bool = False, length_known: bool = True) -> str | None:
    return flaw_in(io.BytesIO(content), len(content), encrypted=encrypted, length_known=length_known)


@pytest.mark.parametrize("packing", ["ts", "mp4"])
def test_real_segments_are_known_and_have_no_flaw(clips: Path, packing: str) -> None:
    made = cut(clips, packing)  # type: ignore[arg-type]
    for segment in (*made.segments, *([made.init] if made.init else [])):
        assert segment_kind_of(segment) is SegmentKind(packing)
        assert flaw(segment) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>sign in</html>", "web page"),
        (b'{"error": "expired"}', "text"),
        (b"#EXTM3U\n", "playlist"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "PNG"),
    ],
)
def test_what_is_no_segment_is_told_in_words(content: bytes, words: str) -> None:
    assert words in (flaw(content) or "")


def test_what_merely_looks_unknown_is_left_to_the_demuxers_unless_it_was_decrypted() -> None:
    unknown = bytes(range(256)) * 8
    assert flaw(unknown) is None
    assert "decrypt" in (flaw(unknown, encrypted=True) or "")


def test_a_cut_is_seen_where_no_length_was_announced(clips: Path) -> None:
    ts, mp4 = cut(clips, "ts").segments[0], cut(clips, "mp4").segments[0]
    assert "inside a packet" in (flaw(ts[:10_000], length_known=False) or "")
    assert flaw(ts + b"trailing", length_known=True) is None
    assert "inside a box" in (flaw(mp4[:10_000], length_known=False) or "")
    assert "inside a box" in (flaw(mp4[:10_000]) or "")


def test_a_length_in_64_bits_is_believed_from_its_own_head_on() -> None:
    large = b"\x00\x00\x00\x01mdat"
    assert flaw(large + (24).to_bytes(8, "big") + bytes(8)) is None
    for told in (0, 15, 17, 2**63):
        assert "inside a box" in (flaw(large + told.to_bytes(8, "big")) or "")


@pytest.mark.parametrize(("more", "words"), [(0, ""), (1, "more boxes")])
def test_boxes_are_looked_at_up_to_a_number_that_no_film_has(more: int, words: str) -> None:
    assert words in (flaw(b"\x00\x00\x00\x08free" * (MOST_BOXES + more)) or "")


def test_neighbours_go_on_and_others_do_not(clips: Path) -> None:
    segments = [edges_of(segment) for segment in cut(clips, "ts").segments]
    assert all(continues(before, after) for before, after in itertools.pairwise(segments))
    assert not continues(segments[0], segments[2])
    assert not continues(segments[1], segments[0])
    assert not continues(segments[0], edges_of(b""))


def test_another_size_does_not_go_on_even_where_the_timestamps_do(clips: Path) -> None:
    first = edges_of(cut(clips, "ts").segments[0])
    assert continues(first, edges_of(cut(clips, "ts").segments[1]))
    assert not continues(first, edges_of(cut(clips, "ts", size="192x144").segments[1]))


def test_cues_are_merged_on_one_clock_and_told_once() -> None:
    head = "WEBVTT\nX-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:{}\n\n"
    cue = "{} --> {}\n{}\n\n"
    one = head.format(900_000) + cue.format("00:01.000", "00:02.000", "One")
    one += "7\n" + cue.format("00:00:03.500", "00:00:04.500", "Reaches over")
    two = head.format(900_000) + "7\n" + cue.format("00:00:03.500", "00:00:04.500", "Reaches over")
    three = head.format(900_000 + 90_000 * 8) + cue.format("00:00.500", "00:01.000", "Later")
    merged = merge_captions([one, two, three])
    assert merged.count("Reaches over") == 1
    assert "00:00:08.500 --> 00:00:09.000\nLater" in merged
    assert merged.startswith("WEBVTT\n\n00:01.000 --> 00:02.000\nOne\n\n")


@pytest.mark.parametrize("told", [f"MPEGTS:{'9' * 5000}", f"MPEGTS:0,LOCAL:{'9' * 5000}:00:00.000"])
def test_a_clock_that_says_nothing_costs_no_cue(told: str) -> None:
    head = f"WEBVTT\nX-TIMESTAMP-MAP={told}\n\n"
    cues = f"00:01.000 --> 00:02.000\nOne\n\n{'9' * 5000}:00:03.000 --> 00:04.000\nNever\n"
    assert merge_captions([head + cues]) == "WEBVTT\n\n00:01.000 --> 00:02.000\nOne\n\n"

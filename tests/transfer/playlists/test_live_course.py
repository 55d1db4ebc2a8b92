"""A live playlist that moves on: what is new, what slid past, and how a recording that was cut short goes on."""

from __future__ import annotations

import pytest

from tests.support.ladders import hls_text
from tidegate.errors import SourceChanged
from tidegate.transfer.playlists.hls import MediaPlaylist
from tidegate.transfer.playlists.live import LiveCourse
from tidegate.transfer.playlists.read_hls import read

URL = "https://live.example/list.m3u8"


def window(first: int, last: int, *, ended: bool = False) -> MediaPlaylist:
    links = [f"s{number}.ts" for number in range(first, last + 1)]
    playlist = read(hls_text(links, sequence=first, seconds=2.0, ended=ended).decode(), URL)
    assert isinstance(playlist, MediaPlaylist)
    return playlist


def told(course: LiveCourse, playlist: MediaPlaylist) -> list[tuple[int, float, bool]]:
    return [(segment.number, segment.start_seconds, segment.missing) for segment in course.news(playlist)]


def test_each_version_brings_what_was_not_seen_before() -> None:
    course = LiveCourse(URL, {})
    assert told(course, window(5, 7)) == [(5, 0.0, False), (6, 2.0, False), (7, 4.0, False)]
    assert told(course, window(5, 7)) == []
    assert told(course, window(6, 8)) == [(8, 6.0, False)]


def test_what_slid_past_unseen_is_missing_and_keeps_its_place_in_time() -> None:
    course = LiveCourse(URL, {})
    told(course, window(1, 2))
    assert told(course, window(6, 6)) == [(3, 4.0, True), (6, 10.0, False)]


def test_a_recording_that_was_cut_short_goes_on_with_its_numbers_and_times() -> None:
    course = LiveCourse(URL, {1: 2.0, 2: 2.0, 4: 2.0})
    assert told(course, window(6, 7)) == [(3, 4.0, True), (5, 8.0, True), (6, 10.0, False), (7, 12.0, False)]


def test_segments_that_are_held_and_still_listed_are_shown_again_so_that_they_can_be_compared() -> None:
    course = LiveCourse(URL, {3: 2.0, 4: 2.0})
    assert told(course, window(3, 5)) == [(3, 0.0, False), (4, 2.0, False), (5, 4.0, False)]


def test_it_ends_when_enough_was_seen() -> None:
    course = LiveCourse(URL, {}, enough_seconds=5.0)
    assert [number for number, _, _ in told(course, window(1, 9))] == [1, 2, 3]
    assert course.enough
    assert told(course, window(5, 12)) == []


def test_a_recording_that_had_enough_already_ends_at_once() -> None:
    course = LiveCourse(URL, {1: 2.0, 2: 2.0, 3: 2.0}, enough_seconds=5.0)
    assert told(course, window(8, 9)) == [] and course.enough


def test_numbers_that_begin_anew_are_another_recording() -> None:
    course = LiveCourse(URL, {})
    told(course, window(100, 101))
    with pytest.raises(SourceChanged):
        course.news(window(1, 3))


def test_what_an_earlier_run_holds_of_another_recording_does_not_count() -> None:
    course = LiveCourse(URL, {100: 2.0})
    assert [number for number, _, _ in told(course, window(1, 3))] == [1, 2, 3]

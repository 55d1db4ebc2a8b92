"""DASH texts as values: templates, lists and timelines come to the same kind of segments as HLS has."""

from __future__ import annotations

import pytest

from tidegate.errors import NotMedia, TidegateError, UnsupportedSource
from tidegate.transfer.playlists.dash import Presentation
from tidegate.transfer.playlists.media import ByteRange
from tidegate.transfer.playlists.read_dash import read

BASE = "https://media.example/films/one/manifest.mpd?token=abc"


def mpd(inside: str, head: str = 'mediaPresentationDuration="PT10S"') -> str:
    return (
        f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" {head} '
        f'profiles="urn:mpeg:dash:profile:isoff-live:2011">{inside}</MPD>'
    )


def period(sets: str, told: str = "") -> str:
    return f"<Period {told}>{sets}</Period>"


def pictures(inside: str, told: str = 'mimeType="video/mp4"') -> str:
    return f"<AdaptationSet {told}>{inside}</AdaptationSet>"


def representation(
    inside: str = "", name: str = "v1", told: str = 'bandwidth="800000" width="640" height="360"'
) -> str:
    return f'<Representation id="{name}" {told}>{inside}</Representation>'


def template(told: str, inside: str = "") -> str:
    return f'<SegmentTemplate media="$RepresentationID$/$Number%03d$.m4s" initialization="$RepresentationID$/init.mp4" {told}>{inside}</SegmentTemplate>'  # noqa: E501


def links(presentation: Presentation, place: int = 0) -> list[str]:
    base = "https://media.example/films/one/"
    return [segment.resource.url.removeprefix(base) for segment in presentation.renditions[place].segments]


def test_a_template_with_a_duration_counts_until_the_end_of_the_period() -> None:
    told = read(mpd(period(pictures(template('duration="4000" timescale="1000"') + representation()))), BASE)
    (track,) = told.renditions
    assert links(told) == ["v1/001.m4s", "v1/002.m4s", "v1/003.m4s"]
    assert [segment.seconds for segment in track.segments] == [4.0, 4.0, 2.0]
    assert track.segments[0].init is not None and track.segments[0].init.url.endswith("v1/init.mp4")
    assert (track.id, track.seconds) == ("360p-800k", 10.0)


def test_a_timeline_repeats_and_names_segments_by_time() -> None:
    line = '<SegmentTimeline><S t="900" d="90" r="1"/><S d="45"/><S t="1200" d="90" r="-1"/></SegmentTimeline>'
    text = '<SegmentTemplate media="s-$Time$-$Bandwidth$.m4s" timescale="90" presentationTimeOffset="900">'
    told = read(mpd(period(pictures(text + line + "</SegmentTemplate>" + representation()))), BASE)
    times = [900, 990, 1080, 1200, 1290, 1380, 1470, 1560, 1650, 1740]
    assert links(told) == [f"s-{time}-800000.m4s" for time in times]
    assert [segment.start_seconds for segment in told.renditions[0].segments][:4] == [0.0, 1.0, 2.0, 300 / 90]


def test_attributes_come_from_outside_inwards_and_the_innermost_wins() -> None:
    outer = '<SegmentTemplate media="$Number$.m4s" timescale="1000" duration="5000" startNumber="7"/>'
    inner = '<SegmentTemplate timescale="1000" duration="2500"/>'
    told = read(mpd(period(outer + pictures(representation(inner)))), BASE)
    assert links(told) == ["7.m4s", "8.m4s", "9.m4s", "10.m4s"]


def test_a_list_names_links_or_ranges() -> None:
    inside = (
        '<BaseURL>all.mp4</BaseURL><SegmentList duration="5"><Initialization range="0-99"/>'
        '<SegmentURL mediaRange="100-299"/><SegmentURL media="other.m4s"/></SegmentList>'
    )
    told = read(mpd(period(pictures(representation(inside)))), BASE)
    first, second = told.renditions[0].segments
    assert first.resource.url.endswith("/all.mp4") and first.resource.byte_range == ByteRange(100, 200)
    assert first.init is not None and first.init.byte_range == ByteRange(0, 100)
    assert second.resource.url.endswith("/other.m4s") and second.resource.byte_range is None


def test_a_base_alone_is_one_segment() -> None:
    inside = '<BaseURL>https://cdn.example/v/</BaseURL>'  # fmt: skip
    own = '<BaseURL>film.mp4</BaseURL><SegmentBase indexRange="800-900"><Initialization range="0-799"/></SegmentBase>'
    told = read(mpd(inside + period(pictures(representation(own)))), BASE)
    (segment,) = told.renditions[0].segments
    assert (segment.resource.url, segment.seconds, segment.init) == ("https://cdn.example/v/film.mp4", 10.0, None)


def test_periods_follow_each_other_as_stretches_of_one_track() -> None:
    one = pictures(template('duration="5"') + representation(name="v1") + representation(name="v2"))
    two = pictures(template('duration="3"') + representation(name="v2") + representation(name="v1"))
    told = read(mpd(period(one, 'duration="PT10S"') + period(two, 'duration="PT3S"'), ""), BASE)
    track = told.renditions[0]
    assert [segment.number for segment in track.segments] == [0, 1, 2]
    assert [segment.stretch for segment in track.segments] == [0, 0, 1]
    assert track.segments[2].start_seconds == 10.0 and "v1/" in track.segments[2].resource.url


def test_the_best_sound_of_each_set_goes_with_a_picture() -> None:
    def sound(language: str) -> str:
        low, high = (f'bandwidth="{rate}"' for rate in (64000, 128000))
        inside = template('duration="10"') + representation(name=f"{language}1", told=low)
        inside += representation(name=f"{language}2", told=high)
        return pictures(inside, f'mimeType="audio/mp4" lang="{language}"')

    video = pictures(template('duration="10"') + representation())
    told = read(mpd(period(video + sound("en") + sound("de"))), BASE)
    assert [(one.language, one.bandwidth_bps) for one in told.sounds] == [("en", 128000), ("de", 128000)]
    assert len(told.renditions) == 1
    alone = read(mpd(period(sound("en"))), BASE)
    assert [one.id for one in alone.renditions] == ["64k", "128k"]


def test_subtitles_are_counted_and_fast_forward_is_left_out() -> None:
    trick = '<EssentialProperty schemeIdUri="http://dashif.org/guidelines/trickmode" value="1"/>'
    sets = pictures(template('duration="10"') + representation())
    sets += pictures(trick + template('duration="10"') + representation(name="t"))
    sets += pictures(representation(name="s"), 'mimeType="text/vtt"')
    told = read(mpd(period(sets)), BASE)
    assert (len(told.renditions), told.texts) == (1, 1)


def test_a_bandwidth_that_no_line_has_says_nothing() -> None:
    (track,) = read(mpd(period(pictures(representation(told=f'bandwidth="1{"0" * 300}"')))), BASE).renditions
    assert track.bandwidth_bps is None


PROTECTED = '<ContentProtection schemeIdUri="urn:uuid:edef8ba9-79d6-4ace-a3c8-27dcd51d21ed"/>'
REFUSED = [
    (mpd(period(pictures(PROTECTED + template('duration="5"') + representation()))), UnsupportedSource),
    (mpd(period(pictures(template('duration="5"') + representation())), 'type="dynamic"'), UnsupportedSource),
    (mpd(period(pictures(representation("<BaseURL>file:///etc/passwd</BaseURL>")))), UnsupportedSource),
    (mpd(period(pictures(template('duration="0.001"') + representation()))), NotMedia),
    (mpd(period(pictures(template("") + representation()))), NotMedia),
    (mpd(period(pictures(template('duration="5"') + representation())), 'mediaPresentationDuration="soon"'), NotMedia),
    (mpd(period(pictures(representation())), f'mediaPresentationDuration="P1{"0" * 300}D"'), NotMedia),
    (mpd(period(pictures(representation())), f'mediaPresentationDuration="PT{"9" * 400}S"'), NotMedia),
    (mpd(period(pictures(representation())), f'mediaPresentationDuration="P{"9" * 5000}D"'), NotMedia),
    (mpd(period(pictures(representation(told=f'bandwidth="{"9" * 5000}"')))), NotMedia),
    (mpd(""), NotMedia),
    ("<html><body>sign in</body></html>", NotMedia),
    ("<MPD", NotMedia),
    ("", NotMedia),
    ('<!DOCTYPE x [<!ENTITY a "b">]>' + mpd(period("")).partition("?>")[2], UnsupportedSource),
]


@pytest.mark.parametrize(("text", "failure"), REFUSED)
def test_what_cannot_be_read_is_refused_by_its_type(text: str, failure: type[TidegateError]) -> None:
    with pytest.raises(failure) as told:
        read(text, BASE)
    assert "abc" not in str(told.value.evidence)


def test_a_presentation_that_would_not_end_is_refused_before_it_fills_the_memory() -> None:
    line = '<SegmentTimeline><S t="0" d="1" r="100000000"/></SegmentTimeline>'
    for inside in (template('timescale="1"', line), template('duration="1" timescale="1000000"')):
        with pytest.raises(UnsupportedSource, match="longer than"):
            read(mpd(period(pictures(inside + representation()))), BASE)

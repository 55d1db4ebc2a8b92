"""Where a film is cut for its transcode, and why some are not: pure functions of its timeline.

`stages/transcode.py` asks. A cut is a moment between two pictures, so that every picture belongs to exactly one chunk,
whatever the order in which the file stores them. The same film and setting give the same cuts on any host.
"""

from __future__ import annotations

from fractions import Fraction

from tidegate.media.timeline import Timeline
from tidegate.model import Decision, MediaInfo, Strategy, Value

LEAST_CHUNKS = 3
"""Shorter films are not worth the cuts: a crash costs little, and there is little to spread."""
FIELDS_APART = ("tt", "bb", "tb", "bt")
"""The field orders of interlaced pictures."""
SEEK_PAST_SECONDS = 0.001
"""A seek is asked for so much after a keyframe that rounding cannot make it end at the one before."""


class Chunk(Value):
    """One stretch of the film; its moments are in seconds, as the container dates its pictures."""

    number: int
    frames: int
    """How many pictures are shown in it."""
    after_seconds: float | None
    """It has the pictures shown after this moment; None: from the first."""
    before_seconds: float | None
    """And before this one; None: to the last."""
    seek_seconds: float | None
    """Where to begin decoding, so that the first picture can be decoded whole, counted from where the file begins;
    None: at the beginning."""
    length_us: int
    """From its first picture to the next chunk's, in microseconds; of the last one, to its own last picture."""


class Cut(Value):
    """A film in chunks."""

    chunks: tuple[Chunk, ...]
    first_seconds: float
    """When the first picture is shown, counted from where its file begins."""
    encoder_tick: tuple[int, int]
    """In what ticks, in seconds, the encoder dates its pictures: one frame, or the source's where the rate varies."""

    @property
    def frames(self) -> int:
        return sum(chunk.frames for chunk in self.chunks)


def why_whole(decision: Decision, media: MediaInfo, chunk_seconds: float) -> str | None:
    """Why this transcode is not cut, as far as that can be told without reading the file; None: it may be."""
    video = media.video
    if decision.strategy is not Strategy.TRANSCODE or decision.video != "h264" or video is None:
        return "the picture is not encoded"
    if not chunk_seconds:
        return "chunks are switched off"
    if (video.span_seconds or 0.0) < LEAST_CHUNKS * chunk_seconds:
        return f"it is shorter than {LEAST_CHUNKS} chunks of {chunk_seconds:g} s"
    if decision.deinterlace or video.field_order in FIELDS_APART:
        return "it is interlaced: deinterlacing needs the pictures on both sides of a cut"
    if len(media.of_kind("video")) > 1:
        return "it has several pictures"
    return None


def cut(timeline: Timeline, chunk_seconds: float) -> Cut | str:
    """The chunks, or why the film is kept whole."""
    if timeline.odd is not None:
        return timeline.odd
    starts = _starts(timeline, chunk_seconds)
    if len(starts) + 1 < LEAST_CHUNKS:
        return f"it has too few keyframes for {LEAST_CHUNKS} chunks"
    step = 1 / Fraction(*timeline.rate) if timeline.rate else timeline.tick
    return Cut(
        chunks=tuple(_chunks(timeline, starts)),
        first_seconds=_seconds_into_file(timeline, timeline.first),
        encoder_tick=(step.numerator, step.denominator),
    )


def _starts(timeline: Timeline, chunk_seconds: float) -> list[int]:
    """Which of the timeline's cuts begin a chunk: the first one at least a chunk after the last one, as long as most of
    a chunk is left after it."""
    chosen: list[int] = []
    last, length = timeline.first, Fraction(chunk_seconds) / timeline.tick
    for index, (_, _, key) in enumerate(timeline.cuts):
        if key - last >= length and timeline.last - key >= length / 2:
            chosen.append(index)
            last = key
    return chosen


def _chunks(timeline: Timeline, starts: list[int]) -> list[Chunk]:
    cuts = [timeline.cuts[index] for index in starts]
    counts = [0, *(count for count, _, _ in cuts), timeline.frames]
    moments = [None, *(float(round(Fraction(before + key, 2) * timeline.tick, 6)) for _, before, key in cuts), None]
    seeks = [None, *(_seek(timeline, index) for index in starts)]
    ends = [_begin_us(timeline, number, at) for number, at in _firsts(timeline, cuts)]
    return [
        Chunk(
            number=number,
            frames=counts[number + 1] - counts[number],
            after_seconds=moments[number],
            before_seconds=moments[number + 1],
            seek_seconds=seeks[number],
            # Differences of rounded sums: rounding never adds up.
            length_us=ends[number + 1] - ends[number],
        )
        for number in range(len(counts) - 1)
    ]


def _firsts(timeline: Timeline, cuts: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """(number, time) of each chunk's first picture, and of the film's last."""
    return [(0, timeline.first), *((count, key) for count, _, key in cuts), (timeline.frames - 1, timeline.last)]


def _begin_us(timeline: Timeline, number: int, at: int) -> int:
    """When a picture is shown, in microseconds after the first, as the encoder dates it."""
    if timeline.rate:
        return round(number * 10**6 / Fraction(*timeline.rate))
    return round((at - timeline.first) * timeline.tick * 10**6)


def _seconds_into_file(timeline: Timeline, at: int) -> float:
    begins_us = timeline.begins_us[timeline.track]
    return float(round(at * timeline.tick - Fraction(begins_us, 10**6), 6))


def _seek(timeline: Timeline, index: int) -> float | None:
    """A keyframe before the cut: pictures that are stored after the cut's keyframe and shown before it may need the one
    before. Where a seek can end between keyframes, one more, so that the one that is needed surely follows."""
    back = index - (1 if timeline.exact_seek else 2)
    if back < 0:
        return None
    seconds = _seconds_into_file(timeline, timeline.cuts[back][2])
    return seconds + SEEK_PAST_SECONDS if seconds > 0 else None

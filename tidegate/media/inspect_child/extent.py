"""How far a stream reaches, on the timeline on which it is played. Part of the probe child.

Containers date packets in the order of decoding, players show pictures in the order of their times, and clocks of
transport streams begin anew where recordings were joined. What is measured here is what a player shows.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

EDGE_SECONDS = 0.5
"""How much of a stream's beginning and end counts as its edge; no more than lengths may differ anyway."""
GAP_SECONDS = 0.5
"""A shorter stretch that no packet covers is a rounding of times or a pause between frames."""
JOIN_SECONDS = 10.0
"""A jump of a clock that may begin anew, beyond which ffmpeg, too, takes what follows for another recording
(`dts_delta_threshold`)."""
JOIN_BACK_SECONDS = 0.1
"""A step back in the order of decoding that is a new beginning (`ts_discontinuity_process` in ffmpeg_demux.c)."""
STEADY_MILLISECONDS = 2
"""By how much times that were rounded, and rounded again, may differ at a steady rate."""
STRAY_SHARE = 0.02
"""Share of the distances between pictures that may be others at a steady rate: holes, joins."""
FEW_STRAYS = 2
"""So many say nothing, however short the film is."""
SETTLED_AFTER = 600
"""Pictures whose times are kept to be sorted, where a file has hardly any keyframe."""


class Clock:
    """Puts together the times of recordings that were joined, as ffmpeg does for formats whose clocks may jump."""

    def __init__(self, *, joins: bool) -> None:
        self.joins = joins
        self.shift = 0.0
        """What is added to the times of the recording that is being read."""
        self._last: float | None = None
        self._next = 0.0

    def follow(self, moment: float, length: float) -> None:
        """The next packet in the order of decoding, or the next frame: `moment` and `length` in seconds."""
        if self.joins and self._last is not None and self._begins_anew(moment):
            self.shift += self._next - moment
        self._last, self._next = moment, moment + length

    def _begins_anew(self, moment: float) -> bool:
        return moment < (self._last or 0.0) - JOIN_BACK_SECONDS or abs(moment - self._next) > JOIN_SECONDS


class Extent:
    """How far one stream really reaches, and what is missing on the way. All times in seconds."""

    def __init__(self, *, joins: bool, keyed: bool) -> None:
        self._clock = Clock(joins=joins)
        self.awaits_key = keyed
        self.start: float | None = None
        self._last: tuple[float, float] | None = None
        """(when, how long) the last one in the order of showing is shown, as its packet says."""
        self._last_decoded: float | None = None
        """When the last one in the order of decoding is shown."""
        self._covered_until: float | None = None
        self.packets = 0
        self.frames = 0
        self.errors: list[float] = []
        """Where decoding failed."""
        self.covered = 0.0
        """Sum of the durations of all packets or frames."""
        self.gaps = 0.0
        """Sum of the stretches, longer than GAP_SECONDS each, that no packet covers."""
        self.lead = 0.0
        """What lies before the first keyframe: nobody can decode it."""
        self.decoded = 0.0
        """Sum of the durations of decoded frames."""
        self.rotation: int | None = None
        self.captions = False

    def errors_inside(self) -> int:
        """Those that are not at the very beginning or end, where a recording may be cut in the middle of a frame."""
        start, end = (self.start or 0.0) + EDGE_SECONDS, (self._covered_until or 0.0) - EDGE_SECONDS
        return sum(start < at < end for at in self.errors)

    def end(self, usual: float | None = None) -> float | None:
        """When the last one is over. `usual`: the distance at which most pictures follow each other.

        MP4 says how long a sample lasts until the next one in the order of decoding: of a picture that is shown last
        but was not decoded last, that is another picture's pause.
        """
        if self._last is None:
            return None
        moment, length = self._last
        if usual is not None and self._last_decoded is not None and self._last_decoded < moment:
            length = min(length, usual)
        return moment + length

    @property
    def last(self) -> float | None:
        """From the first to the beginning of the last."""
        return self._last[0] - self.start if self._last is not None and self.start is not None else None

    def add_packet(self, packet: Any) -> None:
        if self.awaits_key and packet.is_keyframe:
            self._begin_at_key(packet)
        if packet.is_discard:  # an edit list hides it: it is stored, but never shown
            return
        self.packets += 1
        moment = packet.dts if packet.dts is not None else packet.pts
        if moment is not None:
            self._clock.follow(float(moment * packet.time_base), length_of(packet))
        self.note_order(packet)
        self._add(packet, length_of(packet))

    def note_order(self, packet: Any) -> None:
        """The next packet in the order of decoding, wherever its picture is measured."""
        if packet.pts is not None and not packet.is_discard:
            self._last_decoded = float(packet.pts * packet.time_base) + self._clock.shift

    def add_frame(self, frame: Any, length: float) -> None:
        """A frame that lasts `length` seconds."""
        if frame.pts is not None and frame.time_base is not None:
            self._clock.follow(float(frame.pts * frame.time_base), length)
        self._add(frame, length)

    def _add(self, item: Any, length: float) -> None:
        if item.pts is None or item.time_base is None:
            return
        moment = float(item.pts * item.time_base) + self._clock.shift
        self.covered += length
        if self.start is None or self._covered_until is None or self._last is None:
            self.start, self._last, self._covered_until = moment, (moment, length), moment + length
            return
        jump = moment - self._covered_until
        self.gaps += jump if jump > GAP_SECONDS else 0.0
        self.start, self._covered_until = min(self.start, moment), max(self._covered_until, moment + length)
        if moment >= self._last[0]:
            self._last = (moment, length)

    def _begin_at_key(self, packet: Any) -> None:
        self.awaits_key = False
        if self.start is not None and packet.pts is not None:
            self.lead = max(0.0, float(packet.pts * packet.time_base) + self._clock.shift - self.start)
        self.start = self._last = self._covered_until = None
        self.packets, self.covered, self.gaps = 0, 0.0, 0.0


def length_of(packet: Any) -> float:
    return float((packet.duration or 0) * packet.time_base) if packet.time_base is not None else 0.0


class Rhythm:
    """Whether pictures come at a steady rate: the distances between them, in whole milliseconds."""

    def __init__(self) -> None:
        self._waiting: list[float] = []
        self._distances: Counter[int] = Counter()
        self._untimed = False

    def add(self, packet: Any) -> None:
        """A packet in the order of decoding. Between two keyframes all times are known, and can be sorted."""
        if packet.pts is None:
            self._untimed = True
            return
        if packet.is_keyframe or len(self._waiting) >= SETTLED_AFTER:
            self._settle()
        self._waiting.append(float(packet.pts * packet.time_base))

    def _settle(self) -> None:
        distances = (round(1000 * (after - before)) for before, after in pairwise(sorted(self._waiting)))
        self._distances.update(distance for distance in distances if 0 < distance <= 1000 * JOIN_SECONDS)
        self._waiting = []

    @property
    def usual(self) -> float | None:
        """The distance, in seconds, at which most pictures follow each other."""
        self._settle()
        if self._untimed or not self._distances:
            return None
        return self._distances.most_common(1)[0][0] / 1000

    @property
    def variable(self) -> bool:
        usual = self.usual
        if usual is None:
            return False
        off = (n for distance, n in self._distances.items() if abs(distance - 1000 * usual) > STEADY_MILLISECONDS)
        return sum(off) > max(FEW_STRAYS, STRAY_SHARE * self._distances.total())

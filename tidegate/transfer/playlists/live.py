"""How a live playlist moves on: what is new in it, what slid past, and when enough was seen.

The HLS feed shows it every version of the playlist that it got. Pure; what an earlier run held is an argument, so a
recording that was cut short goes on with the same numbers and the same times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tidegate.errors import Evidence, SourceChanged
from tidegate.redact import redact_url
from tidegate.transfer.playlists.hls import MediaPlaylist
from tidegate.transfer.playlists.media import Resource, Segment


@dataclass
class LiveCourse:
    """Follows one live playlist."""

    url: str
    held: Mapping[int, float]
    """Numbers of the segments that an earlier run holds, and their seconds."""
    enough_seconds: float | None = None
    at_seconds: float = 0.0
    _next: int | None = None

    @property
    def enough(self) -> bool:
        return self.enough_seconds is not None and self.at_seconds >= self.enough_seconds

    def news(self, playlist: MediaPlaylist) -> list[Segment]:
        """The segments that were not seen before, in their order. What slid past unseen is among them, as missing.

        Raises:
            SourceChanged: the numbers went back: another recording began under the same link.
        """
        if not playlist.segments:
            return []
        first, last = playlist.segments[0].number, playlist.segments[-1].number
        if self._next is None:
            if max(self.held, default=last) > last:  # of another recording; the engine begins anew
                self.held = {}
            self._next = min([first, *self.held])
        if last + 1 < self._next:
            evidence = Evidence(url=redact_url(self.url))
            raise SourceChanged("The live playlist began its numbers anew", evidence=evidence)
        found: list[Segment] = []
        while self._next < first and not self.enough:
            found += self._towards(first, self._next, playlist.target_seconds)
        for segment in playlist.segments:
            if segment.number >= self._next and not self.enough:
                found.append(self._place(segment))
                self._next = segment.number + 1
        return found

    def _towards(self, first: int, number: int, target_seconds: float) -> list[Segment]:
        """One step to the window: over a segment that is held, or over a stretch that nobody holds."""
        if number in self.held:
            self.at_seconds += self.held[number]
            self._next = number + 1
            return []
        self._next = min([first, *(later for later in self.held if later > number)])
        seconds = (self._next - number) * target_seconds
        return [self._place(Segment(number, Resource(self.url), seconds, 0.0, missing=True))]

    def _place(self, segment: Segment) -> Segment:
        placed = replace(segment, start_seconds=self.at_seconds)
        self.at_seconds += segment.seconds
        return placed

"""The engine for media that comes in many small files: parallel, checked, resumable, and put together in order.

The HLS and DASH modules hand it the tracks of one rendition. Every segment is journaled as soon as it is synced, so a
crash costs at most the segments under way. One that cannot be had is a gap, told by its place in time; nothing is ever
left out in silence, and the same segments give the same bytes however often the work was cut short.
"""

from __future__ import annotations

from tidegate.transfer.segments.engine import Haul, Hauled
from tidegate.transfer.segments.supply import validator_of
from tidegate.transfer.segments.track import Feed, Track

__all__ = ["Feed", "Haul", "Hauled", "Track", "validator_of"]

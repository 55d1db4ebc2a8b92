"""The engine for media that comes in many small files: parallel, checked, resumable, and put together in order.

The HLS and DASH resolvers make a `DownloadSession` and hand a `PlaylistDownload` the `SegmentTrack`s of one rendition.
For each a `TrackDownload` fetches what its `TrackJournal` does not hold yet: a `SegmentSink` decrypts and checks a
segment, the `SyncQueue` makes it durable and journals it, and `assemble` writes the track's files when all are there.

A crash costs at most the segments under way. One that cannot be had is a gap, told by its place in time; nothing is
ever left out in silence, and the same segments give the same bytes however often the work was cut short.
"""

from __future__ import annotations

from tidegate.transfer.segments.playlist_download import PlaylistDownload, TrackFiles
from tidegate.transfer.segments.preview import preview_of
from tidegate.transfer.segments.session import DownloadSession, validator_of
from tidegate.transfer.segments.track import Feed, SegmentTrack, single_failure, whole_feed

__all__ = [
    "DownloadSession",
    "Feed",
    "PlaylistDownload",
    "SegmentTrack",
    "TrackFiles",
    "preview_of",
    "single_failure",
    "validator_of",
    "whole_feed",
]

"""The demuxers that a source may need: files that hold their media themselves.

Playlists and scripts (hls, concat, dash …) are not among them: opened as a file, they would make a tool read other
files or the network. ffmpeg and the probe child are given these lists.
"""

ALLOWED_DEMUXERS = (
    "mov",
    "mp4",
    "matroska",
    "webm",
    "mpegts",
    "mpeg",
    "avi",
    "flv",
    "ogg",
    "asf",
    "wav",
    "w64",
    "aiff",
    "caf",
    "flac",
    "mp3",
    "aac",
    "ac3",
    "eac3",
    "dts",
    "amr",
    "mxf",
    "rm",
    "nut",
    "ivf",
    "h264",
    "hevc",
    "m4v",
    "mpegvideo",
    "dv",
    "gxf",
    "wtv",
    "obu",
    "av1",
    "tta",
    "ape",
    "wv",
    "webvtt",
    "gif",
    "apng",
    "yuv4mpegpipe",
    "au",
    "voc",
)
STILL_UNLESS_MOVING = {"gif": "a GIF picture", "apng": "a PNG picture"}
"""Demuxers of what is media with several pictures, and none with one."""

DECLARING_DEMUXERS = ("mov", "mp4", "matroska", "webm", "avi", "asf", "flv", "wav", "flac", "aiff", "mxf")
"""Containers whose header carries a duration or a length of its own that is checked against the bytes at hand; of the
others, such as W64 and CAF, a duration is worked out from those bytes and confirms nothing."""

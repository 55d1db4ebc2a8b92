"""Playlists that mean harm: small texts that ask for all memory, all time, or for what is none of their business.

Each comes with the failures that it may end in. Tests give them to the reader and to the real command.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.transfer.scripted import head

DAMAGED, UNSUPPORTED = "not_media", "unsupported_source"
HLS = b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n"
END = b"\n#EXT-X-ENDLIST\n"


@dataclass(frozen=True)
class Hostile:
    """One of them."""

    text: bytes
    failures: tuple[str, ...]


def mpd(sets: str, *, head: str = 'mediaPresentationDuration="PT100S"', before: str = "") -> bytes:
    ns = 'xmlns="urn:mpeg:dash:schema:mpd:2011" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'{before}<MPD {ns} type="static" {head}><Period>{sets}</Period></MPD>'.encode()


def pictures(template: str, *, name: str = "v", more: str = "") -> str:
    told = f'<Representation id="{name}" bandwidth="800000" width="64" height="64">{template}</Representation>'
    return f'<AdaptationSet mimeType="video/mp4">{more}{told}</AdaptationSet>'


def many_segments(tracks: int, segments: int) -> bytes:
    """Few lines, many segments."""
    template = '<SegmentTemplate media="$Number$.m4s" duration="1"/>'
    sets = "".join(pictures(template, name=f"v{number}") for number in range(tracks))
    return mpd(sets, head=f'mediaPresentationDuration="PT{segments}S"')


def _timeline(entry: str) -> str:
    return f'<SegmentTemplate media="$Time$.m4s"><SegmentTimeline>{entry}</SegmentTimeline></SegmentTemplate>'


_LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
_DOCTYPE = f'<?xml version="1.0"?><!DOCTYPE MPD [<!ENTITY l0 "ha">{_LAUGHS}]>'
_FILE = '<?xml version="1.0"?><!DOCTYPE MPD [<!ENTITY x SYSTEM "file:///etc/hostname">]>'

SMALL: dict[str, Hostile] = {
    "repeats.mpd": Hostile(mpd(pictures(_timeline('<S d="1" r="2000000000"/>'))), (UNSUPPORTED,)),
    "repeats-to-the-end.mpd": Hostile(
        mpd(pictures(_timeline('<S d="1" r="-1"/>')), head='mediaPresentationDuration="PT900000000S"'), (UNSUPPORTED,)
    ),
    "for-ever.mpd": Hostile(
        mpd(
            pictures('<SegmentTemplate media="$Number$" duration="1"/>'),
            head=f'mediaPresentationDuration="PT{10**18}S"',
        ),
        (DAMAGED,),
    ),
    "many-tracks.mpd": Hostile(many_segments(60, 9_000), (UNSUPPORTED,)),
    "nested-sets.mpd": Hostile(mpd("<AdaptationSet>" * 1000 + "</AdaptationSet>" * 1000), (DAMAGED,)),
    "nested-elements.mpd": Hostile(mpd("<a>" * 100_000 + "</a>" * 100_000), (DAMAGED, "memory_exhausted")),
    "laughs.mpd": Hostile(mpd("&l9;", before=_DOCTYPE), (UNSUPPORTED,)),
    "laughs-16.mpd": Hostile(mpd("&l9;", before=_DOCTYPE).decode().encode("utf-16"), (DAMAGED,)),
    "a-file-of-ours.mpd": Hostile(mpd("<BaseURL>&x;</BaseURL>", before=_FILE), (UNSUPPORTED,)),
    "xlink.mpd": Hostile(
        mpd('<AdaptationSet xlink:href="file:///etc/hostname" xlink:actuate="onLoad"/>'), (DAMAGED, UNSUPPORTED)
    ),
    "a-base-that-is-a-file.mpd": Hostile(mpd("<BaseURL>file:///etc/</BaseURL>" + pictures("")), (UNSUPPORTED,)),
    "names-in-names.mpd": Hostile(
        mpd(pictures(f'<SegmentTemplate media="{"$RepresentationID$" * 2000}" duration="1"/>', name="v" * 30_000)),
        (DAMAGED,),
    ),
    "comments.mpd": Hostile(b"<!---->" * 100_000 + b"<", (DAMAGED,)),
    "tags.m3u8": Hostile(HLS + b"#EXTINF:1,\n" * 300_000 + END, (UNSUPPORTED,)),
    "ranges-without-durations.m3u8": Hostile(HLS + b"#EXT-X-BYTERANGE:1@0\na\n" * 210_000 + END, (UNSUPPORTED,)),
    "other-tags.m3u8": Hostile(HLS + b"#EXT-X-A:1\n" * 1_000_000 + END, (DAMAGED,)),
    "keys.m3u8": Hostile(HLS + b"#EXT-X-KEY:METHOD=AES-128,URI=k\n" * 100_000 + END, (DAMAGED,)),
    "sounds.m3u8": Hostile(
        HLS + b'#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",URI="a"\n' * 20_000 + b"#EXT-X-STREAM-INF:BANDWIDTH=1\na\n",
        (UNSUPPORTED,),
    ),
    "a-name-without-end.m3u8": Hostile(
        HLS + b"#EXT-X-KEY:" + b"A" * 1_000_000 + b"\n#EXTINF:1,\na.ts" + END, (UNSUPPORTED,)
    ),
    "attributes.m3u8": Hostile(HLS + b"#EXT-X-KEY:" + b'A="b",' * 100_000 + b"\n#EXTINF:1,\na" + END, (UNSUPPORTED,)),
    "an-open-quote.m3u8": Hostile(HLS + b'#EXT-X-STREAM-INF:A="' + b"'" * 100_001 + b"\na\n", (DAMAGED, "not_found")),
    "a-range-beyond-all.m3u8": Hostile(
        HLS + b"#EXTINF:1,\n#EXT-X-BYTERANGE:" + b"9" * 30 + b"@" + b"9" * 30 + b"\na" + END, (DAMAGED,)
    ),
    "a-number-of-digits.m3u8": Hostile(
        HLS + b"#EXT-X-MEDIA-SEQUENCE:" + b"9" * 5000 + b"\n#EXTINF:1,\na" + END, (DAMAGED,)
    ),
    "no-number.m3u8": Hostile(HLS + b"#EXTINF:nan,\na" + END, (DAMAGED,)),
    "a-line.m3u8": Hostile(HLS + b"#EXTINF:1,\n" + b"a" * 10_000_000 + END, (DAMAGED,)),
    "utf-16.m3u8": Hostile((HLS + b"#EXTINF:1,\na" + END).decode().encode("utf-16"), (DAMAGED,)),
    "nul.m3u8": Hostile(b"#EXTM3U" + b"\0" * 1_000_000, (DAMAGED, "stalled_transfer")),
    "itself.m3u8": Hostile(b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nitself.m3u8\n", (UNSUPPORTED,)),
}
"""Name → text: less than 10 MB each. Reading them takes less than a tenth of what it may."""

MEMORY = Hostile(many_segments(2, 190_000), ("memory_exhausted",))
"""Legal, and more than a small cap holds."""
TIME = Hostile(many_segments(2, 190_000), ("process_timeout",))
"""Legal, and of no processor of these years the work of a second."""
ZEROS = b"#EXTM3U\n" + bytes(50_000_000)


def packed_zeros(asked: dict[str, str]) -> Iterator[bytes]:
    """An answer of 50 kB that is 50 MB: for `Scripted`."""
    packed = _PACKED()
    told = {"Content-Type": "application/vnd.apple.mpegurl", "Content-Encoding": "gzip"}
    yield head(200, {**told, "Content-Length": str(len(packed))}) + packed


_PACKED: Callable[[], bytes] = lambda: gzip.compress(ZEROS, 6)  # noqa: E731

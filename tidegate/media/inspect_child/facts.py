"""What the headers of an open file say: of the file, and of each stream. Part of the probe child.

No single field costs the file: each is read on its own, and what cannot be read is unknown. PyAV decodes a codec tag as
ASCII, for instance, and the tags of AAC in AVI or of AC-3 in a transport stream are other bytes.

PyAV does not give programs, Dolby Vision and a few more; `av_dump_format` writes them down, as `ffmpeg -i` shows them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from typing import Any, TypeVar

import av.logging
from av.stream import Disposition

T = TypeVar("T")

FIELD_ORDERS = {1: "progressive", 2: "tt", 3: "bb", 4: "tb", 5: "bt"}
"""AVFieldOrder of libavcodec/codec_par.h."""
HDR_TRANSFERS = {16: "smpte2084", 18: "arib-std-b67"}
# fmt: off
TRANSFERS = HDR_TRANSFERS | {
    1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "linear", 9: "log100", 10: "log316",
    11: "iec61966-2-4", 12: "bt1361e", 13: "iec61966-2-1", 14: "bt2020-10", 15: "bt2020-12",
}
PRIMARIES = {
    1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film", 9: "bt2020", 10: "smpte428",
    11: "smpte431", 12: "smpte432",
}
MATRICES = {
    0: "gbr", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "ycgco", 9: "bt2020nc", 10:
    "bt2020c",
}
# fmt: on
"""AVColorTransferCharacteristic, AVColorPrimaries and AVColorSpace, which are the numbers of ITU-T H.273, as filters
name them."""
RAW = frozenset({"h264", "hevc", "m4v", "mpegvideo"})
"""Without a container: their average rate is ffmpeg's guess, the other one what the picture says."""
RANGES = {1: "tv", 2: "pc"}
KINDS = ("video", "audio", "subtitle", "attachment")
ROLES = tuple(role for role in Disposition if role.name not in ("default", "attached_pic"))
TITLE_NAMES = ("title", "handler_name", "name")
"""Where a track's title stands, by container; MP4's handler is one if a person wrote it."""
DULL_TITLES = re.compile(
    r"(?i)(video|sound|audio|subtitle|text|data|timecode|l-smash .*|gpac .*)?[ _-]*handler.*|.*core media.*"
)
"""What muxers write as a handler's name."""
LONGEST_TEXT = 10_000
"""Characters of one tag that are kept."""
MOST_TAGS = 100
"""Of a file or a stream, that are kept."""

PROGRAM = re.compile(r"^  Program (\d+)(?: (.*))?$")
STREAM = re.compile(r"^  Stream #0:(\d+)")
SERVICE = re.compile(r"^      service_name +: (.*)$")
ROTATION = re.compile(r"rotation of (-?[\d.]+) degrees")
DOLBY = re.compile(r"DOVI configuration record: .*?profile: (\d+).*?compatibility id: (\d+)")
PROJECTION = re.compile(r"^      (?:Spherical Mapping|[Ss]pherical|Stereo 3D|[Ss]tereo3[Dd]): (\S+(?: \S+)*)")


def try_read(read: Callable[[], T]) -> T | None:
    """One field; None where the file has it in a form that cannot be read."""
    try:
        return read()
    except (ValueError, TypeError, AttributeError, ArithmeticError, LookupError):
        return None


def describe_file(container: Any, streams: list[dict[str, Any]]) -> dict[str, Any]:
    """Tags, chapters and programs; what stands about streams in the same text is added to them."""
    text = dump(container)
    add_from_dump(streams, text)
    return {
        "tags": tags_of(container),
        "chapters": try_read(lambda: chapters_of(container)) or [],
        "programs": programs_in(text),
    }


def describe(stream: Any) -> dict[str, Any]:
    context = stream.codec_context
    tags = tags_of(stream)
    facts = {
        "index": stream.index,
        "kind": stream.type if stream.type in KINDS else "data",
        "codec": try_read(lambda: context.codec.canonical_name) or "unknown",
        "codec_tag": (try_read(lambda: context.codec_tag) or "").rstrip("\0"),
        "profile": try_read(lambda: stream.profile),
        "language": tags.get("language"),
        "title": title_in(tags),
        "attached_picture": bool(stream.disposition & Disposition.attached_pic),
        "default": bool(stream.disposition & Disposition.default),
        "roles": [str(role.name) for role in ROLES if stream.disposition & role],
        "file_name": tags.get("filename"),
        "tags": tags,
        "duration_seconds": try_read(lambda: seconds(stream.duration, stream.time_base)),
    }
    if stream.type == "video" and context is not None:
        facts |= describe_video(stream, context)
    if stream.type == "audio" and context is not None:
        facts |= describe_audio(context)
    return facts


def describe_video(stream: Any, context: Any) -> dict[str, Any]:
    raw = try_read(lambda: stream.container.format.name) in RAW
    rate = try_read(lambda: stream.guessed_rate if raw else stream.average_rate or stream.guessed_rate)
    aspect = try_read(lambda: stream.sample_aspect_ratio)
    transfer = try_read(lambda: int(context.color_trc or 0)) or 0
    return {
        "pix_fmt": try_read(lambda: context.pix_fmt),
        "bit_depth": try_read(lambda: int(context.format.components[0].bits)),
        "width": try_read(lambda: int(context.width)),
        "height": try_read(lambda: int(context.height)),
        "field_order": try_read(lambda: FIELD_ORDERS.get(int(context.field_order or 0))),
        "frame_rate": float(rate) if rate else None,
        "color_transfer": HDR_TRANSFERS.get(transfer),
        "transfer": TRANSFERS.get(transfer),
        "color_primaries": try_read(lambda: PRIMARIES.get(int(context.color_primaries or 0))),
        "color_space": try_read(lambda: matrix_of(context)),
        "color_range": try_read(lambda: RANGES.get(int(context.color_range or 0))),
        "level": try_read(lambda: context.level if (context.level or 0) > 0 else None),
        "sample_aspect": float(aspect) if aspect and aspect != 1 else None,
    }


def matrix_of(context: Any) -> str | None:
    """Number 0 is RGB, and stands also for pictures of no mark at all."""
    number = int(context.colorspace if context.colorspace is not None else 2)
    is_rgb = str(context.pix_fmt or "").startswith(("gbr", "rgb", "bgr"))
    return MATRICES.get(number) if number or is_rgb else None


def describe_audio(context: Any) -> dict[str, Any]:
    layout = try_read(lambda: str(context.layout.name))
    return {
        "sample_rate": try_read(lambda: int(context.sample_rate or 0)) or 0,
        "channels": try_read(lambda: int(context.channels or 0)) or 0,
        "channel_layout": layout if layout and "channels" not in layout else None,
    }


def tags_of(holder: Any) -> dict[str, str]:
    """Of a file or a stream, by the names that the file uses."""
    found = try_read(lambda: dict(holder.metadata)) or {}
    return {str(name)[:LONGEST_TEXT]: str(text)[:LONGEST_TEXT] for name, text in islice(found.items(), MOST_TAGS)}


def title_in(tags: dict[str, str]) -> str | None:
    for name in TITLE_NAMES:
        text = tags.get(name, "").strip()
        if text and not (name == "handler_name" and DULL_TITLES.fullmatch(text)):
            return text
    return None


def chapters_of(container: Any) -> list[dict[str, Any]]:
    return [
        {
            "start_seconds": float(chapter["start"] * chapter["time_base"]),
            "end_seconds": float(chapter["end"] * chapter["time_base"]),
            "title": str(chapter["metadata"].get("title", "")),
        }
        for chapter in container.chapters()
    ]


def dump(container: Any) -> str:
    """What `ffmpeg -i` writes about an open file; empty where it cannot be had."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        return try_read(lambda: str(container.dumps_format())) or ""
    finally:
        av.logging.set_level(level)


def programs_in(text: str) -> list[dict[str, Any]]:
    """The services of a transport stream, with the streams of each."""
    programs: list[dict[str, Any]] = []
    inside = False
    for line in text.splitlines():
        if begin := PROGRAM.match(line):
            programs.append({"number": int(begin[1]), "name": (begin[2] or "").strip(), "streams": []})
            inside = True
        elif line.startswith("  No Program"):
            inside = False
        elif inside and (stream := STREAM.match(line)):
            programs[-1]["streams"].append(int(stream[1]))
        elif inside and (name := SERVICE.match(line)):
            programs[-1]["name"] = programs[-1]["name"] or name[1].strip()
    return programs


def add_from_dump(streams: list[dict[str, Any]], text: str) -> None:
    """What only the text tells: how far the picture is turned, Dolby Vision, captions inside, how it is projected."""
    facts: dict[str, Any] = {}
    for line in text.splitlines():
        if (begin := STREAM.match(line)) and int(begin[1]) < len(streams):
            facts = streams[int(begin[1])]
            if "Closed Captions" in line:
                facts["captions"] = True
        elif facts.get("kind") != "video":
            continue
        elif turned := ROTATION.search(line):
            facts["rotation"] = round(float(turned[1])) % 360
        elif dolby := DOLBY.search(line):
            facts["dolby_vision"] = {"profile": int(dolby[1]), "compatible": int(dolby[2])}
        elif projected := PROJECTION.match(line):
            facts["projection"] = projected[1].split(",")[0]


def seconds(ticks: int | None, time_base: Any) -> float | None:
    return float(ticks * time_base) if ticks is not None and time_base is not None else None

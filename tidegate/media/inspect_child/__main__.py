"""Opens one local media file and prints what is in it, as JSON lines. Runs as a child process of its own.

`inspect.py` starts it under supervision, so that a hostile file can hang or crash only this process. It imports PyAV
and nothing of ours: pydantic alone would double its start-up. It writes nothing.

    python inspect_child.py header|packets|sampled|frames PATH \
        '{"allowed": [demuxers], "declaring": [demuxers], "decoders": [decoders]}'
"""

from __future__ import annotations

import contextlib
import json
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import av.error
import av.logging
from av.stream import Disposition

PROGRESS_SECONDS = 0.5
FIELD_ORDERS = {1: "progressive", 2: "tt", 3: "bb", 4: "tb", 5: "bt"}
"""AVFieldOrder of libavcodec/codec_par.h."""
TRANSFERS = {16: "smpte2084", 18: "arib-std-b67"}
"""The AVColorTransferCharacteristic values that mean HDR (ITU-T H.273)."""
PRIMARIES = {1: "bt709", 9: "bt2020", 12: "smpte432"}
MATRICES = {1: "bt709", 5: "bt470bg", 6: "smpte170m", 9: "bt2020nc", 10: "bt2020c"}
"""AVColorPrimaries and AVColorSpace, as far as a filter is told of them."""
EDGE_SECONDS = 0.5
"""How much of a stream's beginning and end counts as its edge; no more than lengths may differ anyway."""
RESYNCS = 1000
"""How often a demuxer may look for the next packet after damage."""
GAP_SECONDS = 0.5
"""A shorter stretch that no packet covers is a rounding of times or a pause between frames."""
JOIN_SECONDS = 10.0
"""A jump in a transport stream beyond which ffmpeg, too, takes what follows for another recording."""
JOIN_BACK_SECONDS = 1.0
"""A step back in time that no reordering of frames explains."""
SAMPLED_EDGE_SECONDS = 30.0
"""How much of the beginning and of the end is decoded where only samples are."""
SAMPLES, SAMPLE_SECONDS = 24, 5.0
"""How many samples, evenly spread, are decoded between them, and how long each is at least."""
STEADY_MILLISECONDS = 2
"""By how much times that were rounded, and rounded again, may differ at a steady rate."""
STRAY_SHARE = 0.02
"""Share of the distances between pictures that may be others at a steady rate: holes, joins."""
FEW_STRAYS = 2
"""So many say nothing, however short the film is."""
SETTLED_AFTER = 600
"""Pictures whose times are kept to be sorted, where a file has hardly any keyframe."""
TURNED_WITHIN = 32
"""Packets within which the first picture comes out of its decoder; it tells the rotation."""
MOOV_BYTES = 64 * 1024 * 1024
"""How much of an index is searched for its fragment boxes; they stand near its beginning."""
UNKNOWN_RIFF_LENGTHS = (0, 0xFFFFFFFF)
"""What a recorder writes that could not come back to fill the length in."""
SLOPPY_RIFF_BYTES = 64
"""Writers disagree whether padding and the chunk's own header count."""
openable: set[str] = set()
"""The decoders that may be opened."""
MEDIA_BOXES = (b"moov", b"moof", b"mdat")
"""The boxes without which an MP4 cannot be played."""


class Extent:
    """How far one stream really reaches, and what is missing on the way. All times in seconds."""

    def __init__(self, *, joins: bool, keyed: bool) -> None:
        self.joins = joins
        """Whether a jump in time is a join of two recordings (transport streams) rather than a place with nothing."""
        self.awaits_key = keyed
        self.start: float | None = None
        self.end: float | None = None
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
        self.earlier = 0.0
        """Length of the pieces before the last join."""
        self.decoded = 0.0
        """Sum of the durations of decoded frames."""
        self.rotation: int | None = None

    def errors_inside(self) -> int:
        """Those that are not at the very beginning or end, where a recording may be cut in the middle of a frame."""
        start, end = (self.start or 0.0) + EDGE_SECONDS, (self.end or 0.0) - EDGE_SECONDS
        return sum(start < at < end for at in self.errors)

    @property
    def held(self) -> float | None:
        """From the first to the end of the last, joined pieces added up."""
        if self.start is None or self.end is None:
            return None
        return self.earlier + self.end - self.start

    def add_packet(self, packet: Any) -> None:
        if self.awaits_key and packet.is_keyframe:
            self._begin_at_key(packet)
        if packet.is_discard:  # an edit list hides it: it is stored, but never shown
            return
        self.packets += 1
        self.add(packet)

    def add(self, item: Any, length: float | None = None) -> None:
        """A packet or frame; `length` where it is not the item's own duration."""
        if item.pts is None or item.time_base is None:
            return
        own = float((getattr(item, "duration", None) or 0) * item.time_base) if length is None else length
        self._widen(float(item.pts * item.time_base), own)

    def _widen(self, start: float, length: float) -> None:
        self.covered += length
        if self.start is None or self.end is None:
            self.start, self.end = start, start + length
            return
        jump = start - self.end
        if self.joins and (start < self.start - JOIN_BACK_SECONDS or abs(jump) > JOIN_SECONDS):
            self.earlier += self.end - self.start
            self.start, self.end = start, start + length
            return
        self.gaps += jump if jump > GAP_SECONDS else 0.0
        self.start, self.end = min(self.start, start), max(self.end, start + length)

    def _begin_at_key(self, packet: Any) -> None:
        self.awaits_key = False
        if self.start is not None and packet.pts is not None:
            self.lead = max(0.0, float(packet.pts * packet.time_base) - self.start)
        self.start = self.end = None
        self.packets, self.covered, self.gaps, self.earlier = 0, 0.0, 0.0, 0.0


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
    def variable(self) -> bool:
        self._settle()
        if self._untimed or not self._distances:
            return False
        [(usual, _)] = self._distances.most_common(1)
        strays = sum(n for distance, n in self._distances.items() if abs(distance - usual) > STEADY_MILLISECONDS)
        return strays > max(FEW_STRAYS, STRAY_SHARE * self._distances.total())


class SampleDecoder:
    """Decodes stretches of one stream, each from a keyframe to a later one, so that nothing before it is missed."""

    def __init__(self, stream: Any, extent: Extent, length: float) -> None:
        self._stream = stream
        self._extent = extent
        step = (length - 2 * SAMPLED_EDGE_SECONDS) / (SAMPLES + 1)
        between = [SAMPLED_EDGE_SECONDS + step * (n + 1) for n in range(SAMPLES)] if step > 0 else []
        last = max(0.0, length - SAMPLED_EDGE_SECONDS)
        self._due = [(0.0, SAMPLED_EDGE_SECONDS), *((at, SAMPLE_SECONDS) for at in between), (last, float("inf"))]
        """(from where on, for how many seconds) of the stretches that are still to come."""
        self._first: float | None = None
        self._began = 0.0
        self._until: float | None = None
        """Where the stretch that is being decoded may end; None between two."""

    def take(self, packet: Any) -> None:
        at = float(packet.pts * packet.time_base) if packet.pts is not None else None
        if packet.is_keyframe:
            self._at_key(at if at is not None else self._extent.end or 0.0)
        leans_back = at is not None and at < self._began  # on pictures of the stretch before, which nobody decoded
        if self._until is not None and not leans_back:
            decode_packet(packet, self._extent, measured=False)

    def end(self, packet: Any) -> None:
        """The empty packet that ends a stream."""
        if self._until is not None:
            decode_packet(packet, self._extent, measured=False)

    def _at_key(self, at: float) -> None:
        self._first = at if self._first is None else self._first
        if self._until is not None and at >= self._until:
            self._drain()
        while self._due and at - self._first >= self._due[0][0]:
            if self._until is None:
                self._began = at
            _, seconds = self._due.pop(0)
            self._until = max(self._until or 0.0, at + seconds)

    def _drain(self) -> None:
        """What is still inside the decoder; then it forgets, and begins anew at the next keyframe."""
        context = self._stream.codec_context
        tick = self._stream.time_base
        decode_at(lambda: context.decode(None), self._extent, self._until or 0.0, tick, measured=False)
        context.flush_buffers()
        self._until = None


def inspect_file(depth: str, path: Path, names: dict[str, list[str]]) -> dict[str, Any]:
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": ",".join(names["allowed"]),
        "codec_whitelist": ",".join(names["decoders"]),
    }
    openable.update(names["decoders"])
    with av.open(str(path), options=options, metadata_errors="ignore") as container:
        streams = [describe(stream) for stream in container.streams]
        if depth != "header":
            read_all(container, streams, depth)
        formats = set(container.format.name.split(","))
        missing, fragmented = mp4_boxes(path) if "mp4" in formats else (riff_chunks(path), False)
        return {
            "container": container.format.name,
            "size_bytes": path.stat().st_size,
            "duration_seconds": container.duration / av.time_base if container.duration else None,
            "declares_duration": bool(formats & set(names["declaring"]) and container.duration and not fragmented),
            "missing_bytes": missing,
            "streams": streams,
            "depth": depth,
        }


def describe(stream: Any) -> dict[str, Any]:
    context = stream.codec_context
    facts = {
        "index": stream.index,
        "kind": stream.type if stream.type in ("video", "audio", "subtitle", "attachment") else "data",
        "codec": context.codec.canonical_name if context is not None else "unknown",
        "codec_tag": context.codec_tag.rstrip("\0") if context is not None else "",
        "profile": stream.profile if context is not None else None,
        "language": stream.metadata.get("language"),
        "attached_picture": bool(stream.disposition & Disposition.attached_pic),
        "default": bool(stream.disposition & Disposition.default),
        "file_name": stream.metadata.get("filename"),
        "duration_seconds": seconds(stream.duration, stream.time_base),
    }
    if stream.type == "video" and context is not None:
        facts |= describe_video(stream, context)
    if stream.type == "audio" and context is not None:
        facts |= {"sample_rate": context.sample_rate or 0, "channels": context.channels or 0}
    return facts


def describe_video(stream: Any, context: Any) -> dict[str, Any]:
    pixel = context.format
    rate = stream.average_rate or stream.guessed_rate
    aspect = stream.sample_aspect_ratio
    return {
        "pix_fmt": context.pix_fmt,
        "bit_depth": pixel.components[0].bits if pixel is not None and pixel.components else None,
        "width": context.width,
        "height": context.height,
        "field_order": FIELD_ORDERS.get(int(context.field_order or 0)),
        "frame_rate": float(rate) if rate else None,
        "color_transfer": TRANSFERS.get(int(context.color_trc or 0)),
        "color_primaries": PRIMARIES.get(int(context.color_primaries or 0)),
        "color_space": MATRICES.get(int(context.colorspace or 0)),
        "level": context.level if (context.level or 0) > 0 else None,
        "sample_aspect": float(aspect) if aspect and aspect != 1 else None,
    }


def read_all(container: Any, streams: list[dict[str, Any]], depth: str) -> None:
    """Every packet of every stream; every frame of picture and sound too, or samples of them."""
    joins = "mpegts" in container.format.name
    whole = depth == "frames"
    extents = [Extent(joins=joins, keyed=stream["kind"] == "video" and not whole) for stream in streams]
    decodable = {s.index for s in container.streams if depth in ("frames", "sampled") and decodes(s)}
    for index in decodable:
        container.streams[index].thread_type = "AUTO"
    length = container.duration / av.time_base if container.duration else 0.0
    samples = {} if whole else {n: SampleDecoder(container.streams[n], extents[n], length) for n in decodable}
    films = {s.index for s in container.streams if s.type == "video" and decodes(s)}
    rhythms = {index: Rhythm() for index in films}
    reported_at = time.monotonic()
    for packet in packets_of(container):
        index = packet.stream.index  # `packet.stream_index` is 0 for the empty packets that end every stream
        extent = extents[index]
        if index in rhythms and packet.size:
            rhythms[index].add(packet)
        if index in films and not decodable and packet.size and extent.packets < TURNED_WITHIN:
            turn(packet, extent)
        if index in decodable and whole:
            extent.packets += bool(packet.size) and not packet.is_discard
            decode_packet(packet, extent)
        elif packet.size:
            extent.add_packet(packet)
            if index in samples:
                samples[index].take(packet)
        elif index in samples:
            samples[index].end(packet)
        if time.monotonic() - reported_at >= PROGRESS_SECONDS:
            reported_at = time.monotonic()
            say({"progress": {"packets": sum(e.packets for e in extents), "seconds": extent.end or 0.0}})
    for facts, extent in zip(streams, extents, strict=True):
        facts |= reach(facts, extent, decoded=facts["index"] in decodable)
    for index, rhythm in rhythms.items():
        streams[index] |= {"variable_rate": rhythm.variable, "rotation": (extents[index].rotation or 0) % 360}


def packets_of(container: Any) -> Iterator[Any]:
    """Every packet. A demuxer that searches long for the next one after damage says "try again" in between.

    In a damaged transport stream a stream may appear that was not there at the beginning. PyAV leaves its packets out,
    and then stumbles over it as it ends all streams, the known ones first: nothing of those is missing.
    """
    for _ in range(RESYNCS):
        try:
            yield from container.demux()
        except av.error.BlockingIOError:
            continue
        except IndexError:
            return
        return


def decodes(stream: Any) -> bool:
    """Whether its frames can be had: by a decoder that may be opened."""
    context = stream.codec_context
    return stream.type in ("video", "audio") and context is not None and context.codec.name in openable


def reach(facts: dict[str, Any], extent: Extent, *, decoded: bool) -> dict[str, Any]:
    """What was found out about a stream by reading it."""
    held = extent.held
    if held is None and extent.packets and facts.get("frame_rate"):
        held = extent.packets / facts["frame_rate"]  # a raw stream carries no times
    return {
        "start_seconds": extent.start,
        "end_seconds": extent.end,
        "held_seconds": held,
        "covered_seconds": extent.covered or None,
        "gap_seconds": round(extent.gaps, 3),
        "lead_seconds": round(extent.lead, 3),
        "packets": extent.packets,
        "frames": extent.frames if decoded else None,
        "decoded_seconds": round(extent.decoded, 3) if decoded else None,
        "decode_errors": extent.errors_inside(),
        "edge_errors": len(extent.errors) - extent.errors_inside(),
    }


def turn(packet: Any, extent: Extent) -> None:
    """The rotation of the first picture; what cannot be decoded here has another turn later."""
    if extent.rotation is not None:
        return
    with contextlib.suppress(av.error.FFmpegError, ValueError):
        for frame in packet.decode()[:1]:
            extent.rotation = frame.rotation


def decode_packet(packet: Any, extent: Extent, *, measured: bool = True) -> None:
    at = float(packet.pts * packet.time_base) if packet.pts is not None else extent.end or 0.0
    decode_at(packet.decode, extent, at, packet.time_base, measured=measured)


def decode_at(decode: Callable[[], list[Any]], extent: Extent, at: float, tick: Any, *, measured: bool) -> None:
    """Decode at a place, and note how it went; `measured`: by its frames the stream's length is measured. `tick` is the
    stream's time base, for frames that come without one."""
    try:
        frames = decode()
    except av.error.EOFError:
        return
    except (av.error.FFmpegError, ValueError):
        extent.errors.append(at)
        return
    for frame in frames:
        extent.frames += 1
        if getattr(frame, "is_corrupt", False):
            extent.errors.append(at)
        if extent.rotation is None:
            extent.rotation = getattr(frame, "rotation", None)
        samples = getattr(frame, "samples", 0)
        length = (
            samples / frame.sample_rate if samples else float((frame.duration or 0) * (frame.time_base or tick or 0))
        )
        extent.decoded += length
        if measured:
            extent.add(frame, length)


def seconds(ticks: int | None, time_base: Any) -> float | None:
    return float(ticks * time_base) if ticks is not None and time_base is not None else None


def mp4_boxes(path: Path) -> tuple[int, bool]:
    """How many bytes the top-level boxes reach beyond the file, and whether it is fragmented without an overall
    duration (ISO/IEC 14496-12 §4.2, §8.8.2)."""
    size, position, missing, fragmented = path.stat().st_size, 0, 0, False
    with path.open("rb") as file:
        while position + 8 <= size:
            file.seek(position)
            header = file.read(16)
            length, kind = struct.unpack(">I4s", header[:8])
            if length == 1 and len(header) == 16:
                length = struct.unpack(">Q", header[8:])[0]
            if length < 8:  # 0: the last box reaches to the end of the file
                break
            if kind == b"moov":
                moov = header + file.read(min(length, MOOV_BYTES))
                fragmented = b"mvex" in moov and b"mehd" not in moov
            position += length
            if position > size and kind not in MEDIA_BOXES:  # trailing tags and garbage are nobody's loss
                break
            missing = max(0, position - size)
    return missing, fragmented


def riff_chunks(path: Path) -> int:
    """How many bytes the RIFF chunks of a WAV or AVI reach beyond the file; 0 for any other format. Its demuxers give
    the duration of what is there, so only the chunks tell of a cut (an AVI beyond 1 GiB has several)."""
    size, position = path.stat().st_size, 0
    with path.open("rb") as file:
        while position + 8 <= size:
            file.seek(position)
            kind, length = struct.unpack("<4sI", file.read(8))
            if kind != b"RIFF" or length in UNKNOWN_RIFF_LENGTHS:
                break
            position += 8 + length
    missing = position - size
    return missing if missing > SLOPPY_RIFF_BYTES else 0


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    depth, path, names = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    av.logging.set_level(av.logging.FATAL)
    try:
        say({"media": inspect_file(depth, path, names)})
    except (av.error.FFmpegError, ValueError, ArithmeticError, OSError, MemoryError) as error:
        say({"refused": getattr(error, "strerror", None) or str(error) or type(error).__name__})


if __name__ == "__main__":
    main()

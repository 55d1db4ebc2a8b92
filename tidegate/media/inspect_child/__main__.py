"""Opens one local media file and prints what is in it, as JSON lines. Runs as a child process of its own.

`inspect.py` starts it under supervision, so that a hostile file can hang or crash only this process. It imports PyAV
and the modules beside it, but nothing else of ours: pydantic alone would double its start-up. It writes nothing.

    python inspect_child header|packets|sampled|frames PATH \
        '{"allowed": [demuxers], "declaring": [demuxers], "decoders": [decoders]}'
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import av.error
import av.format
import av.logging

if TYPE_CHECKING:
    from tidegate.media.inspect_child.boxes import mp4_boxes, riff_chunks
    from tidegate.media.inspect_child.decoding import SampleDecoder, decode_packet, look
    from tidegate.media.inspect_child.extent import Extent, Rhythm
    from tidegate.media.inspect_child.facts import describe, describe_file
else:  # a folder that is run is the first place where its modules are found, also with -I
    from boxes import mp4_boxes, riff_chunks
    from decoding import SampleDecoder, decode_packet, look
    from extent import Extent, Rhythm
    from facts import describe, describe_file

PROGRESS_SECONDS = 0.5
PIECE_CHARACTERS = 16 * 1024
"""Of an answer in one line; escaped, it is at most twice as long."""
RESYNCS = 1000
"""How often a demuxer may look for the next packet after damage."""
openable: set[str] = set()
"""The decoders that may be opened."""


def inspect_file(depth: str, path: Path, names: dict[str, list[str]]) -> dict[str, Any]:
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": ",".join(names["allowed"]),
        "codec_whitelist": ",".join(names["decoders"]),
    }
    openable.update(names["decoders"])
    with av.open(str(path), options=options, metadata_errors="ignore") as container:
        streams = [describe(stream) for stream in container.streams]
        facts = describe_file(container, streams)
        if depth != "header":
            read_all(container, streams, depth)
        formats = set(container.format.name.split(","))
        missing, fragmented = mp4_boxes(path) if "mp4" in formats else (riff_chunks(path), False)
        return {
            **facts,
            "container": container.format.name,
            "size_bytes": path.stat().st_size,
            "duration_seconds": container.duration / av.time_base if container.duration else None,
            "declares_duration": bool(formats & set(names["declaring"]) and container.duration and not fragmented),
            "missing_bytes": missing,
            "streams": streams,
            "depth": depth,
        }


def read_all(container: Any, streams: list[dict[str, Any]], depth: str) -> None:
    """Every packet of every stream; every frame of picture and sound too, or samples of them."""
    joins = bool(container.format.flags & av.format.Flags.ts_discont.value)
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
        if index in films and not decodable and packet.size:
            look(packet, extent)
        if index in decodable and whole:
            extent.packets += bool(packet.size) and not packet.is_discard
            extent.note_order(packet)
            decode_packet(packet, extent)
        elif packet.size:
            extent.add_packet(packet)
            if index in samples:
                samples[index].take(packet)
        elif index in samples:
            samples[index].end(packet)
        if time.monotonic() - reported_at >= PROGRESS_SECONDS:
            reported_at = time.monotonic()
            say({"progress": {"packets": sum(e.packets for e in extents), "seconds": extent.end() or 0.0}})
    for facts, extent in zip(streams, extents, strict=True):
        index = facts["index"]
        facts |= reach(facts, extent, rhythms.get(index), decoded=index in decodable)


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


def reach(facts: dict[str, Any], extent: Extent, rhythm: Rhythm | None, *, decoded: bool) -> dict[str, Any]:
    """What was found out about a stream by reading it."""
    end = extent.end(rhythm.usual if rhythm is not None else None)
    held = end - extent.start if end is not None and extent.start is not None else None
    if held is None and extent.packets and facts.get("frame_rate"):
        held = extent.packets / facts["frame_rate"]  # a raw stream carries no times
    seen = (
        {"variable_rate": rhythm.variable, "captions": facts.get("captions", False) or extent.captions}
        if rhythm
        else {}
    )
    if rhythm and extent.rotation is not None:
        seen["rotation"] = extent.rotation % 360
    return seen | {
        "start_seconds": extent.start,
        "end_seconds": end,
        "held_seconds": held,
        "last_seconds": extent.last,
        "covered_seconds": extent.covered or None,
        "gap_seconds": round(extent.gaps, 3),
        "lead_seconds": round(extent.lead, 3),
        "packets": extent.packets,
        "frames": extent.frames if decoded else None,
        "decoded_seconds": round(extent.decoded, 3) if decoded else None,
        "decode_errors": extent.errors_inside(),
        "edge_errors": len(extent.errors) - extent.errors_inside(),
    }


def answer(media: dict[str, Any]) -> None:
    """In pieces, since nobody reads a line without an end: chapters, tags and streams may be many."""
    text = json.dumps(media)
    for at in range(0, len(text), PIECE_CHARACTERS):
        say({"piece": text[at : at + PIECE_CHARACTERS]})
    say({"whole": "media"})


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    depth, path, names = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    av.logging.set_level(av.logging.FATAL)
    try:
        answer(inspect_file(depth, path, names))
    except (av.error.FFmpegError, ValueError, ArithmeticError, OSError, MemoryError) as error:
        say({"refused": getattr(error, "strerror", None) or str(error) or type(error).__name__})


if __name__ == "__main__":
    main()

"""When does a segment of MPEG transport stream begin and end? Read from its packets, without a demuxer.

`assemble` asks at each discontinuity whether timestamps go on there: most advertisements jump,
most edits do not. Pure; a segment that cannot be read has no edges, and then nothing goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tidegate.transfer.playlists.plausible import TS_PACKET_BYTES, TS_SYNC

TICKS_PER_SECOND = 90_000
"""Of a timestamp in a transport stream, and in the map that captions have to it."""
WRAP = 1 << 33
LONGEST_STEP_SECONDS = 1.0
"""How far the first timestamp of a segment may lie beyond the last one before it, for the two to be one recording."""
_PAT = 0


@dataclass(frozen=True)
class Edges:
    """What a segment shows at its ends."""

    program: bytes = b""
    """The table that says which streams there are; equal tables, equal streams."""
    parameters: bytes = b""
    """How the picture is encoded: the first sequence parameters that are shown."""
    first: dict[int, int] = field(default_factory=dict)
    """The lowest timestamp of each stream, by packet identifier."""
    last: dict[int, int] = field(default_factory=dict)


def edges_of(segment: bytes) -> Edges:
    """Where the streams of a segment begin and end."""
    program, parameters, maps = b"", b"", set()
    stamps: dict[int, list[int]] = {}
    for identifier, payload in _starts(segment):
        if identifier == _PAT:
            maps |= set(_map_identifiers(payload))
        elif identifier in maps:
            program = program or _section(payload)
        elif (stamp := _timestamp(payload)) is not None:
            stamps.setdefault(identifier, []).append(stamp)
            parameters = parameters or _parameters(payload)
    first = {identifier: _earliest(found) for identifier, found in stamps.items()}
    last = {identifier: _latest(found) for identifier, found in stamps.items()}
    return Edges(program, parameters, first, last)


def continues(before: Edges, after: Edges) -> bool:
    """Whether `after` follows `before` as if nothing had happened between them."""
    if not before.program or (before.program, before.parameters) != (after.program, after.parameters):
        return False
    if before.last.keys() != after.first.keys():
        return False
    steps = [(after.first[stream] - before.last[stream]) % WRAP for stream in before.last]
    return bool(steps) and all(0 < step <= LONGEST_STEP_SECONDS * TICKS_PER_SECOND for step in steps)


def _starts(segment: bytes) -> Iterator[tuple[int, bytes]]:
    """Packet identifier and payload of the packets in which a section or a frame begins."""
    for at in range(0, len(segment) - TS_PACKET_BYTES + 1, TS_PACKET_BYTES):
        if segment[at] != TS_SYNC or not segment[at + 1] & 0x40:
            continue
        field_control = segment[at + 3] >> 4 & 3
        begin = at + 4 + (1 + segment[at + 4] if field_control & 2 else 0)
        if field_control & 1 and begin < at + TS_PACKET_BYTES:
            yield (segment[at + 1] & 0x1F) << 8 | segment[at + 2], segment[begin : at + TS_PACKET_BYTES]


def _section(payload: bytes) -> bytes:
    """A table without its version and checksum, which say nothing about streams."""
    section = payload[1 + payload[0] :] if payload else b""
    if len(section) < 12:
        return b""
    length = (section[1] & 0x0F) << 8 | section[2]
    return section[8 : 3 + length - 4]


def _map_identifiers(payload: bytes) -> Iterator[int]:
    table = _section(payload)
    for at in range(0, len(table) - 3, 4):
        if table[at] or table[at + 1]:  # program 0 names the network table
            yield (table[at + 2] & 0x1F) << 8 | table[at + 3]


def _timestamp(payload: bytes) -> int | None:
    """The presentation time of the frame that begins here."""
    if len(payload) < 14 or payload[:3] != b"\x00\x00\x01" or not payload[7] & 0x80:
        return None
    a, b, c, d, e = payload[9:14]
    return (a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1


def _parameters(payload: bytes) -> bytes:
    """The sequence parameters of H.264 or HEVC, as far as they lie in the packet in which a picture begins."""
    if not 0xE0 <= payload[3] <= 0xEF:
        return b""
    units = payload.split(b"\x00\x00\x01")[2:]  # before the first lies the packet's own header
    return next((unit for unit in units if unit and (unit[0] & 0x1F == 7 or unit[0] >> 1 & 0x3F == 33)), b"")


def _earliest(stamps: list[int]) -> int:
    return min(stamps, key=lambda stamp: _shortest_way(stamp - stamps[0]))


def _latest(stamps: list[int]) -> int:
    return max(stamps, key=lambda stamp: _shortest_way(stamp - stamps[0]))


def _shortest_way(difference: int) -> int:
    """The short way round the clock."""
    return (difference + WRAP // 2) % WRAP - WRAP // 2

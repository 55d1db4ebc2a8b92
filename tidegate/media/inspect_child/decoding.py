"""Decodes pictures and sound, all or samples of them, and notes what fails and where. Part of the probe child."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import av.error

if TYPE_CHECKING:
    from tidegate.media.inspect_child.extent import Extent

SAMPLED_EDGE_SECONDS = 30.0
"""How much of the beginning and of the end is decoded where only samples are."""
SAMPLES, SAMPLE_SECONDS = 24, 5.0
"""How many samples, evenly spread, are decoded between them, and how long each is at least."""
LOOKED_WITHIN = 32
"""Packets within which the first picture comes out of its decoder."""
CAPTIONS = "A53_CC"
"""The side data of a picture that carries closed captions (ATSC A/53 part 4)."""


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
            self._at_key(at if at is not None else self._extent.end() or 0.0)
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


def decode_packet(packet: Any, extent: Extent, *, measured: bool = True) -> None:
    at = float(packet.pts * packet.time_base) if packet.pts is not None else extent.end() or 0.0
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
        note_picture(frame, extent)
        samples = getattr(frame, "samples", 0)
        length = (
            samples / frame.sample_rate if samples else float((frame.duration or 0) * (frame.time_base or tick or 0))
        )
        extent.decoded += length
        if measured:
            extent.add_frame(frame, length)


def look(packet: Any, extent: Extent) -> None:
    """Decode the first pictures of a film that is not decoded otherwise; what fails here has another turn later."""
    if extent.packets >= LOOKED_WITHIN or extent.rotation is not None:
        return
    with contextlib.suppress(av.error.FFmpegError, ValueError):
        for frame in packet.decode()[:1]:
            note_picture(frame, extent)


def note_picture(frame: Any, extent: Extent) -> None:
    """How a picture is turned, and whether it carries captions."""
    if extent.rotation is None:
        extent.rotation = getattr(frame, "rotation", None)
    if not extent.captions and extent.rotation is not None:
        extent.captions = any(data.type.name == CAPTIONS for data in frame.side_data)

"""A look at a file's head, and at its tail where the head is not enough, through our own transport.

The direct and local resolvers call it. The head stays in the part, so that its bytes are fetched once; what is made of
head and tail for the demuxers is a temporary file that no crash turns into a result.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread

from tidegate.errors import NotMedia, from_os_error
from tidegate.model import Identity, MediaInfo, TransferStats
from tidegate.transfer.file.exchange import Connect
from tidegate.transfer.file.part import Part, open_part
from tidegate.transfer.file.transfer import Transfer
from tidegate.transfer.outside import Outside
from tidegate.transfer.verify import refuse_text

PEEK_BYTES = 1024 * 1024
"""How much of head and tail is looked at (DESIGN §2.2)."""
MOST_FILE_BYTES = 2**63 - 1
"""Offsets of files have 63 bits."""


@dataclass(frozen=True)
class PeekResult:
    """What was seen, and what it cost."""

    preview: MediaInfo | None
    cost: TransferStats


async def peek(outside: Outside, connect: Connect, folder: Path, identity: Identity) -> PeekResult:
    """Look at a source of one file.

    Raises:
        NotMedia: text, markup, nothing, or a file that no demuxer opens although all of it was seen.
        IsPlaylist: another resolver knows this.
        TidegateError: the source cannot be read.
    """
    async with open_part(folder, identity, outside.limits, outside.observe, trust=outside.trust) as part:
        transfer = Transfer(connect, part, outside.limits, outside.observe, stage="probe", until=PEEK_BYTES)
        await transfer.run()
        refuse_text(part.read(0, min(PEEK_BYTES, part.prefix_bytes)), identity.content_type)
        return PeekResult(await _preview(outside, transfer), transfer.stats)


async def _preview(outside: Outside, transfer: Transfer) -> MediaInfo | None:
    """What head and tail tell; None when only the whole file can tell."""
    part = transfer.part
    if part.complete:
        return await outside.look(part.path)
    with contextlib.suppress(NotMedia):
        media = await outside.look(part.path)
        if media.streams and (media.declares_duration or not part.identity.ranges):
            return media
    if (part.identity.size_bytes or 0) > MOST_FILE_BYTES:
        raise NotMedia(f"The source says that it has {part.identity.size_bytes} bytes, as no file can have")
    tail = await transfer.tail(max(part.prefix_bytes, (part.identity.size_bytes or 0) - PEEK_BYTES))
    if tail is None:
        return None
    try:
        preview = await to_thread.run_sync(_head_and_tail, part, tail)
    except OSError as error:
        raise from_os_error(error, "probing", part.path) from error
    try:
        return await outside.look(preview)
    except NotMedia:
        return None
    finally:
        preview.unlink(missing_ok=True)


def _head_and_tail(part: Part, tail: bytes) -> Path:
    """A sparse file of the source's size with a hole in the middle: demuxers find the index wherever it is."""
    preview = part.path.with_name("peek.tmp")
    with preview.open("wb") as file:
        file.write(part.read(0, PEEK_BYTES))
        file.truncate(part.identity.size_bytes or 0)
        file.seek((part.identity.size_bytes or 0) - len(tail))
        file.write(tail)
    return preview

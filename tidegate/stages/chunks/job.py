"""One piece of a transcode, made by one ffmpeg, and the record that says that it is done.

An executor calls `make` on any host that sees the same scratch folder; `known` finds what earlier attempts left. A
piece counts as done by what it was asked to be, its number of pictures and its checksum: bytes are synced before the
record is written, so a torn, lost or outdated record only means that the piece is made again. Files are named after
their content, so two attempts at once never write the same one.
"""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

from pydantic import ValidationError

from tidegate.durable.atomic import sync_file, sync_folder, write_atomic
from tidegate.durable.children import own_name
from tidegate.durable.crash_points import reached
from tidegate.durable.hashing import blake3_of
from tidegate.durable.threads import in_thread
from tidegate.errors import VerificationFailed, from_os_error
from tidegate.events import Observer
from tidegate.media.ffmpeg import FfmpegResult, file_url, run_ffmpeg
from tidegate.model import Digest, ResourceUse, Value
from tidegate.settings import ProcessSettings
from tidegate.stages.chunks.samples import samples_in

UNFINISHED = "*.partial"
"""What a killed attempt leaves of the pieces that it was making."""


class Piece(Value):
    """What is to be made."""

    key: str
    """Fingerprint of everything that it depends on; see `transcode.spec`."""
    title: str
    """For messages: "chunk 3 of 12"."""
    argv: tuple[str, ...]
    """The command, but for the name of its output."""
    folder: Path
    """Shared by all attempts at the same work."""
    frames: int | None
    """How many pictures it must hold; None: it is the sound."""
    length_seconds: float | None
    deadline_seconds: float
    memory_cap_bytes: int | None
    limits: ProcessSettings

    @property
    def record(self) -> Path:
        return self.folder / f"{self.key}.json"


class Made(Value):
    """The record of a piece that is done."""

    key: str
    name: str
    """Of its file."""
    frames: int | None
    size_bytes: int
    digest: Digest
    resources: ResourceUse | None = None
    """What making it took; None in records from before it was noted."""
    concealed: int = 0
    """Places of the source that could not be decoded."""


async def make(piece: Piece, observe: Observer) -> Made:
    """Encode it, count its pictures, and record it.

    Raises:
        VerificationFailed: it has more or fewer pictures than the source.
        TidegateError: what `run_ffmpeg` raises; DiskFull and its like.
    """
    unfinished = piece.folder / f"{own_name(piece.key)}-{secrets.token_hex(4)}.partial"
    try:
        ran = await run_ffmpeg(
            [*piece.argv, file_url(unfinished)],
            stage="remux",
            limits=piece.limits,
            deadline_seconds=piece.deadline_seconds,
            media_seconds=piece.length_seconds,
            observe=observe,
            outputs=(unfinished,),
            memory_cap_bytes=piece.memory_cap_bytes,
        )
        return await in_thread(_recorded, piece, unfinished, ran)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def known(piece: Piece) -> Made | None:
    """The piece as an earlier attempt made it, if it is whole. Reads the file. Blocking."""
    try:
        made = Made.model_validate_json(piece.record.read_bytes())
        path = piece.folder / made.name
        asked = (made.key, made.frames) == (piece.key, piece.frames)
        if asked and path.stat().st_size == made.size_bytes and blake3_of(path) == made.digest:
            return made
    except (OSError, ValidationError):  # missing, torn, or nobody's
        pass
    return None


def clear_unfinished(folder: Path) -> None:
    """Remove what killed attempts were making; one that still lives has lost this work, and fails without harm."""
    for left in folder.glob(UNFINISHED):
        left.unlink(missing_ok=True)


def _recorded(piece: Piece, unfinished: Path, ran: FfmpegResult) -> Made:
    try:
        frames = _counted(piece, unfinished)
        digest = blake3_of(unfinished)
        made = Made(
            key=piece.key,
            name=f"{piece.key}-{digest.partition(':')[2][:16]}.mp4",
            frames=frames,
            size_bytes=unfinished.stat().st_size,
            digest=digest,
            resources=ran.resources,
            concealed=ran.concealed,
        )
        sync_file(unfinished)
        unfinished.rename(piece.folder / made.name)
        sync_folder(piece.folder)
    except OSError as error:
        raise from_os_error(error, f"keeping {piece.title}", piece.folder) from error
    what = "sound" if frames is None else "chunk"
    reached(f"{what}: encoded, not journaled")
    write_atomic(piece.record, made.model_dump_json().encode())
    reached(f"{what}: journaled")
    return made


def _counted(piece: Piece, path: Path) -> int | None:
    if piece.frames is None:
        return None
    frames = samples_in(path)
    if frames != piece.frames:
        raise VerificationFailed(f"{piece.title} has {frames} pictures, the source has {piece.frames} there")
    return frames

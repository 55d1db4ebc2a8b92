"""One chunk of a transcode, made by one ffmpeg, and the record that says that it is done.

An executor calls `make` on any host that sees the same scratch folder; `find_file` finds what earlier attempts left. A
chunk counts as done by what it was asked to be, its number of pictures and its checksum: bytes are synced before the
record is written, so a torn, lost or outdated record only means that the chunk is made again. Files are named after
their content, so two attempts at once never write the same one.
"""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

from pydantic import ValidationError

from tidegate.durable.atomic import sync_file, sync_folder, write_atomic
from tidegate.durable.children import own_name
from tidegate.durable.crash_points import crash_point
from tidegate.durable.hashing import blake3_of
from tidegate.durable.threads import in_thread
from tidegate.errors import VerificationFailed, from_os_error
from tidegate.events import Observer
from tidegate.media.ffmpeg import FfmpegResult, file_url, run_ffmpeg
from tidegate.model import Digest, ResourceUse, Value
from tidegate.settings import ProcessSettings
from tidegate.stages.chunks.samples import samples_in

UNFINISHED = "*.partial"
"""What a killed attempt leaves of the chunks that it was making."""


class ChunkJob(Value):
    """One file that is to be made: a stretch of the picture, or the sound."""

    key: str
    """Fingerprint of everything that it depends on; see `transcode._ChunkedTranscode._key`."""
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
    def record_path(self) -> Path:
        return self.folder / f"{self.key}.json"


class ChunkFile(Value):
    """The record of a job that is done."""

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


async def make(job: ChunkJob, observe: Observer) -> ChunkFile:
    """Encode it, count its pictures, and record it.

    Raises:
        VerificationFailed: it has more or fewer pictures than the source.
        TidegateError: what `run_ffmpeg` raises; DiskFull and its like.
    """
    unfinished = job.folder / f"{own_name(job.key)}-{secrets.token_hex(4)}.partial"
    try:
        result = await run_ffmpeg(
            [*job.argv, file_url(unfinished)],
            stage="remux",
            limits=job.limits,
            deadline_seconds=job.deadline_seconds,
            media_seconds=job.length_seconds,
            observe=observe,
            outputs=(unfinished,),
            memory_cap_bytes=job.memory_cap_bytes,
        )
        return await in_thread(_record, job, unfinished, result)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def find_file(job: ChunkJob) -> ChunkFile | None:
    """What an earlier attempt made for this job, if it is whole. Reads the file. Blocking."""
    try:
        file = ChunkFile.model_validate_json(job.record_path.read_bytes())
        path = job.folder / file.name
        fits = (file.key, file.frames) == (job.key, job.frames)
        if fits and path.stat().st_size == file.size_bytes and blake3_of(path) == file.digest:
            return file
    except (OSError, ValidationError):  # missing, torn, or nobody's
        pass
    return None


def clear_partials(folder: Path) -> None:
    """Remove what killed attempts were making; one that still lives has lost this work, and fails without harm."""
    for left in folder.glob(UNFINISHED):
        left.unlink(missing_ok=True)


def _record(job: ChunkJob, unfinished: Path, result: FfmpegResult) -> ChunkFile:
    try:
        frames = _count_frames(job, unfinished)
        digest = blake3_of(unfinished)
        file = ChunkFile(
            key=job.key,
            name=f"{job.key}-{digest.partition(':')[2][:16]}.mp4",
            frames=frames,
            size_bytes=unfinished.stat().st_size,
            digest=digest,
            resources=result.resources,
            concealed=result.concealed,
        )
        sync_file(unfinished)
        unfinished.rename(job.folder / file.name)
        sync_folder(job.folder)
    except OSError as error:
        raise from_os_error(error, f"keeping {job.title}", job.folder) from error
    what = "sound" if frames is None else "chunk"
    crash_point(f"{what}: encoded, not journaled")
    write_atomic(job.record_path, file.model_dump_json().encode())
    crash_point(f"{what}: journaled")
    return file


def _count_frames(job: ChunkJob, path: Path) -> int | None:
    if job.frames is None:
        return None
    frames = samples_in(path)
    if frames != job.frames:
        raise VerificationFailed(f"{job.title} has {frames} pictures, the source has {job.frames} there")
    return frames

"""A transcode that a crash costs one chunk: the picture encoded chunk by chunk, the sound whole, joined and verified.

The remux stage calls it for its transcode rung. What is done lies in scratch, recorded chunk by chunk, for every
attempt at the same work; `docs/stages/transcode.md` tells how films are cut, and which are kept whole. A joined file
that is not what it should be is never believed: the film is then encoded whole, once.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tidegate.durable.atomic import write_atomic
from tidegate.durable.crash_points import crash_point
from tidegate.durable.threads import in_thread
from tidegate.errors import Extra, TidegateError, VerificationFailed, from_os_error
from tidegate.events import Advance, Note, Observer, ignore_events
from tidegate.media.ffmpeg import (
    MOST_THREADS,
    Toolchain,
    base_arguments,
    file_url,
    global_arguments,
    input_restrictions,
    run_ffmpeg,
)
from tidegate.media.inspect import inspect
from tidegate.media.join import concat_list
from tidegate.media.mp4_flags import hide_subtitles
from tidegate.media.timeline import Timeline, timeline_of
from tidegate.model import Aim, ChunkRecord, Decision, DownloadResult, MediaInfo, ResourceUse, Verification, fingerprint
from tidegate.resilience.deadline import process_seconds
from tidegate.resilience.quality import rung_of
from tidegate.stages.chunks.job import ChunkFile, ChunkJob, clear_partials, find_file
from tidegate.stages.chunks.plan import Chunk, Cut, cut, why_whole
from tidegate.stages.encoders import SOFTWARE, Encoder, encoder_for
from tidegate.stages.executor import Executor, LocalExecutor
from tidegate.stages.host import cap_bytes_of
from tidegate.stages.recipes import (
    chunk_arguments,
    join_arguments,
    offsets_seconds,
    repair_arguments,
    sound_arguments,
    video_arguments,
)
from tidegate.stages.verification import depth_for, verify
from tidegate.stages.workbench import Workbench

SPEC = 1
"""Raise it when a chunk would be made otherwise though its flags are the same."""
SOUND_SHARE = 8
"""The encoder of the sound may hold one part in so many of the cap: it needs a few megabytes."""
CHUNKS = "chunks"
"""The folder of the chunks, in the scratch of their work."""


def memory_cap(aim: Aim) -> int:
    """Bytes that the tools of a rung may hold together on this host."""
    return cap_bytes_of(rung_of(aim.rung))


@dataclass(frozen=True)
class VerifiedOutput:
    """What a strategy gave: a whole file, and what is known of it."""

    media: MediaInfo
    verification: Verification
    concealed: int
    """Places of the source that its decoder could not decode, and made up."""
    chunks: ChunkRecord | None = None
    """How it was encoded; None: it was not."""


def _ignore_use(use: ResourceUse) -> None:
    """For a film of which nobody asks what its tools used."""


@dataclass(frozen=True)
class Film:
    """One source, and the file that one strategy is to make of it."""

    bench: Workbench
    toolchain: Toolchain
    version: str
    """What the tool says of itself."""
    source: DownloadResult
    decision: Decision
    output: Path
    key: str
    """The work key."""
    aim: Aim
    """Whose limits hold."""
    encoder: Encoder = SOFTWARE
    note_use: Callable[[ResourceUse], None] = _ignore_use
    """Hears what each tool that works on it has used; of other hosts' too."""

    @property
    def media(self) -> MediaInfo:
        return self.source.media

    @property
    def originals(self) -> list[Path]:
        return [self.bench.store.path(self.source.asset, track) for track in self.source.asset.tracks]

    @property
    def place(self) -> tuple[int, int]:
        """Where the picture is: the number of its file, and its number in there."""
        video = self.media.video
        assert video is not None  # noqa: S101  # `why_whole` has asked
        return video.track, video.index if video.place is None else video.place

    @property
    def deadline_seconds(self) -> float:
        """For the whole film."""
        return self.seconds_for(self.source.asset.size_bytes)

    @property
    def memory_cap_bytes(self) -> int:
        """For all that works on it at once, on one host: of the rung, or what is set if that is less."""
        return min(memory_cap(self.aim), self.bench.settings.process.memory_cap or sys.maxsize)

    def seconds_for(self, size_bytes: int) -> float:
        """How long a tool may take for so much of the source."""
        return process_seconds(self.bench.settings.process, size_bytes) * rung_of(self.aim.rung).timeout_factor


EncodeWhole = Callable[[Film], Awaitable[VerifiedOutput]]
"""Encodes a film in one go, and verifies it."""


async def transcode(film: Film, encode_whole: EncodeWhole) -> VerifiedOutput:
    """The film in chunks; by `encode_whole` where it is not cut, or where the chunks did not come to a whole film.

    Raises:
        TidegateError: a chunk failed in a way that encoding it otherwise does not cure; the others stay for the next
            attempt. Or whatever `encode_whole` raises.
    """
    encoder = await encoder_for(film.bench, film.toolchain) if film.decision.video == "h264" else SOFTWARE
    if encoder is not SOFTWARE:
        try:
            return await _with_one_encoder(replace(film, encoder=encoder), encode_whole)
        except TidegateError as failure:
            if not failure.policy.another_encoder:
                raise
            film.bench.observe(
                Note(f"transcode: {encoder.name} failed; libx264 is used instead: {failure.message}", "warning")
            )
    return await _with_one_encoder(film, encode_whole)


async def _with_one_encoder(film: Film, encode_whole: EncodeWhole) -> VerifiedOutput:
    plan = await _plan(film)
    if isinstance(plan, str):
        film.bench.observe(Note(f"transcode: in one piece: {plan}", "detail"))
        return replace(await encode_whole(film), chunks=ChunkRecord(why_whole=plan, encoder=film.encoder.name))
    work = _ChunkedTranscode(film, *plan)
    try:
        return await work.run()
    except TidegateError as failure:
        if not failure.policy.climbs:
            raise
        why = f"its chunks did not make a complete film: {failure.message}"
    film.bench.observe(Note(f"transcode: in one piece: {why}", "warning"))
    return replace(await encode_whole(film), chunks=work.record.model_copy(update={"why_whole": why}))


async def _plan(film: Film) -> tuple[Timeline, Cut] | str:
    limits = film.bench.settings.process
    seconds = limits.chunk_seconds.total_seconds()
    why = why_whole(film.decision, film.media, seconds)
    if why is not None:
        return why
    try:
        timeline = await timeline_of(film.toolchain, film.originals, *film.place, limits, film.deadline_seconds)
    except TidegateError as failure:
        if Extra.TIMELINE not in failure.policy.goes_without:
            raise
        return failure.message
    plan = cut(timeline, seconds)
    return plan if isinstance(plan, str) else (timeline, plan)


class _ChunkedTranscode:
    """One film in chunks, and what has come of them so far."""

    def __init__(self, film: Film, timeline: Timeline, plan: Cut) -> None:
        self.film = film
        self.timeline = timeline
        self.plan = plan
        bench = film.bench
        threads = film.toolchain.encoder_threads
        self.executor: Executor = bench.executor or LocalExecutor.of(bench.settings.process, threads)
        self.folder = bench.home.scratch(film.key, CHUNKS)
        self.threads = self._threads_as_before(self.executor.threads_each(threads))
        self.record = ChunkRecord(
            planned=len(plan.chunks),
            workers=self.executor.workers,
            executor=self.executor.name,
            encoder=film.encoder.name,
        )
        self._files: dict[str, ChunkFile] = {}

    async def run(self) -> VerifiedOutput:
        """Make what is missing, join, verify."""
        chunks = [self._chunk_job(chunk) for chunk in self.plan.chunks]
        sound = self._sound_job()
        jobs = [*([sound] if sound else []), *chunks]
        await in_thread(self._find_files, jobs)
        self.film.bench.require_space(self.folder, self._estimate_bytes(chunks))
        await self._make(jobs)
        await self._join(chunks, sound)
        crash_point("chunks: joined, not verified")
        return await self._verify()

    def _threads_as_before(self, threads: int) -> int:
        """The threads of each chunk, as the first attempt at this rung had them: x264's bytes depend on their number,
        and that depends on the memory that is free at the moment. Nobody shall lose chunks for that."""
        if self.film.bench.settings.tools.threads is not None:
            return threads
        note = self.folder / f"threads-{self.film.aim.rung}"
        with contextlib.suppress(OSError, ValueError):
            return max(1, min(int(note.read_text()), MOST_THREADS))
        write_atomic(note, str(threads).encode())
        return threads

    def _chunk_job(self, chunk: Chunk) -> ChunkJob:
        film, (track, place) = self.film, self.film.place
        head = [
            "-copyts",
            *(("-ss", f"{chunk.seek_seconds:.6f}") if chunk.seek_seconds is not None else ()),
        ]
        tick = ":".join(map(str, self.plan.encoder_tick))
        video = film.encoder.adapt(video_arguments(film.decision, film.media, self.threads))
        tail = chunk_arguments(video, place, (chunk.after_seconds, chunk.before_seconds), tick)
        demuxer = repair_arguments(film.decision, film.media)
        return ChunkJob(
            key=self._key(track, head, demuxer, tail),
            title=f"chunk {chunk.number + 1} of {len(self.plan.chunks)}",
            argv=tuple(
                film.encoder.with_device(
                    [
                        *global_arguments(film.toolchain.ffmpeg),
                        *head,
                        *input_restrictions(),
                        *demuxer,
                        *("-i", file_url(film.originals[track])),
                        *tail,
                    ]
                )
            ),
            folder=self.folder,
            frames=chunk.frames,
            length_seconds=chunk.length_us / 1e6,
            deadline_seconds=film.seconds_for(film.source.asset.size_bytes // len(self.plan.chunks)),
            memory_cap_bytes=self._worker_bytes(),
            limits=film.bench.settings.process,
        )

    def _sound_job(self) -> ChunkJob | None:
        film = self.film
        if film.decision.audio != "aac":
            return None
        demuxer, offsets = repair_arguments(film.decision, film.media), offsets_seconds(film.media)
        tail = sound_arguments(film.decision, film.media)
        begin = base_arguments(film.toolchain.ffmpeg, *film.originals, demuxer_options=demuxer, offsets_seconds=offsets)
        return ChunkJob(
            key=self._key("sound", offsets, demuxer, tail),
            title="the sound",
            argv=(*begin, *tail),
            folder=self.folder,
            frames=None,
            length_seconds=film.media.length_seconds,
            deadline_seconds=film.deadline_seconds,
            memory_cap_bytes=film.memory_cap_bytes // SOUND_SHARE,
            limits=film.bench.settings.process,
        )

    def _worker_bytes(self) -> int:
        """What a worker may hold: its share, as of the threads, of what the sound beside them leaves of the cap."""
        cap, threads = self.film.memory_cap_bytes, max(self.film.toolchain.encoder_threads, self.threads)
        beside = cap // SOUND_SHARE if self.film.decision.audio == "aac" else 0
        return (cap - beside) * self.threads // threads

    def _key(self, *flags: object) -> str:
        """A chunk is the same if its source, the tool and every flag are; the flags tell where it begins and ends."""
        return fingerprint(SPEC, self.film.source.asset.address, self.film.version, *flags)

    def _find_files(self, jobs: Sequence[ChunkJob]) -> None:
        """Find what earlier attempts made. Blocking."""
        try:
            clear_partials(self.folder)
        except OSError as error:
            raise from_os_error(error, "taking up the chunks", self.folder) from error
        for job in jobs:
            file = find_file(job)
            if file is not None:
                self._files[job.key] = file
        reused = sum(job.key in self._files for job in jobs if job.frames is not None)
        self.record = self.record.model_copy(update={"reused": reused})
        if reused:
            self.film.bench.observe(Note(f"remux: {reused} of {self.record.planned} chunks are already there"))

    def _estimate_bytes(self, chunks: Sequence[ChunkJob]) -> int:
        """About what the chunks that are missing will take, by what the source takes."""
        missing = sum(chunk.key not in self._files for chunk in chunks)
        return self.film.source.asset.size_bytes * missing // len(chunks)

    async def _make(self, jobs: Sequence[ChunkJob]) -> None:
        missing = [job for job in jobs if job.key not in self._files]
        progress = _OverallProgress(self.film.bench.observe, sum(chunk.length_us for chunk in self.plan.chunks) / 1e6)
        for job in jobs:
            if job.key in self._files:
                progress.finish(job)
        if missing:
            await self.executor.run(missing, progress.observer_of, lambda job, file: self._keep(progress, job, file))
            self.record = self.record.model_copy(update={"workers": self.executor.workers})

    def _keep(self, progress: _OverallProgress, job: ChunkJob, file: ChunkFile) -> None:
        self._files[job.key] = file
        if file.resources:
            self.film.note_use(file.resources)
        progress.finish(job)
        if job.frames is not None:
            self.record = self.record.model_copy(update={"encoded": self.record.encoded + 1})
            self.film.bench.observe(Note(f"remux: {job.title} is done", "detail"))

    async def _join(self, chunks: Sequence[ChunkJob], sound: ChunkJob | None) -> None:
        film = self.film
        paths = [self._path(chunk) for chunk in chunks]
        film.bench.require_space(film.output.parent, sum(file.size_bytes for file in self._files.values()))
        concat_file = film.output.with_suffix(".ffconcat")
        try:
            concat_file.write_text(concat_list(paths, [chunk.length_us for chunk in self.plan.chunks]))
            await run_ffmpeg(
                self._join_command(concat_file, sound),
                stage="remux",
                limits=film.bench.settings.process,
                deadline_seconds=film.deadline_seconds,
                media_seconds=film.media.length_seconds,
                observe=ignore_events,
                outputs=(film.output,),
                listed=tuple(paths),
                memory_cap_bytes=film.memory_cap_bytes,
            )
        except OSError as error:
            raise from_os_error(error, "joining the chunks", film.output) from error
        finally:
            concat_file.unlink(missing_ok=True)

    def _join_command(self, concat_file: Path, sound: ChunkJob | None) -> list[str]:
        """Every input keeps its times (`-copyts`); what ffmpeg would do to them by itself is done here, to the tick."""
        film, track = self.film, self.film.place[0]
        offsets = offsets_seconds(film.media)
        sources: list[str] = []
        for path, offset, begins_us in zip(film.originals, offsets, self.timeline.begins_us, strict=True):
            sources += [
                *input_restrictions(),
                *_time_shift(offset - begins_us / 1e6),
                *repair_arguments(film.decision, film.media),
            ]
            sources += ["-i", file_url(path)]
        encoded = [*input_restrictions(), "-i", file_url(self._path(sound))] if sound else []
        return [
            *global_arguments(film.toolchain.ffmpeg),
            "-copyts",
            *input_restrictions("concat"),
            *_time_shift(offsets[track] + self.plan.first_seconds),
            *("-f", "concat", "-safe", "0", "-i", file_url(concat_file)),
            *sources,
            *encoded,
            *join_arguments(film.decision, film.media, len(film.originals), film.encoder.name),
            file_url(film.output),
        ]

    def _path(self, job: ChunkJob) -> Path:
        return self.folder / self._files[job.key].name

    async def _verify(self) -> VerifiedOutput:
        """As a film that was encoded whole is verified, and every single picture must be there."""
        media, verification = await verify_output(self.film)
        video = media.video
        there = None if video is None else video.frames if media.depth == "frames" else video.packets
        if there != self.plan.frames:
            raise VerificationFailed(f"The joined film has {there} pictures, its source {self.plan.frames}")
        checks = (*verification.checks, "every picture of the source counted, chunk by chunk")
        return VerifiedOutput(
            media=media,
            verification=verification.model_copy(update={"checks": checks}),
            concealed=sum(file.concealed for file in self._files.values()),
            chunks=self.record,
        )


async def verify_output(film: Film) -> tuple[MediaInfo, Verification]:
    """What came out, decoded and compared with its source.

    Raises:
        VerificationFailed: it is not what it should be.
    """
    bench = film.bench
    limits = bench.settings.process
    await in_thread(_hide_subtitles, film)
    media = await inspect(
        film.output,
        depth_for(limits, size_of(film.output)),
        limits,
        film.deadline_seconds,
        stage="remux",
        observe=bench.observe,
        total_seconds=film.media.length_seconds,
    )
    return media, verify(film.media, media, film.decision)


def _hide_subtitles(film: Film) -> None:
    """Those that the source does not ask players to show."""
    by_index = {stream.index: stream for stream in film.media.streams}
    kept = [by_index[index] for index in film.decision.keep_subtitles]
    hidden = frozenset(number for number, stream in enumerate(kept) if not stream.default)
    if film.decision.container == "mp4" and hidden and film.output.exists():
        hide_subtitles(film.output, hidden)


def size_of(path: Path) -> int:
    """In bytes; 0 where there is no file."""
    return path.stat().st_size if path.exists() else 0


@dataclass
class _OverallProgress:
    """Many chunks as one progress, which never goes back."""

    tell: Observer
    total_seconds: float
    _done: dict[str, float] = field(default_factory=dict)
    _speed: dict[str, float] = field(default_factory=dict)

    def observer_of(self, job: ChunkJob) -> Observer:
        """The observer of one job. The sound is no part of the sum."""

        def hear(event: object) -> None:
            if isinstance(event, Advance) and job.frames is not None:
                self._speed[job.key] = event.per_second or 0.0
                self._advance(job, event.done)

        return hear

    def finish(self, job: ChunkJob) -> None:
        """Nothing of this one is left to be done."""
        self._speed.pop(job.key, None)
        if job.frames is not None:
            self._advance(job, job.length_seconds or 0.0)

    def _advance(self, job: ChunkJob, done: float) -> None:
        most = job.length_seconds or 0.0
        self._done[job.key] = max(self._done.get(job.key, 0.0), min(done, most))
        speed = sum(self._speed.values()) or None
        self.tell(Advance("remux", sum(self._done.values()), self.total_seconds, "seconds", speed, doing="transcode"))


def _time_shift(seconds: float) -> tuple[str, ...]:
    return ("-itsoffset", f"{seconds:.6f}") if round(seconds, 6) else ()

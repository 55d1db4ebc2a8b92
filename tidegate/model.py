"""The values that pass between stages: frozen, validated, and stored as JSON.

Every layer uses these; a stage's result is one of them, so a checkpoint can be read by a later process. Extra fields
are ignored when an old record is read: what a record means is settled by its stage's recipe version.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from blake3 import blake3
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, StringConstraints, field_validator

from tidegate.redact import redact_url, visible_line

Shown = Annotated[str, AfterValidator(visible_line)]
"""A sentence for people in which a stranger may have words."""

Digest = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+:[0-9a-f]+$")]
"""`algorithm:hex`, for example `blake3:af13…` or `sha256:e3b0…`."""

StageName = Literal["probe", "download", "remux", "analyze", "publish"]
STAGES: tuple[StageName, ...] = ("probe", "download", "remux", "analyze", "publish")
"""The stages in the order of a file's way. `remux` covers transcode."""


class Value(BaseModel):
    """Base of all values here."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ProfileName(StrEnum):
    """What the result must be able to do."""

    UNIVERSAL = "universal"
    """Plays everywhere: H.264 8-bit 4:2:0 + AAC in MP4 with the index first."""
    MODERN = "modern"
    """Keeps HEVC, AV1, VP9 and Opus where the container takes them."""
    ORIGINAL = "original"
    """Keeps every codec; only the container is fixed."""


class Quality(StrEnum):
    """The rung that was asked for; see DESIGN §6."""

    AUTO = "auto"
    BEST = "best"
    P2160 = "2160p"
    P1080 = "1080p"
    P720 = "720p"
    P480 = "480p"
    P360 = "360p"
    WORST = "worst"

    @property
    def height(self) -> int | None:
        """The cap on the output's height in pixels; None for a rung without one."""
        return int(self.value[:-1]) if self.value.endswith("p") else None


def fingerprint(*parts: Any) -> str:
    """32 hex characters of BLAKE3 over the canonical JSON of `parts`: the same inputs, the same key, on any host."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return blake3(text.encode()).hexdigest()[:32]


class Order(Value):
    """What the result must be."""

    profile: ProfileName = ProfileName.UNIVERSAL
    quality: Quality = Quality.AUTO


class Wish(Value):
    """What else may be asked of a download, and makes another result."""

    allow_gaps: bool = False
    """Publish what can be had of a playlist, with a list of what is missing."""
    duration_seconds: float | None = None
    """How much of a live source to take; None: until it ends."""
    occasion: str | None = None
    """Which recording of a live source this is: the next one is other work, with a folder of its own. None: the flow
    makes it up."""


NO_WISH = Wish()
"""The whole of it, and without gaps."""


class Source(Value):
    """What somebody handed over, with its secrets. Lives in memory only: never a flow parameter, never stored."""

    url: SecretStr
    """`http(s)://…` or `file:///…`."""
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    """Sent to the source's own origin only."""
    sha256: Digest | None = None
    """What the whole file must hash to."""
    mirrors: tuple[SecretStr, ...] = ()
    """Other links to the same bytes."""

    @property
    def scheme(self) -> str:
        return self.url.get_secret_value().partition(":")[0].lower()

    @property
    def redacted(self) -> str:
        """The URL as it may be shown and stored."""
        return redact_url(self.url.get_secret_value())


class Identity(Value):
    """What tells this source's content from any other: redacted URL + size + strong ETag or Last-Modified.

    Weak ETag and digests only tell that something changed; nothing is ever resumed by them.
    """

    url: str
    name: str
    """A file name for people, from the URL or the origin; not yet made safe for a path."""
    size_bytes: int | None = None
    etag: str | None = None
    """A strong ETag, with its quotes."""
    weak_etag: str | None = None
    """A weak ETag: it does not promise equal bytes, but another one promises other content."""
    last_modified: str | None = None
    """The Last-Modified header as sent, or a local file's `mtime_ns/ctime_ns/inode`."""
    ranges: bool = False
    """Whether the source showed that it serves byte ranges."""
    content_type: str | None = None
    digests: tuple[Digest, ...] = ()
    """Digests that the origin gave for the whole file."""
    claims: tuple[Digest, ...] = ()
    """Digests that came with a part of the file, and may be of that part only."""
    distinct: str | None = None
    """A keyed hash of what redaction hides, where nothing else tells two links apart."""

    def with_claims_of(self, other: Identity) -> Self:
        """With those claims as digests that an answer about another part has made too: they are of the whole file."""
        agreed = {*self.claims} & {*other.claims}
        return self.model_copy(
            update={"digests": tuple({**dict.fromkeys(self.digests), **dict.fromkeys(sorted(agreed))})}
        )

    @property
    def has_validator(self) -> bool:
        return bool(self.etag or self.last_modified)

    def same_validator_as(self, other: Identity) -> bool:
        """Whether both give the one validator that promises equal bytes, and give the same."""
        mine, theirs = (self.etag, other.etag) if self.etag else (self.last_modified, other.last_modified)
        return mine is not None and mine == theirs

    @property
    def key(self) -> str:
        """The identity as a fingerprint."""
        validators = self.etag or self.last_modified, self.weak_etag
        return fingerprint(self.url, self.size_bytes, validators, sorted(self.digests), self.distinct)

    def same_content_as(self, other: Identity) -> bool:
        """Whether both may be byte for byte the same; a validator that only one side gives decides nothing."""
        known = [
            (self.size_bytes, other.size_bytes),
            (self.etag, other.etag) if self.etag and other.etag else (self.last_modified, other.last_modified),
            (self.weak_etag, other.weak_etag),
            *((mine, theirs) for mine in self.digests for theirs in other.digests if _same_algorithm(mine, theirs)),
        ]
        return all(mine == theirs for mine, theirs in known if mine is not None and theirs is not None)


def _same_algorithm(mine: Digest, theirs: Digest) -> bool:
    return mine.partition(":")[0] == theirs.partition(":")[0]


ODDEST_ASPECT = 4.0
"""A pixel wider or narrower than this is a mistake in the header."""


class DolbyVision(Value):
    """What a file says of its Dolby Vision layer (Dolby Vision Streams Within the ISO Base Media File Format §3.2)."""

    profile: int
    compatible: int = 0
    """With which base layer players get along that know no Dolby Vision: 1 HDR10, 2 SDR, 4 HLG, 6 Blu-ray; 0 none."""


class Chapter(Value):
    """A chapter of a film, in seconds from its start."""

    start_seconds: float
    end_seconds: float
    title: str = ""


class Program(Value):
    """A service of a transport stream."""

    number: int
    name: str = ""
    streams: tuple[int, ...] = ()
    """Indexes of what belongs to it."""


class NotCarried(Value):
    """Something that the source has and the result has not."""

    what: Shown
    """Such as `the language deu`, `the chapter "Intro"`."""
    where: str
    """Such as `subtitle track 3`, `the file`."""
    why: Shown


class StreamInfo(Value):
    """One stream as the demuxer sees it. Times in seconds; what is not known is None."""

    index: int
    """Its number among all streams of the media."""
    kind: Literal["video", "audio", "subtitle", "data", "attachment"]
    codec: str
    track: int = 0
    """Which of the asset's tracks holds it, where picture and sound lie in files of their own."""
    place: int | None = None
    """Its number inside that track; None: as `index`."""
    codec_tag: str = ""
    profile: str | None = None
    pix_fmt: str | None = None
    bit_depth: int | None = None
    width: int | None = None
    height: int | None = None
    field_order: str | None = None
    frame_rate: float | None = None
    color_transfer: str | None = None
    """Of HDR only: `smpte2084` (PQ) or `arib-std-b67` (HLG)."""
    transfer: str | None = None
    """As the picture is marked, HDR or not (ITU-T H.273); None: it is not."""
    color_primaries: str | None = None
    color_space: str | None = None
    """The matrix."""
    color_range: Literal["tv", "pc"] | None = None
    dolby_vision: DolbyVision | None = None
    projection: str | None = None
    """How a picture in the round or for two eyes lies in the frame, in ffmpeg's words: `equirectangular`."""
    captions: bool = False
    """Whether its first pictures carry closed captions (CTA-708 or CTA-608) inside."""
    level: int | None = None
    """As the codec numbers it: H.264 level 5.1 is 51."""
    sample_aspect: float | None = None
    """A pixel's width over its height, where they differ."""
    rotation: int = 0
    """By how many degrees players turn the picture, as a phone's camera was held."""
    variable_rate: bool = False
    """Whether the distances between its pictures differ, beyond rounding."""
    scan: Literal["progressive", "tff", "bff"] | None = None
    """What a sample of the pictures showed: whole ones, or two fields with the top or the bottom one first. None: not
    looked at. `field_order` is what the header says, which is often wrong."""
    sample_rate: int | None = None
    channels: int | None = None
    channel_layout: str | None = None
    """In ffmpeg's words, `5.1(side)`; None: the file does not say where the channels belong."""
    language: str | None = None
    title: str | None = None
    attached_picture: bool = False
    default: bool = False
    """Whether players are asked to take it unless the viewer chooses another."""
    roles: tuple[str, ...] = ()
    """What else it is for, as ffmpeg names dispositions: `forced`, `hearing_impaired`, `comment` …"""
    file_name: str | None = None
    """Of an attachment."""
    tags: dict[str, str] = Field(default_factory=dict)
    """All that the file writes about this stream, by the file's own names."""
    duration_seconds: float | None = None
    """What the header says."""
    start_seconds: float | None = None
    end_seconds: float | None = None
    """End of the last packet (or, decoded, of the last frame), in the order in which they are shown."""
    last_seconds: float | None = None
    """From the first picture to the moment at which the last one is shown, joined recordings added up. How long that
    one stays is told by containers in ways that differ."""
    held_seconds: float | None = None
    """How long it is: from its first to the end of its last packet or frame, joined recordings added up."""
    covered_seconds: float | None = None
    """Sum of the durations of its packets or frames."""
    gap_seconds: float = 0.0
    """Stretches on the way, longer than half a second each, that nothing covers."""
    lead_seconds: float = 0.0
    """What lies before the first keyframe and cannot be decoded; not part of the other figures."""
    packets: int | None = None
    """Packets from the first keyframe on; those that an edit list hides are not counted."""
    frames: int | None = None
    """Decoded frames; None when nothing was decoded."""
    decoded_seconds: float | None = None
    """How much of it was decoded; None when nothing was."""
    decode_errors: int = 0
    """Places that cannot be decoded, the first and last half second excepted."""
    edge_errors: int = 0
    """Such places at the very beginning or end, where a recording was cut."""

    @property
    def area(self) -> int:
        """In pixels, as it is stored."""
        return (self.width or 0) * (self.height or 0)

    @property
    def shown_size(self) -> tuple[float, float] | None:
        """Width and height at which players show it, in square pixels: upright. None: not known."""
        if not self.width or not self.height:
            return None
        aspect = self.sample_aspect or 1.0
        wide = self.width * (aspect if 1 / ODDEST_ASPECT <= aspect <= ODDEST_ASPECT else 1.0)
        return (wide, float(self.height)) if self.rotation % 180 == 0 else (float(self.height), wide)

    @property
    def shown_lines(self) -> int:
        """How many lines players show; 0: not known."""
        return round(self.shown_size[1]) if self.shown_size else self.height or 0

    @property
    def span_seconds(self) -> float | None:
        """How long the stream really is; see `held_seconds`."""
        if self.held_seconds is not None:
            return self.held_seconds
        if self.end_seconds is None:
            return None
        return self.end_seconds - (self.start_seconds or 0.0)


class MediaInfo(Value):
    """A media file as it was inspected."""

    container: str
    """libavformat's name of the demuxer, for example `mov,mp4,m4a,3gp,3g2,mj2`."""
    size_bytes: int | None = None
    duration_seconds: float | None = None
    """What the container's header says."""
    streams: tuple[StreamInfo, ...] = ()
    depth: Literal["header", "packets", "sampled", "frames"] = "header"
    """How far the inspection went: headers only, every packet read, every packet read and samples decoded, or every
    frame decoded."""
    missing_bytes: int = 0
    """How far the container's own structure reaches beyond the end of the file."""
    declares_duration: bool = False
    """Whether the duration is written in the file, rather than worked out from the bytes that are there."""
    tags: dict[str, str] = Field(default_factory=dict)
    """What the file says of itself, by its own names: `title`, `com.apple.quicktime.make` …"""
    chapters: tuple[Chapter, ...] = ()
    programs: tuple[Program, ...] = ()
    """The services of a transport stream."""

    @classmethod
    def of_tracks(cls, tracks: Sequence[MediaInfo]) -> MediaInfo:
        """Several files that belong together, as one: the first says what it is, the others add streams."""
        first = tracks[0]
        if len(tracks) == 1:
            return first
        placed = [(number, stream) for number, media in enumerate(tracks) for stream in media.streams]
        streams = tuple(
            stream.model_copy(update={"index": index, "track": number, "place": stream.index})
            for index, (number, stream) in enumerate(placed)
        )
        durations = [media.duration_seconds for media in tracks if media.duration_seconds is not None]
        merged = {
            "streams": streams,
            "duration_seconds": max(durations, default=None),
            "missing_bytes": sum(media.missing_bytes for media in tracks),
            "size_bytes": sum(media.size_bytes or 0 for media in tracks),
        }
        return first.model_copy(update=merged)

    def of_kind(self, kind: str) -> tuple[StreamInfo, ...]:
        """Streams of a kind, cover art excepted."""
        return tuple(s for s in self.streams if s.kind == kind and not s.attached_picture)

    @property
    def video(self) -> StreamInfo | None:
        """The film: of several pictures the one that players are asked to take, or else the largest; no cover art."""
        films = [s for s in self.of_kind("video") if s.packets != 0] or self.of_kind("video")
        return max(films, key=lambda s: (not s.roles, s.default, s.area, -s.index), default=None)

    def of_service(self) -> MediaInfo:
        """Of a transport stream with several services, the one with the film; any other media as it is."""
        film = self.video or next(iter(self.of_kind("audio")), None)
        others = {index for program in self.programs for index in program.streams}
        own = {i for program in self.programs if film and film.index in program.streams for i in program.streams}
        if len(self.programs) < 2 or not own:
            return self
        kept = tuple(s for s in self.streams if s.index in own or s.index not in others)
        return self.model_copy(update={"streams": kept})

    @property
    def audio(self) -> StreamInfo | None:
        return next(iter(self.of_kind("audio")), None)

    @property
    def length_seconds(self) -> float | None:
        """How long picture or sound last, whichever is longer; subtitles may trail behind them."""
        streams = self.of_kind("video") + self.of_kind("audio")
        return max((s.span_seconds for s in streams if s.span_seconds is not None), default=None)

    @property
    def reach_seconds(self) -> float:
        """Where the last packet of any stream ends, counted from zero or from the first packet, whichever is more:
        a container's duration may be meant either way."""
        ends = [s.end_seconds for s in self.streams if s.end_seconds is not None]
        starts = [s.start_seconds for s in self.streams if s.start_seconds is not None]
        held = [s.span_seconds for s in self.streams if s.span_seconds is not None]
        return max([*ends, *held, max(ends, default=0.0) - min(starts, default=0.0)])


class Track(Value):
    """One file of an asset."""

    name: str
    size_bytes: int
    digest: Digest


class Asset(Value):
    """An immutable bundle in the store, addressed by the BLAKE3 digest of its manifest."""

    address: Digest
    tracks: tuple[Track, ...]

    @property
    def main(self) -> Track:
        """The media file of the bundle, or its only file."""
        return self.tracks[0]

    @property
    def size_bytes(self) -> int:
        """All tracks together."""
        return sum(track.size_bytes for track in self.tracks)


class Finding(Value):
    """Something a person should know about a result that is delivered all the same."""

    code: str
    message: Shown


class Rendition(Value):
    """One version of the media that the source offers."""

    id: str
    """Stable over time for the same source, and safe as a folder's name."""
    label: str
    height: int | None = None
    bandwidth_bps: int | None = None
    size_bytes: int | None = None
    """How large it is, or about, where the source says so."""


class Gap(Value):
    """A stretch of the media that the source did not deliver, in seconds from its start."""

    start_seconds: float
    end_seconds: float
    why: str


class TransferStats(Value):
    """What a download cost."""

    requests: int = 0
    retries: int = 0
    bytes_received: int = 0
    bytes_reused: int = 0
    """Bytes that an earlier run had already fetched."""
    seconds: float = 0.0

    def __add__(self, other: TransferStats) -> TransferStats:
        """Both together. What the first received is no reuse of an earlier run's bytes by the second."""
        return TransferStats(
            requests=self.requests + other.requests,
            retries=self.retries + other.retries,
            bytes_received=self.bytes_received + other.bytes_received,
            bytes_reused=self.bytes_reused + max(0, other.bytes_reused - self.bytes_received),
            seconds=self.seconds + other.seconds,
        )


class ResourceUse(Value):
    """What a tool and everything below it used, as the process monitor saw it."""

    seconds: float = 0.0
    samples: int = 0
    peak_memory_bytes: int = 0
    """Resident, of all processes of the tree together at one moment."""
    mean_memory_bytes: int = 0
    """Over time."""
    peak_cpu_percent: float = 0.0
    """Of one core, between two samples: 200 is two cores at work."""
    mean_cpu_percent: float = 0.0
    read_bytes: int = 0
    """From disks; what was in the page cache costs nothing."""
    written_bytes: int = 0
    curve: tuple[tuple[float, int, float], ...] = ()
    """(seconds since its start, memory in bytes, percent of one core), at most 60 points; the highest are kept."""
    alerts: tuple[str, ...] = ()
    """What was warned of, in order."""
    memory_cap_bytes: int | None = None
    enforced_by: Literal["cgroup", "sampling", "none"] = "none"
    """Who holds the tree to its memory cap."""

    def __add__(self, other: ResourceUse) -> ResourceUse:
        """Both, one after the other: times and bytes add up, and the curve is that of the higher peak."""
        larger = self if self.peak_memory_bytes >= other.peak_memory_bytes else other
        seconds = self.seconds + other.seconds

        def mean(mine: float, theirs: float) -> float:
            return (mine * self.seconds + theirs * other.seconds) / seconds if seconds else 0.0

        return larger.model_copy(
            update={
                "seconds": round(seconds, 3),
                "samples": self.samples + other.samples,
                "mean_memory_bytes": round(mean(self.mean_memory_bytes, other.mean_memory_bytes)),
                "peak_cpu_percent": max(self.peak_cpu_percent, other.peak_cpu_percent),
                "mean_cpu_percent": round(mean(self.mean_cpu_percent, other.mean_cpu_percent), 1),
                "read_bytes": self.read_bytes + other.read_bytes,
                "written_bytes": self.written_bytes + other.written_bytes,
                "alerts": tuple(dict.fromkeys((*self.alerts, *other.alerts))),
            }
        )


class OriginStats(Value):
    """What a run, or all runs together, had to do with one origin."""

    origin: str
    """`scheme://host:port`, or what else is asked as one: `site:youtube`, `tool:TwitchDownloaderCLI`."""
    attempts: int = 0
    """Requests, or calls of a tool: every try counts."""
    successes: int = 0
    failures: dict[str, int] = Field(default_factory=dict)
    """Failure type → how often; refusals such as 404 and 429 among them."""
    retries: int = 0
    """Attempts that repeated an earlier one."""
    bytes_received: int = 0
    seconds: float = 0.0
    """Spent in attempts; those at the same time are added up."""
    breaker: str = "closed"
    """What the breaker last was: closed, open, half_open or isolated."""

    @property
    def per_second(self) -> float | None:
        """Bytes per second of one connection, on average."""
        return self.bytes_received / self.seconds if self.bytes_received and self.seconds > 0 else None

    def __add__(self, other: OriginStats) -> OriginStats:
        """Both together, of the same origin; the breaker is as the second saw it."""
        types = {*self.failures, *other.failures}
        return OriginStats(
            origin=self.origin,
            attempts=self.attempts + other.attempts,
            successes=self.successes + other.successes,
            failures={kind: self.failures.get(kind, 0) + other.failures.get(kind, 0) for kind in sorted(types)},
            retries=self.retries + other.retries,
            bytes_received=self.bytes_received + other.bytes_received,
            seconds=self.seconds + other.seconds,
            breaker=other.breaker,
        )


class ProbeResult(Value):
    """Stage `probe`: what the source is."""

    identity: Identity
    resolver: str
    renditions: tuple[Rendition, ...]
    preview: MediaInfo | None
    """From a look at its beginning; None when that was not enough and only the whole can tell."""
    promised_seconds: float | None = None
    """How long the media is, where a playlist or a site says so."""
    transfer: TransferStats = TransferStats()
    """What looking cost; the bytes are the download's first."""
    recorded_at: datetime


class DownloadResult(Value):
    """Stage `download`: the source's bytes, whole, in the store."""

    asset: Asset
    rendition: Rendition
    media: MediaInfo
    """The whole file inspected packet by packet: what later verification compares with."""
    transfer: TransferStats
    checked: tuple[Digest, ...] = ()
    """Digests from the person or the origin that were found to hold."""
    length_confirmed: bool
    """Whether anything independent of the bytes themselves says that nothing is missing at the end."""
    gaps: tuple[Gap, ...] = ()
    """What the source did not deliver, where that was allowed."""
    recorded_at: datetime


class Strategy(StrEnum):
    """How the output is made; also the rungs of the remux ladder, in order."""

    COPY = "copy"
    REPAIR = "repair"
    TRANSCODE = "transcode"


class Sidecar(Value):
    """A small file that is published beside the video: what its container cannot hold, or not every player reads."""

    index: int
    """Of the source's stream."""
    name: str
    """Of the track in the asset, such as `subtitles-2.eng.vtt`."""
    codec: Literal["copy", "webvtt"]
    muxer: Literal["webvtt", "sup", "matroska", "image2"]


class Decision(Value):
    """What the decision table says about one source and profile."""

    strategy: Strategy
    container: Literal["mp4", "matroska"]
    video: Literal["copy", "h264", "none"]
    audio: Literal["copy", "aac", "none"]
    subtitles: Literal["copy", "mov_text", "none"]
    height: int | None = None
    """Scale to this height in pixels; None keeps the source's."""
    reasons: tuple[str, ...] = ()
    keep_audio: tuple[int, ...] = ()
    """Indexes of the source's audio streams that are kept."""
    keep_subtitles: tuple[int, ...] = ()
    keep_covers: tuple[int, ...] = ()
    """Indexes of attached pictures that the container takes."""
    keep_attachments: tuple[int, ...] = ()
    deinterlace: Literal["tff", "bff"] | None = None
    """Make whole pictures of two fields each, with the top or the bottom one first; only where it is encoded."""
    tone_map: Literal["zscale", "plain"] | None = None
    """How HDR becomes SDR: by tone mapping, or by a mere change of format where ffmpeg lacks the filter."""
    sidecars: tuple[Sidecar, ...] = ()


class Aim(Value):
    """What a transcode aims at, and may cost."""

    rung: Quality
    """Whose limits hold: memory, time, threads. Not `auto`, which is a wish."""
    height: int | None = Field(default=None, ge=16)
    """The height of the picture, in pixels, after a step down; None: as it was asked for."""

    @field_validator("rung")
    @classmethod
    def _is_a_rung(cls, rung: Quality) -> Quality:
        if rung in (Quality.AUTO, Quality.BEST):
            raise ValueError(f"{rung} is no rung")
        return rung


class Verification(Value):
    """What was checked about an output, and what was found."""

    checks: tuple[str, ...]
    depth: Literal["full", "sampled"] = "full"
    """Whether every frame was decoded, or samples only."""
    decoded_seconds: float = 0.0
    """How much of the longest stream was decoded."""
    length_seconds: float = 0.0
    """How long that stream is."""
    end_skew_seconds: float = 0.0
    """By how much the ends of picture and sound lie further apart than in the source, or nearer."""
    decode_errors: int = 0
    """Places at the very beginning or end that cannot be decoded; elsewhere a single one fails the verification."""
    worst_difference_seconds: float = 0.0
    """Largest difference between a stream's decoded length and its source's."""


class LadderStep(Value):
    """One strategy that was tried."""

    strategy: Strategy
    outcome: Literal["completed", "failed"]
    failure: str | None = None
    message: Shown = ""
    seconds: float = 0.0
    resources: ResourceUse | None = None
    """What its tool used; of several tools, the one that had the most memory."""


class ChunkRecord(Value):
    """How a transcode was cut, and what of it was already there."""

    planned: int = 0
    """Chunks of the film; 0 where it was encoded whole."""
    reused: int = 0
    """Of them, those that an earlier attempt had made."""
    encoded: int = 0
    """Those that were encoded now."""
    workers: int = 1
    executor: str = "local"
    encoder: str = "libx264"
    why_whole: str | None = None
    """Why it was encoded whole, if it was."""


class RemuxResult(Value):
    """Stage `remux`: the playable file, verified by decoding."""

    asset: Asset
    decision: Decision
    media: MediaInfo
    """The output, decoded as far as `verification.depth` says."""
    verification: Verification
    ladder: tuple[LadderStep, ...]
    chunks: ChunkRecord | None = None
    """None where nothing was encoded."""
    aim: Aim | None = None
    """The rung whose limits held; None in records from before there were any."""
    findings: tuple[Finding, ...] = ()
    not_carried: tuple[NotCarried, ...] = ()
    """What the source has and the result has not, each with the reason."""
    ffmpeg_version: str
    seconds: float
    recorded_at: datetime


class Interval(Value):
    """A stretch of the media, in seconds from its start."""

    start_seconds: float
    end_seconds: float


class Detection(Value):
    """What one detector found."""

    detector: str
    state: Literal["done", "not_run", "not_applicable"]
    reason: str = ""
    intervals: tuple[Interval, ...] = ()
    values: dict[str, float] = Field(default_factory=dict)


class AnalysisResult(Value):
    """Stage `analyze`: what the detectors saw in one decode pass."""

    asset: Asset | None
    """The pictures; None for media without video."""
    detections: tuple[Detection, ...]
    recorded_at: datetime

    def of(self, detector: str) -> Detection | None:
        return next((d for d in self.detections if d.detector == detector), None)


class PublishResult(Value):
    """Stage `publish`: the folder that a person opens."""

    folder: Path
    tracks: tuple[Track, ...]
    """Every file of the folder that a later look must find unchanged."""
    recorded_at: datetime

    @property
    def video(self) -> Path:
        return self.folder / self.tracks[0].name

    def beside(self, sidecar: str) -> Path:
        """Where the sidecar of this name lies: under the video's name."""
        return self.folder / f"{self.video.stem}.{sidecar}"


StageResult = ProbeResult | DownloadResult | RemuxResult | AnalysisResult | PublishResult


class StageRecord(Value):
    """What happened to one stage in one run."""

    state: Literal["completed", "failed", "interrupted", "skipped"]
    cached: bool = False
    seconds: float = 0.0


class Failure(Value):
    """A failure as it is reported: the one form for panel, JSON, report and `.err.log`."""

    id: str
    type: str
    category: str
    message: str
    friendly_message: str
    suggested_actions: tuple[str, ...]
    retryable: bool
    retry_after_seconds: float | None = None
    stage: str | None = None
    reference: str
    exit_code: int | None = None
    evidence: dict[str, Any] = Field(default_factory=dict)
    at: datetime


class Tried(Value):
    """A rendition that could not be had, and why."""

    resolver: str
    rendition: str
    label: Shown
    failure: str
    """The failure's type."""
    message: Shown
    seconds: float = 0.0


class Outcome(Value):
    """How one run for one source ended."""

    status: Literal["completed", "failed", "interrupted"]
    source: str
    """Redacted."""
    work_key: str | None = None
    profile: ProfileName = ProfileName.UNIVERSAL
    quality: Quality = Quality.AUTO
    flow_run_id: str | None = None
    ui_url: str | None = None
    stages: dict[str, StageRecord] = Field(default_factory=dict)
    probe: ProbeResult | None = None
    tried: tuple[Tried, ...] = ()
    """What was given up before the rendition that was downloaded, in this order."""
    download: DownloadResult | None = None
    download_path: Path | None = None
    transfer: TransferStats = TransferStats()
    """What this run asked of the source: identify, probe and download together."""
    origins: tuple[OriginStats, ...] = ()
    """What this run had to do with each origin."""
    resources: dict[str, ResourceUse] = Field(default_factory=dict)
    """What tools used in this run, by stage: all of one stage together."""
    paths: dict[str, str] = Field(default_factory=dict)
    """Which way `transfer` and `process` went in this run, where they had any work: `full` or `plain`."""
    remux: RemuxResult | None = None
    analysis: AnalysisResult | None = None
    published: PublishResult | None = None
    findings: tuple[Finding, ...] = ()
    failure: Failure | None = None
    failure_log: Path | None = None
    report_folder: Path | None = None
    """Where the report of a failed run lies; None where an earlier success stands in its place."""
    started_at: datetime | None = None
    command: str = ""
    """What to type for the same again, without secrets; empty where no command says it."""

"""The failure tree, and in one table what each failure means.

Every module raises these; foreign errors are translated once, at the boundary that met them. Stages, flows and
reports read `POLICIES` and decide nothing about failures on their own; a test looks for who does. Nothing here touches
the outside world, so nothing can be lost in a crash.

    TidegateError
    ├── UsageError             BadInput, UnsupportedSource, AddressRefused
    ├── AvailabilityFailure    ConnectionFailed, RequestTimeout, DownloadDeadline, StalledTransfer, ServerError,
    │                          Throttled, TruncatedBody, RangeMismatch, CircuitOpen, ToolFailed
    ├── SourceFailure          HttpRefused (NotFound), RedirectLoop, ExpiredLink, SourceChanged, NotMedia,
    │                          UnsupportedCodec, WrongDigest, SegmentGap, LimitReached, TruncatedMedia
    ├── ProcessFailure         ProcessTimeout, MemoryExhausted, StalledProcess, ProcessKilled, BadTimestamps,
    │                          RefusedByMuxer, VerificationFailed, ToolMissing, EncoderUnknown
    ├── HostFailure            StoreUnavailable, LedgerUnavailable, ServerUnavailable, DiskFull, PermissionRefused,
    │                          PathRefused, AdmissionRefused
    ├── Coordination           Superseded, LeaseLost, Cancelled, Parked, Stuck
    └── Unknown
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

OUTPUT_CHARS = 2000
"""How much of the head and of the tail of a tool's output a failure carries, in characters (DESIGN §4)."""


@dataclass(frozen=True)
class Evidence:
    """What was seen when it failed. Every field is optional; URLs in it are already redacted."""

    url: str | None = None
    status: int | None = None
    command: tuple[str, ...] = ()
    exit_code: int | None = None
    output_head: str = ""
    output_tail: str = ""
    received_bytes: int | None = None
    expected_bytes: int | None = None
    waited_seconds: float | None = None
    resources: dict[str, float] = field(default_factory=dict)
    """What the tool used; names tell the unit."""
    curve: tuple[tuple[float, float, float], ...] = ()
    """(seconds since its start, memory in bytes, percent of one core)."""
    notes: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The fields that say something, ready for JSON; tool output is bounded by OUTPUT_CHARS a side."""
        values = asdict(self)
        values["output_head"] = self.output_head[:OUTPUT_CHARS]
        values["output_tail"] = self.output_tail[-OUTPUT_CHARS:]
        return {name: value for name, value in values.items() if value not in (None, "", (), {})}


class TidegateError(Exception):
    """Any failure of ours. Printable for a person, picklable, and never without a message."""

    own: TidegateError | None = None
    """The failure of this same run that opened the origin's breaker; a transfer ends with that one."""
    target_height: int | None = None
    """The height, in pixels, of the picture that was being encoded; where none was, a smaller one would not help."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        evidence: Evidence | None = None,
        retry_after_seconds: float | None = None,
        stage: str | None = None,
    ) -> None:
        super().__init__(message if message.strip() else f"{type(self).__name__} without further detail")
        self.message: str = str(self.args[0])
        self.hint = hint
        self.evidence = evidence or Evidence()
        self.retry_after_seconds = retry_after_seconds
        self.stage = stage

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message,), dict(self.__dict__)

    @property
    def type(self) -> str:
        """The public name: the class name in snake_case."""
        return snake_case(type(self).__name__)

    @property
    def policy(self) -> Policy:
        """What this failure means; see `POLICIES`."""
        return policy_of(type(self))


def snake_case(name: str) -> str:
    """`StalledTransfer` → `stalled_transfer`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class UsageError(TidegateError):
    """The request cannot be understood, or asks for what is not to be had here."""


class BadInput(UsageError):
    """An argument is wrong: a bad flag value, a directory as source, an output folder that cannot be written."""


class UnsupportedSource(UsageError):
    """The source's scheme or kind is not one that Tidegate can read."""


class AddressRefused(UsageError):
    """The source, or something that it leads to, lies at an address to which no connection may be made here.

    It is told before anything is connected to: whether somebody listens there is not known, and not said.
    """


class AvailabilityFailure(TidegateError):
    """The source may well be fine; it could not be reached or did not deliver this time."""


class ConnectionFailed(AvailabilityFailure):
    """Name not resolved, connection refused, reset or cut."""


class RequestTimeout(AvailabilityFailure):
    """No connection or no response headers within the request timeout."""


class DownloadDeadline(AvailabilityFailure):
    """The download's adaptive deadline has passed."""


class StalledTransfer(AvailabilityFailure):
    """The connection is alive but too few bytes came in the stall window.

    A stall says nothing about codecs: it never climbs the remux ladder.
    """


class ServerError(AvailabilityFailure):
    """The origin answered 5xx."""


class Throttled(AvailabilityFailure):
    """The origin answered 429; `retry_after_seconds` is what it asked for."""


class TruncatedBody(AvailabilityFailure):
    """The body ended before its announced length."""


class RangeMismatch(AvailabilityFailure):
    """A 206 answer covers other bytes than those asked for; nothing of it is kept."""


class CircuitOpen(AvailabilityFailure):
    """The breaker of this origin is open; `retry_after_seconds` says when it half-opens."""


class ToolFailed(AvailabilityFailure):
    """A downloader tool ended without the media; the source may be fine, and another way to it may work."""


class SourceFailure(TidegateError):
    """The source itself is the problem: missing, refused, changed, damaged or not media."""


class HttpRefused(SourceFailure):
    """The origin answered 4xx: the link or the rights are wrong."""


class NotFound(HttpRefused):
    """404, 410, or a local file that has vanished."""


class RedirectLoop(HttpRefused):
    """More redirects than allowed, or a redirect to a scheme that is not allowed."""


class ExpiredLink(SourceFailure):
    """A signed link has expired; its resolver can make a new one."""


class SourceChanged(SourceFailure):
    """The source has other content than when it was identified; bytes of both are never mixed."""


class NotMedia(SourceFailure):
    """HTML, text, nothing at all, or bytes that no demuxer knows, where media was expected."""


class UnsupportedCodec(SourceFailure):
    """The picture or the sound has a codec that is not accepted as media: of a game, of an old still picture."""


class WrongDigest(SourceFailure):
    """The bytes do not match the digest that the person or the origin gave."""


class SegmentGap(SourceFailure):
    """A segment of the playlist cannot be had."""


class LimitReached(SourceFailure):
    """A source or job limit that somebody set was reached."""


class TruncatedMedia(SourceFailure):
    """The file holds less than its own header promises; delivering it would be delivering a damaged file."""


class ProcessFailure(TidegateError):
    """A supervised child process did not do its work."""


class ProcessTimeout(ProcessFailure):
    """The process was ended at its deadline."""


class MemoryExhausted(ProcessFailure):
    """The process tree reached its memory cap, or said that it got no memory.

    One that the kernel ended because the whole machine had none left is `ProcessKilled`: it may have used little.
    """


class StalledProcess(ProcessFailure):
    """The process lives but makes no progress.

    A stall says nothing about codecs or quality of the input: it never climbs the remux ladder.
    """


class ProcessKilled(ProcessFailure):
    """A signal from outside ended the process."""


class BadTimestamps(ProcessFailure):
    """The muxer refused the source's timestamps; the repair strategy makes new ones."""


class RefusedByMuxer(ProcessFailure):
    """The tool refused the input or the codec for this container."""


class VerificationFailed(ProcessFailure):
    """The tool said it was done, and decoding its output shows that it was not."""


class ToolMissing(ProcessFailure):
    """No such tool on this host."""


class EncoderUnknown(ProcessFailure):
    """The ffmpeg at hand lacks an encoder or filter that the plan needs."""


class HostFailure(TidegateError):
    """This machine, its disks or its services refuse to work."""


class StoreUnavailable(HostFailure):
    """The asset store cannot be read or written."""


class LedgerUnavailable(HostFailure):
    """The ledger database does not answer."""


class ServerUnavailable(HostFailure):
    """The Prefect server that was named does not answer, or one of our own did not start."""


class DiskFull(HostFailure):
    """No space or no quota is left on a volume that the run needs."""


class PermissionRefused(HostFailure):
    """The operating system refuses to read or write a path."""


class PathRefused(HostFailure):
    """A deployed run may not read or write a path: it lies outside the folders that this worker allows."""


class AdmissionRefused(HostFailure):
    """The host had no memory, disk or slot to spare for as long as the run was willing to wait."""


class Coordination(TidegateError):
    """Another actor decides over this run."""


class Superseded(Coordination):
    """A later attempt has taken this work over; this one may no longer publish."""


class LeaseLost(Coordination):
    """This attempt could not renew its lease in time and stopped itself."""


class Cancelled(Coordination):
    """A person cancelled the run."""


class Parked(Coordination):
    """Recovered too often without a new checkpoint, or nobody is left to run it; a person has to look."""


class Stuck(Coordination):
    """No progress for too long though the run was alive; maintenance ended it."""


class Unknown(TidegateError):
    """Something we did not foresee. The report carries what is known; please report it."""


class Inside(StrEnum):
    """Whether the transfer itself makes the call again (`resilience/retry.py`), and how soon."""

    NO = "–"
    PAUSE = "1, 2, 4 s …"
    AT_ONCE = "at once, then 1, 2, 4 s …"


class Mirror(StrEnum):
    """Where another copy of the file is asked in place of this one."""

    NO = "–"
    NEXT = "the next one"
    """Only where it is a mirror that fails: its link may be one that cannot be."""
    FETCH = "for the bytes"
    """Where the bytes are fetched; what the source is, it has to say itself."""
    ALWAYS = "for all"
    """Also where it is asked what the source is."""


class OfSegment(StrEnum):
    """Whether it concerns one segment, which becomes a gap where gaps are allowed, or the whole origin."""

    NO = "–"
    ALWAYS = "yes"
    IF_ANY_CAME = "if any came"
    """Where some segment has come in this run."""
    IF_OTHERS_COME = "if others come"
    """Where another segment has come since this one was asked for."""


class Link(StrEnum):
    """What it says of the link."""

    GOOD = "–"
    GONE = "gone"
    """Nothing is there."""
    REFUSED = "refused"
    """It may have expired."""
    EXPIRED = "expired"


class Extra(StrEnum):
    """What a stage makes or looks at that the film is whole without."""

    SIDECAR = "sidecar"
    """A file beside the video, such as subtitles."""
    DETECTOR = "detector"
    """One part of the analysis."""
    SAMPLE = "sample"
    """The look at some pictures before a transcode; the header is believed instead."""
    TIMELINE = "timeline"
    """The list of key frames by which a film is cut; it is encoded whole instead."""


class Category(StrEnum):
    """The coarse class under which docs and reports list a failure."""

    PROCESS_TIMEOUT = "process_timeout"
    MEMORY_EXHAUSTION = "memory_exhaustion"
    NETWORK_ERROR = "network_error"
    FILE_SYSTEM_ERROR = "file_system_error"
    SOURCE_ERROR = "source_error"
    MEDIA_ERROR = "media_error"
    HOST_ERROR = "host_error"
    USAGE = "usage"
    COORDINATION = "coordination"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Policy:
    """One row of the failure table. Nobody decides by a failure's class or name: who has to, reads a field of these."""

    label: str
    """For the table in the docs, and nothing else."""
    category: Category
    """Under what docs and reports list it; `usage` also decides the exit code."""
    friendly: str
    """One sentence for a person, without jargon."""
    actions: tuple[str, ...]
    """What the person can do, most likely remedy first."""
    friendly_for_a_file: str = ""
    actions_for_a_file: tuple[str, ...] = ()
    """The same for a local file, which needs no login. Empty: as for a link."""
    inside: Inside = Inside.NO
    """Whether the transfer itself makes the call again, and how soon."""
    inside_words: str = ""
    """How that is done, or who else tries again: for the table in the docs, and nothing else."""
    refetch_once: bool = False
    """What came is wrong: it is fetched again from zero, once, and that is no try of the others."""
    asks_to_wait: bool = False
    """The origin asks to be left alone: the pause is taken from the time for that, and costs no try."""
    least_pause_seconds: float = 0.0
    """The shortest pause before the call is made again, whatever the origin says and whatever is set."""
    waits_for_breaker: bool = False
    """The origin is given a rest: a run by hand waits for its end, others come again after it."""
    identifies_again: bool = False
    """The source is not what it was taken for: what came is doubted, and the run begins again with what it is now."""
    ends_the_try: bool = False
    """Met by one of several connections, it ends all of them."""
    of_segment: OfSegment = OfSegment.NO
    """Whether it concerns one segment of a playlist, which may be left out, or the whole origin."""
    link: Link = Link.GOOD
    """What it says of the link; a playlist whose links may have expired is asked for again, once."""
    mirror: Mirror = Mirror.NO
    """Whether another copy of the file is asked in its place."""
    live_goes_on: bool = False
    """One version of a live playlist that fails so is passed over; patience ends a recording."""
    counts_against_origin: bool = False
    """It brings the origin's breaker nearer to opening."""
    origin_answered: bool = False
    """The origin did answer: where it does not count against it, it speaks for it."""
    of_our_tools: bool = False
    """A child process of ours failed: that says nothing about what it was to read."""
    task_retries: int = 0
    """How often Prefect runs the task again (after 10 s, then 60 s)."""
    another_rendition: bool = False
    """The quality fallback downloads the next lower rendition."""
    another_resolver: bool = False
    """The quality fallback asks the next resolver when this one has no other rendition."""
    smaller_picture: bool = False
    """The quality fallback makes a smaller picture of the same download."""
    climbs: bool = False
    """The remux ladder copy → repair → transcode goes on; chunks that did not come to a film are encoded whole."""
    another_encoder: bool = False
    """What a hardware encoder did not make, libx264 may."""
    goes_without: frozenset[Extra] = frozenset()
    """What is left out when it fails so."""
    goes_on_by_itself: bool = False
    """The run lost touch, not its source: recovery takes it up again."""
    retryable: bool = False
    """Whether the same command, unchanged, may well succeed later."""

    @property
    def leaves_out_track(self) -> bool:
        """Whether a track that the film is whole without is left out: not where the whole origin may be away."""
        return self.of_segment in (OfSegment.ALWAYS, OfSegment.IF_ANY_CAME)


TASK_RETRY_DELAYS_SECONDS = (10.0, 60.0)
"""Pauses before the first and second run of a task that the table lets Prefect retry."""

LOWER_QUALITY = "try a lower quality, for example --quality 480p"

RESUME = "run the same command again; it resumes"
RETRY = "run the same command again to retry"
"""What stands in place of `RESUME` where nothing was downloaded yet."""

POLICIES: dict[type[TidegateError], Policy] = {
    ConnectionFailed: Policy(
        "connection error",
        Category.NETWORK_ERROR,
        "The source could not be reached.",
        ("check the network and the host name", RESUME),
        inside=Inside.PAUSE,
        of_segment=OfSegment.IF_OTHERS_COME,
        mirror=Mirror.ALWAYS,
        live_goes_on=True,
        counts_against_origin=True,
        retryable=True,
    ),
    RequestTimeout: Policy(
        "request timeout",
        Category.NETWORK_ERROR,
        "The source did not answer in time.",
        ("check the network", RESUME, LOWER_QUALITY),
        inside=Inside.PAUSE,
        of_segment=OfSegment.IF_ANY_CAME,
        mirror=Mirror.ALWAYS,
        live_goes_on=True,
        counts_against_origin=True,
        another_rendition=True,
        another_resolver=True,
        retryable=True,
    ),
    DownloadDeadline: Policy(
        "download deadline",
        Category.PROCESS_TIMEOUT,
        "The download took longer than allowed.",
        ("check the network", RESUME, LOWER_QUALITY),
        inside=Inside.PAUSE,
        ends_the_try=True,
        mirror=Mirror.ALWAYS,
        live_goes_on=True,
        counts_against_origin=True,
        another_rendition=True,
        another_resolver=True,
        retryable=True,
    ),
    StalledTransfer: Policy(
        "stalled transfer",
        Category.NETWORK_ERROR,
        "The source stopped sending.",
        ("the source may be overloaded: try again later", RESUME, LOWER_QUALITY),
        inside=Inside.PAUSE,
        inside_words="aborted, fresh connection",
        of_segment=OfSegment.IF_ANY_CAME,
        mirror=Mirror.ALWAYS,
        live_goes_on=True,
        counts_against_origin=True,
        another_rendition=True,
        another_resolver=True,
        retryable=True,
    ),
    ServerError: Policy(
        "HTTP 5xx",
        Category.NETWORK_ERROR,
        "The source is down or in trouble.",
        ("wait a while", RESUME),
        inside=Inside.AT_ONCE,
        of_segment=OfSegment.IF_ANY_CAME,
        mirror=Mirror.ALWAYS,
        live_goes_on=True,
        counts_against_origin=True,
        retryable=True,
    ),
    Throttled: Policy(
        "HTTP 429",
        Category.NETWORK_ERROR,
        "The source asks for fewer requests.",
        (
            "wait as long as the source asks, then run the same command again",
            "run fewer ingests of this source at once",
        ),
        inside=Inside.PAUSE,
        inside_words="after Retry-After, up to 5 min",
        asks_to_wait=True,
        least_pause_seconds=1.0,
        mirror=Mirror.ALWAYS,
        live_goes_on=True,
        retryable=True,
    ),
    HttpRefused: Policy(
        "HTTP 4xx",
        Category.SOURCE_ERROR,
        "The source refuses this link.",
        ("check the link", "does the source need a login? Then give a header or cookie (--header)"),
        of_segment=OfSegment.ALWAYS,
        link=Link.REFUSED,
        mirror=Mirror.ALWAYS,
        origin_answered=True,
    ),
    NotFound: Policy(
        "not found",
        Category.SOURCE_ERROR,
        "There is nothing at this link.",
        ("check the link",),
        friendly_for_a_file="The file is not there any more.",
        actions_for_a_file=("check the path, and whether the file was moved or deleted",),
        of_segment=OfSegment.ALWAYS,
        link=Link.GONE,
        mirror=Mirror.ALWAYS,
        origin_answered=True,
    ),
    RedirectLoop: Policy(
        "redirect refused",
        Category.SOURCE_ERROR,
        "The link only leads on to other links.",
        ("open the link in a browser and use the address of the file itself",),
        of_segment=OfSegment.ALWAYS,
        link=Link.REFUSED,
        mirror=Mirror.ALWAYS,
        origin_answered=True,
    ),
    ExpiredLink: Policy(
        "expired link",
        Category.SOURCE_ERROR,
        "The link has expired.",
        ("get a fresh link",),
        inside_words="resolved again, once",
        of_segment=OfSegment.ALWAYS,
        link=Link.EXPIRED,
        mirror=Mirror.FETCH,
        origin_answered=True,
        retryable=True,
    ),
    SourceChanged: Policy(
        "source changed",
        Category.SOURCE_ERROR,
        "The source kept changing while it was read.",
        ("wait until the source is complete, then run the same command again",),
        inside_words="identified again, restart from zero",
        identifies_again=True,
        ends_the_try=True,
        of_segment=OfSegment.ALWAYS,
        mirror=Mirror.FETCH,
        origin_answered=True,
        retryable=True,
    ),
    NotMedia: Policy(
        "not media (HTML, text, empty)",
        Category.SOURCE_ERROR,
        "There is no media at this link.",
        (
            "check that the link leads to the media file itself and not to a page",
            "does the source need a login? Then give a header or cookie (--header)",
        ),
        friendly_for_a_file="The file is not media.",
        actions_for_a_file=("check that this is the right file", "play it: if no player takes it, get another copy"),
        of_segment=OfSegment.ALWAYS,
        mirror=Mirror.FETCH,
        counts_against_origin=True,
        origin_answered=True,
        another_encoder=True,
        goes_without=frozenset({Extra.TIMELINE}),
    ),
    UnsupportedCodec: Policy(
        "codec that is not accepted",
        Category.MEDIA_ERROR,
        "The source is made with a codec that is not accepted.",
        ("get the media in another format", "convert it yourself, where you trust it"),
        of_segment=OfSegment.ALWAYS,
        mirror=Mirror.FETCH,
        origin_answered=True,
    ),
    WrongDigest: Policy(
        "wrong digest",
        Category.SOURCE_ERROR,
        "The file is not the one that was expected: its digest differs.",
        ("check the digest you gave", "the source is broken: tell its owner"),
        inside=Inside.AT_ONCE,
        inside_words="refetched once",
        refetch_once=True,
        of_segment=OfSegment.ALWAYS,
        mirror=Mirror.FETCH,
        counts_against_origin=True,
        origin_answered=True,
    ),
    TruncatedBody: Policy(
        "truncated body",
        Category.NETWORK_ERROR,
        "The source sent less than it announced.",
        ("wait a while", RESUME),
        inside=Inside.PAUSE,
        inside_words="resumes",
        of_segment=OfSegment.IF_ANY_CAME,
        mirror=Mirror.ALWAYS,
        live_goes_on=True,
        counts_against_origin=True,
        retryable=True,
    ),
    RangeMismatch: Policy(
        "wrong Content-Range",
        Category.NETWORK_ERROR,
        "The source sent the wrong part of the file.",
        ("the source is broken: tell its owner",),
        inside=Inside.AT_ONCE,
        inside_words="restart from zero",
        of_segment=OfSegment.IF_ANY_CAME,
        mirror=Mirror.ALWAYS,
        live_goes_on=True,
        counts_against_origin=True,
    ),
    TruncatedMedia: Policy(
        "truncated media",
        Category.MEDIA_ERROR,
        "The file is incomplete.",
        ("get a whole copy of the file", "if it is still being written, wait until it is complete"),
        of_segment=OfSegment.ALWAYS,
        mirror=Mirror.FETCH,
        origin_answered=True,
    ),
    SegmentGap: Policy(
        "segment gap",
        Category.SOURCE_ERROR,
        "Parts of the source are missing.",
        ("try another quality: it may be complete", "publish an incomplete result with --allow-gaps"),
        inside=Inside.PAUSE,
        inside_words="refetched",
        of_segment=OfSegment.ALWAYS,
        mirror=Mirror.FETCH,
        counts_against_origin=True,
        origin_answered=True,
        another_rendition=True,
        another_resolver=True,
        retryable=True,
    ),
    CircuitOpen: Policy(
        "circuit open",
        Category.NETWORK_ERROR,
        "Requests to this source are paused after repeated failures.",
        ("wait until requests go on", RESUME),
        inside_words="waits",
        waits_for_breaker=True,
        mirror=Mirror.ALWAYS,
        live_goes_on=True,
        retryable=True,
    ),
    ToolFailed: Policy(
        "downloader tool failed",
        Category.NETWORK_ERROR,
        "The tool that downloads this source gave up.",
        ("try again later", LOWER_QUALITY, "read the tool's output in the error log (.err.log)"),
        mirror=Mirror.ALWAYS,
        live_goes_on=True,
        counts_against_origin=True,
        another_rendition=True,
        another_resolver=True,
        retryable=True,
    ),
    LimitReached: Policy(
        "source or job limit reached",
        Category.PROCESS_TIMEOUT,
        "A limit that you set was reached.",
        ("raise the limit",),
        ends_the_try=True,
        of_segment=OfSegment.ALWAYS,
        origin_answered=True,
    ),
    ProcessTimeout: Policy(
        "process timeout",
        Category.PROCESS_TIMEOUT,
        "Processing took longer than allowed.",
        ("raise the limit", LOWER_QUALITY),
        live_goes_on=True,
        of_our_tools=True,
        smaller_picture=True,
        goes_without=frozenset({Extra.SAMPLE}),
    ),
    MemoryExhausted: Policy(
        "memory exhausted",
        Category.MEMORY_EXHAUSTION,
        "Processing needed more memory than allowed.",
        ("give it more memory", LOWER_QUALITY),
        of_our_tools=True,
        another_rendition=True,
        another_resolver=True,
        smaller_picture=True,
        goes_without=frozenset({Extra.DETECTOR, Extra.SAMPLE}),
    ),
    StalledProcess: Policy(
        "stalled process (ffmpeg, probe)",
        Category.PROCESS_TIMEOUT,
        "A tool stopped making progress and was ended.",
        ("read the error log (.err.log)", "check that the disk answers", RESUME),
        of_our_tools=True,
        retryable=True,
    ),
    ProcessKilled: Policy(
        "process killed from outside",
        Category.HOST_ERROR,
        "Another program or the system ended a tool.",
        ("check this computer: was it short of memory, or shut down?", RESUME),
        live_goes_on=True,
        of_our_tools=True,
        task_retries=2,
        retryable=True,
    ),
    StoreUnavailable: Policy(
        "store unavailable",
        Category.FILE_SYSTEM_ERROR,
        "The folder for downloaded and finished files cannot be used.",
        ("check the disk of TIDEGATE_HOME", RESUME),
        ends_the_try=True,
        task_retries=2,
        retryable=True,
    ),
    LedgerUnavailable: Policy(
        "ledger unavailable",
        Category.HOST_ERROR,
        "The ledger (the database of all runs) cannot be used.",
        ("check the ledger's database (TIDEGATE_LEDGER_URL)", RESUME),
        ends_the_try=True,
        task_retries=2,
        goes_on_by_itself=True,
        retryable=True,
    ),
    ServerUnavailable: Policy(
        "Prefect server unavailable",
        Category.HOST_ERROR,
        "The Prefect server cannot be used.",
        ("run python -m flows.doctor: it names the cause", RESUME),
        ends_the_try=True,
        goes_on_by_itself=True,
        retryable=True,
    ),
    BadTimestamps: Policy(
        "bad timestamps",
        Category.MEDIA_ERROR,
        "The source's timestamps are broken.",
        ("the source is damaged: get another copy",),
        of_our_tools=True,
        climbs=True,
        another_encoder=True,
        goes_without=frozenset({Extra.SIDECAR, Extra.SAMPLE, Extra.TIMELINE}),
    ),
    RefusedByMuxer: Policy(
        "unsupported or refused by the muxer",
        Category.MEDIA_ERROR,
        "No playable file can be made of this source.",
        ("the source is damaged: get another copy", "try another profile (--profile)"),
        of_our_tools=True,
        climbs=True,
        another_encoder=True,
        goes_without=frozenset({Extra.SIDECAR, Extra.DETECTOR, Extra.SAMPLE, Extra.TIMELINE}),
    ),
    VerificationFailed: Policy(
        "verification failed",
        Category.MEDIA_ERROR,
        "The result is not complete, so it was not published.",
        ("the source is damaged: get another copy",),
        of_our_tools=True,
        climbs=True,
        another_encoder=True,
        goes_without=frozenset({Extra.TIMELINE}),
    ),
    ToolMissing: Policy(
        "tool missing",
        Category.HOST_ERROR,
        "A tool that is needed is not installed.",
        (
            "install the tool that the message names, or set TIDEGATE_TOOLS_… to its path",
            "run python -m flows.doctor: it looks for what is missing",
        ),
        of_our_tools=True,
        another_resolver=True,
    ),
    EncoderUnknown: Policy(
        "encoder unknown",
        Category.HOST_ERROR,
        "The ffmpeg on this host lacks an encoder that is needed.",
        ("install a full ffmpeg, or unset TIDEGATE_TOOLS_FFMPEG to use the bundled one",),
        of_our_tools=True,
        another_encoder=True,
        goes_without=frozenset({Extra.DETECTOR, Extra.SAMPLE}),
    ),
    BadInput: Policy(
        "bad input",
        Category.USAGE,
        "The request is not valid; nothing was started.",
        ("see python -m flows.run --help",),
        mirror=Mirror.NEXT,
    ),
    UnsupportedSource: Policy(
        "unsupported source",
        Category.USAGE,
        "This kind of source is not supported.",
        ("give an http(s) link to a media file, or the path of a local file",),
        of_segment=OfSegment.IF_ANY_CAME,
        mirror=Mirror.NEXT,
        another_resolver=True,
    ),
    AddressRefused: Policy(
        "address refused",
        Category.USAGE,
        "The link leads to an address that must not be reached from here.",
        (
            "check where the link leads",
            "allow the host or network in TIDEGATE_NETWORK_ALLOW, if it is your own (docs/deploy.md)",
        ),
        mirror=Mirror.NEXT,
    ),
    DiskFull: Policy(
        "disk full",
        Category.FILE_SYSTEM_ERROR,
        "There is no space left.",
        ("free space on the disk that the message names", RESUME),
        ends_the_try=True,
        retryable=True,
    ),
    PermissionRefused: Policy(
        "permission",
        Category.FILE_SYSTEM_ERROR,
        "A file or folder may not be read or written.",
        ("check the permissions of the path that the message names",),
        ends_the_try=True,
    ),
    PathRefused: Policy(
        "path refused",
        Category.HOST_ERROR,
        "Deployed runs may not use this file or folder.",
        ("move the file into a folder that is allowed", "or allow its folder with the line that the message gives"),
        ends_the_try=True,
    ),
    AdmissionRefused: Policy(
        "admission refused",
        Category.HOST_ERROR,
        "This host had no memory, disk or slot to spare.",
        ("free memory or disk", "run fewer ingests at once"),
        inside_words="waits",
        ends_the_try=True,
        retryable=True,
    ),
    Superseded: Policy(
        "superseded",
        Category.COORDINATION,
        "Another run has taken this work over.",
        ("look at the other run: python -m flows.runs lists it",),
    ),
    LeaseLost: Policy(
        "lease lost",
        Category.COORDINATION,
        "This run lost its connection to the ledger (the database of all runs) and stopped itself.",
        ("check the ledger's database", RESUME),
        goes_on_by_itself=True,
        retryable=True,
    ),
    Cancelled: Policy(
        "cancelled",
        Category.COORDINATION,
        "The run was cancelled.",
        (RESUME,),
        retryable=True,
    ),
    Parked: Policy(
        "parked",
        Category.COORDINATION,
        "This run is not resumed any more by itself.",
        ("read the error log (.err.log), fix the cause, run the same source again: it resumes",),
    ),
    Stuck: Policy(
        "stuck",
        Category.COORDINATION,
        "The run made no progress for hours and was ended.",
        ("read the error log (.err.log), then run the same command again: it resumes",),
        retryable=True,
    ),
    Unknown: Policy(
        "unknown",
        Category.UNKNOWN,
        "Something unexpected happened.",
        ("report it with the reference below", RESUME),
        counts_against_origin=True,
        task_retries=1,
        another_encoder=True,
        retryable=True,
    ),
}


def policy_of(failure: type[TidegateError]) -> Policy:
    """The row of the nearest class in the tree that has one; a family without a row counts as unknown."""
    rows = (POLICIES[base] for base in failure.__mro__ if base in POLICIES)
    return next(rows, POLICIES[Unknown])


_BY_NAME = {snake_case(failure.__name__): policy for failure, policy in POLICIES.items()}


def policy_by_name(name: str) -> Policy:
    """The row of a failure by its public name, as records keep it; a name without a row counts as unknown."""
    return _BY_NAME.get(name, POLICIES[Unknown])


_SOMEWHERE = " (the system does not say where: TIDEGATE_HOME, the output folder, or the temporary folder, TMPDIR)"

_BY_ERRNO: dict[int, type[HostFailure]] = {
    errno.ENOSPC: DiskFull,
    errno.EDQUOT: DiskFull,
    errno.EACCES: PermissionRefused,
    errno.EPERM: PermissionRefused,
    errno.EROFS: PermissionRefused,
}


def is_disk_full(error: OSError) -> bool:
    """Whether no space or no quota is left."""
    return _BY_ERRNO.get(error.errno or 0) is DiskFull


def from_os_error(error: OSError, doing: str, path: Path | str | None) -> TidegateError:
    """Translate an operating-system error met while `doing` something (a phrase for the message).

    `path` is where: the system names a path when it opens one, and none when it writes or syncs. The actions send
    people to the volume or path that the message names.
    """
    family = _BY_ERRNO.get(error.errno or 0, StoreUnavailable)
    where = error.filename if isinstance(error.filename, str | bytes) and error.filename else path
    named = f" ({os.fsencode(where).decode(errors='replace')})" if where else _SOMEWHERE
    return family(f"{error.strerror or error} while {doing}{named}")


def as_failure(error: BaseException) -> TidegateError:
    """Any exception as one of ours: ours stay as they are, the operating system's are translated."""
    if isinstance(error, TidegateError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return as_failure(reason_of(error))
    if isinstance(error, OSError) and not isinstance(error, TimeoutError | ConnectionError):
        return from_os_error(error, "working", None)
    detail = str(error).strip() or "no message"
    return Unknown(f"{type(error).__name__}: {detail}")


def is_ours(error: BaseException) -> bool:
    """Whether it is a failure of the table."""
    return isinstance(error, TidegateError)


def is_decisive(error: BaseException) -> bool:
    """Whether it is a failure that ends a try of several connections."""
    return isinstance(error, TidegateError) and error.policy.ends_the_try


def reason_of(
    group: BaseExceptionGroup[BaseException], preferred: Callable[[BaseException], bool] = is_ours
) -> BaseException:
    """Why a task group ended: its first `preferred` exception. Siblings that were ended because of it say less."""
    preferably, others = group.split(preferred)
    reason: BaseException = preferably or others or group
    while isinstance(reason, BaseExceptionGroup):
        reason = reason.exceptions[0]
    return reason

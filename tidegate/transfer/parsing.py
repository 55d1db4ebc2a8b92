"""Playlists read by a child: text from the outside in, our own frozen values out.

Whoever has asked for a playlist, a presentation or a Metalink calls it. A hostile text can take the memory and the time
of that child and no more; this process only takes its word, checks it and bounds it, and its event loop goes on. It
keeps what it last read in memory, since a run asks for the same playlist three times; after a crash nothing is left but
a file in the system's folder for temporary files, and that only where the kill came before the child had opened it.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import tempfile
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

from blake3 import blake3

from tidegate.durable.threads import in_thread
from tidegate.errors import (
    Evidence,
    MemoryExhausted,
    NotMedia,
    ProcessTimeout,
    StalledProcess,
    TidegateError,
    Unknown,
    UnsupportedSource,
    from_os_error,
)
from tidegate.redact import redact_text, redact_url
from tidegate.transfer.outside import Outside, ToolEnd
from tidegate.transfer.playlists.dash import Presentation
from tidegate.transfer.playlists.hls import MasterPlaylist, MediaPlaylist
from tidegate.transfer.playlists.media import playlist_damage, too_long
from tidegate.transfer.playlists.metalink import Metalink
from tidegate.transfer.playlists.written import Account, Playlist, Unbelievable

_CHILD = Path(__file__).with_name("playlists").joinpath("parse_child.py").absolute()

READER = "the playlist reader"
MOST_ANSWER_CHARS = 256 * 1024 * 1024
"""What a child may say at most, whatever of it is kept: twice the longest playlist that is read."""
LONGEST_MESSAGE_CHARS = 16 * 1024 * 1024
"""One message: 64 segments whose links are as long as they may be, each letter of them escaped."""
LONGEST_REASON = 500
KEPT_SEGMENTS = 50_000
"""How many segments all playlists that are kept may have together."""
KEPT_PLAYLISTS = 16

Format = Literal["hls", "dash", "metalink"]
T = TypeVar("T")


async def parse_hls(outside: Outside, body: bytes, url: str) -> MasterPlaylist | MediaPlaylist:
    """What the HLS playlist at `url` says.

    Raises:
        NotMedia, UnsupportedSource: see `playlists.read_hls.read`; or it crashed its reader.
        MemoryExhausted, ProcessTimeout: reading it takes more than it may.
        ToolMissing, ProcessKilled: see `Outside.run_tool`.
    """
    playlist = await _parse(outside, "hls", body, url)
    if isinstance(playlist, MasterPlaylist):
        return playlist
    return _only(playlist, MediaPlaylist, url)


async def parse_dash(outside: Outside, body: bytes, url: str) -> Presentation:
    """What the MPD from `url` says.

    Raises:
        NotMedia, UnsupportedSource, MemoryExhausted, ProcessTimeout, ToolMissing, ProcessKilled: see `parse_hls`.
    """
    return _only(await _parse(outside, "dash", body, url), Presentation, url)


async def parse_metalink(outside: Outside, body: bytes) -> Metalink:
    """What a Metalink says; nothing where it cannot be read.

    Raises:
        MemoryExhausted, ProcessTimeout, ToolMissing, ProcessKilled: see `parse_hls`.
    """
    return _only(await _parse(outside, "metalink", body, ""), Metalink, "")


def _only(playlist: Playlist, kind: type[T], url: str) -> T:
    if not isinstance(playlist, kind):
        raise _unbelievable(url)
    return playlist


async def _parse(outside: Outside, kind: Format, body: bytes, url: str) -> Playlist:
    key = (kind, url, blake3(body).digest())
    known = _CACHE.get(key)
    if known is not None:
        return known
    playlist = await _run_reader(outside, kind, body, url)
    _CACHE.keep(key, playlist)
    return playlist


async def _run_reader(outside: Outside, kind: Format, body: bytes, url: str) -> Playlist:
    limits, answer = outside.limits, _ChildAnswer(url)
    seconds = limits.playlist_timeout.total_seconds()
    head = {"url": url, "memory_bytes": limits.playlist_memory, "cpu_seconds": math.ceil(seconds)}
    path = await in_thread(_write_request, json.dumps(head).encode(), body)
    try:
        end = await outside.run_tool(
            name=READER,
            argv=[sys.executable, "-I", str(_CHILD), kind, str(path)],
            deadline_seconds=seconds,
            stall_timeout=limits.playlist_timeout,
            marks=answer.marks,
            on_stdout=answer.feed,
            memory_cap_bytes=limits.playlist_memory,
            network="none",
        )
    except MemoryExhausted as error:
        raise _no_memory(outside, error.evidence, url) from error
    except (ProcessTimeout, StalledProcess) as error:
        raise _no_time(outside, error.evidence, url) from error
    finally:
        path.unlink(missing_ok=True)
    return _playlist_of(outside, answer, end, url)


def _playlist_of(outside: Outside, answer: _ChildAnswer, end: ToolEnd, url: str) -> Playlist:
    """What the child said, or why it did not."""
    if end.exit_code == -signal.SIGXCPU:
        raise _no_time(outside, end.evidence, url)
    if answer.refused is not None:
        raise _failure_from_child(outside, answer.refused, end.evidence, url)
    if end.exit_code < 0:
        raise playlist_damage(url, f"it crashed its reader (signal {-end.exit_code})")
    if end.exit_code > 0:  # an error of ours that no reader foresaw
        evidence = replace(end.evidence, output_head="", output_tail=redact_text(end.evidence.output_tail))
        raise Unknown(f"The playlist reader ended with {end.exit_code} and no answer", evidence=evidence)
    try:
        return answer.account.playlist()
    except Unbelievable as error:
        raise _unbelievable(url) from error


def _write_request(head: bytes, body: bytes) -> Path:
    """The request in a file that only we can read. A playlist holds signed links."""
    try:
        handle, path = tempfile.mkstemp(prefix="tidegate-playlist-")
        with open(handle, "wb") as file:  # noqa: PTH123  # a handle, and no path
            file.write(head + b"\n")
            file.write(body)
    except OSError as error:
        raise from_os_error(error, "handing a playlist to its reader", tempfile.gettempdir()) from error
    return Path(path)


# --- what a child says ----------------------------------------------------------------------------


@dataclass
class _ChildAnswer:
    """Puts the lines of one child together to messages; see `parse_child` for how they are cut."""

    url: str
    account: Account = field(default_factory=Account)
    refused: list[str] | None = None
    _fragments: list[str] = field(default_factory=list)
    _chars: int = 0
    _all_chars: int = 0

    def feed(self, line: str) -> None:
        """One line of its stdout.

        Raises:
            UnsupportedSource: it says more than any playlist does; the child is ended.
            NotMedia: it says what no reader of ours says.
        """
        self._chars += len(line)
        self._all_chars += len(line)
        if self._all_chars > MOST_ANSWER_CHARS or self._chars > LONGEST_MESSAGE_CHARS:
            raise too_long(self.url)
        if len(line) < 2 or line[0] not in "+." or line[-1] != "|":
            raise _unbelievable(self.url)
        self._fragments.append(line[1:-1])
        if line[0] == ".":
            text = "".join(self._fragments)
            self._fragments, self._chars = [], 0
            self._take(text)

    def marks(self) -> dict[str, float]:
        return {"chars": float(self._all_chars)}

    def _take(self, text: str) -> None:
        try:
            message = json.loads(text)
            if isinstance(message, dict) and "refused" in message:
                self.refused = [str(part)[:LONGEST_REASON] for part in (*message["refused"], "", "", "")][:3]
            else:
                self.account.take(message)
        except (ValueError, TypeError, RecursionError) as error:
            raise _unbelievable(self.url) from error


def _failure_from_child(outside: Outside, refused: list[str], evidence: Evidence, url: str) -> TidegateError:
    kind, message, hint = refused
    if kind == "memory":
        return _no_memory(outside, evidence, url)
    failure = UnsupportedSource if kind == "unsupported" else NotMedia
    return failure(redact_text(message), hint=redact_text(hint), evidence=Evidence(url=redact_url(url)))


def _no_memory(outside: Outside, evidence: Evidence, url: str) -> MemoryExhausted:
    cap = outside.limits.playlist_memory / 1e6
    return MemoryExhausted(
        f"Reading the playlist needs more memory than the {cap:.0f} MB that it may use",
        hint="A playlist that needs so much is damaged or hostile; TIDEGATE_TRANSFER_PLAYLIST_MEMORY allows more.",
        evidence=_without_output(evidence, url),
    )


def _no_time(outside: Outside, evidence: Evidence, url: str) -> ProcessTimeout:
    seconds = outside.limits.playlist_timeout.total_seconds()
    return ProcessTimeout(
        f"Reading the playlist takes longer than the {seconds:g} s that it may",
        hint="A playlist that takes so long is damaged or hostile; TIDEGATE_TRANSFER_PLAYLIST_TIMEOUT allows more.",
        evidence=_without_output(evidence, url),
    )


def _without_output(evidence: Evidence, url: str) -> Evidence:
    """Without its output, which is the playlist itself."""
    return Evidence(
        url=redact_url(url),
        exit_code=evidence.exit_code,
        waited_seconds=evidence.waited_seconds,
        resources=evidence.resources,
        curve=evidence.curve,
    )


def _unbelievable(url: str) -> NotMedia:
    return playlist_damage(url, "its reader gave an answer that cannot be right")


# --- what was read already ------------------------------------------------------------------------


class _Cache:
    """The last playlists that were read: the same bytes from the same address say the same."""

    def __init__(self) -> None:
        self._playlists: OrderedDict[tuple[Format, str, bytes], Playlist] = OrderedDict()

    def get(self, key: tuple[Format, str, bytes]) -> Playlist | None:
        if key in self._playlists:
            self._playlists.move_to_end(key)
        return self._playlists.get(key)

    def keep(self, key: tuple[Format, str, bytes], playlist: Playlist) -> None:
        """And forget the ones asked for longest ago."""
        if _segments_in(playlist) > KEPT_SEGMENTS:
            return
        self._playlists[key] = playlist
        while len(self._playlists) > KEPT_PLAYLISTS or self._segments() > KEPT_SEGMENTS:
            self._playlists.popitem(last=False)

    def _segments(self) -> int:
        return sum(map(_segments_in, self._playlists.values()))


def _segments_in(playlist: Playlist) -> int:
    match playlist:
        case MediaPlaylist():
            return len(playlist.segments)
        case Presentation():
            return sum(len(track.segments) for track in (*playlist.renditions, *playlist.sounds))
    return 0


_CACHE = _Cache()

"""Renditions of HLS and DASH, fetched with the real resolvers; and a look at what came."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import av
from pydantic import SecretStr

from tests.support.leaks import open_descriptors
from tidegate.events import Event, Note, ignore_events
from tidegate.model import Gap, Identity, Rendition, Source, TransferStats
from tidegate.settings import GateSettings, Settings, TransferSettings
from tidegate.stages.outside import outside_of
from tidegate.stages.workbench import Workbench
from tidegate.transfer.gates.gates import Gates
from tidegate.transfer.outside import Outside, RunTool
from tidegate.transfer.resolvers.base import FetchRequest, FetchResult, Resolver
from tidegate.transfer.resolvers.dash import DashResolver
from tidegate.transfer.resolvers.hls import HlsResolver
from tidegate.transfer.transport import pool_of

QUICK = TransferSettings(
    request_timeout=3.0, stall_timeout=1.0, stall_tick=0.1, minimum_speed=8192, tries=3, backoff_base=0.02
)
"""Short enough for a test, long enough for a busy machine."""


@dataclass
class Notes:
    """An observer that keeps the messages of notes."""

    messages: list[str] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Note):
            self.messages.append(event.message)


@dataclass(frozen=True)
class FetchedRendition:
    """A rendition as it came."""

    files: dict[str, tuple[Path, ...]]
    stats: TransferStats
    gaps: tuple[Gap, ...]
    seconds: float | None
    known: dict[str, str]

    @property
    def bytes(self) -> bytes:
        """Of the main track, which is one file."""
        (path,) = self.files["source"]
        return path.read_bytes()

    def contents(self, name: str = "source") -> list[bytes]:
        return [path.read_bytes() for path in self.files[name]]


def fetch_rendition(
    url: str,
    folder: Path,
    *,
    rendition: str = "source",
    limits: TransferSettings = QUICK,
    allow_gaps: bool = False,
    seconds: float | None = None,
    headers: dict[str, str] | None = None,
    observe: Callable[[Event], None] = ignore_events,
) -> FetchedRendition:
    """What `download` would do: the rendition of that id in its folder."""
    source = source_of(url, headers)
    identity = Identity(url=source.redacted, name="media")
    what = FetchRequest(
        identity,
        Rendition(id=rendition, label=rendition),
        folder,
        allow_gaps=allow_gaps,
        duration_seconds=seconds,
    )
    fetched = with_outside(lambda outside: resolver_of(url).fetch(outside, source, what), limits, observe)
    return FetchedRendition(
        dict(fetched.tracks), fetched.stats, fetched.gaps, fetched.promised_seconds, dict(fetched.known)
    )


def with_outside(
    work: Callable[[Outside], object],
    limits: TransferSettings = QUICK,
    observe: Callable[[Event], None] = ignore_events,
    **more: object,
) -> FetchResult:
    """The result of asynchronous `work`; its connections are closed."""
    # The breaker has tests of its own; here every fault has to be met.
    gates = Gates(GateSettings(failures=1000, failure_rate=1.0), observe=observe)
    outside = Outside(limits, gates, observe, **{"run_tool": real_tools(observe), **more})  # type: ignore[arg-type]

    async def run() -> object:
        return await work(outside)  # type: ignore[misc]

    try:
        return anyio.run(run)  # type: ignore[return-value]
    finally:
        pool_of(outside.gates).close()


def real_tools(observe: Callable[[Event], None] = ignore_events) -> RunTool:
    """Children under supervision, as the stages start them."""
    return outside_of(Workbench(Settings(), observe), "download").run_tool


def resolver_of(url: str) -> Resolver:
    return DashResolver() if ".mpd" in url else HlsResolver()


def source_of(url: str, headers: dict[str, str] | None = None) -> Source:
    secret = {name: SecretStr(value) for name, value in (headers or {}).items()}
    return Source(url=SecretStr(url), headers=secret)


def frames(path: Path) -> int:
    """How many pictures a file decodes to; sound where it has none."""
    with av.open(str(path)) as media:
        kind = "video" if media.streams.video else "audio"
        return sum(1 for _ in media.decode(**{kind: 0}))


@contextlib.contextmanager
def nothing_left_behind() -> Iterator[None]:
    """No thread and no descriptor more than before; the lease thread lingers by itself for some seconds."""
    threads, descriptors = set(threading.enumerate()), open_descriptors()
    yield
    until = time.monotonic() + 6.0
    while (left := _others(threads)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not left
    assert {number: what for number, what in open_descriptors().items() if descriptors.get(number) != what} == {}


def _others(threads: set[threading.Thread]) -> list[threading.Thread]:
    return [thread for thread in set(threading.enumerate()) - threads if thread.name != "gates"]

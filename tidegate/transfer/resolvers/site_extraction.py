"""One page, asked by yt-dlp in a supervised child: what media it leads to.

The site resolver calls `ask_extractor` whenever it needs links. What comes back holds signed links and cookies: it
lives in memory only, and a process that goes on after a crash asks again. An extraction passes the gate of its site,
and is tried again by the one retry rule; yt-dlp itself tries nothing twice.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from tidegate.errors import (
    ConnectionFailed,
    Evidence,
    HttpRefused,
    NotFound,
    NotMedia,
    ProcessTimeout,
    RequestTimeout,
    ServerError,
    StalledProcess,
    Throttled,
    TidegateError,
    Unknown,
    UnsupportedSource,
)
from tidegate.model import Source, TransferStats
from tidegate.redact import redact_text, redact_url
from tidegate.resilience.retry import Retry
from tidegate.transfer.asking.answers import retry_after_seconds
from tidegate.transfer.gates.gates import origin_of
from tidegate.transfer.outside import Outside, ToolEnd
from tidegate.transfer.resolvers.site_formats import Format, expires_at, format_of
from tidegate.transfer.tool_proxy import tool_proxy

_CHILD = Path(__file__).with_name("site_child.py").absolute()

_HOME = "extract-"
"""How the name of the child's home begins."""

SOON_SECONDS = 60.0
"""A link that expires so soon is not begun with."""
FRESH_SECONDS = 300.0
"""How long links without an expiry of their own are used that were not asked for again."""

GONE = re.compile(
    r"removed|deleted|does not exist|doesn.t exist|no longer (?:available|exists)|terminated|not found", re.I
)
RIGHTS = re.compile(
    r"private|log ?in|sign(?:ed)? ?in|password|members?.only|subscri|premium|\bpaid\b|purchase|\bage\b|confirm you|"
    r"cookies|not available in your|\bgeo|\bregion|\bcountr|\bDRM\b|protected|rental",
    re.IGNORECASE,
)
NOTHING = re.compile(r"no video|no media|no formats|unable to extract|not a video|no playable", re.I)
"""What extractors say, in words, when they know why there is nothing; asked in this order after `GONE`."""


@dataclass(frozen=True)
class Extraction:
    """What a page leads to."""

    extractor: str
    id: str
    title: str
    seconds: float | None
    live: bool
    formats: tuple[Format, ...]
    """Worst first. Only what our engine can bring."""
    unusable: int
    """How many formats it cannot."""
    subtitles: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """Language → links and their file types."""
    requests: int = 0
    """What asking cost."""
    asked_at: float = 0.0
    """Seconds since the epoch."""

    def good_at(self, now: float) -> bool:
        """Whether its links may still be begun with."""
        ends = [end for one in self.formats if (end := expires_at(one.url.get_secret_value())) is not None]
        return now < (min(ends) - SOON_SECONDS if ends else self.asked_at + FRESH_SECONDS)


@dataclass
class SiteAnswer:
    """What the child has said so far, line by line."""

    media: dict[str, Any] | None = None
    formats: list[dict[str, Any]] = field(default_factory=list)
    refused: dict[str, Any] | None = None
    requests: int = 0
    """How many yt-dlp has begun."""
    lines: int = 0

    def feed(self, line: str) -> None:
        try:
            message = json.loads(line)
        except ValueError:  # what a library prints on stdout is not the answer
            return
        if not isinstance(message, dict):
            return
        self.lines += 1
        self.requests = message.get("requests", self.requests)
        self.media = message.get("media", self.media)
        self.refused = message.get("refused", self.refused)
        if "format" in message:
            self.formats.append(message["format"])

    def marks(self) -> dict[str, float]:
        return {"lines": float(self.lines)}


@lru_cache(maxsize=64)
def extractor_of(url: str) -> tuple[str, str] | None:
    """The extractor that knows links like this one, and the id in it; None where only the generic one would try.

    The first call imports yt-dlp's list of patterns (a third of a second); who can decide without does.
    """
    from yt_dlp.extractor import gen_extractor_classes

    for kind in gen_extractor_classes():
        if kind.ie_key() != "Generic" and kind.suitable(url):
            return str(kind.ie_key()), str(kind.get_temp_id(url) or "")
    return None


async def ask_extractor(
    outside: Outside, source: Source, folder: Path, *, known: str | None
) -> tuple[Extraction, TransferStats]:
    """Ask the page. `known` is the extractor that knows such links; the generic one asks the page's own host.
    In `folder` the child has its empty home for as long as it lives.

    Raises:
        NotMedia, UnsupportedSource: there is nothing in it that can be brought.
        TidegateError: the site cannot be reached, or refuses.
    """
    origin = f"site:{known.lower()}" if known else origin_of(source.url.get_secret_value())
    retry = Retry(outside.limits, outside.observe, "extract")
    started, requests = time.monotonic(), 0

    async def one_try() -> Extraction:
        nonlocal requests
        answer = SiteAnswer()
        try:
            async with outside.gates.through(origin, "extraction", retry=retry.retries > 0):
                return await _run_extraction(outside, source, folder, answer)
        finally:
            requests += answer.requests

    found = await retry.run(one_try)
    spent = TransferStats(requests=requests, retries=retry.retries, seconds=time.monotonic() - started)
    return found, spent


async def _run_extraction(outside: Outside, source: Source, folder: Path, answer: SiteAnswer) -> Extraction:
    limits = outside.limits
    async with tool_proxy(outside) as proxy:
        routing = {"proxy": proxy.url} if proxy else {}
        with _request_file(source, folder, {"timeout": limits.request_timeout.total_seconds(), **routing}) as (
            path,
            home,
        ):
            end = await _run_child(outside, path, home, answer, proxy.port if proxy else "any")
        evidence = replace(_redact(end.evidence), url=source.redacted)
        if answer.refused is not None:
            raise site_failure(answer.refused, evidence)
        if answer.media is None:
            raise Unknown(f"yt-dlp ended with {end.exit_code} and no answer", evidence=evidence)
        return _extraction_of(answer, evidence)


async def _run_child(
    outside: Outside, request: Path, home: Path, answer: SiteAnswer, network: Literal["any"] | int
) -> ToolEnd:
    limits = outside.limits
    try:
        return await outside.run_tool(
            name="yt-dlp",
            argv=[sys.executable, "-I", str(_CHILD), str(request)],
            deadline_seconds=limits.extract_timeout.total_seconds(),
            # One request of its own may take its whole time, and a redirect as long again.
            stall_timeout=2 * limits.request_timeout,
            marks=answer.marks,
            on_stdout=answer.feed,
            # Nobody's configuration, cache, plugins or passwords: it finds an empty home.
            environment={
                "HOME": str(home),
                "XDG_CONFIG_HOME": str(home),
                "XDG_CACHE_HOME": str(home),
                "XDG_DATA_HOME": str(home),
                "NETRC": os.devnull,
            },
            folder=home,
            network=network,
        )
    except (StalledProcess, ProcessTimeout) as late:
        raise RequestTimeout("The site did not answer in time", evidence=_redact(late.evidence)) from late


def _extraction_of(answer: SiteAnswer, evidence: Evidence) -> Extraction:
    media = answer.media or {}
    formats = [found for facts in answer.formats if (found := format_of(facts)) is not None]
    if media.get("live_status") in ("is_upcoming", "post_live"):
        raise NotMedia("The recording is not there yet", evidence=evidence)
    if media.get("direct"):  # it takes a page that it cannot read for the media itself
        raise NotMedia("There is no video on this page", evidence=evidence)
    if not formats:
        protocols = sorted({str(facts.get("protocol")) for facts in answer.formats})
        raise UnsupportedSource(
            f"The site offers nothing that can be downloaded: {', '.join(protocols) or 'no formats'}", evidence=evidence
        )
    return Extraction(
        extractor=str(media.get("extractor_key") or "Generic"),
        id=str(media.get("id") or ""),
        title=str(media.get("title") or ""),
        seconds=float(media["duration"]) if media.get("duration") else None,
        live=media.get("live_status") == "is_live",
        formats=tuple(formats),
        unusable=len(answer.formats) - len(formats),
        subtitles={
            str(language): tuple((str(one["url"]), str(one.get("ext") or "")) for one in versions)
            for language, versions in (media.get("subtitles") or {}).items()
        },
        requests=answer.requests,
        asked_at=time.time(),
    )


def site_failure(refused: Mapping[str, Any], evidence: Evidence) -> TidegateError:
    """What yt-dlp's refusal means."""
    message = redact_text(str(refused.get("message") or "yt-dlp gave no reason"))
    kind = refused.get("kind")
    if kind == "http":
        return _by_status(int(refused["status"]), refused.get("retry_after"), message, evidence)
    if kind in ("unsupported", "not_live"):
        return NotMedia(f"There is no video on this page: {message}", evidence=evidence)
    if kind == "several":
        return UnsupportedSource(f"{message}; give the link of one", evidence=evidence)
    if kind == "geo":
        return HttpRefused(f"The site does not show this here: {message}", evidence=evidence)
    if kind == "timeout":
        return RequestTimeout(f"The site did not answer in time: {message}", evidence=evidence)
    if kind == "network":
        return ConnectionFailed(f"The site could not be reached: {message}", evidence=evidence)
    if kind == "said":
        for words, failure in ((GONE, NotFound), (RIGHTS, HttpRefused), (NOTHING, NotMedia)):
            if words.search(message):
                return failure(f"The site says: {message}", evidence=evidence)
        return HttpRefused(f"The site says: {message}", evidence=evidence)
    return Unknown(f"yt-dlp failed: {message}", evidence=evidence)


def _by_status(status: int, retry_after: str | None, message: str, evidence: Evidence) -> TidegateError:
    evidence = replace(evidence, status=status)
    wait = retry_after_seconds(retry_after, time.time())
    if status in (404, 410):
        return NotFound(f"The site answered {status}: {message}", evidence=evidence)
    if status == 429:
        return Throttled("The site asks us to slow down", evidence=evidence, retry_after_seconds=wait)
    if status >= 500:
        return ServerError(f"The site answered {status}", evidence=evidence, retry_after_seconds=wait)
    return HttpRefused(f"The site answered {status}: {message}", evidence=evidence)


@contextmanager
def _request_file(source: Source, folder: Path, more: Mapping[str, object]) -> Iterator[tuple[Path, Path]]:
    """The request in a file that only we can read, and an empty home for the child; both are gone afterwards. The child
    removes the file as soon as it has read it: a kill may leave the empty home, and the next extraction clears it."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_HOME}*"):
        shutil.rmtree(left, ignore_errors=True)
    home = Path(tempfile.mkdtemp(prefix=_HOME, dir=folder))
    path = home / secrets.token_hex(8)
    content = {
        "url": source.url.get_secret_value(),
        "headers": {name: value.get_secret_value() for name, value in source.headers.items()},
        **more,
    }
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            json.dump(content, file)
        yield path, home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _redact(evidence: Evidence) -> Evidence:
    """yt-dlp quotes links as they are."""
    return replace(
        evidence,
        output_head=redact_text(evidence.output_head),
        output_tail=redact_text(evidence.output_tail),
        url=redact_url(evidence.url) if evidence.url else None,
    )

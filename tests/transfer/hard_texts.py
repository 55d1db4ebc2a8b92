"""Texts that are hard for a regular expression, and our functions that read what servers wrote."""

from __future__ import annotations

import re
from collections.abc import Callable

from tidegate.redact import has_secret, redact_text, redact_url
from tidegate.transfer.asking.answers import digests, file_name, links_of, retry_after_seconds, wait_seconds
from tidegate.transfer.file.mirrors import has_expired
from tidegate.transfer.playlists.captions import merge_captions
from tidegate.transfer.playlists.metalink import priority_of
from tidegate.transfer.resolvers.twitch_console import _quality
from tidegate.transfer.transport.base import Headers
from tidegate.transfer.verify import refuse_text

SEEDS = (
    *"a0A .,;:=\"'/-<>%$?&\n\t#[]_@{}",
    "a=",
    'a="',
    "a;",
    ";a=b",
    "<a>",
    "<>;",
    "<!--a-->",
    "<!---->",
    "<?xml ",
    "0,",
    "0.0",
    "1x",
    "a/",
    "/a=b",
    "token",
    "signature",
    "-key",
    "http://",
    "a://",
    "00:",
    "00:00.000 --> ",
    "\n\n",
    "\r\n",
    "$Time%0",
    "$Number$",
    "X-TIMESTAMP-MAP=MPEGTS:",
    "[STATUS] - A",
    "-> aException: ",
    "bytes 1-",
    "%0a",
)
"""What is repeated."""
ENDS = ("!", "\nx")
"""What makes a long match fail at its end."""


def hard_texts(source: str, size: int, ends: tuple[str, ...] = ENDS) -> list[str]:
    """Each seed, and each word of the expression itself, over and over, with an end that does not fit; alone, and after
    what the expression begins with."""
    words = set(re.findall(r"[A-Za-z]{2,}", source))
    begins = {"", re.sub(r"\\(.)", r"\1", re.match(r"\^?((?:\\[^\w]|[\w<#/ -])*)", source)[1])}  # type: ignore[index]
    repeated = [begin + seed * (size // len(seed)) for seed in (*SEEDS, *sorted(words)) for begin in sorted(begins)]
    return [text + end for text in repeated for end in ends]


def _header(name: str) -> Callable[[Callable[[Headers], object]], Callable[[str], object]]:
    return lambda read: lambda text: read(Headers({name: text.replace("\n", " ")}))


FUNCTIONS: dict[str, Callable[[str], object]] = {
    "redact_text": redact_text,
    "redact_url of a path": lambda text: redact_url(f"http://h/{text}"),
    "redact_url of a query": lambda text: redact_url(f"http://h/?{text}"),
    "redact_url of a name": lambda text: redact_url(f"http://h/?{text.replace('=', '')}%0Ax=1"),
    "has_secret": lambda text: has_secret(f"http://h/?{text}"),
    "expired": lambda text: has_expired(f"http://h/?{text}", 0.0),
    "priority_of": priority_of,
    "retry_after_seconds": lambda text: retry_after_seconds(text, 0.0),
    "wait_seconds": _header("RateLimit")(lambda headers: wait_seconds(headers, 0.0)),
    "digests": _header("Repr-Digest")(lambda headers: digests(headers, whole=True)),
    "links": _header("Link")(lambda headers: links_of(headers, "http://h/", "duplicate")),
    "file_name": _header("Content-Disposition")(lambda headers: file_name(headers, "http://h/a")),
    "file_name, quoted": lambda text: file_name(
        Headers({"Content-Disposition": f'attachment; filename="{text}'.replace("\n", " ")}), "http://h/a"
    ),
    "a quality of a tool": lambda text: _quality(dict.fromkeys(("Name", "Resolution", "Bitrate", "File size"), text)),
    "refuse_text": lambda text: refuse_text(text.encode()),
    "merged_captions": lambda text: merge_captions([f"WEBVTT\n\n{text}", text]),
}

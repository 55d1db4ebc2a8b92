"""Stories: how an origin misbehaves, written as text such as `2M drop, 503, 2M stall 3s, ok`.

`tests.support.origin` parses one story per file and takes one step from it for each request that counts.
Parsing is pure and strict: text that is not understood raises `ValueError`, so that no fault is left out
unseen.

A story is `[flag:] step, step, …`; its last step repeats for ever (`500` alone is 500 for ever). The flag
says what counts:

| flag          | requests that take a step                                                       |
|---------------|---------------------------------------------------------------------------------|
| (none)        | GET, except peeks: `bytes=0-0`, or any bounded or suffix range of at most 1 MiB |
| `from-first:` | every GET, peeks too                                                            |
| `always:`     | every GET and HEAD, peeks too                                                   |

A request that takes no step is answered correctly. The rule looks at one request alone: a peek is one at any
time of the story.

A step is one clause, or several that do not contradict each other (`throttle 2M 4M drop`, `change 1M drop`,
`gzip 64K cut`). N and RATE are bytes and bytes per second, with K, M or G (powers of 1024) if wanted. X is a
number; `Xs` seconds, `Xms` milliseconds. N of `drop`, `cut` and `stall` counts bytes of this answer's body;
an answer shorter than N is complete.

| clause                   | what the origin does                                                           |
|--------------------------|--------------------------------------------------------------------------------|
| `ok`                     | answers correctly                                                              |
| `N drop`                 | sends N bytes, waits until the client's kernel has them, resets the connection |
| `N cut`                  | sends N bytes, closes cleanly though more was promised                         |
| `N-M drop`               | the same after a number of bytes between N and M, another one each time        |
| `N stall [Xs]`           | sends N bytes, is silent for X (default: until the client leaves), goes on     |
| `drip RATE after N`      | N bytes at full speed, the rest at RATE                                        |
| `throttle RATE`          | the whole body at RATE                                                         |
| `404` and any 4xx or 5xx | that status with a short text; `416` carries `Content-Range: bytes */size`     |
| `retry-after X`          | adds the header in whole seconds: `429 retry-after 2`                          |
| `retry-after-date X`     | the same as an HTTP date X seconds from now                                    |
| `redirect URL`           | 302 to URL (which must hold no comma and no space)                             |
| `redirect-loop`          | 302 to itself with a new query, for ever                                       |
| `html`                   | 200 `text/html`, a login page                                                  |
| `on-range`               | the rest of the step is meant for requests with a Range only; others: `ok`     |
| `if-range-whole`         | 200 and the whole file where If-Range was sent                                 |
| `header NAME=VALUE`      | one more header, beside the true ones: `header Content-Length=5`               |
| `repeat NAME`            | this header twice, with the same value                                         |
| `empty`                  | 200 with `Content-Length: 0`                                                   |
| `no-length [cut N]`      | chunked; with `cut N`, N bytes and no last chunk                               |
| `close-delimited`        | no length at all, the body ends where the connection does                      |
| `ignore-range`           | 200 and the whole file though a range was asked                                |
| `wrong-range`            | 206 with another offset in Content-Range, and the bytes of that offset         |
| `change`                 | from now on other bytes (same size) and validators; when it repeats, `ok`      |
| `flip N`                 | inverts the byte at offset N of the file on its way; digests tell the truth    |
| `late-headers Xs`        | says nothing for X, then answers                                               |
| `drip-headers [RATE]`    | the head at RATE (default 20 bytes per second)                                 |
| `gzip`                   | compresses although identity was asked: chunked, whole file                    |
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Subject = Literal["file", "status", "redirect", "redirect-loop", "html", "empty"]
Framing = Literal["length", "chunked", "close"]
Ending = Literal["complete", "drop", "cut", "stall"]
Counting = Literal["body", "from-first", "always"]

PEEK_BYTES = 1024 * 1024
UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
SIZE = r"(\d+[KMG]?)"
TIME = r"(\d+(?:\.\d+)?)(ms|s)"


@dataclass(frozen=True, slots=True)
class Step:
    """How one answer misbehaves; the default does not."""

    spelling: str = "ok"
    subject: Subject = "file"
    status: int | None = None
    retry_after_seconds: int | None = None
    retry_after_as_date: bool = False
    location: str | None = None
    framing: Framing = "length"
    ending: Ending = "complete"
    after_bytes: int | None = None
    stall_seconds: float | None = None
    rate: int | None = None
    rate_after_bytes: int = 0
    ignore_range: bool = False
    wrong_range: bool = False
    change: bool = False
    gzip: bool = False
    flip_offset: int | None = None
    until_bytes: int | None = None
    """With `after_bytes`: the most of it; the number is drawn when the step is taken."""
    on_range: bool = False
    if_range_whole: bool = False
    header: tuple[str, str] | None = None
    repeat: str | None = None
    header_delay_seconds: float = 0.0
    header_rate: int | None = None


@dataclass(frozen=True, slots=True)
class Story:
    """The steps of one file, in order, and which requests take one."""

    steps: tuple[Step, ...] = (Step(),)
    counting: Counting = "body"

    @classmethod
    def parse(cls, text: str) -> "Story":
        """Read a story from its text, or raise `ValueError` naming what was not understood."""
        counting, told = _split_flag(text.strip())
        return cls(tuple(_step(step.strip(), text) for step in told.split(",")), counting)

    def counts(self, method: str, peek: bool) -> bool:
        """Whether a request takes a step of this story."""
        if self.counting == "always":
            return True
        return method == "GET" and (self.counting == "from-first" or not peek)

    def step(self, position: int) -> Step:
        """The step for the request at this position: the last one for all that come after it."""
        return self.steps[min(position, len(self.steps) - 1)]


def parse_size(text: str) -> int:
    """Bytes from `200`, `64K`, `2M` or `1G`."""
    match = re.fullmatch(r"(\d+)([KMG]?)", text)
    if not match:
        raise ValueError(f"not a size: {text!r} (write for example 200, 64K, 2M, 1G)")
    return int(match[1]) * UNITS[match[2]]


def _seconds(number: str, unit: str) -> float:
    return float(number) / (1000 if unit == "ms" else 1)


def _stall(match: re.Match[str]) -> dict[str, Any]:
    seconds = _seconds(match[2], match[3]) if match[2] else None
    return {"ending": "stall", "after_bytes": parse_size(match[1]), "stall_seconds": seconds}


def _ending(kind: Ending) -> Callable[[re.Match[str]], dict[str, Any]]:
    return lambda match: {"ending": kind, "after_bytes": parse_size(match[1])}


def _always(**fields: Any) -> Callable[[re.Match[str]], dict[str, Any]]:
    return lambda match: fields


# The first clause that matches wins: `500 drop` is 500 bytes and a drop, so sizes come before statuses.
CLAUSES: tuple[tuple[str, Callable[[re.Match[str]], dict[str, Any]]], ...] = (
    (r"ok", _always()),
    (rf"{SIZE} drop", _ending("drop")),
    (rf"{SIZE}-{SIZE} drop", lambda m: _ending("drop")(m) | {"until_bytes": parse_size(m[2])}),
    (rf"{SIZE} cut", _ending("cut")),
    (rf"{SIZE} stall(?: {TIME})?", _stall),
    (rf"drip {SIZE} after {SIZE}", lambda m: {"rate": _rate(m[1]), "rate_after_bytes": parse_size(m[2])}),
    (rf"throttle {SIZE}", lambda m: {"rate": _rate(m[1])}),
    (r"([45]\d\d)", lambda m: {"subject": "status", "status": int(m[1])}),
    (r"retry-after (\d+)", lambda m: {"retry_after_seconds": int(m[1])}),
    (r"retry-after-date (\d+)", lambda m: {"retry_after_seconds": int(m[1]), "retry_after_as_date": True}),
    (r"redirect-loop", _always(subject="redirect-loop")),
    (r"redirect (\S+)", lambda m: {"subject": "redirect", "location": m[1]}),
    (r"html", _always(subject="html")),
    (r"on-range", _always(on_range=True)),
    (r"if-range-whole", _always(if_range_whole=True)),
    (r"header ([\w-]+)=(\S+)", lambda m: {"header": (m[1], m[2])}),
    (r"repeat ([\w-]+)", lambda m: {"repeat": m[1]}),
    (r"empty", _always(subject="empty")),
    (
        rf"no-length cut {SIZE}",
        lambda m: {"framing": "chunked", "ending": "cut", "after_bytes": parse_size(m[1])},
    ),
    (r"no-length", _always(framing="chunked")),
    (r"close-delimited", _always(framing="close")),
    (r"ignore-range", _always(ignore_range=True)),
    (r"wrong-range", _always(wrong_range=True)),
    (r"change", _always(change=True)),
    (rf"flip {SIZE}", lambda m: {"flip_offset": parse_size(m[1])}),
    (rf"late-headers {TIME}", lambda m: {"header_delay_seconds": _seconds(m[1], m[2])}),
    (rf"drip-headers(?: {SIZE})?", lambda m: {"header_rate": _rate(m[1] or "20")}),
    (r"gzip", _always(gzip=True, framing="chunked")),
)


def _rate(text: str) -> int:
    if (rate := parse_size(text)) == 0:
        raise ValueError("a rate of 0 never ends: write `N stall` instead")
    return rate


def _split_flag(text: str) -> tuple[Counting, str]:
    match = re.match(r"([a-z-]+):\s*", text)
    if not match:
        return "body", text
    if match[1] == "from-first":
        return "from-first", text[match.end() :]
    if match[1] == "always":
        return "always", text[match.end() :]
    raise ValueError(f"unknown flag {match[1]!r} in story {text!r} (known: from-first, always)")


def _step(text: str, story: str) -> Step:
    rest = " ".join(text.split())
    if not rest:
        raise ValueError(f"empty step in story {story!r}")
    fields: dict[str, Any] = {}
    while rest:
        found, rest = _clause(rest, story)
        if twice := fields.keys() & found.keys():
            raise ValueError(f"step {text!r} in story {story!r} says {', '.join(sorted(twice))} twice")
        fields |= found
    return Step(spelling=text, **fields)


def _clause(text: str, story: str) -> tuple[dict[str, Any], str]:
    for pattern, fields in CLAUSES:
        if match := re.match(rf"{pattern}(?: |$)", text):
            return fields(match), text[match.end() :]
    raise ValueError(f"cannot read {text!r} in story {story!r}; tests/support/story.py lists every clause")

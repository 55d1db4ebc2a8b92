"""The journal of an origin: one line for each request, which grows while its answer is under way.

`tests.support.origin` begins an `Exchange` for each request; tests read its frozen `Request`. A line is in
the journal before the first byte of its answer leaves; `ended` may follow a moment after the client has the
last one.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal
from urllib.parse import unquote

from tests.support.answers import RequestHead
from tests.support.story import Step

Ended = Literal["", "complete", "drop", "cut", "client-gone"]


@dataclass(frozen=True)
class Request:
    """One line of the journal: what was asked, and what was sent for it so far."""

    path: str
    query: str
    method: str
    range: str | None
    headers: Mapping[str, str]
    status: int
    bytes_sent: int
    """Bytes of the body, without chunk sizes. A reset or a killed client may have received fewer."""
    peek: bool
    at: float
    """Unix time of the request."""
    step: str
    """The spelling of the step that governed it; `ok` where none did."""
    ended: Ended
    """Empty while the answer is under way."""

    @property
    def name(self) -> str:
        """The path as a file name."""
        return unquote(self.path).lstrip("/")

    def line(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))


class Exchange:
    """A request under way; its journal line grows with it."""

    def __init__(self, head: RequestHead, status: int, step: Step, at: float) -> None:
        self.request = Request(
            path=head.path,
            query=head.query,
            method=head.method,
            range=head.range,
            headers=head.headers,
            status=status,
            bytes_sent=0,
            peek=head.peek,
            at=at,
            step=step.spelling,
            ended="",
        )

    def count(self, size: int) -> None:
        """Add bytes of the body."""
        self.request = replace(self.request, bytes_sent=self.request.bytes_sent + size)

    def end(self, ended: Ended) -> None:
        """Note how it ended."""
        self.request = replace(self.request, ended=ended)

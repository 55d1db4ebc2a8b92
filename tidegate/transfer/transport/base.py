"""What a transport is: a line to one origin, on which one question at a time is asked and answered.

The conversation layer talks to transports only through these protocols. A line is used from one worker thread at a
time; `abort` alone may come from any. Failures leave it as ours, translated where they were met.
"""

from __future__ import annotations

from typing import Protocol

import httpx

from tidegate.errors import Evidence
from tidegate.redact import redact_url

Headers = httpx.Headers
"""Names without case, repeated ones kept."""

USER_AGENT = "tidegate"


class Reply(Protocol):
    """The head of an answer, and its body while it is read."""

    status: int
    reason: str
    headers: Headers
    end_is_certain: bool
    """Whether an early end would be noticed: a length or a last chunk was announced."""

    @property
    def waited_seconds(self) -> float:
        """Grows while a read waits for bytes; not while it unpacks those that came."""
        ...

    def readinto(self, buffer: memoryview) -> int:
        """Take what is there, at least one byte; 0 at the end of the body. Blocks.

        Raises:
            TruncatedBody: the line ended before the body did.
            StalledTransfer: no byte came for longer than the stall clock would allow.
            ConnectionFailed: the line broke, or was aborted.
        """
        ...


class Line(Protocol):
    """One connection to one origin, made when it is first used."""

    def ask(self, url: str, headers: dict[str, str]) -> Reply:
        """Send a GET and wait for the head of its answer. Blocks, for the request timeout at most.

        Raises:
            BadInput: the link or a header cannot be sent; neither is repeated in the message.
            ConnectionFailed, RequestTimeout: as they say.
        """
        ...

    @property
    def reusable(self) -> bool:
        """Whether the last answer was read to its end and both sides want to go on."""
        ...

    def abort(self) -> None:
        """Make a blocked call fail at once, and every later one. From any thread, any number of times."""
        ...

    def close(self) -> None:
        """Give the connection up. A thread that is still blocked in it ends as after `abort`."""
        ...


def evidence_of(url: str, status: int | None = None) -> Evidence:
    return Evidence(url=redact_url(url), status=status)

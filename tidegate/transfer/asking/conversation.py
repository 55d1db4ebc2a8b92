"""One question to the outside: through the gates, on a line that is kept, over redirects, judged by its status.

Exchanges and `ask` use it; nothing else in the transfer layer sends a request. It holds nothing that a crash could
lose.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import anyio
from anyio import to_thread
from pydantic import SecretStr

from tidegate.durable.threads import in_thread
from tidegate.errors import BadInput, Evidence, RedirectLoop, RequestTimeout, reason_of
from tidegate.redact import redact_url
from tidegate.settings import TransferSettings
from tidegate.transfer.asking.answers import redirect_target
from tidegate.transfer.gates.gates import Gates, Passage, origin_of
from tidegate.transfer.transport import Line, Pool, Reply, pool_of
from tidegate.transfer.transport.base import Headers, evidence_of

SMALL_BYTES = 16 * 1024
"""The longest text of a redirect that is read to keep its connection."""

T = TypeVar("T")


async def call_within(limit: timedelta, abort: Callable[[], None], call: Callable[[], T]) -> T:
    """Run a blocking `call` in a thread, for at most `limit`.

    On time-out or cancellation the thread is not waited for: it may sit in a name lookup that nothing can break.
    `abort` makes it end by itself and close what it opened.

    Raises:
        RequestTimeout: `limit` has passed.
    """
    try:
        with anyio.fail_after(limit.total_seconds()):
            return await to_thread.run_sync(call, abandon_on_cancel=True)
    except TimeoutError as error:
        abort()
        raise RequestTimeout(f"No answer within {limit.total_seconds():g} s") from error
    except BaseException:
        abort()
        raise


async def read_in_thread(abort: Callable[[], None], work: Callable[..., T], *arguments: object) -> T:
    """Run blocking `work` that reads a body, in a thread. Cancelled, `abort` breaks its read, and it is waited for."""
    done = threading.Event()

    async def break_off() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            if not done.is_set():
                abort()

    try:
        async with anyio.create_task_group() as siblings:
            siblings.start_soon(break_off)
            try:
                return await in_thread(work, *arguments, give_up=abort)
            finally:
                done.set()
                siblings.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise reason_of(group) from group
    raise AssertionError("unreachable: nothing but the work ends the group")


@dataclass(frozen=True)
class Question:
    """What is asked. Headers of `secrets` go to `trusted_origin` only, whatever redirects say."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, SecretStr] = field(default_factory=dict)
    trusted_origin: str | None = None
    what: str = "request"

    def headers_for(self, url: str) -> dict[str, str]:
        sent = {"Accept": "*/*", "Accept-Encoding": "identity", **self.headers}
        if self.trusted_origin is not None and origin_of(url) == self.trusted_origin:
            own = {name.lower() for name in self.secrets}
            sent = {name: value for name, value in sent.items() if name.lower() not in own}
            sent |= {name: value.get_secret_value() for name, value in self.secrets.items()}
        return sent


@dataclass(frozen=True)
class OpenResponse:
    """The head of the answer that counts, its body still to be read."""

    url: str
    """Where it came from after all redirects; not redacted."""
    reply: Reply
    passage: Passage

    @property
    def status(self) -> int:
        return self.reply.status

    @property
    def headers(self) -> Headers:
        return self.reply.headers

    @property
    def evidence(self) -> Evidence:
        return evidence_of(self.url, self.reply.status)


class Conversation:
    """Asks one question at a time; `abort` breaks it from any thread."""

    def __init__(self, gates: Gates | None, limits: TransferSettings) -> None:
        # Without gates that others share, nobody will ask again on the same connection.
        self._gates = gates or Gates()
        self._pool = pool_of(gates) if gates else Pool(kept=0)
        self._limits = limits
        self._line: Line | None = None
        self._aborted = False
        self.requests = 0
        """How often the outside was asked so far, redirects included."""

    @contextlib.asynccontextmanager
    async def ask(self, question: Question, *, retry: bool = False) -> AsyncIterator[OpenResponse]:
        """The answer, after at most so many redirects as are allowed. Its gate is held until the context is left, and
        what is raised inside counts as this request's failure.

        Raises:
            CircuitOpen: see `Gates.through`.
            RedirectLoop, RequestTimeout, ConnectionFailed, BadInput: as they say.
        """
        url = question.url
        for _ in range(self._limits.redirects + 1):
            async with (
                self._gates.through(_origin(url), question.what, retry=retry) as passage,
                self._line_to(url) as line,
            ):
                headers = question.headers_for(url)
                self.requests += 1
                reply = await call_within(self._limits.request_timeout, self.abort, lambda: line.ask(url, headers))  # noqa: B023  # awaited here
                passage.report_answer()
                target = redirect_target(url, reply.status, reply.headers, evidence_of(url, reply.status))
                if target is None:
                    yield OpenResponse(url, reply, passage)
                    return
                await self._read_out(reply)
            url = target
        raise RedirectLoop(f"More than {self._limits.redirects} redirects", evidence=Evidence(url=redact_url(url)))

    def abort(self) -> None:
        """Make a blocked call or read of this conversation fail at once. From any thread, any number of times."""
        self._aborted = True
        if (line := self._line) is not None:
            line.abort()

    @contextlib.asynccontextmanager
    async def _line_to(self, url: str) -> AsyncIterator[Line]:
        line = self._line = self._pool.take(url, self._limits)
        if self._aborted:
            line.abort()
        try:
            yield line
        finally:
            self._line = None
            self._pool.give_back(url, line)

    async def _read_out(self, reply: Reply) -> None:
        """A redirect's text is read, where it is short, so that the connection can be used again."""
        length = reply.headers.get("Content-Length", "")
        if length.isdigit() and int(length) <= SMALL_BYTES:
            await call_within(self._limits.request_timeout, self.abort, lambda: _drain(reply))


def _drain(reply: Reply) -> None:
    buffer = memoryview(bytearray(SMALL_BYTES))
    while reply.readinto(buffer):
        pass


def _origin(url: str) -> str:
    try:
        return origin_of(url)
    except ValueError:  # a port that cannot be; the message of it would quote the link
        raise BadInput("The link or a header is not valid", evidence=Evidence(url=redact_url(url))) from None

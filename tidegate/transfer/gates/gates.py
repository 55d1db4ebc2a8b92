"""The gates to the outside: one per origin, through which every request and every call of a tool goes.

Resolvers and the transfer engine enter one for each try and stay in it until the body has been read. A gate refuses
while the origin's breaker is open, keeps the number of connections and the rate of requests, and counts. What is held
is a lease: after a crash it is free again at once on this host, and after a minute for others.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from secrets import token_hex
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
from anyio import to_thread

from tidegate.addresses import OPEN_POLICY, AddressPolicy
from tidegate.errors import TidegateError, as_failure
from tidegate.events import Event, Observer, Waiting, ignore_events
from tidegate.model import OriginStats
from tidegate.resilience import breaker as breaker_rules
from tidegate.resilience.sharing import Call, CallResult, Grant
from tidegate.settings import GateSettings
from tidegate.transfer.gates.origin import Gate, Waiter
from tidegate.transfer.gates.records import MemoryRecords, Records, SharedRecords

if TYPE_CHECKING:
    from tidegate.durable.ledger import Ledger

GAIN_BYTES = 256 * 1024
"""A try that gained as much is no failure, however it ended (DESIGN §4)."""
LINGER_SECONDS = 2.0
"""How long the lease thread stays when there is nothing to keep."""
SILENT_WAIT_SECONDS = 2.0
"""How long a wait may be before it is told."""

_PORTS = {"http": 80, "https": 443}


def origin_of(url: str) -> str:
    """`scheme://host:port` of a link, in lower case."""
    parts = urlsplit(url)
    scheme, host = parts.scheme.lower(), (parts.hostname or "").lower()
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{parts.port or _PORTS.get(scheme, 0)}"


@dataclass
class Passage:
    """One try of one request, from before it is sent until its body has been read."""

    origin: str
    _gates: Gates = field(repr=False)
    _gate: Gate = field(repr=False)
    _grant: Grant
    began: float
    """When it was let through."""
    _answered: float | None = None
    bytes_received: int = 0
    _proven: bool = False

    def report_answer(self) -> None:
        """The headers are there; the time until now says whether the call was slow. Quick, and from any thread."""
        self._answered = self._gates.clock()

    def report_bytes(self, bytes_so_far: int) -> None:
        """How many bytes this try has received in all. Quick, and from any thread."""
        self.bytes_received = bytes_so_far
        if bytes_so_far >= GAIN_BYTES and not self._proven:
            self._proven = True
            self._gates._tell(self._gate, self.call(CallResult.SUCCEEDED), self.began)

    def call_after(self, error: BaseException | None) -> Call:
        """What the call says about the origin."""
        return self.call(CallResult.SILENT if self._proven else _verdict(error))

    def call(self, verdict: CallResult) -> Call:
        slow_after = self._gates.limits.slow_after.total_seconds()
        slow = self._answered is not None and self._answered - self.began > slow_after
        return Call(verdict, slow, self._grant.probe)

    def cost(self, failure: TidegateError | None, *, succeeded: bool, retry: bool) -> OriginStats:
        return OriginStats(
            origin=self.origin,
            attempts=1,
            successes=int(succeeded),
            failures={failure.type: 1} if failure is not None else {},
            retries=int(retry),
            bytes_received=self.bytes_received,
            seconds=self._gates.clock() - self.began,
        )


def _verdict(error: BaseException | None) -> CallResult:
    if error is None:
        return CallResult.SUCCEEDED
    if not isinstance(error, Exception):  # cancelled
        return CallResult.SILENT
    failure = as_failure(error)
    if failure.policy.counts_against_origin:
        return CallResult.FAILED
    return CallResult.ANSWERED if failure.policy.origin_answered else CallResult.SILENT


class Gates:
    """The gates of one run. Without a ledger they know only what this run has seen. Thread-safe but for `through`."""

    def __init__(
        self,
        limits: GateSettings | None = None,
        ledger: Ledger | None = None,
        observe: Observer = ignore_events,
        clock: Callable[[], float] = time.monotonic,
        addresses: AddressPolicy = OPEN_POLICY,
    ) -> None:
        self.limits = limits or GateSettings()
        self.addresses = addresses
        """Where what passes may lead to; judged where a connection is made, in `transport.dial`."""
        self.clock = clock
        self._observe = observe
        self._records: Records = MemoryRecords(self.limits, clock)
        if ledger is not None:
            self._records = SharedRecords(ledger, self.limits, self._observe_safely, clock)
        self._run = token_hex(8)
        self._gates: dict[str, Gate] = {}
        self._changed = threading.Condition()
        """Guards the gates, and wakes the lease thread."""
        self._exchanging = threading.Lock()
        self._lease_thread: threading.Thread | None = None
        self._passing = self._waits = 0

    @contextlib.asynccontextmanager
    async def through(self, origin: str, what: str = "request", *, retry: bool = False) -> AsyncIterator[Passage]:
        """Pass the gate of `origin` for one try; leaving it tells how the try ended.

        What counts against the origin is a failure whose row in `errors.POLICIES` says so, unless the try has gained
        256 KiB. Who is inside must not wait for another call to the same origin: there may be one connection only.

        Raises:
            CircuitOpen: the origin is given a rest, for `retry_after_seconds`, or until a person resets it (None). Its
                `own` is set where a failure of this run opened the breaker: a transfer ends with that failure then.
        """
        gate = self._gate(origin)
        grant = await self._let_through(gate, what)
        passage = Passage(origin, self, gate, grant, self.clock())
        self._passing += 1
        try:
            yield passage
        except BaseException as error:
            failure = as_failure(error) if isinstance(error, Exception) else None
            self._leave(gate, passage, error, failure, retry=retry)
            raise
        else:
            self._leave(gate, passage, None, None, retry=retry)
        finally:
            self._passing -= 1

    def statistics(self) -> tuple[OriginStats, ...]:
        """What this run had to do with each origin, in the order of their names."""
        with self._changed:
            gates = sorted(self._gates.values(), key=lambda gate: gate.origin)
            return tuple(gate.total.model_copy(update={"breaker": gate.state.value}) for gate in gates)

    async def flush(self) -> None:
        """Tell the records what they have not been told, and give back what is held."""
        await to_thread.run_sync(self._tell_all)

    async def _let_through(self, gate: Gate, what: str) -> Grant:
        now = self.clock()
        with self._changed:
            if (refusal := gate.refusal(now)) is not None:
                raise refusal
            if gate.passes_at_once(now):
                gate.enter()
                return Grant()
            waiter = Waiter(now)
            gate.queue.append(waiter)
            gate.urgent = True
            self._wake_lease_thread()
        return await self._await_grant(gate, waiter, what)

    async def _await_grant(self, gate: Gate, waiter: Waiter, what: str) -> Grant:
        """The grant, once it is this call's turn and its time has come."""
        try:
            with self._show_long_wait(f"a {what} to {gate.origin}"):
                await waiter.wait()
                if isinstance(waiter.verdict, Grant) and waiter.verdict.starts_in_seconds > 0:
                    await anyio.sleep(waiter.verdict.starts_in_seconds)
        except BaseException:
            with self._changed:
                if waiter in gate.queue:
                    gate.queue.remove(waiter)
                elif isinstance(waiter.verdict, Grant):
                    gate.give_back(waiter.verdict)
                    self._wake_lease_thread()
            raise
        if not isinstance(waiter.verdict, Grant):
            assert waiter.verdict is not None  # noqa: S101  # settled with one or the other
            raise waiter.verdict
        return waiter.verdict

    @contextlib.contextmanager
    def _show_long_wait(self, what: str) -> Iterator[None]:
        """Tell a wait that lasts, unless the run gets on elsewhere."""
        is_shown = False

        def show() -> None:
            nonlocal is_shown
            if self._waits == 0 and self._passing == 0:
                self._observe(Waiting(what))
            is_shown, self._waits = True, self._waits + 1

        timer = asyncio.get_running_loop().call_later(SILENT_WAIT_SECONDS, show)
        try:
            yield
        finally:
            timer.cancel()
            if is_shown:
                self._waits -= 1
                if self._waits == 0:
                    self._observe(Waiting(None))

    def _leave(
        self, gate: Gate, passage: Passage, error: BaseException | None, failure: TidegateError | None, *, retry: bool
    ) -> None:
        cost = passage.cost(failure, succeeded=error is None, retry=retry)
        with self._changed:
            gate.leave(passage.call_after(error), passage.began, cost, failure, self.clock())
            if gate.urgent:
                self._wake_lease_thread()

    def _tell(self, gate: Gate, call: Call, began: float) -> None:
        with self._changed:
            gate.tell(call, began)
            if gate.urgent:
                self._wake_lease_thread()

    def _gate(self, origin: str) -> Gate:
        with self._changed:
            if origin not in self._gates:
                self._gates[origin] = Gate(origin, self.limits, OriginStats(origin=origin))
            return self._gates[origin]

    # A thread, so that leases are renewed whatever the event loop does.

    def _wake_lease_thread(self) -> None:
        if self._lease_thread is None:
            self._lease_thread = threading.Thread(target=self._exchange_what_is_due, name="gates", daemon=True)
            self._lease_thread.start()
        self._changed.notify_all()

    def _exchange_what_is_due(self) -> None:
        while (gate := self._wait_for_due_gate()) is not None:
            self._exchange_with_records(gate)

    def _wait_for_due_gate(self) -> Gate | None:
        """The gate that has something to ask, as soon as one has; None when there was nothing to keep for a while."""
        leaves_at = self.clock() + LINGER_SECONDS
        with self._changed:
            while True:
                now = self.clock()
                due = [(at, gate) for gate in self._gates.values() if (at := gate.due_at()) is not None]
                # Of several that are urgent, the one that has waited longest for an answer: one origin whose calls are
                # shorter than an exchange takes is urgent again each time, and would keep the others waiting for ever.
                at, gate = min(due, key=lambda one: (one[0], one[1].answered_at), default=(leaves_at, None))
                if at <= now:
                    if gate is None:
                        self._lease_thread = None
                    return gate
                self._changed.wait(at - now)

    def _exchange_with_records(self, gate: Gate, *, everything: bool = False) -> None:
        with self._exchanging:
            with self._changed:
                before = gate.state
                ask, store = gate.ask(self._run, self.clock(), everything=everything)
            answer = self._records.exchange(gate.origin, ask, store=store)
            if answer.breaker.state is not before:  # told before those hear of it whom it stops
                self._observe_safely(breaker_rules.note(gate.origin, answer.breaker, self.limits))
            with self._changed:
                gate.take(ask, answer, self.clock(), stored=store)

    def _observe_safely(self, event: Event) -> None:
        """Whoever shows it may fail, as a closed terminal does; calls that wait for the lease thread must not."""
        with contextlib.suppress(Exception, SystemExit):
            self._observe(event)

    def _tell_all(self) -> None:
        with self._changed:
            gates = [gate for gate in self._gates.values() if gate.in_use or gate.stored_held]
            for gate in gates:
                gate.peak = gate.busy
        for gate in gates:
            self._exchange_with_records(gate, everything=True)

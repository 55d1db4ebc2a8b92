"""Where a run's gates find what is known about origins: in the ledger, or in memory.

`Gates` asks `exchange` from its lease thread. A ledger that does not answer must never stop a transfer: for a while
the run goes by what it has seen itself, and then asks the ledger again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol

from tidegate.durable.owner import this_process
from tidegate.errors import LedgerUnavailable
from tidegate.events import Note, Observer
from tidegate.model import OriginStats
from tidegate.resilience.sharing import Arbiter, HostUse, OriginRecord, Share, ShareAnswer, ShareRequest
from tidegate.settings import GateSettings

if TYPE_CHECKING:
    from tidegate.durable.ledger import Ledger

PATIENCE_SECONDS = 10.0
"""How long an answer of the ledger is waited for."""
AWAY_SECONDS = 30.0
"""How long a ledger that did not answer is left alone."""
PAUSES_SECONDS = (0.05, 0.15, 0.4, 1.0)
"""Before it is asked again. SQLite may be locked for a moment without waiting: while another process closes it last."""


class Records(Protocol):
    """Keeps what is known about origins."""

    def exchange(self, origin: str, ask: ShareRequest, *, store: bool) -> ShareAnswer:
        """What `Arbiter.settle` says; without `store` there is nothing to tell, and nothing is changed. Blocking."""
        ...


class MemoryRecords:
    """Of one run, by itself."""

    def __init__(self, limits: GateSettings, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._origins: dict[str, OriginRecord] = {}
        self._shares: dict[str, Share] = {}

    def exchange(self, origin: str, ask: ShareRequest, *, store: bool = True) -> ShareAnswer:
        clerk = Arbiter(self._limits, self._clock())
        unknown = OriginRecord(
            origin=origin, seen_at=clerk.now, counted_since=clerk.now, statistics=OriginStats(origin=origin)
        )
        record = self._origins.get(origin, unknown)
        settled = clerk.settle(record, (), self._shares.get(origin), self._host_without(origin, clerk), ask)
        if store:
            self._origins[origin], self._shares[origin] = settled.origin, settled.share
        return settled.answer

    def _host_without(self, origin: str, clerk: Arbiter) -> HostUse:
        others = [(self._origins[name], share) for name, share in self._shares.items() if name != origin]
        return clerk.host_of([(clerk.doubtful(record), share) for record, share in others])


class SharedRecords:
    """In the ledger, with all other runs; in memory while that is away."""

    def __init__(self, ledger: Ledger, limits: GateSettings, observe: Observer, clock: Callable[[], float]) -> None:
        self._origins = ledger.origins
        self._owner = this_process()
        self._limits = limits
        self._observe = observe
        self._clock = clock
        self._alone = MemoryRecords(limits, clock)
        self._away_until: float | None = None
        self._has_warned = False
        self._pending: Future[ShareAnswer] | None = None

    def exchange(self, origin: str, ask: ShareRequest, *, store: bool) -> ShareAnswer:
        if self._is_away():
            return self._alone.exchange(origin, ask)
        call = self._origins.exchange if store else self._origins.look
        try:
            return self._within_patience(
                lambda: _retry_over_locks(lambda: call(self._owner, origin, ask, self._limits))
            )
        except Exception as error:  # noqa: BLE001  # whatever is wrong with the ledger, the transfer goes on
            self._leave_alone(str(error) or "The ledger does not answer in time")
            return self._alone.exchange(origin, ask)

    def _is_away(self) -> bool:
        stuck = self._pending is not None and not self._pending.done()
        return stuck or (self._away_until is not None and self._clock() < self._away_until)

    def _within_patience(self, call: Callable[[], ShareAnswer]) -> ShareAnswer:
        """A database on a dead network disk does not even fail: it is asked in a thread that can be left behind."""
        self._pending = answer = Future[ShareAnswer]()

        def ask() -> None:
            try:
                answer.set_result(call())
            except BaseException as error:  # noqa: BLE001  # raised again where it is waited for
                answer.set_exception(error)

        threading.Thread(target=ask, name="gates-ledger", daemon=True).start()
        return answer.result(PATIENCE_SECONDS)

    def _leave_alone(self, why: str) -> None:
        self._away_until = self._clock() + AWAY_SECONDS
        if not self._has_warned:
            self._observe(
                Note(f"{why}; until it is back this run shares no breakers and limits with others", "warning")
            )
        self._has_warned = True


def _retry_over_locks(call: Callable[[], ShareAnswer]) -> ShareAnswer:
    for pause in PAUSES_SECONDS:
        try:
            return call()
        except LedgerUnavailable:
            time.sleep(pause)
    return call()

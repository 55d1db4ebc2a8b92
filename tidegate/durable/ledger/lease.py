"""An attempt's hold on its work, renewed while the work goes on.

Flows open one with `hold_lease`; it hears the run's events, writes how far the run is into the ledger, and ends the run
when somebody else has taken the work over or when the ledger cannot be reached for too long. A crash leaves the row as
the last renewal wrote it: that is what recovery starts from.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from functools import partial
from pathlib import Path

import anyio
from anyio import to_thread

from tidegate.durable.children import ProcessGroup, use_registry
from tidegate.durable.ledger.ledger import Claim, Ledger, NewAttempt, insist
from tidegate.durable.ledger.rows import Attempt, AttemptProgress, AttemptState, LeaseState
from tidegate.durable.threads import check_cancellation, in_thread
from tidegate.errors import LeaseLost, LedgerUnavailable, Superseded, TidegateError, reason_of
from tidegate.events import Advance, Event, Note, Observer, StageEnded, StageStarted, Waiting
from tidegate.settings import AdmissionSettings

ENDING_SECONDS = 5.0
"""How long a run that is over waits for a ledger that stays away: what it would write, recovery finds out."""
TRY_AGAIN_SECONDS = 3.0
"""Pause after a renewal that did not reach the ledger."""

_current: ContextVar[Lease | None] = ContextVar("lease", default=None)


def current_lease() -> Lease | None:
    """The lease of the run that this code is part of."""
    return _current.get()


class Lease:
    """One attempt's hold on its work: an Observer of its run and the registry of its children. Safe from any thread."""

    def __init__(
        self, ledger: Ledger, attempt: Attempt, observe: Observer, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.ledger = ledger
        self.attempt = attempt
        """As it began; `work_key` and `epoch` once the work is held."""
        self._observe = observe
        self._parent = current_lease()
        self._clock = clock
        self._lock = threading.Lock()
        self._progress = AttemptProgress()
        self._done = 0.0
        self._advanced = False
        self._woken = anyio.Event()
        self._loop = asyncio.get_running_loop()
        self._ends_as: AttemptState | None = None
        self._failure: str | None = None

    @property
    def mark(self) -> str:
        return self.attempt.id

    # What it hears.

    def __call__(self, event: Event) -> None:
        match event:
            case Advance():
                self._advance(event)
            case StageStarted():
                self._stage(event.stage)
            case Waiting(what=what):
                self._tell(waiting_for=what)
            case StageEnded(state="completed", record=str(record)):
                self._tell(records={**self._progress.records, event.stage: record})
            case _:
                pass

    def add_child(self, group: ProcessGroup) -> None:
        self._tell(groups=(*self._progress.groups, group))

    def remove_child(self, group: ProcessGroup) -> None:
        self._tell(groups=tuple(other for other in self._progress.groups if other != group))

    @contextlib.contextmanager
    def note_wait(self, what: str) -> Iterator[None]:
        """While it lasts, the run waits for something that it can name: it is not stuck."""
        self._tell(waiting_for=what)
        self._observe(Waiting(what))
        try:
            yield
        finally:
            self._tell(waiting_for=None)
            self._observe(Waiting(None))

    def stir(self) -> None:
        """The run got on, without anything new to tell."""
        with self._lock:
            self._advanced = True

    def conclude(self, state: AttemptState, failure: str | None = None) -> None:
        """How the attempt ended, to be written when the lease is given up."""
        self._ends_as, self._failure = state, failure
        if self._parent is not None:
            self._parent.note_part(self.attempt.title)

    def note_part(self, title: str) -> None:
        """One of a batch's sources is done: a checkpoint of the batch."""
        self._tell(records={**self._progress.records, title: "done"})

    # What it does.

    async def claim(self, work_key: str, target: Path) -> None:
        """Take the work, whose result will stand in `target`, waiting for another run that does it."""
        claim = await self._try_to_claim(work_key, target)
        if claim.epoch is None:
            what = "another run of the same work"
            self._observe(Note("Another run is doing the same work; waiting for it"))
            with self.note_wait(what):
                while claim.epoch is None:
                    await anyio.sleep(self.ledger.limits.poll.total_seconds())
                    claim = await self._try_to_claim(work_key, target)
        self.attempt = self.attempt.model_copy(update={"work_key": work_key, "epoch": claim.epoch})
        before = claim.holder
        if before is not None and before.id != self.attempt.id and before.state is AttemptState.RUNNING:
            self._observe(Note(f"Taking over from attempt {before.id}, whose process is gone"))

    async def claim_at_once(self, work_key: str) -> bool:
        """Take the work if it is free."""
        return (await self._try_to_claim(work_key)).epoch is not None

    @contextlib.contextmanager
    def fence(self) -> Iterator[None]:
        """Hold it while a result becomes visible; blocking. See `Ledger.fence`."""
        with contextlib.ExitStack() as stack:
            held = insist(
                lambda: stack.enter_context(self.ledger.fence(self.attempt.id)),
                self.ledger.limits.patience.total_seconds(),
                check_cancellation,
            )
            yield held

    async def note_publication(self, folder: Path) -> None:
        """Note where the result stands. Without the note, maintenance keeps its assets a shorter time: no failure."""
        patience = self.ledger.limits.patience.total_seconds()
        try:
            note = partial(self.ledger.add_publication, folder, self.attempt.work_key or "")
            await in_thread(insist, note, patience, check_cancellation)
        except LedgerUnavailable as error:
            self._observe(Note(f"The ledger was not told of {folder}: {error.message}", "warning"))

    async def take_slot(self, limits: AdmissionSettings) -> tuple[Attempt, ...]:
        """Take one of the host's slots, insisting; gives nothing then, else the attempts that hold them all."""
        take = partial(self.ledger.take_slot, self.attempt.id, self.attempt.owner, limits)
        return await in_thread(insist, take, self.ledger.limits.patience.total_seconds(), check_cancellation)

    async def free_slot(self) -> None:
        """Give the slot back; should the ledger not answer, it frees itself when the run goes on without progress."""
        with contextlib.suppress(LedgerUnavailable), anyio.CancelScope(shield=True):
            await to_thread.run_sync(self.ledger.free_slot, self.attempt.id)

    async def current_row(self) -> Attempt | None:
        """The attempt's row as it is now."""
        return await in_thread(self.ledger.attempt, self.attempt.id)

    async def renew_forever(self) -> None:
        """Renew for ever.

        Raises:
            Superseded: somebody else has taken the work over, or ended this attempt.
            LeaseLost: the ledger could not be reached for `give_up`; in a minute others will take over.
        """
        held_at = self._clock()
        while True:
            with anyio.move_on_after(self.ledger.limits.renew_every.total_seconds()):
                await self._woken.wait()
            held_at = await self._renew_with_retries(held_at)

    async def _renew_with_retries(self, held_at: float) -> float:
        """Renew, tried until it has worked; gives the time from which the lease counts now."""
        limits, noted = self.ledger.limits, False
        lost_at = held_at + limits.give_up.total_seconds()
        while True:
            asked_at = self._clock()
            try:
                # A database on a dead network disk does not even fail. Who was stopped for long may ask once more.
                with anyio.fail_after(max(limits.busy_timeout.total_seconds(), lost_at - asked_at)):
                    await self._renew()
            except (LedgerUnavailable, TimeoutError) as error:
                if self._clock() >= lost_at or isinstance(error, TimeoutError):
                    raise LeaseLost(f"The lease could not be renewed for {limits.give_up}") from error
                if not noted:
                    self._observe(Note(f"{error.message}; trying again", "warning"))
                noted = True
                await anyio.sleep(min(TRY_AGAIN_SECONDS, limits.renew_every.total_seconds()))
            else:
                return asked_at

    async def _renew(self) -> None:
        with self._lock:
            self._woken = anyio.Event()
            progress, advanced, self._advanced = self._progress, self._advanced, False
        if self._parent is not None and (advanced or progress.waiting_for):
            self._parent.stir()  # a batch gets on as its sources do
        try:
            standing = await to_thread.run_sync(
                lambda: self.ledger.renew(self.attempt.id, progress, advanced=advanced), abandon_on_cancel=True
            )
        except LedgerUnavailable:
            with self._lock:
                self._advanced = self._advanced or advanced
            raise
        if standing is not LeaseState.HELD:
            raise Superseded("This attempt no longer holds its work: it was taken over, or ended by maintenance")

    async def _try_to_claim(self, work_key: str, target: Path | None = None) -> Claim:
        patience = self.ledger.limits.patience.total_seconds()
        here = self.attempt.owner

        def ask() -> Claim:
            return insist(
                lambda: self.ledger.claim(self.attempt.id, work_key, here, target), patience, check_cancellation
            )

        return await in_thread(ask)

    def _advance(self, event: Advance) -> None:
        """Written with the next renewal.

        What goes back did not advance, but what it gains from there does: a stage that has to begin again (a source
        that knows no ranges, a wrong digest, the next rung of the remux ladder, the decoding that verifies) may take
        hours to come as far as it was. How often it may begin again is limited where that is decided.
        """
        with self._lock:
            self._advanced = self._advanced or event.done > self._done
            self._done = event.done
            facts = {"stage": event.stage, "done": event.done, "total": event.total, "unit": event.unit}
            self._progress = self._progress.model_copy(update=facts)

    def _stage(self, stage: str) -> None:
        with self._lock:
            self._done = 0.0
        self._tell(stage=stage, done=None, total=None, unit=None)

    def _tell(self, **facts: object) -> None:
        """Something that has to be known should the process be killed now: renew at once."""
        with self._lock:
            self._progress = self._progress.model_copy(update=facts)
            self._advanced = True
            woken = self._woken
        with contextlib.suppress(RuntimeError):  # the loop is closed: the run has ended
            self._loop.call_soon_threadsafe(woken.set)

    async def end(self, state: AttemptState, failure: str | None) -> None:
        """Write how it ended. What was at stake is done: a ledger that stays away is left to recovery."""

        def end() -> bool:
            return self.ledger.end(self.attempt.id, state, failure)

        try:
            if state is AttemptState.INTERRUPTED:
                end()  # on the way out every await is cancelled
            else:
                await in_thread(insist, end, ENDING_SECONDS, check_cancellation)
        except LedgerUnavailable as error:
            self._observe(Note(f"The ledger was not told how this run ended: {error.message}", "warning"))


_ENDS_AS: dict[type[BaseException], AttemptState] = {
    Superseded: AttemptState.SUPERSEDED,
    LeaseLost: AttemptState.INTERRUPTED,  # the source is not to blame: recovery takes it up again
}


@contextlib.asynccontextmanager
async def hold_lease(ledger: Ledger, beginning: NewAttempt, observe: Observer) -> AsyncIterator[Lease]:
    """An attempt for the length of the block. What the block does not `conclude` counts as failed or interrupted.

    Raises:
        Superseded, LeaseLost: see `Lease.renew_forever`; the block was cancelled.
        LedgerUnavailable: the attempt could not begin within the ledger's patience.
    """
    patience = ledger.limits.patience.total_seconds()
    attempt = await in_thread(insist, lambda: ledger.begin(beginning), patience, check_cancellation)
    lease = Lease(ledger, attempt, observe)
    token = _current.set(lease)
    state, failure = AttemptState.INTERRUPTED, None
    try:
        with use_registry(lease):
            async with anyio.create_task_group() as siblings:
                siblings.start_soon(lease.renew_forever)
                yield lease
                siblings.cancel_scope.cancel()
        state, failure = lease._ends_as or AttemptState.COMPLETED, lease._failure
    except BaseException as error:  # noqa: BLE001  # raised again, as what it is about
        reason = reason_of(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(reason, Exception):
            state = _ENDS_AS.get(type(reason), AttemptState.FAILED)
            failure = reason.type if isinstance(reason, TidegateError) else "unknown"
        raise reason from None
    finally:
        _current.reset(token)
        await lease.end(state, failure)

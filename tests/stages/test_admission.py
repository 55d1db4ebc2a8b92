"""Heavy work waits for a slot, memory and disk: visibly, and not for ever. Leases, volumes and processes are real."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from anyio import to_thread

from tests.support import disks
from tests.support.forked import Pipe, forked
from tidegate.durable.home import Home
from tidegate.durable.ledger import Attempt, AttemptState, Ledger, NewAttempt
from tidegate.durable.ledger.decide import is_stuck
from tidegate.durable.ledger.lease import Lease, hold_lease
from tidegate.errors import AdmissionRefused, DiskFull
from tidegate.events import Advance, Event, Note, ignore_events
from tidegate.resilience.admission import Needs
from tidegate.settings import AdmissionSettings, LedgerSettings, Settings, StoreSettings
from tidegate.stages.admission import admit
from tidegate.stages.workbench import Workbench

PATIENCE = 30.0
SLOT = Needs(slot=True)
QUICK = LedgerSettings(renew_every=0.1, poll=0.1)
MB = 1024 * 1024


class Site:
    """One host with one ledger, and what its runs said."""

    def __init__(self, root: Path, admission: AdmissionSettings) -> None:
        self.settings = Settings(store=StoreSettings(home=root), ledger=QUICK, admission=admission)
        self.ledger = Ledger.open(QUICK, Home(root))
        self.notes: list[str] = []

    @property
    def bench(self) -> Workbench:
        return Workbench(self.settings, self._hear)

    @asynccontextmanager
    async def run(self, title: str = "film") -> AsyncIterator[Lease]:
        beginning = NewAttempt(kind="ingest", title=title)
        with anyio.fail_after(PATIENCE):
            async with hold_lease(self.ledger, beginning, ignore_events) as lease:
                yield lease

    async def until(self, lease: Lease, condition: Callable[[Attempt], object]) -> Attempt:
        while True:
            seen = await to_thread.run_sync(self.ledger.attempt, lease.attempt.id)
            if seen is not None and condition(seen):
                return seen
            await anyio.sleep(0.02)

    def _hear(self, event: Event) -> None:
        if isinstance(event, Note):
            self.notes.append(event.message)


def site(tmp_path: Path, **admission: Any) -> Site:
    return Site(tmp_path / "home", AdmissionSettings(**{"slots": 1, **admission}))


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB; skips visibly where one may not be made."""
    with disks.volume(tmp_path / "volume", "size=8m") as folder:
        yield folder


# --- slots -----------------------------------------------------------------------------------------


def test_a_slot_is_held_for_the_block_and_free_afterwards(tmp_path: Path) -> None:
    here = site(tmp_path)

    async def work() -> None:
        async with here.run() as lease:
            async with admit(here.bench, SLOT):
                await here.until(lease, lambda seen: seen.slot_at)
            await here.until(lease, lambda seen: seen.slot_at is None)
            with pytest.raises(ValueError, match="inside"):
                async with admit(here.bench, SLOT):
                    raise ValueError("inside")
            await here.until(lease, lambda seen: seen.slot_at is None)
            async with admit(here.bench, Needs()):
                assert (await here.until(lease, lambda seen: True)).slot_at is None

    anyio.run(work)
    assert here.notes == []


def test_one_that_waits_says_for_what_and_for_whom_and_begins_when_the_slot_is_free(tmp_path: Path) -> None:
    here = site(tmp_path)
    order: list[str] = []

    async def second(waits: anyio.Event) -> None:
        async def look(lease: Lease) -> None:
            seen = await here.until(lease, lambda seen: seen.waiting_for)
            assert seen.waiting_for == "processing slot: 1 of 1 are taken by first"
            assert not is_stuck(seen, seen.renewed_at + 1e6, timedelta(hours=2))
            waits.set()

        async with here.run("second") as lease, anyio.create_task_group() as group:
            group.start_soon(look, lease)
            async with admit(here.bench, SLOT):
                order.append("second begins")
                await here.until(lease, lambda seen: seen.waiting_for is None)

    async def work() -> None:
        waits = anyio.Event()
        async with anyio.create_task_group() as both, here.run("first"), admit(here.bench, SLOT):
            both.start_soon(second, waits)
            await waits.wait()
            order.append("first ends")

    anyio.run(work)
    assert order == ["first ends", "second begins"]
    assert here.notes == ["Waiting for processing slot: 1 of 1 are taken by first"]


def test_two_slots_admit_two(tmp_path: Path) -> None:
    here = site(tmp_path, slots=2, limit=0)

    async def work() -> None:
        bench = here.bench
        async with here.run("one"), admit(bench, SLOT), here.run("two"), admit(bench, SLOT), here.run("three"):
            with pytest.raises(AdmissionRefused, match="2 of 2 are taken by one, two"):
                async with admit(bench, SLOT):
                    raise AssertionError("three are in")

    anyio.run(work)


def test_a_killed_run_frees_its_slot_at_once(tmp_path: Path) -> None:
    here = site(tmp_path)

    def hold(pipe: Pipe) -> None:
        async def work() -> None:
            mine = site(tmp_path)
            async with mine.run("first"), admit(mine.bench, SLOT):
                pipe.say("in")
                await anyio.sleep(PATIENCE)

        anyio.run(work)

    async def take(child: Any) -> None:
        async with here.run("second") as lease, anyio.create_task_group() as group:

            async def kill() -> None:
                await here.until(lease, lambda seen: seen.waiting_for)
                child.kill()

            group.start_soon(kill)
            async with admit(here.bench, SLOT):
                pass

    with forked(hold) as child:
        child.hear()
        anyio.run(take, child)


@pytest.mark.parametrize("moves", [True, False])
def test_an_idle_run_loses_its_slot_and_one_that_moves_keeps_it(moves: bool, tmp_path: Path) -> None:
    here = site(tmp_path, slot_idle=1.5, limit=5)

    async def first(holds: anyio.Event) -> None:
        async with here.run("first") as lease, admit(here.bench, SLOT):
            holds.set()
            for second in range(1000):
                if moves:
                    lease(Advance("remux", float(second), None, "seconds"))
                await anyio.sleep(0.2)

    async def second(done: anyio.Event) -> None:
        async with here.run("second"):
            if moves:
                with pytest.raises(AdmissionRefused, match="taken by first"):
                    async with admit(here.bench, SLOT):
                        raise AssertionError("two are in")
            else:
                async with admit(here.bench, SLOT):
                    pass
        done.set()

    async def work() -> None:
        holds, done = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(first, holds)
            await holds.wait()
            group.start_soon(second, done)
            await done.wait()
            group.cancel_scope.cancel()

    anyio.run(work)


def test_a_run_that_is_cancelled_while_it_waits_holds_nothing(tmp_path: Path) -> None:
    here = site(tmp_path)

    async def work() -> None:
        async with here.run("first"), admit(here.bench, SLOT):
            with anyio.move_on_after(0.5):
                async with here.run("second"), admit(here.bench, SLOT):
                    raise AssertionError("two are in")
        (second,) = [one for one in here.ledger.recent(3600) if one.title == "second"]
        assert (second.state, second.slot_at, second.waiting_for) == (AttemptState.INTERRUPTED, None, None)

    anyio.run(work)


def test_work_without_a_ledger_asks_for_no_slot(tmp_path: Path) -> None:
    here = site(tmp_path)

    async def as_a_library() -> None:
        async with admit(here.bench, SLOT), admit(here.bench, SLOT):
            pass

    anyio.run(as_a_library)


# --- the limit -------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_lease", [True, False])
def test_a_host_that_never_has_the_memory_refuses_at_the_limit_and_says_so(with_lease: bool, tmp_path: Path) -> None:
    here = site(tmp_path, limit=1)
    needs = Needs(memory_bytes=2 * psutil.virtual_memory().total, slot=True)

    async def ask() -> None:
        with pytest.raises(AdmissionRefused, match=r"After 0:00:01 .* GB of memory \(.* GB available\)"):
            async with admit(here.bench, needs):
                raise AssertionError("admitted")

    async def work() -> None:
        if not with_lease:
            await ask()
            return
        async with here.run() as lease:
            await ask()
            seen = await here.until(lease, lambda seen: seen.waiting_for is None)
            assert seen.slot_at is None, "nobody holds a slot while it waits for something else"

    anyio.run(work)
    assert len(here.notes) == 1 and here.notes[0].startswith("Waiting for ")


# --- disk ------------------------------------------------------------------------------------------


def test_a_volume_that_can_never_hold_it_is_told_at_once(tmp_path: Path, volume: Path) -> None:
    here = site(tmp_path)

    async def work() -> None:
        async with here.run():
            with pytest.raises(DiskFull, match=r"whose volume has 8\.4 MB in all"):
                async with admit(here.bench, Needs(disk_bytes={str(volume / "not made yet"): 9 * MB})):
                    raise AssertionError("admitted")

    anyio.run(work)
    assert here.notes == []


def test_needs_of_two_folders_on_one_volume_are_added_up(tmp_path: Path, volume: Path) -> None:
    here = site(tmp_path)
    both = {str(volume / "store"): 5 * MB, str(volume / "output"): 5 * MB}

    async def work() -> None:
        async with admit(here.bench, Needs(disk_bytes={str(volume / "store"): 5 * MB})):
            pass
        with pytest.raises(DiskFull):
            async with admit(here.bench, Needs(disk_bytes=both)):
                raise AssertionError("admitted")

    anyio.run(work)


def test_a_run_waits_for_disk_that_somebody_may_free(tmp_path: Path, volume: Path) -> None:
    here = site(tmp_path)
    ballast = volume / "ballast"
    ballast.write_bytes(bytes(6 * MB))

    async def work() -> None:
        async with here.run() as lease, anyio.create_task_group() as group:

            async def make_room() -> None:
                seen = await here.until(lease, lambda seen: seen.waiting_for)
                assert seen.waiting_for is not None and "of disk at" in seen.waiting_for
                ballast.unlink()

            group.start_soon(make_room)
            async with admit(here.bench, Needs(disk_bytes={str(volume): 4 * MB}, slot=True)):
                assert (await here.until(lease, lambda seen: seen.waiting_for is None)).slot_at is not None

    anyio.run(work)
    assert here.ledger.counts() == {"completed": 1}

"""The ledger: who works on what, how far it is, and who may publish.

Leases, recovery and maintenance call it, always from a thread; every call is one short transaction and can be repeated.
What a call has committed survives a crash. A row is only ever changed by its own attempt, or by somebody who has read
it and says what was read.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    CursorResult,
    RowMapping,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)

from tidegate.durable import private
from tidegate.durable.home import Home
from tidegate.durable.ledger import decide
from tidegate.durable.ledger.codec_counts import CodecCounts
from tidegate.durable.ledger.database import Database, clock, insert_if_absent, now
from tidegate.durable.ledger.origins import Origins
from tidegate.durable.ledger.rows import (
    Attempt,
    AttemptKind,
    AttemptProgress,
    AttemptState,
    LeaseState,
    Reach,
    Recovery,
)
from tidegate.durable.ledger.schema import attempts, hosts, migrate, publications, recoveries, works
from tidegate.durable.lock import acquire, release_at_end
from tidegate.durable.owner import Owner, this_process
from tidegate.errors import LedgerUnavailable, Superseded, from_os_error
from tidegate.settings import AdmissionSettings, LedgerSettings

T = TypeVar("T")

MOST_IDS = 500
"""Values in one statement; SQLite takes 32,766, and none needs so many."""


@dataclass(frozen=True)
class NewAttempt:
    """What an attempt is, before it has done anything."""

    kind: AttemptKind
    title: str
    """Redacted."""
    request: Mapping[str, Any] = field(default_factory=dict)
    flow_run: str | None = None
    root_run: str | None = None
    """None: the flow run itself."""
    deployment: str | None = None
    alone: bool = False
    owner: Owner = field(default_factory=this_process)
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    """Made here, so that beginning again because the answer was lost begins nothing new."""


@dataclass(frozen=True)
class Claim:
    """The answer to an attempt that wants its work."""

    epoch: int | None
    """Under which it holds the work; None while somebody else does."""
    holder: Attempt | None = None
    """Who has it, or had it before."""


class Ledger:
    """One ledger. Thread-safe; every call may raise LedgerUnavailable."""

    def __init__(self, database: Database, home: Home, limits: LedgerSettings) -> None:
        self._database = database
        self._home = home
        self.limits = limits

    @classmethod
    def open(cls, limits: LedgerSettings, home: Home) -> Ledger:
        """Connect, and bring the schema up to date. A local file that is no database any more is moved aside.

        Raises:
            BadInput: the URL names no database that can be used here.
            LedgerUnavailable: it does not answer, or is of a newer Tidegate.
        """
        try:
            if limits.url is None:
                home.make()
        except OSError as error:
            raise from_os_error(error, "opening the ledger", home.root) from error
        database = Database.at(limits, home.root)
        database.make(migrate)
        return cls(database, home, limits)

    @property
    def moved_aside(self) -> Path | None:
        """Where this process put a damaged ledger; None where it met none."""
        return self._database.moved_aside

    @property
    def codecs(self) -> CodecCounts:
        """Which codecs came, in the same database."""
        return CodecCounts(self._database)

    @property
    def origins(self) -> Origins:
        """What is known about origins, in the same database."""
        return Origins(self._database)

    def close(self) -> None:
        """Give the connections back; it can be used again afterwards."""
        self._database.close()

    def now(self) -> float:
        """The database's clock, in seconds of the Unix epoch."""
        with self._database.connect() as connection:
            return now(connection)

    # An attempt's own life.

    def begin(self, beginning: NewAttempt) -> Attempt:
        """A new attempt. One that recovery did not schedule sets the count of recoveries back: a person's re-run."""
        root = beginning.root_run or beginning.flow_run
        with self._database.transaction() as connection:
            at = now(connection)
            row = {
                "id": beginning.id,
                "kind": beginning.kind,
                "epoch": 0,
                "flow_run": beginning.flow_run,
                "root_run": root,
                "deployment": beginning.deployment,
                "title": beginning.title,
                "request": json.dumps(beginning.request),
                **beginning.owner.model_dump(),
                "alone": beginning.alone,
                "state": AttemptState.RUNNING,
                "created_at": at,
                "renewed_at": at,
                "records": "{}",
                "groups": "[]",
            }
            began = insert_if_absent(connection, attempts, row)
            if began and root is not None and root == beginning.flow_run:
                _settle_recovery(connection, root)
            return _attempt(connection, beginning.id)

    def claim(self, identifier: str, work_key: str, here: Owner, target: Path | None = None) -> Claim:
        """Take the work if it is free: the epoch goes up, and whoever held it before can no longer publish.

        Raises:
            Superseded: this attempt has been ended by somebody else.
        """
        with contextlib.ExitStack() as stack:
            try:
                if self._database.file is not None:
                    path = self._lock_of(work_key)
                    stack.enter_context(release_at_end(acquire(path), path))
            except BlockingIOError:  # its holder is just publishing
                return Claim(None)
            except OSError as error:
                raise from_os_error(error, "locking the work", self._home.lock(work_key)) from error
            connection = stack.enter_context(self._database.transaction())
            return _claim(connection, identifier, work_key, here, self.limits, target)

    def renew(self, identifier: str, progress: AttemptProgress, *, advanced: bool) -> LeaseState:
        """Renew the lease and tell how far the attempt is; `advanced`: it got somewhere since the last time."""
        values = progress.model_dump()
        values |= {name: json.dumps(values[name]) for name in ("groups", "records")}
        with self._database.transaction() as connection:
            at = clock(connection)
            if advanced:
                values["progressed_at"] = at
            mine = (attempts.c.id == identifier) & (attempts.c.state == AttemptState.RUNNING) & _holds_its_work()
            renewal = update(attempts).where(mine).values(renewed_at=at, **values)
            # PostgreSQL: while this waited for our own `claim`, which changes two tables, it saw one of them as it was
            # before. A second statement sees both as they are.
            held = any(connection.execute(renewal).rowcount for _ in range(2))
            return LeaseState.HELD if held else LeaseState.SUPERSEDED

    def end(self, identifier: str, state: AttemptState, failure: str | None = None) -> bool:
        """The attempt has ended; its work and its slot are free. False when somebody else had ended it before."""
        with self._database.transaction() as connection:
            return _end(connection, identifier, attempts.c.state == AttemptState.RUNNING, state=state, failure=failure)

    @contextlib.contextmanager
    def fence(self, identifier: str) -> Iterator[None]:
        """While it lasts, nobody can take the work over. For the moment in which a result becomes visible.

        PostgreSQL locks the row of this work. SQLite could only lock everything, and a rename may hang on a dead
        network disk: there a lock file of this work does it, which the kernel frees with the process.

        Raises:
            Superseded: somebody has taken it over already.
        """
        held = _require(self.attempt(identifier))
        if self._database.file is None:
            with self._database.transaction() as connection:
                _require_holder(connection, held)
                yield
            return
        path = self._lock_of(held.work_key or "")
        with release_at_end(_acquire_soon(path, self.limits.busy_timeout.total_seconds()), path):
            with self._database.transaction() as connection:
                _require_holder(connection, held)
            yield

    # Slots.

    def take_slot(self, identifier: str, here: Owner, limits: AdmissionSettings) -> tuple[Attempt, ...]:
        """Take one of the host's slots; gives nothing then, else those that hold them all."""
        with self._database.transaction() as connection:
            insert_if_absent(connection, hosts, {"host": here.host})
            connection.execute(select(hosts).where(hosts.c.host == here.host).with_for_update())
            at = now(connection)
            taken = (attempts.c.host == here.host) & attempts.c.slot_at.is_not(None) & (attempts.c.id != identifier)
            holders = tuple(other for other in _select(connection, taken) if decide.holds_slot(other, at, here, limits))
            if len(holders) >= limits.slots:
                return holders
            connection.execute(update(attempts).where(attempts.c.id == identifier).values(slot_at=at))
            return ()

    def free_slot(self, identifier: str) -> None:
        with self._database.transaction() as connection:
            connection.execute(update(attempts).where(attempts.c.id == identifier).values(slot_at=None))

    # What recovery, maintenance and people read.

    def attempt(self, identifier: str) -> Attempt | None:
        with self._database.connect() as connection:
            return _attempt_or_none(connection, identifier)

    def open_attempts(self) -> list[Attempt]:
        """Those that are running or were interrupted, the oldest first: all that anything may have to be done about."""
        return self._attempts(attempts.c.state.in_([AttemptState.RUNNING, AttemptState.INTERRUPTED]))

    def recent(self, seconds: float) -> list[Attempt]:
        """All attempts that began in the last `seconds`, the oldest first."""
        with self._database.connect() as connection:
            return _select(connection, attempts.c.created_at >= now(connection) - seconds)

    def attempts_of(self, root_runs: Iterable[str]) -> list[Attempt]:
        """All attempts of these runs, the oldest first."""
        found = [self._attempts(attempts.c.root_run.in_(some)) for some in in_batches(root_runs)]
        return sorted(chain.from_iterable(found), key=lambda attempt: attempt.created_at)

    def find(self, prefix: str) -> list[Attempt]:
        """Attempts whose own id, or whose flow run's, begins so."""
        ids = (attempts.c.id, attempts.c.flow_run)
        return self._attempts(ids[0].startswith(prefix, autoescape=True) | ids[1].startswith(prefix, autoescape=True))

    def recoveries_of(self, root_runs: Iterable[str]) -> dict[str, Recovery]:
        """The records there are."""
        found: dict[str, Recovery] = {}
        with self._database.connect() as connection:
            for some in in_batches(root_runs):
                rows = connection.execute(select(recoveries).where(recoveries.c.root_run.in_(some))).mappings()
                found |= {row["root_run"]: _recovery(row) for row in rows}
        return found

    def publication_folders(self) -> list[Path]:
        """Every folder that was published and not forgotten."""
        with self._database.connect() as connection:
            return [Path(folder) for (folder,) in connection.execute(select(publications.c.folder))]

    def attempt_places(self) -> tuple[list[Path], list[str]]:
        """The folders that attempts were to publish, and the `file://` links that they could read. An attempt that was
        refused either is not among them: it never held its work."""
        with self._database.connect() as connection:
            held = attempts.c.work_key.is_not(None) & (attempts.c.kind == "ingest")
            targets = connection.execute(select(attempts.c.target).where(held).distinct()).scalars()
            files = select(attempts.c.title).where(held & attempts.c.title.startswith("file:")).distinct()
            return [Path(target) for target in targets if target], list(connection.execute(files).scalars())

    def counts(self) -> dict[str, int]:
        """How many attempts there are in each state."""
        with self._database.connect() as connection:
            rows = connection.execute(select(attempts.c.state, func.count()).group_by(attempts.c.state))
            return {row[0]: row[1] for row in rows}

    # What they change.

    def abandon(self, seen: Attempt, state: AttemptState = AttemptState.ABANDONED) -> bool:
        """End an attempt whose owner is lost, unless it has renewed or ended since it was read."""
        unchanged = (attempts.c.state == seen.state) & (attempts.c.renewed_at == seen.renewed_at)
        with self._database.transaction() as connection:
            return _end(connection, seen.id, unchanged, state=state)

    def mark_stuck(self, seen: Attempt, reason: str) -> bool:
        """End an attempt that gets nowhere, unless it has got somewhere or ended since it was read."""
        still = attempts.c.progressed_at.is_not_distinct_from(seen.progressed_at) & attempts.c.waiting_for.is_(None)
        with self._database.transaction() as connection:
            return _end(
                connection,
                seen.id,
                still & (attempts.c.state == AttemptState.RUNNING),
                state=AttemptState.STUCK,
                failure="stuck",
                error_reason=reason,
                marked_stuck_at=clock(connection),
            )

    def put_recovery(self, recovery: Recovery) -> None:
        values = recovery.model_dump(exclude={"reached"})
        values |= {"reached_stages": recovery.reached.stages, "reached_done": recovery.reached.done}
        with self._database.transaction() as connection:
            connection.execute(delete(recoveries).where(recoveries.c.root_run == recovery.root_run))
            connection.execute(insert(recoveries).values(**values))

    def add_publication(self, folder: Path, work_key: str) -> None:
        """Note that `folder` holds a published result, whose assets maintenance keeps while it stands."""
        with self._database.transaction() as connection:
            connection.execute(delete(publications).where(publications.c.folder == str(folder)))
            row = {"folder": str(folder), "work_key": work_key, "published_at": now(connection)}
            connection.execute(insert(publications).values(**row))

    def forget_publication(self, folder: Path) -> None:
        with self._database.transaction() as connection:
            connection.execute(delete(publications).where(publications.c.folder == str(folder)))

    def clear_rows(self, older_than_seconds: float) -> int:
        """Delete attempts that ended longer ago, and the records of their recoveries; gives how many attempts went."""
        with self._database.transaction() as connection:
            edge = now(connection) - older_than_seconds
            connection.execute(delete(recoveries).where(recoveries.c.last_at < edge))
            gone: CursorResult[Any] = connection.execute(delete(attempts).where(attempts.c.ended_at < edge))
            unknown = ~exists().where(attempts.c.work_key == works.c.work_key)
            connection.execute(delete(works).where(works.c.holder.is_(None) & unknown))
            return gone.rowcount

    def _lock_of(self, work_key: str) -> Path:
        path = self._home.lock(work_key)
        try:
            private.make_folder(path.parent)
        except OSError as error:
            raise from_os_error(error, "locking the work", path) from error
        return path

    def _attempts(self, condition: ColumnElement[bool]) -> list[Attempt]:
        with self._database.connect() as connection:
            return _select(connection, condition)


def insist(call: Callable[[], T], patience_seconds: float, each_try: Callable[[], None] = lambda: None) -> T:
    """The result of a call of the ledger's, tried for as long as `patience_seconds`. Blocking.

    `each_try` may raise to give up early (a cancelled run).

    Raises:
        LedgerUnavailable: the last try's.
    """
    until = time.monotonic() + patience_seconds
    while True:
        try:
            return call()
        except LedgerUnavailable:
            each_try()
            if time.monotonic() >= until:
                raise
            time.sleep(1.0)


def in_batches(ids: Iterable[str]) -> Iterator[list[str]]:
    """As many at a time as every database takes in one statement."""
    left = iter(ids)
    while some := list(islice(left, MOST_IDS)):
        yield some


def _claim(
    connection: Connection, identifier: str, work_key: str, here: Owner, limits: LedgerSettings, target: Path | None
) -> Claim:
    claimant = _attempt_or_none(connection, identifier)
    if claimant is None or claimant.state is not AttemptState.RUNNING:
        raise _loss_of_work()
    insert_if_absent(connection, works, {"work_key": work_key, "epoch": 0})
    work = connection.execute(select(works).where(works.c.work_key == work_key).with_for_update()).mappings().one()
    holder = _attempt_or_none(connection, work["holder"]) if work["holder"] else None
    if holder is not None and holder.id == identifier:
        return Claim(work["epoch"], holder)
    if not decide.may_take_over(holder, now(connection), here, limits):
        return Claim(None, holder)
    epoch = work["epoch"] + 1
    connection.execute(update(works).where(works.c.work_key == work_key).values(epoch=epoch, holder=identifier))
    held = {"work_key": work_key, "epoch": epoch, "target": str(target) if target else None}
    connection.execute(update(attempts).where(attempts.c.id == identifier).values(**held))
    return Claim(epoch, holder)


def _end(connection: Connection, identifier: str, condition: ColumnElement[bool], **values: Any) -> bool:
    """End an attempt if the condition still holds, and free its work under a new epoch."""
    done = {"ended_at": clock(connection), "slot_at": None, "waiting_for": None, **values}
    ended = connection.execute(update(attempts).where((attempts.c.id == identifier) & condition).values(**done))
    if not ended.rowcount:
        return False
    freed = update(works).where(works.c.holder == identifier).values(holder=None, epoch=works.c.epoch + 1)
    connection.execute(freed)
    return True


def _settle_recovery(connection: Connection, root_run: str) -> None:
    """An attempt begins: recovery's own re-run is counted, a person's sets the count back."""
    mine = recoveries.c.root_run == root_run
    awaited = connection.execute(
        update(recoveries).where(mine & recoveries.c.scheduled.is_(True)).values(scheduled=False)
    )
    if not awaited.rowcount:
        connection.execute(delete(recoveries).where(mine))


def _require_holder(connection: Connection, attempt: Attempt) -> None:
    """Lock the work, not the attempt: its own renewals go on. Who ends an attempt changes both, and waits here."""
    held = select(works.c.holder).where(works.c.work_key == attempt.work_key).with_for_update()
    holder = connection.execute(held).scalar()
    now_is = _attempt_or_none(connection, attempt.id)
    if now_is is None or now_is.state is not AttemptState.RUNNING or holder != attempt.id:
        raise _loss_of_work()


def _require(attempt: Attempt | None) -> Attempt:
    if attempt is None or attempt.work_key is None:
        raise _loss_of_work()
    return attempt


def _loss_of_work() -> Superseded:
    return Superseded("This attempt no longer holds its work; nothing of it is published")


def _acquire_soon(path: Path, patience_seconds: float) -> int:
    """The lock of the work; somebody who only looks whether it is free holds it while he asks the database."""
    until = time.monotonic() + patience_seconds
    while True:
        try:
            return acquire(path)
        except BlockingIOError as error:
            if time.monotonic() >= until:
                raise LedgerUnavailable("Somebody else holds the lock of this work") from error
            time.sleep(0.01)
        except OSError as error:
            raise from_os_error(error, "locking the work", path) from error


def _holds_its_work() -> ColumnElement[bool]:
    held = exists().where((works.c.work_key == attempts.c.work_key) & (works.c.holder == attempts.c.id))
    return attempts.c.work_key.is_(None) | held


def _select(connection: Connection, condition: ColumnElement[bool]) -> list[Attempt]:
    rows = connection.execute(select(attempts).where(condition).order_by(attempts.c.created_at)).mappings()
    return [Attempt.of(dict(row)) for row in rows]


def _attempt_or_none(connection: Connection, identifier: str) -> Attempt | None:
    found = _select(connection, attempts.c.id == identifier)
    return found[0] if found else None


def _attempt(connection: Connection, identifier: str) -> Attempt:
    [attempt] = _select(connection, attempts.c.id == identifier)
    return attempt


def _recovery(row: RowMapping) -> Recovery:
    reached = Reach(stages=row["reached_stages"], done=row["reached_done"])
    return Recovery.model_validate({**row, "reached": reached})

"""What all runs together know about origins: breakers, connections in use, rates and statistics.

Each run's gatekeeper calls `exchange`, from a thread; `python -m flows.origins`, doctor and maintenance read and reset.
Every call is one short transaction on the row of one origin, by the database's clock. What a killed process held ends
with its process where that can be seen, and with its lease elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, CursorResult, RowMapping, delete, select, update

from tidegate.durable.ledger.database import Database, insert_if_absent, now, put
from tidegate.durable.ledger.schema import hosts, origin_shares, origins
from tidegate.durable.owner import Owner, is_provably_gone
from tidegate.model import OriginStats, Value
from tidegate.resilience import breaker as breaker_rules
from tidegate.resilience.breaker import Breaker, BreakerState
from tidegate.resilience.sharing import Arbiter, HostUse, OriginRecord, Share, ShareAnswer, ShareRequest
from tidegate.settings import GateSettings


class OriginView(Value):
    """An origin as a person asks for it."""

    record: OriginRecord
    connections: int
    """In use by living runs."""
    waiting: int
    """Calls that wait for one."""
    now: float
    """When this was read, by the clock of all its times."""


class Origins:
    """The table of origins that all runs share. Thread-safe; every call may raise LedgerUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # What a run's gatekeeper asks.

    def exchange(self, here: Owner, origin: str, ask: ShareRequest, limits: GateSettings) -> ShareAnswer:
        """Count what the run tells, and grant it what is its turn."""
        with self._database.transaction() as connection:
            if ask.wanted:  # who wants more must not count the host's connections while another does
                insert_if_absent(connection, hosts, {"host": here.host})
                connection.execute(select(hosts).where(hosts.c.host == here.host).with_for_update())
            record = _lock_origin(connection, origin)
            clerk = Arbiter(limits, now(connection))
            shares = _Shares.read(connection, clerk, here, origin, ask.run)
            shares.bury(connection)
            record = record.model_copy(update={"breaker": breaker_rules.drop_probes_of(record.breaker, shares.dead)})
            settled = clerk.settle(record, shares.others, shares.mine, shares.host, ask)
            _store(connection, settled.origin, clerk)
            _store_share(connection, here, origin, settled.share)
            return settled.answer

    def look(self, here: Owner, origin: str, ask: ShareRequest, limits: GateSettings) -> ShareAnswer:
        """What `exchange` would answer a run that has nothing to tell and wants nothing; changes nothing."""
        with self._database.connect() as connection:
            row = connection.execute(select(origins).where(origins.c.origin == origin)).mappings().one_or_none()
            clerk = Arbiter(limits, now(connection))
            record = _origin_of(row) if row is not None else _unknown(origin, clerk.now)
            shares = _Shares.read(connection, clerk, here, origin, ask.run)
            return clerk.settle(record, shares.others, shares.mine, shares.host, ask).answer

    # What people and maintenance ask.

    def all(self, here: Owner, limits: GateSettings) -> list[OriginView]:
        """Every origin there is, by name."""
        with self._database.connect() as connection:
            at = now(connection)
            rows = connection.execute(select(origins).order_by(origins.c.origin)).mappings().all()
            shares = connection.execute(select(origin_shares)).mappings().all()
        alive = [row for row in shares if not _is_dead(row, at, here, limits)]
        return [_view_of(_origin_of(row), [one for one in alive if one["origin"] == row["origin"]], at) for row in rows]

    def isolate(self, origin: str) -> OriginRecord:
        """Let nobody through until somebody resets it."""
        return self._change(origin, breaker_rules.isolate)

    def reset(self, origin: str) -> OriginRecord:
        """Close its breaker, whatever it was."""
        return self._change(origin, breaker_rules.reset)

    def reset_statistics(self, origin: str | None = None) -> int:
        """Count from zero, for one origin or for all; gives for how many."""
        which = [origins.c.origin == origin] if origin is not None else []
        with self._database.transaction() as connection:
            fresh = {"statistics": _counts(OriginStats(origin="")), "counted_since": now(connection)}
            done: CursorResult[Any] = connection.execute(update(origins).where(*which).values(**fresh))
            return done.rowcount

    def clear(self, older_than_seconds: float) -> int:
        """Forget origins that nobody has asked for so long, but none that somebody has isolated."""
        with self._database.transaction() as connection:
            edge = now(connection) - older_than_seconds
            connection.execute(delete(origin_shares).where(origin_shares.c.asked_at < edge))
            old = (origins.c.seen_at < edge) & (origins.c.state != BreakerState.ISOLATED)
            gone: CursorResult[Any] = connection.execute(delete(origins).where(old))
            return gone.rowcount

    def _change(self, origin: str, change: Callable[[Breaker, float], Breaker]) -> OriginRecord:
        with self._database.transaction() as connection:
            record, at = _lock_origin(connection, origin), now(connection)
            changed = record.model_copy(update={"breaker": change(record.breaker, at)})
            values = {"state": changed.breaker.state, "breaker": changed.breaker.model_dump_json()}
            connection.execute(update(origins).where(origins.c.origin == origin).values(**values))
            return changed


class _Shares:
    """The shares that matter for one run at one origin: those of that origin, and those of its host."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self.mine: Share | None = None
        self.others: list[Share] = []
        self.dead: list[str] = []
        """Runs of this origin that are gone."""
        self.host = HostUse()

    @classmethod
    def read(cls, connection: Connection, clerk: Arbiter, here: Owner, origin: str, run: str) -> _Shares:
        shares, on_host = cls(origin), list[tuple[bool, Share]]()
        joined = origin_shares.outerjoin(origins, origins.c.origin == origin_shares.c.origin)
        which = (origin_shares.c.origin == origin) | (origin_shares.c.host == here.host)
        chosen = select(origin_shares, origins.c.doubtful).select_from(joined).where(which)
        for row in connection.execute(chosen).mappings():
            at_this = row["origin"] == origin
            if at_this and row["run"] == run:
                shares.mine = _share(row)
            elif _is_dead(row, clerk.now, here, clerk.limits):
                shares.dead += [row["run"]] if at_this else []
            else:
                shares.others += [_share(row)] if at_this else []
                on_host += [(bool(row["doubtful"]), _share(row))] if row["host"] == here.host else []
        shares.host = clerk.host_of(on_host)
        return shares

    def bury(self, connection: Connection) -> None:
        if self.dead:
            theirs = (origin_shares.c.origin == self._origin) & origin_shares.c.run.in_(self.dead)
            connection.execute(delete(origin_shares).where(theirs))


def _lock_origin(connection: Connection, origin: str) -> OriginRecord:
    chosen = select(origins).where(origins.c.origin == origin).with_for_update()
    row = connection.execute(chosen).mappings().one_or_none()
    if row is None:
        fresh = _unknown(origin, now(connection))
        insert_if_absent(connection, origins, _values(fresh, doubtful=True))
        row = connection.execute(chosen).mappings().one()
    return _origin_of(row)


def _store(connection: Connection, record: OriginRecord, clerk: Arbiter) -> None:
    values = _values(record, doubtful=clerk.doubtful(record))
    connection.execute(update(origins).where(origins.c.origin == record.origin).values(**values))


def _store_share(connection: Connection, here: Owner, origin: str, share: Share) -> None:
    if share.held or share.wanted:
        put(connection, origin_shares, {"origin": origin, **here.model_dump(), **share.model_dump()})
    else:
        mine = (origin_shares.c.origin == origin) & (origin_shares.c.run == share.run)
        connection.execute(delete(origin_shares).where(mine))


def _is_dead(row: RowMapping, at: float, here: Owner, limits: GateSettings) -> bool:
    """Whether the run of this share is gone, or gave no sign of life for the length of its lease."""
    if at - row["asked_at"] > limits.lease.total_seconds():
        return True
    return is_provably_gone(Owner(**{name: row[name] for name in Owner.model_fields}), here)


def _unknown(origin: str, at: float) -> OriginRecord:
    return OriginRecord(origin=origin, seen_at=at, counted_since=at, statistics=OriginStats(origin=origin))


def _values(record: OriginRecord, *, doubtful: bool) -> dict[str, Any]:
    return {
        "origin": record.origin,
        "state": record.breaker.state,
        "breaker": record.breaker.model_dump_json(),
        "doubtful": doubtful,
        "proven_at": record.proven_at,
        "next_start_at": record.next_start_at,
        "seen_at": record.seen_at,
        "counted_since": record.counted_since,
        "statistics": _counts(record.statistics),
    }


def _counts(statistics: OriginStats) -> str:
    return statistics.model_dump_json(exclude={"origin", "breaker"})


def _origin_of(row: RowMapping) -> OriginRecord:
    fields = {name: row[name] for name in ("origin", "proven_at", "next_start_at", "seen_at", "counted_since")}
    counts = {**json.loads(row["statistics"]), "origin": row["origin"], "breaker": row["state"]}
    breaker = Breaker.model_validate_json(row["breaker"])
    return OriginRecord(**fields, breaker=breaker, statistics=OriginStats.model_validate(counts))


def _share(row: RowMapping) -> Share:
    return Share(**{name: row[name] for name in Share.model_fields})


def _view_of(record: OriginRecord, shares: Sequence[RowMapping], at: float) -> OriginView:
    held, waiting = sum(row["held"] for row in shares), sum(row["wanted"] for row in shares)
    return OriginView(record=record, connections=held, waiting=waiting, now=at)

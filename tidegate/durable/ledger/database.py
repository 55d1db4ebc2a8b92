"""How the ledger reaches its database: SQLite in the home, or PostgreSQL by URL.

`Ledger` opens one and asks it for transactions and for the time. Whatever goes wrong becomes LedgerUnavailable here; a
local file that is no database any more is moved aside, and a new one begun.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    CursorResult,
    Engine,
    Table,
    create_engine,
    event,
    literal_column,
    make_url,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from tidegate.durable import private
from tidegate.errors import BadInput, LedgerUnavailable, from_os_error
from tidegate.settings import LedgerSettings

SQLITE_BUSY, SQLITE_CORRUPT, SQLITE_NOTADB = 5, 11, 26
"""Primary result codes of SQLite: somebody else writes; the file is damaged; it is no database."""
SPELL_MS = 8
"""How long SQLite itself waits for its lock before we ask anew."""
POOL_SIZE = POOL_OVERFLOW = 5
IN_MEMORY = ":memory:"
KEEPALIVES = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
"""A host that vanished while it published must not keep its row locked for the kernel's two hours."""


class Database:
    """Transactions on one database. Thread-safe."""

    def __init__(self, engine: Engine, file: Path | None) -> None:
        self._engine = engine
        self._schema: Callable[[Connection], None] | None = None
        self.file = file
        """Of SQLite; None where a server keeps the data."""
        self.moved_aside: Path | None = None
        """Where a damaged file was moved to, if this process did it."""

    @classmethod
    def at(cls, limits: LedgerSettings, home: Path) -> Database:
        """The database that the settings name; nothing is opened yet.

        Raises:
            BadInput: the URL names none that can be used here.
        """
        try:
            url = make_url(limits.url) if limits.url else URL.create("sqlite", database=str(home / "ledger.db"))
            if url.drivername == "postgresql+psycopg":
                return cls(_postgresql(url, limits), None)
            if url.get_backend_name() == "sqlite" and url.database not in (None, "", IN_MEMORY):
                return cls(_sqlite(url, limits), Path(str(url.database)))
        except ArgumentError as error:
            raise BadInput("TIDEGATE_LEDGER_URL is no database URL") from error
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            raise BadInput(
                f"TIDEGATE_LEDGER_URL needs a driver that is not installed: {error}",
                hint="install tidegate with its extra `postgres`",
            ) from error
        raise BadInput(
            "TIDEGATE_LEDGER_URL must name a SQLite file (sqlite:///…) or a database (postgresql+psycopg://…)"
        )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction, committed at the end of the block."""
        with self._translate_errors(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def connect(self) -> Iterator[Connection]:
        """Statements that each see what is committed."""
        with self._translate_errors(), self._engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    def make(self, schema: Callable[[Connection], None]) -> None:
        """Apply `schema`, now and to every file that is begun anew."""
        try:
            self._apply(schema)
        except LedgerUnavailable as error:
            if self.file is None or not _is_damage(error.__cause__):
                raise
            self._begin_anew(self.file, schema)
        self._schema = schema

    def close(self) -> None:
        self._engine.dispose()

    def _apply(self, schema: Callable[[Connection], None]) -> None:
        if self.file is not None:
            try:
                private.make_folder(self.file.parent)
            except OSError as error:
                raise from_os_error(error, "opening the ledger", self.file) from error
        with self.transaction() as connection:
            schema(connection)

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            if self.file is not None and self._schema is not None and _is_damage(error):
                self._begin_anew(self.file, self._schema)
            raise LedgerUnavailable(f"The ledger does not answer: {error.orig or error}".strip()) from error
        except SQLAlchemyError as error:
            raise LedgerUnavailable(f"The ledger does not answer: {error}") from error

    def _begin_anew(self, file: Path, schema: Callable[[Connection], None]) -> None:
        """Put a damaged file out of the way, once: of several processes that see the damage, one does it.

        Attempts that were at work find no row of theirs in the new file and stop: nobody works unseen.
        """
        aside = file.with_name(f"{file.name}.damaged-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}")
        self._schema = None  # should the new one be damaged as well, that is for the next call
        try:
            with open(file.with_name(f"{file.name}.repair"), "w", opener=private.opener) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if self._is_still_damaged():
                    # The file itself last: SQLite removes a log that it finds beside an empty database.
                    for suffix in ("-wal", "-shm", ""):
                        with contextlib.suppress(FileNotFoundError):
                            os.rename(f"{file}{suffix}", f"{aside}{suffix}")  # noqa: PTH104
                    self.moved_aside = aside
                self._apply(schema)
        except OSError as error:
            raise from_os_error(error, "moving the damaged ledger aside", file) from error
        finally:
            self._schema = schema

    def _is_still_damaged(self) -> bool:
        """Whether it still is, looked at whole: the list of tables may be fine where a page of one is not."""
        try:
            with self.connect() as connection:
                return connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar() != "ok"
        except LedgerUnavailable as error:
            if _is_damage(error.__cause__):
                return True
            raise


def clock(connection: Connection) -> ColumnElement[float]:
    """An expression: the database's own clock, in seconds of the Unix epoch. Hosts may disagree; it does not."""
    if connection.dialect.name == "postgresql":
        return literal_column("extract(epoch from clock_timestamp())::double precision")
    return literal_column("((julianday('now') - 2440587.5) * 86400.0)")


def now(connection: Connection) -> float:
    return float(connection.execute(select(clock(connection))).scalar_one())


def insert_if_absent(connection: Connection, table: Table, row: dict[str, Any]) -> bool:
    """Insert a row unless its key is there; whether it was inserted."""
    insertion = _dialect(connection).insert(table).values(**row).on_conflict_do_nothing()
    inserted: CursorResult[Any] = connection.execute(insertion.execution_options(preserve_rowcount=True))
    return inserted.rowcount > 0


def put(connection: Connection, table: Table, row: dict[str, Any]) -> None:
    """Insert a row, or write it over the one of the same key."""
    key = [column.name for column in table.primary_key]
    rest = {name: value for name, value in row.items() if name not in key}
    insertion = _dialect(connection).insert(table).values(**row)
    connection.execute(insertion.on_conflict_do_update(index_elements=key, set_=rest))


def _dialect(connection: Connection) -> Any:
    return postgresql if connection.dialect.name == "postgresql" else sqlite


def _postgresql(url: URL, limits: LedgerSettings) -> Engine:
    milliseconds = int(limits.statement_timeout.total_seconds() * 1000)
    engine = create_engine(
        url,
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=limits.busy_timeout.total_seconds(),
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": max(2, round(limits.busy_timeout.total_seconds())),
            "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds} {KEEPALIVES}",
            "tcp_user_timeout": milliseconds,  # an unanswered statement must not wait for the kernel's 15 minutes
        },
    )
    patience = (limits.statement_timeout + limits.busy_timeout).total_seconds()
    event.listen(
        engine,
        "do_connect",
        lambda _dialect, _record, arguments, options: _connect_with_patience(patience, *arguments, **options),
    )
    return engine


def _connect_with_patience(patience_seconds: float, *arguments: Any, **options: Any) -> Any:
    """A connection on which no answer is waited for longer than that.

    A paused pooler, or a balancer that has lost its server, takes what is sent, confirms it, and never answers: the
    server's own limits do not reach the client then, and neither do TCP's.
    """
    import psycopg

    class Impatient(psycopg.Connection[Any]):
        def wait(self, *waited: Any, **how: Any) -> Any:
            cut = threading.Timer(patience_seconds, _shut_down, [self])
            cut.daemon = True
            cut.start()
            try:
                return super().wait(*waited, **how)
            finally:
                cut.cancel()

    return Impatient.connect(*arguments, **options)


def _shut_down(connection: Any) -> None:
    with contextlib.suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


def _sqlite(url: URL, limits: LedgerSettings) -> Engine:
    # No pool: a connection that outlives a call would go on writing into a file that was moved aside.
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": limits.busy_timeout.total_seconds()})
    event.listen(engine, "do_connect", lambda *_: _make_private(str(url.database)))
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", lambda connection: _begin_at_once(connection, limits.busy_timeout.total_seconds()))
    return engine


def _make_private(database: str) -> None:
    """Before SQLite makes it as the umask says; its log and its index get the mode of the database."""
    if not database.startswith("file:"):
        with contextlib.suppress(OSError):  # SQLite says in its own words what is wrong
            private.make_file(Path(database))


def _configure(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver's own BEGIN comes too late to lock what is read first
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


def _begin_at_once(connection: Connection, patience_seconds: float) -> None:
    """Lock before the first read: two that read and then both write would fail instead of waiting."""
    if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        return
    # SQLite looks after 1, 2, 5 … ms, in the end every 100: who has waited long looks least, and on a busy machine
    # newcomers kept one process out for all of its 5 s. In short spells everyone looks equally often.
    until = time.monotonic() + patience_seconds
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {SPELL_MS}")
    while not _try_to_begin(connection, last=time.monotonic() >= until):
        pass
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(patience_seconds * 1000)}")


def _try_to_begin(connection: Connection, *, last: bool) -> bool:
    """Whether the lock could be had within a spell; the last one raises what was in the way."""
    if last:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return True
    try:
        connection.connection.cursor().execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == SQLITE_BUSY:
            return False
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # again, so that the failure is one of SQLAlchemy's
    return True


def _is_damage(error: BaseException | None) -> bool:
    original = error.orig if isinstance(error, DBAPIError) else None
    return getattr(original, "sqlite_errorcode", 0) & 0xFF in (SQLITE_CORRUPT, SQLITE_NOTADB)

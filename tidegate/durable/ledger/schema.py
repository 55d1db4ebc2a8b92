"""The ledger's tables, and how an older database becomes one of today's.

`Ledger.open` calls `migrate` before anything else. All steps run in one transaction with the number they lead to, so
after a crash the schema is the old one or today's; a database of a newer Tidegate is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    inspect,
    select,
    text,
)

from tidegate.errors import LedgerUnavailable

metadata = MetaData()

version_table = Table("schema_version", metadata, Column("version", Integer, nullable=False))

works = Table(
    "works",
    metadata,
    Column("work_key", Text, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("holder", Text),
    comment="Who may work on what. Raising the epoch fences off whoever held it before.",
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("work_key", Text),
    Column("epoch", BigInteger, nullable=False),
    Column("target", Text),
    Column("flow_run", Text),
    Column("root_run", Text),
    Column("deployment", Text),
    Column("title", Text, nullable=False),
    Column("request", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("boot", Text, nullable=False),
    Column("namespace", BigInteger, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("started", BigInteger, nullable=False),
    Column("alone", Boolean, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("renewed_at", Double, nullable=False),
    Column("progressed_at", Double),
    Column("ended_at", Double),
    Column("stage", Text),
    Column("done", Double),
    Column("total", Double),
    Column("unit", Text),
    Column("records", Text, nullable=False),
    Column("waiting_for", Text),
    Column("slot_at", Double),
    Column("groups", Text, nullable=False),
    Column("failure", Text),
    Column("error_reason", Text),
    Column("marked_stuck_at", Double),
    Index("attempts_state", "state"),
    Index("attempts_flow_run", "flow_run"),
    Index("attempts_root_run", "root_run"),
    Index("attempts_ended_at", "ended_at"),
    comment="One row for each time that a process set out on a piece of work. Times in seconds of the Unix epoch.",
)

recoveries = Table(
    "recoveries",
    metadata,
    Column("root_run", Text, primary_key=True),
    Column("consecutive", Integer, nullable=False),
    Column("reached_stages", Integer, nullable=False),
    Column("reached_done", Double, nullable=False),
    Column("last_at", Double, nullable=False),
    Column("scheduled", Boolean, nullable=False),
    Column("parked_at", Double),
    comment="How often a run was taken up again without a new checkpoint since.",
)

publications = Table(
    "publications",
    metadata,
    Column("folder", Text, primary_key=True),
    Column("work_key", Text, nullable=False),
    Column("published_at", Double, nullable=False),
    comment="Which folders hold published results.",
)

hosts = Table(
    "hosts",
    metadata,
    Column("host", Text, primary_key=True),
    comment="One row a host, locked while its slots are counted.",
)


origins = Table(
    "origins",
    metadata,
    Column("origin", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("breaker", Text, nullable=False),
    Column("doubtful", Boolean, nullable=False),
    Column("proven_at", Double),
    Column("next_start_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
    Column("counted_since", Double, nullable=False),
    Column("statistics", Text, nullable=False),
    Index("origins_seen_at", "seen_at"),
    comment="What all runs know about an origin together: its breaker and statistics (JSON), and when it may be asked.",
)

origin_shares = Table(
    "origin_shares",
    metadata,
    Column("origin", Text, primary_key=True),
    Column("run", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("boot", Text, nullable=False),
    Column("namespace", BigInteger, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("started", BigInteger, nullable=False),
    Column("held", Integer, nullable=False),
    Column("wanted", Integer, nullable=False),
    Column("since", Double),
    Column("asked_at", Double, nullable=False),
    Column("blocked_by_host", Boolean, nullable=False),
    Index("origin_shares_host", "host"),
    comment="Connections that a run has to an origin, and wants: a lease, which ends with its process or its silence.",
)


codecs = Table(
    "codecs",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("codec", Text, primary_key=True),
    Column("detail", Text, primary_key=True),
    Column("strategy", Text, primary_key=True),
    Column("outcome", Text, primary_key=True),
    Column("streams", BigInteger, nullable=False),
    Column("seen_at", Double, nullable=False),
    comment="How many streams of a codec came, what was done with them, and how it ended.",
)


def _origins(connection: Connection) -> None:
    """Version 2: what is known about origins."""
    for statement in (
        "CREATE TABLE origins (origin TEXT NOT NULL PRIMARY KEY, state TEXT NOT NULL, breaker TEXT NOT NULL,"
        " doubtful BOOLEAN NOT NULL, proven_at DOUBLE PRECISION, next_start_at DOUBLE PRECISION NOT NULL,"
        " seen_at DOUBLE PRECISION NOT NULL, counted_since DOUBLE PRECISION NOT NULL, statistics TEXT NOT NULL)",
        "CREATE INDEX origins_seen_at ON origins (seen_at)",
        "CREATE TABLE origin_shares (origin TEXT NOT NULL, run TEXT NOT NULL, host TEXT NOT NULL, boot TEXT NOT NULL,"
        " namespace BIGINT NOT NULL, pid BIGINT NOT NULL, started BIGINT NOT NULL, held INTEGER NOT NULL,"
        " wanted INTEGER NOT NULL, since DOUBLE PRECISION, asked_at DOUBLE PRECISION NOT NULL,"
        " blocked_by_host BOOLEAN NOT NULL, PRIMARY KEY (origin, run))",
        "CREATE INDEX origin_shares_host ON origin_shares (host)",
    ):
        connection.execute(text(statement))


def _codecs(connection: Connection) -> None:
    """Version 3: codecs seen."""
    connection.execute(
        text(
            "CREATE TABLE codecs (kind TEXT NOT NULL, codec TEXT NOT NULL, detail TEXT NOT NULL,"
            " strategy TEXT NOT NULL, outcome TEXT NOT NULL, streams BIGINT NOT NULL,"
            " seen_at DOUBLE PRECISION NOT NULL, PRIMARY KEY (kind, codec, detail, strategy, outcome))"
        )
    )


MIGRATIONS: Sequence[Callable[[Connection], None]] = (_origins, _codecs)
"""The first leads from version 1 to 2. A released step never changes; a new one is added, and the tables above with it.

An empty database gets the tables above at once: a step would add to them what they have already.
"""

_MIGRATING = 7_241_130_447
"""The advisory lock (an arbitrary number of ours) under which PostgreSQL lets only one process migrate."""


def migrate(connection: Connection) -> None:
    """Bring the schema up to date, inside the caller's transaction.

    Raises:
        LedgerUnavailable: a newer Tidegate has made this database.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _MIGRATING})
    version, todays = version_of(connection), len(MIGRATIONS) + 1
    if version > todays:
        raise LedgerUnavailable(
            f"The ledger has schema version {version}, this Tidegate knows {todays}",
            hint="a newer Tidegate has used it: update this one",
        )
    if version == 0:
        metadata.create_all(connection)
        connection.execute(version_table.insert().values(version=todays))
    elif version < todays:
        for step in MIGRATIONS[version - 1 :]:
            step(connection)
        connection.execute(version_table.update().values(version=todays))


def version_of(connection: Connection) -> int:
    """The schema's version; 0 for an empty database."""
    if not inspect(connection).has_table(version_table.name):
        return 0
    return connection.execute(select(version_table.c.version)).scalar() or 0

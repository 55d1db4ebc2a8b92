"""Which codecs came, what was done with them, and how it ended: counted over all runs.

A run that made its file, or failed to, counts once, at its end; `python -m flows.runs --codecs` lists it. Every call is
one short transaction. A run that is killed before its end is not counted: the numbers are for people, and no decision
depends on them.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import and_, select, update

from tidegate.durable.ledger.database import Database, insert_if_absent, now
from tidegate.durable.ledger.schema import codecs
from tidegate.model import Outcome, StreamInfo, Value

UNDECIDED = "none"
"""In place of a strategy, where none was come to."""


class CodecUse(Value):
    """One codec, as one strategy ended for it."""

    kind: str
    codec: str
    detail: str = ""
    """Profile and pixel format, as far as the probe knows them."""
    strategy: str
    outcome: str
    """`completed`, or the type of the failure."""


class CodecCount(Value):
    """How often, and when last, by the ledger's clock."""

    codec: CodecUse
    streams: int
    seen_at: float


def codec_uses_of(outcome: Outcome) -> tuple[CodecUse, ...]:
    """What a run has to add: each stream of its source, for each strategy that was tried on it in this run."""
    stage = outcome.stages.get("remux")
    if stage is None or stage.cached or outcome.download is None:
        return ()
    streams = [s for s in outcome.download.media.streams if s.kind in ("video", "audio", "subtitle")]
    if outcome.remux is not None:
        ends = [(step.strategy.value, step.failure or step.outcome) for step in outcome.remux.ladder]
    else:
        ends = [(UNDECIDED, outcome.failure.type if outcome.failure else stage.state)]
    return tuple(_codec_use(stream, strategy, ended) for strategy, ended in ends for stream in streams)


def _codec_use(stream: StreamInfo, strategy: str, ended: str) -> CodecUse:
    kind = "cover" if stream.attached_picture else stream.kind
    detail = " ".join(word for word in (stream.profile, stream.pix_fmt) if word)
    return CodecUse(kind=kind, codec=stream.codec, detail=detail, strategy=strategy, outcome=ended)


class CodecCounts:
    """The counts of codecs in the ledger's database. Thread-safe; every call may raise LedgerUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def count(self, seen: Iterable[CodecUse]) -> None:
        """Add one for each."""
        with self._database.transaction() as connection:
            for codec in sorted(seen, key=lambda one: tuple(one.model_dump().values())):  # one order: no deadlock
                key = codec.model_dump()
                insert_if_absent(connection, codecs, {**key, "streams": 0, "seen_at": 0.0})
                row = and_(*(codecs.c[name] == value for name, value in key.items()))
                count = {"streams": codecs.c.streams + 1, "seen_at": now(connection)}
                connection.execute(update(codecs).where(row).values(count))

    def all(self) -> list[CodecCount]:
        """The most frequent first."""
        order = (codecs.c.streams.desc(), *codecs.primary_key.columns)
        with self._database.connect() as connection:
            rows = connection.execute(select(codecs).order_by(*order)).mappings().all()
        return [
            CodecCount(codec=CodecUse.model_validate(dict(row)), streams=row["streams"], seen_at=row["seen_at"])
            for row in rows
        ]

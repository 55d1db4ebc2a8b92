"""Concurrency leases on disk, for a server that may have been away itself.

`PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE` names this module for the servers that we start. Prefect's own storage gives
a slot back when its lease has expired, and that also on the first look of a server that was away for 75 s and more: a
run that lives and could not renew loses its slot, is told so at its next renewal, and is ended by Prefect. So nothing
expires until the holders have had the time to find the server again. The leases outlive this process on disk.

With a deployment its limit is deleted too. Prefect then fails to give the slot back, and answers 500 to every state of
a run that held one: it can neither be cancelled nor end. A lease of a limit that is gone holds nothing: there is none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from prefect.server.concurrency.lease_storage import ConcurrencyLimitLeaseMetadata
from prefect.server.concurrency.lease_storage.filesystem import ConcurrencyLeaseStorage as LeasesOnDisk
from prefect.server.database import provide_database_interface
from prefect.server.utilities.leasing import ResourceLease
from sqlalchemy import select
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

PATIENCE_SECONDS = 180.0
"""How long after the server's start no lease expires: the longest pause of a client between two tries is 154 s."""
STARTED = time.monotonic()

_logger = logging.getLogger(__name__)


class ConcurrencyLeaseStorage(LeasesOnDisk):
    """As Prefect's, but patient at first; Prefect looks for a class of this name."""

    async def read_lease(self, lease_id: UUID) -> ResourceLease[ConcurrencyLimitLeaseMetadata] | None:
        """The lease, if it holds anything. Whoever has one that holds nothing may renew it while he lives."""
        lease = await super().read_lease(lease_id)
        if lease is None or await _any_limit_is_left(lease.resource_ids):
            return lease
        if lease.expiration < datetime.now(UTC):
            await self.revoke_lease(lease_id)
        return None

    async def read_expired_lease_ids(self, limit: int = 100) -> list[UUID]:
        """The leases whose slots are given back."""
        if time.monotonic() - STARTED < PATIENCE_SECONDS:
            return []
        return await super().read_expired_lease_ids(limit)


async def _any_limit_is_left(limits: Sequence[UUID]) -> bool:
    """Whether one of them is in the database; where that cannot be asked, they are.

    Over a connection of its own: whoever asks is in the middle of a transaction, holds one of the pool's connections
    and, on SQLite, the only right to write.
    """
    database = provide_database_interface()
    engine = create_async_engine(database.database_config.connection_url, poolclass=NullPool)
    table = database.ConcurrencyLimitV2
    try:
        async with engine.connect() as connection:
            found = await connection.execute(select(table.id).where(table.id.in_(limits)).limit(1))
            return found.first() is not None
    except Exception:  # the state of a run must not depend on it
        _logger.debug("The limits of a lease could not be looked up", exc_info=True)
        return True
    finally:
        await engine.dispose()

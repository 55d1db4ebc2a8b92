"""Concurrency leases on disk, for a server that may have been away itself.

`PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE` names this module for the servers that we start. Prefect's own storage gives
a slot back when its lease has expired, and that also on the first look of a server that was away for 75 s and more: a
run that lives and could not renew loses its slot, is told so at its next renewal, and is ended by Prefect. So nothing
expires until the holders have had the time to find the server again. The leases outlive this process on disk.
"""

from __future__ import annotations

import time
from uuid import UUID

from prefect.server.concurrency.lease_storage.filesystem import ConcurrencyLeaseStorage as LeasesOnDisk

PATIENCE_SECONDS = 180.0
"""How long after the server's start no lease expires: the longest pause of a client between two tries is 154 s."""
STARTED = time.monotonic()


class ConcurrencyLeaseStorage(LeasesOnDisk):
    """As Prefect's, but patient at first; Prefect looks for a class of this name."""

    async def read_expired_lease_ids(self, limit: int = 100) -> list[UUID]:
        """The leases whose slots are given back."""
        if time.monotonic() - STARTED < PATIENCE_SECONDS:
            return []
        return await super().read_expired_lease_ids(limit)

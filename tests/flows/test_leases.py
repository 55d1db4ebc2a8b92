"""A slot is not given back because the server, and not its holder, was away."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.settings import PREFECT_HOME, PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE, temporary_settings

from flows import leases


def test_prefect_takes_our_storage_by_its_name(tmp_path: Path) -> None:
    from prefect.server.concurrency.lease_storage import get_concurrency_lease_storage

    with temporary_settings({PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE: "flows.leases", PREFECT_HOME: tmp_path}):
        storage = get_concurrency_lease_storage()
    assert isinstance(storage, leases.ConcurrencyLeaseStorage)
    assert storage.storage_path == tmp_path / "concurrency_leases"


def test_an_expired_lease_can_be_renewed_for_a_while_after_the_start_and_goes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        storage = leases.ConcurrencyLeaseStorage(tmp_path)
        kept = await storage.create_lease([uuid4()], timedelta(seconds=-1))
        lost = await storage.create_lease([uuid4()], timedelta(seconds=-1))

        monkeypatch.setattr(leases, "STARTED", time.monotonic() - leases.PATIENCE_SECONDS + 60)
        assert await storage.read_expired_lease_ids() == []
        assert await storage.renew_lease(kept.id, timedelta(minutes=5))

        monkeypatch.setattr(leases, "STARTED", time.monotonic() - leases.PATIENCE_SECONDS)
        assert await storage.read_expired_lease_ids() == [lost.id]

    asyncio.run(story())

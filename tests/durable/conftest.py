"""A volume small enough to fill, and a ledger on each of the databases that it may have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.disks import volume
from tests.support.postgres import Cluster
from tidegate.durable.home import Home
from tidegate.durable.ledger import Ledger
from tidegate.settings import LedgerSettings


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB; skips visibly where one may not be made."""
    with volume(tmp_path / "small", "size=256k") as folder:
        yield folder


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture(params=["sqlite", "postgresql"])
def limits(request: pytest.FixtureRequest) -> Iterator[LedgerSettings]:
    """Where the ledger is: in the home, or in a new database of a server."""
    if request.param == "sqlite":
        yield LedgerSettings()
        return
    cluster: Cluster = request.getfixturevalue("postgres")
    with cluster.database() as name:
        yield LedgerSettings(url=cluster.url(name))


@pytest.fixture
def ledger(limits: LedgerSettings, home: Home) -> Iterator[Ledger]:
    opened = Ledger.open(limits, home)
    yield opened
    opened.close()

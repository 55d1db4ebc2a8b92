"""Flows of these tests run in this process, against the session's Prefect server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def attached(prefect_server: str, tmp_path: Path) -> Iterator[None]:
    """Prefect's client talks to the test server, and keeps what it keeps below `tmp_path`."""
    # Here, so that collecting the tests of other layers does not pay for the import.
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    with temporary_settings({PREFECT_API_URL: prefect_server, PREFECT_HOME: tmp_path / "prefect"}):
        yield

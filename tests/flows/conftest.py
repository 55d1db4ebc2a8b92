"""What the flow tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Command
from tests.support.leaks import end_children


@pytest.fixture
def command(command: Command) -> Iterator[Command]:
    """The real command; should a test fail half-way, what it left running does not disturb the next one."""
    yield command
    end_children(command.mark)


@pytest.fixture
def attached(prefect_server: str, tmp_path: Path) -> Iterator[None]:
    """Flows in this process talk to the test server, and keep what they keep below `tmp_path`."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    with temporary_settings({PREFECT_API_URL: prefect_server, PREFECT_HOME: tmp_path / "prefect"}):
        yield

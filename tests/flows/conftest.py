"""What the flow tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.command import Command
from tests.support.leaks import end_children


@pytest.fixture
def command(command: Command) -> Iterator[Command]:
    """The real command; should a test fail half-way, what it left running does not disturb the next one."""
    yield command
    end_children(command.mark)

"""A run of the fake tool under supervision, and the check that nothing of it is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.leaks import children, end_children, marking, open_descriptors, wait_until_childless


@pytest.fixture
def mark() -> Iterator[str]:
    """Every process started meanwhile carries it; those that a failed test left are ended."""
    with marking() as mark:
        yield mark
        end_children(mark)


@pytest.fixture
def nothing_left(mark: str) -> Iterator[None]:
    """After the test there is no process, no descriptor and no thread more than before."""
    threads, descriptors = set(threading.enumerate()), open_descriptors()
    yield
    assert children(mark) == [] or wait_until_childless(mark, timeout_seconds=1.0) == []
    until = time.monotonic() + 3
    while (new := set(threading.enumerate()) - threads) and time.monotonic() < until:
        time.sleep(0.02)
    assert not new
    assert {number: what for number, what in open_descriptors().items() if descriptors.get(number) != what} == {}

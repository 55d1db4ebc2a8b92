"""Limits short enough for a test and long enough for a busy machine, and the check that nothing is left."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.leaks import open_descriptors
from tidegate.settings import TransferSettings

ENDING_SECONDS = 6.0
"""How long a thread that was left alone in the kernel may take to end by itself: beyond the request timeout."""


@pytest.fixture
def limits() -> TransferSettings:
    return TransferSettings(
        request_timeout=1.2, stall_timeout=0.7, stall_tick=0.1, minimum_speed=8192, tries=3, backoff_base=0.05
    )


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port whose queue is full: a connection to it is neither accepted nor refused."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        crowd = [socket.socket() for _ in range(4)]
        for one in crowd:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for one in crowd:
            one.close()


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """No thread and no descriptor more than before."""
    threads, descriptors = set(threading.enumerate()), open_descriptors()
    yield
    until = time.monotonic() + ENDING_SECONDS
    while (new := _at_work() - threads) and time.monotonic() < until:
        time.sleep(0.02)
    assert not new
    if _opened_since(descriptors):
        gc.collect()  # kept connections end with the run whose gates they belong to
    while (left := _opened_since(descriptors)) and time.monotonic() < until:
        time.sleep(0.02)
    assert left == {}


def _opened_since(before: dict[int, str]) -> dict[int, str]:
    return {number: what for number, what in open_descriptors().items() if before.get(number) != what}


def _at_work() -> set[threading.Thread]:
    """All threads but those of gates, which wait a few seconds for the next request and then end by themselves."""
    return {thread for thread in threading.enumerate() if thread.name != "gates"}

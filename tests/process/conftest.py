"""A run of the fake tool under supervision, and the check that nothing of it is left."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import fake_tool
from tests.support.leaks import children, end_children, marking, open_descriptors, wait_until_childless
from tidegate.settings import ProcessSettings


@pytest.fixture(autouse=True)
def _played_by_script(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake tool is a script of ours, and writes where its acts say; `test_confine` says itself what is allowed."""
    if request.module.__name__.endswith("test_confine"):
        return
    fake_tool.allow(Path(fake_tool.__file__).parent, tmp_path)
    allowed = {"allow": os.environ["TIDEGATE_PROCESS_ALLOW"]}
    for name, value in vars(request.module).items():
        if isinstance(value, ProcessSettings):
            monkeypatch.setattr(request.module, name, value.model_copy(update=allowed))


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

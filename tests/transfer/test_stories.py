"""Stories of mixed faults that can be recovered from: all end whole, however they are mixed, killed processes included.

Each story is drawn from its seed, so that one that fails can be told again: `pytest -k seed17`.
"""

from __future__ import annotations

import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import anyio
import pytest

from tests.support.origin import Origin, Resource
from tests.support.tales import fetch, story_of

pytestmark = pytest.mark.usefixtures("nothing_left")

SEEDS = range(300)
OFTEN = range(8)


def killed_on_the_way(url: str, folder: Path, chance: random.Random) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            anyio.run(fetch, url, folder)
        finally:
            os._exit(0)
    time.sleep(chance.uniform(0.05, 1.0))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.mark.parametrize(
    "seed",
    [pytest.param(seed, id=f"seed{seed}", marks=() if seed in OFTEN else pytest.mark.slow) for seed in SEEDS],
)
def test_a_recoverable_story_ends_whole(seed: int, tmp_path: Path) -> None:
    story, film = story_of(seed)
    chance = random.Random(-seed)
    with Origin({"film.mp4": Resource(film, story=story)}) as origin:
        url = origin.url("film.mp4")
        if chance.random() < 0.3:
            killed_on_the_way(url, tmp_path, chance)
        got = anyio.run(partial(fetch, url, tmp_path))
        asked = origin.requests
    assert got.path.read_bytes() == b"".join(film.blocks()), story
    assert len(asked) <= 30, story

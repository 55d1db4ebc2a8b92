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
from pydantic import SecretStr

from tests.support.origin import Origin, Resource, Synthetic
from tidegate.events import unobserved
from tidegate.model import Source
from tidegate.settings import GateSettings, TransferSettings
from tidegate.transfer.fetch import FileFetched, fetch_file, identify
from tidegate.transfer.gates import Gates
from tidegate.transfer.http import HttpExchange
from tidegate.transfer.outside import Outside
from tidegate.transfer.transport import pool_of

pytestmark = pytest.mark.usefixtures("nothing_left")

KIB, MIB = 1024, 1024 * 1024
LIMITS = TransferSettings(request_timeout=2, stall_timeout=1, stall_tick=0.2, backoff_base=0.02, minimum_speed=8192)
SEEDS = range(300)
OFTEN = range(8)

GAINING = ("{n} drop", "{n} cut", "{n} stall", "no-length cut {n}", "drip 200 after {n}", "throttle 3M {n} drop")
"""Each brings at least as many bytes as reset the count of tries in vain."""
VAIN = ("503", "500", "502", "408", "429 retry-after 1", "0 drop", "late-headers 4s", "header Content-Length=5")
"""Never more than two of them follow each other: the third ends a transfer."""
ONCE = ("wrong-range", "ignore-range {n} drop", "if-range-whole {n} drop", "repeat ETag {n} drop")


def story_of(seed: int) -> tuple[str, Synthetic]:
    """Faults in an order that a budget of three tries survives, and then an origin that is well."""
    chance = random.Random(seed)
    film = Synthetic(chance.randrange(3 * MIB, 9 * MIB), seed=seed)
    told, vain = [], 0
    for _ in range(chance.randrange(1, 7)):
        kind = VAIN if vain < 2 and chance.random() < 0.4 else GAINING
        vain = vain + 1 if kind is VAIN else 0
        told.append(chance.choice(kind).format(n=f"{chance.randrange(300, 1500)}K"))
    if chance.random() < 0.3:
        told.append(f"{chance.randrange(300, 900)}K drop")
        told.append(chance.choice(ONCE).format(n=f"{chance.randrange(1000, 2500)}K"))
    return ", ".join([*told, "ok"]), film


async def fetch(url: str, folder: Path) -> FileFetched:
    # The breaker has its own tests: here its verdict would end stories that are recoverable without it.
    gates = Gates(GateSettings(failures=1000, least_calls=1000))
    outside = Outside(limits=LIMITS, gates=gates)
    source = Source(url=SecretStr(url))
    try:
        identity, _ = await identify(lambda: HttpExchange(source, LIMITS, gates), LIMITS, unobserved)
        return await fetch_file(outside, source, folder, identity)
    finally:
        pool_of(gates).close()


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

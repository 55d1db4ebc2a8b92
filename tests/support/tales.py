"""Stories of mixed faults, drawn from a seed, that can be recovered from by construction; and our engine telling them.

The tests of the stories and the benchmark that tells them to other tools take them from here, so both mean the same.
"""

from __future__ import annotations

import random
from pathlib import Path

from pydantic import SecretStr

from tests.support.origin import Synthetic
from tidegate.events import ignore_events
from tidegate.model import Source
from tidegate.settings import TransferSettings
from tidegate.transfer.file.fetch import FetchedFile, fetch_file, identify
from tidegate.transfer.file.http import HttpExchange
from tidegate.transfer.gates.gates import Gates
from tidegate.transfer.outside import Outside
from tidegate.transfer.transport import pool_of

MIB = 1024 * 1024
LIMITS = TransferSettings(request_timeout=2, stall_timeout=1, stall_tick=0.2, backoff_base=0.02, minimum_speed=8192)

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


async def fetch(url: str, folder: Path) -> FetchedFile:
    """One file with our engine, its gates and breaker as they are by default."""
    gates = Gates()
    source = Source(url=SecretStr(url))
    try:
        identity, _ = await identify(lambda: HttpExchange(source, LIMITS, gates), LIMITS, ignore_events)
        return await fetch_file(Outside(limits=LIMITS, gates=gates), source, folder, identity)
    finally:
        pool_of(gates).close()

"""Many sources, one outcome each: a bad one never holds up the others.

Called by `python -m flows.run` with several sources, and by deployments. Each source is an `ingest` subflow with its
own state and checkpoints; after a crash the same batch skips what is done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.attempts import attempt_of_run, open_ledger, repeatable_request
from flows.ending import failure_before_start
from flows.ingest import ingest
from flows.open_breaker import REST_SECONDS, batch_will_retry, rest_of
from flows.port import hold
from flows.request import SourceRequest
from tasks.observe import run_observer
from tidegate.durable.ledger.lease import Lease, hold_lease
from tidegate.model import NO_WISH, Outcome, ProfileName, Quality, StageName, Wish
from tidegate.settings import Settings


@flow(name="batch", persist_result=False)
async def batch(
    sources: list[SourceRequest],
    profile: ProfileName = ProfileName.UNIVERSAL,
    quality: Quality = Quality.AUTO,
    output_dir: Path = Path("media"),
    until: StageName = "publish",
    refresh: bool = False,
    wish: Wish = NO_WISH,
) -> State[list[Outcome]]:
    """Ingest several sources, one after the other.

    Args:
        sources: What to ingest.
        profile: Where the results must play.
        quality: The rung that is asked for.
        output_dir: The folder, on the worker, that gets a folder for each source; relative to TIDEGATE_OUTPUT.
        until: The last stage to run.
        refresh: Ignore every checkpoint.
        wish: What else is asked of the downloads: gaps that are allowed, how much of a live source.

    Returns:
        Completed when all did, else Failed; the outcomes, in the order of the sources, as its data.
    """
    hold()
    parameters = [source.model_dump(exclude_none=True) for source in sources]
    request = repeatable_request(profile, quality, output_dir, until, wish, sources=parameters)
    begins = attempt_of_run("batch", f"{len(sources)} sources", request)
    observe = run_observer()

    async def ingest_one(source: SourceRequest) -> Outcome:
        state = ingest(source, profile, quality, output_dir, until, refresh, wish, return_state=True)
        result = await _result_of(state)
        return result if isinstance(result, Outcome) else failure_before_start(source, result)

    async with open_ledger(Settings.load(), observe) as ledger, hold_lease(ledger, begins, observe) as lease:
        outcomes = await _ingest_all(sources, ingest_one, lease)
    failed = sum(outcome.status != "completed" for outcome in outcomes)
    if failed:
        return Failed(message=f"{failed} of {len(outcomes)} sources failed", data=outcomes)
    return Completed(message=f"{len(outcomes)} sources done", data=outcomes)


async def _ingest_all(
    sources: list[SourceRequest], ingest_one: Callable[[SourceRequest], Awaitable[Outcome]], lease: Lease
) -> list[Outcome]:
    """Every source's outcome. To those whose origin is being given a rest it comes back, once all others are done."""
    outcomes: dict[int, Outcome] = {}
    patience, waiting = REST_SECONDS, list(range(len(sources)))
    while waiting:
        token = batch_will_retry.set(patience > 0)
        for number in waiting:
            outcomes[number] = await ingest_one(sources[number])
        batch_will_retry.reset(token)
        rests = {number: rest for number in waiting if (rest := rest_of(outcomes[number])) is not None}
        if not rests or patience <= 0:
            break
        rest = min(max(1.0, min(rests.values())), patience)
        patience, waiting = patience - rest, list(rests)
        with lease.note_wait(f"{len(rests)} sources whose servers are paused after failures"):
            await anyio.sleep(rest)
    return [outcomes[number] for number in range(len(sources))]


async def _result_of(source: Awaitable[State[Any]]) -> object:
    """What one source came to; also where its run was cancelled or deleted in the UI. The others go on."""
    try:
        state = await source
        return await state.aresult(raise_on_failure=False)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is this source's
        return error

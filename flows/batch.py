"""Many sources, one outcome each: a bad one never holds up the others.

Called by `python -m flows.run` with several sources, and by deployments. Each source is an `ingest` subflow with its
own state and checkpoints; after a crash the same batch skips what is done.
"""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.attempts import beginning, opened_ledger
from flows.ingest import failed_before_it_began, ingest
from flows.request import SourceRequest
from tasks.observe import run_observer
from tidegate.durable.ledger.lease import leased
from tidegate.model import Outcome, ProfileName, Quality, StageName
from tidegate.settings import Settings


@flow(name="batch", persist_result=False)
async def batch(
    sources: list[SourceRequest],
    profile: ProfileName = ProfileName.UNIVERSAL,
    quality: Quality = Quality.AUTO,
    output_dir: Path = Path("media"),
    until: StageName = "publish",
    refresh: bool = False,
) -> State[list[Outcome]]:
    """Ingest several sources, one after the other.

    Args:
        sources: What to ingest.
        profile: Where the results must play.
        quality: The rung that is asked for.
        output_dir: The folder, on the worker, that gets a folder for each source; relative to TIDEGATE_HOME.
        until: The last stage to run.
        refresh: Ignore every checkpoint.

    Returns:
        Completed when all did, else Failed; the outcomes, in the order of the sources, as its data.
    """
    outcomes: list[Outcome] = []
    request = {
        "sources": [source.model_dump(exclude_none=True) for source in sources],
        "profile": profile.value,
        "quality": quality.value,
        "output_dir": str(output_dir),
        "until": until,
    }
    begins = beginning("batch", f"{len(sources)} sources", request)
    observe = run_observer()
    async with opened_ledger(Settings.load(), observe) as ledger, leased(ledger, begins, observe):
        for source in sources:
            ended = await _ended(ingest(source, profile, quality, output_dir, until, refresh, return_state=True))
            outcomes.append(ended if isinstance(ended, Outcome) else failed_before_it_began(source, ended))
    failed = sum(outcome.status != "completed" for outcome in outcomes)
    if failed:
        return Failed(message=f"{failed} of {len(outcomes)} sources failed", data=outcomes)
    return Completed(message=f"{len(outcomes)} sources done", data=outcomes)


async def _ended(source: Awaitable[State[Any]]) -> object:
    """What one source came to; also where its run was cancelled or deleted in the UI. The others go on."""
    try:
        state = await source
        return await state.aresult(raise_on_failure=False)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is this source's
        return error

"""The way of one file: probe → download → remux or transcode → analyze → publish.

Called by `python -m flows.run`, by deployments and by `flows/batch.py`. Always ends: with a published folder, or with
a Failed state that carries a failure report. After a crash the same call finds the checkpoints of the stages that had
completed and goes on inside the one that had not.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from anyio import to_thread
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.attempts import attempt_of_run, repeatable_request
from flows.ending import failure_before_start, flow_run_id, run_attempt
from flows.ingest_run import IngestRun
from flows.open_breaker import batch_will_retry, reschedule_run, will_be_retried
from flows.port import hold
from flows.request import SourceRequest, command_for, require_output
from flows.roots import roots_of
from flows.stored import order_of, settings_of, source_in
from tasks.observe import run_observer
from tidegate.events import RunEnded, RunStarted
from tidegate.model import NO_WISH, Order, Outcome, ProfileName, Quality, StageName, Wish
from tidegate.redact import redact_url
from tidegate.stages import Workbench


async def take_stages(run: IngestRun) -> None:
    """All stages of a run in their order, or those up to the last one that was asked for."""
    await run.identify()
    probed = await run.probe()
    if run.is_until("probe"):
        return

    aim = run.choose_aim(probed)
    downloaded = await run.download(probed, aim)
    if run.is_until("download"):
        return

    media = await run.remux(downloaded, aim)
    if run.is_until("remux"):
        return

    analysis = await run.analyze(media)
    if run.is_until("analyze"):
        return

    await run.publish(media, analysis)


def _run_name() -> str:
    request = cast("SourceRequest | dict[str, str]", flow_run.parameters["source"])
    source = request if isinstance(request, dict) else request.model_dump()
    return f"ingest {redact_url(source.get('url') or '') or source.get('block')}"


@flow(name="ingest", flow_run_name=_run_name, persist_result=False)
async def ingest(
    source: SourceRequest,
    profile: ProfileName = ProfileName.UNIVERSAL,
    quality: Quality = Quality.AUTO,
    output_dir: Path = Path("media"),
    until: StageName = "publish",
    refresh: bool = False,
    wish: Wish = NO_WISH,
    profile_block: str | None = None,
    store_block: str | None = None,
    toolchain_block: str | None = None,
) -> State[Outcome]:
    """Ingest one source.

    Args:
        source: What to ingest.
        profile: Where the result must play.
        quality: The rung that is asked for.
        output_dir: The folder, on the worker, that gets a folder for this source; relative to TIDEGATE_OUTPUT.
        until: The last stage to run.
        refresh: Ignore every checkpoint.
        wish: What else is asked of the download: gaps that are allowed, how much of a live source.
        profile_block: Name of a Media Profile block, in place of profile and quality.
        store_block: Name of a Media Store block, in place of the worker's settings.
        toolchain_block: Name of a Media Toolchain block, in place of the worker's settings.

    Returns:
        Completed or Failed, with the `Outcome` as its data.

    Raises:
        Abort: somebody else speaks for this run now, or it was scheduled for later because requests to its
            source are paused.
    """
    hold()
    observe, started_at = run_observer(), datetime.now(UTC)
    observe(RunStarted(source.shown))
    try:
        order = await order_of(profile_block, Order(profile=profile, quality=quality))
        settings = await settings_of(store_block, toolchain_block)
        bench = Workbench(settings, observe, roots=await to_thread.run_sync(roots_of, settings))
        engine_source = await source_in(source, bench)
        wanted = bench.home.outputs(output_dir, settings.store.output)
        folder = require_output(wanted, bench.home, bench.require_publishable)
        run = IngestRun(
            bench,
            engine_source,
            Outcome(
                status="completed",
                source=source.shown,
                profile=order.profile,
                quality=order.quality,
                flow_run_id=flow_run_id(),
                started_at=started_at,
                command=command_for(source, order, folder, until, wish),
            ),
            folder,
            until=until,
            refresh=refresh,
            wish=_with_occasion(wish),
        )
    except Exception as error:  # noqa: BLE001  # whatever it is, the run ends with a report
        outcome = failure_before_start(source, error)
    else:
        parameters = source.model_dump(exclude_none=True)
        request = repeatable_request(order.profile, order.quality, output_dir, until, run.wish, source=parameters)
        outcome = await run_attempt(run, attempt_of_run("ingest", source.shown, request), take_stages)
    if will_be_retried(outcome) and batch_will_retry.get() is None:
        await reschedule_run(outcome)
    if not will_be_retried(outcome):
        observe(RunEnded(outcome))
    return _state_of(outcome)


def _with_occasion(wish: Wish) -> Wish:
    """A recording is told from the next one of the same source by its flow run; recovery and `--resume` keep it."""
    if wish.duration_seconds is None or wish.occasion is not None:
        return wish
    return wish.model_copy(update={"occasion": flow_run_id()})


def _state_of(outcome: Outcome) -> State[Outcome]:
    failure = outcome.failure
    if failure is None:
        return Completed(message=_summary(outcome), data=outcome)
    to_do = f" To do: {failure.suggested_actions[0]}." if failure.suggested_actions else ""
    return Failed(message=f"{failure.type}: {failure.message} ({failure.reference}).{to_do}", data=outcome)


def _summary(outcome: Outcome) -> str:
    return f"Published in {outcome.published.folder}" if outcome.published else f"Done up to {list(outcome.stages)[-1]}"

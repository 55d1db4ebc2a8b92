"""Task `probe`: what a source is and offers. Its checkpoint belongs to the source's identity."""

from __future__ import annotations

from datetime import UTC, datetime

from tasks.policies import Stage, stage_task
from tidegate import stages
from tidegate.model import Identity, ProbeResult, Source
from tidegate.resilience.deadline import outer_seconds
from tidegate.stages.probe import RECIPE
from tidegate.stages.workbench import Workbench

CHILDREN = 3
"""How many probe children one probe may start, one after the other."""


@stage_task("probe")
async def probe(
    bench: Workbench, source: Source, identity: Identity, key: str, resolver: str | None = None
) -> ProbeResult:
    """Ask what the source is and offers."""
    return await stages.probe(bench, source, identity, key, resolver)


def stage(bench: Workbench, identity: Identity, resolver: str | None = None) -> Stage[ProbeResult]:
    """The stage; `resolver` names one, in place of the first that fits."""
    limits = bench.settings
    inner = CHILDREN * limits.process.probe_timeout.total_seconds() + limits.transfer.deadline.total_seconds()
    return Stage(
        name="probe",
        task=probe,
        recipe=RECIPE,
        inputs=(identity.key, *([resolver] if resolver else [])),
        result=ProbeResult,
        whole=lambda result: is_trusted(bench, result.identity, result.recorded_at, datetime.now(UTC)),
        timeout_seconds=outer_seconds(inner),
    )


def is_trusted(bench: Workbench, identity: Identity, recorded_at: datetime, now: datetime) -> bool:
    """Whether a record may stand for this source: for ever with a validator, for a day without (DESIGN §2.2)."""
    return identity.has_validator or now - recorded_at <= bench.settings.store.unvalidated_trust

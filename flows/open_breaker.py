"""A source that is given a rest: its breaker is open, and asking it again would only make it worse (DESIGN §4).

A run by hand waits for it, a deployed one is scheduled for later, a batch comes back to it. `flows/ingest.py`,
`flows/ingest_run.py` and `flows/batch.py` ask here. A crash while waiting changes nothing: the breaker's state is in
the ledger.
"""

from __future__ import annotations

from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import Abort
from prefect.runtime import deployment
from prefect.states import AwaitingRetry

from tidegate.errors import policy_by_name
from tidegate.model import Outcome

batch_will_retry: ContextVar[bool | None] = ContextVar("batch_will_retry", default=None)
"""Whether the batch that this source is part of will come back to it; None: it is part of none."""

REST_SECONDS = 300.0
"""How long a run by hand waits for a source that is given a rest (DESIGN §4)."""
LEAST_REST_SECONDS = 5.0
"""How soon a deployed run may come again: its process has to be gone before the next one begins."""


def patience_seconds() -> float:
    """How long the current run may wait: one by hand, for itself alone."""
    return REST_SECONDS if batch_will_retry.get() is None and not deployment.id else 0.0


def rest_of(outcome: Outcome) -> float | None:
    """Seconds that the source is given a rest; None where that is not what ended it, or only a person can end it."""
    failure = outcome.failure
    waits = failure is not None and policy_by_name(failure.type).waits_for_breaker
    return failure.retry_after_seconds if failure is not None and waits else None


def will_be_retried(outcome: Outcome) -> bool:
    """Whether this is not the end of it: the batch comes back to the source, or Prefect starts the run again."""
    part = batch_will_retry.get()
    again = part if part is not None else deployment.id is not None
    return again and rest_of(outcome) is not None


async def reschedule_run(outcome: Outcome) -> None:
    """Give the place back; Prefect starts this deployed run again when the rest is over.

    Raises:
        Abort: always. A flow that returns a state which is not final counts as crashed.
    """
    assert outcome.failure is not None and outcome.flow_run_id is not None  # noqa: S101
    rest = timedelta(seconds=max(LEAST_REST_SECONDS, rest_of(outcome) or 0.0))
    later: State[Any] = AwaitingRetry(scheduled_time=datetime.now(UTC) + rest, message=outcome.failure.message)
    async with get_client() as client:
        await client.set_flow_run_state(UUID(outcome.flow_run_id), later, force=True)
    raise Abort(outcome.failure.message)

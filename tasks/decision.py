"""Why a file was made as it was, shown in the Prefect UI as a Markdown artifact.

`flows/ingest_run.py` shows it once a file was made; one that comes from its checkpoint was shown before. A server that
does not take it costs the run nothing.
"""

from __future__ import annotations

import logging

import anyio
from prefect.artifacts import acreate_markdown_artifact

from tidegate.model import Outcome, RemuxResult
from tidegate.report.markdown import decision_markdown, plain

PATIENCE_SECONDS = 3.0
"""How long a server that is away may hold up the run; Prefect's client would try for minutes."""
KEY = "decision"
"""Artifacts of this key are versions of one another in the UI; each belongs to its own flow run."""

_logger = logging.getLogger(__name__)


async def show_decision(outcome: Outcome, media: RemuxResult) -> None:
    """Show it in the flow run that is current."""
    try:
        text = decision_markdown(outcome, media)
        with anyio.move_on_after(PATIENCE_SECONDS):
            await acreate_markdown_artifact(
                text, key=KEY, description=f"{media.decision.strategy} of {plain(outcome.source)}"
            )
    except Exception:  # a picture for people: the work does not depend on it
        _logger.debug("The decision could not be shown", exc_info=True)

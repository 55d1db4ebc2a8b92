"""Runs that fail before they start end with a report all the same."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.clips import clip
from tidegate.model import Outcome

pytestmark = pytest.mark.usefixtures("attached")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def ingested(source: Path, **options: Any) -> tuple[Any, Outcome]:
    """The state that the flow ended in, and what it holds."""
    from flows.ingest import ingest
    from flows.request import SourceRequest

    async def run() -> tuple[Any, Outcome]:
        state: Any = await ingest(SourceRequest(url=str(source)), return_state=True, **options)
        return state, await state.aresult(raise_on_failure=False)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"store_block": "no-such-block"}, "media-store/no-such-block"),
        ({"toolchain_block": "no-such-block"}, "media-toolchain/no-such-block"),
        ({"output_dir": Path("/proc/no/such/folder")}, "/proc/no/such/folder"),
    ],
    ids=["a store block that does not exist", "a toolchain block that does not exist", "an output that is unwritable"],
)
def test_a_run_that_cannot_begin_is_failed_and_says_why(
    options: dict[str, Any], says: str, home: Path, clips: Path
) -> None:
    state, outcome = ingested(clip(clips), **options)
    assert state.is_failed()
    assert outcome.failure is not None and outcome.failure.type == "bad_input"
    assert says in outcome.failure.message and outcome.failure.suggested_actions
    assert outcome.failure.reference in state.message, "a person who sees only the UI finds the report by it"
    assert (outcome.status, outcome.stages) == ("failed", {})
    assert not (home / "assets").exists() and not (home / "scratch").exists()

"""What somebody does to a run in the UI while it works: the others go on, and the command says how it ended."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.aftermath import end_of, failure_told, left_running, wait_in, witness, works
from tests.support.clips import clip
from tests.support.command import Command
from tidegate.events import Event, StageStarted

pytestmark = pytest.mark.ci


def asked(api: str, path: str, content: Any = None, method: str = "POST") -> Any:
    """What the server's API answers."""
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(f"{api}/{path}", body, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read() or b"null")


def cancel(api: str, run: str) -> None:
    """As the button does: the run itself is to say that it has ended, and may then only say Cancelled."""
    asked(api, f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}, "force": True})


def delete(api: str, run: str) -> None:
    asked(api, f"flow_runs/{run}", method="DELETE")


@dataclass
class Operator:
    """Does something to the first run that begins a stage."""

    api: str
    act: Callable[[str, str], None]
    run: str | None = None

    def __call__(self, event: Event) -> None:
        from prefect.context import FlowRunContext

        context = FlowRunContext.get()
        if self.run is None and isinstance(event, StageStarted) and context and context.flow_run:
            self.run = str(context.flow_run.id)
            self.act(self.api, self.run)


@pytest.mark.parametrize("act", [cancel, delete])
def test_a_source_of_several_whose_run_somebody_cancels_or_deletes_holds_up_no_other(
    act: Callable[[str, str], None],
    attached: None,
    clips: Path,
    tmp_path: Path,
    prefect_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flows.batch import batch
    from flows.request import SourceRequest
    from tasks.observe import listen

    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    sources = [SourceRequest(url=str(clip(clips))), SourceRequest(url=str(clip(clips, seconds=3)))]

    async def run() -> tuple[Any, Any]:
        state: Any = await batch(sources, until="download", output_dir=tmp_path / "out", return_state=True)
        return state, await state.aresult(raise_on_failure=False)

    with listen(operator := Operator(prefect_server, act)):
        state, outcomes = asyncio.run(run())
    assert operator.run is not None
    assert state.is_failed() and "1 of 2" in state.message
    assert [outcome.status for outcome in outcomes] == ["failed", "completed"]
    assert outcomes[0].source.endswith(clip(clips).name)
    assert outcomes[0].failure.message and outcomes[0].failure.suggested_actions


@pytest.mark.parametrize("act", [cancel, pytest.param(delete, marks=pytest.mark.slow)])
def test_a_command_whose_run_somebody_cancels_or_deletes_says_so_without_a_traceback(
    act: Callable[[str, str], None], command: Command, clips: Path, tmp_path: Path, prefect_server: str
) -> None:
    ffmpeg = witness(tmp_path, options="-re")
    command.environment["TIDEGATE_TOOLS_FFMPEG"] = str(ffmpeg)
    film = tmp_path / f"{act.__name__}-{command.mark}.mp4"
    film.symlink_to(clip(clips))
    with command.started(str(film)) as process:
        wait_in(process, lambda: works(ffmpeg))
        (run,) = asked(prefect_server, "flow_runs/filter", {"flow_runs": {"name": {"like_": film.name}}})
        act(prefect_server, run["id"])
        ended = end_of(process)
    assert failure_told(ended, code=1, kind="unknown")["suggested_actions"]
    assert left_running(command) == []

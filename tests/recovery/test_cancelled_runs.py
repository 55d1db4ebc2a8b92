"""A run that somebody cancels in the UI, where it is deployed: its tools are gone within 12 s, and its work is kept."""

from __future__ import annotations

import time

import pytest

from tests.support.command import wait_until
from tests.support.disaster import (
    DETACHED,
    Fresh,
    Triggered,
    Undisturbed,
    is_slow_now,
    processes_of,
    slow_once,
    triggered,
)
from tests.support.site import Site
from tidegate.durable.ledger import AttemptState

DEAF = f"{DETACHED}\ntrap '' TERM INT HUP\nsleep 600"
"""The tool itself hears nothing, and it has a deaf child in a session of its own."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def tools_of(run: Triggered) -> list[str]:
    """What lives of the run beside its flow process."""
    return [line for line in processes_of(run) if "sleep 600" in line or "ffmpeg" in line]


@pytest.mark.parametrize("before", ["", DEAF], ids=["polite", "deaf"])
def test_a_cancelled_run_ends_its_tools_in_time_and_leaves_what_the_next_goes_on_from(
    before: str, site: Site, fresh: Fresh, straight: Undisturbed, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tool = slow_once(tmp_path_factory.mktemp("tool"), before)
    film = fresh("transcoded")
    run = triggered(site, "cancelled", str(film), {"TIDEGATE_TOOLS_FFMPEG": str(tool)})
    wait_until(lambda: is_slow_now(tool) and tools_of(run), seconds=90)
    cancelled_at = time.monotonic()
    site.set_state(run.id, "CANCELLING", force=False)
    wait_until(lambda: not tools_of(run), seconds=120, what=f"for {tools_of(run)}")
    print(f"tools gone {time.monotonic() - cancelled_at:.1f} s after the cancellation")
    run.wait("CANCELLED", seconds=60)
    assert processes_of(run) == []
    assert run.folders() == []
    assert run.errors() == [], "somebody wanted it so"
    assert [one.state for one in run.attempts()] in ([AttemptState.CANCELLED], [AttemptState.INTERRUPTED])

    again = triggered(site, "again", str(film))
    again.wait("COMPLETED")
    assert "download" not in again.made(), "from the checkpoint of the run that was cancelled"
    assert again.media() == straight.media("transcoded")

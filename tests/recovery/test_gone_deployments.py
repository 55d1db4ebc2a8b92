"""What a run needs to run again is deleted or paused under it: recovery says so, and nothing is tried for ever."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flows import access
from flows.site import POOL
from tests.support.command import wait_until
from tests.support.disaster import (
    Fresh,
    Triggered,
    is_slow_now,
    processes_of,
    recover_here,
    recoveries_of,
    slow_once,
    triggered,
    without_automation,
)
from tests.support.site import Site, asked, started_site
from tidegate.durable.ledger import AttemptState
from tidegate.durable.ledger.decide import Do


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One of its own: the others need theirs whole."""
    with started_site(tmp_path_factory.mktemp("gone"), {"TIDEGATE_RECOVERY_SETTLE": "3"}) as site:
        without_automation(site)
        yield site


def ask(site: Site, method: str, path: str, **what: Any) -> None:
    asked(method, f"{site.api_url}/{path}", access.login_of(site.tidegate), **what)


def delete_deployment(site: Site) -> None:
    ask(site, "DELETE", f"deployments/{site.get('deployments/name/ingest/ingest')['id']}")


def delete_pool(site: Site) -> None:
    ask(site, "DELETE", f"work_pools/{POOL}")


@contextmanager
def killed(site: Site, fresh: Fresh, folder: Path, deed: Callable[[Site], None]) -> Iterator[Triggered]:
    """A run at work, the deed, and the run's process is gone."""
    tool = slow_once(folder)
    run = triggered(site, "killed", str(fresh("transcoded")), {"TIDEGATE_TOOLS_FFMPEG": str(tool)})
    wait_until(lambda: is_slow_now(tool), seconds=90)
    deed(site)
    run.kill()
    wait_until(lambda: not processes_of(run), seconds=120)
    yield run


@pytest.mark.parametrize(
    ("deed", "says"),
    [
        pytest.param(delete_deployment, "its deployment was deleted", id="deployment"),
        pytest.param(delete_pool, "its work pool or queue was deleted", id="pool", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_no_worker_would_take_again_is_parked_once_and_says_why(
    deed: Callable[[Site], None], says: str, site: Site, fresh: Fresh, tmp_path: Path
) -> None:
    try:
        with killed(site, fresh, tmp_path, deed) as run:
            told = recover_here(site)[run.id]
            assert (told.do, told.error) == (Do.PARK, "") and says in told.why
            state = site.state(run.id)
            assert (state["type"], state["name"]) == ("FAILED", "Parked") and says in state["message"]
            assert "AwaitingRecovery" not in site.states(run.id)
            [attempt] = run.attempts()
            assert attempt.state is AttemptState.ABANDONED
            [report] = run.output.glob("*/report.json")
            assert says in json.loads(report.read_text())["failure"]["message"]
            assert run.id not in recover_here(site), "a person's matter now"
    finally:
        site.register()
        site.pause("recover", "maintain")
        site.kill_worker(signal.SIGTERM)
        site.start_worker()


@pytest.mark.slow
def test_a_run_of_a_deleted_deployment_ends_and_can_be_cancelled_as_any_other(
    site: Site, fresh: Fresh, tmp_path: Path
) -> None:
    tools = [slow_once(tmp_path / name, slowly="-re") for name in ("ends", "cancelled")]
    try:
        ends, cancelled = (
            triggered(site, "alive", str(fresh("transcoded")), {"TIDEGATE_TOOLS_FFMPEG": str(tool)}) for tool in tools
        )
        wait_until(lambda: all(is_slow_now(tool) for tool in tools), seconds=120)
        delete_deployment(site)
        site.set_state(cancelled.id, "CANCELLING", force=False)
        cancelled.wait("CANCELLED", seconds=60)
        assert cancelled.errors() == []
        ends.wait("COMPLETED", seconds=180)
        assert len(ends.folders()) == 1
    finally:
        site.register()
        site.pause("recover", "maintain")


@pytest.mark.slow
def test_a_run_whose_work_pool_is_paused_is_scheduled_and_says_what_it_waits_for(
    site: Site, fresh: Fresh, tmp_path: Path
) -> None:
    def pause(site: Site) -> None:
        ask(site, "PATCH", f"work_pools/{POOL}", json={"is_paused": True})

    with killed(site, fresh, tmp_path, pause) as run:
        told = recover_here(site)[run.id]
        assert told.do is Do.RESCHEDULE and f"when the work pool {POOL} is resumed" in told.why
        assert site.states(run.id)[-1] == "AwaitingRecovery"
        ask(site, "PATCH", f"work_pools/{POOL}", json={"is_paused": False})
        run.wait("COMPLETED")


def test_a_run_that_is_deleted_is_closed(site: Site, fresh: Fresh, tmp_path: Path) -> None:
    with killed(site, fresh, tmp_path, lambda _: None) as run:
        run.wait("CRASHED", "RUNNING")
        run.wait_for_last_word()
        ask(site, "DELETE", f"flow_runs/{run.id}")
        [told] = [one for one in recover_here(site).values() if one.why == "Prefect knows no such run"]
        assert told.do is Do.CLOSE
        assert [one.state for one in run.attempts()] == [AttemptState.ABANDONED]
        assert recoveries_of(run) is None


@pytest.mark.slow
def test_a_run_that_is_deleted_at_work_takes_neither_its_worker_nor_another_run_along(
    site: Site, fresh: Fresh, tmp_path: Path
) -> None:
    tool = slow_once(tmp_path)
    run = triggered(site, "deleted", str(fresh("transcoded")), {"TIDEGATE_TOOLS_FFMPEG": str(tool)})
    wait_until(lambda: is_slow_now(tool), seconds=90)
    ask(site, "DELETE", f"flow_runs/{run.id}")
    other = triggered(site, "other", str(fresh("copied")))
    other.wait("COMPLETED")
    run.wait_for(lambda one: one.state is not AttemptState.RUNNING, seconds=180)
    wait_until(lambda: not processes_of(run), seconds=60)
    assert site.worker is not None and site.worker.poll() is None


@pytest.mark.slow
def test_what_prefect_does_not_take_is_not_called_done(fresh: Fresh, tmp_path: Path) -> None:
    """A server with Prefect's own storage of leases answers 500 to every state of a run whose deployment is gone."""
    storage = {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem"}
    with started_site(tmp_path, {"TIDEGATE_RECOVERY_SETTLE": "3", **storage}) as site:
        without_automation(site)
        with killed(site, fresh, tmp_path / "tool", delete_deployment) as run:
            told = recover_here(site)[run.id]
            assert told.do is Do.REFUSED and "its deployment was deleted" in told.why
            assert "500" in told.error and "http" not in told.error
            assert run.state == "RUNNING", "as Prefect has it still"
            kept = recoveries_of(run)
            assert kept is not None and kept.parked_at is not None and not kept.scheduled

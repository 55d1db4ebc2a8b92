"""Deployed runs under a real process worker: deployed from prefect.yaml, triggered with parameters, published."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.site import AUTOMATION
from tests.support.clips import clip
from tests.support.leaks import children
from tests.support.site import Site, started_site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with started_site(tmp_path_factory.mktemp("deployed")) as site:
        yield site


def test_a_triggered_run_publishes_and_a_bad_one_fails_with_its_type(site: Site, clips: Path) -> None:
    good = site.trigger("ingest", {"source": {"url": str(clip(clips))}, "output_dir": str(site.output)})
    bad = site.trigger("ingest", {"source": {"url": "gopher://host/file"}, "output_dir": str(site.output)})

    assert site.wait(good)["type"] == "COMPLETED"
    [folder] = [path for path in site.output.iterdir() if path.is_dir()]
    assert (folder / "report.html").exists()
    assert site.wait(bad)["type"] == "FAILED"
    assert site.state(bad)["message"].startswith("unsupported_source: ")
    assert not [process for process in children(site.mark) if "ffmpeg" in process.name()]


def test_a_flow_reads_its_source_from_a_registered_block(site: Site, clips: Path) -> None:
    save = (
        "from blocks import *;"
        f"MediaSource(url={str(clip(clips).as_uri())!r}).save('clip', overwrite=True);"
        "MediaProfile(profile='original', quality='best').save('keep', overwrite=True)"
    )
    known = {kind["name"] for kind in site.post("block_types/filter")}
    assert {"Media Source", "Media Store", "Media Toolchain", "Media Profile"} <= known
    subprocess.run([sys.executable, "-c", save], env=site.env(), check=True, timeout=60)
    parameters = {"source": {"block": "clip"}, "profile_block": "keep", "output_dir": str(site.output)}
    assert site.wait(site.trigger("ingest", parameters))["type"] == "COMPLETED"


@pytest.mark.parametrize("flow", ["recover", "maintain"])
def test_upkeep_can_be_asked_for_and_says_what_it_would_do(flow: str, site: Site) -> None:
    assert site.wait(site.trigger(flow, {"dry_run": True}))["type"] == "COMPLETED"


@pytest.mark.slow
def test_a_run_outlives_its_worker(site: Site, clips: Path) -> None:
    """Into the pipe of a worker that is gone, the run's next log line would end it."""
    run = site.trigger("ingest", {"source": {"url": str(clip(clips))}, "output_dir": str(site.output), "refresh": True})
    site.process_of(run)
    site.kill_worker(signal.SIGKILL)
    try:
        assert site.wait(run)["type"] == "COMPLETED"
    finally:
        site.start_worker()


def switched(site: Site) -> dict[str, Any]:
    """What is on and off, by name."""
    deployments = site.post("deployments/filter")
    return {
        **{one["name"]: one["paused"] for one in deployments},
        **{schedule["slug"]: schedule["active"] for one in deployments for schedule in one["schedules"]},
        **{one["id"]: (one["name"], one["enabled"]) for one in site.post("automations/filter")},
    }


def test_telling_the_server_again_changes_nothing_and_leaves_off_what_a_person_has_switched_off(site: Site) -> None:
    [automation] = site.post("automations/filter")
    site.patch(f"automations/{automation['id']}", {"enabled": False})
    recover = site.get("deployments/name/recover/recover")
    site.patch(f"deployments/{recover['id']}/schedules/{recover['schedules'][0]['id']}", {"active": False})
    before = switched(site)

    site.register()

    assert switched(site) == before
    assert before == before | {"recover": True, "every-2-minutes": False, "every-15-minutes": True, "ingest": False}
    assert before[automation["id"]] == (AUTOMATION, False)

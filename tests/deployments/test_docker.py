"""A run in a container: the docker pool of prefect.yaml, a real engine, a real worker; docs/deploy.md has the image.

The containers have no network at all: they come to the server by the door in the home.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments import parts
from deployments.door import door_of
from flows.site import DOCKER_POOL
from tests.support.clips import clip
from tests.support.command import wait_until
from tests.support.disaster import attempts_of, recover_here
from tests.support.site import Site, started_site

IMAGE = "tidegate:latest"
USER = 10001
"""The image's user; it owns the home that the containers share."""
SHORT = {"TIDEGATE_LEDGER_RENEW_EVERY": "1", "TIDEGATE_LEDGER_GIVE_UP": "8", "TIDEGATE_LEDGER_LEASE": "10"}


def missing() -> str | None:
    """What there is not."""
    if shutil.which("docker") is None:
        return "no docker command"
    if subprocess.run(["docker", "info"], capture_output=True, timeout=20).returncode:
        return "no Docker engine answers"
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, timeout=20).returncode:
        return f"no image {IMAGE}"
    return None if os.geteuid() == 0 else "only root can give the home to the image's user"


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def home_of(site: Site) -> Path:
    return site.home / "tidegate"


def output_of(site: Site) -> Path:
    return site.home / "tidegate-output"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    if reason := missing():
        pytest.skip(reason)
    with started_site(tmp_path, {"TIDEGATE_CONTAINER_USER": f"{USER}:{USER}"}, worker=False) as site:
        door = parts.start_door(home_of(site), site.api_url, site.home / "door.log")
        wait_until(door_of(home_of(site)).is_socket, seconds=30)
        attempts_of(site)  # makes the ledger, which root would make for itself later
        for path in (home_of(site), *home_of(site).rglob("*"), output_of(site)):
            os.chown(path, USER, USER)
        argv = [sys.executable, "-m", "prefect", "--no-prompt", "worker", "start", "--pool", DOCKER_POOL]
        with (site.home / "docker-worker.log").open("wb") as log:
            worker = subprocess.Popen(
                argv, env=site.env() | {"PREFECT_WORKER_QUERY_SECONDS": "1"}, stdout=log, stderr=log
            )
        try:
            yield site
        finally:
            worker.terminate()
            worker.wait(40)
            door.terminate()
            door.wait(10)


def triggered(site: Site, media: Path) -> str:
    volumes = [
        f"{media.parent}:/media:ro",
        f"{home_of(site)}:/var/lib/tidegate",
        f"{output_of(site)}:/var/lib/tidegate-output",
    ]
    return site.trigger(
        "ingest",
        {"source": {"url": f"/media/{media.name}"}, "output_dir": "published"},
        {"volumes": volumes, "network_mode": "none", "env": SHORT | {"TIDEGATE_ROOTS": "/media"}},
        deployment="ingest-docker",
    )


def container_of(site: Site, run: str) -> dict[str, Any]:
    """What the engine says about the container of that run, once it is there."""
    names: list[str] = []

    def there() -> bool:
        names[:] = docker("ps", "--quiet", "--filter", f"label=io.prefect.flow-run-id={run}").split()
        return bool(names)

    wait_until(there, seconds=60, what=f"for the container, see {site.home}/docker-worker.log")
    [told] = json.loads(docker("inspect", names[0]))
    return dict(told)


def test_a_run_in_a_container_has_no_rights_and_no_network_and_publishes_for_others(site: Site, clips: Path) -> None:
    run = triggered(site, clip(clips))
    told = container_of(site, run)

    assert site.wait(run, seconds=200)["type"] == "COMPLETED"
    host = told["HostConfig"]
    assert told["Config"]["User"] == f"{USER}:{USER}"
    assert (host["NetworkMode"], host["CapDrop"], host["ReadonlyRootfs"]) == ("none", ["ALL"], True)
    assert host["SecurityOpt"] == ["no-new-privileges:true"] and host["PidsLimit"] == 512
    assert not host["Privileged"]
    [folder] = (output_of(site) / "published").iterdir()
    assert (folder / "report.html").exists()
    assert (folder.stat().st_uid, folder.stat().st_mode & 0o777) == (USER, 0o755)
    assert home_of(site).stat().st_mode & 0o077 == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_whose_container_is_killed_goes_on_in_another_one(site: Site, clips: Path) -> None:
    """Its process table is not ours: nobody can see that it is gone, so its lease has to run out."""
    run = triggered(site, clip(clips))
    first = container_of(site, run)["Id"]
    wait_until(lambda: any(one.flow_run == run for one in attempts_of(site)), seconds=120)
    docker("kill", first)

    wait_until(lambda: run in recover_here(site, SHORT), seconds=90)

    assert site.wait(run, {"COMPLETED"}, seconds=200)["type"] == "COMPLETED"
    assert site.run(run)["run_count"] == 2
    assert len(list((output_of(site) / "published").iterdir())) == 1

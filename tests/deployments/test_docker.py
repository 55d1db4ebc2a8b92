"""A run in a container: the docker pool of prefect.yaml, a real engine, a real worker; docs/deploy.md has the image."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.site import DOCKER_POOL
from tests.support.clips import clip
from tests.support.site import Site, started_site

IMAGE = "tidegate:latest"


def missing() -> str | None:
    """What there is not."""
    if shutil.which("docker") is None:
        return "no docker command"
    if subprocess.run(["docker", "info"], capture_output=True, timeout=20).returncode:
        return "no Docker engine answers"
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, timeout=20).returncode:
        return f"no image {IMAGE}"
    return None


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    if reason := missing():
        pytest.skip(reason)
    with started_site(tmp_path, worker=False) as site:
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


def test_a_run_in_a_container_publishes_into_the_mounted_folder(site: Site, clips: Path, tmp_path: Path) -> None:
    media, kept = clip(clips), tmp_path / "kept"
    kept.mkdir()
    volumes = [f"{media.parent}:/media:ro", f"{kept}:/var/lib/tidegate"]

    run = site.trigger(
        "ingest",
        {"source": {"url": f"/media/{media.name}"}, "output_dir": "published"},
        {"volumes": volumes, "env": {"TIDEGATE_ROOTS": "/media"}},
        deployment="ingest-docker",
    )

    assert site.wait(run, seconds=200)["type"] == "COMPLETED"
    [folder] = (kept / "published").iterdir()
    assert (folder / "report.html").exists()

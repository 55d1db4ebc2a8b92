"""The ingest deployment under a real process worker: deployed by prefect.yaml, triggered with parameters, publishes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.clips import clip
from tests.support.command import ROOT, Command
from tests.support.leaks import children

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


def prefect(command: Command, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *words],
        env=command.env(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def worker(command: Command) -> Iterator[Command]:
    """A process worker on the pool that prefect.yaml names, with the deployments in place."""
    prefect(command, "work-pool", "create", "tidegate", "--type", "process", "--overwrite")
    prefect(command, "deploy", "--all")
    log = command.home / "worker.log"
    argv = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "tidegate"]
    environment = command.env() | {"PREFECT_WORKER_QUERY_SECONDS": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(argv, env=environment, cwd=command.home, stdout=output, stderr=output)
    try:
        yield command
    finally:
        process.terminate()
        process.wait(30)


def run_to_its_end(command: Command, parameters: dict[str, Any]) -> dict[str, Any]:
    with httpx.Client(base_url=command.environment["PREFECT_API_URL"] + "/", timeout=10) as api:
        deployment = api.get("deployments/name/ingest/ingest").raise_for_status().json()
        run = api.post(
            f"deployments/{deployment['id']}/create_flow_run",
            json={"parameters": parameters, "state": {"type": "SCHEDULED"}},
        ).raise_for_status()
        address = f"flow_runs/{run.json()['id']}"
        until = time.monotonic() + 120
        while (told := api.get(address).raise_for_status().json())["state"]["type"] not in FINAL:
            assert time.monotonic() < until, told["state"]
            time.sleep(0.5)
        return dict(told)


def test_a_triggered_run_publishes_and_a_bad_one_fails_with_its_type(worker: Command, clips: Path) -> None:
    media = clip(clips)
    parameters = {"source": {"url": str(media)}, "output_dir": str(worker.output)}

    good = run_to_its_end(worker, parameters)
    bad = run_to_its_end(worker, {"source": {"url": "gopher://host/file"}, "output_dir": str(worker.output)})

    assert good["state"]["type"] == "COMPLETED", good["state"]
    [folder] = worker.published()
    assert (folder / "report.html").exists()
    assert bad["state"]["type"] == "FAILED"
    assert bad["state"]["message"].startswith("unsupported_source: ")
    assert not [process for process in children(worker.mark) if "ffmpeg" in process.name()]


def test_blocks_register_and_a_flow_reads_its_source_from_one(worker: Command, clips: Path) -> None:
    registered = prefect(worker, "block", "register", "-m", "blocks")
    for name in ("Media Source", "Media Store", "Media Toolchain", "Media Profile"):
        assert name in registered
    save = (
        "from blocks import *;"
        f"MediaSource(url={str(clip(clips).as_uri())!r}).save('clip', overwrite=True);"
        "MediaProfile(profile='original', quality='best').save('keep', overwrite=True)"
    )
    subprocess.run([sys.executable, "-c", save], env=worker.env(), check=True, timeout=60)

    told = run_to_its_end(
        worker,
        {"source": {"block": "clip"}, "profile_block": "keep", "output_dir": str(worker.output)},
    )

    assert told["state"]["type"] == "COMPLETED", told["state"]

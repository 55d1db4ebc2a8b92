"""Chunks on a real Dask cluster of two worker processes: the same film, and what happens when workers die."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.clips import lavfi, make
from tests.support.command import Command, Ended, wait_until
from tests.support.films import CLOSED, PICTURE, SOUND, Recipe, shown
from tidegate.events import Event, Note
from tidegate.settings import ProcessSettings, Settings, StoreSettings
from tidegate.stages import Workbench

distributed = pytest.importorskip("distributed", reason="the extra `dask` is not installed")
pytest.importorskip("prefect_dask", reason="the extra `dask` is not installed")

from tasks.dask import with_cluster  # noqa: E402  # needs Dask

SECONDS, CHUNK_SECONDS = 20, 4
CHUNKS = 4

Run = Callable[..., Ended]


@pytest.fixture(scope="module")
def source(clips: Path) -> Path:
    recipe = Recipe(".mkv", lavfi(PICTURE, SOUND), (*CLOSED, "-c:a", "libopus"))
    return make(clips, "spread-transcode", recipe, seconds=SECONDS, size="640x480")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two worker processes, each of which makes one chunk at a time."""
    with distributed.LocalCluster(
        n_workers=2, processes=True, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as made:
        yield made
    # multiprocessing's own helper stays with this process, and other tests ask whether anything is left.
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


@pytest.fixture
def cutting(command: Command) -> Command:
    command.environment |= {
        "TIDEGATE_PROCESS_CHUNK_SECONDS": str(CHUNK_SECONDS),
        "TIDEGATE_TOOLS_THREADS": "1",  # x264's bytes depend on it
    }
    return command


def spread_over(command: Command, address: str) -> Command:
    environment = {**command.environment, "TIDEGATE_PROCESS_CHUNK_CLUSTER": address}
    return Command(command.home, command.output, environment, command.mark)


def film_of(ended: Ended) -> Path:
    return Path(ended.document["output"]["path"])


def frames_of(path: Path) -> str:
    """A digest of every decoded picture and every second of sound."""
    words = ["ffmpeg", "-v", "error", "-i", str(path), "-map", "0", "-f", "framemd5", "-"]
    return subprocess.run(words, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout


def encoders(home: Path) -> list[psutil.Process]:
    """Tools that are making something in this home."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or [])
        if "trim=" in words and str(home) in words:
            found.append(process)
    return found


@pytest.mark.slow
def test_a_cluster_makes_the_very_film_that_this_host_makes(
    cutting: Command, cluster: Any, source: Path, tmp_path: Path
) -> None:
    here = cutting.run(str(source))
    assert here.code == 0, here.stderr
    elsewhere = Command(tmp_path / "elsewhere", tmp_path / "out-2", {**cutting.environment}, cutting.mark)
    elsewhere.home.mkdir()
    there = spread_over(elsewhere, cluster.scheduler_address).run(str(source))
    assert there.code == 0, there.stderr
    told = {name: ended.document["output"]["chunks"] for name, ended in (("here", here), ("there", there))}
    assert (told["here"]["executor"], told["there"]["executor"]) == ("local", "dask")
    assert told["here"]["encoded"] == told["there"]["encoded"] == CHUNKS
    assert told["there"]["workers"] == 2
    assert frames_of(film_of(here)) == frames_of(film_of(there))
    assert film_of(here).read_bytes() == film_of(there).read_bytes()


@pytest.mark.slow
def test_a_chunk_whose_worker_is_killed_is_made_by_another_one(cutting: Command, cluster: Any, source: Path) -> None:
    command = spread_over(cutting, cluster.scheduler_address)
    with command.started(str(source)) as process:
        wait_until(lambda: encoders(command.home), seconds=60)
        [encoder, *_] = encoders(command.home)
        worker = encoder.parent()
        assert worker is not None
        os.kill(worker.pid, signal.SIGKILL)
        wait_until(lambda: not encoder.is_running() or encoder.status() == "zombie", seconds=5, what="for its ffmpeg")
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert f'"encoded": {CHUNKS}' in out
    [film] = command.published()[0].glob("*.mp4")
    assert len(shown(film)) == SECONDS * 25


@pytest.mark.slow
def test_an_interrupted_run_takes_its_workers_tools_along_and_goes_on(
    cutting: Command, cluster: Any, source: Path
) -> None:
    command = spread_over(cutting, cluster.scheduler_address)
    with command.started(str(source)) as process:
        wait_until(lambda: encoders(command.home), seconds=60)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130
        assert encoders(command.home) == []
    ended = command.run(str(source))
    assert ended.code == 0, ended.stderr
    chunks = ended.document["output"]["chunks"]
    assert chunks["reused"] + chunks["encoded"] == CHUNKS


@pytest.mark.slow
def test_a_scheduler_that_does_not_answer_is_told_as_such(cutting: Command, source: Path) -> None:
    ended = spread_over(cutting, "tcp://127.0.0.1:9").run(str(source))
    assert ended.code != 0
    assert ended.failure["type"] == "server_unavailable"
    assert "127.0.0.1:9" in ended.failure["message"]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Dask's own settings, as variables, for a client that has a certificate of the cluster's authority."""
    folder = tmp_path_factory.mktemp("certificates")
    made = distributed.security.Security.temporary()
    files = {}
    for name, field in (
        ("CA_FILE", "tls_ca_file"),
        ("CLIENT__CERT", "tls_client_cert"),
        ("CLIENT__KEY", "tls_client_key"),
    ):
        path = folder / f"{field}.pem"
        path.write_text(getattr(made, field))
        files[f"DASK_DISTRIBUTED__COMM__TLS__{name}"] = str(path)
    return files


@pytest.fixture(scope="module")
def closed_cluster(certificates: dict[str, str]) -> Iterator[Any]:
    """Two workers and a scheduler that speak to nobody without a certificate."""
    authority, certificate, key = certificates.values()
    security = distributed.security.Security(
        tls_ca_file=authority,
        **{f"tls_{role}_{what}": path for role in ("client", "scheduler", "worker")
           for what, path in (("cert", certificate), ("key", key))},
        require_encryption=True,
    )  # fmt: skip
    with distributed.LocalCluster(
        n_workers=2, processes=True, threads_per_worker=1, dashboard_address=None, silence_logs=50, security=security,
        protocol="tls://",
    ) as made:  # fmt: skip
        yield made
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_chunks_go_over_tls_to_a_cluster_that_lets_nobody_else_in(
    cutting: Command, closed_cluster: Any, certificates: dict[str, str], source: Path
) -> None:
    address = closed_cluster.scheduler_address
    assert address.startswith("tls://")
    with_certificate = spread_over(cutting, address)
    with_certificate.environment |= certificates

    done = with_certificate.run(str(source))

    assert done.code == 0, done.stderr
    assert done.document["output"]["chunks"]["executor"] == "dask"
    assert "asks nobody who he is" not in done.stderr


def test_a_cluster_that_speaks_tls_wants_a_certificate_and_says_which_settings(cutting: Command, source: Path) -> None:
    refused = spread_over(cutting, "tls://127.0.0.1:9").run(str(source))
    assert refused.code != 0
    assert "DASK_DISTRIBUTED__COMM__TLS__CA_FILE" in refused.failure["message"]


def test_a_cluster_in_a_network_that_asks_nobody_is_said_loudly(tmp_path: Path) -> None:
    """No request: the cluster is asked only once there are chunks."""
    told: list[Event] = []
    for address in ("tcp://192.0.2.7:8786", "tcp://127.0.0.1:8786", "tls://192.0.2.7:8786"):
        settings = Settings(
            process=ProcessSettings(chunk_cluster=address), store=StoreSettings(home=tmp_path / "tidegate")
        )
        with_cluster(Workbench(settings, told.append))
    [note] = told
    assert isinstance(note, Note) and note.level == "warning"
    assert "tcp://192.0.2.7:8786" in note.message and "everybody in its network can run code" in note.message

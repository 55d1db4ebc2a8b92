"""How much of a run is done again after a SIGKILL, as a share of the whole.

A file of 1 GiB from a loopback origin that sends 100 MB/s on one connection, all that is asked for here: with six, each
at that speed, it would be another source. The run is killed once, at a random moment of its download,
and the same command goes on. What the origin sent twice was done again.
"""

from __future__ import annotations

import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.command_start import ROOT, environment, prefect_server
from benchmarks.figures import Figure
from tests.support.clips import bulk_clip
from tests.support.origin import Origin, Resource

FILM_BYTES = 1024**3
KILLS = 5
SEED = 7


def figures() -> Iterator[Figure]:
    rng = random.Random(SEED)
    with tempfile.TemporaryDirectory() as folder, prefect_server(Path(folder)) as api:
        film = bulk_clip(Path(folder), FILM_BYTES)
        shares = [_redone(Path(folder, str(number)), api, film, rng.uniform(0.1, 0.9)) for number in range(KILLS)]
    yield Figure(f"done again after a kill, median of {KILLS} (1 GiB at 100 MB/s)", statistics.median(shares), "%", 2.0)
    yield Figure("the worst of them", max(shares), "%")


def _redone(home: Path, api: str, film: Path, at: float) -> float:
    home.mkdir()
    told = environment(
        home, PREFECT_API_URL=api, TIDEGATE_HOME=str(home / "tidegate"), TIDEGATE_TRANSFER_CONNECTIONS="1"
    )
    with Origin({"film.mp4": Resource(film, story="throttle 100M")}) as origin:
        command = [sys.executable, "-m", "flows.run", origin.url("film.mp4"), "--until", "download", "--json"]
        command += ["--output-dir", str(home / "out")]
        process = subprocess.Popen(command, env=told, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        size = film.stat().st_size
        while origin.bytes_sent("film.mp4") < at * size:
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        subprocess.run(command, env=told, cwd=ROOT, check=True, capture_output=True, timeout=180)
        return 100.0 * (origin.bytes_sent("film.mp4") - size) / size

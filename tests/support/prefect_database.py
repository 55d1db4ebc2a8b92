"""A Prefect database with all of its tables: making one takes a new server longer than the rest of its start.

Tests that start servers of their own lay a copy into the server's home; it is made once and kept beside the clips.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from tests.support.command import ROOT

NAME = "prefect.db"
MAKING_SECONDS = 180


def laid_into(prefect_home: Path) -> None:
    """Where a server finds it that has this folder as `PREFECT_HOME` and no database yet."""
    prefect_home.mkdir(parents=True, exist_ok=True)
    if not (prefect_home / NAME).exists():
        shutil.copyfile(_kept(), prefect_home / NAME)


def _kept() -> Path:
    kept = ROOT / ".cache" / f"prefect-{version('prefect')}.db"
    kept.parent.mkdir(exist_ok=True)
    with kept.with_suffix(".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            _make(kept)
    return kept


def _make(kept: Path) -> None:
    with tempfile.TemporaryDirectory(dir=kept.parent) as home:
        environment = {**os.environ, "PREFECT_HOME": home}
        environment.pop("PREFECT_API_URL", None)
        argv = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
        subprocess.run(argv, env=environment, check=True, capture_output=True, timeout=MAKING_SECONDS)
        (Path(home) / NAME).replace(kept)  # its write-ahead log ended with the last connection

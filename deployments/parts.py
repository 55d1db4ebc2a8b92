"""The processes of a site: a Prefect server, a worker, and the command that registers everything on the server.

`deployments/serve.py` starts and restarts them, tests start them one by one. Each is ended by the kernel when the
process that started it ends, however it ends, so a killed `make serve` leaves nothing that a second one stumbles over.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from flows import safety, server
from flows.site import POOL
from tidegate.durable import private
from tidegate.process.kinship import die_with_parent

REST_SECONDS = 7 * 24 * 3600.0
"""No run takes so long."""


def start_server(listener: socket.socket, log: Path, home: Path) -> subprocess.Popen[bytes]:
    """A Prefect server with its UI, on a socket that outlives it: while it restarts, its clients wait, not fail.

    The UI asks the address that it was opened under, which behind a reverse proxy is not ours.
    """
    return server.launch(listener, log, home, {"PREFECT_SERVER_UI_API_URL": "/api"})


def start_worker(
    api_url: str, log: Path, variables: Mapping[str, str] | None = None, home: Path | None = None
) -> subprocess.Popen[bytes]:
    """A process worker on our pool; the runs that it starts inherit its environment.

    Its temporary folder lies in the home, where one is told: Prefect's worker makes a folder of a fixed name there
    (`runner_storage`), and in /tmp whoever was first has it, another user's worker or an ill-willed one.
    """
    words = ("-m", "prefect", "--no-prompt", "worker", "start", "--pool", POOL, "--type", "process")
    own = {**safety.environment("worker"), **safety.environment("run"), "TIDEGATE_SERVED_FROM": str(Path.cwd())}
    if home is not None and "TMPDIR" not in os.environ:
        own["TMPDIR"] = str(temporary_in(home))
    return _start(words, log, {**own, **_at(api_url, variables)})


def start_registration(api_url: str, log: Path, variables: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Blocks, pools, deployments, automation: `deployments/register.py` as a process, because it imports Prefect."""
    return _start(("-m", "deployments.register"), log, {**safety.do_not_track(), **_at(api_url, variables)})


def start_door(home: Path, api_url: str, log: Path) -> subprocess.Popen[bytes]:
    """The outer half of the door by which containers reach a server on this host's loopback."""
    port = urlsplit(api_url).port
    return _start(("-m", "deployments.door", "outside", str(home), str(port)), log, {})


def temporary_in(home: Path) -> Path:
    """The temporary folder of a worker, without what killed ones have left there long ago."""
    folder = home / "temporary"
    private.make_folder(folder)
    for rest in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - rest.lstat().st_mtime > REST_SECONDS:
                shutil.rmtree(rest) if rest.is_dir() and not rest.is_symlink() else rest.unlink()
    return folder


def runs_of(worker: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The run processes of a worker, with their children."""
    try:
        return psutil.Process(worker.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def end(processes: Iterable[psutil.Process]) -> None:
    """End what is left of them. A run is ended like this by its worker too: recovery knows how to go on from there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()  # psutil looks first whether the number still means the same process


def _at(api_url: str, variables: Mapping[str, str] | None) -> dict[str, str]:
    return {"PREFECT_API_URL": api_url, **(variables or {})}


def _start(words: tuple[str, ...], log: Path, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    private.make_folder(log.parent)
    with open(log, "ab", opener=private.opener) as output:
        return subprocess.Popen(
            [sys.executable, *words],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the one who keeps the site; it ends the parts in their order
            preexec_fn=die_with_parent,
        )

"""A site as others see it: the names of its parts on the server, and the record of a running `make serve`.

`deployments/serve.py` writes the record when it begins and removes it at its end; `flows/server.py` looks for it. A
record that a killed process has left names an owner that is gone, and is believed by nobody.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from tidegate.durable.atomic import write_atomic
from tidegate.durable.owner import Owner, is_provably_gone, this_process
from tidegate.model import Value

POOL = "tidegate"
"""The work pool of type process; prefect.yaml names it."""
DOCKER_POOL = "tidegate-docker"
"""The work pool of type docker; it needs a worker of its own, with a Docker engine."""
UPKEEP_INTERVALS = {"recover": timedelta(minutes=2), "maintain": timedelta(minutes=15)}
"""The flows that look after the others, and how often prefect.yaml schedules their deployments: a test compares."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
AUTOMATION = "tidegate: a run without heartbeats has crashed"


class Site(Value):
    """A server that `make serve` keeps."""

    api_url: str
    owner: Owner
    ours: bool = False
    """Whether `make serve` has started it; else it found one, and our password is not for that."""


def path_in(home: Path) -> Path:
    return home / "server.json"


def record(home: Path, api_url: str, *, ours: bool = False) -> None:
    """Tell every command of this home where the server is."""
    site = Site(api_url=api_url, owner=this_process(), ours=ours)
    write_atomic(path_in(home), site.model_dump_json(indent=2).encode() + b"\n")


def read(home: Path) -> Site | None:
    """The site of a living owner. Whether its server answers is another question.

    Of one on another host, whose home we share, only an address that means the same here is believed: on this host's
    loopback somebody else's program may listen, and would be told our password.
    """
    try:
        site = Site.model_validate_json(path_in(home).read_bytes())
    except (OSError, ValueError):
        return None
    here = this_process()
    is_elsewhere = site.owner.host != here.host and urlsplit(site.api_url).hostname in LOOPBACK
    return None if is_elsewhere or is_provably_gone(site.owner, here) else site


def forget(home: Path) -> None:
    """This process keeps no server any more."""
    path_in(home).unlink(missing_ok=True)

"""Whether a run is a deployed one, and which folders it may then use.

`flows/ingest.py` asks at its beginning, `flows/attempts.py` before it writes a report for a run that is gone. Reads the
ledger, and only where the other roots do not allow a path; a crash loses nothing. Anybody who may use Prefect's UI or
API can start a deployed run; a run by hand has the rights of who typed it.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from prefect.context import FlowRunContext

from tidegate.durable.home import Home
from tidegate.durable.ledger import Ledger, insist
from tidegate.durable.ledger.lease import current_lease
from tidegate.durable.roots import Folders, Roots, folder_in_place, is_too_wide
from tidegate.durable.threads import check_cancellation
from tidegate.settings import Settings
from tidegate.transfer.paths import local_path


def is_deployed() -> bool:
    """Whether the current flow run was started by a worker, or is part of a run that was."""
    context, outer = FlowRunContext.get(), current_lease()
    run = context.flow_run if context else None
    return bool(run and run.deployment_id) or bool(outer and outer.attempt.deployment) or _is_started_by_prefect()


def roots_of(settings: Settings) -> Roots | None:
    """What the current flow run may use; None for one by hand. Blocking.

    Raises:
        PathRefused: a Media Store block names a home where this run may not write.
    """
    return roots_of_deployment(settings) if is_deployed() else None


def roots_of_deployment(settings: Settings) -> Roots:
    """What a deployed run may use. Blocking.

    Raises:
        PathRefused: a Media Store block names a home where no deployed run may write.
    """
    own = Settings.load()
    chosen, host = settings.roots, own.store.home
    served = () if chosen.served_from is None or is_too_wide(chosen.served_from) else (chosen.served_from,)
    usual = () if chosen.roots_only else (host, Home(host).outputs(Path(), own.store.output), *served)
    home = settings.store.home
    # The ledger of the worker's own home: in that of a home which is still to be judged, it would be made by asking.
    used = Folders if chosen.roots_only else functools.cache(functools.partial(folders_in_use, own))
    roots = Roots((*chosen.roots, *usual), (host,), chosen.roots, used)
    if home == host:
        return roots
    if not Home(home).is_in_use():
        roots.require_writable(home)
        return Roots(roots.given, (host, home), chosen.roots, used)
    theirs = Folders if chosen.roots_only else functools.cache(functools.partial(folders_in_use, settings))
    given = roots.given if chosen.roots_only else (*roots.given, home)
    return Roots(given, (host, home), chosen.roots, lambda: used() + theirs())


def folders_in_use(settings: Settings) -> Folders:
    """Where runs of this ledger have published, and where the files lay that they read. Blocking.

    A run that was refused did neither, so none adds a folder of its own; nor does a deployed run that was not: what it
    used was allowed.

    Raises:
        LedgerUnavailable: nobody can tell.
    """
    patience = settings.ledger.patience.total_seconds()
    if settings.ledger.url is None and not Home(settings.store.home).ledger.exists():
        return Folders()  # nobody has run here
    ledger = insist(lambda: Ledger.open(settings.ledger, Home(settings.store.home)), patience, check_cancellation)
    try:
        published, (targets, files) = ledger.publication_folders(), ledger.attempt_places()
    finally:
        ledger.close()
    written = _narrow(folder_in_place(folder.parent, folder.name) for folder in (*published, *targets))
    read = _narrow(folder_in_place(path.parent, path.name) for path in map(local_path, files))
    return Folders(readable=(*written, *read), writable=written)


def _narrow(folders: Iterable[Path | None]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(one for one in folders if one is not None and not is_too_wide(one)))


def _is_started_by_prefect() -> bool:
    """Whether this process was started for a flow run by a worker or runner of Prefect's, which tells it the run: a
    subflow names no deployment."""
    if "PREFECT__FLOW_RUN_ID" in os.environ:
        return True
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name.partition(".")[0] == "prefect"

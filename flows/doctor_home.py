"""The doctor's look at who can read what, and who can have code run: the home, Prefect's database, the published
folders, a Dask cluster. Changes nothing; `flows/doctor.py` asks for it.
"""

from __future__ import annotations

import os
import pwd
import shlex
import stat
from pathlib import Path

from flows.closing import prefect_database, with_its_logs
from flows.findings import Findings, bad, good, odd
from tidegate.durable.closing import HomeAccess, home_access
from tidegate.durable.home import DEFAULT_OUTPUT, Home
from tidegate.durable.private import permissions_of, share_reason
from tidegate.settings import Settings
from tidegate.stages.cluster import who_gets_in


def doors(settings: Settings) -> Findings:
    """Who gets in where."""
    home = Home(settings.store.home)
    found = home_access(home)
    if found is None:
        yield good("home", f"{home.root} is not there yet; it will be its owner's alone")
    else:
        yield from _home(home, found)
        yield from _outputs(home, found)
    yield from _readable_outputs(home, settings)
    yield from _database()
    yield from _ledger_file(settings)
    yield from _cluster(settings)


def _home(home: Home, found: HomeAccess) -> Findings:
    place = shlex.quote(str(home.root))
    if found.somebody_elses:
        yield odd(
            "home",
            f"{home.root} belongs to {_name(found.root.owner)}, and this is {_name(os.geteuid())}; it is left as it is",
            "run every command as the same user",
        )
    elif found.shared:
        yield odd(
            "home",
            f"{home.root} is shared with a group: {found.shared}. Who is in it reads the secrets of runs, and can "
            f"change what they do",
            f"if that is not meant: `setfacl -Rbk {place}; chmod -R g-s,go= {place}`",
        )
    elif found.root.mode & 0o044 and not found.outputs:
        yield bad("home", f"others can look into {home.root}", f"`chmod go= {place}`, or any command of Tidegate's")
    else:
        yield good("home", f"{home.root} is closed to other users")
    if found.open_parts and found.to_be_closed:
        names = " ".join(shlex.quote(str(path)) for path in found.open_parts)
        yield bad(
            "home", f"others can read {', '.join(path.name for path in found.open_parts)}", f"`chmod go= {names}`"
        )


def _outputs(home: Home, found: HomeAccess) -> Findings:
    """Published folders in the home keep it open, or are kept from their readers by it."""
    if not found.outputs or found.shared or not found.root.mode & 0o044:
        return
    names = ", ".join(path.name for path in found.outputs)
    yield odd(
        "home",
        f"what was published lies in {home.root} ({names}), so others can list it; what is private in it is closed",
        f"move it out and set TIDEGATE_OUTPUT, or only `chmod go=x {shlex.quote(str(home.root))}`",
    )


def _readable_outputs(home: Home, settings: Settings) -> Findings:
    """Where deployed runs publish, and who can come there."""
    output = home.outputs(Path(DEFAULT_OUTPUT), settings.store.output)
    barred = _first_barrier(output)
    if barred is None:
        yield good("output", f"deployed runs publish in {output}, which other users can enter")
    elif home.root in (barred, *barred.parents):
        yield odd(
            "output",
            f"deployed runs publish in {output}, and {barred} is closed to others, media servers among them",
            f"`chmod go+x {shlex.quote(str(barred))}`, or set TIDEGATE_OUTPUT to a folder elsewhere",
        )
    else:
        place = f"deployed runs publish in {output}; {barred} on the way is closed to other users"
        yield good("output", f"{place}: where a media server is to read it, set TIDEGATE_OUTPUT to a folder elsewhere")


def _first_barrier(folder: Path) -> Path | None:
    """The first folder on the way, itself included, that others cannot enter."""
    way = [*reversed(folder.absolute().parents), folder.absolute()]
    return next((one for one in way if one.is_dir() and not one.stat().st_mode & stat.S_IXOTH), None)


def _database() -> Findings:
    """Prefect's: it holds the secrets of blocks, encrypted with a key that lies in it too."""
    database = prefect_database()
    if database is None or not database.exists():
        return
    open_ones = [path for path in with_its_logs(database) if path.exists() and permissions_of(path).open_to_others]
    shared = next((why for path in open_ones if (why := share_reason(permissions_of(path)))), None)
    names = " ".join(shlex.quote(str(path)) for path in open_ones)
    if open_ones and _is_reached(database):
        message = f"Prefect's database {database} can be read by others" + (f" ({shared})" if shared else "")
        yield (odd if shared else bad)("database", message, f"`chmod go= {names}`")
    else:
        yield good("database", f"Prefect's database {database} is closed to other users")


def _ledger_file(settings: Settings) -> Findings:
    """A ledger in a file elsewhere: where it lies in the home, it was looked at with it."""
    url = settings.ledger.url
    if not url or not url.startswith("sqlite"):
        return
    place = Path(url.partition(":///")[2])
    if place.exists() and permissions_of(place).open_to_others and _is_reached(place):
        yield odd("ledger", f"others can read the ledger {place}", f"`chmod go= {shlex.quote(str(place))}`")


def _is_reached(path: Path) -> bool:
    """Whether others can come as far as the folder that it lies in."""
    return _first_barrier(path.absolute().parent) is None


def _cluster(settings: Settings) -> Findings:
    address = settings.process.chunk_cluster
    if address is None:
        return
    let_in = who_gets_in(address)
    if let_in is None:
        yield good("dask", f"{address} asks for a certificate")
    else:
        yield odd(
            "dask",
            f"{address} asks nobody who he is: {let_in} can run code on its workers",
            "let the scheduler and the workers speak tls:// (docs/stages/transcode.md)",
        )


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"

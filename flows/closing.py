"""What commands close when they begin: the home and Prefect's database, where others could look into them.

`flows/run.py` and `deployments/serve.py` call `close` and say its lines; `flows/server.py` asks for the umask of the
servers that it launches. Only what is our own and not shared on purpose is changed; `flows/doctor_home.py` tells of the
rest. It does not import Prefect.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from flows.configuration import look_up, prefect_home
from tidegate.durable import private
from tidegate.durable.closing import close_file, close_home
from tidegate.durable.home import Home

_OLDER = "PREFECT_API_DATABASE_CONNECTION_URL"


def close(home: Path) -> tuple[str, ...]:
    """Close what stands open; gives a line for each thing that was changed."""
    database = prefect_database()
    lines = close_home(Home(home))
    closed = [path for path in with_its_logs(database) if close_file(path)] if database else []
    if closed:
        lines += (f"Other users of this machine could read Prefect's database {database}: no longer.",)
    return lines


def prefect_database() -> Path | None:
    """The SQLite file of the servers that we launch; None where another server keeps the data."""
    configured = look_up("server.database.connection_url", [_OLDER])
    if configured is None or not configured.value:
        return prefect_home() / "prefect.db"
    url = str(configured.value)
    parts = urlsplit(url)
    if not parts.scheme.startswith("sqlite") or not parts.path.strip("/") or ":memory:" in url:
        return None
    return Path(parts.path.removeprefix("/"))  # sqlite:////srv/prefect.db is absolute, with three it is relative


def with_its_logs(database: Path) -> list[Path]:
    """The file and what SQLite lays beside it."""
    return [database.with_name(database.name + suffix) for suffix in ("", "-wal", "-shm")]


def umask_of_server() -> int:
    """For the server that we launch: its database is in Prefect's home, which is made here where it is missing."""
    folder = prefect_home()
    try:
        private.make_folder(folder)
    except OSError:
        return private.OTHERS  # the server says what is wrong with it
    return private.umask_of_child(folder)

"""Files that an older Tidegate left, unpacked for a test: `tests/stored/README.md` tells what they are.

`tests/stored/store.py` makes them with the same origin, links and settings, so both sides ask for the same work. Links
name a host that exists nowhere; the origin is its own proxy, so no port is part of a work key. Nothing unpacked depends
on the day: the ledger's times are moved, and what has no validator is trusted for a century.
"""

from __future__ import annotations

import gzip
import shutil
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

from tests.support.aftermath import witness
from tests.support.origin import Origin, Resource

GENERATIONS = Path(__file__).resolve().parents[1] / "stored"
HOST = "media.tidegate.test"
"""The domain `test` exists nowhere."""
SOURCES = {
    "whole": "film.mp4",
    "part": "padded.mp4",
    "playlist": "low.m3u8",
    "chunks": "long.webm",
    "download-fallback": "master.m3u8",
    "transcode-fallback": "large.webm",
}
"""The cases, and what each asks for."""
OUT = Path("/proc/self/cwd/out")
"""The output folder of each run, by a path that is the same wherever the files lie: publishing's key has it in it."""
MADE_IN = "/tmp/tidegate-stored"
"""Where they were made, a folder for each case; it stands for wherever they are unpacked to."""
PACKED = ".gz"
LARGE_BYTES = 64 * 1024
AGO_SECONDS = 3600.0
"""How long ago the last thing in an unpacked ledger happened."""
RUNG = "720p"
"""The quality that is asked for: `auto` depends on the host's memory."""
TOOL_SAYS = "ffmpeg version stored"
"""What every ffmpeg says here, because the key of a chunk has it in it."""
CHUNK = "trim="
"""What a call of ffmpeg for one chunk has among its words, and no other call."""

SETTINGS = {
    "TIDEGATE_UNVALIDATED_TRUST": str(100 * 365 * 86400),
    "TIDEGATE_TRANSFER_TRIES": "2",
    "TIDEGATE_TRANSFER_SEGMENTS_AT_ONCE": "1",
    "TIDEGATE_PROCESS_CHUNK_SECONDS": "2",
    "TIDEGATE_PROCESS_CHUNK_WORKERS": "1",
    "TIDEGATE_TOOLS_THREADS": "1",
}


def link_of(case: str) -> str:
    """What the case asks for."""
    return f"http://{HOST}/{SOURCES[case]}"


def origin_of(media: Path, stories: Mapping[str, str] | None = None) -> Origin:
    """The origin of these files; each is known by a tag that does not change."""
    told = stories or {}
    return Origin({
        path.name.removesuffix(PACKED): Resource(
            _read(path),
            etag=f"stored {path.name.removesuffix(PACKED)}",
            story=told.get(path.name.removesuffix(PACKED), "ok"),
        )
        for path in sorted(media.iterdir())
    })  # fmt: skip


def settings_for(origin: Origin, tool: Path) -> dict[str, str]:
    """The variables of a command that asks this origin, and works with this tool."""
    proxy = dict.fromkeys(("http_proxy", "HTTP_PROXY"), origin.url())
    return {**SETTINGS, **proxy, "TIDEGATE_TOOLS_FFMPEG": str(tool)}


def steady_tool(folder: Path, before: str = ":") -> Path:
    """The ffmpeg of this host under a script, which says the same version on every host, and notes each call."""
    return witness(folder, before=f'case "$*" in -version) echo "{TOOL_SAYS}"; exit 0 ;; esac\n{before}')


def pack(case: Path, to: Path, parts: Iterable[str]) -> None:
    """Store what a run has left: the ledger as text without its host, large files compressed.

    `parts` are patterns, relative to the case.
    """
    for found in sorted(path for pattern in parts for path in case.glob(pattern) if path.is_file()):
        if found.suffix == ".lock":
            continue
        stored = to / found.relative_to(case)
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_bytes(found.read_bytes())
        compress_if_large(stored)
    (to / "tidegate" / "ledger.sql").write_text(_dump(case / "tidegate" / "ledger.db"))


def compress_if_large(path: Path) -> None:
    """Put a compressed file in place of one that is not small."""
    if path.stat().st_size > LARGE_BYTES:
        path.with_name(path.name + PACKED).write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        path.unlink()


def unpack(stored: Path, folder: Path) -> None:
    """Lay a stored case into a folder, as if it had been made there an hour ago."""
    shutil.copytree(stored, folder, dirs_exist_ok=True)
    for path in [one for one in folder.rglob("*") if one.is_file()]:
        _settle(path, str(folder), f"{MADE_IN}/{stored.name}")
    with closing(sqlite3.connect(folder / "tidegate" / "ledger.db")) as ledger, ledger:
        script = folder / "tidegate" / "ledger.sql"
        ledger.executescript(script.read_text())
        _move_times(ledger)
        script.unlink()
    for path in [folder / "tidegate", *(folder / "tidegate").rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)


def _settle(path: Path, folder: str, made_in: str) -> None:
    if path.suffix == PACKED:
        path.with_suffix("").write_bytes(_read(path))
        path.unlink()
    elif path.suffix in (".json", ".sql") and "out" not in path.parts:  # what is published is known by its digest
        path.write_text(path.read_text().replace(made_in, folder))


def _read(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == PACKED else path.read_bytes()


def _dump(database: Path) -> str:
    with closing(sqlite3.connect(database)) as ledger, ledger:
        for table, columns in _columns(ledger).items():
            for name, nothing in (("host", "stored"), ("boot", "stored"), ("namespace", 0), ("pid", 0), ("started", 0)):
                if name in columns:
                    ledger.execute(f"UPDATE {table} SET {name} = ?", (nothing,))
        return "\n".join(ledger.iterdump()) + "\n"


def _move_times(ledger: sqlite3.Connection) -> None:
    latest = ledger.execute("SELECT max(renewed_at) FROM attempts").fetchone()[0]
    later = time.time() - AGO_SECONDS - latest
    for table, columns in _columns(ledger).items():
        for name in columns:
            if name.endswith("_at") or name in ("since", "counted_since"):
                ledger.execute(f"UPDATE {table} SET {name} = {name} + ? WHERE {name} > 0", (later,))


def _columns(ledger: sqlite3.Connection) -> dict[str, list[str]]:
    tables = [row[0] for row in ledger.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {table: [row[1] for row in ledger.execute(f"PRAGMA table_info({table})")] for table in tables}

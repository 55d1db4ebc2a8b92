"""The same stories of mixed faults for us and for the tools that people use instead: who ends with the right bytes?

`python -m benchmarks.stories [--stories N] [--peers-only-first M] [--log FILE]` tells every tool the stories of
`tests/support/tales.py`, each at an origin of its own; they can be recovered from by construction. Every tool has the
flags that make it try hardest and the same patience with silence; the bytes that it leaves are compared with the
original. What the log holds already is not told again. It stands apart from `make bench`: the peers take their time.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio

from tests.support.origin import Origin, Resource, Synthetic
from tests.support.tales import fetch, story_of
from tidegate.errors import TidegateError

LIMIT_SECONDS = 30.0
"""The hard end of one story. The longest takes ours about ten."""
AT_ONCE = 8
"""Stories at the same time: nearly all of each is waiting."""
CURL = "--retry 20 --retry-all-errors --retry-connrefused --retry-delay 1 --connect-timeout 2 --speed-limit 8192"
ARIA2 = "-x4 -s4 -k1M -c --max-tries=0 --retry-wait=1 --timeout=2 --connect-timeout=2 --lowest-speed-limit=8K"
WGET = "-c --tries=20 --waitretry=1 --timeout=2 --retry-connrefused --retry-on-http-error=408,429,500,502,503"
YT_DLP = "--continue --retries 20 --extractor-retries 20 --file-access-retries 5 --socket-timeout 2"
HEADER = (
    "| tool | stories | whole | wrong bytes, accepted | gave up | hung | median seconds, whole | bytes sent ÷ size |"
    "\n|---|---|---|---|---|---|---|---|"
)

Ending = Literal["whole", "wrong", "gave up", "hung"]


@dataclass(frozen=True)
class Told:
    """How one story ended for one tool."""

    tool: str
    seed: int
    ending: Ending
    seconds: float
    traffic: float
    """Bytes that the origin sent, as a share of the file's size."""


class GaveUp(Exception):
    """The tool says itself that it has failed."""


class Hung(Exception):
    """The tool has not ended in time."""


def ours(url: str, folder: Path) -> Path:
    async def within() -> Path:
        with anyio.fail_after(LIMIT_SECONDS):
            return (await fetch(url, folder)).path

    try:
        return anyio.run(within)
    except TidegateError as error:
        raise GaveUp(str(error)) from error
    except TimeoutError as error:
        raise Hung from error


def by_curl(url: str, folder: Path) -> Path:
    return _left_by(["curl", "-sfL", *CURL.split(), "--speed-time", "2", "-C", "-", "-o", "film.mp4", url], folder)


def by_aria2(url: str, folder: Path) -> Path:
    return _left_by(["aria2c", "-q", *ARIA2.split(), "--file-allocation=none", "-o", "film.mp4", url], folder)


def by_wget(url: str, folder: Path) -> Path:
    return _left_by(["wget", "-q", *WGET.split(), "-O", "film.mp4", url], folder)


def by_yt_dlp(url: str, folder: Path) -> Path:
    """Told what it would find out itself, so that no step of the story falls to its extractor."""
    known = {"id": "film", "title": "film", "url": url, "ext": "mp4", "extractor": "generic", "protocol": "http"}
    (folder / "known.json").write_text(json.dumps(known))
    words = [sys.executable, "-m", "yt_dlp", "-q", *YT_DLP.split(), "--fixup", "never", "--load-info-json"]
    return _left_by([*words, "known.json", "-o", "film.mp4"], folder)


TOOLS: dict[str, Callable[[str, Path], Path]] = {
    "tidegate": ours,
    "aria2c": by_aria2,
    "curl": by_curl,
    "wget": by_wget,
    "yt-dlp": by_yt_dlp,
}


def tell(tool: str, seed: int) -> Told:
    """One story to one tool, in a process of the pool."""
    story, film = story_of(seed)
    with tempfile.TemporaryDirectory() as made, Origin({"film.mp4": Resource(film, story=story)}) as origin:
        begun = time.monotonic()
        ending = _ending(lambda: TOOLS[tool](origin.url("film.mp4"), Path(made)), film)
        seconds = time.monotonic() - begun
        return Told(tool, seed, ending, seconds, origin.bytes_sent("film.mp4") / film.size)


def _ending(work: Callable[[], Path], film: Synthetic) -> Ending:
    try:
        left = work()
    except GaveUp:
        return "gave up"
    except Hung:
        return "hung"
    return "whole" if left.is_file() and left.read_bytes() == b"".join(film.blocks()) else "wrong"


def _left_by(command: Sequence[str], folder: Path) -> Path:
    try:
        done = subprocess.run(
            command, cwd=folder, timeout=LIMIT_SECONDS, capture_output=True, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Hung from error
    if done.returncode:
        raise GaveUp(done.stderr.decode(errors="replace")[-500:])
    return folder / "film.mp4"


def row(tool: str, told: Sequence[Told]) -> str:
    """A row of the table that `HEADER` begins."""
    counts = [sum(one.ending == ending for one in told) for ending in ("whole", "wrong", "gave up", "hung")]
    whole = [one for one in told if one.ending == "whole"]
    seconds = statistics.median(one.seconds for one in whole) if whole else 0.0
    traffic = statistics.median(one.traffic for one in whole) if whole else 0.0
    shown = " | ".join(str(count) for count in counts)
    return f"| {_version(tool)} | {len(told)} | {shown} | {seconds:.1f} | {traffic:.2f} |"


def _version(tool: str) -> str:
    if tool == "tidegate":
        return tool
    if tool == "yt-dlp":
        return f"{tool} {importlib.metadata.version('yt-dlp')}"
    first = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout.split("\n", 1)[0]
    return f"{tool} {next((word for word in first.split() if word[0].isdigit()), '')}"


def jobs(tools: Iterable[str], seeds: range, peers_first: int) -> list[tuple[str, int]]:
    """Story after story, so that whoever stops early has as much of every tool."""
    return [(tool, seed) for at, seed in enumerate(seeds) for tool in tools if tool == "tidegate" or at < peers_first]


def told_in(log: Path | None) -> list[Told]:
    """What an earlier run, perhaps one that was stopped, has noted."""
    if log is None or not log.exists():
        return []
    return [Told(**json.loads(line)) for line in log.read_text().splitlines()]


def tell_all(wanted: Iterable[tuple[str, int]], log: Path | None) -> Iterator[Told]:
    """Each story in a process of its own: the origin of one is not slowed by the engine of another."""
    with ProcessPoolExecutor(AT_ONCE, multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(tell, *job) for job in wanted]):
            one = done.result()
            if log:
                with log.open("a") as file:
                    file.write(json.dumps(vars(one)) + "\n")
            yield one


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--stories", type=int, default=300)
    asked.add_argument("--peers-only-first", type=int, default=300, metavar="M")
    asked.add_argument("--log", type=Path, help="one JSON line for each story told; goes on from what it holds")
    words = asked.parse_args()
    tools = [tool for tool in TOOLS if tool in ("tidegate", "yt-dlp") or shutil.which(tool)]
    told = told_in(words.log)
    known = {(one.tool, one.seed) for one in told}
    wanted = [job for job in jobs(tools, range(words.stories), words.peers_only_first) if job not in known]
    told += tell_all(wanted, words.log)
    print(HEADER)
    for tool in tools:
        print(row(tool, [one for one in told if one.tool == tool]), flush=True)
    missed = sorted(one.seed for one in told if one.tool == "tidegate" and one.ending != "whole")
    if missed:
        print(f"\nours did not end whole: {missed}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

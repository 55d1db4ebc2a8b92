"""What a download costs beside curl and aria2c, with journal and digest on: time, processor time, memory.

`python -m benchmarks.transfer` takes sizes for development; `--whole` those of the goals: 1 GiB, 16 GiB for memory,
five pairs. It stands apart from `make bench`, because it wants a quiet machine and a disk with room. Wall times go to
the disk of the folder in TIDEGATE_BENCH_FOLDER (default: the system's temporary one).
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import yt_dlp
from pydantic import SecretStr

from benchmarks.figures import FIGURES_HEADER, Figure
from benchmarks.pairs import HEADER, Pairs, measure
from tidegate.events import ignore_events
from tidegate.model import Source
from tidegate.settings import TransferSettings
from tidegate.transfer.asking.ask import Request, receive
from tidegate.transfer.file.fetch import fetch_file, identify
from tidegate.transfer.file.http import HttpExchange
from tidegate.transfer.outside import Outside
from tidegate.transfer.transport import pool_of

MIB = 1024 * 1024
SMALL_FILES, SMALL_BYTES, AT_ONCE = 200, 100 * 1024, 8
THROTTLE = "4M"
RECEIVED = "received-"
"""How the names of folders begin that transfers are received into."""
MEMORY_MB = 100.0


@dataclass(frozen=True)
class Sizes:
    """How much is moved."""

    bulk: int
    throttled: int
    memory: int
    pairs: int


QUICK = Sizes(bulk=256 * MIB, throttled=48 * MIB, memory=1024 * MIB, pairs=3)
WHOLE = Sizes(bulk=1024 * MIB, throttled=256 * MIB, memory=16 * 1024 * MIB, pairs=5)


async def fetch(url: str, folder: Path) -> None:
    outside = Outside(limits=TransferSettings())
    source = Source(url=SecretStr(url))
    connect = partial(HttpExchange, source, outside.limits, outside.gates)
    identity, _ = await identify(connect, outside.limits, ignore_events)
    await fetch_file(outside, source, folder, identity)
    pool_of(outside.gates).close()


class _File:
    """A sink that is a file, synced at its end as a segment is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb", buffering=0)

    def restart(self) -> None:
        self._file.truncate(0)

    def write(self, block: memoryview, /) -> None:
        self._file.write(block)

    def close(self) -> None:
        self._file.close()


async def fetch_small(base: str, folder: Path) -> None:
    outside = Outside(limits=TransferSettings())
    room = anyio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with room:
            with contextlib.closing(_File(folder / f"{number}")) as sink:
                await receive(outside, Request(f"{base}/{number}.ts", what="segment"), sink)

    async with anyio.create_task_group() as group:
        for number in range(SMALL_FILES):
            group.start_soon(one, number)
    pool_of(outside.gates).close()


def small_by_yt_dlp(base: str, folder: Path) -> None:
    """The same files as segments of a playlist, which yt-dlp fetches without its start-up and without ffmpeg."""
    options = {
        "quiet": True,
        "noprogress": True,
        "outtmpl": str(folder / "all.%(ext)s"),
        "concurrent_fragment_downloads": AT_ONCE,
        "fixup": "never",
        "hls_prefer_native": True,
    }
    with yt_dlp.YoutubeDL(options) as tool:
        tool.download([f"{base}/small.m3u8"])


@contextlib.contextmanager
def origin(*words: str) -> Iterator[str]:
    """A server process; gives what it says when it is ready."""
    process = subprocess.Popen([sys.executable, "-m", *words], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def certificate(folder: Path) -> tuple[Path, Path]:
    key, made = folder / "key.pem", folder / "certificate.pem"
    words = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(made)]
    subprocess.run(["openssl", "req", *words], check=True, capture_output=True)
    return made, key


def make_files(folder: Path, sizes: Sizes) -> None:
    noise = random.Random(1).randbytes(MIB)
    with (folder / "bulk.bin").open("wb") as file:
        for number in range(sizes.bulk // MIB):
            file.write(number.to_bytes(8, "big") + noise[8:])
    names = []
    for number in range(SMALL_FILES):
        (folder / f"{number}.ts").write_bytes(number.to_bytes(8, "big") + noise[8:SMALL_BYTES])
        names.append(f"#EXTINF:4,\n{number}.ts")
    head = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:4\n"
    (folder / "small.m3u8").write_text(f"{head}{chr(10).join(names)}\n#EXT-X-ENDLIST\n")
    with (folder / "huge.bin").open("wb") as file:  # sparse: only its size matters
        file.write(noise)
        file.truncate(sizes.memory)


def afresh(folder: Path, work: Callable[[Path], object]) -> Callable[[], None]:
    """The work in a folder of its own; `even` removes it, which is no part of a transfer."""

    def run() -> None:
        work(Path(tempfile.mkdtemp(prefix=RECEIVED, dir=folder)))

    return run


def even(folder: Path, size: int) -> Callable[[], None]:
    """What makes the start of a run the same for both sides, whoever came before.

    Nothing is left of what was received, the file system has done with it, and `size` bytes of free memory are the
    machine's: a virtual one gives what is free for two seconds back to its host, and whoever is next pays for that.
    """

    def prepare() -> None:
        for received in folder.glob(f"{RECEIVED}*"):
            shutil.rmtree(received)
        os.sync()
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()

    return prepare


def by_curl(url: str, *words: str) -> Callable[[Path], object]:
    return lambda folder: subprocess.run(["curl", "-sf", *words, "-o", str(folder / "out"), url], check=True)


def by_aria2(url: str, *words: str) -> Callable[[Path], object]:
    told = ["-q", "-x4", "-s4", "-k1M", "--file-allocation=none", *words]
    return lambda folder: subprocess.run(["aria2c", *told, "-d", str(folder), "-o", "out", url], check=True)


def by_us(url: str) -> Callable[[Path], object]:
    return lambda folder: anyio.run(fetch, url, folder)


def pairs_of(name: str, url: str, sizes: Sizes, folder: Path, curl: list[str], aria2: list[str]) -> Iterator[Pairs]:
    ours = afresh(folder, by_us(url))
    peers: list[tuple[str, Callable[[Path], object], float, float | None]] = []
    peers.append(("curl", by_curl(url, *curl), 1 / 0.9, 1.3))
    if shutil.which("aria2c"):
        peers.append(("aria2c -x4", by_aria2(url, *aria2), 1.0, None))
    for peer, work, goal, cpu in peers:
        told = f"{sizes.bulk // MIB} MiB by {name} ÷ {peer}"
        yield measure(
            told,
            ours,
            afresh(folder, work),
            goal=goal,
            pairs=sizes.pairs,
            cpu_goal=cpu,
            prepare=even(folder, sizes.bulk),
        )


def throttled(sizes: Sizes, folder: Path) -> Iterator[Pairs]:
    told = f"a.bin={sizes.throttled}"
    words = ["tests.support.origin", "--synthetic", told, "--story", f"a.bin=throttle {THROTTLE}"]
    with origin(*words) as base:
        url = f"{base}/a.bin"
        name = f"{sizes.throttled // MIB} MiB at {THROTTLE}iB/s a connection ÷ aria2c -x4"
        if shutil.which("aria2c"):
            ours, theirs = afresh(folder, by_us(url)), afresh(folder, by_aria2(url))
            yield measure(name, ours, theirs, goal=1.0, pairs=sizes.pairs, warm_up=0, prepare=even(folder, sizes.bulk))


def memory_mb(url: str, folder: Path) -> float:
    """How far a process of its own grows above its size at rest."""
    code = (
        "import re, sys, anyio\nfrom pathlib import Path\nfrom benchmarks.transfer import fetch\n"
        "def most(): return int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024\n"
        "before = most(); anyio.run(fetch, sys.argv[1], Path(sys.argv[2])); print(most() - before)"
    )
    with tempfile.TemporaryDirectory(dir=folder) as empty:
        done = subprocess.run([sys.executable, "-c", code, url, empty], check=True, capture_output=True, text=True)
    return float(done.stdout)


def results(sizes: Sizes, folder: Path) -> Iterator[Pairs]:
    made, key = certificate(folder)
    os.environ["SSL_CERT_FILE"] = str(made)
    with origin("benchmarks.swift", str(folder)) as port:
        yield from pairs_of("HTTP", f"http://127.0.0.1:{port}/bulk.bin", sizes, folder, [], [])
        base = f"http://127.0.0.1:{port}"
        yield measure(
            f"{SMALL_FILES} files of {SMALL_BYTES // 1024} KiB, {AT_ONCE} at once ÷ yt-dlp",
            afresh(folder, lambda empty: anyio.run(fetch_small, base, empty)),
            afresh(folder, lambda empty: small_by_yt_dlp(base, empty)),
            goal=1 / 3,
            pairs=sizes.pairs,
            prepare=even(folder, sizes.bulk),
        )
    with origin("benchmarks.swift", str(folder), str(made), str(key)) as port:
        url = f"https://127.0.0.1:{port}/bulk.bin"
        trusted = ["--cacert", str(made)], [f"--ca-certificate={made}"]
        yield from pairs_of("TLS", url, sizes, folder, *trusted)
    yield from throttled(sizes, folder)


def figures(sizes: Sizes, folder: Path) -> Iterator[Figure]:
    with origin("benchmarks.swift", str(folder)) as port:
        for name, size in (("bulk", sizes.bulk), ("huge", sizes.memory)):
            grown = memory_mb(f"http://127.0.0.1:{port}/{name}.bin", folder)
            yield Figure(f"memory above rest, {size // MIB} MiB", grown, "MB", MEMORY_MB)


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--whole", action="store_true", help="the sizes of the goals")
    sizes = WHOLE if asked.parse_args().whole else QUICK
    with tempfile.TemporaryDirectory(dir=os.environ.get("TIDEGATE_BENCH_FOLDER")) as made:
        folder = Path(made)
        make_files(folder, sizes)
        print(HEADER, flush=True)
        met = True
        for pairs in results(sizes, folder):
            print(pairs.row(), flush=True)
            met = met and pairs.met
        print(f"\n{FIGURES_HEADER}", flush=True)
        for figure in figures(sizes, folder):
            print(figure.row(), flush=True)
            met = met and figure.met
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

"""Store what the Tidegate of a tree leaves behind, for `tests/flows/test_stored_files.py` of all later ones:

    python -m tests.stored.store [--tree /path/of/a/worktree]

It runs the real command of that tree (this one by default; its `.venv` must be there) against an origin on loopback,
kills it where a case says so, and writes `tests/stored/<date>-<commit>/`. Films are made anew each time, so do not
expect the same bytes.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from tests.support.aftermath import calls_file, wait_in
from tests.support.clips import FASTSTART, H264, Recipe, lavfi, make
from tests.support.command import ROOT, Command
from tests.support.ladders import hls_text, ladder
from tests.support.leaks import end_children, marking
from tests.support.origin import Origin
from tests.support.session_server import shared
from tests.support.stored import (
    CHUNK,
    GENERATIONS,
    MADE_IN,
    OUT,
    RUNG,
    compress_if_large,
    link_of,
    origin_of,
    pack,
    settings_for,
    steady_tool,
)

MIB = 1024 * 1024
PADDED_BYTES = 3 * MIB // 2
SHORT = "size={size}:rate=5:duration={seconds}"
SOUND = "sine=frequency=440:sample_rate=8000:duration={seconds}"
SILENCE = "anullsrc=r=8000:cl=mono:d={seconds}"
QUIET = ("-c:a", "aac", "-b:a", "16k", "-ac", "1")
WEBM = Recipe(
    ".webm",
    lavfi(f"testsrc2={SHORT}", SILENCE),
    (
        "-c:v",
        "libvpx-vp9",
        "-deadline",
        "realtime",
        "-cpu-used",
        "8",
        "-b:v",
        "20k",
        "-g",
        "5",
        "-c:a",
        "libopus",
        "-b:a",
        "12k",
    ),
)
STORED = (
    *("tidegate/results/*", "tidegate/assets/**/*", "tidegate/scratch/**/*"),
    "out/**/*",
)
"""Of a case. What only its host could use, and secrets, stay away."""


@dataclass(frozen=True)
class Case:
    """One command, and how it ends."""

    name: str
    """One of `SOURCES`."""
    stories: dict[str, str] = field(default_factory=dict)
    before: str = ":"
    """What the shell does before each call of ffmpeg."""
    far_enough: Callable[[Origin, Path], bool] | None = None
    """When it is killed, by the origin and the calls of ffmpeg; None: it runs to its end."""


def sent(name: str, size: int) -> Callable[[Origin, Path], bool]:
    """When so much of a file was sent."""
    return lambda origin, calls: origin.bytes_sent(name) >= size


def has_called(word: str, times: int) -> Callable[[Origin, Path], bool]:
    """When ffmpeg was called so often with this among its words."""
    return lambda origin, calls: calls.exists() and calls.read_text().count(word) >= times


CASES = (
    Case("whole"),
    Case("part", {"padded.mp4": "200K stall"}, far_enough=sent("padded.mp4", MIB + 200 * 1024)),
    Case("playlist", {"low-3.ts": "always: 100 stall"}, far_enough=sent("low-3.ts", 1)),
    Case(
        "chunks",
        before=f'if [ $(grep -c "{CHUNK}" "$0.calls") -gt 2 ]; then sleep 600; fi',
        far_enough=has_called(CHUNK, 3),
    ),
    Case(
        "download-fallback",
        {"high-3.ts": "always: 404", "low-3.ts": "always: 100 stall"},
        far_enough=sent("low-3.ts", 1),
    ),
    Case(
        "transcode-fallback",
        before='case "$*" in *scale=*:240*) sleep 600 ;; *libx264*) '
        'echo "[error] Error while filtering: Cannot allocate memory" >&2; exit 1 ;; esac',
        far_enough=has_called(":240", 1),
    ),
)


@dataclass
class OfTree(Command):
    """The command of another tree."""

    tree: Path = ROOT

    def argv(self, words: tuple[str, ...], as_json: bool) -> list[str]:
        return [str(self.tree / ".venv" / "bin" / "python"), *super().argv(words, as_json)[1:]]

    def env(self) -> dict[str, str]:
        return {**super().env(), "PYTHONPATH": str(self.tree)}


def make_media(folder: Path) -> None:
    """All that the cases ask for, small."""
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as work:
        still = Recipe(".mp4", lavfi(f"smptebars={SHORT}", SOUND), (*H264, *QUIET, *FASTSTART))
        film = make(Path(work), "film", still, seconds=3, size="96x72")
        shutil.copy(film, folder / "film.mp4")
        (folder / "padded.mp4").write_bytes(pad(film.read_bytes(), PADDED_BYTES))
        shutil.copy(make(Path(work), "long", WEBM, seconds=8, size="64x48"), folder / "long.webm")
        large = replace(WEBM, inputs=lavfi(f"color=gray:{SHORT}", SILENCE))
        shutil.copy(make(Path(work), "large", large, seconds=1, size="480x360"), folder / "large.webm")
        for name, size in (("low", "64x48"), ("high", "96x72")):
            cut = ("-g", "5", "-f", "hls", "-hls_time", "1", "-hls_playlist_type", "vod", "-hls_segment_filename")
            recipe = Recipe(".m3u8", lavfi(f"testsrc2={SHORT}", SOUND), (*H264, *QUIET, *cut, f"{folder}/{name}-%d.ts"))
            make(Path(work), name, recipe, seconds=6, size=size)
            (folder / f"{name}.m3u8").write_bytes(hls_text([f"{name}-{number}.ts" for number in range(6)]))
    lines = {"high.m3u8": "96x72@90000", "low.m3u8": "64x48@20000"}
    (folder / "master.m3u8").write_bytes(ladder(lines))


def pad(film: bytes, size: int) -> bytes:
    """The film with a box of nothing behind it, in which each 4 KiB are told from all others."""
    nothing = b"".join(b"%010d" % place + bytes(4086) for place in range(size // 4096 + 1))
    return (film + (size - len(film)).to_bytes(4, "big") + b"free" + nothing)[:size]


def leave(case: Case, media: Path, command: OfTree) -> None:
    """Run the command, and end or kill it as the case says."""
    with tempfile.TemporaryDirectory() as aside, origin_of(media, case.stories) as origin:
        tool = steady_tool(Path(aside), case.before)
        command.environment |= settings_for(origin, tool)
        command.environment |= {"TIDEGATE_TRANSFER_CHECKPOINT_BYTES": "65536"}
        words = (link_of(case.name), "--quality", RUNG)
        if case.far_enough is None:
            ended = command.run(*words)
            assert ended.code == 0, ended.stderr
            return
        far_enough = case.far_enough
        with command.started(*words) as process:
            wait_in(process, lambda: far_enough(origin, calls_file(tool)))
            time.sleep(0.5)  # what was received before is in its journal then
            process.send_signal(signal.SIGKILL)
            process.wait()
        end_children(command.mark)


def main() -> None:
    """Make a generation."""
    parser = argparse.ArgumentParser("tests.stored.store", description=__doc__)
    parser.add_argument("--tree", type=Path, default=ROOT)
    tree = parser.parse_args().tree.resolve()
    commit = subprocess.run(
        ["git", "-C", str(tree), "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    generation = GENERATIONS / f"{datetime.now(UTC):%Y-%m-%d}-{commit}"
    work = Path(MADE_IN)
    work.mkdir(mode=0o700)
    try:
        make_media(generation / "media")
        with marking() as mark, shared(work / "server") as api:
            for case in CASES:
                folder = work / case.name
                folder.mkdir()
                environment = {"PREFECT_API_URL": api, "HOME": str(folder), "PREFECT_HOME": str(folder / "prefect")}
                leave(case, generation / "media", OfTree(folder, OUT, environment, mark, tree=tree))
                pack(folder, generation / case.name, STORED)
                print(case.name)
        for path in list((generation / "media").iterdir()):
            compress_if_large(path)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()

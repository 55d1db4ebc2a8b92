"""SIGKILL in the middle of segmented media, and harm to its journal: what comes out at last is what was sent.

Every feature that changes which bytes are asked for or how they are opened is killed: encryption with vectors that
follow from numbers, ranges that follow from each other, init sections that change.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.command import ROOT
from tests.support.crash import numbered, spread
from tests.support.forked import Pipe, forked
from tests.support.ladders import cut, hls_text, ladder, name_segments
from tests.support.renditions import fetch_rendition
from tests.transfer.test_hls import FEATURES, lost, one_behind, scribbled, torn
from tidegate.durable import crash_points

SEED = int(os.environ.get("TIDEGATE_TEST_SEED", "2026"))
SEEDS = 50
SAMPLE = 5
MOST_KILLS = 3
HARM: tuple[Callable[[Path, random.Random], None] | None, ...] = (None, torn, lost, one_behind, scribbled)

Digests = tuple[str, ...]


@dataclass(frozen=True)
class Served:
    """Where the media is, and what must come of it."""

    url: str
    truth: Mapping[str, Digests]
    """By feature: the digest of each file of each track, in their order."""
    seconds: float
    """About how long one takes."""


def parts(clips: Path) -> dict[str, bytes]:
    """A ladder with sound of its own, init sections that change, and a jump: several tracks, several files."""
    small, large = cut(clips, "mp4", both=False), cut(clips, "mp4", both=False, size="192x144")
    sound = cut(clips, "sound")
    files = {f"a{n}.m4s": small.segments[n] for n in range(4)} | {f"b{n}.m4s": large.segments[n] for n in range(4, 8)}
    before = {0: ['#EXT-X-MAP:URI="a.mp4"'], 4: ["#EXT-X-DISCONTINUITY", '#EXT-X-MAP:URI="b.mp4"']}
    group = ['#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="s",NAME="en",LANGUAGE="en",URI="sound.m3u8"']
    return (
        files
        | name_segments(sound, "s{}.ts")
        | {
            "a.mp4": small.init or b"",
            "b.mp4": large.init or b"",
            "film.m3u8": hls_text(files, before=before),
            "sound.m3u8": hls_text(name_segments(sound, "s{}.ts")),
            "list.m3u8": ladder({"film.m3u8": "160x120@300000"}, media=group, also=',AUDIO="s"'),
        }
    )


@pytest.fixture(scope="module")
def served(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An origin in a process of its own, slow enough to be killed in the middle of a transfer."""
    root = tmp_path_factory.mktemp("media")
    features = {name: make(clips)[0] for name, make in FEATURES.items()} | {"parts": parts(clips)}
    for name, files in features.items():
        for file, content in files.items():
            (root / name).mkdir(exist_ok=True)
            (root / name / file).write_bytes(content)
    slow = [
        word
        for pattern in ("*.ts", "*.m4s", "*.bin", "*.mp4")
        for word in ("--story", f"{pattern}=from-first: throttle 150K")
    ]
    argv = [sys.executable, "-m", "tests.support.origin", "--root", str(root), *slow]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        truth, begun = {}, time.monotonic()
        for name in features:
            truth[name] = done(f"{url}/{name}/list.m3u8", tmp_path_factory.mktemp("undisturbed"))
        yield Served(url, truth, (time.monotonic() - begun) / len(features))
    finally:
        process.terminate()
        process.wait()


def done(url: str, folder: Path, variables: Mapping[str, str] | None = None) -> Digests:
    """Bring it to its end, in a process of its own; the digests of what came."""

    def work(pipe: Pipe) -> None:
        crash_points._plan = crash_points._Plan.of(variables or {})
        pipe.say(" ".join(digests(fetch_rendition(url, folder, rendition="120p-300k").files)))

    with forked(work) as child:
        told = child.hear()
        assert child.wait() == 0
    return tuple(told.split())


def digests(files: Mapping[str, tuple[Path, ...]]) -> Digests:
    return tuple(hashlib.sha256(path.read_bytes()).hexdigest() for name in sorted(files) for path in files[name])


def killed(url: str, folder: Path, seconds: float) -> bool:
    """Begin, and die so much later; whether it was still at work."""
    with forked(lambda pipe: fetch_rendition(url, folder, rendition="120p-300k")) as child:
        time.sleep(seconds)
        child.kill()
    return child.code == -signal.SIGKILL


def complaint(served: Served, seed: int, folder: Path) -> str | None:
    """Kill it once or more at random moments, harm its journals, go on; what is wrong then."""
    choice = random.Random(seed)
    feature = choice.choice(sorted(served.truth))
    url = f"{served.url}/{feature}/list.m3u8"
    for _ in range(choice.randint(1, MOST_KILLS)):
        killed(url, folder, choice.uniform(0.0, served.seconds))
        harm = choice.choice(HARM)
        for journal in folder.rglob("segments.journal"):
            if harm is not None and journal.stat().st_size > 200:
                harm(journal, choice)
    got = done(url, folder)
    return None if got == served.truth[feature] else f"{feature}: {got} instead of {served.truth[feature]}"


def complaints(served: Served, seeds: range, folder: Path) -> dict[int, str]:
    found = {seed: complaint(served, seed, folder / str(seed)) for seed in seeds}
    return {seed: wrong for seed, wrong in found.items() if wrong}


def test_the_undisturbed_runs_make_what_is_meant(served: Served, clips: Path) -> None:
    """Or everything below would prove nothing."""
    assert served.seconds > 0.3
    for name, make in FEATURES.items():
        assert served.truth[name] == (hashlib.sha256(make(clips)[1]).hexdigest(),)
    assert len(served.truth["parts"]) == 3


@pytest.mark.slow
def test_a_transfer_killed_at_random_moments_comes_to_the_same_bytes(served: Served, tmp_path: Path) -> None:
    assert complaints(served, range(SEED, SEED + SAMPLE), tmp_path) == {}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_transfers_killed_at_random_moments_come_to_the_same_bytes(served: Served, tmp_path: Path) -> None:
    assert complaints(served, range(SEED, SEED + SEEDS), tmp_path) == {}


# --- at named points ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def points(served: Served, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The points that an undisturbed run reaches."""
    folder = tmp_path_factory.mktemp("points")
    done(f"{served.url}/parts/list.m3u8", folder / "media", {"TIDEGATE_CRASH_LOG": str(folder / "log")})
    return numbered((folder / "log").read_text().splitlines())


def died_at(point: str, served: Served, folder: Path) -> str | None:
    url, marker = f"{served.url}/parts/list.m3u8", folder / "killed"
    variables = {"TIDEGATE_CRASH_AT": point, "TIDEGATE_CRASH_ONCE": str(marker)}
    folder.mkdir()

    def work(pipe: Pipe) -> None:
        crash_points._plan = crash_points._Plan.of(variables)
        fetch_rendition(url, folder / "media", rendition="120p-300k")

    with forked(work) as child:
        code = child.wait()
    if code != -signal.SIGKILL or not marker.exists():
        return f"nobody died there: {code}"
    return None if done(url, folder / "media") == served.truth["parts"] else "other bytes"


def wrong_at(points: list[str] | tuple[str, ...], served: Served, folder: Path) -> dict[str, str]:
    found = {point: died_at(point, served, folder / str(number)) for number, point in enumerate(points)}
    return {point: wrong for point, wrong in found.items() if wrong}


def test_the_points_that_matter_are_reached(points: tuple[str, ...]) -> None:
    names = {point.rpartition("#")[0] for point in points}
    steps = ("emptied", "written", "synced", "journaled", "assembled", "in place", "whole")
    assert names >= {f"segments: {step}" for step in steps}


def test_a_transfer_that_dies_at_a_point_comes_to_the_same_bytes(
    points: tuple[str, ...], served: Served, tmp_path: Path
) -> None:
    last = [point for point in points if "in place" in point or "assembled" in point][:2]
    assert wrong_at([*last, *spread(points, 3, SEED)], served, tmp_path) == {}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_transfer_that_dies_at_any_point_comes_to_the_same_bytes(
    points: tuple[str, ...], served: Served, tmp_path: Path
) -> None:
    assert wrong_at(points, served, tmp_path) == {}

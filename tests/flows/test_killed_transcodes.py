"""SIGKILL in the midst of a transcode, and the same command again: the very bytes of an undisturbed run come out.

At most one chunk is encoded again for each kill; every picture is there, and the sound to a frame of AAC.
"""

from __future__ import annotations

import os
import random
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest

from tests.support.by_command import by_command
from tests.support.clips import lavfi, make
from tests.support.command import Command, wait_until
from tests.support.crash import Published, Undisturbed, Work, killed_at, undisturbed
from tests.support.fake_tool import allow
from tests.support.films import CLOSED, PICTURE, SOUND, Recipe, shown
from tests.support.leaks import end_children, marking
from tidegate.media.ffmpeg import Toolchain
from tidegate.settings import ToolSettings

pytestmark = pytest.mark.ci


SEED = int(os.environ.get("TIDEGATE_TEST_SEED", "2026"))
SECONDS, CHUNK_SECONDS = 40, 4
KILLS, ALL_KILLS = 2, 20
AAC_FRAME = 1024
POINTS = (
    "chunk: encoded, not journaled#3",
    "chunk: journaled#5",
    "sound: encoded, not journaled#1",
    "chunks: joined, not verified#1",
)
LONGEST_SECONDS = 120.0

MakeWork = Callable[[], tuple[Work, Path]]
"""Each time the same work in folders of its own; and the log of the tool's calls for chunks."""


@pytest.fixture(scope="module")
def source(clips: Path) -> Path:
    recipe = Recipe(".mkv", lavfi(PICTURE, SOUND), (*CLOSED, "-c:a", "libopus"))
    return make(clips, "killed-transcode", recipe, seconds=SECONDS, size="320x240")


@pytest.fixture(scope="module")
def make_work(tmp_path_factory: pytest.TempPathFactory, prefect_server: str, source: Path) -> Iterator[MakeWork]:
    with marking() as mark:

        def make_one() -> tuple[Work, Path]:
            folder = tmp_path_factory.mktemp("work")
            (folder / "film.mkv").symlink_to(source)
            calls = folder / "chunks.log"
            environment = {
                "PREFECT_API_URL": prefect_server,
                "HOME": str(folder),
                "PREFECT_HOME": str(folder / "prefect"),
                "TIDEGATE_PROCESS_CHUNK_SECONDS": str(CHUNK_SECONDS),
                "TIDEGATE_TOOLS_THREADS": "2",
                "TIDEGATE_TOOLS_FFMPEG": counting(folder, calls),
            }
            command = Command(folder, folder / "out", environment, mark)
            return by_command(command, str(folder / "film.mkv")), calls

        yield make_one
        end_children(mark)


def counting(folder: Path, calls: Path) -> str:
    """The real ffmpeg behind a script that notes each chunk which it is asked for."""
    path = folder / "ffmpeg"
    real = Toolchain.find(ToolSettings()).ffmpeg
    path.write_text(f'#!/bin/bash\ncase "$*" in *trim=*) echo chunk >> "{calls}";; esac\nexec "{real}" "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    allow(folder)
    return str(path)


def asked_for(calls: Path) -> int:
    return len(calls.read_text().split()) if calls.exists() else 0


@pytest.fixture(scope="module")
def truth(make_work: MakeWork, source: Path) -> tuple[Undisturbed, int]:
    """What comes of the work when nobody kills it, and how many chunks it takes. It must be right itself."""
    work, calls = make_work()
    told = undisturbed(work)
    [film] = [path for folder in work.output.glob("film-*") for path in folder.glob("*.mp4")]
    assert len(shown(film)) == len(shown(source)) == SECONDS * 25
    assert abs(samples(film) - samples(source)) <= AAC_FRAME
    return told, asked_for(calls)


def samples(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(frame.samples for frame in container.decode(container.streams.audio[0]))


def killed_again_and_again(make_work: MakeWork, truth: tuple[Undisturbed, int], kills: int) -> None:
    """Kill the command at random moments of the transcode, until it has been killed so often; then let it end."""
    told, chunks = truth
    choice = random.Random(SEED + kills)
    work, calls = make_work()
    done = 0
    for _ in range(kills):
        before = work.points.count("remux: started")
        process = work.start(work.variables())
        wait_until(lambda: work.points.count("remux: started") > before or process.poll() is not None, seconds=60)  # noqa: B023
        time.sleep(choice.uniform(0.0, 0.9))
        if process.poll() is None:
            process.kill()
            done += 1
        process.wait(LONGEST_SECONDS)
    assert done == kills, "the transcode was over before it was killed so often"
    assert "remux: made, not recorded" not in work.points
    work.resume(work.variables())
    assert Published.by(work).digests == told.published.digests
    assert asked_for(calls) <= chunks + kills
    assert list(work.left()) == []


@pytest.mark.slow
def test_a_transcode_that_is_killed_twice_encodes_two_chunks_again_at_most(
    make_work: MakeWork, truth: tuple[Undisturbed, int]
) -> None:
    assert truth[1] == SECONDS // CHUNK_SECONDS - 2, "a keyframe every 1.2 s"
    killed_again_and_again(make_work, truth, KILLS)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_transcode_that_is_killed_at_20_random_moments_loses_nothing(
    make_work: MakeWork, truth: tuple[Undisturbed, int]
) -> None:
    killed_again_and_again(make_work, truth, ALL_KILLS)


@pytest.mark.parametrize("point", [POINTS[0], *(pytest.param(point, marks=pytest.mark.slow) for point in POINTS[1:])])
def test_a_transcode_that_is_killed_at_a_point_goes_on_from_there(
    point: str, make_work: MakeWork, truth: tuple[Undisturbed, int]
) -> None:
    told, chunks = truth
    assert point in told.points
    work, calls = make_work()
    assert killed_at(work, point, told) == []
    assert asked_for(calls) <= chunks + 1
    if point == POINTS[0]:
        assert asked_for(calls) == chunks + 1, "what is not in the journal is encoded again"

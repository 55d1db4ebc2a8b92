"""Playlists through the real command: what is published has every frame, whatever the playlist is, whoever dies.

Features and faults one by one are in tests/transfer; here is what only the whole way shows: several files become one
film, a killed run goes on from its segments, a live source ends when it was asked to.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.flows.test_crash_sweep import by_command
from tests.support.aftermath import left_running, unfinished_files
from tests.support.command import Command
from tests.support.crash import Undisturbed, Work, killed_after, killed_at, undisturbed
from tests.support.ladders import cut, hls_text, name_segments, presentation
from tests.support.leaks import end_children, marking
from tests.support.origin import Origin
from tests.support.renditions import frames
from tests.transfer.scripted import Scripted, head
from tests.transfer.test_hls import encrypted_ranges, rotated_keys
from tests.transfer.test_hls_killed import parts

pytestmark = pytest.mark.ci


SEED = int(os.environ.get("TIDEGATE_TEST_SEED", "2026"))


def jumping(clips: Path) -> dict[str, bytes]:
    """A film with a spot in the middle whose timestamps are others."""
    film, spot = cut(clips), cut(clips, begins_at=500.0)
    files = {f"f{number}.ts": film.segments[number] for number in range(6)} | {"spot.ts": spot.segments[0]}
    order = ["f0.ts", "f1.ts", "f2.ts", "spot.ts", "f3.ts", "f4.ts", "f5.ts"]
    before = {3: ["#EXT-X-DISCONTINUITY"], 4: ["#EXT-X-DISCONTINUITY"]}
    return files | {"list.m3u8": hls_text(order, before=before)}


CASES: dict[str, tuple[str, int, Callable[[Path], dict[str, bytes]]]] = {
    "keys that rotate": ("list.m3u8", 200, lambda clips: rotated_keys(clips)[0]),
    "cipher text in ranges": ("list.m3u8", 200, lambda clips: encrypted_ranges(clips)[0]),
    "sound apart, init sections that change": ("list.m3u8", 200, parts),
    "timestamps that jump": ("list.m3u8", 175, jumping),
    "a presentation": ("list.mpd", 150, lambda clips: presentation(clips, timeline=True)),
}


@pytest.mark.parametrize("case", CASES)
def test_every_frame_is_published(case: str, command: Command, clips: Path) -> None:
    name, expected, files = CASES[case]
    with Origin(dict(files(clips))) as origin:
        ended = command.run(origin.url(name))
    assert ended.code == 0, ended.stderr
    assert frames(published(command)) == expected
    assert ended.document["output"]["duration_seconds"] == pytest.approx(expected / 25, abs=0.25)
    assert len(ended.document["output"]["audio"] or []) > 0
    assert (left_running(command), unfinished_files(command)) == ([], [])


def test_a_live_source_is_published_for_as_long_as_was_asked(command: Command, clips: Path) -> None:
    looks = iter(())

    with Origin(dict(name_segments(cut(clips), "s{}.ts"))) as origin:

        def script(asked: dict[str, str]) -> Iterator[bytes]:
            first = min(next(looks), 4)
            links = [origin.url(f"s{number}.ts") for number in range(first, first + 3)]
            body = hls_text(links, sequence=first, ended=False)
            yield head(200, {"Content-Type": "application/vnd.apple.mpegurl", "Content-Length": str(len(body))}) + body

        with Scripted(script) as channel:
            for recordings in (1, 2):
                looks = iter(range(1000))
                ended = command.run(channel.url("live.m3u8"), "--duration", "4")
                assert ended.code == 0, ended.stderr
                assert frames(Path(ended.document["output"]["path"])) in (100, 125)
                assert len(command.published()) == recordings, "the next one takes nobody's place"


# --- killed ---------------------------------------------------------------------------------------

MakeWork = Callable[[], Work]


@pytest.fixture(scope="module")
def make_work(tmp_path_factory: pytest.TempPathFactory, prefect_server: str, clips: Path) -> Iterator[MakeWork]:
    slow = dict.fromkeys(("*.m4s", "s*.ts"), "throttle 60K")
    with marking() as mark, Origin(dict(parts(clips)), stories=slow) as origin:

        def make() -> Work:
            folder = tmp_path_factory.mktemp("work")
            environment = {
                "PREFECT_API_URL": prefect_server,
                "HOME": str(folder),
                "PREFECT_HOME": str(folder / "prefect"),
            }
            return by_command(Command(folder, folder / "out", environment, mark), origin.url("list.m3u8"))

        yield make
        end_children(mark)


@pytest.fixture(scope="module")
def truth(make_work: MakeWork) -> Undisturbed:
    return undisturbed(make_work())


@pytest.mark.first
def test_a_run_killed_among_its_segments_goes_on_and_publishes_the_same_film(
    make_work: MakeWork, truth: Undisturbed
) -> None:
    among = [point for point in truth.points if point.startswith("segments: ")]
    assert len(among) > 40
    for point in (random.Random(SEED).choice(among), "segments: assembled#1"):
        assert other_film(killed_at(make_work(), point, truth), truth) == [], point


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_run_killed_anywhere_goes_on_and_publishes_the_same_film(make_work: MakeWork, truth: Undisturbed) -> None:
    choice = random.Random(SEED)
    moments = [round(choice.uniform(0.0, truth.seconds), 3) for _ in range(25)]
    found = {moment: other_film(killed_after(make_work(), moment, truth), truth) for moment in moments}
    assert {moment: wrong for moment, wrong in found.items() if wrong} == {}


def other_film(complaints: list[str], truth: Undisturbed) -> list[str]:
    """What is wrong, but for the picture of the waveform: ffmpeg does not draw it the same each time."""
    film = truth.published.digests["list.mp4"]
    return [told for told in complaints if not (told.startswith("other files") and told.count(film) == 2)]


def published(command: Command) -> Path:
    [film] = [path for folder in command.published() for path in folder.glob("*.mp4")]
    return film

"""SIGKILL at every point that the undisturbed run reaches, and at random moments: the same command again goes on.

The output is published exactly once, with the very bytes of the undisturbed run, no stage is done again that the kill
did not hit, and nothing is left. How it works, and how to sweep a flow of your own: docs/crash-testing.md.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.by_command import by_command
from tests.support.clips import bulk_clip, clip
from tests.support.command import Command
from tests.support.crash import Undisturbed, Work, killed_after, killed_at, spread, undisturbed
from tests.support.leaks import end_children, marking
from tests.support.origin import Origin

pytestmark = pytest.mark.ci


SEED = int(os.environ.get("TIDEGATE_TEST_SEED", "2026"))
SAMPLE, RANDOM_KILLS = 2, 2
"""Of each source, where the sweep is not to be long."""
ALL_RANDOM_KILLS = 25
"""Of each source."""
MIB = 1024 * 1024

At = TypeVar("At", str, float)

MakeWork = Callable[[], Work]
"""Each time the same work, in folders of its own."""


@pytest.fixture(scope="module", params=[pytest.param("local file", marks=pytest.mark.slow), "http"])
def make_work(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, prefect_server: str, clips: Path
) -> Iterator[MakeWork]:
    film = clip(clips) if request.param == "local file" else bulk_clip(clips, 4 * MIB)
    # A journal after each MiB, and a connection that breaks on the way: points inside the transfer too.
    with marking() as mark, Origin({"film.mp4": film}) as origin:

        def make() -> Work:
            folder = tmp_path_factory.mktemp("work")
            origin.tell("film.mp4", "2M drop, ok")  # anew: the runs before this one have taken its steps
            local = folder / "film.mp4"
            local.symlink_to(film)
            environment = {
                "PREFECT_API_URL": prefect_server,
                "HOME": str(folder),
                "PREFECT_HOME": str(folder / "prefect"),
                "TIDEGATE_TRANSFER_CHECKPOINT_BYTES": str(MIB),
                "TIDEGATE_TRANSFER_CHECKPOINT_INTERVAL": "3600",
            }
            source = str(local) if request.param == "local file" else origin.url("film.mp4")
            return by_command(Command(folder, folder / "out", environment, mark), source)

        yield make
        end_children(mark)


@pytest.fixture(scope="module")
def truth(make_work: MakeWork) -> Undisturbed:
    return undisturbed(make_work())


def test_the_undisturbed_run_reaches_the_points_that_matter(truth: Undisturbed) -> None:
    """Or the sweep would prove nothing."""
    reached = [point.rpartition("#")[0] for point in truth.points]
    for stage in ("probe", "download", "remux", "analyze", "publish"):
        at = [reached.index(f"{stage}: {moment}") for moment in ("started", "made, not recorded", "recorded")]
        assert at == sorted(at)
    for point in (
        *("part: written", "part: synced", "write source.journal: synced", "write source.journal: renamed"),
        *("store source: prepared", "swap *: prepared", "swap *: in place", "store source: moved"),
        *("copy film.mp4: synced", "write report.json: synced", "swap film-*: prepared", "swap film-*: in place"),
    ):
        assert point in reached
    assert reached.index("swap film-*: in place") < reached.index("publish: made, not recorded")


def test_a_run_that_is_killed_at_a_point_goes_on_from_there(make_work: MakeWork, truth: Undisturbed) -> None:
    """Where the output has just become visible, and a sample of the other points."""
    points = ["swap film-*: in place#1", *spread(truth.points, SAMPLE, SEED)]
    assert complaints(killed_at, make_work, points, truth) == {}


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_run_that_is_killed_at_any_point_goes_on_from_there(make_work: MakeWork, truth: Undisturbed) -> None:
    assert complaints(killed_at, make_work, truth.points, truth) == {}


@pytest.mark.slow
def test_a_run_that_is_killed_at_a_random_moment_goes_on_from_there(make_work: MakeWork, truth: Undisturbed) -> None:
    assert complaints(killed_after, make_work, moments(truth, RANDOM_KILLS), truth) == {}


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_run_that_is_killed_at_many_random_moments_goes_on_from_there(
    make_work: MakeWork, truth: Undisturbed
) -> None:
    assert complaints(killed_after, make_work, moments(truth, ALL_RANDOM_KILLS), truth) == {}


def moments(truth: Undisturbed, number: int) -> list[float]:
    """Seeded, over the whole way and a little beyond its end."""
    choice = random.Random(SEED)
    return [round(choice.uniform(0.0, 1.05 * truth.seconds), 4) for _ in range(number)]


def complaints(
    kill: Callable[[Work, At, Undisturbed], list[str]], make_work: MakeWork, places: Iterable[At], truth: Undisturbed
) -> dict[At, list[str]]:
    """By the place of the kill; what went well is not told."""
    found = {place: kill(make_work(), place, truth) for place in dict.fromkeys(places)}
    return {place: wrong for place, wrong in found.items() if wrong}

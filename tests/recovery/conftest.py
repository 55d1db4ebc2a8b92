"""One site for all of these tests: starting one takes longer than most of what is proven with it. It ends with them,
because its server and worker cost the tests after them a quarter of a core."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.clips import bulk_clip, clip
from tests.support.disaster import MIB, Undisturbed, undisturbed, without_automation
from tests.support.site import Site, started_site

SETTLE_SECONDS = 3
"""More than the 2 s after which a worker repeats itself."""
FILM_BYTES = 8 * MIB
TIMEOUT_SECONDS = 600
"""What is killed here is waited for in minutes, and the first test of a file pays for its disaster."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Patience for these tests, where they do not ask for their own."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_SECONDS))


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Server, worker and deployments; the caretakers run when a test says so."""
    with started_site(tmp_path_factory.mktemp("site"), {"TIDEGATE_RECOVERY_SETTLE": str(SETTLE_SECONDS)}) as site:
        without_automation(site)
        yield site


@pytest.fixture(scope="session")
def films(clips: Path) -> Mapping[str, Path]:
    """By what they are good for."""
    return {
        "bulky": bulk_clip(clips, FILM_BYTES),
        "transcoded": clip(clips, "h264_10bit_mp4", seconds=60),
        "copied": clip(clips, "h264_aac_mp4", seconds=5),
        "minute": clip(clips, "h264_aac_mp4", seconds=60),
    }


@pytest.fixture(scope="session")
def fresh(films: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A copy of a film that gives the same media, and whose bytes no run has seen: no checkpoint fits them."""
    folder, numbers = tmp_path_factory.mktemp("films"), itertools.count(1)

    def copied(film: str) -> Path:
        number = next(numbers)
        copy = folder / f"{film}-{number}.mp4"
        copy.write_bytes(films[film].read_bytes() + struct.pack(">I4sQ", 16, b"free", number))
        return copy

    return copied


@pytest.fixture(scope="package")
def straight(site: Site, films: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    """What an undisturbed command publishes of every film, in a home of its own."""
    with undisturbed(site, tmp_path_factory.mktemp("straight"), films) as straight:
        yield straight

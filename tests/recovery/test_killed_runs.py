"""A run process that is killed at any moment: one recover, and the run ends once, as if nothing had been."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.support.command import wait_until
from tests.support.disaster import (
    DETACHED,
    MIB,
    STUBBORN,
    Folders,
    Fresh,
    Triggered,
    Undisturbed,
    is_slow_now,
    processes_of,
    recover_here,
    slow_once,
    triggered,
    went_on_well,
)
from tests.support.origin import Origin, Resource
from tests.support.site import Site


@dataclass
class Killed:
    """A run, and what was seen of it."""

    run: Triggered
    folders: Folders
    film: str
    attempts: int = 2
    """How many the ledger must have in the end."""
    at: float = 0.0
    left: list[str] = field(default_factory=list)
    """What lived of it right after the kill."""

    def kill(self) -> None:
        self.at = self.run.kill()
        wait_until(lambda: not self._flow_process(), seconds=10, what="for the killed process to go")
        self.left = processes_of(self.run)

    def _flow_process(self) -> list[str]:
        return [words for words in processes_of(self.run) if "prefect.engine" in words]


MOMENTS = (
    "during the download",
    "during ffmpeg",
    "while it waits for a slot",
    "before its attempt",
    "when all is done",
)


@pytest.fixture(scope="module")
def origin(fresh: Fresh) -> Iterator[Origin]:
    with Origin({"film.mp4": Resource(fresh("bulky"), story="throttle 1M, ok")}) as origin:
        yield origin


@pytest.fixture(scope="module")
def killed(
    site: Site,
    origin: Origin,
    fresh: Fresh,
    straight: Undisturbed,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Killed]]:
    """Five runs side by side, each killed at its moment, and one recover for them all."""
    folder = tmp_path_factory.mktemp("tools")
    one_slot = {"TIDEGATE_ADMISSION_SLOTS": "1"}
    tool = slow_once(folder, f"{STUBBORN}\n{DETACHED}", slowly="-readrate 0.4")
    slowly = {"TIDEGATE_TOOLS_FFMPEG": str(tool)}
    at_the_end = {"TIDEGATE_CRASH_AT": "publish: recorded", "TIDEGATE_CRASH_ONCE": str(folder / "crashed")}
    with ExitStack() as stack:

        def begin(film: str, environment: dict[str, str], source: str = "", attempts: int = 2) -> Killed:
            run = triggered(site, film, source or str(fresh(film)), environment)
            return Killed(run, stack.enter_context(Folders(run.output).watched()), film, attempts)

        downloading = begin("bulky", {}, origin.url("film.mp4"))
        in_ffmpeg = begin("transcoded", slowly | one_slot)
        done = begin("copied", at_the_end)
        wait_until(lambda: origin.bytes_sent("film.mp4") >= 3 * MIB, seconds=240)
        downloading.kill()
        wait_until(lambda: is_slow_now(tool), seconds=240)
        done.run.wait("CRASHED")

        unborn = begin("copied", {}, attempts=1)
        waiting = begin("copied", one_slot)
        unborn.kill()
        waiting.run.wait_for(lambda one: (one.waiting_for or "").startswith("processing slot"))
        waiting.kill()
        in_ffmpeg.kill()
        every = dict(zip(MOMENTS, (downloading, in_ffmpeg, waiting, unborn, done), strict=True))
        for one in every.values():
            one.run.wait("CRASHED")
        downloading.run.wait_for_last_word()
        recover_here(site)
        yield every


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_is_killed_goes_on_and_ends_once(
    moment: str, killed: dict[str, Killed], straight: Undisturbed
) -> None:
    one = killed[moment]
    one.run.wait("COMPLETED")
    went_on_well(one.run, one.folders, straight.media(one.film), attempts=one.attempts)


def test_a_killed_download_goes_on_where_it_was(
    killed: dict[str, Killed], origin: Origin, films: Mapping[str, Path]
) -> None:
    killed["during the download"].run.wait("COMPLETED")
    again = origin.bytes_sent("film.mp4") / films["bulky"].stat().st_size
    assert again <= 1.3, f"{again:.2f} times the film"


def test_grandchildren_that_ignore_term_are_ended_with_the_attempt(killed: dict[str, Killed]) -> None:
    assert len([words for words in killed["during ffmpeg"].left if words == "sleep 600"]) == 2, "they outlived the kill"
    killed["during ffmpeg"].run.wait("COMPLETED")
    assert processes_of(killed["during ffmpeg"].run) == []


def test_a_killed_run_is_scheduled_again_without_a_pause(killed: dict[str, Killed]) -> None:
    """The promise is one interval of recover and 30 s; what is in our hands of the 30 s is for when we schedule it."""
    one = killed["while it waits for a slot"].run
    one.wait("COMPLETED")
    [again] = [state for state in one.site.history(one.id) if state["name"] == "AwaitingRecovery"]
    begins, decided = (
        datetime.fromisoformat(at) for at in (again["state_details"]["scheduled_time"], again["timestamp"])
    )
    assert abs(begins - decided) <= timedelta(seconds=1)

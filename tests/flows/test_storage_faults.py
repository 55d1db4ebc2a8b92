"""Disks that fail under a run: it says so, publishes nothing damaged, and the same command goes on when they are well.

Full, out of names, read-only, refusing to sync; a journal that the crash tore. Each is made for real, and the film that
is published in the end has the very bytes of an undisturbed run.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.aftermath import (
    end_of,
    failure_told,
    left_running,
    made_now,
    nothing_left_but_evidence,
    secret_files,
    unfinished_files,
    wait_in,
    witness,
    works,
)
from tests.support.clips import bulk_clip
from tests.support.command import Command, Ended, wait_until
from tests.support.disks import fill, read_only, remount, syncs_fail, syncs_failing, volume
from tests.support.leaks import marking
from tests.support.origin import Origin, Resource

MIB = 1024 * 1024
PATIENCE = {"TIDEGATE_LEDGER_PATIENCE": "3", "TIDEGATE_ADMISSION_LIMIT": "2"}
"""A run waits for its ledger and for space, but not for the length of a test."""
SLOWLY = "-readrate 0.1"
"""For ffmpeg: a step that lasts long enough for something to happen to it."""


@dataclass
class Film:
    """A film at an origin, and what an undisturbed run publishes of it."""

    origin: Origin
    path: Path
    published: bytes

    @property
    def url(self) -> str:
        return self.origin.url("film.mp4")

    @property
    def sent(self) -> int:
        return self.origin.bytes_sent("film.mp4")

    def again(self, story: str = "ok") -> None:
        """Serve it anew, by another story; what was sent before does not count any more."""
        self.origin.tell("film.mp4", story)
        self.before = self.sent

    before: int = field(default=0)

    @property
    def sent_now(self) -> int:
        return self.sent - self.before


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, prefect_server: str, clips: Path
) -> Iterator[tuple[Origin, Path, bytes]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    film = bulk_clip(clips, 4 * MIB)
    environment = {"PREFECT_API_URL": prefect_server, "HOME": str(folder), "PREFECT_HOME": str(folder / "prefect")}
    with marking() as mark, Origin({"film.mp4": Resource(film)}) as origin:
        ended = Command(folder, folder / "out", environment, mark).run(origin.url("film.mp4"))
        assert ended.code == 0, ended.stderr
        yield origin, film, Path(ended.document["output"]["path"]).read_bytes()


@pytest.fixture
def film(undisturbed: tuple[Origin, Path, bytes]) -> Film:
    origin, path, published = undisturbed
    film = Film(origin, path, published)
    film.again()
    return film


@pytest.fixture
def patient(command: Command) -> Command:
    command.environment |= PATIENCE
    return command


def home_of(command: Command) -> Path:
    return command.home / "tidegate"


def attempts(command: Command) -> list[dict[str, Any]]:
    """The ledger's rows, the oldest first; none where there is no ledger."""
    file = home_of(command) / "ledger.db"
    if not file.exists():
        return []
    with closing(sqlite3.connect(file)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM attempts ORDER BY created_at")]


def held_works(command: Command) -> list[str]:
    with closing(sqlite3.connect(home_of(command) / "ledger.db")) as connection:
        return [key for (key,) in connection.execute("SELECT work_key FROM works WHERE holder IS NOT NULL")]


def healed(command: Command, source: str, published: bytes, *, anew: list[str] | None = None) -> Ended:
    """The same command, now that nothing is in its way: all is well, and as if nothing had ever happened."""
    ended = command.run(source)
    assert ended.code == 0, ended.stderr
    if anew is not None:
        assert made_now(ended) == anew
    whole_and_clean(command, ended, published)
    return ended


def whole_and_clean(command: Command, ended: Ended, published: bytes) -> None:
    """What a completed run shows and leaves."""
    assert ended.document["status"] == "completed"
    assert Path(ended.document["output"]["path"]).read_bytes() == published
    folder = Path(ended.document["report"]["json"]).parent
    assert list(folder.glob("*.err.log")) == [], "the failure is over"
    assert left_running(command) == []
    assert unfinished_files(command) == [] and secret_files(command) == []
    assert list((home_of(command) / "scratch").iterdir()) == []
    assert attempts(command)[-1]["state"] == "completed"
    assert held_works(command) == []


# --- a full disk ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("full", ["store", "output"])
def test_a_run_waits_for_space_then_says_where_it_lacks_and_later_goes_on(
    full: str, patient: Command, film: Film
) -> None:
    with volume(home_of(patient), "size=60m") as store, volume(patient.output, "size=60m") as output:
        lacking = store if full == "store" else output
        ballast = fill(lacking, leave_bytes=3 * MIB if full == "store" else MIB)  # what probing takes, and little more
        ended = patient.run(film.url)
        failure = failure_told(ended, code=1, kind="admission_refused")
        assert str(lacking) in failure["message"] and failure["stage"] == "download" and failure["retryable"]
        assert "Waiting for" in ended.stderr and str(lacking) in ended.stderr
        ballast.unlink()
        nothing_left_but_evidence(patient)
        assert attempts(patient)[-1]["failure"] == "admission_refused"
        healed(patient, film.url, film.published, anew=["download", "remux", "analyze", "publish"])


@pytest.mark.slow
def test_a_store_that_fills_up_during_the_download_takes_the_ledger_along_and_keeps_what_came(
    patient: Command, film: Film
) -> None:
    film.again("throttle 1M")
    with volume(home_of(patient), "size=60m") as store:
        with patient.started(film.url) as process:
            wait_in(process, lambda: film.sent_now >= 2 * MIB)
            ballast = fill(store)
            ended = end_of(process)
        failure = failure_told(ended, code=1, kind="disk_full")
        assert failure["stage"] == "download" and failure["retryable"]
        ballast.unlink()
        nothing_left_but_evidence(patient)
        film.again()
        again = healed(patient, film.url, film.published, anew=["download", "remux", "analyze", "publish"])
        assert again.document["download"]["bytes_reused"] > 0


@pytest.mark.slow
def test_a_store_that_fills_up_under_ffmpeg_loses_only_that_step(patient: Command, film: Film, tmp_path: Path) -> None:
    slow = witness(tmp_path, options=SLOWLY)
    patient.environment["TIDEGATE_TOOLS_FFMPEG"] = str(slow)
    with volume(home_of(patient), "size=60m") as store:
        with patient.started(film.url) as process:
            wait_in(process, lambda: works(slow))
            ballast = fill(store)
            ended = end_of(process)
        failure = failure_told(ended, code=1, kind="disk_full")
        assert failure["stage"] == "remux" and len(works(slow)) == 1, "space is no matter of strategy"
        ballast.unlink()
        nothing_left_but_evidence(patient)
        del patient.environment["TIDEGATE_TOOLS_FFMPEG"]
        healed(patient, film.url, film.published, anew=["remux", "analyze", "publish"])


@pytest.mark.slow
def test_an_output_that_takes_no_more_files_half_way_leaves_the_earlier_success_as_it_was(
    patient: Command, film: Film
) -> None:
    with volume(patient.output, "size=60m,nr_inodes=100") as output:
        first = patient.run(film.url)
        assert first.code == 0, first.stderr
        folder = Path(first.document["report"]["json"]).parent
        before = content_of(folder)
        names = 1 + sum(1 for _ in output.rglob("*"))
        remount(output, f"nr_inodes={names + 3}")  # the new folder and the film fit, the pictures do not
        ended = patient.run(film.url, "--refresh")
        failure = failure_told(ended, code=1, kind="disk_full")
        assert failure["stage"] == "publish" and str(output) in failure["message"]
        assert {name: text for name, text in content_of(folder).items() if not name.endswith(".err.log")} == before
        assert patient.published() == [folder] and left_running(patient) == [] and unfinished_files(patient) == []
        remount(output, "nr_inodes=100")
        healed(patient, film.url, film.published, anew=["publish"])


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- a disk that cannot be written ----------------------------------------------------------------


@pytest.mark.parametrize("stage", ["remux", pytest.param("download", marks=pytest.mark.slow)])
def test_a_home_that_becomes_read_only_under_a_run_is_told_and_the_run_goes_on_later(
    stage: str, patient: Command, film: Film, tmp_path: Path
) -> None:
    slow = witness(tmp_path, options=SLOWLY)
    patient.environment["TIDEGATE_TOOLS_FFMPEG"] = str(slow)
    film.again("throttle 1M" if stage == "download" else "ok")
    with volume(home_of(patient), "size=60m") as home:
        with patient.started(film.url) as process:
            wait_in(process, lambda: works(slow) if stage == "remux" else film.sent_now >= 2 * MIB)
            with read_only(home):
                ended = end_of(process)
        failure = failure_told(ended, code=1, kind="permission_refused")
        # The ledger, which lies there too, may notice it first; that is none of the stage.
        assert failure["stage"] in (stage, None) and str(home) in failure["message"]
        assert "Read-only" in failure["message"]
        assert left_running(patient) == []
        assert [folder.name for folder in patient.published() if list(folder.glob("*.mp4"))] == []
        film.again()
        del patient.environment["TIDEGATE_TOOLS_FFMPEG"]
        healed(patient, film.url, film.published)


def test_results_that_cannot_be_recorded_are_told_and_the_run_is_right_all_the_same(
    patient: Command, film: Film
) -> None:
    with volume(home_of(patient) / "results", "size=1m,ro"):
        ended = patient.run(film.url)
        assert ended.code == 0, ended.stderr
        whole_and_clean(patient, ended, film.published)
        assert json.loads(attempts(patient)[-1]["records"]) == {}, "no checkpoint is claimed that there is not"
        assert "could not be recorded" in ended.stderr


def test_a_failure_that_cannot_be_recorded_is_still_that_failure(patient: Command, film: Film, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(film.path.read_bytes()[: film.path.stat().st_size // 2])
    with volume(home_of(patient) / "results", "size=1m,ro"):
        failure_told(patient.run(str(cut)), code=1, kind="truncated_media")
        nothing_left_but_evidence(patient)


# --- a disk that does not sync --------------------------------------------------------------------


@pytest.mark.slow
def test_a_part_that_is_not_safe_on_disk_is_not_believed_and_the_stage_runs_again(patient: Command, film: Film) -> None:
    film.again("throttle 1M, ok")
    with patient.started(film.url) as process:
        wait_in(process, lambda: film.sent_now >= 2 * MIB)
        (part,) = (home_of(patient) / "scratch").rglob("*.part")
        with syncs_failing(process.pid, part):
            wait_in(process, lambda: retried(patient))
        ended = end_of(process, seconds=90)
    assert ended.code == 0, ended.stderr
    whole_and_clean(patient, ended, film.published)
    assert ended.document["download"]["bytes_reused"] > 0, "what was safe is kept"
    assert "it is tried again in 10 s" in ended.stderr


def retried(command: Command) -> bool:
    """Whether its download has failed and waits for the next try; the ledger tells it to everybody."""
    return attempts(command)[-1]["waiting_for"] == "the next try of download"


@pytest.mark.slow
def test_a_ledger_that_is_not_safe_on_disk_stops_the_run_before_it_begins(patient: Command, film: Film) -> None:
    home = home_of(patient)
    untouched = film.sent_now
    ledger = [home / f"ledger.db{suffix}" for suffix in ("", "-wal", "-journal")]
    failure = failure_told(traced(patient, film.url, *ledger), code=1, kind="ledger_unavailable")
    assert failure["retryable"] and film.sent_now == untouched, "nothing was asked of the source"
    nothing_left_but_evidence(patient)
    healed(patient, film.url, film.published)


@pytest.mark.slow
def test_whatever_does_not_sync_for_good_ends_the_run_and_damages_nothing(
    tmp_path: Path, patient: Command, film: Film
) -> None:
    """Each waits out the task's retries, 70 s, so all of them do it at once."""
    known = patient.run(str(film.path))
    assert known.code == 0, known.stderr
    key = known.document["work_key"]
    stored = [path.relative_to(home_of(patient)) for path in (home_of(patient) / "assets").glob("*/*")]
    targets: dict[str, Callable[[Command], Path]] = {
        "the part": lambda one: home_of(one) / "scratch" / key / "source" / "source.part",
        "the part's folder": lambda one: home_of(one) / "scratch" / key / "source",
        "the output folder": lambda one: one.output,
        **{f"asset {path}": lambda one, path=path: home_of(one) / path.parent for path in stored},  # type: ignore[misc]
    }
    runs = []
    for number, target in enumerate(targets.values()):
        home = tmp_path / f"home-{number}"
        home.mkdir()
        one = Command(home, tmp_path / f"out-{number}", patient.environment, patient.mark)
        path = target(one)
        argv = [*syncs_fail(path), *one.argv((str(film.path),), True)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        runs.append((one, path, subprocess.Popen(argv, env=one.env(), cwd=home, **pipes)))  # type: ignore[call-overload]
    ended = [(one, path, end_of(process, seconds=400)) for one, path, process in runs]
    for one, path, end in ended:
        if (
            end.code or path.parent != home_of(one) / "assets"
        ):  # where an asset's name lies; the next try finds it there
            failure_told(end, code=1, kind="store_unavailable")
        assert unfinished_files(one) == [], path
        for video in one.output.rglob("*.mp4"):
            assert end.code == 0 or path == one.output, path
            assert video.read_bytes() == film.published, "in place, though not said to be"
        healed(one, str(film.path), film.published)


def traced(command: Command, source: str, *unsafe: Path) -> Ended:
    """Run the command while these files do not sync."""
    with subprocess.Popen(
        [*syncs_fail(*unsafe), *command.argv((source,), True)],
        env=command.env(),
        cwd=command.home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    ) as process:
        return end_of(process, seconds=120)


# --- a journal that the crash tore -----------------------------------------------------------------


def torn(journal: Path, _: bytes) -> None:
    os.truncate(journal, journal.stat().st_size // 2)


def lost(journal: Path, _: bytes) -> None:
    journal.unlink()


def one_behind(journal: Path, earlier: bytes) -> None:
    journal.write_bytes(earlier)


@pytest.mark.parametrize(
    "damage", [pytest.param(torn, marks=pytest.mark.slow), pytest.param(lost, marks=pytest.mark.slow), one_behind]
)
def test_a_damaged_journal_costs_at_most_what_it_told(
    damage: Callable[[Path, bytes], None], patient: Command, film: Film
) -> None:
    patient.environment["TIDEGATE_TRANSFER_CHECKPOINT_INTERVAL"] = "0.2"
    film.again("throttle 1M, ok")
    scratch = home_of(patient) / "scratch"
    with patient.started(film.url) as process:
        wait_in(process, lambda: film.sent_now >= 1.5 * MIB)
        (journal,) = scratch.rglob("*.journal")
        earlier = journal.read_bytes()
        wait_in(process, lambda: journal.read_bytes() != earlier and film.sent_now >= 2.5 * MIB)
        process.send_signal(signal.SIGKILL)
        assert end_of(process).code == -signal.SIGKILL
    wait_until(lambda: left_running(patient) == [], seconds=5)
    damage(journal, earlier)
    ended = healed(patient, film.url, film.published)
    size, reused = film.path.stat().st_size, ended.document["download"]["bytes_reused"]
    assert reused == (json.loads(earlier)["received_bytes"] if damage is one_behind else 0)
    assert ended.document["download"]["bytes_received"] + reused == size

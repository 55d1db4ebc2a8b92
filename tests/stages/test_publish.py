"""The folder that a person opens: whole or not at all, whatever was there and whatever goes wrong."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.stages.conftest import Made
from tests.support.leaks import leftovers
from tidegate.durable.atomic import copy_file
from tidegate.durable.hashing import blake3_of
from tidegate.durable.threads import in_thread
from tidegate.errors import DiskFull, Evidence, PermissionRefused, StoreUnavailable, Superseded, TruncatedMedia
from tidegate.model import Identity, Outcome, ProfileName, PublishResult, Quality
from tidegate.report.failure import describe
from tidegate.stages import Workbench, analyze, publish, publish_failure, remux
from tidegate.stages.publish import LONGEST_SLUG, folder_before_identity, folder_name, folder_of, slug, slug_of


@pytest.fixture(scope="module")
def outcome(bench: Workbench, made: Made) -> Outcome:
    """A run that has everything but its folder."""
    source = made("h264_aac_mp4")
    media = anyio.run(remux, bench, source, ProfileName.UNIVERSAL, Quality.AUTO, "publish")
    analysis = anyio.run(analyze, bench, media, "publish")
    return Outcome(status="completed", source="http://origin/film.mp4", download=source, remux=media, analysis=analysis)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out" / "my-film-0a1b2c3d"


def published(bench: Workbench, outcome: Outcome, target: Path) -> PublishResult:
    return anyio.run(publish, bench, outcome, target)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def failed(outcome: Outcome, message: str = "The file ends early") -> Outcome:
    evidence = Evidence(url="http://origin/film.mp4?token=REDACTED", output_tail="last words")
    failure = describe(TruncatedMedia(message, evidence=evidence, stage="download"), now=datetime.now(UTC))
    return outcome.model_copy(update={"status": "failed", "failure": failure, "remux": None, "analysis": None})


def test_the_folder_holds_the_film_the_report_and_the_pictures(
    bench: Workbench, outcome: Outcome, target: Path
) -> None:
    result = published(bench, outcome, target)
    assert set(contents(target)) == {
        "my-film.mp4", "report.html", "report.json", "my-film.meta.json", "contact-sheet.jpg", "waveform.png",
    }  # fmt: skip
    assert {track.name for track in result.tracks} == set(contents(target))
    assert result.video == target / "my-film.mp4"
    assert json.loads((target / "report.json").read_text())["status"] == "completed"
    assert leftovers(target.parent) == []


def test_the_film_is_a_copy_that_can_be_edited_without_harm_to_the_store(
    bench: Workbench, outcome: Outcome, target: Path
) -> None:
    assert outcome.remux is not None
    video = published(bench, outcome, target).video
    stored = bench.store.path(outcome.remux.asset)
    assert video.read_bytes() == stored.read_bytes()
    assert (video.stat().st_nlink, video.stat().st_ino == stored.stat().st_ino) == (1, False)
    with video.open("r+b") as file:
        file.write(b"edited")
    assert bench.store.whole(outcome.remux.asset)


@pytest.mark.parametrize("published_before", [False, True])
def test_what_killed_runs_left_beside_the_folder_is_cleared_away(
    published_before: bool, bench: Workbench, outcome: Outcome, target: Path
) -> None:
    if published_before:
        published(bench, outcome, target)
    for name in ("0badcafe", "0badcaff"):
        copy = target.with_name(f".{target.name}.{name}.tmp")
        copy.mkdir(parents=True)
        (copy / "my-film.mp4").write_bytes(b"half")
    others = target.with_name(".my-film-99999999.0badcafe.tmp")
    others.mkdir()
    published(bench, outcome, target)
    assert [path for path in target.parent.iterdir() if path not in (target, others)] == []


def test_an_earlier_success_that_a_crash_left_aside_goes_only_when_there_is_another(
    bench: Workbench, outcome: Outcome, target: Path
) -> None:
    published(bench, outcome, target)
    aside = target.rename(target.with_name(f".{target.name}.0badcafe.tmp"))
    assert outcome.remux is not None
    huge = outcome.remux.asset.main.model_copy(update={"size_bytes": 10**18})
    asset = outcome.remux.asset.model_copy(update={"tracks": (huge,)})
    with pytest.raises(DiskFull):
        published(
            bench, outcome.model_copy(update={"remux": outcome.remux.model_copy(update={"asset": asset})}), target
        )
    assert (aside / "my-film.mp4").exists()
    published(bench, outcome, target)
    assert not aside.exists() and (target / "my-film.mp4").exists()


def test_a_cancelled_run_waits_for_no_hash_of_a_big_film(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    with film.open("wb") as file:
        file.truncate(512 * 10**9)  # minutes of hashing

    async def cancelled_soon() -> None:
        task = asyncio.ensure_future(in_thread(blake3_of, film))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled_soon())
    workers = [thread for thread in threading.enumerate() if thread.name.startswith("AnyIO worker")]
    for thread in workers:
        thread.join(60)
    assert not any(thread.is_alive() for thread in workers)


def test_a_copy_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"x" * 100)
    if reflinks(tmp_path):
        pytest.skip("there are no blocks to copy on this file system")

    def give_up() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        copy_file(tmp_path / "film.mp4", tmp_path / "copy.mp4", give_up)
    assert not (tmp_path / "copy.mp4").exists()


def reflinks(folder: Path) -> bool:
    calls: list[int] = []
    (folder / "probe").write_bytes(b"x")
    copy_file(folder / "probe", folder / "probe2", lambda: calls.append(1))
    return not calls


def test_the_page_needs_nothing_but_itself(bench: Workbench, outcome: Outcome, target: Path) -> None:
    published(bench, outcome, target)
    page = (target / "report.html").read_text()
    assert page.count("data:image/") == 2
    assert not re.search(r"""src=["'](?!data:)""", page)
    for link in re.findall(r"""href=["'](?!#)([^"']*)""", page):
        assert (target / unquote(link)).is_file(), f"{link} is not beside it"
    assert "<script" not in page


def test_an_older_folder_is_replaced_whole(bench: Workbench, outcome: Outcome, target: Path) -> None:
    target.mkdir(parents=True)
    (target / "my-film.err.log").write_text("it failed yesterday")
    published(bench, outcome, target)
    assert "my-film.err.log" not in contents(target)
    assert leftovers(target.parent) == []


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_damaged_asset_is_not_published_and_the_earlier_folder_stays(
    damage: str, bench: Workbench, outcome: Outcome, target: Path, tmp_path: Path
) -> None:
    published(bench, analyzed_again(outcome), target)
    before = contents(target)
    other = Workbench(bench.settings.model_copy(update={"store": bench.settings.store.model_copy(
        update={"home": tmp_path / "home"})}))  # fmt: skip
    shutil.copytree(bench.home.assets, other.home.assets)
    assert outcome.remux is not None
    asset = other.store.path(outcome.remux.asset)
    asset.unlink()
    if damage == "changed":
        asset.write_bytes(b"x" * outcome.remux.asset.main.size_bytes)
    with pytest.raises(StoreUnavailable):
        published(other, outcome, target)
    assert contents(target) == before
    assert leftovers(target.parent) == []


# --- exactly once ---------------------------------------------------------------------------------


def inodes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in (folder, *folder.iterdir())}


def analyzed_again(outcome: Outcome) -> Outcome:
    assert outcome.analysis is not None
    later = outcome.analysis.model_copy(update={"recorded_at": outcome.analysis.recorded_at + timedelta(hours=1)})
    return outcome.model_copy(update={"analysis": later})


def test_a_folder_that_was_swapped_in_but_not_recorded_is_taken_as_it_stands(
    bench: Workbench, outcome: Outcome, target: Path
) -> None:
    first = published(bench, outcome, target)
    before = inodes(target)
    reloaded = Outcome.model_validate_json(outcome.model_dump_json())  # as another process has it, from its checkpoints
    another_run = reloaded.model_copy(update={"flow_run_id": "another"})
    again = published(bench, another_run, target)
    assert inodes(target) == before
    assert (again.folder, again.tracks, again.video) == (first.folder, first.tracks, first.video)
    assert leftovers(target.parent) == []


Damage = Callable[[Path], object]
DAMAGES: dict[str, Damage] = {
    "the film edited": lambda folder: append(folder / "my-film.mp4"),
    "a picture gone": lambda folder: (folder / "contact-sheet.jpg").unlink(),
    "the page edited": lambda folder: append(folder / "report.html"),
    "the report edited": lambda folder: append(folder / "report.json"),
    "the metadata gone": lambda folder: (folder / "my-film.meta.json").unlink(),
    "the metadata torn": lambda folder: truncate(folder / "my-film.meta.json"),
    "the metadata edited": lambda folder: edit_json(folder / "my-film.meta.json", source="somewhere else"),
    "the metadata without its seal": lambda folder: edit_json(folder / "my-film.meta.json", seal=None),
    "the metadata no object": lambda folder: (folder / "my-film.meta.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_that_somebody_changed_is_replaced(
    damage: str, bench: Workbench, outcome: Outcome, target: Path
) -> None:
    published(bench, outcome, target)
    before, folder = contents(target), target.stat().st_ino
    DAMAGES[damage](target)
    result = published(bench, outcome, target)
    assert target.stat().st_ino != folder
    assert set(contents(target)) == set(before) == {track.name for track in result.tracks}
    assert contents(target)["my-film.mp4"] == before["my-film.mp4"]
    assert leftovers(target.parent) == []


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b" ")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def edit_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_folder_of_other_results_is_replaced(bench: Workbench, outcome: Outcome, target: Path) -> None:
    published(bench, outcome, target)
    folder = target.stat().st_ino
    published(bench, analyzed_again(outcome), target)
    assert target.stat().st_ino != folder


def test_a_folder_that_stands_elsewhere_is_another_one(bench: Workbench, outcome: Outcome, target: Path) -> None:
    published(bench, outcome, target)
    moved = target.rename(target.with_name("my-film-ffffffff"))
    folder = moved.stat().st_ino
    published(bench, outcome, moved)
    assert moved.stat().st_ino != folder, "its report names the place where it was"


def test_the_log_of_a_failure_that_is_over_goes_and_the_film_stays_where_it_is(
    bench: Workbench, outcome: Outcome, target: Path
) -> None:
    published(bench, outcome, target)
    publish_failure(failed(outcome), target)
    before = inodes(target)
    published(bench, outcome, target)
    assert before.pop("my-film.err.log")
    assert inodes(target) == before


# --- the fence ------------------------------------------------------------------------------------


@dataclass
class Fence:
    """A fence that looks at the output folder when it is taken and when it is given back."""

    target: Path
    taken_over: bool = False
    seen: list[bool] = field(default_factory=list)
    prepared: list[Path] = field(default_factory=list)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        if self.taken_over:
            raise Superseded("Another attempt has taken this work over")
        self.seen.append(self.target.exists())
        self.prepared = leftovers(self.target.parent)
        yield
        self.seen.append(self.target.exists())


def test_the_fence_is_held_around_the_moment_in_which_the_folder_appears_and_no_longer(
    bench: Workbench, outcome: Outcome, target: Path
) -> None:
    fence = Fence(target)
    result = published(replace(bench, fence=fence), outcome, target)
    assert fence.seen == [False, True]
    assert len(fence.prepared) == 1, "everything was ready: whoever waits for the fence waits for a rename"
    assert {track.name for track in result.tracks} == set(contents(target))


@pytest.mark.parametrize("stands", ["nothing", "other results", "a failure", "the very same"])
def test_a_run_whose_work_was_taken_over_publishes_nothing(
    stands: str, bench: Workbench, outcome: Outcome, target: Path
) -> None:
    match stands:
        case "other results":
            published(bench, analyzed_again(outcome), target)
        case "a failure":
            publish_failure(failed(outcome), target)
        case "the very same":
            published(bench, outcome, target)
            publish_failure(failed(outcome), target)
    before = contents(target) if target.exists() else None
    with pytest.raises(Superseded):
        published(replace(bench, fence=Fence(target, taken_over=True)), outcome, target)
    assert (contents(target) if target.exists() else None) == before
    assert leftovers(target.parent) == []


def test_an_output_folder_that_cannot_be_made_is_told(bench: Workbench, outcome: Outcome, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises((PermissionRefused, StoreUnavailable, NotADirectoryError, FileExistsError)):
        published(bench, outcome, tmp_path / "file" / "my-film-0a1b2c3d")


def test_a_failure_leaves_its_log_and_a_report(outcome: Outcome, target: Path) -> None:
    told = publish_failure(failed(outcome), target)
    log = target / "my-film.err.log"
    assert (told.failure_log, told.report_folder) == (log, target)
    assert set(contents(target)) == {"my-film.err.log", "report.json", "report.html"}
    assert "last words" in log.read_text()
    document = json.loads((target / "report.json").read_text())
    assert document["failure"]["type"] == "truncated_media"
    assert (document["failure_log"], document["report"]["json"]) == (str(log), str(target / "report.json"))
    assert "my-film.err.log" in (target / "report.html").read_text()
    assert leftovers(target.parent) == []


def test_a_failure_never_touches_an_earlier_success(bench: Workbench, outcome: Outcome, target: Path) -> None:
    published(bench, outcome, target)
    before = contents(target)
    told = publish_failure(failed(outcome), target)
    assert told.report_folder is None
    after = contents(target)
    assert after.pop("my-film.err.log")
    assert after == before


def test_a_second_failure_replaces_the_first(outcome: Outcome, target: Path) -> None:
    publish_failure(failed(outcome, "the first"), target)
    log = publish_failure(failed(outcome, "the second"), target).failure_log
    assert log is not None
    assert "the second" in log.read_text() and "the first" not in log.read_text()
    assert "the second" in (target / "report.json").read_text()


def test_a_folder_that_cannot_be_written_is_no_second_failure(outcome: Outcome, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = publish_failure(failed(outcome), tmp_path / "file" / "my-film-0a1b2c3d")
    assert told == failed(outcome).model_copy(update={"failure": told.failure})


def test_a_run_that_did_not_fail_leaves_no_log(outcome: Outcome, target: Path) -> None:
    assert publish_failure(outcome, target) == outcome
    assert not target.exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("My Film (2024).mp4", "my-film-2024"),
        ("Füße & Öl.mkv", "fue-ol"),
        ('it\'s a "quote".mp4', "it-s-a-quote"),
        ("two\nlines\t.mp4", "two-lines"),
        ("--output=evil.mp4", "output-evil"),
        ("-rf.mp4", "rf"),
        ("../../etc/passwd", "media"),
        ("../../etc/passwd.mp4", "etc-passwd"),
        (".hidden", "hidden"),
        ("no suffix", "no-suffix"),
        ("archive.tar.gz", "archive-tar"),
        ("映画.mp4", "media"),
        ("🎬.mp4", "media"),
        ("", "media"),
        ("...", "media"),
        ("x" * 300 + ".mp4", "x" * LONGEST_SLUG),
        ("a" * 59 + " b.mp4", "a" * 59),
    ],
)
def test_a_slug_is_plain(name: str, expected: str) -> None:
    assert slug(name) == expected


@given(st.text(max_size=200))
def test_every_name_becomes_a_slug_that_is_safe_everywhere(name: str) -> None:
    made = slug(name)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", made)
    assert len(made) <= LONGEST_SLUG
    folder = Path("out") / folder_name(name, "0123456789abcdef")
    assert folder.name == f"{made}-01234567"
    assert slug_of(folder) == made


def test_a_folder_is_named_after_source_and_work_key() -> None:
    assert folder_of(Identity(url="http://o/x", name="A b.mp4"), "0123456789") == "a-b-01234567"


def test_a_run_that_never_saw_its_source_has_a_folder_of_its_own() -> None:
    names = [folder_before_identity(f"http://o/film.mp4?part={n}", "universal", "auto") for n in (1, 1, 2)]
    assert names[0] == names[1] != names[2]
    assert all(re.fullmatch(r"film-[0-9a-f]{8}", name) for name in names)
    assert folder_before_identity("http://origin:8000/", "universal", "auto").startswith("origin-")

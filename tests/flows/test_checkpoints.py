"""The same command again does only what changed: what is whole is believed, what is damaged is made again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.aftermath import STAGES, left_running, made_now, unfinished_files, witness, works
from tests.support.clips import bulk_clip, clip
from tests.support.command import Command, Ended
from tests.support.leaks import marking
from tests.support.origin import Origin, Resource

pytestmark = pytest.mark.ci


@dataclass
class Ingested:
    """A home in which one film was ingested, its origin, and the ffmpeg that writes down its calls."""

    command: Command
    origin: Origin
    ffmpeg: Path
    first: Ended

    def again(self, *words: str) -> Ended:
        """The same command once more; requests and calls of ffmpeg are counted from here on."""
        self.asked_before, self.worked_before = len(self.origin.requests), len(works(self.ffmpeg))
        ended = self.command.run(self.origin.url("film.mp4"), *words)
        assert ended.code == 0, ended.stderr
        assert left_running(self.command) == [] and unfinished_files(self.command) == []
        return ended

    @property
    def requests(self) -> int:
        return len(self.origin.requests) - self.asked_before

    @property
    def ffmpeg_runs(self) -> int:
        return len(works(self.ffmpeg)) - self.worked_before

    @property
    def folder(self) -> Path:
        """What was published first."""
        return Path(self.first.document["report"]["json"]).parent


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory, prefect_server: str, clips: Path) -> Iterator[Ingested]:
    """Shared by the tests of this module: each of them ends with everything whole again."""
    folder = tmp_path_factory.mktemp("ingested")
    ffmpeg = witness(folder)
    environment = {
        "PREFECT_API_URL": prefect_server,
        "HOME": str(folder),
        "PREFECT_HOME": str(folder / "prefect"),
        "TIDEGATE_TOOLS_FFMPEG": str(ffmpeg),
    }
    with marking() as mark, Origin({"film.mp4": clip(clips)}) as origin:
        command = Command(folder, folder / "out", environment, mark)
        first = command.run(origin.url("film.mp4"))
        assert first.code == 0, first.stderr
        assert made_now(first) == STAGES
        yield Ingested(command, origin, ffmpeg, first)


@pytest.mark.first
def test_the_same_link_again_asks_once_runs_no_ffmpeg_and_says_so(ingested: Ingested) -> None:
    assert len(works(ingested.ffmpeg)) == 2, "the witness sees: one remux, one analysis"
    ended = ingested.again()
    assert made_now(ended) == [] and list(ended.document["stages"]) == STAGES
    assert [ended.stderr.count(f"{stage}: already done") for stage in STAGES] == [1] * len(STAGES)
    assert "already done; nothing was repeated" in ended.stderr
    assert (ingested.requests, ingested.ffmpeg_runs) == (1, 0)
    assert ingested.origin.requests[-1].bytes_sent <= 1
    assert ended.document["download"]["bytes_received"] == 0
    assert ended.document["output"] == ingested.first.document["output"]


# --- one thing is damaged, and exactly its stage runs again ---------------------------------------


def asset_of(field: str) -> Callable[[Ingested], Path]:
    """The store's file that a stage made, found by its size: the store names by content."""

    def find(ingested: Ingested) -> Path:
        name = {"download": "source", "output": "media.mp4", "pictures": "contact-sheet.jpg"}[field]
        (found,) = (ingested.command.home / "tidegate" / "assets").rglob(name)
        return found

    return find


def published(name: str) -> Callable[[Ingested], Path]:
    return lambda ingested: ingested.folder / name


def record_of(stage: str) -> Callable[[Ingested], Path]:
    def find(ingested: Ingested) -> Path:
        (found,) = (ingested.command.home / "tidegate" / "results").glob(f"{stage}-*.json")
        return found

    return find


def flipped(path: Path) -> None:
    """One bit of one byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def flipped_at_an_end(index: int) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[index] ^= 1
        path.chmod(0o644)
        path.write_bytes(content)

    return flip


def replaced_by(find: Callable[[Ingested], Path]) -> Callable[[Ingested], Path]:
    """A record with the content of another one, whole but about something else."""

    def replace(ingested: Ingested) -> Path:
        target = record_of("remux")(ingested)
        target.write_bytes(find(ingested).read_bytes())
        return target

    return replace


def left(path: Path) -> None:
    """What was done to it is damage enough."""


def removed(path: Path) -> None:
    path.unlink()


def folder_removed(path: Path) -> None:
    shutil.rmtree(path.parent)


def torn(path: Path) -> None:
    """As a crash leaves a file that was not written atomically."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


Damage = tuple[Callable[[Path], None], Callable[[Ingested], Path]]

DAMAGES: list[tuple[str, list[Damage], list[str]]] = [
    ("no download asset", [(folder_removed, asset_of("download"))], ["download"]),
    ("no remux asset", [(folder_removed, asset_of("output"))], ["remux"]),
    ("no published folder", [(folder_removed, published("report.json"))], ["publish"]),
    (
        "one byte of the download and one of the published file",
        [(flipped, asset_of("download")), (flipped, published("film.mp4"))],
        ["download", "publish"],
    ),
    (
        "one byte of the remuxed file, and a picture",
        [(flipped, asset_of("output")), (removed, asset_of("pictures"))],
        ["remux", "analyze"],
    ),
    (
        "torn records of probe, remux and publish",
        [(torn, record_of(stage)) for stage in ("probe", "remux", "publish")],
        ["probe", "remux", "publish"],
    ),
    (
        "torn record of download, empty one of analyze",
        [(torn, record_of("download")), (emptied, record_of("analyze"))],
        ["download", "analyze"],
    ),
    (
        "first byte of the download, last one of the remuxed file, first one of the published picture",
        [
            (flipped_at_an_end(0), asset_of("download")),
            (flipped_at_an_end(-1), asset_of("output")),
            (flipped_at_an_end(0), published("contact-sheet.jpg")),
        ],
        ["download", "remux", "publish"],
    ),
    (
        "no record of probe, that of analyze in the place of remux's",
        [(removed, record_of("probe")), (left, replaced_by(record_of("analyze")))],
        ["probe", "remux"],
    ),
]


SELDOM = {"no remux asset", "torn record of download, empty one of analyze", "no published folder"}
"""What the other damages bring about too, one with another; told in the long sweeps."""


@pytest.mark.parametrize(
    ("what", "damages", "needed"),
    [pytest.param(*one, id=one[0], marks=pytest.mark.slow if one[0] in SELDOM else ()) for one in DAMAGES],
)
def test_damage_makes_exactly_the_needed_stages_run_again(
    what: str, damages: list[Damage], needed: list[str], ingested: Ingested
) -> None:
    before = tree(ingested)
    for damage, find in damages:
        damage(find(ingested))
    ended = ingested.again()
    assert made_now(ended) == needed, f"after damage: {what}"
    assert ingested.ffmpeg_runs == sum(stage in ("remux", "analyze") for stage in needed)
    assert (ingested.requests > 1) == ("download" in needed or "probe" in needed)
    assert ended.document["output"]["digest"] == ingested.first.document["output"]["digest"]
    assert tree(ingested) == before, "everything is whole again, and nothing else has appeared"


def tree(ingested: Ingested) -> dict[str, int]:
    """Every file of assets, results and output folder with its size; reports name the run, so theirs may differ."""
    folders = [ingested.command.home / "tidegate" / "assets", ingested.command.output]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    sizes = {str(path): 0 if path.suffix in (".json", ".html") else path.stat().st_size for path in files}
    return sizes | dict.fromkeys(map(str, (ingested.command.home / "tidegate" / "results").iterdir()), 0)


# --- other requests -------------------------------------------------------------------------------


def test_refresh_ignores_every_checkpoint(ingested: Ingested) -> None:
    ended = ingested.again("--refresh")
    assert made_now(ended) == STAGES
    assert ingested.ffmpeg_runs == 2
    assert ended.document["download"]["bytes_received"] == ended.document["download"]["size_bytes"]
    assert len(ingested.command.published()) == 1


def test_a_new_digest_is_checked_although_the_download_has_a_checkpoint(ingested: Ingested) -> None:
    ended = ingested.command.run(ingested.origin.url("film.mp4"), "--sha256", "0" * 64)
    assert (ended.code, ended.failure["type"]) == (1, "wrong_digest")
    assert ended.document["report"] is None, "an earlier success stands"
    assert ended.document["stages"]["download"]["seconds"] > 0
    assert (ingested.folder / "film.mp4").exists(), "an earlier success is not touched"
    assert (ingested.folder / "film.err.log").exists()
    assert made_now(ingested.again()) == ["publish"]
    assert not (ingested.folder / "film.err.log").exists(), "the failure is over"


def test_another_profile_takes_the_same_download(ingested: Ingested) -> None:
    ended = ingested.again("--profile", "original")
    assert [stage for stage in STAGES if stage not in made_now(ended)][:2] == ["probe", "download"]
    assert ingested.requests == 1
    assert ended.document["work_key"] != ingested.first.document["work_key"]
    assert len(ingested.command.published()) == 2


def test_a_changed_source_is_other_work_in_another_folder(ingested: Ingested, clips: Path) -> None:
    ingested.origin.add("film.mp4", clip(clips, seconds=3))
    ended = ingested.again()
    assert made_now(ended) == STAGES
    assert ended.document["work_key"] != ingested.first.document["work_key"]
    assert Path(ended.document["report"]["json"]).parent != ingested.folder
    assert ended.document["output"]["digest"] != ingested.first.document["output"]["digest"]
    assert (ingested.folder / "film.mp4").exists(), "the earlier result stays"


def test_refresh_takes_nothing_from_a_part_of_a_run_before(command: Command, clips: Path) -> None:
    film = Resource(bulk_clip(clips, 8 * 1024 * 1024), story="from-first: ok, ok, 4M drop, 503, 503, 503, 503, ok")
    with Origin({"film.mp4": film}) as origin:
        first = command.run(origin.url("film.mp4"), "--until", "download")
        assert first.code == 1 and list((command.home / "tidegate" / "scratch").rglob("*.part"))
        again = command.run(origin.url("film.mp4"), "--until", "download", "--refresh")
    assert again.code == 0, again.stderr
    assert again.document["download"]["bytes_reused"] == 0
    assert again.document["download"]["bytes_received"] >= again.document["download"]["size_bytes"]

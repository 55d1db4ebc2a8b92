"""What an older Tidegate left is understood: its checkpoints are believed, its half-done work goes on where it stood.

The files are of real runs of the trees that `tests/stored/` names. Each test lays one of them into a folder, gives the
same command again, and counts what the origin and ffmpeg were asked for.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.serializers import JSONSerializer

from tests.support.aftermath import STAGES, left_running, made_now, unfinished_files, works
from tests.support.command import Command, Ended
from tests.support.origin import Origin
from tests.support.stored import (
    CHUNK,
    GENERATIONS,
    OUT,
    RUNG,
    SOURCES,
    link_of,
    origin_of,
    settings_for,
    steady_tool,
    unpack,
)
from tidegate.model import AnalysisResult, DownloadResult, ProbeResult, PublishResult, RemuxResult

RESULTS: dict[str, type[Any]] = {
    "probe": ProbeResult,
    "download": DownloadResult,
    "remux": RemuxResult,
    "analyze": AnalysisResult,
    "publish": PublishResult,
}
SEGMENTS = 6
STORED = sorted(path.parent for path in GENERATIONS.glob("*/media"))


@dataclass
class Left:
    """What one run has left, the origin that it asked, and the ffmpeg that writes down its calls."""

    case: str
    command: Command
    origin: Origin
    tool: Path

    @property
    def scratch(self) -> Path:
        """Of the one piece of work."""
        [work] = [path for path in (self.command.home / "tidegate" / "scratch").iterdir() if path.is_dir()]
        return work

    def ask_again(self) -> Ended:
        """The same command."""
        return self._end(self.command.run(link_of(self.case), "--quality", RUNG))

    def resume(self, run: str) -> Ended:
        """As `python -m flows.runs` tells it."""
        return self._end(self.command.run("--resume", run))

    def listing(self) -> list[dict[str, Any]]:
        """What `python -m flows.runs` says."""
        argv = [sys.executable, "-m", "flows.runs", "--json"]
        environment, home = self.command.env(), self.command.home
        done = subprocess.run(argv, env=environment, cwd=home, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))

    def bytes_of(self, name: str) -> int:
        """How many of its bytes the origin has sent; not those of looks at a validator."""
        return sum(request.bytes_sent for request in self.origin.requests_for(name) if request.range != "bytes=0-0")

    def bytes_of_segments(self) -> dict[int, int]:
        return {number: self.bytes_of(f"low-{number}.ts") for number in range(SEGMENTS)}

    def _end(self, ended: Ended) -> Ended:
        assert ended.code == 0, ended.stderr
        assert left_running(self.command) == [] and unfinished_files(self.command) == []
        assert list((self.command.home / "tidegate" / "scratch").iterdir()) == []
        return ended


@pytest.fixture(params=STORED, ids=lambda path: path.name)
def generation(request: pytest.FixtureRequest) -> Path:
    """The files that one tree has left."""
    return Path(request.param)


@pytest.fixture
def left_by(command: Command, generation: Path, tmp_path: Path) -> Iterator[Callable[[str], Left]]:
    """Lays out what the run of a case left. Its origin is well now, but for a segment that is still missing."""
    with ExitStack() as stack:

        def lay_out(case: str) -> Left:
            origin = stack.enter_context(origin_of(generation / "media", {"high-3.ts": "always: 404"}))
            tool = steady_tool(tmp_path)
            command.environment |= settings_for(origin, tool)
            command.output = OUT
            unpack(generation / case, command.home)
            return Left(case, command, origin, tool)

        yield lay_out


def spans_in(journal: Path) -> int:
    """How many bytes a part's journal vouches for."""
    return int(json.loads(journal.read_text())["received_bytes"])


def segments_in(journal: Path) -> list[int]:
    """The numbers of the segments that a track's journal holds."""
    lines = [json.loads(line.partition(" ")[2]) for line in journal.read_text().splitlines()]
    return [line["number"] for line in lines if line["record"] == "held"]


def missing(generation: Path, held: list[int]) -> dict[int, int]:
    """How many bytes of each segment have to come where these are held."""
    sizes = {number: (generation / "media" / f"low-{number}.ts").stat().st_size for number in range(SEGMENTS)}
    return {number: 0 if number in held else size for number, size in sizes.items()}


def chunks_in(folder: Path) -> int:
    """How many chunks are recorded there; the sound is none."""
    return sum(json.loads(path.read_text())["frames"] is not None for path in folder.glob("*.json"))


def chunk_calls(left: Left) -> int:
    return sum(CHUNK in call for call in works(left.tool))


def names_of_subflows(api: str, flow_run: str) -> list[str]:
    """Of the flows that a flow run has entered."""
    wanted = {"flow_runs": {"parent_flow_run_id": {"any_": [flow_run]}}}
    runs = httpx.post(f"{api}/flow_runs/filter", json=wanted).raise_for_status().json()
    return [httpx.get(f"{api}/flows/{run['flow_id']}").raise_for_status().json()["name"] for run in runs]


RAISED_SINCE = ["remux", "analyze", "publish"]
"""Stages whose `RECIPE` was raised since, and the one that publishes what they say: their records are understood, and
made again. All others are believed."""


@pytest.mark.first
def test_the_same_request_is_answered_from_the_checkpoints(left_by: Callable[[str], Left]) -> None:
    left = left_by("whole")
    [folder] = (left.command.home / "out").iterdir()
    before = {path.name for path in folder.iterdir()}
    ended = left.ask_again()
    assert made_now(ended) == RAISED_SINCE and list(ended.document["stages"]) == STAGES
    [request] = left.origin.requests
    assert request.bytes_sent <= 1
    assert ended.document["download"]["bytes_received"] == 0
    assert {path.name for path in folder.iterdir()} == before
    old, new = sorted(left.listing(), key=lambda one: float(one["created_at"]))
    assert (old["state"], new["state"]) == ("completed", "completed")
    assert old["work_key"] == new["work_key"] == ended.document["work_key"]


def test_a_half_downloaded_file_goes_on_behind_its_last_byte(left_by: Callable[[str], Left], generation: Path) -> None:
    left = left_by("part")
    [journal] = left.scratch.rglob("source.journal")
    received = spans_in(journal)
    ended = left.ask_again()
    assert made_now(ended) == ["download", "remux", "analyze", "publish"]
    film = Path(ended.document["download"]["path"]).read_bytes()
    assert 0 < received < len(film)
    assert left.bytes_of("padded.mp4") == len(film) - received
    told = ended.document["download"]
    assert (told["bytes_reused"], told["bytes_received"]) == (received, len(film) - received)
    assert film == gzip.decompress((generation / "media" / "padded.mp4.gz").read_bytes())


def test_a_half_downloaded_playlist_goes_on_behind_its_last_segment(
    left_by: Callable[[str], Left], generation: Path
) -> None:
    left = left_by("playlist")
    [journal] = left.scratch.rglob("segments.journal")
    held = segments_in(journal)
    assert 0 < len(held) < SEGMENTS
    ended = left.ask_again()
    assert made_now(ended) == ["download", "remux", "analyze", "publish"]
    assert left.bytes_of_segments() == missing(generation, held)
    assert ended.document["output"]["duration_seconds"] == pytest.approx(SEGMENTS, abs=0.3)


def test_chunks_of_another_recipe_are_not_joined_with_new_ones(left_by: Callable[[str], Left]) -> None:
    left = left_by("chunks")
    recorded = chunks_in(left.scratch / "chunks")
    ended = left.ask_again()
    assert made_now(ended) == ["remux", "analyze", "publish"]
    assert left.bytes_of("long.webm") == 0
    chunks = ended.document["output"]["chunks"]
    assert 0 < recorded < chunks["planned"]
    # Since they were written, pictures are marked with their colours: a film is never put together from both.
    assert (chunks["reused"], chunks["encoded"]) == (0, chunks["planned"])
    assert chunk_calls(left) == chunks["planned"]
    encoded = [call for call in works(left.tool) if "/chunks/" in call.rpartition(" ")[2]]
    assert len(encoded) == chunk_calls(left), "the sound was there"


@pytest.mark.first
def test_a_run_that_was_killed_below_a_rendition_is_resumed_below_it(
    left_by: Callable[[str], Left], generation: Path, prefect_server: str
) -> None:
    left = left_by("download-fallback")
    [journal] = left.scratch.rglob("segments.journal")
    held = segments_in(journal)
    [killed] = left.listing()
    assert (killed["state"], killed["condition"]) == ("running", "lost contact")
    assert killed["cure"] == f"python -m flows.run --resume {killed['id']}"
    ended = left.resume(killed["id"])
    assert [request.name for request in left.origin.requests if request.name.startswith("high-")] == []
    assert 0 < len(held) < SEGMENTS
    assert left.bytes_of_segments() == missing(generation, held)
    assert [tried["label"] for tried in ended.document["tried"]] == ["96x72, 90 kbit/s"]
    assert ended.document["output"]["video"]["height"] == 48
    assert names_of_subflows(prefect_server, ended.document["flow_run_id"]) == ["download fallback"], (
        "it was called `fallback`"
    )
    assert [one["cure"] for one in left.listing()] == [None, None], "there is nothing left to resume"


def test_a_run_that_was_killed_below_a_target_is_resumed_below_it(
    left_by: Callable[[str], Left], prefect_server: str
) -> None:
    left = left_by("transcode-fallback")
    [killed] = left.listing()
    assert killed["cure"] == f"python -m flows.run --resume {killed['id']}"
    ended = left.resume(killed["id"])
    assert made_now(ended) == ["remux", "analyze", "publish"]
    encoded = [call for call in works(left.tool) if "libx264" in call]
    assert [":240" in call for call in encoded] == [True], "no larger picture was tried again"
    assert [tried["rendition"] for tried in ended.document["tried"]] == ["720p"]
    assert ended.document["output"]["video"]["height"] == 240
    assert names_of_subflows(prefect_server, ended.document["flow_run_id"]) == ["transcode fallback"], (
        "it was called `fallback`"
    )


@pytest.mark.parametrize("case", SOURCES)
def test_every_field_of_a_checkpoint_is_known(generation: Path, case: str) -> None:
    records = sorted((generation / case / "tidegate" / "results").glob("*.json"))
    assert records
    for path in records:
        text = json.loads(path.read_text())["result"]
        value: Any = JSONSerializer().loads(text.encode())
        assert type(value) is RESULTS[path.name.partition("-")[0]]
        assert differences(json.loads(text)["data"], value.model_dump(mode="json")) == []


def differences(stored: Any, parsed: Any, at: str = "") -> list[str]:
    """What was stored and is not there, or otherwise, in what was read; new fields are no difference."""
    if isinstance(stored, dict) and isinstance(parsed, dict):
        return [
            one
            for name in stored
            for one in differences(stored[name], parsed.get(name, "no such field"), f"{at}.{name}")
        ]
    if isinstance(stored, list) and isinstance(parsed, list) and len(stored) == len(parsed):
        pairs = enumerate(zip(stored, parsed, strict=True))
        return [one for number, (old, new) in pairs for one in differences(old, new, f"{at}[{number}]")]
    return [] if stored == parsed else [f"{at}: {stored!r}, now {parsed!r}"]

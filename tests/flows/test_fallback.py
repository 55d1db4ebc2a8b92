"""A rendition that cannot be had: the next one below it as a whole, then the next resolver, told in the report."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import fake_twitch
from tests.support.aftermath import failure_told, left_running, unfinished_files, wait_in
from tests.support.clips import clip
from tests.support.command import Command
from tests.support.ladders import cut, hls_text, ladder, name_segments
from tests.support.origin import Origin, Resource
from tidegate.resilience.quality import recommend_rung

LOW, HIGH = "160x120", "320x240"
SECONDS = 6
QUICK = {
    "TIDEGATE_TRANSFER_TRIES": "2",
    "TIDEGATE_TRANSFER_BACKOFF_BASE": "0.05",
    "TIDEGATE_TRANSFER_STALL_TIMEOUT": "2",
    "TIDEGATE_TRANSFER_STALL_TICK": "0.5",
    "TIDEGATE_TRANSFER_MINIMUM_SPEED": "4096",
}


def two_rungs(clips: Path, stories: Mapping[str, str] | None = None) -> Origin:
    """A ladder of two renditions, `h…` and `l…`; `stories` by the name of a segment."""
    files: dict[str, Any] = {"master.m3u8": ladder({"high.m3u8": f"{HIGH}@900000", "low.m3u8": f"{LOW}@200000"})}
    for name, size in (("high", HIGH), ("low", LOW)):
        film = cut(clips, "ts", seconds=SECONDS, size=size)
        segments = name_segments(film, name[0] + "{}.ts")
        files[f"{name}.m3u8"] = hls_text(segments)
        files |= segments
    told = {name: Resource(content, story=(stories or {}).get(name, "ok")) for name, content in files.items()}
    return Origin(told)


@pytest.fixture
def quick(command: Command) -> Iterator[Command]:
    command.environment |= QUICK
    yield command
    assert left_running(command) == [] and unfinished_files(command) == []


def height(document: Mapping[str, Any]) -> int:
    return int(document["output"]["video"]["height"])


def test_without_trouble_the_best_rendition_is_taken_and_no_subflow_is_entered(quick: Command, clips: Path) -> None:
    with two_rungs(clips) as origin:
        ended = quick.run(origin.url("master.m3u8"))
    assert ended.code == 0, ended.stderr
    assert height(ended.document) == 240 and ended.document["tried"] == []
    assert ended.document["download"]["resolver"] == "hls"
    assert [request for request in origin.requests if request.name.startswith("l0")] == [], "no segment of another rung"
    assert ended.document["output"]["duration_seconds"] == pytest.approx(SECONDS, abs=0.2)


@pytest.mark.parametrize(
    ("story", "kind"),
    [
        ("always: 404", "segment_gap"),
        pytest.param("always: 10 stall", "stalled_transfer", marks=pytest.mark.slow),
    ],
)
@pytest.mark.first
def test_what_retries_do_not_cure_steps_down_as_a_whole(story: str, kind: str, quick: Command, clips: Path) -> None:
    with two_rungs(clips, {"h3.ts": story}) as origin:
        ended = quick.run(origin.url("master.m3u8"))
        assert ended.code == 0, ended.stderr
        assert height(ended.document) == 120
        [tried] = ended.document["tried"]
        assert tried["failure"] in (kind, "segment_gap") and tried["resolver"] == "hls" and "240" in tried["label"]
        assert [finding["code"] for finding in ended.document["findings"]] == ["stepped_down"]
        assert ended.document["output"]["duration_seconds"] == pytest.approx(SECONDS, abs=0.2), "never a mix"
        assert list((quick.home / "tidegate" / "scratch").iterdir()) == [], "nothing of the abandoned rung is left"
        page = Path(ended.document["report"]["html"]).read_text()
        assert "given up" in page and tried["label"] in page
        again = quick.run(origin.url("master.m3u8"))
    assert height(again.document) == 120, "what stands is believed"


def test_when_every_rung_fails_so_does_the_run_and_says_what_was_tried(quick: Command, clips: Path) -> None:
    with two_rungs(clips, {"h3.ts": "always: 404", "l2.ts": "always: 404"}) as origin:
        ended = quick.run(origin.url("master.m3u8"))
        failure = failure_told(ended, code=1, kind="segment_gap")
        assert [tried["failure"] for tried in ended.document["tried"]] == ["segment_gap", "segment_gap"]
        assert any("--allow-gaps" in action for action in failure["suggested_actions"])
        assert quick.published() == [] or not list(quick.output.rglob("*.mp4"))
        origin.tell("h3.ts", "ok")
        healed = quick.run(origin.url("master.m3u8"))
    assert healed.code == 0 and height(healed.document) == 240, "the next run begins at the top"


def test_gaps_that_are_allowed_are_published_with_their_list(quick: Command, clips: Path) -> None:
    with two_rungs(clips, {"h3.ts": "always: 404"}) as origin:
        ended = quick.run(origin.url("master.m3u8"), "--allow-gaps")
        assert ended.code == 0, ended.stderr
        [gap] = ended.document["download"]["gaps"]
        assert (gap["start_seconds"], gap["end_seconds"]) == pytest.approx((3, 4), abs=0.1)
        assert "gap" in [finding["code"] for finding in ended.document["findings"]]
        assert height(ended.document) == 240
        strict = quick.run(origin.url("master.m3u8"))
    assert height(strict.document) == 120, "what was made with gaps stands for no run that allows none"


@pytest.mark.slow
def test_a_run_that_is_killed_below_does_not_begin_with_the_abandoned_rung_again(quick: Command, clips: Path) -> None:
    with two_rungs(clips, {"h3.ts": "always: 404", "l4.ts": "throttle 2K, ok"}) as origin:
        quick.environment["TIDEGATE_TRANSFER_MINIMUM_SPEED"] = "16"
        with quick.started(origin.url("master.m3u8")) as process:
            wait_in(process, lambda: origin.bytes_sent("l4.ts") > 1024)
            process.send_signal(signal.SIGKILL)
        asked = len(origin.requests_for("h3.ts"))
        ended = quick.run(origin.url("master.m3u8"))
        assert ended.code == 0, ended.stderr
        assert len(origin.requests_for("h3.ts")) == asked
    assert height(ended.document) == 120 and len(ended.document["tried"]) == 1


VIDEO = "https://www.twitch.tv/videos/1234567890"


def twitch(command: Command, clips: Path, folder: Path, *faults: str) -> None:
    """Let the command find a TwitchDownloaderCLI that has two qualities."""
    film = clip(clips, seconds=3)
    tool = fake_twitch.install(
        folder, {"240p60": ("320x240", film), "240p": ("320x240", film)}, *faults, seconds=3, title="A night"
    )
    command.environment["TIDEGATE_TOOLS_TWITCH_DOWNLOADER"] = str(tool)


@pytest.mark.first
def test_a_video_of_twitch_comes_through_its_tool(quick: Command, clips: Path, tmp_path: Path) -> None:
    twitch(quick, clips, tmp_path / "bin")
    ended = quick.run(VIDEO)
    assert ended.code == 0, ended.stderr
    assert (ended.document["download"]["resolver"], ended.document["tried"]) == ("twitch", [])
    assert ended.document["download"]["rendition"]["height"] == 240
    assert quick.run(VIDEO).document["stages"]["download"]["cached"]


def test_a_tool_that_dies_at_a_hundred_percent_is_no_success_and_the_next_quality_is_taken(
    quick: Command, clips: Path, tmp_path: Path
) -> None:
    twitch(quick, clips, tmp_path / "bin", "once:cancelled Finalizing")
    ended = quick.run(VIDEO)
    assert ended.code == 0, ended.stderr
    assert len(ended.document["tried"]) == 1, ended.stderr
    [tried] = ended.document["tried"]
    assert tried["label"] != ended.document["download"]["rendition"]["label"]
    assert "Finalizing" in tried["message"] and "A task was canceled" in tried["message"]


def test_a_tool_that_is_missing_leads_to_the_next_resolver(quick: Command) -> None:
    nobody = "http://127.0.0.1:9"
    quick.environment |= {"TIDEGATE_TOOLS_TWITCH_DOWNLOADER": "/nowhere/TwitchDownloaderCLI"}
    quick.environment |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), nobody)
    ended = quick.run(VIDEO)
    assert ended.code == 1
    assert "Asking site for the same source" in ended.stderr
    assert ended.failure["type"] in ("connection_failed", "tool_missing"), ended.failure


def test_auto_takes_no_more_than_the_memory_recommends_and_keeps_to_it(quick: Command, clips: Path) -> None:
    heights = [1080, 720, 480, 360, 240]
    film = name_segments(cut(clips, "ts", seconds=2, size=LOW), "s{}.ts")
    files: dict[str, Any] = {f"{height}.m3u8": hls_text(film) for height in heights} | film
    files["master.m3u8"] = ladder({f"{height}.m3u8": f"{height * 16 // 9}x{height}@{height}000" for height in heights})
    rung = recommend_rung(psutil.virtual_memory().available, None)
    with Origin({name: Resource(content) for name, content in files.items()}) as origin:
        link = origin.url("master.m3u8")
        auto = quick.run(link, "--until", "download")
        best = quick.run(link, "--until", "download", "--quality", "best")
    assert auto.document["download"]["rendition"]["height"] == (rung.height or 240)
    assert best.document["download"]["rendition"]["height"] == 1080

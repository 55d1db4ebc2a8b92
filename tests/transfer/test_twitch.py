"""TwitchDownloaderCLI as a supervised child: whole and of the right quality, or the failure it really is.

A fake that speaks its console format plays it, as a real process with real media. `info` and download each pass the
gate, and whatever happens, nothing of the tool is left: no process, no cache, no half file.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import psutil
import pytest
from pydantic import SecretStr

from tests.support import fake_twitch, leaks
from tests.support.clips import clip
from tidegate.errors import (
    ConnectionFailed,
    DiskFull,
    DownloadDeadline,
    HttpRefused,
    NotFound,
    ProcessKilled,
    RequestTimeout,
    SegmentGap,
    ServerError,
    SourceChanged,
    StalledTransfer,
    Throttled,
    TidegateError,
    ToolFailed,
    ToolMissing,
    WrongDigest,
)
from tidegate.events import Advance, Event
from tidegate.model import Rendition, Source
from tidegate.settings import ProcessSettings, Settings, StoreSettings, ToolSettings, TransferSettings
from tidegate.stages import Workbench
from tidegate.stages.outside import outside_of
from tidegate.transfer.outside import Outside
from tidegate.transfer.resolvers.base import FetchRequest, FetchResult, Offer
from tidegate.transfer.resolvers.twitch import TwitchResolver
from tidegate.transfer.resolvers.twitch_console import CATALOGUE, Console, console_failure, parse_info
from tidegate.transfer.resolvers.twitch_tool import ORIGIN, gaps_of

VOD = "https://www.twitch.tv/videos/1866702552"
TWITCH = TwitchResolver()
QUICK = TransferSettings(tool_stall_timeout=1.5, backoff_base=0.01, tries=2, extract_timeout=20, throttle_budget=1.0)
SECONDS = 6.0


@pytest.fixture
def mark() -> Iterator[str]:
    with leaks.marking() as mark:
        yield mark
        leaks.end_children(mark)


@dataclass
class Bench:
    """The tool, and a folder for what it brings."""

    tool: Path
    home: Path
    qualities: dict[str, tuple[str, Path]]
    events: list[Event] = field(default_factory=list)
    limits: TransferSettings = QUICK
    link: str = VOD

    @property
    def folder(self) -> Path:
        folder = self.home / "scratch"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def source(self) -> Source:
        return Source(url=SecretStr(self.link))

    def outside(self) -> Outside:
        settings = Settings(
            transfer=self.limits,
            process=ProcessSettings(tick=0.1, startup_grace=0.2, end_grace=1),
            tools=ToolSettings(twitch_downloader=str(self.tool)),
            store=StoreSettings(home=self.home),
        )
        return outside_of(Workbench(settings, observe=self.events.append), "download")

    def offer(self) -> Offer:
        async def ask() -> Offer:
            outside = self.outside()
            identity, _ = await TWITCH.identify(outside, self.source)
            return await TWITCH.offer(outside, self.source, identity, lambda name: self.folder / name)

        return anyio.run(ask)

    def fetch(self, rendition: str = "360p30", **more: object) -> FetchResult:
        outside = self.outside()
        try:
            return anyio.run(self.fetching, outside, rendition, more)
        finally:
            self.statistics = {stats.origin: stats for stats in outside.gates.statistics()}

    async def fetching(self, outside: Outside, rendition: str, more: dict[str, object]) -> FetchResult:
        identity, _ = await TWITCH.identify(outside, self.source)
        wanted = FetchRequest(identity, Rendition(id=rendition, label=rendition), self.folder, **more)  # type: ignore[arg-type]
        return await TWITCH.fetch(outside, self.source, wanted)

    def failure(self, rendition: str = "360p30", **more: object) -> TidegateError:
        with pytest.raises(TidegateError) as caught:
            self.fetch(rendition, **more)
        return caught.value

    def downloads(self) -> list[list[str]]:
        return fake_twitch.called_with(self.tool, "videodownload")

    def left(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


@pytest.fixture
def bench(tmp_path: Path, clips: Path, mark: str) -> Iterator[Bench]:
    qualities = {
        "1080p60": ("640x480", clip(clips, seconds=SECONDS, size="640x480")),
        "360p30": ("320x240", clip(clips, seconds=SECONDS)),
        "Audio Only": ("-", clip(clips, "audio_only_m4a", seconds=SECONDS)),
    }
    home = tmp_path / "home"
    home.mkdir()
    yield Bench(fake_twitch.install(tmp_path / "bin", qualities, seconds=SECONDS), home, qualities)
    assert leaks.wait_until_childless(mark) == []


LINKS = {
    "https://www.twitch.tv/videos/123": "https://www.twitch.tv/videos/123",
    "https://m.twitch.tv/videos/123?t=1h2m3s": "https://www.twitch.tv/videos/123",
    "https://twitch.tv/somebody/v/123": "https://www.twitch.tv/videos/123",
    "https://www.twitch.tv/somebody/video/123": "https://www.twitch.tv/videos/123",
    "https://clips.twitch.tv/PlacidColdClips-hL2s_aLE4CHvVN4J": "https://clips.twitch.tv/PlacidColdClips-hL2s_aLE4CHvVN4J",
    "https://www.twitch.tv/somebody/clip/PlacidColdClips?x=1": "https://clips.twitch.tv/PlacidColdClips",
}


@pytest.mark.parametrize("link", LINKS)
def test_every_form_of_a_link_to_one_video_is_one_identity_and_costs_no_request(link: str, bench: Bench) -> None:
    source = Source(url=SecretStr(link))
    assert TWITCH.handles(source)
    identity, cost = anyio.run(TWITCH.identify, bench.outside(), source)
    assert (identity.url, cost.requests) == (LINKS[link], 0)


@pytest.mark.parametrize(
    "link",
    [
        "https://www.twitch.tv/somebody",
        "https://www.twitch.tv/directory",
        "https://twitch.tv.example.org/videos/123",
        "https://clips.twitch.tv/--output",
        "file:///videos/123",
        "https://www.twitch.tv/videos/123abc",
    ],
)
def test_what_is_no_recording_on_twitch_is_left_to_others(link: str) -> None:
    assert not TWITCH.handles(Source(url=SecretStr(link)))


def test_the_table_of_qualities_becomes_renditions_with_their_heights_and_sizes(bench: Bench) -> None:
    offer = bench.offer()
    assert [(r.id, r.height) for r in offer.renditions] == [("1080p60", 480), ("360p30", 240)]
    sizes = [path.stat().st_size for _, path in bench.qualities.values()]
    assert offer.renditions[0].size_bytes == pytest.approx(sizes[0], rel=0.1)
    assert offer.promised_seconds == SECONDS


def test_a_download_is_byte_for_byte_what_the_tool_made_and_leaves_nothing_else(bench: Bench) -> None:
    fetched = bench.fetch()
    (path,) = fetched.tracks["source"]
    assert path.read_bytes() == bench.qualities["360p30"][1].read_bytes()
    assert (fetched.promised_seconds, fetched.gaps, fetched.end_is_certain) == (SECONDS, (), True)
    assert bench.left() == {"source", "finished.json"}
    assert bench.statistics[ORIGIN].successes == 2


def test_the_tool_is_called_so_that_it_can_neither_ask_nor_write_elsewhere(bench: Bench) -> None:
    bench.fetch()
    (call,) = bench.downloads()
    options = dict(zip(call[1::2], call[2::2], strict=False))
    assert options["--collision"] == "Overwrite"
    assert options["--quality"] == "360p30"
    assert Path(options["--temp-path"]).parent == Path(options["--output"]).parent.parent == bench.folder
    assert Path(options["--ffmpeg-path"]).is_file()


def test_progress_rises_over_all_four_phases_and_never_falls(bench: Bench) -> None:
    bench.fetch()
    done = [event.done for event in bench.events if isinstance(event, Advance)]
    assert done == sorted(done)
    assert len(done) > 20
    assert done[-1] == [event.total for event in bench.events if isinstance(event, Advance)][-1]


def test_a_finished_download_is_not_made_again(bench: Bench) -> None:
    bench.fetch()
    again = bench.fetch()
    assert len(bench.downloads()) == 1
    assert again.stats.bytes_reused == again.tracks["source"][0].stat().st_size
    assert again.promised_seconds == SECONDS


@pytest.mark.parametrize("damage", ["note", "file", "cut"])
def test_what_is_no_longer_whole_is_downloaded_again(bench: Bench, damage: str) -> None:
    bench.fetch()
    if damage == "cut":
        os.truncate(bench.folder / "source", 1000)
    else:
        (bench.folder / {"note": "finished.json", "file": "source"}[damage]).unlink()
    bench.fetch()
    assert len(bench.downloads()) == 2


FAULTS: dict[str, type[TidegateError]] = {
    "not-found": NotFound,
    "subscribers": HttpRefused,
    "http 404": NotFound,
    "http 403": HttpRefused,
    "http 429": Throttled,
    "http 503": ServerError,
    "unreachable": ConnectionFailed,
    "no-space": DiskFull,
    "nearly-all-missing": SegmentGap,
    "finalize-fails": ToolFailed,
    "cancelled Downloading": RequestTimeout,
    "cancelled Finalizing": ToolFailed,
    "exit 3": ToolFailed,
    "die SIGSEGV": ToolFailed,
    "die SIGKILL": ProcessKilled,
    "empty": ToolFailed,
    "no-output": ToolFailed,
    "cut 0.4": ToolFailed,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_goes_wrong_is_a_typed_failure_and_leaves_nothing(bench: Bench, fault: str) -> None:
    fake_twitch.retell(bench.tool, fault)
    failure = bench.failure()
    assert type(failure) is FAULTS[fault]
    assert failure.message
    assert bench.left() == set()
    tries = bench.limits.tries if fault in PASSING else 1
    assert len(bench.downloads()) == tries, "once it has begun to receive it is not tried again inside"
    assert bench.statistics[ORIGIN].failures == {failure.type: tries}


PASSING = ("http 429", "http 503", "unreachable")
"""What happens before anything is received, and may pass."""


def test_the_incident_a_hundred_percent_then_cancelled_while_finalizing_is_no_success_whatever_the_exit_code(
    bench: Bench,
) -> None:
    fake_twitch.retell(bench.tool, "cancelled Finalizing", "exit 0")
    failure = bench.failure()
    assert type(failure) is ToolFailed
    assert "Finalizing" in failure.message
    assert "TaskCanceledException" in failure.evidence.output_tail
    assert bench.left() == set()


def test_a_stall_ends_the_tool_with_all_its_children(bench: Bench, mark: str) -> None:
    fake_twitch.retell(bench.tool, "spawn", "stall Downloading 40")
    failure = bench.failure()
    assert type(failure) is StalledTransfer
    assert failure.evidence.notes["phase"] == "Downloading"
    assert leaks.wait_until_childless(mark) == []
    assert bench.left() == set()


def test_parts_that_grow_without_a_percent_are_no_stall(bench: Bench) -> None:
    fake_twitch.retell(bench.tool, "trickle 3.5")
    bench.fetch()


def test_a_deadline_binds_a_tool_that_cannot_resume(bench: Bench) -> None:
    fake_twitch.retell(bench.tool, "slow Downloading 0.5")
    bench.limits = QUICK.model_copy(update={"tool_deadline": TransferSettings(tool_deadline=1.5).tool_deadline})
    assert type(bench.failure()) is DownloadDeadline
    assert bench.left() == set()


@pytest.mark.parametrize("fault", ["missing 3", "left-out 1", "missing 1"])
def test_parts_that_were_left_out_are_a_gap_though_the_tool_exits_with_zero(bench: Bench, fault: str) -> None:
    fake_twitch.retell(bench.tool, fault)
    assert type(bench.failure()) is SegmentGap
    assert bench.left() == set()


def test_gaps_that_are_allowed_are_told_with_their_place(bench: Bench) -> None:
    fake_twitch.retell(bench.tool, "left-out 1")
    fetched = bench.fetch(allow_gaps=True)
    (gap,) = fetched.gaps
    assert (gap.start_seconds, gap.end_seconds) == (0.0, SECONDS)
    assert "0.ts" in gap.why
    assert bench.fetch(allow_gaps=True).gaps == fetched.gaps, "remembered"


def test_a_finished_file_with_gaps_is_not_taken_where_none_are_allowed(bench: Bench) -> None:
    fake_twitch.retell(bench.tool, "once:left-out 1")
    bench.fetch(allow_gaps=True)
    assert bench.fetch().gaps == ()
    assert len(bench.downloads()) == 2


def test_parts_that_came_at_the_second_try_are_no_gap(bench: Bench) -> None:
    fake_twitch.retell(bench.tool, "redownloaded 3")
    assert bench.fetch().gaps == ()


def test_a_video_that_is_much_shorter_than_promised_is_a_gap(bench: Bench, clips: Path) -> None:
    fake_twitch.retell(bench.tool, f"short {clip(clips, seconds=2)}")
    failure = bench.failure()
    assert type(failure) is SegmentGap
    assert "announces 6 s" in failure.message


def test_a_quality_that_is_gone_does_not_become_the_best(bench: Bench) -> None:
    failure = bench.failure("480p30")
    assert type(failure) is SourceChanged
    assert "1080p60, 360p30" in failure.message
    assert bench.downloads() == []


def test_a_picture_of_another_quality_is_not_taken(bench: Bench, clips: Path) -> None:
    fake_twitch.retell(bench.tool, f"short {clip(clips, seconds=SECONDS, size='640x480')}")
    failure = bench.failure()
    assert type(failure) is ToolFailed
    assert "480 pixels" in failure.message
    assert bench.left() == set()


def test_a_cache_that_the_tool_forgot_goes_too(bench: Bench) -> None:
    fake_twitch.retell(bench.tool, "leaves-cache")
    bench.fetch()
    assert bench.left() == {"source", "finished.json"}


def test_a_percentage_out_of_all_bounds_is_harmless(bench: Bench) -> None:
    fake_twitch.retell(bench.tool, "wild-percent")
    bench.fetch()


def test_a_digest_that_does_not_hold_refuses_the_file(bench: Bench) -> None:
    assert type(bench.failure(promised=frozenset({"sha256:" + "0" * 64}))) is WrongDigest
    assert bench.left() == set()


def test_too_little_space_is_seen_before_the_download(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = psutil.disk_usage(str(bench.folder))
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=1000))
    assert type(bench.failure()) is DiskFull
    assert bench.downloads() == []


def test_a_tool_that_is_not_there_is_named_with_its_remedy(bench: Bench) -> None:
    bench.tool = bench.tool.with_name("nowhere")
    failure = bench.failure()
    assert type(failure) is ToolMissing
    assert "TIDEGATE_TOOLS_TWITCH_DOWNLOADER" in failure.hint


def test_a_tool_that_is_too_old_says_so(bench: Bench) -> None:
    fake_twitch.retell(bench.tool, "old")
    failure = bench.failure()
    assert type(failure) is ToolMissing
    assert "too old" in failure.message


def test_the_tool_is_found_on_the_path(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{bench.tool.parent}:{os.environ['PATH']}")
    settings = ToolSettings()
    outside = bench.outside()
    object.__setattr__(outside, "tools", settings)
    anyio.run(bench.fetching, outside, "360p30", {})
    assert len(bench.downloads()) == 1


def test_an_info_that_failed_in_a_way_that_may_pass_is_asked_again(bench: Bench) -> None:
    fake_twitch.retell(bench.tool, "once:info:unreachable")
    fetched = bench.fetch()
    assert fetched.stats.retries == 1
    assert len(fake_twitch.called_with(bench.tool, "info")) == 2
    assert bench.statistics[ORIGIN].failures == {"connection_failed": 1}


def test_an_info_that_never_answers_ends(bench: Bench) -> None:
    fake_twitch.retell(bench.tool, "info:hang")
    bench.limits = QUICK.model_copy(update={"extract_timeout": TransferSettings(extract_timeout=1).extract_timeout})
    assert type(bench.failure()) is RequestTimeout


def test_a_cancelled_download_leaves_neither_tool_nor_cache(bench: Bench, mark: str) -> None:
    fake_twitch.retell(bench.tool, "slow Downloading 0.5")

    async def given_up() -> None:
        with anyio.move_on_after(1.5):
            await bench.fetching(bench.outside(), "360p30", {})

    anyio.run(given_up)
    assert bench.downloads()
    assert leaks.wait_until_childless(mark) == []
    assert bench.left() == set()


def test_what_a_killed_run_left_is_cleared_by_the_next(bench: Bench) -> None:
    fake_twitch.retell(bench.tool, "stall Finalizing 50")
    child = os.fork()
    if child == 0:
        try:
            bench.limits = TransferSettings()
            bench.fetch()
        finally:
            os._exit(1)
    until = time.monotonic() + 30
    while not list(bench.folder.glob("tool*/TwitchDownloader/*/9.ts")) and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert [name for name in bench.left() if name.startswith("tool")]
    fake_twitch.retell(bench.tool)
    bench.fetch()
    assert bench.left() == {"source", "finished.json"}


def test_a_clip_has_a_verb_of_its_own(bench: Bench) -> None:
    bench.link = "https://clips.twitch.tv/PlacidColdClips-hL2s_aLE4CHvVN4J"
    bench.fetch()
    (call,) = fake_twitch.called_with(bench.tool, "clipdownload")
    assert call[call.index("--id") + 1] == "PlacidColdClips-hL2s_aLE4CHvVN4J"


def test_the_note_of_a_finished_download_holds_no_more_than_it_must(bench: Bench) -> None:
    bench.fetch()
    note = json.loads((bench.folder / "finished.json").read_text())
    assert set(note) == {"identity", "rendition", "size_bytes", "promised_seconds", "gaps"}


@pytest.mark.parametrize("pattern", CATALOGUE, ids=lambda pattern: pattern.example[:30])
def test_each_entry_of_the_catalogue_knows_its_example(pattern: object) -> None:
    console = Console()
    console.feed(pattern.example)  # type: ignore[attr-defined]
    assert type(console_failure(console, 1)) is pattern.failure  # type: ignore[attr-defined]


def test_a_table_that_wraps_at_eighty_columns_is_read_whole() -> None:
    rows = [
        [
            "1080p60 (Source)",
            "1920x1080",
            "60",
            "avc1.64002A, mp4a.40.2 and a word that is long",
            "8534kbps",
            "~3.9GiB",
        ],
        ["160p30", "284x160", "30", "-", "230kbps", "~107.8MiB"],
    ]
    title = "A title of very many words, so that it takes two lines of the table though nobody asked for it, or three"
    text = fake_twitch.table("Video Info", ["Key", "Value"], [["Title", title], ["Length", "1:05:00"]])
    text += "\n" + fake_twitch.table(
        "Video Streams", ["Name", "Resolution", "FPS", "Codecs", "Bitrate", "File size"], rows
    )
    info = parse_info(text.splitlines())
    assert (info.title, info.seconds) == (title, 3900.0)
    assert [(q.name, q.height, q.bandwidth_bps) for q in info.qualities] == [
        ("1080p60 (Source)", 1080, 8_534_000),
        ("160p30", 160, 230_000),
    ]
    assert info.qualities[1].size_bytes == pytest.approx(107.8 * 1024**2, rel=0.001)


def test_the_place_of_a_gap_comes_from_the_numbers_of_its_parts() -> None:
    console = Console()
    console.feed(
        "[WARNING] - The following parts could not be downloaded and will be missing from the video: 2.ts, 3-muted.ts"
    )
    gaps = gaps_of(console, promised=3600, held=3600)
    assert [(gap.start_seconds, gap.end_seconds) for gap in gaps] == [(20, 30), (30, 40)]

"""Pages and Twitch through the real command: published whole; no signature is kept, and no cache of a tool is left."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import fake_twitch
from tests.support.aftermath import left_running, unfinished_files
from tests.support.clips import clip
from tests.support.command import ROOT, Command, wait_until
from tests.support.origin import Origin
from tests.support.site_page import SitePage

VOD = "https://www.twitch.tv/videos/1866702552?t=0h1m"
PAGE = (
    "<html><head><title>A film</title></head><body><video>"
    '<source src="{signed:small.mp4}" height="240"><source src="{signed:large.mp4}" height="480">'
    "</video></body></html>"
)


@pytest.fixture
def tidy(command: Command) -> Iterator[Command]:
    yield command
    assert left_running(command) == []
    assert unfinished_files(command) == []


def below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.first
def test_the_video_of_a_page_is_published_and_its_signed_links_are_nowhere(tidy: Command, clips: Path) -> None:
    films = {"small.mp4": clip(clips), "large.mp4": clip(clips, size="640x480")}
    with SitePage({"/film": PAGE}, films) as site:
        ended = tidy.run(site.url("/film"), "--quality", "360p")
        signatures = {request.signature for request in site.requests if request.signature}
    assert ended.code == 0, ended.stderr
    assert ended.document["download"]["resolver"] == "site"
    assert ended.document["output"]["video"]["height"] == 240
    assert signatures
    told = (ended.stdout + ended.stderr).encode() + below(tidy.home) + below(tidy.output)
    assert [signature for signature in signatures if signature.encode() in told] == []


def test_a_link_to_a_file_never_imports_yt_dlp(tidy: Command, clips: Path, tmp_path: Path) -> None:
    spy = tmp_path / "spy" / "yt_dlp"
    spy.mkdir(parents=True)
    (spy / "__init__.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\n")
    tidy.environment["PYTHONPATH"] = f"{spy.parent}:{ROOT}"
    with Origin({"film.mp4": clip(clips)}) as origin:
        ended = tidy.run(origin.url("film.mp4"))
    assert ended.code == 0, ended.stderr
    assert not (tmp_path / "imported").exists()


def test_a_run_that_was_killed_while_the_tool_worked_begins_anew_in_a_clean_folder(
    tidy: Command, clips: Path, tmp_path: Path
) -> None:
    tool = fake_twitch.install(tmp_path / "bin", {"360p30": ("320x240", clip(clips, seconds=6))}, "stall Finalizing 50")
    tidy.environment["TIDEGATE_TOOLS_TWITCH_DOWNLOADER"] = str(tool)
    scratch = tidy.home / "tidegate" / "scratch"
    with tidy.started(VOD) as process:
        wait_until(lambda: list(scratch.rglob("TwitchDownloader/*/9.ts")), seconds=90, what="for the tool's parts")
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not left_running(tidy), what="for the tool to end with its run")
    fake_twitch.retell(tool)
    ended = tidy.run(VOD)
    assert ended.code == 0, ended.stderr
    assert len(fake_twitch.called_with(tool, "videodownload")) == 2
    assert list(scratch.rglob("TwitchDownloader")) == []

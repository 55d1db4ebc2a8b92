"""Real children that connect by themselves are held to the addresses that we are held to: yt-dlp, the Twitch tool."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from pydantic import SecretStr

from tests.support import fake_twitch, leaks
from tests.support.clips import clip
from tests.support.leaks import open_descriptors
from tests.support.origin import Origin
from tests.support.site_page import Answer, SitePage
from tidegate.errors import AddressRefused, TidegateError
from tidegate.model import Rendition, Source
from tidegate.settings import NetworkSettings, ProcessSettings, Settings, StoreSettings, ToolSettings, TransferSettings
from tidegate.stages import Workbench
from tidegate.stages.outside import outside_of
from tidegate.transfer.outside import Outside
from tidegate.transfer.resolvers import site as site_module
from tidegate.transfer.resolvers.base import FetchRequest, FetchResult, Offer
from tidegate.transfer.resolvers.site import SiteResolver
from tidegate.transfer.resolvers.twitch import TwitchResolver
from tidegate.transfer.transport import pool_of

QUICK = TransferSettings(backoff_base=0.01, tries=2, extract_timeout=30, request_timeout=8, tool_stall_timeout=10)
PAGE = "<html><head><title>A film</title></head><body><video>{}</video></body></html>"
VOD = "https://www.twitch.tv/videos/1866702552"


@pytest.fixture(autouse=True)
def mark() -> Iterator[str]:
    site_module._recent.clear()
    before = open_descriptors()
    with leaks.marking() as mark:
        yield mark
        assert leaks.wait_until_childless(mark) == []
        leaks.end_children(mark)
    assert {what for what in open_descriptors().values() if "socket" in what} <= set(before.values())


class Bench:
    """One source, with what may be reached for it."""

    def __init__(self, home: Path, link: str, *allowed: int, tool: Path | None = None, policy: str = "public") -> None:
        network = NetworkSettings(policy=policy, allow=",".join(f"127.0.0.1:{port}" for port in allowed))  # type: ignore[arg-type]
        self.settings = Settings(
            transfer=QUICK,
            network=network,
            process=ProcessSettings(tick=0.1, startup_grace=1, end_grace=1),
            store=StoreSettings(home=home),
            tools=ToolSettings(twitch_downloader=str(tool) if tool else None),
        )
        self.home, self.source = home, Source(url=SecretStr(link))
        self.resolver = TwitchResolver() if tool else SiteResolver()
        self.statistics: dict[str, dict[str, int]] = {}

    def offer(self) -> Offer:
        async def work(outside: Outside) -> Offer:
            identity, _ = await self.resolver.identify(outside, self.source)
            return await self.resolver.offer(outside, self.source, identity, lambda name: self.home / name)

        return self._run(work)  # type: ignore[return-value]

    def fetch(self, rendition: str) -> FetchResult:
        async def work(outside: Outside) -> FetchResult:
            identity, _ = await self.resolver.identify(outside, self.source)
            folder = self.home / rendition
            folder.mkdir(exist_ok=True)
            what = FetchRequest(identity, Rendition(id=rendition, label=rendition), folder)
            return await self.resolver.fetch(outside, self.source, what)

        return self._run(work)  # type: ignore[return-value]

    def _run(self, work: object) -> object:
        async def all_of_it() -> object:
            outside = outside_of(Workbench(self.settings), "download")
            try:
                return await work(outside)  # type: ignore[operator]
            finally:
                pool_of(outside.gates).close()
                self.statistics = {one.origin: one.failures for one in outside.gates.statistics()}

        return anyio.run(all_of_it)


def refused(act: object, *words: object) -> TidegateError:
    with pytest.raises(AddressRefused) as caught:
        act(*words)  # type: ignore[operator]
    assert "loopback" in caught.value.message
    return caught.value


def port_of(site: SitePage) -> int:
    return int(site.url("").rpartition(":")[2])


def test_a_page_at_a_refused_address_is_never_asked_by_yt_dlp(tmp_path: Path) -> None:
    with SitePage({"/page": PAGE}) as site:
        refused(Bench(tmp_path, site.url("/page")).offer)
        assert site.requests == []


def test_a_page_that_is_allowed_is_read_through_the_proxy(tmp_path: Path, clips: Path) -> None:
    films = {"small.mp4": clip(clips)}
    with SitePage({"/page": PAGE.format('<source src="{signed:small.mp4}" height="240">')}, films) as site:
        bench = Bench(tmp_path, site.url("/page"), port_of(site))
        [rendition] = bench.offer().renditions
        assert bench.fetch(rendition.id).tracks
        assert all("proxy" not in name.lower() for request in site.requests for name in request.headers)


@pytest.mark.parametrize("host", ["localhost", "2130706433"])
def test_a_page_that_redirects_to_a_refused_address_leads_nowhere(host: str, tmp_path: Path) -> None:
    with SitePage({"/page": PAGE}) as inner:
        away = inner.url("/page").replace("127.0.0.1", host)
        with SitePage({"/page": Answer(302, {"Location": away})}) as site:
            bench = Bench(tmp_path, site.url("/page"), port_of(site))
            refused(bench.offer)
            [counted] = bench.statistics.values()
            assert counted == {"address_refused": 1}, "asked once: nothing is tried again"
        assert inner.requests == []


def test_a_playlist_on_a_page_that_lies_at_a_refused_address_is_not_asked(tmp_path: Path) -> None:
    """yt-dlp itself reads the playlists that a page leads to."""
    with SitePage({"/list.m3u8": Answer(200, {}, b"#EXTM3U\n")}) as inner:
        page = f'<video><source src="{inner.url("/list.m3u8")}" type="application/x-mpegURL"></video>'
        with SitePage({"/page": f"<html><body>{page}</body></html>"}) as site, pytest.raises(TidegateError) as caught:
            Bench(tmp_path, site.url("/page"), port_of(site)).offer()
        assert caught.value.type == "address_refused"
        assert inner.requests == []


def test_media_and_subtitles_of_a_page_are_judged_where_we_bring_them(tmp_path: Path, clips: Path) -> None:
    with Origin({"film.mp4": clip(clips), "text.vtt": b"WEBVTT\n\n00:00.000 --> 00:01.000\nHello\n"}) as inner:
        page = PAGE.format(f'<source src="{inner.url("film.mp4")}" height="240">')
        with SitePage({"/page": page}) as site:
            bench = Bench(tmp_path, site.url("/page"), port_of(site))
            [rendition] = bench.offer().renditions
            refused(bench.fetch, rendition.id)
        assert inner.requests == []


@pytest.mark.parametrize("verb", ["info", "download"])
def test_the_twitch_tool_reaches_what_is_listed_and_nothing_else(verb: str, tmp_path: Path, clips: Path) -> None:
    qualities = {"360p30": ("320x240", clip(clips, seconds=6))}
    with Origin({"a": b"hello"}) as listed, Origin({"a": b"secret"}) as other:
        when = "info:" if verb == "info" else ""
        tool = fake_twitch.install(tmp_path / "bin", qualities, f"{when}connect {other.url('a')}")
        bench = Bench(tmp_path, VOD, listed.port, tool=tool)
        refused(bench.fetch, "360p30")
        assert other.requests == []
        assert len(fake_twitch.called_with(tool, "videodownload")) == (0 if verb == "info" else 1)
        fake_twitch.retell(tool, f"{when}connect {listed.url('a')}")
        assert bench.fetch("360p30").tracks
        assert len(listed.requests) == 1


def test_with_an_open_policy_tools_connect_by_themselves(tmp_path: Path, clips: Path) -> None:
    qualities = {"360p30": ("320x240", clip(clips, seconds=6))}
    with Origin({"a": b"hello"}) as origin:
        tool = fake_twitch.install(tmp_path / "bin", qualities, f"connect {origin.url('a')}")
        assert Bench(tmp_path, VOD, tool=tool, policy="open").fetch("360p30").tracks
        assert len(origin.requests) == 1

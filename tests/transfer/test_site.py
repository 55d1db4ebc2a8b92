"""Pages of sites: yt-dlp in a real child finds the media, our engine brings it, and no secret is left anywhere.

The pages are on loopback, so the generic extractor reads them. What only other sites have (separate sound, many
heights, languages) is decided by pure functions, which are asked with formats as yt-dlp tells them.
"""

from __future__ import annotations

import base64
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from pydantic import SecretStr
from yt_dlp.cookies import YoutubeDLCookieJar

from tests.support import ladders, leaks
from tests.support.clips import clip
from tests.support.site_page import Answer, SitePage
from tidegate.errors import (
    ConnectionFailed,
    Evidence,
    ExpiredLink,
    HttpRefused,
    NotFound,
    NotMedia,
    RequestTimeout,
    ServerError,
    SourceChanged,
    Throttled,
    TidegateError,
    Unknown,
)
from tidegate.events import Event
from tidegate.model import Identity, Rendition, Source
from tidegate.settings import ProcessSettings, Settings, StoreSettings, TransferSettings
from tidegate.stages import Workbench
from tidegate.stages.outside import outside_of
from tidegate.transfer.outside import Outside
from tidegate.transfer.resolvers import site as site_module
from tidegate.transfer.resolvers.base import FetchRequest, FetchResult, Offer
from tidegate.transfer.resolvers.site import SiteResolver
from tidegate.transfer.resolvers.site_child import cookies_of, own_host_only
from tidegate.transfer.resolvers.site_extraction import Extraction, site_failure
from tidegate.transfer.resolvers.site_formats import canonical_link, choices_of, expires_at, format_of, same_choice

SITE = SiteResolver()
QUICK = TransferSettings(backoff_base=0.01, tries=2, extract_timeout=30, request_timeout=8, throttle_budget=1.0)
PAGE = "<html><head><title>A film</title></head><body><video>{}</video></body></html>"
TWO = PAGE.format('<source src="{signed:small.mp4}" height="240"><source src="{signed:large.mp4}" height="480">')
SECRET = "c00kie-0f-somebody"


@pytest.fixture(autouse=True)
def mark() -> Iterator[str]:
    with leaks.marking() as mark:
        yield mark
        assert leaks.wait_until_childless(mark) == []
        leaks.end_children(mark)


@pytest.fixture
def films(clips: Path) -> dict[str, Path | bytes]:
    return {"small.mp4": clip(clips), "large.mp4": clip(clips, size="640x480")}


@dataclass
class Bench:
    """One page, and a folder for what it leads to."""

    home: Path
    link: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    limits: TransferSettings = QUICK

    @property
    def folder(self) -> Path:
        folder = self.home / "scratch"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def source(self) -> Source:
        return Source(
            url=SecretStr(self.link), headers={name: SecretStr(value) for name, value in self.headers.items()}
        )

    def outside(self) -> Outside:
        settings = Settings(
            transfer=self.limits,
            process=ProcessSettings(tick=0.1, startup_grace=1, end_grace=1),
            store=StoreSettings(home=self.home),
        )
        return outside_of(Workbench(settings, observe=self.events.append), "download")

    def offer(self) -> Offer:
        async def ask() -> Offer:
            outside = self.outside()
            try:
                identity, _ = await SITE.identify(outside, self.source)
                return await SITE.offer(outside, self.source, identity, lambda name: self.folder / name)
            finally:
                self.statistics = {stats.origin: stats for stats in outside.gates.statistics()}

        return anyio.run(ask)

    def fetch(self, rendition: Rendition) -> FetchResult:
        async def fetch() -> FetchResult:
            outside = self.outside()
            identity, _ = await SITE.identify(outside, self.source)
            return await SITE.fetch(outside, self.source, FetchRequest(identity, rendition, self.folder / rendition.id))

        (self.folder / rendition.id).mkdir(exist_ok=True)
        return anyio.run(fetch)

    def failure(self) -> TidegateError:
        with pytest.raises(TidegateError) as caught:
            self.offer()
        return caught.value

    def everything_on_disk(self) -> bytes:
        return b"".join(path.read_bytes() for path in self.home.rglob("*") if path.is_file())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    site_module._recent.clear()
    return Bench(tmp_path)


def on(site: SitePage, bench: Bench, path: str = "/page") -> Bench:
    bench.link = site.url(path)
    return bench


# --- whose it is ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "known"),
    [
        ("https://www.youtube.com/watch?v=dQw4w9WgXcQ", True),
        ("https://vimeo.com/76979871", True),
        ("https://www.twitch.tv/videos/1866702552", True),
        ("https://example.org/some/page", False),
        ("https://www.youtube.com/film.mp4", False),
        ("http://127.0.0.1/watch?v=dQw4w9WgXcQ", False),
        ("http://localhost/page", False),
        ("file:///home/somebody/film", False),
    ],
)
def test_only_links_that_a_sites_own_extractor_knows_are_taken(link: str, known: bool) -> None:
    assert SITE.handles(Source(url=SecretStr(link))) is known


def test_a_link_that_ends_as_media_never_imports_yt_dlp() -> None:
    program = """
import sys
from pydantic import SecretStr
from tidegate.model import Identity, Source
from tidegate.transfer.resolvers.site import SiteResolver
site = SiteResolver()
for link in ("http://host.example/film.mp4", "file:///film", "http://127.0.0.1/film", "https://youtube.com/a.m3u8"):
    assert not site.handles(Source(url=SecretStr(link)))
assert not site.recognises(Identity(url="http://host.example/film.mp4", name="film.mp4", content_type="text/html"))
assert "yt_dlp" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("link", "kind", "taken"),
    [
        ("https://example.org/page", "text/html; charset=utf-8", True),
        ("https://example.org/page", "application/xhtml+xml", True),
        ("https://example.org/page", "video/mp4", False),
        ("https://example.org/film.mp4", "text/html", False),
        ("https://example.org/page", None, False),
    ],
)
def test_a_web_page_is_recognised_unless_it_stands_for_a_file(link: str, kind: str | None, taken: bool) -> None:
    assert SITE.recognises(Identity(url=link, name="x", content_type=kind)) is taken


def test_who_shared_a_link_and_where_he_was_in_it_makes_no_other_identity(bench: Bench) -> None:
    def identity(link: str) -> Identity:
        identity, cost = anyio.run(SITE.identify, bench.outside(), Source(url=SecretStr(link)))
        assert cost.requests == 0
        return identity

    plain = identity("https://www.youtube.com/watch?v=dQw4w9WgXcQ")
    assert identity("https://WWW.YouTube.com/watch?v=dQw4w9WgXcQ&si=abc&t=90s&utm_source=x#here").key == plain.key
    assert identity("https://www.youtube.com/watch?v=aaaaaaaaaaa").key != plain.key
    assert plain.name == "dQw4w9WgXcQ"
    assert identity("https://example.org/page?id=1&t=9").key != identity("https://example.org/page?id=1&t=8").key


# --- what a page offers -----------------------------------------------------------------------------


def test_a_page_with_two_heights_offers_two_renditions(bench: Bench, films: dict[str, Path | bytes]) -> None:
    with SitePage({"/page": TWO}, films) as site:
        offer = on(site, bench).offer()
    assert [rendition.height for rendition in offer.renditions] == [240, 480]
    assert offer.cost.requests >= 1
    assert list((bench.folder / "page").iterdir()) == []


def test_a_download_is_byte_for_byte_the_file_that_the_page_leads_to(
    bench: Bench, films: dict[str, Path | bytes]
) -> None:
    with SitePage({"/page": TWO}, films) as site:
        offer = on(site, bench).offer()
        fetched = bench.fetch(offer.renditions[0])
        pages = site.requests_for("/page")
    (path,) = fetched.tracks["source"]
    assert path.read_bytes() == Path(str(films["small.mp4"])).read_bytes()
    assert len(pages) == 1, "the download used what the probe had just heard"


def test_no_signature_is_written_anywhere(bench: Bench, films: dict[str, Path | bytes]) -> None:
    with SitePage({"/page": TWO}, films) as site:
        offer = on(site, bench).offer()
        bench.fetch(offer.renditions[0])
        signatures = [request.signature for request in site.requests if request.signature]
    text = repr(bench.events) + offer.renditions[0].model_dump_json() + repr(offer)
    assert signatures
    assert not any(signature.encode() in bench.everything_on_disk() for signature in signatures)
    assert not any(signature in text for signature in signatures)


def test_a_link_that_expired_before_the_download_is_asked_for_again_once(
    bench: Bench, films: dict[str, Path | bytes]
) -> None:
    with SitePage({"/page": TWO}, films) as site:
        offer = on(site, bench).offer()
        site.revoke()
        site_module._recent.clear()  # another process, such as the one that takes up a run
        fetched = bench.fetch(offer.renditions[0])
        assert len(site.requests_for("/page")) == 2
    assert fetched.tracks["source"][0].stat().st_size == Path(str(films["small.mp4"])).stat().st_size


def test_a_link_that_expires_on_the_way_is_renewed_and_the_file_goes_on(
    bench: Bench, films: dict[str, Path | bytes]
) -> None:
    bench.limits = QUICK.model_copy(update={"gain_bytes": 1000, "connections": 1})
    with SitePage({"/page": TWO}, films, uses=(2, None), cut_after=200_000) as site:
        offer = on(site, bench).offer()
        fetched = bench.fetch(offer.renditions[0])
        pages, media = len(site.requests_for("/page")), site.requests_for("/media/small.mp4")
    whole = Path(str(films["small.mp4"])).read_bytes()
    assert fetched.tracks["source"][0].read_bytes() == whole
    assert pages == 2
    assert any(request.headers.get("Range", "").startswith("bytes=200000") for request in media)


def test_a_link_that_is_refused_again_after_its_renewal_is_the_failure(
    bench: Bench, films: dict[str, Path | bytes]
) -> None:
    bench.limits = QUICK.model_copy(update={"connections": 1})
    with SitePage({"/page": TWO}, films, uses=(1,)) as site:
        offer = on(site, bench).offer()
        with pytest.raises((ExpiredLink, HttpRefused)):
            bench.fetch(offer.renditions[0])
        assert len(site.requests_for("/page")) <= 3


def test_a_rendition_that_the_site_no_longer_has_is_said_so(bench: Bench, films: dict[str, Path | bytes]) -> None:
    with SitePage({"/page": TWO}, films) as site:
        on(site, bench)
        with pytest.raises(SourceChanged):
            bench.fetch(Rendition(id="1080p-9", label="1080p", height=1080))


def test_a_playlist_on_a_page_goes_through_our_own_engine(bench: Bench, clips: Path) -> None:
    media = ladders.cut(clips, seconds=3)
    files = {
        "master.m3u8": ladders.ladder({"low.m3u8": "160x120@200000"}),
        "low.m3u8": ladders.hls_text(f"s{number}.ts" for number in range(3)),
        **ladders.name_segments(media, "s{}.ts"),
    }
    page = PAGE.format('<source src="{plain:master.m3u8}" type="application/x-mpegURL">')
    with SitePage({"/page": page}, files) as site:
        offer = on(site, bench).offer()
        fetched = bench.fetch(offer.renditions[0])
        paths = [request.path for request in site.requests if request.path.endswith(".ts")]
    assert [rendition.height for rendition in offer.renditions] == [120]
    assert b"".join(path.read_bytes() for path in fetched.tracks["source"]) == media.whole
    assert sorted(paths) == ["/open/s0.ts", "/open/s1.ts", "/open/s2.ts"]


def test_sound_of_its_own_is_a_second_track(bench: Bench, clips: Path) -> None:
    picture = ladders.cut(clips, seconds=3, both=False)
    sound = ladders.cut(clips, "sound", seconds=3)
    group = '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="English",LANGUAGE="en",DEFAULT=YES,URI="sound.m3u8"'
    files = {
        "master.m3u8": ladders.ladder(
            {"low.m3u8": "160x120@200000"}, media=[group], also=',CODECS="avc1.42c00b,mp4a.40.2",AUDIO="a"'
        ),
        "low.m3u8": ladders.hls_text(f"s{number}.ts" for number in range(3)),
        "sound.m3u8": ladders.hls_text(f"a{number}.ts" for number in range(3)),
        **ladders.name_segments(picture, "s{}.ts"),
        **ladders.name_segments(sound, "a{}.ts"),
    }
    page = PAGE.format('<source src="{plain:master.m3u8}" type="application/x-mpegURL">')
    with SitePage({"/page": page}, files) as site:
        fetched = bench.fetch(on(site, bench).offer().renditions[0])
    assert list(fetched.tracks) == ["source", "sound-1"]


MPD = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT3S" minBufferTime="PT1S"
 profiles="urn:mpeg:dash:profile:isoff-live:2011"><Period><AdaptationSet mimeType="video/mp4" contentType="video">
<SegmentTemplate timescale="1" duration="1" startNumber="0" initialization="init.mp4" media="s$Number$.m4s"/>
<Representation id="v" bandwidth="200000" width="160" height="120" codecs="avc1.42c00b"/>
</AdaptationSet></Period></MPD>"""


def test_a_dash_presentation_on_a_page_goes_through_our_own_engine(bench: Bench, clips: Path) -> None:
    media = ladders.cut(clips, "mp4", seconds=3)
    assert media.init is not None
    files = {"film.mpd": MPD.encode(), "init.mp4": media.init, **ladders.name_segments(media, "s{}.m4s")}
    page = PAGE.format('<source src="{plain:film.mpd}" type="application/dash+xml">')
    with SitePage({"/page": page}, files) as site:
        offer = on(site, bench).offer()
        fetched = bench.fetch(offer.renditions[0])
    assert [rendition.height for rendition in offer.renditions] == [120]
    assert b"".join(path.read_bytes() for path in fetched.tracks["source"]) == media.whole


def test_subtitles_come_along_and_a_film_is_not_refused_for_want_of_them(
    bench: Bench, films: dict[str, Path | bytes]
) -> None:
    lines = b"WEBVTT\n\n00:00.500 --> 00:01.500\nFirst line\n"
    tracks = "".join(
        f'<track kind="subtitles" srclang="{language}" src="{{plain:{language}.vtt}}">' for language in ("en", "de")
    )
    page = PAGE.format('<source src="{signed:small.mp4}" height="240">' + tracks)
    with SitePage({"/page": page}, {**films, "en.vtt": lines}) as site:
        fetched = bench.fetch(on(site, bench).offer().renditions[0])
    assert set(fetched.tracks) == {"source", "subtitles-1-en"}
    assert fetched.tracks["subtitles-1-en"][0].read_bytes() == lines


# --- secrets ----------------------------------------------------------------------------------------


def test_a_cookie_reaches_the_page_and_its_media_and_no_command_line(
    bench: Bench, films: dict[str, Path | bytes]
) -> None:
    bench.headers = {"Cookie": f"session={SECRET}; other=1"}
    with SitePage({"/page": TWO}, films, cookie=SECRET) as site:
        offer = on(site, bench).offer()
        bench.fetch(offer.renditions[0])
        assert all(SECRET in request.headers["Cookie"] for request in site.requests)
    assert SECRET.encode() not in bench.everything_on_disk()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_header_stays_with_its_own_origin_even_over_a_redirect(
    host: str, bench: Bench, films: dict[str, Path | bytes]
) -> None:
    """Another port of the same host is another origin."""
    bench.headers = {"Authorization": f"Bearer {SECRET}", "X-Token": SECRET, "Cookie": f"a={SECRET}"}
    with SitePage({"/page": TWO}, films) as elsewhere:
        away = elsewhere.url("/page").replace("127.0.0.1", host)
        with SitePage({"/page": Answer(302, {"Location": away})}) as site:
            on(site, bench).offer()
            (request,) = site.requests_for("/page")
        assert (request.headers["Authorization"], request.headers["X-Token"]) == (f"Bearer {SECRET}", SECRET)
        assert elsewhere.requests_for("/page")
        assert not any(SECRET in repr(request.headers) for request in elsewhere.requests)


@pytest.mark.parametrize(
    ("link", "goes"),
    [
        ("https://example.com/v.mp4", True),
        ("https://evil.example.com/v.mp4", False),
        ("https://example.com:8443/v.mp4", False),
        ("http://example.com/v.mp4", False),
        ("https://notexample.com/v.mp4", False),
    ],
)
def test_a_cookie_is_for_the_pages_own_host_and_port(link: str, goes: bool) -> None:
    jar = YoutubeDLCookieJar(policy=own_host_only())
    for cookie in cookies_of(f"session={SECRET}", "https://example.com/page"):
        jar.set_cookie(cookie)
    assert bool(jar.get_cookie_header(link)) is goes


def test_a_login_in_the_link_is_a_header_for_its_own_origin(bench: Bench, films: dict[str, Path | bytes]) -> None:
    with SitePage({"/page": TWO}, films) as elsewhere:
        away = elsewhere.url("/page").replace("127.0.0.1", "localhost")
        with SitePage({"/page": Answer(302, {"Location": away})}) as site:
            bench.link = site.url("/page").replace("127.0.0.1", f"somebody:{SECRET}@127.0.0.1")
            bench.offer()
            (request,) = site.requests_for("/page")
        assert base64.b64decode(request.headers["Authorization"].split()[1]).decode() == f"somebody:{SECRET}"
        assert not any("Authorization" in request.headers for request in elsewhere.requests)


def mode_of(path: str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


def there(path: str) -> bool:
    return Path(path).exists()


def test_the_request_is_a_file_of_mode_0600_that_the_child_removes(bench: Bench) -> None:
    bench.headers = {"X-Token": SECRET}
    seen: list[tuple[int, list[str]]] = []

    async def looked() -> None:
        outside = bench.outside()
        run = outside.run_tool

        async def spying(**how: object) -> object:
            argv = how["argv"]
            assert isinstance(argv, list)
            seen.append((mode_of(argv[-1]), argv))
            end = await run(**how)  # type: ignore[arg-type]
            assert not there(argv[-1])
            return end

        object.__setattr__(outside, "run_tool", spying)
        identity, _ = await SITE.identify(outside, bench.source)
        await SITE.offer(outside, bench.source, identity, lambda name: bench.folder / name)

    with SitePage({"/page": Answer(404)}) as site:
        on(site, bench)
        with pytest.raises(NotFound):
            anyio.run(looked)
    ((mode, argv),) = seen
    assert mode == 0o600
    assert SECRET not in " ".join(argv)


def test_nobodys_configuration_plugins_netrc_or_cache_are_read(
    bench: Bench, films: dict[str, Path | bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "somebody"
    plugin = home / ".config/yt-dlp/plugins/evil/yt_dlp_plugins/extractor/evil.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text(f"open({str(tmp_path / 'plugin-ran')!r}, 'w')\n")
    (home / ".config/yt-dlp/config").write_text("--proxy http://127.0.0.1:9\n")
    (home / ".netrc").write_text(f"machine 127.0.0.1 login somebody password {SECRET}\n")
    (home / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    before = sorted(home.rglob("*"))
    with SitePage({"/page": TWO}, films) as site:
        on(site, bench).offer()
        assert not any("Authorization" in request.headers for request in site.requests)
    assert not (tmp_path / "plugin-ran").exists()
    assert sorted(home.rglob("*")) == before


# --- failures ---------------------------------------------------------------------------------------

ANSWERS: dict[str, tuple[str | Answer, type[TidegateError], int]] = {
    "gone": (Answer(404), NotFound, 1),
    "gone for good": (Answer(410), NotFound, 1),
    "forbidden": (Answer(403), HttpRefused, 1),
    "throttled": (Answer(429, {"Retry-After": "1"}), Throttled, 2),
    "down": (Answer(503), ServerError, 2),
    "no video": ("<html><title>Text</title><p>nothing here</html>", NotMedia, 1),
    "empty": ("", NotMedia, 1),
}


@pytest.mark.parametrize("story", ANSWERS)
def test_what_the_page_answers_is_a_typed_failure_after_the_right_number_of_requests(bench: Bench, story: str) -> None:
    answer, kind, requests = ANSWERS[story]
    with SitePage({"/page": answer}) as site:
        failure = on(site, bench).failure()
        assert type(failure) is kind, failure.message
        assert len(site.requests_for("/page")) == requests
        origin = site.url("")
    counted = bench.statistics[origin].failures
    assert counted == {failure.type: requests}
    assert "127.0.0.1" not in failure.message or "token" not in failure.message


def test_a_host_that_refuses_connections_is_a_connection_failure(bench: Bench) -> None:
    with SitePage({}) as site:
        on(site, bench)
    assert type(bench.failure()) is ConnectionFailed


def test_a_page_that_never_answers_ends(bench: Bench) -> None:
    bench.limits = QUICK.model_copy(
        update={"tries": 1, "extract_timeout": TransferSettings(extract_timeout=3).extract_timeout}
    )
    with SitePage({}, hang=frozenset({"/page"})) as site:
        assert type(on(site, bench).failure()) is RequestTimeout


def test_an_extractor_that_crashes_is_unknown_with_its_evidence(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = bench.home / "broken_child.py"
    broken.write_text("import sys, os\nos.unlink(sys.argv[1])\nraise SystemError('inside the extractor')\n")
    monkeypatch.setattr("tidegate.transfer.resolvers.site_extraction._CHILD", broken)
    bench.link = "http://127.0.0.1:9/page"
    failure = bench.failure()
    assert type(failure) is Unknown
    assert "inside the extractor" in failure.evidence.output_tail


SAID: dict[str, type[TidegateError]] = {
    "Private video. Sign in if you've been granted access": HttpRefused,
    "This video has been removed by the uploader": NotFound,
    "Video unavailable. This video does not exist.": NotFound,
    "This video is only available to Music Premium members": HttpRefused,
    "The requested site is known to use DRM protection": HttpRefused,
    "No video could be found in this tweet": NotMedia,
}


@pytest.mark.parametrize("words", SAID)
def test_what_an_extractor_says_in_words_is_understood(words: str) -> None:
    assert type(site_failure({"kind": "said", "message": words}, Evidence())) is SAID[words]


def test_a_message_that_quotes_a_link_is_redacted() -> None:
    failure = site_failure({"kind": "crash", "message": "failed at https://cdn.example/v?token=abc"}, Evidence())
    assert "abc" not in failure.message


# --- which formats become renditions ------------------------------------------------------------------


def facts(format_id: str, **more: object) -> dict[str, object]:
    return {
        "format_id": format_id,
        "protocol": "https",
        "url": f"https://cdn.example/{format_id}?expire=1999999999&sig=s",
        "vcodec": "avc1.640028",
        "acodec": "mp4a.40.2",
        "tbr": 1000.0,
        **more,
    }


YOUTUBE = [
    facts("sb0", protocol="mhtml", vcodec="none", acodec="none"),
    facts("139", vcodec="none", acodec="mp4a.40.5", tbr=48, language_preference=-1),
    facts("140", vcodec="none", acodec="mp4a.40.2", tbr=129, filesize=1_000_000, language_preference=10),
    facts("140-fr", vcodec="none", acodec="mp4a.40.2", tbr=129, language_preference=-1),
    facts("251", vcodec="none", acodec="opus", tbr=140, language_preference=10),
    facts("18", height=360, width=640, filesize=5_000_000),
    facts("134", height=360, acodec="none", filesize=4_000_000),
    facts("136", height=720, width=1280, acodec="none", filesize=9_000_000),
    facts("247", height=720, width=1280, acodec="none", vcodec="vp9"),
    facts("401", height=2160, width=3840, acodec="none", vcodec="av01.0.12M.08"),
    facts("drm", height=720, has_drm=True),
    facts("rtmp", height=720, protocol="rtmp"),
]


def chosen() -> dict[int, tuple[str, ...]]:
    formats = [found for one in YOUTUBE if (found := format_of(one)) is not None]
    return {choice.rendition.height or 0: tuple(one.id for one in choice.formats) for choice in choices_of(formats)}


def test_each_height_gets_a_picture_that_needs_no_transcoding_and_the_original_sound_that_fits() -> None:
    assert chosen() == {360: ("134", "140"), 720: ("136", "140"), 2160: ("401", "251")}


def test_sizes_and_rates_of_picture_and_sound_are_added_up() -> None:
    formats = [found for one in YOUTUBE if (found := format_of(one)) is not None]
    rendition = next(one.rendition for one in choices_of(formats) if one.rendition.height == 720)
    assert (rendition.size_bytes, rendition.bandwidth_bps) == (10_000_000, 1_129_000)
    assert rendition.id == "720p-136-140"


def test_sound_alone_is_offered_where_there_is_no_picture() -> None:
    formats = [found for one in YOUTUBE[:4] if (found := format_of(one)) is not None]
    assert [choice.rendition.id for choice in choices_of(formats)] == ["audio-140"]


def test_a_format_with_an_odd_name_has_an_id_that_is_safe_as_a_folder() -> None:
    odd = format_of(facts("../../etc?token=1", height=480))
    assert odd is not None
    rendition = choices_of([odd])[0].rendition
    assert "/" not in rendition.id
    assert not rendition.id.startswith(".")


def test_formats_that_are_numbered_anew_are_found_by_their_height() -> None:
    before = choices_of([one for one in [format_of(facts("0", height=480))] if one])
    after = choices_of([one for one in [format_of(facts("7", height=480)), format_of(facts("0", height=240))] if one])
    found = same_choice(after, before[0].rendition)
    assert found is not None
    assert found.formats[0].id == "7"


@pytest.mark.parametrize(
    ("link", "ends"),
    [
        ("https://cdn.example/v?expire=1700000000&sig=x", 1_700_000_000),
        ("https://cdn.example/v?Expires=1700000000", 1_700_000_000),
        ("https://cdn.example/v?X-Amz-Date=20260101T000000Z&X-Amz-Expires=3600", 1_767_225_600 + 3600),
        ("https://cdn.example/v?e=2", None),
        ("https://cdn.example/v", None),
    ],
)
def test_the_expiry_of_a_signed_link_is_read_from_it(link: str, ends: float | None) -> None:
    assert expires_at(link) == ends


def test_links_that_are_about_to_expire_are_not_begun_with() -> None:
    one = format_of(facts("1", url="https://cdn.example/1?expire=1700000000"))
    assert one is not None
    heard = Extraction("Youtube", "x", "x", 1.0, False, (one,), 0, asked_at=1_699_990_000)
    assert heard.good_at(1_699_999_900)
    assert not heard.good_at(1_699_999_950)


def test_a_canonical_link_holds_no_secret() -> None:
    link = canonical_link("https://somebody:pw@Example.org/page?token=abc&id=7&utm_source=x#t=1")
    assert link == "https://example.org/page?token=REDACTED&id=7"

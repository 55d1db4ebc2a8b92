"""What a source is, found out from its head and tail: how many requests that costs, and what is refused at sight."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from pydantic import SecretStr

from tests.support.clips import RECIPES, Recipe, bulk_clip, make
from tests.support.leaks import leftovers
from tests.support.origin import Content, Origin, Resource
from tidegate import stages
from tidegate.errors import NotMedia, TidegateError
from tidegate.model import DownloadResult, Identity, ProbeResult, ProfileName, Quality, Rendition, Source
from tidegate.settings import Settings, StoreSettings, TransferSettings
from tidegate.stages import Workbench, choose_rendition, work_key
from tidegate.transfer.file.peek import PEEK_BYTES

MIB = 1024 * 1024


@pytest.fixture
def own(tmp_path: Path) -> Workbench:
    """A workbench whose scratch nobody else has seen."""
    quick = TransferSettings(request_timeout=3, stall_timeout=2, stall_tick=0.2, backoff_base=0.05)
    return Workbench(Settings(transfer=quick, store=StoreSettings(home=tmp_path / "home")))


def probed(bench: Workbench, url: str) -> ProbeResult:
    async def run() -> ProbeResult:
        source = Source(url=SecretStr(url))
        identity, _ = await stages.identify(bench, source)
        return await stages.probe(bench, source, identity, "key")

    return anyio.run(run)


def probed_and_downloaded(bench: Workbench, url: str) -> DownloadResult:
    async def run() -> DownloadResult:
        source = Source(url=SecretStr(url))
        identity, _ = await stages.identify(bench, source)
        probe = await stages.probe(bench, source, identity, "key")
        return await stages.download(bench, source, probe, probe.renditions[0], "key")

    return anyio.run(run)


@pytest.fixture(scope="module")
def large(clips: Path) -> Callable[[str], Path]:
    """A file of several MiB in a container of choice: its head and tail are not all of it."""
    whole = bulk_clip(clips, 4 * MIB)
    copying = {
        "index first": (".mp4", ("-movflags", "+faststart")),
        "index last": (".mp4", ()),
        "mkv": (".mkv", ()),
        "ts": (".ts", ()),
    }

    def get(kind: str) -> Path:
        suffix, options = copying[kind]
        recipe = Recipe(suffix, ("-i", str(whole)), ("-c", "copy", *options))
        return make(clips, f"large-{kind.replace(' ', '-')}", recipe, seconds=0, size="")

    return get


@pytest.mark.parametrize(("kind", "requests"), [("index first", 2), ("mkv", 2), ("index last", 3), ("ts", 3)])
def test_head_and_where_needed_tail_tell_what_it_is(
    kind: str, requests: int, large: Callable[[str], Path], own: Workbench
) -> None:
    path = large(kind)
    with Origin({path.name: path}) as origin:
        result = probed(own, origin.url(path.name))
        assert len(origin.requests) == requests, "identify, head, and a tail only where the head does not tell"
        assert origin.bytes_sent(path.name) <= 2 * PEEK_BYTES + 1 + 512 * 1024, (
            "what was sent ahead may be a little more"
        )
    assert result.preview is not None
    assert result.preview.video is not None and result.preview.audio is not None
    assert (result.preview.video.codec, result.preview.audio.codec) == ("h264", "aac")
    assert result.preview.duration_seconds and result.preview.duration_seconds > 0.5
    assert leftovers(own.home.root, ("*.tmp",)) == []


def test_the_head_is_fetched_once_for_probe_and_download_together(large: Callable[[str], Path], own: Workbench) -> None:
    path = large("index first")
    with Origin({path.name: path}) as origin:
        result = probed_and_downloaded(own, origin.url(path.name))
        assert [request.range for request in origin.requests] == [
            "bytes=0-0", f"bytes=0-{PEEK_BYTES - 1}", f"bytes={PEEK_BYTES}-",
        ]  # fmt: skip
        assert origin.bytes_sent(path.name) == path.stat().st_size + 1
    assert own.store.path(result.asset).read_bytes() == path.read_bytes()
    assert result.transfer.bytes_reused == PEEK_BYTES


@pytest.mark.parametrize("name", ["h264_aac_mp4", "h264_aac_moov_last_mp4", "audio_only_m4a"])
def test_a_small_file_is_here_as_a_whole_after_the_probe(name: str, clips: Path, own: Workbench) -> None:
    path = make(clips, name, RECIPES[name], seconds=1, size="320x240")
    with Origin({path.name: path}) as origin:
        result = probed_and_downloaded(own, origin.url(path.name))
        assert len(origin.requests) == 2
    assert own.store.path(result.asset).read_bytes() == path.read_bytes()


REFUSED: list[tuple[Content, type[TidegateError]]] = [
    (b"<!DOCTYPE html><html>please sign in</html>" * 10, NotMedia),
    (b"this is no film\n" * 1000, NotMedia),
    (b"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:4\n#EXT-X-ENDLIST\n", NotMedia),
    (bytes(100_000), NotMedia),
    (b"", NotMedia),
]


@pytest.mark.parametrize(("content", "failure"), REFUSED, ids=["html", "text", "playlist", "zeros", "empty"])
def test_what_is_no_media_is_refused_though_it_is_called_so(
    content: bytes, failure: type[TidegateError], own: Workbench
) -> None:
    with Origin({"film.mp4": Resource(content, content_type="video/mp4")}) as origin, pytest.raises(failure):
        probed(own, origin.url("film.mp4"))


def test_a_hopeless_file_is_left_to_the_download_which_sees_all_of_it(own: Workbench) -> None:
    """Head and tail of an unknown format prove nothing; only the whole file does."""
    with Origin({"film.mp4": b"\x00\x01\x02garbage" * 300_000}) as origin:
        assert probed(own, origin.url("film.mp4")).preview is None


def test_a_work_key_depends_on_content_profile_and_quality_alone() -> None:
    identity = Identity(url="http://o/film.mp4", name="film.mp4", size_bytes=5, etag='"one"')
    key = work_key(identity, ProfileName.UNIVERSAL, Quality.AUTO)
    same = identity.model_copy(update={"name": "other name", "content_type": "x/y", "ranges": True})
    assert work_key(same, ProfileName.UNIVERSAL, Quality.AUTO) == key
    others = [
        work_key(identity.model_copy(update={"etag": '"two"'}), ProfileName.UNIVERSAL, Quality.AUTO),
        work_key(identity.model_copy(update={"size_bytes": 6}), ProfileName.UNIVERSAL, Quality.AUTO),
        work_key(identity, ProfileName.MODERN, Quality.AUTO),
        work_key(identity, ProfileName.UNIVERSAL, Quality.P720),
    ]
    assert len({key, *others}) == 5


LADDER = tuple(Rendition(id=str(height), label="", height=height) for height in (480, 1080, 240, 720))


@pytest.mark.parametrize(
    ("quality", "height"),
    [
        (Quality.BEST, 1080),
        (Quality.AUTO, 1080),
        (Quality.P2160, 1080),
        (Quality.P720, 720),
        (Quality.P360, 240),
        (Quality.WORST, 240),
    ],
)
def test_a_rung_picks_the_highest_rendition_at_or_below_it(quality: Quality, height: int) -> None:
    assert choose_rendition(LADDER, quality).height == height


def test_a_rung_below_everything_picks_the_lowest() -> None:
    assert choose_rendition(tuple(r for r in LADDER if (r.height or 0) > 400), Quality.P360).height == 480

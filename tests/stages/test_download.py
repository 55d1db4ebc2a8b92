"""The download stage around its transfer: crashes between its steps, space, and files that are not what they say.

The transfer's own disasters are in `tests/transfer/test_fetch.py`, told to this stage as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from pydantic import SecretStr

from tests.support.clips import bulk_clip, clip
from tests.support.leaks import leftovers
from tests.support.origin import Origin, Resource
from tidegate import stages
from tidegate.errors import DiskFull, NotMedia
from tidegate.events import Event, Note, OutcomeFacts, together
from tidegate.model import DownloadResult, ProbeResult, Source
from tidegate.settings import Settings, StoreSettings
from tidegate.stages import Workbench
from tidegate.transfer.file.parallel import ParallelTry
from tidegate.transfer.file.watch import TransferWatch
from tidegate.transfer.resolvers.base import WHOLE_FILE

MIB = 1024 * 1024


@pytest.fixture
def own(tmp_path: Path) -> Workbench:
    return Workbench(Settings(store=StoreSettings(home=tmp_path / "home")))


def downloaded(bench: Workbench, url: str) -> DownloadResult:
    async def run() -> DownloadResult:
        source = Source(url=SecretStr(url))
        identity, _ = await stages.identify(bench, source)
        probe = ProbeResult(
            identity=identity, resolver="direct", renditions=(WHOLE_FILE,), preview=None, recorded_at=datetime.now(UTC)
        )
        return await stages.download(bench, source, probe, WHOLE_FILE, "key")

    return anyio.run(run)


def dies_before(event: str, name: str, bench: Workbench, url: str) -> None:
    """Run the stage in a process that dies when it is about to make this call on a file of this name."""
    pid = os.fork()
    if pid == 0:

        def die(seen: str, arguments: tuple[object, ...]) -> None:
            if seen == event and any(str(argument).endswith(name) for argument in arguments):
                os._exit(99)

        try:
            sys.addaudithook(die)
            downloaded(bench, url)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 99


@pytest.mark.parametrize(
    ("event", "name"),
    [
        ("subprocess.Popen", "python"),
        ("os.link", "source.part"),
        ("os.chmod", "source"),
        ("os.remove", "source.part"),
    ],
    ids=["inspecting", "linking", "in place", "stored"],
)
def test_a_crash_after_the_last_byte_costs_no_byte(event: str, name: str, own: Workbench, clips: Path) -> None:
    media = bulk_clip(clips, 2 * MIB)
    with Origin({"film.mp4": media}) as origin:
        dies_before(
            event, Path(sys.executable).name if event == "subprocess.Popen" else name, own, origin.url("film.mp4")
        )
        before = origin.bytes_sent("film.mp4")
        result = downloaded(own, origin.url("film.mp4"))
        after = origin.bytes_sent("film.mp4")
    assert own.store.path(result.asset).read_bytes() == media.read_bytes()
    assert own.store.whole(result.asset)
    assert after - before == 1, "identify's byte"


def test_a_stored_asset_is_complete_and_leaves_only_its_journal(own: Workbench, clips: Path) -> None:
    """Until the flow has recorded the result, the journal is what tells where the bytes went."""
    with Origin({"film.mp4": clip(clips, seconds=1)}) as origin:
        result = downloaded(own, origin.url("film.mp4"))
        before = origin.bytes_sent("film.mp4")
        again = downloaded(own, origin.url("film.mp4"))
        assert origin.bytes_sent("film.mp4") - before == 1, "identify's byte"
    assert own.store.whole(result.asset)
    assert again.asset == result.asset
    assert leftovers(own.home.root, ("*.tmp",)) == []
    assert own.store.path(result.asset).stat().st_nlink == 1


def test_a_damaged_asset_that_shares_its_bytes_with_the_part_is_fetched_anew(own: Workbench, clips: Path) -> None:
    media = bulk_clip(clips, 2 * MIB)
    with Origin({"film.mp4": media}) as origin:
        dies_before("os.chmod", "source", own, origin.url("film.mp4"))
        [part] = own.home.root.rglob("source.part")
        with part.open("r+b") as file:
            file.seek(MIB)
            file.write(b"\0damaged\0")
        result = downloaded(own, origin.url("film.mp4"))
    assert own.store.path(result.asset).read_bytes() == media.read_bytes()
    assert own.store.whole(result.asset)


def test_a_file_without_picture_and_sound_is_no_media(own: Workbench, clips: Path, tmp_path: Path) -> None:
    subtitles = tmp_path / "only.mkv"
    import av

    with av.open(str(clip(clips, "h264_subtitles_mkv", seconds=2))) as source, av.open(str(subtitles), "w") as target:
        track = target.add_stream_from_template(source.streams.subtitles[0])
        for packet in source.demux(source.streams.subtitles[0]):
            if packet.dts is not None:
                packet.stream = track
                target.mux(packet)
    with Origin({"film.mkv": subtitles}) as origin, pytest.raises(NotMedia, match="neither picture nor sound"):
        downloaded(own, origin.url("film.mkv"))


def test_a_source_larger_than_the_disk_is_refused_before_the_first_byte(own: Workbench, tmp_path: Path) -> None:
    huge = tmp_path / "huge.mp4"
    huge.touch()
    os.truncate(huge, 2**42)
    with (
        Origin({"film.mp4": Resource(huge, etag="known")}) as origin,
        pytest.raises(DiskFull, match="more bytes"),
    ):
        downloaded(own, origin.url("film.mp4"))
    assert origin.bytes_sent("film.mp4") == 1


@pytest.mark.parametrize("framing", ["always: no-length", "always: close-delimited"])
@pytest.mark.parametrize("size", [MIB // 4, 3 * MIB])
def test_a_source_of_untold_length_is_taken_whole_though_it_was_looked_at_first(
    framing: str, size: int, own: Workbench, clips: Path
) -> None:
    film = bulk_clip(clips, size)
    told = Resource(film, story=framing, accept_ranges="none", etag=None, last_modified=None)

    async def run(url: str) -> DownloadResult:
        source = Source(url=SecretStr(url))
        identity, _ = await stages.identify(own, source)
        looked = await stages.probe(own, source, identity, "key")
        return await stages.download(own, source, looked, looked.renditions[0], "key")

    with Origin({"film.mp4": told}) as origin:
        got = anyio.run(run, origin.url("film.mp4"))
    assert own.store.path(got.asset).read_bytes() == film.read_bytes()


@pytest.mark.parametrize(
    ("framing", "confirmed"), [("ok", True), ("no-length", True), ("always: close-delimited", False)]
)
def test_a_transport_stream_is_confirmed_only_where_its_true_length_is_known(
    framing: str, confirmed: bool, own: Workbench, clips: Path
) -> None:
    bare = Resource(clip(clips, "h264_aac_ts", seconds=1), story=framing, accept_ranges="none")
    with Origin({"film.ts": bare}) as origin:
        assert downloaded(own, origin.url("film.ts")).length_confirmed is confirmed


def test_stored_bytes_that_are_not_as_promised_are_fetched_anew(own: Workbench, clips: Path) -> None:
    """An earlier run stored them without a digest to check; the one that is given now is the origin's truth."""
    old, new = clip(clips, seconds=1), clip(clips, seconds=2)
    with Origin({"film.mp4": Resource(old, etag='"same"', last_modified=False)}) as origin:
        downloaded(own, origin.url("film.mp4"))
        [journal] = own.home.root.rglob("source.journal")
    with Origin({"film.mp4": new}) as origin:
        source = Source(
            url=SecretStr(origin.url("film.mp4")), sha256=f"sha256:{hashlib.sha256(new.read_bytes()).hexdigest()}"
        )

        async def run() -> DownloadResult:
            known, _ = await stages.identify(own, source)
            journal.write_text(
                json.dumps(json.loads(journal.read_text()) | {"identity": known.model_dump(mode="json")})
            )
            probe = ProbeResult(
                identity=known, resolver="direct", renditions=(WHOLE_FILE,), preview=None, recorded_at=datetime.now(UTC)
            )
            return await stages.download(own, source, probe, WHOLE_FILE, "key")

        result = anyio.run(run)
    assert own.store.path(result.asset).read_bytes() == new.read_bytes()
    assert source.sha256 in result.checked


# --- the two paths ----------------------------------------------------------------------------------


def told_by(bench: Workbench, engine: str) -> tuple[Workbench, OutcomeFacts, list[str]]:
    account, notes = OutcomeFacts(), []

    def hear(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.message)

    transfer = bench.settings.transfer.model_copy(update={"engine": engine})
    settings = bench.settings.model_copy(update={"transfer": transfer})
    return replace(bench, settings=settings, observe=together(account, hear)), account, notes


@pytest.mark.parametrize(("engine", "path"), [("full", "full"), ("plain", "plain"), ("0%", "plain"), ("100%", "full")])
def test_the_switch_says_which_path_a_transfer_takes(engine: str, path: str, own: Workbench, clips: Path) -> None:
    bench, account, _ = told_by(own, engine)
    with Origin({"film.mp4": clip(clips)}) as origin:
        downloaded(bench, origin.url("film.mp4"))
    assert account.paths == {"transfer": path}


def test_a_mistake_of_ours_in_the_full_path_is_made_good_by_the_plain_one_once(
    own: Workbench, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = bulk_clip(clips, 24 * MIB)
    bench, account, notes = told_by(own, "full")
    real = TransferWatch._widen

    def breaks(watch: TransferWatch, now: float) -> None:
        if watch._limits.connections > 1 and watch._state.part.received_bytes >= 4 * MIB:
            raise ZeroDivisionError("of ours")
        real(watch, now)

    monkeypatch.setattr(TransferWatch, "_widen", breaks)
    with Origin({"film.mp4": Resource(media, story="throttle 8M")}) as origin:
        got = downloaded(bench, origin.url("film.mp4"))
        assert origin.bytes_sent("film.mp4") < 1.3 * media.stat().st_size, "it went on from what was here"
    assert bench.store.path(got.asset).read_bytes() == media.read_bytes()
    assert account.paths == {"transfer": "plain"}
    assert [note for note in notes if "ZeroDivisionError: of ours" in note and "single stream" in note]


def test_a_mistake_that_the_plain_path_makes_too_is_told(
    own: Workbench, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    async def breaks(one_try: ParallelTry) -> None:
        calls.append(one_try._state.limits.connections)
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr(ParallelTry, "run", breaks)
    bench, _, _ = told_by(own, "full")
    with Origin({"film.mp4": clip(clips)}) as origin, pytest.raises(ZeroDivisionError):
        downloaded(bench, origin.url("film.mp4"))
    assert calls == [bench.settings.transfer.connections, 1], "once each"

"""Transcodes in chunks: every picture at its time, every sample of sound, nothing done twice or believed untried."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import av
import pytest

from tests.stages.conftest import Downloaded
from tests.support.fake_tool import allow
from tests.support.films import FILMS, SECONDS, WHOLE, film, shown, sound_of
from tests.support.leaks import leftovers
from tidegate.errors import ProcessKilled, TidegateError
from tidegate.events import Advance, Event
from tidegate.media.ffmpeg import Toolchain
from tidegate.model import DownloadResult, ProfileName, Quality, RemuxResult
from tidegate.settings import ProcessSettings, Settings, StoreSettings, ToolSettings
from tidegate.stages import Workbench, host, remux
from tidegate.stages.chunks.samples import samples_in

pytestmark = pytest.mark.ci


CHUNK_SECONDS = 4
CHUNKS = 4
"""Most films here have a keyframe every 1.2 s: they are cut at 4.8, 9.6 and 14.4 s."""
AAC_FRAME_SECONDS = 1024 / 48_000

Films = Callable[[str], DownloadResult]
Bench = Callable[..., Workbench]


@pytest.fixture(scope="module")
def films(clips: Path, downloaded: Downloaded) -> Films:
    """By name, downloaded once."""
    return cache(lambda name: downloaded(film(clips, name)))


@pytest.fixture
def cutting(bench: Workbench, request: pytest.FixtureRequest) -> Bench:
    """A workbench that cuts films into short chunks."""

    def make(seconds: float = CHUNK_SECONDS, told: list[Event] | None = None, **tools: Any) -> Workbench:
        settings = Settings(
            store=StoreSettings(home=bench.settings.store.home),
            process=ProcessSettings(chunk_seconds=seconds),  # type: ignore[arg-type]  # as the environment gives it
            tools=ToolSettings(threads=2, **tools),
        )
        return Workbench(settings, told.append if told is not None else bench.observe)

    return make


@pytest.fixture
def key(request: pytest.FixtureRequest, bench: Workbench) -> str:
    """Scratch of its own."""
    name = request.node.name
    bench.home.clear_scratch(name)
    return name


def made(bench: Workbench, source: DownloadResult, key: str) -> RemuxResult:
    return anyio.run(remux, bench, source, ProfileName.UNIVERSAL, Quality.AUTO, key)


def records(bench: Workbench, key: str) -> list[Path]:
    return sorted((bench.home.scratch_of(key) / "chunks").glob("*.json"))


# --- nothing is lost --------------------------------------------------------------------------------


OFTEN = ("open GOP, Matroska", "variable rate", "two tracks of sound, subtitles, chapters")
"""Films of the quick suite: each kind of cut. All of them go with the slow tests."""


@pytest.mark.parametrize("name", [n if n in OFTEN else pytest.param(n, marks=pytest.mark.slow) for n in FILMS])
@pytest.mark.first
def test_every_picture_comes_at_its_time_and_every_sample_of_sound(
    name: str, cutting: Bench, films: Films, key: str
) -> None:
    source = films(name)
    result = made(cutting(), source, key)
    whole = made(cutting(0), source, f"{key}-whole")
    assert result.chunks is not None and whole.chunks is not None
    assert result.chunks.why_whole is None
    assert whole.chunks.planned == 0
    assert CHUNKS <= result.chunks.planned == result.chunks.encoded <= CHUNKS + 1
    bench = cutting()
    ours, theirs = shown(bench.store.path(result.asset)), shown(bench.store.path(source.asset))
    assert len(ours) == len(theirs)
    shifts = [mine - original for mine, original in zip(ours, theirs, strict=True)]
    assert max(shifts) - min(shifts) < 0.0011, "one tick of Matroska's clock"
    tracks = len(source.media.of_kind("audio"))
    assert sound_of(bench.store.path(result.asset), tracks) == sound_of(bench.store.path(whole.asset), tracks)
    assert leftovers(bench.home.root / "scratch", ("*.partial", "*.ffconcat")) == []
    as_the_whole(probed(bench.store.path(result.asset)), probed(bench.store.path(whole.asset)))


def as_the_whole(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Picture and sound lie to each other, and are called, as in the film that was encoded whole."""
    assert [stream["type"] for stream in ours["streams"]] == [stream["type"] for stream in theirs["streams"]]
    for mine, original in zip(ours["streams"], theirs["streams"], strict=True):
        assert mine["language"] == original["language"]
        assert abs(mine["start"] - original["start"]) < AAC_FRAME_SECONDS
    assert ours["chapters"] == theirs["chapters"]
    assert ours["title"] == theirs["title"]


def probed(path: Path) -> dict[str, Any]:
    with av.open(str(path)) as container:
        streams = [
            {
                "type": stream.type,
                "language": stream.metadata.get("language"),
                "start": float((stream.start_time or 0) * stream.time_base) if stream.time_base else 0.0,
            }
            for stream in container.streams
            if stream.type in ("video", "audio", "subtitle")
        ]
        # In seconds: versions of ffmpeg count in units of their own.
        chapters = [(float(c["start"] * c["time_base"]), c["metadata"].get("title")) for c in container.chapters()]
        return {"streams": streams, "chapters": chapters, "title": container.metadata.get("title")}


def test_the_open_gop_film_has_pictures_that_need_the_group_before(clips: Path) -> None:
    """Or the test above would prove nothing."""
    with av.open(str(film(clips, "open GOP, Matroska"))) as container:
        packets = [(p.pts, p.is_keyframe) for p in container.demux(container.streams.video[0]) if p.pts is not None]
    keys = [number for number, (_, key) in enumerate(packets) if key]
    leading = [number for number in keys if any(pts < packets[number][0] for pts, _ in packets[number + 1 :])]
    assert len(leading) > 3


def test_an_encoder_of_another_version_gives_chunks_that_fit(cutting: Bench, films: Films, key: str) -> None:
    import imageio_ffmpeg

    source = films("open GOP, Matroska")
    bench = cutting(ffmpeg=imageio_ffmpeg.get_ffmpeg_exe())
    result = made(bench, source, key)
    assert result.chunks is not None and result.chunks.encoded == result.chunks.planned == CHUNKS
    assert len(shown(bench.store.path(result.asset))) == len(shown(bench.store.path(source.asset)))


@pytest.mark.parametrize("name", WHOLE)
def test_a_film_that_cannot_be_cut_safely_is_kept_whole(name: str, cutting: Bench, films: Films, key: str) -> None:
    result = made(cutting(), films(name), key)
    assert result.chunks is not None
    assert WHOLE[name][1] in (result.chunks.why_whole or "")
    assert result.chunks.planned == 0


@pytest.mark.first
def test_a_short_film_is_not_cut(cutting: Bench, films: Films, key: str) -> None:
    result = made(cutting(SECONDS / 2), films("closed GOP, MP4"), key)
    assert result.chunks is not None
    assert result.chunks.why_whole == "it is shorter than 3 chunks of 10 s"


def test_what_is_copied_has_no_chunks(bench: Workbench, cutting: Bench, downloaded: Downloaded, clips: Path) -> None:
    from tests.support.clips import clip

    assert made(cutting(0.5), downloaded(clip(clips, seconds=2)), "copied").chunks is None


# --- nothing is done twice, and nothing is believed untried -----------------------------------------


@pytest.mark.first
def test_a_second_attempt_finds_every_chunk(cutting: Bench, films: Films, key: str) -> None:
    source = films("closed GOP, MP4")
    first = made(cutting(), source, key)
    told: list[Event] = []
    second = made(cutting(told=told), source, key)
    assert second.chunks is not None
    assert (second.chunks.reused, second.chunks.encoded) == (CHUNKS, 0)
    assert second.asset == first.asset


def test_chunks_are_found_though_less_memory_allows_fewer_threads_now(
    cutting: Bench, films: Films, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = films("closed GOP, no sound")
    settings = cutting().settings
    bench = Workbench(settings.model_copy(update={"tools": ToolSettings()}))
    for threads, reused in ((2, 0), (1, CHUNKS)):
        monkeypatch.setattr(host, "threads_for", lambda *_, threads=threads: threads)
        result = made(bench, source, key)
        assert result.chunks is not None and result.chunks.reused == reused


def torn(record: Path) -> None:
    record.write_bytes(record.read_bytes()[:-20])


def lost(record: Path) -> None:
    record.unlink()


def without_its_file(record: Path) -> None:
    (record.parent / json.loads(record.read_text())["name"]).unlink()


def with_a_flipped_byte(record: Path) -> None:
    path = record.parent / json.loads(record.read_text())["name"]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def with_a_short_file(record: Path) -> None:
    path = record.parent / json.loads(record.read_text())["name"]
    path.write_bytes(path.read_bytes()[:-1000])


def of_another_chunk(record: Path) -> None:
    other = next(path for path in records_beside(record) if path != record)
    record.write_bytes(other.read_bytes())


def records_beside(record: Path) -> list[Path]:
    return [path for path in sorted(record.parent.glob("*.json")) if json.loads(path.read_text())["frames"]]


@pytest.mark.parametrize(
    "harm", [torn, lost, without_its_file, with_a_flipped_byte, with_a_short_file, of_another_chunk]
)
def test_a_chunk_whose_record_or_file_is_not_whole_is_encoded_again(
    harm: Callable[[Path], None], cutting: Bench, films: Films
) -> None:
    source, work = films("closed GOP, no sound"), "harmed"  # the chunks are whole again after each of these tests
    bench = cutting()
    first = made(bench, source, work)
    harm(records(bench, work)[1])
    second = made(bench, source, work)
    assert second.chunks is not None
    assert (second.chunks.reused, second.chunks.encoded) == (CHUNKS - 1, 1)
    assert second.asset == first.asset


def test_other_flags_or_another_source_are_other_chunks(cutting: Bench, films: Films, key: str) -> None:
    source = films("closed GOP, no sound")
    made(cutting(), source, key)
    finer = made(cutting(3), source, key)
    assert finer.chunks is not None and finer.chunks.encoded >= finer.chunks.planned - 1
    other = made(cutting(), films("variable rate"), key)
    assert other.chunks is not None and other.chunks.reused == 0


def test_what_a_killed_attempt_was_making_is_removed(cutting: Bench, films: Films, key: str) -> None:
    bench = cutting()
    folder = bench.home.scratch(key, "chunks")
    (folder / "somebody-elses.partial").write_bytes(b"half a chunk")
    made(bench, films("closed GOP, no sound"), key)
    assert list(folder.glob("*.partial")) == []


def test_two_attempts_at_once_do_not_harm_each_other(cutting: Bench, films: Films, key: str) -> None:
    source = films("closed GOP, MP4")
    # A real second attempt has an output folder of its own; here they share all but the chunks.
    results: list[RemuxResult | TidegateError] = []

    async def attempt(work: str) -> None:
        try:
            results.append(await remux(cutting(), source, ProfileName.UNIVERSAL, Quality.AUTO, work))
        except TidegateError as failure:
            results.append(failure)

    async def both() -> None:
        home = cutting().home
        shared = home.scratch(key, "chunks")
        home.clear_scratch(f"{key}-2")
        home.scratch_of(f"{key}-2").mkdir()
        (home.scratch_of(f"{key}-2") / "chunks").symlink_to(shared, target_is_directory=True)
        async with anyio.create_task_group() as group:
            group.start_soon(attempt, key)
            await anyio.sleep(0.7)  # the second one begins in the midst of the first one's work
            group.start_soon(attempt, f"{key}-2")

    anyio.run(both)
    whole = [result for result in results if isinstance(result, RemuxResult)]
    # Whoever lost the chunk that it was making, because the other one cleared it away, fails or encodes the film in one
    # piece, and harms nobody.
    assert len(results) == 2 and whole
    undisturbed = made(cutting(), source, f"{key}-3")
    in_chunks = [result for result in whole if result.chunks is not None and result.chunks.why_whole is None]
    assert all(result.asset == undisturbed.asset for result in in_chunks)
    assert all(result.chunks and result.chunks.why_whole for result in whole if result not in in_chunks)


# --- failures ---------------------------------------------------------------------------------------


def tool(folder: Path, script: str) -> str:
    """The real ffmpeg behind a script that may spoil one call."""
    real = Toolchain.find(ToolSettings()).ffmpeg
    path = folder / "ffmpeg"
    path.write_text(f'#!/bin/bash\nhere="{folder}"\nreal="{real}"\n{script}\nexec "$real" "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    allow(folder)
    return str(path)


KILLED_AT_THE_THIRD = """
case "$*" in *trim=*) echo x >> "$here/calls"
  if [ "$(wc -l < "$here/calls")" = 3 ]; then kill -9 $$; fi;; esac
"""
FRAME_LOST = """
case "$*" in *trim=start*) [ -e "$here/done" ] ||
  { touch "$here/done"; exec "$real" "${@:1:$#-1}" -frames:v 50 "${@: -1}"; };; esac
"""
SHORT_JOIN = """
case "$*" in *ffconcat*) exec "$real" "${@:1:$#-1}" -t 9 "${@: -1}";; esac
"""


def test_a_failed_chunk_ends_the_transcode_and_the_others_stay(
    cutting: Bench, films: Films, key: str, tmp_path: Path
) -> None:
    source = films("closed GOP, no sound")
    bench = cutting(ffmpeg=tool(tmp_path, KILLED_AT_THE_THIRD))
    with pytest.raises(ProcessKilled):
        made(bench, source, key)
    assert len(records(bench, key)) == 2
    again = made(bench, source, key)
    assert again.chunks is not None
    assert (again.chunks.reused, again.chunks.encoded) == (2, CHUNKS - 2)


@pytest.mark.parametrize(
    "spoiled", [FRAME_LOST, SHORT_JOIN], ids=["a chunk lacks pictures", "the joined film is short"]
)
def test_chunks_that_do_not_come_to_a_whole_film_are_given_up_for_it(
    spoiled: str, cutting: Bench, films: Films, key: str, tmp_path: Path
) -> None:
    source = films("closed GOP, MP4")
    told: list[Event] = []
    bench = cutting(told=told, ffmpeg=tool(tmp_path, spoiled))
    result = made(bench, source, key)
    assert result.chunks is not None
    assert (result.chunks.why_whole or "").startswith("its chunks did not make a complete film: ")
    assert len(result.ladder) == 1
    assert len(shown(bench.store.path(result.asset))) >= SECONDS * 25 - 1


@pytest.mark.parametrize("chunk_seconds", [0, CHUNK_SECONDS], ids=["whole", "in chunks"])
def test_places_that_the_decoder_made_up_are_told(
    chunk_seconds: float, cutting: Bench, downloaded: Downloaded, clips: Path, key: str, tmp_path: Path
) -> None:
    """ffmpeg hides them in good pictures of the right number, and exits with 0."""
    content = bytearray(film(clips, "closed GOP, MP4").read_bytes())
    pictures = content.index(b"mdat")
    for at in range(pictures + len(content) // 3, pictures + len(content) // 2, 997):
        content[at] ^= 0x40
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    result = made(cutting(chunk_seconds), downloaded(path), key)
    assert result.decision.video == "h264"
    assert any("made up" in finding.message for finding in result.findings), result.findings


# --- along the way ----------------------------------------------------------------------------------


def test_progress_is_the_sum_over_the_chunks_and_never_goes_back(cutting: Bench, films: Films, key: str) -> None:
    told: list[Event] = []
    made(cutting(told=told), films("closed GOP, MP4"), key)
    done = [event.done for event in told if isinstance(event, Advance)]
    encoding = done[: done.index(max(done)) + 1]
    assert encoding == sorted(encoding)
    assert abs(max(done) - SECONDS) < 0.1


@pytest.mark.parametrize("workers", [1, 2])
def test_no_more_chunks_are_encoded_at_once_than_there_are_workers(
    workers: int, cutting: Bench, films: Films, key: str, tmp_path: Path
) -> None:
    script = """
case "$*" in *trim=*) echo + >> "$here/log"; "$real" "$@"; code=$?; echo - >> "$here/log"; exit $code;; esac
"""
    bench = cutting(ffmpeg=tool(tmp_path, script))
    process = bench.settings.process.model_copy(update={"chunk_workers": workers})
    result = made(Workbench(bench.settings.model_copy(update={"process": process})), films("closed GOP, no sound"), key)
    assert result.chunks is not None and result.chunks.workers == workers
    at_once, most = 0, 0
    for line in (tmp_path / "log").read_text().split():
        at_once += 1 if line == "+" else -1
        most = max(most, at_once)
    assert most == workers


def test_the_pictures_of_a_chunk_are_counted_as_a_demuxer_counts_them(clips: Path, tmp_path: Path) -> None:
    path = film(clips, "closed GOP, no sound")
    assert samples_in(path) == SECONDS * 25
    (tmp_path / "cut.mp4").write_bytes(path.read_bytes()[:-2000])
    assert samples_in(tmp_path / "cut.mp4") in (0, SECONDS * 25)
    (tmp_path / "garbage").write_bytes(os.urandom(5000))
    assert samples_in(tmp_path / "garbage") == 0
    (tmp_path / "empty").write_bytes(b"")
    assert samples_in(tmp_path / "empty") == 0


def test_films_are_what_their_names_say(clips: Path) -> None:
    out = subprocess.run(
        [
            str(Toolchain.find(ToolSettings()).ffmpeg),
            "-hide_banner",
            "-i",
            str(film(clips, "a late beginning, transport stream")),
        ],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    ).stderr
    assert "start: 1001." in out

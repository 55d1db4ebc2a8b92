"""Bad input through the real command: each ends with the right error, the right exit code, and nothing lying about."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.aftermath import end_of, failure_told, left_running, nothing_left_but_evidence
from tests.support.clips import bulk_clip, clip, cut
from tests.support.command import Command
from tests.support.disks import remount, volume
from tests.support.origin import Content, Origin, Resource

MIB = 1024 * 1024
TEXT = b"This is a plain text that somebody has named film.mp4.\n" * 100


@dataclass(frozen=True)
class Bad:
    """A source that cannot be ingested, and how the command must tell."""

    title: str
    story: str
    kind: str
    stage: str | None
    most_requests: int
    """Identify, and then what the policy table allows."""
    content: Content | None = None
    """None: a whole clip."""
    words: tuple[str, ...] = field(default=())


OFTEN = {
    "404",
    "empty body",
    "truncated body, at the same place for ever",
    "noise named .mp4",
    "wrong --sha256",
}
"""The others are told in the long sweeps; `test_matrix.py` tells most of them too."""
BAD_SOURCES = [
    Bad("404", "always: 404", "not_found", None, most_requests=1),
    Bad("403", "always: 403", "http_refused", None, most_requests=1),
    Bad("500 for ever", "always: 500", "server_error", None, most_requests=3),
    Bad("redirect loop", "always: redirect-loop", "redirect_loop", None, most_requests=11),
    Bad("HTML page", "always: html", "not_media", "probe", most_requests=2),
    Bad("empty body", "always: empty", "not_media", "probe", most_requests=2),
    Bad("truncated body, at the same place for ever", "always: ignore-range 100K cut", "truncated_body", "probe", 4),
    Bad("truncated body, a little further each time", "always: 64K cut", "truncated_body", "probe", most_requests=4),
    Bad("text named .mp4", "ok", "not_media", "probe", most_requests=2, content=TEXT),
    Bad("noise named .mp4", "ok", "not_media", "probe", most_requests=2, content=bytes(range(256)) * 400),
    Bad("wrong --sha256", "ok", "wrong_digest", "download", most_requests=3, words=("--sha256", "0" * 64)),
]


@pytest.mark.parametrize(
    "bad",
    [pytest.param(bad, id=bad.title, marks=() if bad.title in OFTEN else pytest.mark.slow) for bad in BAD_SOURCES],
)
@pytest.mark.first
def test_a_bad_source_fails_with_its_own_error(bad: Bad, command: Command, clips: Path) -> None:
    content = bad.content if bad.content is not None else clip(clips)
    with Origin({"film.mp4": Resource(content, story=bad.story)}) as origin:
        ended = command.run(origin.url("film.mp4"), *bad.words)
    failure = failure_told(ended, code=1, kind=bad.kind)
    assert failure["stage"] == bad.stage
    assert 1 <= len(origin.requests) <= bad.most_requests
    assert Path(ended.document["failure_log"]).read_text().startswith(failure["reference"])
    nothing_left_but_evidence(command)


def test_a_file_whose_header_promises_more_than_it_holds_is_refused(command: Command, clips: Path) -> None:
    with Origin({"film.mp4": cut(clip(clips), 0.7)}) as origin:
        ended = command.run(origin.url("film.mp4"))
    assert failure_told(ended, code=1, kind="truncated_media")["stage"] == "download"
    assert len(origin.requests) <= 3
    nothing_left_but_evidence(command)


def test_an_unknown_host_is_a_connection_error(command: Command) -> None:
    ended = command.run("http://no-such-host.invalid/film.mp4")
    assert "no-such-host.invalid" in failure_told(ended, code=1, kind="connection_failed")["message"]
    nothing_left_but_evidence(command)


def test_a_refused_port_is_a_connection_error(command: Command) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound, and nobody listens
        ended = command.run(f"http://127.0.0.1:{bound.getsockname()[1]}/film.mp4")
    assert failure_told(ended, code=1, kind="connection_failed")["retryable"]
    nothing_left_but_evidence(command)


# --- a source that vanishes half-way --------------------------------------------------------------


def test_a_file_that_vanishes_from_its_origin_half_way_is_not_found(command: Command, clips: Path) -> None:
    film = Path(shutil.copy(bulk_clip(clips, 32 * MIB), command.home / "film.mp4"))
    with (
        Origin({"film.mp4": Resource(film, story="4M stall")}) as origin,
        command.started(origin.url("film.mp4")) as process,
    ):
        origin.wait_for(lambda o: o.bytes_sent("film.mp4") >= 5 * MIB, timeout_seconds=60)
        film.unlink()
        ended = end_of(process)
    assert failure_told(ended, code=1, kind="not_found")["stage"] == "download"
    assert len(origin.requests) <= 4
    nothing_left_but_evidence(command)


def test_a_local_file_that_vanishes_half_way_is_not_found(command: Command, clips: Path) -> None:
    film = Path(shutil.copy(bulk_clip(clips, 32 * MIB), command.home / "film.mp4"))
    assert command.run(str(film), "--until", "probe").code == 0
    (part,) = (command.home / "tidegate" / "scratch").rglob("source.part")
    with part.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # the run waits for the part that another one holds: half-way, and standing
        with command.started(str(film)) as process:
            assert process.stderr is not None
            while "Another run is downloading" not in (line := process.stderr.readline()):
                assert line, "the run ended before it met the held part"
            film.unlink()
            fcntl.flock(held, fcntl.LOCK_UN)
            ended = end_of(process)
    failure = failure_told(ended, code=1, kind="not_found")
    assert failure["stage"] == "download"
    assert "link" not in " ".join([failure["friendly_message"], *failure["suggested_actions"]])
    nothing_left_but_evidence(command)


# --- bad usage: answered before any work ----------------------------------------------------------


@dataclass(frozen=True)
class Misuse:
    """A command line that is refused; `{folder}` is an existing folder, `{film}` an existing file."""

    title: str
    words: tuple[str, ...]
    says: str
    kind: str = "bad_input"
    setting: tuple[str, str] | None = None


MISUSES = [
    Misuse("unsupported scheme", ("ftp://example.invalid/film.mp4",), "ftp://", kind="unsupported_source"),
    Misuse("a directory", ("{folder}",), "is a directory"),
    Misuse("a directory as file://", ("file://{folder}",), "is a directory"),
    Misuse("a missing file", ("{folder}/no-such-film.mp4",), "There is no file"),
    Misuse("a device", ("/dev/null",), "not a regular file"),
    Misuse("a FIFO, which nobody writes into", ("{folder}/fifo",), "not a regular file"),
    Misuse("no source", ("",), "empty"),
    Misuse("a link without a host", ("http:///film.mp4",), "not a complete link"),
    Misuse("a link with a bad port", ("http://127.0.0.1:99999/film.mp4",), "not a complete link"),
    Misuse("unknown flag", ("{film}", "--colour", "blue"), "--colour"),
    Misuse("unknown profile", ("{film}", "--profile", "best"), "--profile"),
    Misuse("unknown quality", ("{film}", "--quality", "721p"), "--quality"),
    Misuse("unknown stage", ("{film}", "--until", "dinner"), "--until"),
    Misuse("a header without a colon", ("{film}", "--header", "hunter2"), "--header"),
    Misuse("a header of two lines", ("{film}", "--header", "A: b\nHost: evil"), "--header"),
    Misuse("a header that is not ASCII", ("{film}", "--header", "A: hunter2€"), "--header"),
    Misuse("a short --sha256", ("{film}", "--sha256", "abc"), "--sha256"),
    Misuse("one --sha256 for two", ("{film}", "{film}", "--sha256", "0" * 64), "--sha256"),
    Misuse("a duration in words", ("{film}",), "TIDEGATE_PROCESS_TICK", setting=("TIDEGATE_PROCESS_TICK", "soon")),
    Misuse("no tries at all", ("{film}",), "TIDEGATE_TRANSFER_TRIES", setting=("TIDEGATE_TRANSFER_TRIES", "0")),
    Misuse("an unknown network", ("{film}",), "TIDEGATE_NETWORK", setting=("TIDEGATE_NETWORK", "warp")),
]


@pytest.mark.parametrize("misuse", MISUSES, ids=lambda misuse: misuse.title)
@pytest.mark.first
def test_bad_usage_is_refused_before_any_work(misuse: Misuse, command: Command, tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(TEXT)
    os.mkfifo(tmp_path / "fifo")
    command.environment |= dict([misuse.setting] if misuse.setting else [])
    ended = command.run(*(word.format(folder=tmp_path, film=film) for word in misuse.words))
    assert ended.code == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    told = ended.document
    failures = [one["failure"] for one in told.get("results", [told])]
    assert {failure["type"] for failure in failures} == {misuse.kind}
    assert all(misuse.says in failure["message"] and failure["suggested_actions"] for failure in failures)
    assert "hunter2" not in ended.stderr + ended.stdout, "a header may be a secret"
    assert not (command.home / "tidegate").exists() and list(command.output.glob("*")) == []


def test_a_bad_source_among_good_ones_starts_none_of_them(command: Command, clips: Path) -> None:
    with Origin({"film.mp4": clip(clips)}) as origin:
        ended = command.run(origin.url("film.mp4"), "ftp://example.invalid/film.mp4")
    assert ended.code == 2
    assert {one["failure"]["type"] for one in ended.document["results"]} == {"unsupported_source"}
    assert origin.requests == []


@pytest.mark.first
def test_a_missing_path_among_good_sources_refuses_only_itself(command: Command, clips: Path) -> None:
    missing = str(command.home / "no-such-film.mp4")
    ended = command.run(missing, str(clip(clips)), "--until", "download")
    assert ended.code == 3, ended.stderr
    first, second = ended.document["results"]
    assert (first["status"], first["failure"]["type"], first["source"]) == ("failed", "bad_input", missing)
    assert missing in first["failure"]["message"] and second["status"] == "completed"
    last = ended.stderr.splitlines()[-2:]
    assert last[0].startswith("1 of 2 sources done in ") and last[1].startswith(f"failed  {missing}: ")
    assert f"There is no file {missing}" in last[1]


def test_an_output_folder_below_a_file_cannot_be_written(command: Command, clips: Path) -> None:
    command.output.write_text("in the way")
    failure = failure_told(command.run(str(clip(clips))), code=2, kind="bad_input")
    assert str(command.output) in failure["message"]
    assert command.output.read_text() == "in the way" and not (command.home / "tidegate").exists()


def test_a_read_only_output_folder_cannot_be_written(command: Command, clips: Path) -> None:
    command.output.mkdir()
    with read_only(command.output):
        ended = command.run(str(clip(clips)))
    assert str(command.output) in failure_told(ended, code=2, kind="bad_input")["message"]
    assert not (command.home / "tidegate").exists()


# --- a full disk ----------------------------------------------------------------------------------


def test_a_home_without_room_for_the_download_is_a_full_disk(command: Command, clips: Path) -> None:
    film = bulk_clip(clips, 32 * MIB)
    with volume(command.home / "tidegate", "size=40m") as home, Origin({"film.mp4": film}) as origin:
        failure = failure_told(command.run(origin.url("film.mp4")), code=1, kind="disk_full")
        assert str(home) in failure["message"] and failure["stage"] == "download"
        assert origin.bytes_sent("film.mp4") <= 2 * MIB, "seen before the bytes were fetched"
        nothing_left_but_evidence(command)


def test_a_disk_that_fills_up_during_the_download_is_a_full_disk_and_a_larger_one_goes_on(
    command: Command, clips: Path
) -> None:
    film = bulk_clip(clips, 32 * MIB)
    resource = Resource(film, story="always: ignore-range no-length, ignore-range no-length, no-length")
    with volume(command.home / "tidegate", "size=24m") as home, Origin({"film.mp4": resource}) as origin:
        failure = failure_told(command.run(origin.url("film.mp4")), code=1, kind="disk_full")
        assert failure["stage"] == "download" and failure["retryable"]
        nothing_left_but_evidence(command)
        remount(home, "size=200m")
        assert command.run(origin.url("film.mp4"), "--until", "download").code == 0


def test_an_output_folder_without_room_is_a_full_disk_and_keeps_the_checkpoints(command: Command, clips: Path) -> None:
    with volume(command.output, "size=8m") as output, Origin({"film.mp4": clip(clips)}) as origin:
        failure = failure_told(command.run(origin.url("film.mp4")), code=1, kind="disk_full")
        assert str(output) in failure["message"] and failure["stage"] == "publish"
        nothing_left_but_evidence(command)
        remount(output, "size=64m")
        again = command.run(origin.url("film.mp4"))
        assert again.code == 0, again.stderr
        ran = [name for name, record in again.document["stages"].items() if not record["cached"]]
        assert ran == ["publish"]
        (folder,) = command.published()
        assert not list(folder.glob("*.err.log")), "the failure is history"
    assert left_running(command) == []


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody may write into `folder`: by its mode for a user, by a read-only file system for root."""
    if os.geteuid() == 0:
        with volume(folder, "size=1m"):
            remount(folder, "ro")
            yield
        return
    folder.chmod(0o555)
    try:
        yield
    finally:
        folder.chmod(0o755)

"""Links from standard input and headers from a file: what is not typed stands in no process list."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from flows.lines import Line, lines_of
from tests.support.aftermath import failure_told
from tests.support.clips import clip
from tests.support.command import ROOT, Command
from tests.support.origin import Origin, Resource
from tidegate.errors import BadInput

TOKEN = "tok-5f1c0a7e"


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"a\nb\n", [Line(1, "a"), Line(2, "b")]),
        (b"a\r\n\r\n  b  \r\n", [Line(1, "a"), Line(3, "b")]),
        (b"\xef\xbb\xbf# films\na#b", [Line(2, "a#b")]),
        ("\ufeffa\r\nü\r\n".encode("utf-16-le"), [Line(1, "a"), Line(2, "ü")]),
        ("\ufeffa\nb".encode("utf-16-be"), [Line(1, "a"), Line(2, "b")]),
        (b"\xff.mp4", [Line(1, "\udcff.mp4")]),
        (b"", []),
        (b"\xef\xbb\xbf", []),
        (b"\xef\xbb\xbf\r\na\r\n", [Line(2, "a")]),
    ],
)
def test_lines_are_read_as_people_and_programs_write_them(content: bytes, lines: list[Line]) -> None:
    assert lines_of(content, "standard input") == lines


def test_a_nul_is_told_by_its_line() -> None:
    with pytest.raises(BadInput, match="Line 2 of standard input holds a NUL"):
        lines_of(b"a\nb\0c\n", "standard input")


BAD_LINES = {
    "magnet:?xt=urn:btih:c12fe1c06bba254a9dc9f519b335aa7c1367a88a": "magnet: links are not supported",
    "rtsp://host/film": "rtsp:// links",
    "rtmp://host/film": "rtmp:// links",
    "ftp://host/film.mp4": "ftp:// links",
    "data:video/mp4;base64,AAAA": "data: links",
    "blob:https://host/6a5f": "blob: links",
    "http:/host/film.mp4": "not a complete link",
    "http://[": "not a complete link",
    "http://host:0/": "not a complete link",
    "http://host:99999/": "not a complete link",
    "http://host/a b": "not a complete link",
    "https://host/" + "a" * 100_000: "100013 characters",
    "n" * 300 + ".mp4": "304 bytes",
    "ü" * 200: "400 bytes",
    "/x" * 3000: "6000 bytes",
    "file:///film%00.mp4": "NUL",
    "file://other/film.mp4": "another host",
    "~nobody-of-that-name/film.mp4": "There is no file",
    "{folder}/film.mp4/below.mp4": "There is no file",
}
MORE_BAD_LINES = {
    "{folder}/dangling.mp4": "a link to nowhere.mp4, which is not there",
    "{folder}/loop.mp4": "leads back to itself",
    "{folder}/socket": "not a regular file",
    "{folder}/fifo": "not a regular file",
    "{folder}": "is a directory",
    "/dev/zero": "not a regular file",
    "-": "There is no file",
    "--": "There is no file",
    "--header": "There is no file",
}


@pytest.mark.parametrize("bad", [BAD_LINES, MORE_BAD_LINES], ids=["names", "files"])
def test_every_bad_line_is_told_by_its_number_before_any_work(
    bad: dict[str, str], command: Command, tmp_path: Path
) -> None:
    (tmp_path / "film.mp4").write_bytes(b"film")
    (tmp_path / "dangling.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        text = "# to be done\r\n\r\n" + "".join(f"{line.format(folder=tmp_path)}\r\n" for line in bad)
        ended = command.run("-", stdin=b"\xef\xbb\xbf" + text.encode())
    told = failure_told(ended, code=2, kind="unsupported_source" if "magnet" in text else "bad_input")["message"]
    parts = told.split("; Line ")
    assert len(parts) == len(bad), told
    for number, (line, says, part) in enumerate(zip(bad, bad.values(), parts, strict=True), 3):
        assert part.removeprefix("Line ").startswith(f"{number} of standard input: ") and says in part, (line, part)
    assert "Traceback" not in ended.stderr and len(ended.stderr) < 20_000
    assert not (command.home / "tidegate").exists() and not command.output.exists()


@pytest.mark.parametrize(
    ("words", "stdin", "says"),
    [
        (("-",), b"", "held no link"),
        (("-",), b"\n# nothing\n", "held no link"),
        (("-", "-"), b"a", "can be read once"),
        (("-", "--header", "@-"), b"a", "can be read once"),
        (("-", "--sha256", "0" * 64), b"{film}\n{film}\n", "one source"),
        (("-",), b"{film}\n\0\n", "Line 2 of standard input holds a NUL"),
        (("{film}", "--header", "@{folder}/absent"), b"", "cannot be read: No such file"),
        (("{film}", "--header", "@{folder}"), b"", "cannot be read: Is a directory"),
        (("{film}", "--header", "@"), b"", "names no file"),
        (("{film}", "--header", "@{folder}/empty"), b"", "no header in the header file"),
        (("{film}", "--header", "@{folder}/bad"), b"", "Line 3 of the header file"),
        (("{film}", "--header", "@/dev/zero"), b"", "more than 1 MiB"),
        (("{film}", "--header", "@-"), b"hunter2\n", "Line 1 of standard input"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_refused_and_not_repeated(
    words: tuple[str, ...], stdin: bytes, says: str, command: Command, tmp_path: Path
) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(b"film")
    (tmp_path / "empty").write_text("\n# none\n")
    (tmp_path / "bad").write_text("X-Good: yes\n\nhunter2\n")
    given = stdin.replace(b"{film}", str(film).encode())
    ended = command.run(*(word.format(folder=tmp_path, film=film) for word in words), stdin=given)
    failures = [one["failure"] for one in ended.document.get("results", [ended.document])]
    assert ended.code == 2 and all(one["type"] == "bad_input" and says in one["message"] for one in failures)
    assert "hunter2" not in ended.stderr + ended.stdout and "Traceback" not in ended.stderr


def test_links_and_headers_that_are_not_typed_reach_the_origin_and_no_process_list(
    command: Command, clips: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "headers"
    secret.write_text(f"\ufeff# of the archive\r\nX-Key: hdr-{TOKEN}\r\nCookie: a=b; c=d\r\n")
    secret.chmod(0o644)
    seen: set[str] = set()
    gone = threading.Event()

    def look() -> None:
        while not gone.wait(0.02):
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error, OSError):
                    seen.update(word for word in process.cmdline() if TOKEN in word)

    with Origin({"film.mp4": Resource(clip(clips), story="always: throttle 4M")}) as origin:
        watching = threading.Thread(target=look)
        watching.start()
        try:
            link = f"{origin.url('film.mp4')}?token={TOKEN}\n"
            ended = command.run("-", "--header", f"@{secret}", "--until", "download", stdin=link.encode())
        finally:
            gone.set()
            watching.join()
        assert ended.code == 0, ended.stderr
        assert all(TOKEN in request.query for request in origin.requests)
        assert all(request.headers["x-key"] == f"hdr-{TOKEN}" for request in origin.requests)
        assert all(request.headers["cookie"] == "a=b; c=d" for request in origin.requests)
    assert seen == set()
    assert TOKEN not in ended.stdout + ended.stderr
    assert f"chmod 600 {secret}" in ended.stderr


def test_headers_come_from_a_pipe_as_a_shell_gives_it(command: Command, clips: Path) -> None:
    with Origin({"film.mp4": clip(clips)}) as origin:
        script = f'exec "$0" -m flows.run {origin.url("film.mp4")} --until probe --header @<(echo "X-Key: piped")'
        done = subprocess.run(
            ["bash", "-c", script, sys.executable], env=command.env(), cwd=command.home, capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert {request.headers.get("x-key") for request in origin.requests} == {"piped"}
        assert b"chmod" not in done.stderr


def test_a_person_at_a_terminal_is_told_what_is_waited_for(command: Command) -> None:
    master, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.run", "-"],
        env=command.env(),
        cwd=ROOT,
        stdin=terminal,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(terminal)
    try:
        assert process.stderr is not None
        assert "Ctrl-D" in process.stderr.readline()
        os.write(master, b"magnet:?x\n\x04")
        assert process.wait(30) == 2 and "Line 1 of standard input: magnet:" in " ".join(process.stderr.read().split())
    finally:
        process.kill()
        process.communicate()
        os.close(master)


def test_a_file_may_be_named_like_a_link_without_slashes(command: Command, clips: Path) -> None:
    shutil.copy(clip(clips), command.home / "data: part 2.mp4")
    assert command.run("-", "--until", "probe", stdin=b"data: part 2.mp4\n").code == 0

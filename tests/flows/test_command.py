"""The command itself: quick answers, plain lines, several sources, and stopping after any stage."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.aftermath import STAGES, left_running, made_now
from tests.support.clips import bulk_clip, clip
from tests.support.command import ROOT, Command
from tests.support.origin import Origin, Resource

WHAT_WAS_IMPORTED = """
import sys
from flows.run import main
try:
    code = main(sys.argv[1:])
except SystemExit as exit:
    code = exit.code
print(code, "prefect" in sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--help",), 0),
        ((), 2),
        (("--quality", "721p", "x"), 2),
        (("--colour", "x"), 2),
        (("ftp://example.invalid/film.mp4",), 2),
        (("/no/such/film.mp4",), 2),
    ],
    ids=["help", "nothing", "bad value", "bad flag", "bad scheme", "missing file"],
)
def test_help_and_bad_usage_answer_without_importing_prefect(words: tuple[str, ...], code: int, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", WHAT_WAS_IMPORTED, *words]
    ended = subprocess.run(argv, cwd=ROOT, env={"HOME": str(tmp_path)}, capture_output=True, text=True, timeout=60)
    assert ended.stderr.splitlines()[-1] == f"{code} False", ended.stderr
    assert "Traceback" not in ended.stderr


def test_help_names_every_flag(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "flows.run", "--help"]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)
    flags = "output-dir", "profile", "quality", "until", "sha256", "header", "refresh", "json", "verbose"
    assert [flag for flag in flags if f"--{flag} " not in ended.stdout] == []
    assert ended.returncode == 0


@pytest.mark.slow
def test_each_stage_can_be_the_last(command: Command, clips: Path) -> None:
    with Origin({"film.mp4": clip(clips)}) as origin:
        for number, stage in enumerate(STAGES):
            ended = command.run(origin.url("film.mp4"), "--until", stage)
            assert ended.code == 0, ended.stderr
            assert ended.document["status"] == "completed"
            assert list(ended.document["stages"]) == STAGES[: number + 1]
            assert made_now(ended) == [stage], "the others were done by the run before"
            parts = {"media": "probe", "download": "download", "output": "remux", "analysis": "analyze"}
            for part, made_by in parts.items():
                assert (ended.document[part] is not None) == (STAGES.index(made_by) <= number), part
            assert bool(command.published()) == (stage == "publish")


@pytest.mark.first
def test_some_of_several_that_fail_are_exit_code_3_and_the_others_are_published(command: Command, clips: Path) -> None:
    resources = {
        "one.mp4": clip(clips),
        "page.mp4": Resource(b"", story="always: html"),
        "two.mp4": clip(clips, seconds=3),
    }
    with Origin(resources) as origin:
        links = [origin.url(name) for name in ("one.mp4", "page.mp4", "gone.mp4", "two.mp4")]
        ended = command.run(*links, timeout=180)
    assert ended.code == 3, ended.stderr
    assert list(ended.document) == ["results"]
    told = ended.document["results"]
    assert [one["source"] for one in told] == links
    assert [one["status"] for one in told] == ["completed", "failed", "failed", "completed"]
    assert [one["failure"] and one["failure"]["type"] for one in told] == [None, "not_media", "not_found", None]
    assert all(Path(told[number]["output"]["path"]).is_file() for number in (0, 3))
    assert len({one["flow_run_id"] for one in told}) == 4
    assert "Traceback" not in ended.stderr and left_running(command) == []


@pytest.mark.slow
def test_a_log_gets_plain_lines(command: Command, clips: Path, prefect_server: str) -> None:
    film = bulk_clip(clips, 28 * 1024 * 1024)
    with Origin({"film.mp4": Resource(film, story="throttle 1M")}) as origin:
        ended = command.run(origin.url("film.mp4"), "--until", "download", as_json=False)
    assert ended.code == 0, ended.stderr
    names = [line.split()[0] for line in ended.stdout.splitlines()]
    assert names in (["source", "time"], ["time", "source"], ["origin", "time", "source"]), "only the result"
    lines = ended.stderr.splitlines()
    assert "\x1b" not in ended.stderr and "\r" not in ended.stderr
    assert lines[0] == f"Prefect UI: {prefect_server.removesuffix('/api')}"
    assert any(line.startswith("probe: completed after ") for line in lines)
    assert any(line.startswith("download: completed after ") for line in lines)
    assert any(line.startswith("download ") and " MB of " in line and "%" in line for line in lines), "some progress"


@pytest.mark.first
def test_a_person_is_told_where_the_results_are(command: Command, clips: Path) -> None:
    ended = command.run(str(clip(clips)), as_json=False)
    assert ended.code == 0
    (folder,) = command.published()
    lines = ended.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["time", "report", "result", "file"]
    assert str(folder / "report.html") in lines[1] and str(next(folder.glob("*.mp4"))) in lines[3]
    assert lines[2].endswith(", without re-encoding")
    assert str(folder) not in ended.stderr
    assert json.loads((folder / "report.json").read_text())["status"] == "completed"
    page = (folder / "report.html").read_text()
    assert "To do it again" in page and f"--output-dir {command.output}" in page and " in all" in page
    assert f'href="./{next(folder.glob("*.mp4")).name}"' in page and 'href="./report.json"' in page


def test_a_named_server_that_does_not_answer_is_told_as_such(command: Command, clips: Path) -> None:
    command.environment["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    ended = command.run(str(clip(clips)))
    assert (ended.code, ended.failure["type"]) == (1, "server_unavailable")
    assert "PREFECT_API_URL" in ended.failure["message"] and "Traceback" not in ended.stderr


def test_a_proxy_in_the_environment_is_not_asked_for_the_server_on_this_host(command: Command, clips: Path) -> None:
    command.environment |= {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    ended = command.run(str(clip(clips)), "--until", "probe")
    assert ended.code == 0, ended.stderr


@pytest.mark.parametrize("home", ["/proc/x", "a file"])
def test_a_home_that_cannot_be_written_is_bad_usage_and_leaves_nothing(
    home: str, command: Command, clips: Path
) -> None:
    (command.home / "a file").touch()
    command.environment["TIDEGATE_HOME"] = home if home.startswith("/") else str(command.home / home)
    ended = command.run(str(clip(clips)))
    assert (ended.code, ended.failure["type"]) == (2, "bad_input")
    assert "TIDEGATE_HOME" in ended.failure["message"] and "Traceback" not in ended.stderr
    assert not command.output.exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--quality", "721p", "x"), ("--quality", "2160p", "480p", "worst")),
        (("--profile", "mine", "x"), ("--profile", "universal", "modern", "original")),
        (("--until", "dawn", "x"), ("--until", "probe", "publish")),
        (("--colour=s3cr3t", "x"), ("no flag --colour", "./-name", "--")),
        (("--qualty", "720p", "x"), ("no flag --qualty", "did you mean --quality?")),
        (("--profile", "720p", "x"), ("--profile", "did you mean --quality 720p?")),
        (("-film.mp4",), ("no flag -film.mp4", "./-name")),
        ((), ("There is no source",)),
        (("--", "-film.mp4"), ("There is no file", "-film.mp4")),
        (("--refresh", "x", "--verbose"), ("There is no file", "/x")),
    ],
    ids=" ".join,
)
def test_bad_usage_names_what_is_wrong_and_what_would_be_right(
    words: tuple[str, ...], told: tuple[str, ...], tmp_path: Path
) -> None:
    environment = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "TIDEGATE_HOME": str(tmp_path / "home")}
    argv = [sys.executable, "-m", "flows.run", "--json", "--output-dir", "out", *words]
    ended = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    failure = json.loads(ended.stdout)["failure"]
    assert (ended.returncode, failure["type"]) == (2, "bad_input")
    everything = " ".join([failure["message"], *failure["suggested_actions"]])
    assert [part for part in told if part not in everything] == []
    assert not [word for word in ("Quality", "ProfileName", "invalid", "s3cr3t") if f"{word} value" in everything]
    assert "s3cr3t" not in ended.stdout + ended.stderr
    assert list(tmp_path.iterdir()) == [], "neither home nor output folder"


def test_json_is_utf_8_in_a_locale_that_is_not(command: Command, clips: Path) -> None:
    film = command.home / "Füße.mp4"
    film.symlink_to(clip(clips))
    command.environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    missing = command.run(str(command.home / "Möwe.mp4"))
    assert (missing.code, missing.failure["type"]) == (2, "bad_input")
    for as_json in (True, False):
        ended = command.run(str(film), as_json=as_json)
        assert ended.code == 0, ended.stderr
    command.output = command.home / "Möwe"
    refused = command.run(str(film))
    assert (refused.code, refused.failure["type"]) == (2, "bad_input") and "locale" in refused.failure["message"]


def test_flags_may_stand_between_sources(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "flows.run", "--json", "x", "--refresh", "y", "--", "-z"]
    environment = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert [one["source"] for one in json.loads(ended.stdout)["results"]] == ["x", "y", "-z"]


@pytest.mark.parametrize("as_json", [True, False])
def test_a_reader_that_leaves_is_no_failure(as_json: bool, command: Command, clips: Path) -> None:
    with command.started(str(clip(clips)), as_json=as_json) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        told = process.stderr.read()
        assert process.wait(60) == 0
    assert "Traceback" not in told and "BrokenPipe" not in told
    assert len(command.published()) == 1


def test_each_of_several_sources_is_told_when_it_ends(command: Command, clips: Path) -> None:
    with Origin({"one.mp4": clip(clips), "page.mp4": Resource(b"", story="always: html")}) as origin:
        ended = command.run(origin.url("page.mp4"), origin.url("one.mp4"), as_json=False)
    assert ended.code == 3
    first, panel = ended.stderr.index("page.mp4 "), ended.stderr.index("There is no media")
    second, done = ended.stderr.index("one.mp4 "), ended.stderr.index("publish: completed")
    assert first < panel < second < done
    for named in ("report.html", "error log: ", f"source: {origin.url('page.mp4')}"):
        assert named in ended.stderr[panel:second], "the panel names the source, and the report of its failure"
    last = ended.stderr.splitlines()[-2:]
    assert last[0].startswith("1 of 2 sources done in ") and last[1].startswith(f"failed  {origin.url('page.mp4')}: ")


def test_a_failed_run_says_where_its_report_is(command: Command) -> None:
    with Origin({"page.mp4": Resource(b"", story="always: html")}) as origin:
        ended = command.run(origin.url("page.mp4"))
    assert ended.code == 1
    told = json.loads(Path(ended.document["report"]["json"]).read_text())
    assert told["report"] == ended.document["report"] and Path(told["report"]["html"]).is_file()
    assert Path(ended.document["failure_log"]).is_file()


def test_make_run_hands_a_link_over_as_it_was_typed() -> None:
    link = "https://example.invalid/a?b=$(echo${IFS}no)&c=`echo no`&d=$(shell echo no)'\""
    argv = ["make", "-s", "-o", ".venv/.installed", "run", "BIN=.cache/bin", f"SOURCE={link}"]
    folder = ROOT / ".cache" / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "python").write_text('#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done\n')
    (folder / "python").chmod(0o755)
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.stdout.splitlines() == ["-m", "flows.run", "--", link], ended.stderr

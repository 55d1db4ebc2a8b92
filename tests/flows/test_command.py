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
        (("ftp://example.invalid/film.mp4",), 2),
        (("/no/such/film.mp4",), 2),
    ],
    ids=["help", "nothing", "bad flag", "bad scheme", "missing file"],
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


def test_a_log_gets_plain_lines(command: Command, clips: Path, prefect_server: str) -> None:
    film = bulk_clip(clips, 32 * 1024 * 1024)
    with Origin({"film.mp4": Resource(film, story="throttle 16M")}) as origin:
        ended = command.run(origin.url("film.mp4"), "--until", "download", as_json=False)
    assert ended.code == 0, ended.stderr
    assert ended.stdout == "", "what a person reads goes to stderr"
    lines = ended.stderr.splitlines()
    assert "\x1b" not in ended.stderr and "\r" not in ended.stderr
    assert lines[0] == f"Prefect UI: {prefect_server.removesuffix('/api')}"
    assert any(line.startswith("probe: completed after ") for line in lines)
    assert any(line.startswith("download: completed after ") for line in lines)
    assert any(line.startswith("download ") and " MB of " in line and "%" in line for line in lines), "some progress"


def test_a_person_is_told_where_the_results_are(command: Command, clips: Path) -> None:
    ended = command.run(str(clip(clips)), as_json=False)
    assert ended.code == 0 and ended.stdout == ""
    (folder,) = command.published()
    told = "".join(ended.stderr.split())
    assert str(next(folder.glob("*.mp4"))) in told and str(folder / "report.html") in told
    assert json.loads((folder / "report.json").read_text())["status"] == "completed"


def test_a_named_server_that_does_not_answer_is_a_connection_error(command: Command, clips: Path) -> None:
    command.environment["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    ended = command.run(str(clip(clips)))
    assert (ended.code, ended.failure["type"]) == (1, "connection_failed")
    assert "PREFECT_API_URL" in ended.failure["message"] and "Traceback" not in ended.stderr

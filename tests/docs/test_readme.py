"""What the README shows is what happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.clips import clip
from tests.support.command import ROOT
from tests.support.origin import Origin

README = (ROOT / "README.md").read_text()
LINK = "https://example.org/film.mkv"


def test_the_library_example_runs_as_it_stands(tmp_path: Path, clips: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert LINK in program
    film = clip(clips)
    with Origin({"film.mp4": film}) as origin:
        ended = subprocess.run(
            [sys.executable, "-c", program.replace(LINK, origin.url("film.mp4"))],
            env={**os.environ, "TIDEGATE_HOME": str(tmp_path)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(f"{film.stat().st_size} ") and "h264" in ended.stdout


def test_readme_and_help_name_every_exit_code() -> None:
    argv = [sys.executable, "-m", "flows.run", "--help"]
    told = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout
    for code in ("0 done", "1 failed", "2 bad usage", "3 some of several failed", "130 interrupted", "143 terminated"):
        assert code in " ".join(README.split()) and code in " ".join(told.split())

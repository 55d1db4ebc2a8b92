"""What must hold after the real command has ended: what it said, what it left, and which tools it ran.

Flow tests call these after a disaster. Reads only; nothing here ends a process or removes a file.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.support import fake_tool
from tests.support.command import Command, Ended
from tests.support.leaks import MARK, command_lines, leftovers
from tidegate.media.ffmpeg import Toolchain
from tidegate.settings import ToolSettings

STAGES = ["probe", "download", "remux", "analyze", "publish"]
UNFINISHED = ("*.tmp", "*.partial")
"""Names that nobody may take for a result; a stage that ended has none. Parts and journals stay for a resume."""


def failure_told(ended: Ended, *, code: int, kind: str) -> dict[str, Any]:
    """Check how a failure was told: exit code, one JSON document, a panel and no traceback. Gives the failure."""
    assert ended.code == code, f"{ended.stdout}\n{ended.stderr}"
    assert "Traceback" not in ended.stderr
    assert ended.document["status"] == "failed"
    failure = ended.failure
    assert failure["type"] == kind, failure
    assert failure["message"].strip() and failure["friendly_message"].strip() and failure["suggested_actions"]
    assert re.fullmatch(r"TG-\d{8}-\d{6}-[0-9a-f]{8}", failure["reference"])
    assert failure["reference"] in ended.stderr, "the panel names the reference"
    return failure


def end_of(process: subprocess.Popen[str], *, seconds: float = 60.0) -> Ended:
    """Wait for a started command to end by itself, and take what it said."""
    began = time.monotonic()
    stdout, stderr = process.communicate(timeout=seconds)
    return Ended(process.returncode, stdout, stderr, time.monotonic() - began)


def wait_in(process: subprocess.Popen[str], condition: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Wait until something holds while a started command runs.

    Raises:
        AssertionError: it did not, or the command ended before; with what the command said.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            raise AssertionError(f"the command ended early, with {process.returncode}:\n{process.communicate()}")
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.05)


def living(command: Command) -> list[str]:
    """The command lines of the processes that still carry the command's mark."""
    return command_lines(marked_processes(command))


def marked_processes(command: Command) -> list[psutil.Process]:
    """What the command started and what lives, wherever it was re-parented to."""
    return [process for process in psutil.process_iter() if _carries(process, command.mark)]


def left_running(command: Command, *, seconds: float = 5.0) -> list[str]:
    """Processes that outlive the command by more than `seconds`; `== []` is the assertion."""
    deadline = time.monotonic() + seconds
    while (left := living(command)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def unfinished_files(command: Command) -> list[Path]:
    """Temporary and partial files below the home and the output folder."""
    folders = [command.home / "tidegate", command.output]
    return [folder / path for folder in folders if folder.is_dir() for path in leftovers(folder, UNFINISHED)]


def secret_files(command: Command) -> list[Path]:
    """Secrets that a command should have taken along with it; the key of the home itself is not one of them."""
    files = [path for path in (command.home / "tidegate" / "secrets").glob("**/*") if path.is_file()]
    return [path for path in files if path.name != "identity.key"]


def nothing_left_but_evidence(command: Command) -> None:
    """After a failure: no process, nothing half-made, no secret, and only error reports in the output folder."""
    assert left_running(command) == []
    assert unfinished_files(command) == []
    assert secret_files(command) == []
    for folder in command.output.glob("*"):
        assert re.fullmatch(r"[a-z0-9-]+-[0-9a-f]{8}", folder.name), folder
        log = f"{folder.name.rpartition('-')[0]}.err.log"
        assert {path.name for path in folder.iterdir()} == {log, "report.json", "report.html"}
        assert json.loads((folder / "report.json").read_text())["status"] == "failed"


def made_now(ended: Ended) -> list[str]:
    """The stages that ran, in their order; the others came from their checkpoints."""
    return [name for name, record in ended.document["stages"].items() if not record["cached"]]


def witness(folder: Path, before: str = "", options: str = "") -> Path:
    """The ffmpeg that runs find, under a script: it writes down each call, says `before` to the shell, adds `options`.

    `-re` among the options makes it read its input no faster than it plays: a short clip becomes a long step.
    """
    tool = folder / "witnessed-ffmpeg"
    calls, real = shlex.quote(str(calls_file(tool))), shlex.quote(str(Toolchain.find(ToolSettings()).ffmpeg.absolute()))
    tool.write_text(f'#!/bin/sh\necho "$*" >> {calls}\n{before}\nexec {real} {options} "$@"\n')
    tool.chmod(0o755)
    fake_tool.allow(tool.parent, Path(fake_tool.__file__).parent)
    return tool


def works(tool: Path) -> list[str]:
    """The calls of a witnessed ffmpeg that made media, one line each; its version and a look at the fields are none."""
    lines = calls_file(tool).read_text().splitlines() if calls_file(tool).exists() else []
    return [line for line in lines if " -i " in line and " idet " not in line]


def calls_file(tool: Path) -> Path:
    return tool.with_name(f"{tool.name}.calls")


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False

"""Work for the crash harness that is done by the real command.

The sweeps use it. The same command begins the work and, after a kill, goes on with it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace

from tests.support.aftermath import left_running, secret_files, unfinished_files
from tests.support.command import Command
from tests.support.crash import Work


def by_command(command: Command, source: str) -> Work:
    """Work that is begun by the command, and goes on when somebody gives the same command again."""

    def start(variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "flows.run", source, "--output-dir", str(command.output)]
        with (command.home / "output.log").open("ab") as output:
            return subprocess.Popen(
                argv,
                env={**command.env(), **variables},
                cwd=command.home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def resume(variables: Mapping[str, str]) -> None:
        again = replace(command, environment={**command.environment, **variables})
        ended = again.run(source)
        assert ended.code == 0, ended.stderr

    def left() -> list[object]:
        scratch = (command.home / "tidegate" / "scratch").glob("*")
        return [*left_running(command), *scratch, *unfinished_files(command), *secret_files(command)]

    return Work(command.home, command.output, start, resume, left)

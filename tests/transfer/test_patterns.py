"""No regular expression of ours, and nothing else that reads a server's words here, takes long for a hostile text.

`re` holds the interpreter: while it works no watch looks, no lease is renewed. So the work is done in a child whose
processor time the kernel counts; how busy this machine is makes no difference.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.command import ROOT


@pytest.mark.parametrize("size", [30_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_no_text_of_a_server_is_hard_for_us(size: int) -> None:
    argv = [sys.executable, "-m", "tests.transfer.patterns_child", str(size)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[-1:]) == (0, ["done"]), f"took too long at {lines[-1:]} {done.stderr[-300:]}"
    assert len({line.rpartition(" ")[0] for line in lines}) > 50

"""Another user of this machine, who tries to have a port of ours. Needs root, to be somebody else."""

from __future__ import annotations

import subprocess
import sys

TAKE = """
import os, socket, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)  # by itself: another user may not be allowed to start this interpreter
taker = socket.socket()
taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
try:
    taker.bind((sys.argv[1], int(sys.argv[2])))
    taker.listen()
    print("taken")
except OSError as error:
    print(error.strerror)
"""


def taken_by_a_stranger(port: int, address: str = "127.0.0.1") -> str:
    """What came of it: `taken`, or why not."""
    took = [sys.executable, "-I", "-c", TAKE, address, str(port)]
    return subprocess.run(took, capture_output=True, text=True, check=True).stdout.strip()

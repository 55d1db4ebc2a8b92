"""A child that does not outlive its parent.

The supervisor and the command's own server start their children with it: a SIGKILL of this process would otherwise
leave a tool running, writing into files that the next run owns. Linux only; elsewhere it does nothing.
"""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""

_libc = ctypes.CDLL(None)  # here, because nothing may be loaded between fork and exec


def die_with_parent() -> None:
    """Runs in the child, between fork and exec: the kernel sends it SIGKILL when the thread that started it ends."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

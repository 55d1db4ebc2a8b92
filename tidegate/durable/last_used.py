"""When an asset was last used: the modification time of its folder.

The store touches an asset before it looks whether a checkpoint may be believed, and maintenance reads the time to let
the one used longest ago go first. A time that was lost or could not be written costs nobody a byte: the asset only
counts as used when it was stored.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def touch(folder: Path) -> None:
    """Say that the asset in `folder` is being used now; one that is not there is nobody's to use.

    Before the look and not after it: reading a film whole takes minutes, and what happens to go in them is not this.
    """
    with contextlib.suppress(OSError):  # a store that cannot be written can still be read from
        os.utime(folder)

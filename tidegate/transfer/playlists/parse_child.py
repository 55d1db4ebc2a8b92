"""Reads one playlist and prints what it says, as plain data. Runs as a child process of its own.

`transfer.parsing` starts it under supervision, so that a hostile text can exhaust or crash only this process, which
sets its own limits of memory and processor time before it looks at a byte of it. It opens one file, which it removes at
once, writes nothing, and asks nobody. Of ours it imports what is pure; start-up is most of what it costs.

    python -I parse_child.py hls|dash|metalink REQUEST

The request is a line `{"url": …, "memory_bytes": …, "cpu_seconds": …}` and the playlist as it came. The answer is
messages as `written` has them, or one `{"refused": [kind, message, hint]}`; each is cut into lines that a pipe takes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).absolute().parents[3]))

from tidegate.errors import NotMedia, UnsupportedSource
from tidegate.transfer.playlists.written import Playlist, messages_of

LINE_CHARS = 32 * 1024
"""How much of a message goes into one line. What reads them takes twice as much for one."""
GOES_ON, ENDS, EDGE = "+", ".", "|"
"""How a line begins that is not the last of its message, how the last one does, and how each ends: spaces before it are
the message's own."""


def main(kind: str, path: str) -> None:
    """Read, and say."""
    with Path(path).open("rb") as file:
        with contextlib.suppress(OSError):  # whoever started us does it, too
            os.unlink(path)  # noqa: PTH108
        head = json.loads(file.readline())
        _limit(int(head["memory_bytes"]), int(head["cpu_seconds"]))
        try:
            for message in messages_of(_read_playlist(kind, file.read(), str(head["url"]))):
                _say(message)
        except MemoryError:
            refused = ["memory", "", ""]
        except UnsupportedSource as error:
            refused = ["unsupported", error.message, error.hint]
        except NotMedia as error:
            refused = ["damaged", error.message, error.hint]
        except RecursionError:
            refused = ["damaged", "The playlist is damaged: it is nested deeper than any", ""]
        else:
            return
        _say({"refused": refused})


def _read_playlist(kind: str, content: bytes, url: str) -> Playlist:
    """By the reader of its kind, whose libraries are imported only now."""
    if kind == "hls":
        _without_its_client("m3u8")
        from tidegate.transfer.playlists.read_hls import read as read_hls

        return read_hls(content.decode("utf-8", "replace"), url)
    if kind == "dash":
        from tidegate.transfer.playlists.read_dash import read as read_dash

        return read_dash(content.decode("utf-8-sig", "replace"), url)
    from tidegate.transfer.playlists.read_metalink import read as read_metalink

    return read_metalink(content)


def _limit(memory_bytes: int, cpu_seconds: int) -> None:
    """What the kernel holds this process to: it acts at the byte, and while whoever watches us sleeps."""
    for what, soft, hard in (
        (resource.RLIMIT_DATA, memory_bytes, memory_bytes),
        (resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1),  # SIGXCPU says why; at the hard one comes SIGKILL
        (resource.RLIMIT_CORE, 0, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # a lower one holds already
            resource.setrlimit(what, (soft, hard))


def _without_its_client(package: str) -> None:
    """Make a package known without running its `__init__`, which for m3u8 imports a client for HTTP and TLS that reads
    nothing here: two thirds of the start."""
    spec = importlib.util.find_spec(package)
    if spec is not None:
        sys.modules[package] = importlib.util.module_from_spec(spec)


def _say(message: dict[str, Any]) -> None:
    text = json.dumps(message, separators=(",", ":"), allow_nan=False)
    pieces = [text[begin : begin + LINE_CHARS] for begin in range(0, len(text), LINE_CHARS)]
    for piece in pieces[:-1]:
        sys.stdout.write(f"{GOES_ON}{piece}{EDGE}\n")
    sys.stdout.write(f"{ENDS}{pieces[-1]}{EDGE}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

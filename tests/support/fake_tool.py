#!/usr/bin/env python3
"""Plays an external tool by a script, for tests of supervision with real processes.

Tests run it directly (`python fake_tool.py 'progress 5 every 50ms' 'exit 0'`) or `install` it under a tool's
name, where the code under test calls it with arguments of its own. It imports the standard library only, and
nothing of this package, because it also runs from a folder that knows no package.

Each act is one argument; acts follow each other; the end of the script is exit 0. SIZE takes K, M or G, X is
`2s` or `50ms`. In an act, `{1}`, `{2}` … and `{last}` are the arguments with which the installed tool was
called.

| act                              | what it does                                                         |
|----------------------------------|----------------------------------------------------------------------|
| `print TEXT` / `error TEXT`      | one line on stdout / on stderr                                       |
| `lines N every X TEXT`           | N lines on stdout; `{n}` is the number, from 1                       |
| `rewrites N every X TEXT`        | the same ended by `\\r` and padded, as status lines do               |
| `error-lines N every X TEXT`     | the same as `lines`, on stderr                                       |
| `progress N every X`             | N blocks as `ffmpeg -progress` writes them, one second further each  |
| `frozen-progress N every X`      | N blocks that say the same time, frame and size                      |
| `stdout SIZE` / `stderr SIZE`    | so many bytes in lines, as fast as the pipe takes them               |
| `grow PATH SIZE every X times N` | appends SIZE bytes N times and says nothing                          |
| `write PATH SIZE`                | that file, at once                                                   |
| `copy FROM TO`                   | a whole file, as a tool that succeeds                                |
| `spawn X`                        | a child that sleeps and holds stdout and stderr; nobody waits for it |
| `spawn-stubborn X`               | the same, deaf to SIGTERM                                            |
| `spawn-detached X`               | the same in a session of its own                                     |
| `spawn-stranger X`               | the same, and without our environment: by no sign one of ours        |
| `child ACT`                      | plays an act in a child; waits for it, and fails with it             |
| `orphan ACT`                     | the same in a session of its own; nobody waits for it                |
| `ignore-term`                    | SIGTERM and SIGINT do nothing from now on                            |
| `exit-on-term N`                 | SIGTERM and SIGINT end it with this code (ffmpeg: 255)               |
| `stop`                           | SIGSTOP to itself                                                    |
| `sleep X` / `hang`               | so long / for ever                                                   |
| `read-stdin`                     | reads stdin to its end, as a tool that asks a question               |
| `allocate SIZE`                  | touches so much memory and keeps it                                  |
| `allocate SIZE every X times N`  | the same N times                                                     |
| `pid PATH`                       | writes its process id                                                |
| `exit N` / `die SIGNAL`          | ends with a code / by a signal such as SIGKILL                       |
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, NoReturn

UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
SIZE = r"(\d+[KMG]?)"
TIME = r"(\d+(?:\.\d+)?m?s)"
FILLER = b"x" * 79 + b"\n"

kept: list[bytearray] = []


def install(folder: Path, name: str, *calls: list[str]) -> Path:
    """Put a tool of this name into a folder. Each call plays the next list of acts, and the last for ever.

    `called_with(path)` tells the arguments of every call so far. From now on, until the end of the test, tools may use
    this script and that folder: a real tool has no such files.
    """
    allow(Path(__file__).resolve().parent, folder)
    tool = folder / name
    script = folder / f"{name}.script.json"
    script.write_text(json.dumps(calls or ([],)))
    command = shlex.join([sys.executable, "-I", str(Path(__file__).resolve()), "--script", str(script)])
    tool.write_text(f'#!/bin/sh\nexec {command} -- "$@"\n')
    tool.chmod(0o755)
    return tool


def allow(*folders: Path) -> None:
    """Let confined tools use these folders too; the end of the test takes it back (tests/conftest.py)."""
    before = os.environ.get("TIDEGATE_PROCESS_ALLOW", "")
    told = dict.fromkeys([*filter(None, before.split(os.pathsep)), *map(str, folders)])
    os.environ["TIDEGATE_PROCESS_ALLOW"] = os.pathsep.join(told)


def permission() -> dict[str, str]:
    """The same for a process that does not inherit our environment."""
    name = "TIDEGATE_PROCESS_ALLOW"
    return {name: os.environ[name]} if name in os.environ else {}


def called_with(tool: Path) -> list[list[str]]:
    """The arguments of each call of an installed tool, in order."""
    journal = tool.with_name(f"{tool.name}.script.calls")
    return [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []


def play(act: str) -> None:
    """Do one act, or raise `ValueError`."""
    for pattern, do in ACTS:
        if match := re.fullmatch(pattern, act, re.DOTALL):
            do(*match.groups())
            return
    raise ValueError(f"unknown act {act!r}; tests/support/fake_tool.py lists them")


def parse_size(text: str) -> int:
    """Bytes from `200`, `64K`, `2M`."""
    return int(text.rstrip("KMG")) * UNITS[text.lstrip("0123456789")]


def parse_seconds(text: str) -> float:
    """Seconds from `2s` or `50ms`."""
    return float(text[:-2]) / 1000 if text.endswith("ms") else float(text[:-1])


def say(stream: IO[str], text: str) -> None:
    """Write and flush: a pipe would keep it back."""
    stream.write(text)
    stream.flush()


def repeat(stream: IO[str], end: str, times: str, pause: str, text: str) -> None:
    """Write a text so many times, each with its number."""
    for number in range(1, int(times) + 1):
        say(stream, f"{text.replace('{n}', str(number)):<{60 if end == chr(13) else 0}}{end}")
        time.sleep(parse_seconds(pause))


def progress(times: str, pause: str, moving: bool = True) -> None:
    """Write `-progress` blocks."""
    for number in range(1, int(times) + 1):
        second = number if moving else 1
        block = {
            "frame": second * 25,
            "fps": "25.0",
            "total_size": second * 100_000,
            # As in the real tool, out_time_ms is in microseconds too.
            "out_time_us": second * 1_000_000,
            "out_time_ms": second * 1_000_000,
            "out_time": time.strftime("%H:%M:%S.000000", time.gmtime(second)),
            "speed": "1.0x",
            "progress": "continue",
        }
        say(sys.stdout, "".join(f"{key}={value}\n" for key, value in block.items()))
        time.sleep(parse_seconds(pause))


def flood(descriptor: int, size: str) -> None:
    """Write so many bytes straight to a descriptor."""
    left = parse_size(size)
    while left:
        left -= os.write(descriptor, (FILLER * 800)[:left])


def grow(path: str, size: str, pause: str, times: str) -> None:
    """Append to a file in silence."""
    for _ in range(int(times)):
        with Path(path).open("ab") as file:
            file.write(bytes(parse_size(size)))
        time.sleep(parse_seconds(pause))


def spawn(seconds: str, trap: str = "", detached: bool = False, env: dict[str, str] | None = None) -> None:
    """Start a child and forget it."""
    command = f"{trap}exec sleep {parse_seconds(seconds)}"
    subprocess.Popen(["/bin/sh", "-c", command], start_new_session=detached, env=env)


def in_child(act: str, detached: bool = False) -> None:
    """Play one act in a process of its own; its failure is ours, unless it is left to itself."""
    argv = [sys.executable, "-I", str(Path(__file__).resolve()), act]
    process = subprocess.Popen(argv, start_new_session=detached)
    if not detached and process.wait():
        sys.exit(9)


def on_term(handler: Callable[..., object] | signal.Handlers) -> None:
    """React to the polite signals."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def allocate(size: str) -> None:
    """Hold memory; writing each page makes it resident."""
    kept.append(bytearray(b"\1") * parse_size(size))


def allocate_slowly(size: str, pause: str, times: str) -> None:
    """Hold more and more of it."""
    for _ in range(int(times)):
        allocate(size)
        time.sleep(parse_seconds(pause))


def hang() -> NoReturn:
    """Sleep for ever."""
    while True:
        time.sleep(3600)


ACTS: tuple[tuple[str, Callable[..., object]], ...] = (
    (r"print (.*)", lambda text: say(sys.stdout, text + "\n")),
    (r"error (.*)", lambda text: say(sys.stderr, text + "\n")),
    (rf"lines (\d+) every {TIME} (.*)", lambda *told: repeat(sys.stdout, "\n", *told)),
    (rf"rewrites (\d+) every {TIME} (.*)", lambda *told: repeat(sys.stdout, "\r", *told)),
    (rf"error-lines (\d+) every {TIME} (.*)", lambda *told: repeat(sys.stderr, "\n", *told)),
    (rf"progress (\d+) every {TIME}", progress),
    (rf"frozen-progress (\d+) every {TIME}", lambda times, pause: progress(times, pause, moving=False)),
    (rf"stdout {SIZE}", lambda size: flood(1, size)),
    (rf"stderr {SIZE}", lambda size: flood(2, size)),
    (rf"grow (.+) {SIZE} every {TIME} times (\d+)", grow),
    (rf"write (.+) {SIZE}", lambda path, size: Path(path).write_bytes(bytes(parse_size(size)))),
    (r"copy (\S+) (\S+)", shutil.copyfile),
    (rf"spawn {TIME}", spawn),
    (rf"spawn-stubborn {TIME}", lambda seconds: spawn(seconds, trap="trap '' TERM INT; ")),
    (rf"spawn-detached {TIME}", lambda seconds: spawn(seconds, detached=True)),
    (rf"spawn-stranger {TIME}", lambda seconds: spawn(seconds, detached=True, env={})),
    (r"child (.+)", in_child),
    (r"orphan (.+)", lambda act: in_child(act, detached=True)),
    (r"ignore-term", lambda: on_term(signal.SIG_IGN)),
    (r"exit-on-term (\d+)", lambda code: on_term(lambda *_: os._exit(int(code)))),
    (r"stop", lambda: os.kill(os.getpid(), signal.SIGSTOP)),
    (rf"sleep {TIME}", lambda seconds: time.sleep(parse_seconds(seconds))),
    (r"hang", hang),
    (r"read-stdin", sys.stdin.read),
    (rf"allocate {SIZE}", allocate),
    (rf"allocate {SIZE} every {TIME} times (\d+)", allocate_slowly),
    (r"pid (.+)", lambda path: Path(path).write_text(str(os.getpid()))),
    (r"exit (\d+)", lambda code: sys.exit(int(code))),
    (r"die (SIG\w+)", lambda name: os.kill(os.getpid(), signal.Signals[name])),
)


def _filled(act: str, arguments: list[str]) -> str:
    named = {str(number): value for number, value in enumerate(arguments, 1)}
    named |= {"last": arguments[-1]} if arguments else {}
    return re.sub(r"\{(\d+|last)\}", lambda match: named.get(match[1], match[0]), act)


def _acts(arguments: list[str]) -> list[str]:
    if arguments[:1] != ["--script"]:
        return arguments
    script, called = Path(arguments[1]), arguments[3:]
    calls = json.loads(script.read_text())
    journal = script.with_suffix(".calls")
    with journal.open("a") as file:
        file.write(json.dumps(called) + "\n")
    number = len(journal.read_text().splitlines()) - 1
    return [_filled(act, called) for act in calls[min(number, len(calls) - 1)]]


if __name__ == "__main__":
    for told in _acts(sys.argv[1:]):
        play(told)

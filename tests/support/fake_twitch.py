#!/usr/bin/env python3
"""Plays TwitchDownloaderCLI 1.56 by a script, for tests with a real process and real media.

`install` puts it into a folder under the tool's name; the code under test then calls it with its usual arguments. It
prints what the real one prints, to the padding of its status lines and the borders of its tables, and does with
files what the real one does: claims the output, fills a cache below `--temp-path`, joins, cleans up. It imports the
standard library only, because it also runs from a folder that knows no package.

What goes wrong is data. A fault is one line; several may be given:

| fault                          | what happens                                                                     |
|--------------------------------|----------------------------------------------------------------------------------|
| `stall PHASE PERCENT`          | says so far, then nothing for ever; PHASE is `Downloading`, `Finalizing` …        |
| `silent PHASE SECONDS`         | the phase takes so long and says nothing on the way                              |
| `slow PHASE SECONDS`           | so long for each percent that is told                                            |
| `trickle SECONDS`              | parts grow for so long before the first percent                                  |
| `cancelled PHASE`              | the phase reaches 100 %, then TaskCanceledException                              |
| `missing N`                    | N parts cannot be had: redownloaded, failed again, replaced by empty ones; exit 0 |
| `left-out N`                   | N parts cannot be had nor replaced: the warning, exit 0                          |
| `nearly-all-missing`           | "Too many parts are missing", exception                                          |
| `redownloaded N`               | N parts came at the second try                                                   |
| `finalize-fails`               | ffmpeg fails twice, exception, the cache stays                                   |
| `not-found` / `subscribers`    | the exceptions for deleted videos and for those that need a login               |
| `http CODE`                    | HttpRequestException with this status                                            |
| `unreachable`                  | HttpRequestException, no such host                                               |
| `no-space`                     | IOException                                                                      |
| `connect URL`                  | asks for it, through the proxy of its environment; HttpRequestException if not had |
| `old`                          | knows no `--collision` and no `info`                                             |
| `cut SHARE`                    | the output holds this share of its bytes; exit 0                                 |
| `short CLIP`                   | the output is another clip; exit 0                                               |
| `empty` / `no-output`          | exit 0 with an empty output, or with none                                        |
| `leaves-cache`                 | the cache stays though all went well                                             |
| `exit CODE`                    | its exit code, whatever it said                                                  |
| `die SIGNAL`                   | in the middle of the download                                                    |
| `wild-percent`                 | begins at -237600 %                                                              |
| `spawn`                        | starts a child that sleeps and is deaf to SIGTERM                                |

A fault that begins with `info:` befalls the verb `info`, the others the downloads; `once:` befalls the first call of
its kind only.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

NAME = "TwitchDownloaderCLI"
BANNER = f"{NAME} 1.56.1 Copyright (c) lay295 and contributors"
PARTS = 10
WIDTH = 80
"""What Spectre.Console assumes where there is no terminal."""


def install(
    folder: Path,
    qualities: Mapping[str, tuple[str, Path]],
    *faults: str,
    title: str = "Speedrun night",
    seconds: float = 6.0,
    name: str = NAME,
) -> Path:
    """Put the tool into a folder. `qualities` are its table, best first: name → (resolution, the clip it brings)."""
    folder.mkdir(parents=True, exist_ok=True)
    clips = {str(Path(clip).absolute().parent) for _, clip in qualities.values()}
    allowed = (os.environ.get("TIDEGATE_PROCESS_ALLOW"), str(Path(__file__).resolve().parent), str(folder), *clips)
    # A real tool has no script, no story and no journal; the end of the test takes it back (tests/conftest.py).
    os.environ["TIDEGATE_PROCESS_ALLOW"] = os.pathsep.join(filter(None, allowed))
    tool, script = folder / name, folder / f"{name}.script.json"
    story = {
        "qualities": {key: (resolution, str(clip)) for key, (resolution, clip) in qualities.items()},
        "faults": list(faults),
        "title": title,
        "seconds": seconds,
    }
    script.write_text(json.dumps(story))
    command = shlex.join([sys.executable, "-I", str(Path(__file__).resolve()), "--script", str(script)])
    tool.write_text(f'#!/bin/sh\nexec {command} -- "$@"\n')
    tool.chmod(0o755)
    return tool


def retell(tool: Path, *faults: str) -> None:
    """Let other things go wrong from now on."""
    script = tool.with_name(f"{tool.name}.script.json")
    script.write_text(json.dumps({**json.loads(script.read_text()), "faults": list(faults)}))


def called_with(tool: Path, verb: str = "") -> list[list[str]]:
    """The arguments of each call so far, in order; of one verb only where it is named."""
    journal = tool.with_name(f"{tool.name}.script.calls")
    calls = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    return [call for call in calls if call[:1] == [verb] or not verb]


class Progress:
    """The real tool's CliTaskProgress: one status line, rewritten with a return and padded."""

    def __init__(self, out: IO[str]) -> None:
        self.out = out
        self.template = ""
        self.length = 0
        self.fresh = True
        self.percent: int | None = None

    def status(self, text: str) -> None:
        self.line("STATUS", text)

    def begin(self, template: str, percent: int = 0) -> None:
        self.template, self.percent = template, None
        if not self.fresh:
            self.out.write("\n")
            self.fresh = True
        self.report(percent)

    def report(self, percent: int) -> None:
        if percent == self.percent and not self.fresh:
            return
        text = f"[STATUS] - {self.template.format(percent)}"
        self.out.write(("" if self.fresh else "\r") + text + " " * (self.length - len(text)))
        self.out.flush()
        self.fresh, self.length, self.percent = False, len(text), percent

    def line(self, level: str, text: str) -> None:
        self.out.write(("" if self.fresh else "\n") + f"[{level}] - {text}\n")
        self.out.flush()
        self.fresh = True


class Tool:
    """One call."""

    def __init__(self, story: dict[str, Any], verb: str, earlier: int) -> None:
        self.story, self.verb = story, verb
        self.progress = Progress(sys.stdout)
        self.faults = [fault for told in story["faults"] if (fault := self._mine(told, earlier)) is not None]

    def _mine(self, told: str, earlier: int) -> str | None:
        if told.startswith("once:"):
            if earlier:
                return None
            told = told.removeprefix("once:")
        if self.verb == "info":
            return told.removeprefix("info:") if told.startswith("info:") or told == "old" else None
        return None if told.startswith("info:") else told

    def fault(self, pattern: str) -> re.Match[str] | None:
        """The first fault that matches."""
        return next((found for fault in self.faults if (found := re.fullmatch(pattern, fault))), None)

    def refuse_at_once(self) -> None:
        """What goes wrong before anything is received."""
        if self.fault("spawn"):
            subprocess.Popen(["/bin/sh", "-c", "trap '' TERM INT; sleep 60"])
        if self.fault("not-found"):
            self.throw("System.NullReferenceException", "Invalid VOD, deleted/expired VOD possibly?")
        if self.fault("subscribers"):
            self.throw("System.NullReferenceException", "Insufficient access to VOD, OAuth may be required.")
        if found := self.fault(r"http (\d+)"):
            message = f"Response status code does not indicate success: {found[1]} (Fault)."
            self.throw("System.Net.Http.HttpRequestException", message)
        if self.fault("unreachable"):
            self.throw("System.Net.Http.HttpRequestException", "Name or service not known (gql.twitch.tv:443)")
        if found := self.fault(r"connect (\S+)"):
            try:
                urllib.request.urlopen(found[1], timeout=10).close()  # of the script
            except OSError as error:
                self.throw("System.Net.Http.HttpRequestException", str(error))
        if self.fault("no-space"):
            self.throw("System.IO.IOException", "No space left on device : '/tmp/TwitchDownloader/1_2/3.ts'")

    def throw(self, kind: str, message: str) -> NoReturn:
        """An unhandled exception, as .NET ends a process: on stderr, then SIGABRT."""
        sys.stdout.flush()
        sys.stderr.write(
            f"Unhandled exception. System.AggregateException: One or more errors occurred. ({message})\n"
            f" ---> {kind}: {message}\n"
            "   at TwitchDownloaderCore.VideoDownloader.DownloadAsyncImpl(FileInfo outputFileInfo)\n"
            "   --- End of inner exception stack trace ---\n"
            "   at System.Threading.Tasks.Task.Wait()\n"
            f"   at {NAME}.Program.Main(String[] args)\n"
        )
        sys.stderr.flush()
        code = self.fault(r"exit (\d+)")
        if code:
            os._exit(int(code[1]))
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGABRT)
        raise AssertionError

    def phase(self, template: str, last: int = 100) -> None:
        """Count a phase up, with what befalls it."""
        name = template.split()[0]
        self.progress.begin(template, -237600 if self.fault("wild-percent") and name == "Downloading" else 0)
        if found := self.fault(rf"silent {name} ([\d.]+)"):
            time.sleep(float(found[1]))
            self.progress.report(last)
            return
        stall = self.fault(rf"stall {name} (\d+)")
        slow = self.fault(rf"slow {name} ([\d.]+)")
        for percent in range(0, last + 1, max(1, 100 // PARTS)):
            if stall and percent >= int(stall[1]):
                time.sleep(3600)
            if percent >= 50 and name == "Downloading" and (death := self.fault(r"die (SIG\w+)")):
                os.kill(os.getpid(), signal.Signals[death[1]])
            time.sleep(float(slow[1]) if slow else 0.002)
            self.progress.report(percent)
        if self.fault(f"cancelled {name}"):
            self.throw("System.Threading.Tasks.TaskCanceledException", "A task was canceled.")


def video(tool: Tool, options: argparse.Namespace) -> None:
    """`videodownload`."""
    output = claimed(Path(options.output), options.collision, tool.progress)
    cache = Path(options.temp_path or "/tmp") / "TwitchDownloader" / f"{options.id}_{time.time_ns()}"
    tool.progress.status("Fetching Video Info [1/4]")
    tool.refuse_at_once()
    clip = chosen(tool.story["qualities"], options.quality)
    cache.mkdir(parents=True)
    if found := tool.fault(r"trickle ([\d.]+)"):
        trickle(cache / "0.ts", float(found[1]))
    tool.phase("Downloading {0}% [2/4]")
    split(clip, cache)
    verify(tool)
    if tool.fault("finalize-fails"):
        tool.progress.begin("Finalizing Video {0}% [4/4]")
        for _ in range(2):
            tool.progress.line("ERROR", "Failed to finalize video (code 1), retrying in 5 seconds...")
        message = f"Failed to finalize video. The download cache has not been cleared and can be found at {cache}"
        tool.throw("System.Exception", f"{message} along with a log file.")
    tool.phase("Finalizing Video {0}% [4/4]")
    join(tool, clip, output)
    if not tool.fault("leaves-cache"):
        shutil.rmtree(cache)


def verify(tool: Tool) -> None:
    """Phase 3: parts that are missing are fetched again; those that fail again are replaced by empty ones, unsaid."""
    progress = tool.progress
    if tool.fault("nearly-all-missing"):
        tool.phase("Verifying Parts {0}% [3/4]")
        tool.throw("System.Exception", "Too many parts are missing or empty (13619/14089), aborting.")
    found = tool.fault(r"(missing|left-out|redownloaded) (\d+)")
    if found is None:
        tool.phase("Verifying Parts {0}% [3/4]")
        return
    what, count = found[1], int(found[2])
    if what != "redownloaded":
        progress.line("INFO", failed_parts(count))
    tool.phase("Verifying Parts {0}% [3/4]")
    progress.line("INFO", f"{count} parts were missing or corrupt and will be redownloaded.")
    progress.report(100)
    if what != "redownloaded":
        progress.line("INFO", failed_parts(count))
    progress.report(0)
    if what == "missing":
        for done in range(1, count + 1):
            progress.report(int(done / PARTS * 100))
    if what == "left-out":
        parts = ", ".join(f"{number}.ts" for number in range(count))
        progress.line(
            "WARNING",
            f"The following parts could not be downloaded and will be missing from the finalized video: {parts}",
        )


def failed_parts(count: int) -> str:
    """How the tool tells of failures that it lived with."""
    told = "1 error was" if count == 1 else f"{count} errors were"
    return (
        f"{told} encountered while downloading: Video part 0.ts failed after 3 retries "
        "at VideoDownloadThread.<DownloadVideoPartAsync>d__1"
    )


def clip(tool: Tool, options: argparse.Namespace) -> None:
    """`clipdownload`."""
    output = claimed(Path(options.output), options.collision, tool.progress)
    tool.progress.status("Fetching Clip Info")
    tool.refuse_at_once()
    tool.phase("Downloading Clip {0}%")
    tool.phase("Encoding Clip Metadata {0}%")
    join(tool, chosen(tool.story["qualities"], options.quality), output)


def info(tool: Tool, options: argparse.Namespace) -> None:
    """`info`: tables."""
    tool.progress.status("Fetching Video Info [1/1]")
    tool.refuse_at_once()
    if tool.fault("hang"):
        time.sleep(3600)
    facts = [
        ["Streamer", "somebody"],
        ["Title", tool.story["title"]],
        ["Length", stamp(tool.story["seconds"])],
        ["Category", "Just Chatting"],
        ["Views", "1,086"],
        ["Created at", "2023-07-08 05:59:19 UTC"],
        ["Description", "-"],
    ]
    print(table("Video Info", ["Key", "Value"], facts))
    rows = []
    for name, (resolution, path) in tool.story["qualities"].items():
        size = Path(path).stat().st_size
        rate = f"{size * 8 / tool.story['seconds'] / 1000:.0f}kbps"
        rows.append(
            [name, resolution, name.partition("p")[2] or "30", "avc1.64002A, mp4a.40.2", rate, f"~{told(size)}"]
        )
    print(table("Video Streams", ["Name", "Resolution", "FPS", "Codecs", "Bitrate", "File size"], rows))


def claimed(output: Path, collision: str, progress: Progress) -> Path:
    """As TwitchHelper.ClaimFile: ask when it is there, then create it."""
    if output.exists() and collision == "Exit":
        progress.line("INFO", f"The file '{output}' already exists, exiting.")
        sys.exit(1)
    if output.exists() and collision == "Prompt":
        print(f"The file '{output}' already exists.")
        print("[O] Overwrite / [R] Rename / [E] Exit: ", end="", flush=True)
        if not sys.stdin.readline():
            print()
            progress.line(
                "ERROR", "Could not read user input. Please specify the desired collision behavior with the CLI"
            )
            sys.exit(1)
    output.write_bytes(b"")
    return output


def chosen(qualities: dict[str, tuple[str, str]], wanted: str | None) -> Path:
    """An unknown quality is the best, without a word."""
    return Path(qualities.get(wanted or "", next(iter(qualities.values())))[1])


def trickle(part: Path, seconds: float) -> None:
    """A large first part: bytes, and not one percent."""
    until = time.monotonic() + seconds
    with part.open("ab") as file:
        while time.monotonic() < until:
            file.write(bytes(1000))
            file.flush()
            time.sleep(0.05)


def split(clip: Path, cache: Path) -> None:
    """The parts in the cache."""
    content = clip.read_bytes()
    size = len(content) // PARTS + 1
    for number in range(PARTS):
        (cache / f"{number}.ts").write_bytes(content[number * size : (number + 1) * size])


def join(tool: Tool, clip: Path, output: Path) -> None:
    """The finished file."""
    if short := tool.fault(r"short (.+)"):
        clip = Path(short[1])
    content = clip.read_bytes()
    if found := tool.fault(r"cut ([\d.]+)"):
        content = content[: int(len(content) * float(found[1]))]
    output.write_bytes(b"" if tool.fault("empty") else content)
    if tool.fault("no-output"):
        output.unlink()


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As Spectre.Console draws it: square borders, and cells that wrap where the width does not do."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    while sum(widths) + 3 * len(widths) + 1 > WIDTH:
        widths[widths.index(max(widths))] -= 1

    def edge(left: str, middle: str, right: str) -> str:
        return left + middle.join("─" * (width + 2) for width in widths) + right

    def drawn(row: Sequence[str]) -> list[str]:
        cells = [textwrap.wrap(cell, width) or [""] for cell, width in zip(row, widths, strict=True)]
        height = max(map(len, cells))
        padded = [cell + [""] * (height - len(cell)) for cell in cells]
        return [
            "│ " + " │ ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " │"
            for line in zip(*padded, strict=True)
        ]

    body = [line for row in rows for line in drawn(row)]
    lines = [edge("┌", "┬", "┐"), *drawn(header), edge("├", "┼", "┤"), *body, edge("└", "┴", "┘")]
    return "\n".join([title.center(len(lines[0])).rstrip(), *lines])


def stamp(seconds: float) -> str:
    """`42s`, `5:03`, `1:05:00`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s" if whole else "0:00"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def told(size: int) -> str:
    """A size in words, as VideoSizeEstimator has it."""
    for limit, unit in ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")):
        if size >= limit:
            return f"{size / limit:.1f}{unit}"
    return f"{size}B"


def parsed(arguments: list[str], *, old: bool) -> argparse.Namespace:
    """The command line; what the tool does not know ends it with its help text on stderr."""
    verb = arguments[0] if arguments else ""
    known = {
        "videodownload": ("id", "output", "quality", "threads", "temp-path", "ffmpeg-path", "log-level", "banner"),
        "clipdownload": ("id", "output", "quality", "temp-path", "ffmpeg-path", "log-level", "banner"),
        "info": ("id", "format", "log-level", "banner"),
    }
    if verb not in known or (old and verb == "info"):
        sys.stderr.write(f"{BANNER}\n\nERROR(S):\n  Verb '{verb}' is not recognized.\n")
        sys.exit(1)
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    for option in known[verb]:
        parser.add_argument(f"--{option}")
    if verb != "info" and not old:
        parser.add_argument("--collision", default="Prompt")
    options, unknown = parser.parse_known_args(arguments[1:])
    if unknown:
        name = unknown[0].lstrip("-")
        sys.stderr.write(f"{BANNER}\n\nERROR(S):\n  Option '{name}' is unknown.\n")
        sys.exit(1)
    return options


def main() -> None:
    script, arguments = Path(sys.argv[2]), sys.argv[4:]
    journal = script.with_suffix(".calls")
    calls = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    with journal.open("a") as file:
        file.write(json.dumps(arguments) + "\n")
    story = json.loads(script.read_text())
    options = parsed(arguments, old="old" in story["faults"])
    if options.banner != "false":
        print(BANNER, flush=True)
    tool = Tool(story, arguments[0], sum(call[:1] == arguments[:1] for call in calls))
    {"videodownload": video, "clipdownload": clip, "info": info}[arguments[0]](tool, options)
    sys.stdout.flush()
    if found := tool.fault(r"exit (\d+)"):
        sys.exit(int(found[1]))


if __name__ == "__main__":
    main()

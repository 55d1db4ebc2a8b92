"""The words of `python -m flows.run`, and what they ask for.

`flows/run.py` parses and checks them before anything else happens: whatever is wrong is said at once, and nothing new
is left behind. It does not import Prefect, and the ledger only where a run is to be resumed.
"""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from flows.lines import advice_on_file, read_headers, read_links
from flows.request import (
    SourceRequest,
    check_headers,
    check_headers_for,
    check_mirror,
    check_sha256,
    check_url,
    request_for,
    require_output,
    require_writable,
    source_of,
)
from tidegate.durable.home import Home
from tidegate.durable.secrets import SecretFiles
from tidegate.errors import BadInput, LedgerUnavailable, UsageError
from tidegate.model import STAGES, ProfileName, Quality, Wish
from tidegate.redact import redact_url
from tidegate.settings import Settings
from tidegate.transfer.paths import expand_home, require_possible


@dataclass(frozen=True)
class Missing:
    """A path among several sources at which there is no file."""

    place: int
    """Among all sources, from 0."""
    source: str
    """As it was typed, redacted."""
    error: BadInput


@dataclass(frozen=True)
class Command:
    """The command line, checked."""

    requests: tuple[SourceRequest, ...]
    profile: ProfileName
    quality: Quality
    output_dir: Path
    until: str
    refresh: bool
    wish: Wish
    as_json: bool
    verbose: bool
    settings: Settings
    advice: tuple[str, ...] = ()
    """What the person should know, and need not stop for."""
    missing: tuple[Missing, ...] = ()
    """The sources of several that are no files: the others are ingested all the same."""


STANDARD_INPUT = "-"


_TOLD_BY_THE_RUN: dict[str, object] = {
    "sources": [],
    "header": [],
    "sha256": None,
    "mirror": [],
    "allow_gaps": False,
    "duration": None,
    "profile": ProfileName.UNIVERSAL.value,
    "quality": Quality.AUTO.value,
    "until": "publish",
}
"""What a resumed run was asked for already, and what these flags are when nobody gives them. Where its results go is
kept too, whatever the folder that is given now."""


class Parser(argparse.ArgumentParser):
    """Tells a bad flag as every other failure is told: in a panel and, when asked for, as JSON."""

    def error(self, message: str) -> NoReturn:
        kind, _, unknown = message.partition("unrecognized arguments: ")
        if kind:
            raise BadInput(f"{message[0].upper()}{message[1:]}", hint=self._guess_flag_of_value(message))
        flags = [word.partition("=")[0] for word in unknown.split() if word.startswith("-")]
        hint = self._guess_flag(flags) or "a file whose name begins with a dash is ./-name, or after --"
        raise BadInput(f"There is no flag {', '.join(flags)}", hint=hint)

    def _guess_flag(self, flags: list[str]) -> str:
        """`did you mean --quality?` for `--qualty`; nothing where no flag is near."""
        known = [option for action in self._actions for option in action.option_strings]
        near = [match for flag in flags for match in get_close_matches(flag, known, n=1)]
        return f"did you mean {', '.join(near)}?" if near else ""

    def _guess_flag_of_value(self, message: str) -> str:
        """`did you mean --quality 720p?` for `--profile 720p`; nothing where no other flag takes the value."""
        value = re.search(r"invalid choice: '([^']*)'", message)
        takers = [action for action in self._actions if value and value[1] in (action.choices or ())]
        return f"did you mean {takers[0].option_strings[0]} {value[1]}?" if value and takers else ""


def parse_arguments(given: list[str]) -> argparse.Namespace:
    """The words by name. What follows `--` is taken out first: argparse, when flags may stand anywhere, loses it."""
    cut = given.index("--") if "--" in given else len(given)
    words = _run_parser().parse_intermixed_args(given[:cut])
    words.sources += given[cut + 1 :]
    return words


def _run_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m flows.run",
        description="Take media from a link or file; end with a verified, playable, analysed file, or with an error "
        "that says what to do. After a stop, run the same command again: it resumes.",
        epilog="exit codes: 0 done, 1 failed, 2 bad usage, 3 some of several failed, 130 interrupted, 143 terminated",
    )
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="http(s) link, file:// link or path; - reads them from standard input, one a line: other users of this "
        "machine can see a link that is typed, with the secrets in it",
    )
    parser.add_argument("--output-dir", type=Path, default=Path("media"), metavar="DIR", help="default: ./media")
    parser.add_argument(
        "--profile", choices=[name.value for name in ProfileName], default="universal", metavar="PROFILE",
        help="universal (plays everywhere; default), modern (keeps HEVC, AV1, VP9, Opus), original (keeps every codec)",
    )  # fmt: skip
    parser.add_argument(
        "--quality", choices=[rung.value for rung in Quality], default="auto", metavar="RUNG",
        help="auto (default), best, 2160p, 1080p, 720p, 480p, 360p or worst",
    )  # fmt: skip
    parser.add_argument("--until", choices=STAGES, default="publish", metavar="STAGE", help="the last stage to run")
    parser.add_argument("--sha256", metavar="HEX", help="the SHA-256 that the file must have (one source only)")
    parser.add_argument(
        "--header", action="append", default=[], metavar="'K: V'|@FILE",
        help="request header for the source's own origin; repeatable; kept secret. Other users of this machine can "
        "see one that is typed: @FILE reads them from a file, one a line, and @- from standard input",
    )  # fmt: skip
    parser.add_argument(
        "--mirror", action="append", default=[], metavar="URL",
        help="another link to the same file (one source only); repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--allow-gaps",
        action="store_true",
        help="publish an incomplete result of a playlist; the report lists what is missing",
    )
    parser.add_argument(
        "--duration", type=_parse_seconds, metavar="TIME", help="how long to record a live source: 90, 90s, 45m, 1h30m"
    )
    parser.add_argument("--refresh", action="store_true", help="do everything again, also what is already done")
    parser.add_argument(
        "--resume", nargs="?", const="", metavar="RUN",
        help="resume a run that was cut short: the one whose id begins so, or the latest (ids: python -m flows.runs)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", dest="as_json", help="one JSON document on stdout")
    parser.add_argument("--verbose", action="store_true", help="show Prefect's own log as well")
    return parser


def check_arguments(words: argparse.Namespace) -> Command:
    """Everything that can be wrong before work starts, in the order in which it was typed.

    Raises:
        BadInput, UnsupportedSource: something is.
    """
    settings = Settings.load()
    _clear_old_secrets(settings)
    if words.resume is not None:
        return _resume_command(words, settings)
    _read_standard_input(words)
    if not words.sources:
        raise BadInput("There is no source: give a link or the path of a file")
    for flag, value in (("--sha256", words.sha256), ("--mirror", words.mirror)):
        if value and len(words.sources) > 1:
            raise BadInput(f"{flag} is for one source")
    headers = check_headers(_headers_of(words))
    check_sha256(words.sha256)
    sources, missing = _separate_missing_files(words.sources)
    # All of them first: a secret is stored only for a request that is good.
    check_headers_for(headers, [check_url(source) for source in sources])
    output_dir = _require_folders(words.output_dir, settings.store.home)
    home = Home(settings.store.home)
    mirrors = [check_mirror(mirror) for mirror in words.mirror]
    requests = [
        request_for(source, sha256=words.sha256, headers=headers, home=home, mirrors=mirrors) for source in sources
    ]
    return Command(
        requests=tuple(requests),
        profile=ProfileName(words.profile),
        quality=Quality(words.quality),
        output_dir=output_dir,
        until=words.until,
        refresh=words.refresh,
        wish=Wish(allow_gaps=words.allow_gaps, duration_seconds=words.duration),
        as_json=words.as_json,
        verbose=words.verbose,
        settings=settings,
        missing=missing,
        advice=tuple(filter(None, (advice_on_file(given) for given in words.header if given.startswith("@")))),
    )


def _separate_missing_files(sources: Sequence[str]) -> tuple[list[str], tuple[Missing, ...]]:
    """The sources without the paths at which there is no file, and those: one typing error holds no others up.

    Raises:
        BadInput, UnsupportedSource: one of them is wrong in another way, or there is no other.
    """
    present, missing = [], []
    for place, source in enumerate(sources):
        try:
            check_url(source)
        except BadInput as error:
            if not _is_missing_file(error):
                raise
            missing.append(Missing(place, redact_url(source), error))
        else:
            present.append(source)
    if missing and not present:
        raise missing[0].error
    return present, tuple(missing)


def _read_standard_input(words: argparse.Namespace) -> None:
    """Put the links that `-` stands for into its place.

    Raises:
        BadInput, UnsupportedSource: a line is none.
    """
    uses = words.sources.count(STANDARD_INPUT) + words.header.count(f"@{STANDARD_INPUT}")
    if uses > 1:
        raise BadInput("Standard input can be read once: give one - or one --header @-")
    if STANDARD_INPUT in words.sources:
        place = words.sources.index(STANDARD_INPUT)
        words.sources[place : place + 1] = read_links(check_url, _is_missing_file)


def _is_missing_file(error: UsageError) -> bool:
    """Whether all that is wrong with a source is that there is no file at its path."""
    return isinstance(error.__cause__, FileNotFoundError | NotADirectoryError)


def _headers_of(words: argparse.Namespace) -> list[str]:
    """The headers as lines, those in files among them."""
    return [
        line
        for given in words.header
        for line in (read_headers(given, check_headers) if given.startswith("@") else [given])
    ]


def _resume_command(words: argparse.Namespace, settings: Settings) -> Command:
    """The command that a run which was cut short came from.

    Raises:
        BadInput: there is none, or its link had secrets that are not kept any more.
    """
    given = [flag for flag, usual in _TOLD_BY_THE_RUN.items() if getattr(words, flag) != usual]
    if given:
        names = ", ".join("a source" if flag == "sources" else f"--{flag.replace('_', '-')}" for flag in given)
        raise BadInput(f"--resume knows what the run was asked for: leave out {names}")
    from flows.resume import request_of

    wanted = request_of(settings, words.resume)
    requests = tuple(SourceRequest(**parameters) for parameters in wanted.get("sources", [wanted.get("source")]))
    home = Home(settings.store.home)
    for request in requests:
        if request.secret is not None:
            source_of(request, home)
    return Command(
        requests=requests,
        profile=ProfileName(wanted["profile"]),
        quality=Quality(wanted["quality"]),
        output_dir=_require_folders(Path(wanted["output_dir"]), settings.store.home),
        until=wanted["until"],
        refresh=words.refresh,
        wish=Wish.model_validate(wanted.get("wish", {})),
        as_json=words.as_json,
        verbose=words.verbose,
        settings=settings,
    )


def _parse_seconds(text: str) -> float:
    """`90`, `90s`, `45m` or `1h30m` as seconds.

    Raises:
        argparse.ArgumentTypeError: it is none of these, or nothing at all.
    """
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
    seconds = (
        sum(float(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    )
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; give seconds, or for example 45m or 1h30m")
    return seconds


def _clear_old_secrets(settings: Settings) -> None:
    """Remove the secrets of commands that were killed, but for those of runs that may be resumed."""
    folder = Home(settings.store.home).secrets
    if not any(folder.glob("*.json")):
        return
    from flows.resume import secrets_in_use

    now = datetime.now(UTC)  # before anybody is asked: what is written meanwhile stays
    with contextlib.suppress(LedgerUnavailable):  # nobody can tell who needs what: another command sweeps
        needed = secrets_in_use(settings)
        SecretFiles(folder).sweep(needed, older_than=settings.recovery.resume_within, now=now)


def _require_folders(output_dir: Path, home: Path) -> Path:
    """The output folder, made and proven like the home; should the home be bad, nothing new is left.

    Raises:
        BadInput: one of them cannot be created or written.
    """
    wanted = expand_home(output_dir).absolute()
    require_possible(wanted, "The output folder")
    if any(0xD800 <= ord(character) < 0xE000 for character in str(wanted)):
        raise BadInput("The output folder's name is no text in this locale; try LC_ALL=C.UTF-8")
    new = [folder for folder in (wanted, *wanted.parents) if not folder.exists()]
    proven = require_output(output_dir, Home(home))
    try:
        with contextlib.suppress(OSError):  # said in the next line
            Home(home).make()
        require_writable(home, "TIDEGATE_HOME")
    except BadInput:
        for folder in new:
            folder.rmdir()
        raise
    return proven

"""Every regular expression that meets what servers and tools wrote, with long texts that are made to be hard.

`test_patterns` runs it as a child. Nobody can interrupt a regular expression, so each gets processor time from the
kernel, which ends this process where that is used up; the last line printed says at which it was.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import re
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import tidegate.redact
import tidegate.transfer
from tests.transfer.hard_texts import ENDS, FUNCTIONS, hard_texts

SECONDS_OF_A_KILOBYTE = 0.03
"""Of the processor, for one expression and each 1,000 characters of a text: linear work takes a hundredth of it, and
quadratic work on 30,000 characters twice as much."""
ONLY_MATCHED = frozenset({"tidegate.transfer.verify._PLAYLISTS[3]"})
"""Tried at the beginning of a text alone; anywhere else they would take long."""


def patterns() -> Iterator[tuple[str, re.Pattern[Any]]]:
    """All that stand in modules, by name."""
    names = [one.name for one in pkgutil.walk_packages(tidegate.transfer.__path__, "tidegate.transfer.")]
    for module in [importlib.import_module(name) for name in names if not name.endswith("_child")] + [tidegate.redact]:
        for name, value in vars(module).items():
            found = value if isinstance(value, tuple) else (value,)
            flat = [one for inner in found for one in (inner if isinstance(inner, tuple) else (inner,))]
            for number, one in enumerate(flat):
                if isinstance(one, re.Pattern):
                    yield f"{module.__name__}.{name}[{number}]", one


def try_out(name: str, number: int, seconds: float, work: Callable[[], object]) -> None:
    print(name, number, flush=True)
    signal.setitimer(signal.ITIMER_PROF, seconds)  # nobody handles SIGPROF: it ends us
    with contextlib.suppress(Exception):  # only time counts here
        work()
    signal.setitimer(signal.ITIMER_PROF, 0)


def meet(pattern: re.Pattern[Any], searched: bool, text: str) -> None:
    subject: Any = text.encode() if isinstance(pattern.pattern, bytes) else text
    pattern.match(subject)
    pattern.fullmatch(subject)
    if searched:
        sum(1 for _ in pattern.finditer(subject))


def main(size: int, only: str = "") -> None:
    seconds, ends = SECONDS_OF_A_KILOBYTE * size / 1000, ENDS if size >= 100_000 else ENDS[1:]
    for name, pattern in patterns():
        source = pattern.pattern.decode() if isinstance(pattern.pattern, bytes) else pattern.pattern
        for number, text in enumerate(hard_texts(source, size, ends) if only in name else ()):
            try_out(name, number, seconds, partial(meet, pattern, name not in ONLY_MATCHED, text))
    for name, function in FUNCTIONS.items():
        for number, text in enumerate(hard_texts("", size, ends) if only in name else ()):
            try_out(name, number, seconds, partial(function, text))
    print("done", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])

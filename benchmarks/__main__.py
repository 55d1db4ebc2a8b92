"""`make bench`: every benchmark, as one table; exits with 1 when a goal is missed."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version

from benchmarks import chunked, command_start, confined, ledger, redone, supervised_ffmpeg, verification
from benchmarks.figures import FIGURES_HEADER
from benchmarks.pairs import HEADER


def main() -> int:
    python, prefect = platform.python_version(), version("prefect")
    print(f"Python {python}, Prefect {prefect}, {platform.system()} {platform.machine()}\n")
    print(HEADER, flush=True)
    met = True
    for module in (supervised_ffmpeg, confined, chunked, verification, command_start, ledger):
        for pairs in module.results():
            print(pairs.row(), flush=True)
            met = met and pairs.met
    print(f"\n{FIGURES_HEADER}", flush=True)
    for source in (supervised_ffmpeg, ledger, redone, chunked):
        for figure in source.figures():
            print(figure.row(), flush=True)
            met = met and figure.met
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

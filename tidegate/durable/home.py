"""Where things lie under TIDEGATE_HOME (DESIGN §2).

Stages and tasks ask it for paths and never build one themselves. Scratch is resumable and may be lost at any time;
assets and results are what checkpoints stand on.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path, PurePath

from tidegate.durable.clearing import allocated

OWN_FOLDERS = frozenset({"assets", "results", "scratch", "secrets", "logs", "prefect"})
"""Folders of a home that are nobody else's: no source lies in them, and nothing is published there."""
OWN_FILES = ("ledger.", "serve.", "server.")
"""How the names of its files begin, those that a database makes beside itself among them."""


def is_own(path: Path, home: Path) -> bool:
    """Whether Tidegate keeps a path for itself: the home, the files that lie directly in it, and its own folders.

    Both are real paths. Letters count as equal whatever their case: on some file systems they are.
    """
    below = PurePath(str(path).casefold())
    if not below.is_relative_to(str(home).casefold()):
        return False
    parts = below.relative_to(str(home).casefold()).parts
    return not parts or parts[0] in OWN_FOLDERS or parts[0].startswith((".", *OWN_FILES))


@dataclass(frozen=True)
class Home:
    """The folder layout; nothing is created before it is needed."""

    root: Path

    def is_in_use(self) -> bool:
        """Whether runs have worked here: nobody else makes such folders."""
        return self.ledger.is_file() or (self.results.is_dir() and (self.root / "scratch").is_dir())

    @property
    def ledger(self) -> Path:
        """The database of attempts, unless the settings name another."""
        return self.root / "ledger.db"

    @property
    def assets(self) -> Path:
        """Content-addressed, immutable."""
        return self.root / "assets"

    @property
    def results(self) -> Path:
        """Prefect's persisted stage results."""
        return self.root / "results"

    @property
    def secrets(self) -> Path:
        """One 0600 file a run that was given secrets."""
        return self.root / "secrets"

    def scratch_of(self, work_key: str) -> Path:
        """Everything that one piece of work has in scratch."""
        return self.root / "scratch" / work_key

    def scratch(self, work_key: str, rendition: str) -> Path:
        """Parts, journals and partial outputs of one rendition; created here."""
        folder = self.scratch_of(work_key) / rendition
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def scratch_bytes(self, work_key: str) -> int:
        """Bytes on disk of what a piece of work has in scratch."""
        files = self.scratch_of(work_key).rglob("*")
        return sum(allocated(path.lstat()) for path in files if path.is_file())

    def lock(self, work_key: str) -> Path:
        """The lock file of one piece of work, for as long as a run holds it."""
        return self.root / "scratch" / f"{work_key}.lock"

    def clear_scratch(self, work_key: str) -> None:
        """Forget what a finished piece of work no longer needs."""
        shutil.rmtree(self.scratch_of(work_key), ignore_errors=True)

"""Where things lie under TIDEGATE_HOME (DESIGN §2).

Stages and tasks ask it for paths and never build one themselves. Scratch is resumable and may be lost at any time;
assets and results are what checkpoints stand on. All of it is its owner's alone (`private.py`); what is published lies
beside the home, as the umask says.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from tidegate.durable import private
from tidegate.durable.clearing import disk_bytes

PRIVATE_FOLDERS = ("assets", "results", "secrets", "scratch", "logs", "servers", "door", "prefect", "temporary")
PRIVATE_FILES = ("ledger.*", "server.*", "serve.*", "*.log", "*.lock")
"""What lies in the home itself and is nobody else's: no source lies there, and nothing is published there. With `*` as
the shell has it."""
DEFAULT_OUTPUT = "media"
"""The output folder of runs that name none."""


def is_own(path: Path, home: Path) -> bool:
    """Whether Tidegate keeps a path for itself: the home, the files that lie directly in it, and its own folders.

    Both are real paths. Letters count as equal whatever their case: on some file systems they are.
    """
    below = PurePath(str(path).casefold())
    if not below.is_relative_to(str(home).casefold()):
        return False
    parts = below.relative_to(str(home).casefold()).parts
    return not parts or any(fnmatchcase(parts[0], name) for name in (".*", *PRIVATE_FOLDERS, *PRIVATE_FILES))


@dataclass(frozen=True)
class Home:
    """The folder layout; nothing is created before it is needed."""

    root: Path

    def make(self) -> None:
        """The home itself; its parents, which other things lie in too, are as the umask says.

        Raises:
            OSError: it cannot be made.
        """
        self.root.parent.mkdir(parents=True, exist_ok=True)
        self.root.mkdir(mode=private.FOLDER, exist_ok=True)

    def make_way_to(self, output: Path) -> None:
        """Before a new output folder is made within the home: let others through to it, as far as the umask does, but
        not look around. One that is there already has its owner's word on who may read it.

        Raises:
            OSError: the home cannot be made or changed.
        """
        if self.root not in output.parents or output.exists():
            return
        self.make()
        mode = self.root.stat().st_mode & 0o7777
        through = mode | (0o011 & ~private.umask())
        if through != mode:
            self.root.chmod(through)

    def outputs(self, output_dir: Path, base: Path | None) -> Path:
        """Where a run publishes whose output folder is `output_dir`: relative to `base`, else to a folder beside the
        home. Within the home where an earlier version made that folder there, and where the home is a volume of its
        own: beside that lies another one."""
        if base is not None:
            return base.expanduser() / output_dir
        first = self.root / (output_dir.parts[0] if output_dir.parts else "")
        stays = not self.is_private(first) and os.path.isdir(first)  # noqa: PTH112  # a name that no disk can have is none
        if stays or os.path.ismount(self.root):
            return self.root / output_dir
        return self.root.with_name(f"{self.root.name}-output") / output_dir

    def is_private(self, path: Path) -> bool:
        """Whether a file or folder in the home, or the home itself, is nobody else's business."""
        return is_own(path, self.root)

    def parts(self) -> Iterator[Path]:
        """The private folders and files that are there."""
        for name in (*PRIVATE_FOLDERS, *PRIVATE_FILES):
            yield from sorted(self.root.glob(name))

    def is_in_use(self) -> bool:
        """Whether runs have worked here: nobody else makes such folders."""
        return self.ledger.is_file() or (self.results.is_dir() and (self.root / "scratch").is_dir())

    @property
    def ledger(self) -> Path:
        """Attempts, leases, published folders; where no server keeps them."""
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
        private.make_folder(folder)
        return folder

    def scratch_bytes(self, work_key: str) -> int:
        """Bytes on disk of what a piece of work has in scratch."""
        files = self.scratch_of(work_key).rglob("*")
        return sum(disk_bytes(path.lstat()) for path in files if path.is_file())

    def lock(self, work_key: str) -> Path:
        """The lock file of one piece of work, for as long as a run holds it."""
        return self.root / "scratch" / f"{work_key}.lock"

    def clear_scratch(self, work_key: str) -> None:
        """Forget what a finished piece of work no longer needs."""
        shutil.rmtree(self.scratch_of(work_key), ignore_errors=True)

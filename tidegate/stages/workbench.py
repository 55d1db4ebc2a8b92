"""What every stage needs at hand: settings, folders, tools, and somebody to tell.

Flows and library users make one per run and pass it to the stages. It opens nothing and holds no state.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from tidegate.durable.home import Home
from tidegate.durable.roots import Roots
from tidegate.durable.store import AssetStore
from tidegate.errors import DiskFull
from tidegate.events import Observer, ignore_events
from tidegate.media.ffmpeg import Toolchain
from tidegate.settings import Settings
from tidegate.stages.executor import Executor
from tidegate.transfer.gates.gates import Gates

SPARE_BYTES = 16 * 1024 * 1024
"""What must stay free beyond the bytes that a stage is about to write, for journals and reports."""


@dataclass(frozen=True)
class Workbench:
    """The settings, the folders, the tools and the listeners of one run."""

    settings: Settings
    observe: Observer = field(default=ignore_events)
    fence: Callable[[], AbstractContextManager[None]] = field(default=nullcontext)
    """Held for the moment in which results become visible, in the thread that makes them so. Entering it raises
    `Superseded` or `LeaseLost` when another attempt has taken this work over; while it is held, none can."""

    gates: Gates = field(default=None)  # type: ignore[assignment]  # set below, and never None
    """Every request to the outside goes through them; the flows give them the ledger. By default they know the settings
    and no ledger."""

    executor: Executor | None = None
    """Who encodes the chunks of a transcode; None: this host, as its settings say."""

    roots: Roots | None = None
    """Which folders of this host the run may use; None: whatever its user may. See `durable.roots`."""

    def __post_init__(self) -> None:
        if self.gates is None:
            gates = Gates(self.settings.gate, addresses=self.settings.network.addresses)
            object.__setattr__(self, "gates", gates)

    @property
    def home(self) -> Home:
        return Home(self.settings.store.home)

    @property
    def store(self) -> AssetStore:
        return AssetStore(self.home.assets)

    def toolchain(self) -> Toolchain:
        """The tools, looked up when a stage first needs them: a run that finds its checkpoints needs none.

        Raises:
            ToolMissing: there is no ffmpeg.
        """
        return Toolchain.find(self.settings.tools)

    def require_publishable(self, folder: Path) -> None:
        """Whether results may be published into this folder. Blocking.

        Raises:
            PathRefused: this run may not.
        """
        if self.roots is not None:
            self.roots.require_writable(folder)

    def require_space(self, folder: Path, wanted_bytes: int) -> None:
        """Fail before work starts rather than at its end.

        Raises:
            DiskFull: the volume of `folder` cannot take `wanted_bytes` more.
        """
        free = shutil.disk_usage(folder).free
        if free < wanted_bytes + SPARE_BYTES:
            raise DiskFull(f"{wanted_bytes} bytes are needed on the volume of {folder}, {free} are free")

"""A workbench in a home of its own, and real sources that went through the download stage."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import anyio
import pytest
from pydantic import SecretStr

from tests.support.clips import clip
from tidegate import stages
from tidegate.model import DownloadResult, ProbeResult, Source
from tidegate.settings import Settings, StoreSettings
from tidegate.stages import Workbench
from tidegate.transfer.resolvers.base import WHOLE_FILE

Downloaded = Callable[[Path], DownloadResult]
Made = Callable[..., DownloadResult]


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """Shared by all tests here: assets are immutable, and scratch is kept apart by work key."""
    return Workbench(Settings(store=StoreSettings(home=tmp_path_factory.mktemp("home"))))


@pytest.fixture(scope="session")
def downloaded(bench: Workbench) -> Downloaded:
    """A file of this host, through the real download stage."""

    async def run(path: Path) -> DownloadResult:
        source = Source(url=SecretStr(path.as_uri()))
        identity, _ = await stages.identify(bench, source)
        probe = ProbeResult(
            identity=identity, resolver="local", renditions=(WHOLE_FILE,), preview=None, recorded_at=datetime.now(UTC)
        )
        return await stages.download(bench, source, probe, WHOLE_FILE, identity.key)

    return lambda path: anyio.run(run, path)


@pytest.fixture(scope="session")
def made(clips: Path, downloaded: Downloaded) -> Made:
    """A clip by the name of its recipe, downloaded once."""

    @cache
    def make(name: str, seconds: float = 2) -> DownloadResult:
        return downloaded(clip(clips, name, seconds=seconds))

    return make

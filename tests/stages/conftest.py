"""A workbench in a home of its own, and real sources that went through the download stage."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path

import anyio
import imageio_ffmpeg
import pytest
from pydantic import SecretStr

from tests.support.clips import clip
from tidegate import stages
from tidegate.events import ignore_events
from tidegate.media.inspect import inspect
from tidegate.model import DownloadResult, MediaInfo, ProbeResult, ProfileName, Quality, RemuxResult, Source
from tidegate.settings import ProcessSettings, Settings, StoreSettings
from tidegate.stages import Workbench, remux
from tidegate.transfer.resolvers.base import WHOLE_FILE

Downloaded = Callable[[Path], DownloadResult]
Made = Callable[..., DownloadResult]
Cook = Callable[..., Path]
"""Makes a file of this name with these words for ffmpeg."""
Ingest = Callable[..., tuple[RemuxResult, MediaInfo]]
"""The result of the real stages for a file, and what a probe of its own sees in it."""


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


@pytest.fixture
def cook(tmp_path: Path) -> Cook:
    """A file of this name, made by ffmpeg with these words."""

    def make(name: str, *words: str) -> Path:
        path = tmp_path / name
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *words, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return path

    return make


@pytest.fixture
def ingest(bench: Workbench, downloaded: Downloaded, request: pytest.FixtureRequest) -> Ingest:
    """The result of the real stages, and what a probe of its own sees in it."""

    def run(
        path: Path, profile: ProfileName = ProfileName.UNIVERSAL, quality: Quality = Quality.AUTO
    ) -> tuple[RemuxResult, MediaInfo]:
        source = downloaded(path)
        result = anyio.run(remux, bench, source, profile, quality, f"faithful-{abs(hash(request.node.name))}")
        return result, look(bench.store.path(result.asset, result.asset.main))

    return run


def look(path: Path) -> MediaInfo:
    job = partial(inspect, path, "packets", ProcessSettings(), 60.0, stage="probe", observe=ignore_events)
    return anyio.run(job)


def lost(result: RemuxResult) -> set[str]:
    return {entry.what for entry in result.not_carried}

"""Hardware encoders: used when asked for and working, and replaced by libx264 when not.

No machine of ours has one, so a script lends libx264 the name of NVIDIA's; that it is tried by a real encode, what it
is told, and what happens when it fails, is real.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from tests.stages.conftest import Downloaded
from tests.support.fake_tool import allow
from tests.support.films import film, shown
from tidegate.events import Event, Note
from tidegate.media.ffmpeg import Toolchain
from tidegate.model import DownloadResult, ProfileName, Quality, RemuxResult
from tidegate.settings import ProcessSettings, Settings, StoreSettings, ToolSettings
from tidegate.stages import Workbench, remux
from tidegate.stages.encoders import HARDWARE

pytestmark = pytest.mark.ci


LENT = r"""#!/bin/bash
real="{real}"
args=()
skip=""
hardware=""
for word in "$@"; do
  [ "$word" = h264_nvenc ] && hardware=yes
done
[ -n "$hardware" ] || exec "$real" "$@"
echo x >> "{folder}/calls"
{spoil}
for word in "$@"; do
  if [ -n "$skip" ]; then skip=""; continue; fi
  case "$word" in
    -rc|-cq|-b:v|-preset) skip=yes;;
    h264_nvenc) args+=(libx264 -preset ultrafast -threads 1);;
    *) args+=("$word");;
  esac
done
exec "$real" "${{args[@]}}"
"""
ON_THE_FILM = 'case "$*" in *lavfi*) ;; *) echo "[error] OpenEncodeSessionEx failed: out of memory" >&2; exit 1;; esac'


@pytest.fixture(scope="module")
def source(clips: Path, downloaded: Downloaded) -> DownloadResult:
    return downloaded(film(clips, "closed GOP, no sound"))


@pytest.fixture
def transcoded(bench: Workbench, source: DownloadResult, tmp_path: Path) -> Callable[..., tuple[RemuxResult, str]]:
    """The result, and what was said on the way."""

    def run(encoder: str, spoil: str | None = None, chunk_seconds: float = 4) -> tuple[RemuxResult, str]:
        told: list[Event] = []
        tools = ToolSettings(encoder=encoder, threads=2, ffmpeg=lent(tmp_path, spoil) if spoil is not None else None)  # type: ignore[arg-type]
        settings = Settings(
            store=StoreSettings(home=bench.settings.store.home),
            process=ProcessSettings(chunk_seconds=chunk_seconds),  # type: ignore[arg-type]
            tools=tools,
        )
        result = anyio.run(
            remux, Workbench(settings, told.append), source, ProfileName.UNIVERSAL, Quality.AUTO, tmp_path.name
        )
        return result, " ".join(event.message for event in told if isinstance(event, Note))

    return run


def lent(folder: Path, spoil: str) -> str:
    path = folder / "ffmpeg"
    path.write_text(LENT.format(real=Toolchain.find(ToolSettings()).ffmpeg, folder=folder, spoil=spoil))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    allow(folder)
    return str(path)


@pytest.mark.parametrize("chunk_seconds", [4, 0], ids=["in chunks", "whole"])
@pytest.mark.parametrize("asked", ["nvenc", "auto"])
def test_an_encoder_that_works_is_used(
    asked: str, chunk_seconds: float, transcoded: Callable[..., tuple[RemuxResult, str]], tmp_path: Path
) -> None:
    result, _ = transcoded(asked, "", chunk_seconds)
    assert result.chunks is not None
    assert result.chunks.encoder == "h264_nvenc"
    pieces = result.chunks.planned or 1
    assert len((tmp_path / "calls").read_text().split()) == 1 + pieces


@pytest.mark.parametrize("asked", ["nvenc", "vaapi", "qsv", "videotoolbox", "v4l2m2m"])
def test_an_encoder_that_is_not_there_is_replaced_and_told(
    asked: str, transcoded: Callable[..., tuple[RemuxResult, str]]
) -> None:
    result, told = transcoded(asked)
    assert result.chunks is not None
    assert result.chunks.encoder == "libx264"
    assert f"{HARDWARE[asked].name} does not work here" in told


def test_an_encoder_that_fails_on_the_film_is_replaced_and_told(
    transcoded: Callable[..., tuple[RemuxResult, str]], bench: Workbench, source: DownloadResult
) -> None:
    result, told = transcoded("nvenc", ON_THE_FILM)
    assert result.chunks is not None
    assert result.chunks.encoder == "libx264"
    assert "h264_nvenc failed; libx264 is used instead" in told
    assert len(shown(bench.store.path(result.asset))) == len(shown(bench.store.path(source.asset)))


def test_hardware_is_told_nothing_that_only_libx264_knows() -> None:
    words = [
        "-c:v",
        "libx264",
        "-preset",
        "x",
        "-crf",
        "20",
        "-threads",
        "2",
        "-x264-params",
        "a=b",
        "-vf",
        "scale=2:2",
    ]
    for encoder in HARDWARE.values():
        applied = encoder.adapt(words)
        assert "-crf" not in applied and "-x264-params" not in applied
        assert applied[applied.index("-vf") + 1] == f"scale=2:2{encoder.upload}"

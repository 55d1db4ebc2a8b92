"""The files beside the video: subtitles as files of their own, pictures that the container does not take.

The remux stage asks once the film is whole; it publishes without what cannot be made, and says so. They are written in
scratch and enter the store with the film, so a crash leaves nothing that could be taken for a result.
"""

from __future__ import annotations

from pathlib import Path

from tidegate.errors import Extra, RefusedByMuxer, TidegateError
from tidegate.events import ignore_events
from tidegate.media.ffmpeg import Toolchain, base_arguments, file_url, run_ffmpeg
from tidegate.model import Decision, DownloadResult, Finding, Sidecar
from tidegate.resilience.deadline import process_seconds
from tidegate.stages.recipes import offsets_seconds, sidecar_arguments
from tidegate.stages.workbench import Workbench


async def make_sidecars(
    bench: Workbench,
    toolchain: Toolchain,
    source: DownloadResult,
    rung: Decision,
    folder: Path,
    memory_cap_bytes: int | None,
) -> tuple[dict[str, Path], tuple[Finding, ...]]:
    """The files beside the video, and what could not be made: the film is whole without them.

    All in one reading; only where that fails, each on its own.
    """
    try:
        return await _write(bench, toolchain, source, rung.sidecars, folder, memory_cap_bytes), ()
    except TidegateError as error:
        if Extra.SIDECAR not in error.policy.goes_without:
            raise
    paths: dict[str, Path] = {}
    lost: list[Finding] = []
    for sidecar in rung.sidecars:
        try:
            paths |= await _write(bench, toolchain, source, (sidecar,), folder, memory_cap_bytes)
        except TidegateError as error:
            if Extra.SIDECAR not in error.policy.goes_without:
                raise
            message = f"{sidecar.name} could not be made: {error.message}"
            lost.append(Finding(code="sidecar_lost", message=message))
    return paths, tuple(lost)


async def _write(
    bench: Workbench,
    toolchain: Toolchain,
    source: DownloadResult,
    sidecars: tuple[Sidecar, ...],
    folder: Path,
    memory_cap_bytes: int | None,
) -> dict[str, Path]:
    paths = {sidecar.name: folder / sidecar.name for sidecar in sidecars}
    if not paths:
        return paths
    limits = bench.settings.process
    originals = [bench.store.path(source.asset, track) for track in source.asset.tracks]
    words = base_arguments(toolchain.ffmpeg, *originals, offsets_seconds=offsets_seconds(source.media))
    for sidecar in sidecars:
        words += [*sidecar_arguments(sidecar, source.media), file_url(paths[sidecar.name])]
    await run_ffmpeg(
        words,
        stage="remux",
        limits=limits,
        deadline_seconds=process_seconds(limits, source.asset.size_bytes),
        media_seconds=None,
        observe=ignore_events,
        outputs=tuple(paths.values()),
        memory_cap_bytes=memory_cap_bytes,
    )
    for name, path in paths.items():
        if not path.exists() or not path.stat().st_size:
            raise RefusedByMuxer(f"ffmpeg wrote nothing into {name}")
    return paths

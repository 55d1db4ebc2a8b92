"""Stage `analyze`: every detector and the pictures, in one decode pass over the output.

A detector that fails is reported as not run, with the reason; the others stand. Pictures are made in scratch and
enter the store as one asset, so a crash leaves nothing half-made.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from tidegate.durable.children import own_name
from tidegate.durable.threads import in_thread
from tidegate.errors import Extra, TidegateError
from tidegate.events import Note
from tidegate.media.ffmpeg import Toolchain, base_arguments, file_url, run_ffmpeg
from tidegate.model import AnalysisResult, Asset, Detection, MediaInfo, RemuxResult
from tidegate.resilience.deadline import process_seconds
from tidegate.resilience.quality import RUNGS, rung_of
from tidegate.stages.detectors import DETECTORS, Detector, line_filter
from tidegate.stages.host import cap_bytes_of
from tidegate.stages.workbench import Workbench

RECIPE = 2
"""Raise it when the same media would give another analysis: old checkpoints are then not believed."""

CONTACT_SHEET = "contact-sheet.jpg"
WAVEFORM = "waveform.png"
SHEET_COLUMNS, SHEET_ROWS = 4, 3
TILE_WIDTH = 320
WAVEFORM_SIZE = "1280x160"
WAVE_COLOR = "0x3b82f6"
MOST_CHANNELS_DRAWN = 32


async def analyze(bench: Workbench, media: RemuxResult, key: str) -> AnalysisResult:
    """Look at the output. `key` is the work key.

    Raises:
        StalledProcess, ProcessTimeout, DiskFull …: the pass could not run at all; what a single detector cannot do
            is part of the result.
    """
    one_pass = _DecodePass(bench, bench.toolchain(), media, bench.home.scratch(key, own_name("pictures")))
    fitting = tuple(d for d in DETECTORS if media.media.of_kind(d.kind))
    try:
        detections = await one_pass.run(fitting, pictures=True)
    except TidegateError as error:
        if Extra.DETECTOR not in error.policy.goes_without:
            raise
        bench.observe(Note(f"analyze: {error.message}; asking each detector on its own", "warning"))
        detections = await one_pass.one_by_one(fitting)
    missing = [
        Detection(detector=d.name, state="not_applicable", reason=f"there is no {d.kind}")
        for d in DETECTORS
        if d not in fitting
    ]
    return AnalysisResult(
        asset=await in_thread(one_pass.store_pictures),
        detections=(*detections, *missing),
        recorded_at=datetime.now(UTC),
    )


class _DecodePass:
    """One run of ffmpeg over the media, with any number of detectors."""

    def __init__(self, bench: Workbench, toolchain: Toolchain, media: RemuxResult, folder: Path) -> None:
        self._bench = bench
        self._toolchain = toolchain
        self._asset = media.asset
        self._media: MediaInfo = media.media
        self._length = media.media.length_seconds or 0.0
        self._folder = folder
        self._rung = rung_of(media.aim.rung) if media.aim else RUNGS[0]

    async def run(self, detectors: tuple[Detector, ...], *, pictures: bool) -> list[Detection]:
        lines: list[str] = []
        wanted = line_filter(detectors)
        limits = self._bench.settings.process
        await run_ffmpeg(
            [
                *base_arguments(self._toolchain.ffmpeg, self._bench.store.path(self._asset)),
                *self._graph(detectors, pictures=pictures),
            ],
            stage="analyze",
            limits=limits,
            deadline_seconds=process_seconds(limits, self._asset.main.size_bytes, self._rung.timeout_factor),
            media_seconds=self._length,
            observe=self._bench.observe,
            on_stderr=lambda line: lines.append(line) if wanted(line) else None,
            memory_cap_bytes=cap_bytes_of(self._rung),
        )
        return [detector.detection(lines, self._length) for detector in detectors]

    async def one_by_one(self, detectors: tuple[Detector, ...]) -> list[Detection]:
        """Slower, but one broken filter costs only itself: neither the other detectors nor the pictures."""
        found = [await self._alone(detector) for detector in detectors]
        try:
            await self.run((), pictures=True)
        except TidegateError as error:
            if Extra.DETECTOR not in error.policy.goes_without:
                raise
        return found

    def store_pictures(self) -> Asset | None:
        """What of the pictures there is."""
        files = {name: self._folder / name for name in (CONTACT_SHEET, WAVEFORM)}
        there = {name: path for name, path in files.items() if path.exists() and path.stat().st_size}
        return self._bench.store.put(there) if there else None

    async def _alone(self, detector: Detector) -> Detection:
        try:
            return (await self.run((detector,), pictures=False))[0]
        except TidegateError as error:
            if Extra.DETECTOR not in error.policy.goes_without:
                raise
            return Detection(detector=detector.name, state="not_run", reason=error.message)

    def _graph(self, detectors: tuple[Detector, ...], *, pictures: bool) -> list[str]:
        """One filter graph for picture and sound. What is looked at only for its lines goes nowhere."""
        branches = [
            *self._branch("video", "split", "null", detectors, self._sheet() if pictures else None),
            *self._branch("audio", "asplit", "anull", detectors, self._waveform() if pictures else None),
        ]
        words = [word for _, outputs in branches for word in outputs]
        return ["-filter_complex", ";".join(chain for chain, _ in branches), *words]

    def _branch(
        self, kind: str, split: str, nothing: str, detectors: tuple[Detector, ...], drawn: tuple[str, str] | None
    ) -> list[tuple[str, list[str]]]:
        """(filter chain, its outputs) for one kind of stream: the detectors in a row, the picture beside them."""
        stream = next(iter(self._media.of_kind(kind)), None)
        looks = ",".join(d.filter for d in detectors if d.kind == kind)
        if stream is None or not (looks or drawn):
            return []
        seen = ["-map", f"[{kind}_seen]", "-f", "null", "-"]
        if drawn is None:
            return [(f"[0:{stream.index}]{looks}[{kind}_seen]", seen)]
        filters, name = drawn
        picture = ["-map", f"[{kind}_drawn]", "-frames:v", "1", "-update", "1", file_url(self._folder / name)]
        chain = f"[0:{stream.index}]{split}=2[{kind}_a][{kind}_b]"
        return [
            (f"{chain};[{kind}_a]{looks or nothing}[{kind}_seen]", seen),
            (f"[{kind}_b]{filters}[{kind}_drawn]", picture),
        ]

    def _sheet(self) -> tuple[str, str]:
        tiles = SHEET_COLUMNS * SHEET_ROWS
        rate = tiles / self._length if self._length else 1
        # In the shape in which the film is shown, and in the colours that a JPEG is taken to have (JFIF: BT.601, full).
        size = f"{TILE_WIDTH}:trunc({TILE_WIDTH}/dar/2)*2:out_color_matrix=bt601:out_range=pc"
        drawn = f"fps={rate:.9f},scale={size},setsar=1,format=yuvj420p,tile={SHEET_COLUMNS}x{SHEET_ROWS}"
        return drawn, CONTACT_SHEET

    def _waveform(self) -> tuple[str, str]:
        """All channels over each other: their sum would be silence where two are in opposite phase."""
        colors = "|".join([WAVE_COLOR] * MOST_CHANNELS_DRAWN)
        return f"showwavespic=s={WAVEFORM_SIZE}:scale=sqrt:colors={colors}", WAVEFORM

"""Which H.264 encoder a transcode uses: libx264, or the hardware's where somebody asks for it and it works.

The remux stage asks before it transcodes. Hardware is believed only after a real encode, a fifth of a second long; one
that fails later, on the film itself, is replaced by libx264. Nothing here touches a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tidegate.errors import TidegateError
from tidegate.events import Note
from tidegate.media.ffmpeg import Toolchain, global_arguments
from tidegate.process.supervise import Job, run
from tidegate.stages.workbench import Workbench

TRIAL_SECONDS = 20.0
"""How long a driver may take to encode five pictures."""
OF_LIBX264 = frozenset({"-preset", "-crf", "-profile:v", "-profile:v:0", "-threads", "-threads:v:0", "-x264-params"})
"""Options, each with a value, that other encoders do not have or read otherwise."""


@dataclass(frozen=True)
class Encoder:
    """One of them, by ffmpeg's name."""

    name: str
    options: tuple[str, ...] = ()
    """What gives about the quality of libx264 with the CRF of `recipes.py`."""
    device: tuple[str, ...] = ()
    """What ffmpeg must be told before all else."""
    upload: str = ""
    """What the picture goes through last."""

    def adapt(self, words: Sequence[str]) -> list[str]:
        """The words of a command for libx264, as this encoder takes them."""
        if self is SOFTWARE:
            return list(words)
        kept: list[str] = []
        rest = iter(words)
        for word in rest:
            if word in OF_LIBX264:
                next(rest)
            elif word == "libx264":
                kept += [self.name, *self.options]
            elif word in ("-vf", "-filter:v:0"):
                kept += [word, next(rest) + self.upload]
            else:
                kept.append(word)
        return kept

    def with_device(self, argv: Sequence[str]) -> list[str]:
        """The command with what this encoder must be told before all else."""
        return [argv[0], *self.device, *argv[1:]]


SOFTWARE = Encoder("libx264")
HARDWARE: dict[str, Encoder] = {
    "nvenc": Encoder("h264_nvenc", ("-preset", "p4", "-rc", "vbr", "-cq", "21", "-b:v", "0", "-profile:v", "high")),
    "vaapi": Encoder(
        "h264_vaapi",
        ("-qp", "21", "-profile:v", "high"),
        device=("-vaapi_device", "/dev/dri/renderD128"),
        upload=",format=nv12,hwupload",
    ),
    "qsv": Encoder("h264_qsv", ("-global_quality", "21", "-profile:v", "high"), upload=",format=nv12"),
    "videotoolbox": Encoder("h264_videotoolbox", ("-q:v", "65", "-profile:v", "high")),
    "v4l2m2m": Encoder("h264_v4l2m2m", ("-b:v", "6M")),
}


async def encoder_for(bench: Workbench, toolchain: Toolchain) -> Encoder:
    """The one that was asked for, or of `auto` the first, if it works here; else libx264, and a note says so."""
    wanted = bench.settings.tools.encoder
    if wanted == "software":
        return SOFTWARE
    for name, encoder in HARDWARE.items():
        if wanted in ("auto", name) and await _works(bench, toolchain, encoder):
            bench.observe(Note(f"transcode: with {encoder.name}"))
            return encoder
    why = "no hardware encoder works" if wanted == "auto" else f"{HARDWARE[wanted].name} does not work"
    bench.observe(Note(f"transcode: {why} here; with libx264", "info" if wanted == "auto" else "warning"))
    return SOFTWARE


async def _works(bench: Workbench, toolchain: Toolchain, encoder: Encoder) -> bool:
    """Whether it encodes five grey pictures."""
    trial = ("-vf", "format=yuv420p", "-c:v", "libx264")
    picture = ("-f", "lavfi", "-i", "color=gray:size=256x144:rate=25:duration=0.2")
    words = [*global_arguments(toolchain.ffmpeg), *picture, *encoder.adapt(trial), "-f", "null", "-"]
    try:
        result = await run(Job("ffmpeg", encoder.with_device(words), TRIAL_SECONDS), bench.settings.process)
    except TidegateError:
        return False
    return result.exit_code == 0

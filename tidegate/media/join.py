"""Files that follow each other in time, as one, without encoding.

The download stage asks when a rendition came in pieces that have headers of their own. The result appears under its
name only when it is complete; after a crash it is made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tidegate.durable.atomic import sync_file
from tidegate.errors import from_os_error
from tidegate.events import ignore_events
from tidegate.media.ffmpeg import Toolchain, file_url, global_arguments, input_restrictions, run_ffmpeg
from tidegate.resilience.deadline import process_seconds
from tidegate.settings import ProcessSettings


async def join(toolchain: Toolchain, files: Sequence[Path], target: Path, limits: ProcessSettings) -> Path:
    """`target`, a Matroska file with all packets of `files`, one after the other; all lie in its folder.

    Raises:
        TidegateError: ffmpeg refuses them, or whatever `supervise.run` raises.
    """
    size = sum(file.stat().st_size for file in files)
    concat_file, partial = target.with_suffix(".ffconcat"), target.with_suffix(".partial")
    try:
        concat_file.write_text(concat_list(files))
        await run_ffmpeg(
            [
                *global_arguments(toolchain.ffmpeg),
                *input_restrictions("concat"),
                *("-f", "concat", "-safe", "0", "-i", file_url(concat_file)),
                *("-map", "0", "-c", "copy", "-fflags", "+bitexact", "-f", "matroska", file_url(partial)),
            ],
            stage="download",
            limits=limits,
            deadline_seconds=process_seconds(limits, size),
            media_seconds=None,
            observe=ignore_events,
            outputs=(partial,),
            listed=tuple(files),
        )
        sync_file(partial)
        return partial.replace(target)
    except OSError as error:
        raise from_os_error(error, "joining the download's pieces", target) from error
    finally:
        concat_file.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)


def concat_list(files: Sequence[Path], lengths_us: Sequence[int] = ()) -> str:
    """ffconcat's own syntax; quotes inside a name are closed, escaped and opened again. Each file begins where the one
    before it is said to end, in microseconds, or else where it ends by its own account."""
    lines = ["ffconcat version 1.0"]
    for number, file in enumerate(files):
        name = str(file.absolute()).replace("'", "'\\''")
        lines.append(f"file 'file:{name}'")
        if lengths_us:
            lines.append(f"duration {lengths_us[number] / 1e6:.6f}")
    return "\n".join(lines) + "\n"

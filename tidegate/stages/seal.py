"""The seal of a published folder: by what a later run knows the folder that it would publish as its own.

Publishing puts it into `<slug>.meta.json` before the folder is swapped in, and looks for it before it makes another
one. A crash between the swap and the record of it leaves a folder whose seal is whole; a folder that somebody edited
or damaged has a broken one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tidegate.durable.hashing import blake3_of
from tidegate.durable.store import holds
from tidegate.model import Track, Value, fingerprint


class Seal(Value):
    """What a folder was made from, and what is in it."""

    inputs: str
    """Fingerprint of everything that the folder depends on."""
    tracks: tuple[Track, ...]
    """Every file but the sealed one itself, the media first."""
    content: str
    """Fingerprint of the sealed file without its seal."""


def add_seal(content: dict[str, Any], inputs: str, tracks: tuple[Track, ...]) -> dict[str, Any]:
    """The JSON document `content` with a seal."""
    seal = Seal(inputs=inputs, tracks=tracks, content=fingerprint(content))
    return {**content, "seal": seal.model_dump(mode="json")}


def verify_seal(sealed_file: Path, inputs: str) -> tuple[Track, ...] | None:
    """The tracks of the folder that `sealed_file` stands in, itself the last, if they are exactly those that were made
    from `inputs`. Reads them all."""
    try:
        content = json.loads(sealed_file.read_bytes())
        seal = Seal.model_validate(content.pop("seal"))
        itself = track_of(sealed_file)
    except (OSError, ValueError, TypeError, AttributeError, KeyError):  # missing, torn, or nobody's
        return None
    made_of_these = (seal.inputs, seal.content) == (inputs, fingerprint(content))
    folder = sealed_file.parent
    if made_of_these and all(holds(folder / track.name, track) for track in seal.tracks):
        return (*seal.tracks, itself)
    return None


def track_of(path: Path) -> Track:
    """The file as a track."""
    return Track(name=path.name, size_bytes=path.stat().st_size, digest=blake3_of(path))

"""Ctrl-C while a film is hashed or stored: the thread that reads it hears, and the command ends within seconds.

The film is a small clip with hundreds of sparse gigabytes behind it, and its download stands where a run that was
killed would have left it: reading what is there would take minutes.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import anyio
import psutil
import pytest
from pydantic import SecretStr

from tests.support.aftermath import end_of, left_running, unfinished_files, wait_in
from tests.support.clips import clip
from tests.support.command import Command
from tidegate.durable.home import Home
from tidegate.durable.store import AssetStore
from tidegate.model import Asset, ProfileName, Quality, Source, Track
from tidegate.settings import TransferSettings
from tidegate.stages import work_key
from tidegate.stages.download import NOTE, AssetNote
from tidegate.transfer.file.part import Part
from tidegate.transfer.file.pieces import Spans
from tidegate.transfer.resolvers.base import WHOLE_FILE
from tidegate.transfer.resolvers.local import LocalExchange

GB = 1000**3
ROOM = "20t"
"""What the volume of these tests says it has: a run is admitted only where there is room for its film."""
READ_BYTES = GB // 2
"""How much the command has read when it is stopped: far beyond what it looks at before it hashes."""
SOON = 30.0
"""Seconds that the whole command may take to end, Prefect's part of it and a busy machine included."""

STOPS = [
    pytest.param(False, 100 * GB, signal.SIGINT, 130, id="checking what came-Ctrl-C"),
    pytest.param(False, 100 * GB, signal.SIGTERM, 143, id="checking what came-SIGTERM", marks=pytest.mark.slow),
    pytest.param(True, 2000 * GB, signal.SIGINT, 130, id="checking what was stored-Ctrl-C", marks=pytest.mark.slow),
    pytest.param(True, 2000 * GB, signal.SIGTERM, 143, id="checking what was stored-SIGTERM"),
]


@pytest.fixture
def roomy(command: Command, tmp_path: Path) -> Iterator[Command]:
    """The command on a volume that could hold the film; skips visibly where none may be made."""
    volume = tmp_path / "room"
    volume.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tidegate-test", str(volume)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a tmpfs of any size needs root and the right to mount")
    (volume / "home").mkdir()
    try:
        yield replace(command, home=volume / "home", output=volume / "out")
    finally:
        subprocess.run(["umount", "-l", str(volume)], check=True)


def huge(path: Path, small: Path, size: int) -> Path:
    """The clip with an empty box behind it that reaches to `size`; it takes no space."""
    begin = small.read_bytes()
    path.write_bytes(begin + struct.pack(">I4sQ", 1, b"free", size - len(begin)))
    with path.open("r+b") as file:
        file.truncate(size)
    return path


def received(command: Command, film: Path, *, stored: bool) -> None:
    """Leave what a run leaves that was killed when all bytes were there, or when it had just stored them."""
    home = Home(command.home / "tidegate")
    identity = anyio.run(LocalExchange(Source(url=SecretStr(film.as_uri()))).identify)
    folder = home.scratch(work_key(identity, ProfileName.UNIVERSAL, Quality.AUTO), WHOLE_FILE.id)
    part = Part.open(folder, identity, TransferSettings())
    part.write(film.open("rb").read(1024 * 1024), now=0.0)
    with part.path.open("r+b") as file:
        file.truncate(film.stat().st_size)
    part.spans = Spans.of([(0, film.stat().st_size)])
    part.finish(end_is_certain=True)
    if stored:
        track = Track(name="source", size_bytes=film.stat().st_size, digest="blake3:" + "0" * 64)
        asset = Asset(address="blake3:" + "0" * 64, tracks=(track,))
        note = AssetNote(identity=identity.key, asset=asset, end_is_certain=True, noted_at=datetime.now(UTC))
        (folder / NOTE).write_text(note.model_dump_json())
        path = AssetStore(home.assets).path(asset)
        path.parent.mkdir(parents=True)
        part.path.rename(path)
    part.close()


@pytest.mark.parametrize(("stored", "size", "number", "code"), STOPS)
def test_a_run_that_is_stopped_while_it_reads_a_big_film_ends_soon(
    stored: bool, size: int, number: signal.Signals, code: int, roomy: Command, clips: Path
) -> None:
    film = huge(roomy.home / "film.mp4", clip(clips), size)
    received(roomy, film, stored=stored)
    with roomy.started(str(film), "--sha256", "0" * 64) as process:
        reading = psutil.Process(process.pid)
        wait_in(process, lambda: reading.io_counters().read_chars > READ_BYTES)
        began = time.monotonic()
        process.send_signal(number)
        ended = end_of(process, seconds=120)
    assert (ended.code, ended.document["status"]) == (code, "interrupted"), ended.stderr
    assert ended.document["stages"]["download"]["state"] == "interrupted"
    assert time.monotonic() - began < SOON
    assert left_running(roomy) == [] and unfinished_files(roomy) == []

"""The content-addressed asset store: what a checkpoint names and a later run must find whole.

Stages put files in and take paths out; checkpoints are believed only after `whole` said yes. An asset appears under
its address by one rename of a synced folder, so after a crash it is there whole or not at all; a damaged one is
replaced by the next `put` of the same content.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from tidegate.durable import private
from tidegate.durable.atomic import swap_in, sync_file, sync_folder
from tidegate.durable.crash_points import crash_point
from tidegate.durable.hashing import blake3_of
from tidegate.durable.last_used import touch
from tidegate.durable.unfinished import clear_leftovers, prepare_folder
from tidegate.errors import from_os_error
from tidegate.model import Asset, Digest, Track

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class AssetStore:
    """Assets below one folder: `root/<2 hex>/<address>/{manifest.json, tracks…}`."""

    root: Path

    def put(self, files: dict[str, Path]) -> Asset:
        """Move files into the store as one asset; the first is the main track. Blocking: call it in a thread.

        The files must lie on the store's volume, which must know hard links.

        Raises:
            DiskFull, PermissionRefused, StoreUnavailable: the operating system refused.
        """
        asset = describe(files)
        self.place(asset, files)
        return asset

    def place(self, asset: Asset, files: dict[str, Path]) -> None:
        """Move the files of an asset that `describe` made into its place; raises as `put` does."""
        try:
            self._place(asset, files)
        except OSError as error:
            raise from_os_error(error, "storing an asset", self.root) from error

    def folder(self, asset: Asset) -> Path:
        """Where the asset lies, or would lie."""
        name = asset.address.partition(":")[2]
        return self.root / name[:2] / name

    def path(self, asset: Asset, track: Track | None = None) -> Path:
        """The path of a track; of the main one by default."""
        return self.folder(asset) / (track or asset.main).name

    def whole(self, asset: Asset) -> bool:
        """Whether every track is there, byte for byte. Blocking: it reads them all. To ask is to use it."""
        touch(self.folder(asset))
        return all(holds(self.folder(asset) / track.name, track) for track in asset.tracks)

    def _place(self, asset: Asset, files: dict[str, Path]) -> None:
        """The files stay where they were until the asset stands: neither a crash nor a full disk costs them."""
        target = self.folder(asset)
        private.make_folder(target.parent)
        clear_leftovers(target.parent)
        name = asset.main.name
        with prepare_folder(target) as prepared:
            crash_point("store {}: begun", name)
            manifest = prepared / MANIFEST
            with open(manifest, "w", opener=private.opener) as file:
                file.write(json.dumps([track.model_dump() for track in asset.tracks], indent=1))
            sync_file(manifest)
            for track, path in files.items():
                sync_file(path)
                (prepared / track).hardlink_to(path)
            sync_folder(prepared)
            crash_point("store {}: prepared", name)
            if not (target.exists() and self.whole(asset)):
                swap_in(prepared, target)
            else:
                sync_folder(target.parent)  # whoever put it there may not have come so far
        crash_point("store {}: in place", name)
        for track, path in files.items():
            private.seal(target / track)
            path.unlink()
        crash_point("store {}: moved", name)


def describe(files: dict[str, Path], known: dict[str, Digest] | None = None) -> Asset:
    """The asset that these files would be. `known` gives BLAKE3 digests that were computed already.

    Raises:
        StoreUnavailable: a file cannot be read.
    """
    known = known or {}
    try:
        tracks = tuple(_track(name, path, known.get(name)) for name, path in files.items())
    except OSError as error:
        raise from_os_error(error, "hashing an asset", next(iter(files.values()), "")) from error
    return Asset(address=_address(tracks), tracks=tracks)


def holds(path: Path, track: Track) -> bool:
    """Whether the file at `path` is the track, by size and then by digest."""
    try:
        return path.stat().st_size == track.size_bytes and blake3_of(path) == track.digest
    except OSError:
        return False


def _track(name: str, path: Path, digest: Digest | None) -> Track:
    return Track(name=name, size_bytes=path.stat().st_size, digest=digest or blake3_of(path))


def _address(tracks: tuple[Track, ...]) -> Digest:
    listing = json.dumps([[track.name, track.size_bytes, track.digest] for track in tracks])
    return f"blake3:{blake3(listing.encode()).hexdigest()}"

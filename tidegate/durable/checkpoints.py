"""Which of a run's recorded stage results still stand, as far as a quick look tells.

Recovery asks, to say where a run will go on. It compares sizes only: before a stage's result is believed, the run
itself reads its asset whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from tidegate.durable.home import Home
from tidegate.durable.store import AssetStore
from tidegate.model import Asset


def find_valid_stages(home: Home, records: Mapping[str, str]) -> tuple[str, ...]:
    """The stages, of those whose `records` are named, whose record can be read and whose assets are there. Blocking."""
    return tuple(stage for stage, name in records.items() if _is_valid(home, name))


def _is_valid(home: Home, name: str) -> bool:
    try:
        result = json.loads(json.loads((home.results / name).read_bytes())["result"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    store = AssetStore(home.assets)
    return all(_is_there(store, asset) for asset in _assets_in(result))


def _is_there(store: AssetStore, asset: Asset) -> bool:
    try:
        return all((store.folder(asset) / track.name).stat().st_size == track.size_bytes for track in asset.tracks)
    except OSError:
        return False


def _assets_in(value: Any) -> Iterator[Asset]:
    """Every asset that a result names, at any depth."""
    if isinstance(value, dict):
        if {"address", "tracks"} <= value.keys():
            try:
                yield Asset.model_validate(value)
            except ValidationError:
                return
        for inner in value.values():
            yield from _assets_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _assets_in(inner)

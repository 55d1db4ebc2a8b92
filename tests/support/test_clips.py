"""The clips: every recipe gives a file that decodes, once, and the bulk clip is as large as asked."""

from pathlib import Path

import av
import pytest

from tests.support import clips


@pytest.mark.parametrize("name", clips.RECIPES)
def test_every_recipe_decodes(name: str, tmp_path: Path) -> None:
    made = clips.clip(tmp_path, name, seconds=2)
    with av.open(str(made)) as container:
        stream = container.streams.best("video") or container.streams.best("audio")
        assert stream is not None
        assert sum(1 for _ in container.decode(stream)) >= 50
    assert list(tmp_path.iterdir()) == [made]


def test_a_clip_is_made_once_for_each_recipe(tmp_path: Path) -> None:
    first = clips.clip(tmp_path, seconds=1)
    made = first.stat().st_mtime_ns
    assert clips.clip(tmp_path, seconds=1) == first
    assert first.stat().st_mtime_ns == made
    assert clips.clip(tmp_path, seconds=2) != first


def test_a_cut_clip_is_its_beginning(tmp_path: Path) -> None:
    whole = clips.clip(tmp_path, seconds=1)
    part = clips.cut(whole, 0.4)
    assert part.suffix == ".mp4"
    assert part.read_bytes() == whole.read_bytes()[: int(whole.stat().st_size * 0.4)]


def test_a_bulk_clip_is_large_enough_and_has_its_index_first(tmp_path: Path) -> None:
    bulk = clips.bulk_clip(tmp_path, 20_000_000)
    assert 20_000_000 <= bulk.stat().st_size < 30_000_000
    with bulk.open("rb") as file:
        assert b"moov" in file.read(64)

"""What maintenance may take: never what somebody needs, the oldest first, no more than it must, and it heals."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.durable.test_crash import crashes
from tests.support.aftermath import made_now
from tests.support.clips import clip
from tests.support.command import Command
from tests.support.leaks import leftovers
from tests.support.origin import Origin
from tidegate.durable.clearing import NotRemoved, RemovalRefusal, Removed, Stamp
from tidegate.durable.home import Home
from tidegate.durable.inventory import (
    Inventory,
    Leftover,
    Report,
    Scratch,
    StoredAsset,
    StoredResult,
    Weight,
    assets_named_in,
    assets_used_since,
    inventory,
)
from tidegate.durable.last_used import touch
from tidegate.durable.lock import acquire
from tidegate.durable.space import (
    BEYOND_THE_FLOOR,
    SETTLED,
    PlannedRemoval,
    RemovalReason,
    clear,
    free_bytes,
    unmet,
    what_may_go,
)
from tidegate.durable.store import AssetStore, holds
from tidegate.durable.unfinished import prepare_folder
from tidegate.errors import LedgerUnavailable
from tidegate.events import Event, Note, ignore_events
from tidegate.model import Asset
from tidegate.settings import SpaceSettings
from tidegate.stages.download import NOTE, AssetNote

NOW = datetime.now(UTC).replace(microsecond=0)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
KEY, OTHER = "0" * 32, "1" * 32
PLENTY = 10**15
"""Bytes free on a disk that nobody has to worry about."""
KEEP_ALL = SpaceSettings()
NO_SPACE = SpaceSettings(free_bytes=PLENTY)
ASSET_BYTES = 64 * 1024


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


# --- looking ----------------------------------------------------------------------------------------


def test_an_empty_home_is_no_trouble(home: Home) -> None:
    home.root.mkdir()
    found = inventory(home)
    assert (found.assets, found.scratch, found.records, found.leftovers, found.notes) == ((), (), (), (), ())
    assert what_may_go(found, NO_SPACE, frozenset(), frozenset(), 0, NOW) == ()
    assert free_bytes(home) == pytest.approx(shutil.disk_usage(home.root).free, abs=10**9)


def test_an_asset_is_found_with_its_size_its_tracks_and_its_last_use(home: Home) -> None:
    asset = stored(home, "film", used=3 * DAY)
    [found] = inventory(home).assets
    assert (found.address, found.tracks, found.last_used) == (asset.address, asset.tracks, NOW - 3 * DAY)
    assert ASSET_BYTES <= found.weight.bytes <= ASSET_BYTES + 16 * 1024


def test_an_asset_that_is_touched_was_used_just_now(home: Home) -> None:
    asset = stored(home, "film", used=3 * DAY)
    touch(AssetStore(home.assets).folder(asset))
    [found] = inventory(home).assets
    assert datetime.now(UTC) - found.last_used < MINUTE
    assert assets_used_since(inventory(home), NOW - HOUR) == {asset.address}
    touch(home.assets / "ff" / "nothing")  # and nobody has to ask first whether it is there


def test_a_record_names_its_asset_and_its_own_age(home: Home) -> None:
    asset = stored(home, "film")
    name = recorded(home, "download", asset, made=40 * DAY)
    os.utime(home.results / name)  # copied to another disk
    found = inventory(home)
    [record] = found.records
    assert record.names == {asset.address} and record.made == NOW - 40 * DAY
    assert (
        assets_named_in(found, [name]) == {asset.address} and assets_named_in(found, ["probe-r1-0.json"]) == frozenset()
    )


def test_links_are_not_followed_and_nothing_is_concluded_from_what_they_hide(home: Home, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    behind_a_shard, behind_a_link = stored(home, "one", used=DAY), stored(home, "two", used=DAY)
    recorded(home, "download", stored(home, "three"))
    for asset in (behind_a_shard, behind_a_link):
        recorded(home, "download", asset, made=40 * DAY)
    folder = AssetStore(home.assets).folder(behind_a_link)
    move_and_link(folder, elsewhere / "asset")
    move_and_link(AssetStore(home.assets).folder(behind_a_shard).parent, elsewhere / "shard")
    (home.root / "scratch").mkdir()
    (home.root / "scratch" / KEY).symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    found = inventory(home)
    assert len(found.assets) == 1 and found.scratch == ()
    planned = what_may_go(found, NO_SPACE, frozenset(), frozenset(), 0, NOW)
    assert [one.why for one in planned] == [RemovalReason.FLOOR, RemovalReason.ASSET_GONE]
    clear(home, planned, nobody, ignore_events)
    assert sorted(elsewhere.rglob("*")) == before
    assert len(list(home.results.iterdir())) == 2, "their checkpoints stand: the assets are there, behind links"


def test_a_store_whose_disk_is_away_costs_no_checkpoint(home: Home) -> None:
    """A dangling link or an empty mount point: if the records went, the assets would be nobody's when it is back."""
    recorded(home, "download", stored(home, "film", used=40 * DAY), made=20 * DAY)
    away = home.root / "away"
    home.assets.rename(away)
    home.assets.symlink_to("/nonexistent")
    found = inventory(home)
    assert found.notes and not found.assets_seen
    assert may_go(home, NO_SPACE, now=NOW + 100 * DAY) == []
    home.assets.unlink()
    home.assets.mkdir()
    assert may_go(home, NO_SPACE) == []
    home.assets.rmdir()
    away.rename(home.assets)
    assert may_go(home) == []


def test_results_whose_disk_is_away_cost_no_asset(home: Home) -> None:
    stored(home, "film", used=20 * DAY)
    assert may_go(home) == [], "with no record at all, only age speaks"
    assert may_go(home, now=NOW + 11 * DAY) == [RemovalReason.UNNAMED]
    home.results.symlink_to("/nonexistent")
    assert may_go(home, now=NOW + 11 * DAY) == []


def test_whatever_stands_in_the_place_of_a_report_keeps_nobody_waiting(home: Home, tmp_path: Path) -> None:
    home.root.mkdir()
    for name, make in {
        "pipe": os.mkfifo,
        "torn": lambda path: path.write_text('{"status": "comp'),
        "list": lambda path: path.write_text("[]"),
        "folder": lambda path: path.mkdir(),
        "deep": lambda path: path.write_text("[" * 100_000),
    }.items():
        (tmp_path / name).mkdir()
        make(tmp_path / name / "report.json")  # type: ignore[operator]
    folders = [tmp_path / name for name in ("pipe", "torn", "list", "folder", "deep", "missing")]
    found = inventory(home, folders)
    assert found.reports == () and len(found.notes) == 5


# --- scratch and leftovers --------------------------------------------------------------------------


def test_scratch_goes_when_nothing_in_it_changed_for_its_age(home: Home) -> None:
    scratch(home, KEY, changed=7 * DAY + MINUTE)
    scratch(home, OTHER, changed=7 * DAY + MINUTE)
    (home.root / "scratch" / OTHER / "source" / "source.part").write_bytes(b"one more byte")
    assert paths_to_go(home) == [f"scratch/{KEY}"]
    assert paths_to_go(home, now=NOW - 2 * MINUTE) == []


def test_scratch_of_a_live_run_never_goes(home: Home) -> None:
    scratch(home, KEY, changed=400 * DAY)
    partial(home, KEY, changed=400 * DAY)
    assert paths_to_go(home, NO_SPACE, live={KEY}) == []


def test_half_made_things_go_after_an_hour_and_what_can_be_resumed_stays(home: Home) -> None:
    scratch(home, KEY, changed=2 * HOUR)
    partial(home, KEY, changed=2 * HOUR)
    partial(home, OTHER, changed=HOUR - MINUTE)
    asset = stored(home, "film")
    for path in (
        home.assets / asset.address[7:9] / f".{asset.address[7:]}.0123abcd.tmp" / "source",
        home.results / f".download-r1-{KEY}.json.0123abcd.tmp",
        home.root / "scratch" / f".{KEY}.0123abcd.tmp" / "source.part",
        home.root / "scratch" / KEY / "source" / ".source.journal.0123abcd.tmp",
        home.root / "scratch" / f"{KEY}.lock",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        age(path.parent if path.parent.suffix == ".tmp" else path, 2 * HOUR)
        age(path, 2 * HOUR)
    planned = paths_to_go(home)
    assert len(planned) == 6 and f"scratch/{KEY}/output/media.mp4.partial" in planned
    assert cleared(home) == 6
    assert leftovers(home.root, ("*.tmp", "*.lock")) == []
    assert leftovers(home.root, ("*.partial",)) == [Path("scratch", OTHER, "output", "media.mp4.partial")]
    assert (home.root / "scratch" / KEY / "source" / "source.part").exists()
    assert AssetStore(home.assets).whole(asset)


def test_an_asset_that_takes_more_than_an_hour_to_store_is_left_alone(home: Home) -> None:
    target = home.assets / "ab" / ("ab" + "0" * 62)
    target.parent.mkdir(parents=True)
    with prepare_folder(target) as folder:
        age(folder, 2 * HOUR)
        assert len(paths_to_go(home)) == 1 and cleared(home) == 0
        assert folder.exists()


def test_a_lock_that_is_held_stays(home: Home) -> None:
    lock = home.lock(KEY)
    lock.parent.mkdir(parents=True)
    handle = acquire(lock)
    age(lock, 2 * HOUR)
    scratch(home, KEY, changed=8 * DAY)
    try:
        assert cleared(home) == 0
        assert lock.exists() and (home.root / "scratch" / KEY).exists()
    finally:
        os.close(handle)
    assert cleared(home) == 2
    assert list((home.root / "scratch").iterdir()) == []


# --- assets that nobody names -----------------------------------------------------------------------


def test_an_asset_that_no_record_names_goes_after_an_hour(home: Home) -> None:
    """A crash came between storing and recording; nobody will ever ask for it."""
    recorded(home, "download", stored(home, "named", used=2 * HOUR), made=2 * HOUR)
    unnamed = stored(home, "unnamed", used=HOUR + MINUTE)
    stored(home, "just stored", used=HOUR - MINUTE)
    assert paths_to_go(home) == [path_of(unnamed)]
    assert may_go(home, live_assets={unnamed.address}) == []


def test_a_downloads_note_is_a_reference_too(home: Home) -> None:
    """The bytes moved into the store and the run died: the stage's note tells the next run where they are."""
    folder = home.scratch(KEY, "source")
    recorded(home, "probe", None)
    source = folder / "copy"
    source.write_bytes(content("film"))
    asset = AssetStore(home.assets).put({"source": source})
    note = AssetNote(identity="1", asset=asset, end_is_certain=True, noted_at=datetime.now(UTC))
    (folder / NOTE).write_text(note.model_dump_json())
    age(AssetStore(home.assets).folder(asset), DAY)
    assert may_go(home) == []
    shutil.rmtree(home.root / "scratch" / KEY)
    assert may_go(home) == [RemovalReason.UNNAMED]


# --- the quota --------------------------------------------------------------------------------------


def quota(assets: int) -> SpaceSettings:
    """Room for so many of the tests' assets."""
    return SpaceSettings(assets_bytes=assets * (ASSET_BYTES + 16 * 1024))


def test_beyond_the_quota_the_asset_used_longest_ago_goes_and_its_record_after_it(home: Home) -> None:
    old, _, new = (aged(home, f"film {n}", used=n * DAY) for n in (3, 2, 1))
    assert may_go(home, quota(3)) == []
    planned = what_may_go(inventory(home), quota(2), frozenset(), frozenset(), PLENTY, NOW)
    assert [one.why for one in planned] == [RemovalReason.QUOTA, RemovalReason.ASSET_GONE]
    assert [one.address for one in planned] == [old.address] * 2
    touch(AssetStore(home.assets).folder(old))
    assert path_of(old) not in paths_to_go(home, quota(1)), "it was used since"
    assert path_of(new) in paths_to_go(home, quota(1))


def test_the_quota_takes_nothing_that_a_checkpoint_within_its_age_names(home: Home) -> None:
    asset = stored(home, "film", used=29 * DAY)
    recorded(home, "download", asset, made=30 * DAY - MINUTE)
    least = SpaceSettings(assets_bytes=1)
    assert may_go(home, least) == []
    assert may_go(home, least, now=NOW + 2 * MINUTE) == [RemovalReason.QUOTA, RemovalReason.ASSET_GONE]


def test_the_quota_takes_nothing_that_a_live_run_stands_on_or_that_may_be_in_the_making(home: Home) -> None:
    stands_on = aged(home, "film", used=9 * DAY)
    stored(home, "in the making", used=HOUR - MINUTE)
    least = SpaceSettings(assets_bytes=1)
    assert may_go(home, least, live_assets={stands_on.address}) == []
    told = unmet(inventory(home), (), least, PLENTY)
    assert len(told) == 1 and "quota is 1" in told[0]
    assert may_go(home, least) == [RemovalReason.QUOTA, RemovalReason.ASSET_GONE]


def test_a_published_report_keeps_the_asset_that_it_leads_to_for_as_long_as_it_stands(
    home: Home, tmp_path: Path
) -> None:
    source, output = aged(home, "source"), aged(home, "output")
    folder = published(home, tmp_path / "film-00000000", source, output)
    least = SpaceSettings(assets_bytes=1, free_bytes=PLENTY)
    assert assets_to_go(home, least, [folder]) == {output.address}, "its copy was published"
    (folder / "film.mp4").unlink()
    assert assets_to_go(home, least, [folder]) == set(), "the store has the last copy"
    shutil.rmtree(folder)
    assert assets_to_go(home, least, [folder]) == {source.address, output.address}


def test_the_report_of_a_run_that_failed_keeps_nothing(home: Home, tmp_path: Path) -> None:
    source, output = aged(home, "source"), aged(home, "output")
    folder = published(home, tmp_path / "film-00000000", source, output, status="failed")
    assert assets_to_go(home, SpaceSettings(assets_bytes=1), [folder]) == {source.address, output.address}


# --- the free-space floor ---------------------------------------------------------------------------


def test_below_the_floor_idle_scratch_goes_first_then_assets_checkpoint_or_not(home: Home) -> None:
    old, new = stored(home, "old", used=2 * DAY), stored(home, "new", used=2 * HOUR)
    for asset in (old, new):
        recorded(home, "download", asset, made=2 * HOUR)
    scratch(home, KEY, changed=MINUTE)
    scratch(home, OTHER, changed=MINUTE)

    def decided(floor: int, free: int) -> list[str]:
        limits = SpaceSettings(free_bytes=floor)
        planned = what_may_go(inventory(home), limits, frozenset({OTHER}), frozenset(), free, NOW)
        return [str(one.path) for one in planned if one.path.parts[0] != "results"]

    assert decided(10**9, 10**9) == [], "not below it"
    assert decided(10**9, 10**9 - 1) == [f"scratch/{KEY}", path_of(old), path_of(new)]
    assert decided(ASSET_BYTES, ASSET_BYTES - 1) == [f"scratch/{KEY}"], "that frees a tenth more than the floor"


def test_a_floor_that_cannot_be_reached_is_told(home: Home) -> None:
    aged(home, "film")
    [told] = unmet(inventory(home), all_of(home), SpaceSettings(free_bytes=10**9), 0)
    assert "1000000000 should be" in told
    assert unmet(inventory(home), all_of(home), SpaceSettings(free_bytes=ASSET_BYTES), 0) == ()


def test_the_floor_takes_nothing_that_a_live_run_or_a_published_report_needs(home: Home, tmp_path: Path) -> None:
    live, source, output = (aged(home, name) for name in ("live", "source", "output"))
    folder = published(home, tmp_path / "film-00000000", source, output)
    found = inventory(home, [folder])
    planned = what_may_go(found, NO_SPACE, frozenset(), frozenset({live.address}), 0, NOW)
    assert {one.address for one in planned} == {output.address}


def test_bytes_that_have_two_names_count_when_both_go(home: Home) -> None:
    asset = stored(home, "film", used=2 * HOUR)
    recorded(home, "download", asset, made=2 * HOUR)
    part = home.scratch(KEY, "source") / "source.part"
    part.hardlink_to(AssetStore(home.assets).path(asset))
    planned = what_may_go(inventory(home), NO_SPACE, frozenset(), frozenset(), 0, NOW)
    by_path = {one.path.parts[0]: one.bytes for one in planned}
    assert by_path["scratch"] < ASSET_BYTES <= by_path["assets"]
    removals = clear(home, planned, nobody, ignore_events)
    assert [one.bytes for one in removals] == [one.bytes for one in planned], "the estimate is what came true"


def test_a_half_made_file_in_scratch_that_goes_as_a_whole_is_counted_once(home: Home) -> None:
    half = Leftover(Path("scratch", KEY, "output", "x.partial"), Weight(1, 90), NOW - 2 * HOUR, Stamp(0, 0), KEY)
    asset = StoredAsset(ADDRESSES[0], Path("assets", "x"), Weight(1, 10), NOW - DAY, Stamp(0, 0))
    whole = a_scratch(KEY, 2 * HOUR, weight=Weight(1, 100), names=frozenset({asset.address}))
    found = Inventory(assets=(asset,), scratch=(whole,), leftovers=(half,), volume=1)
    planned = what_may_go(found, SpaceSettings(free_bytes=98), frozenset(), frozenset(), 0, NOW)
    assert [(one.path, one.bytes) for one in planned] == [(whole.path, 100), (asset.path, 10)]


def test_scratch_on_another_volume_is_no_help_and_stays(home: Home) -> None:
    found = Inventory(scratch=(a_scratch(KEY, HOUR, volume=2),), volume=1)
    assert what_may_go(found, NO_SPACE, frozenset(), frozenset(), 0, NOW) == ()


# --- records ----------------------------------------------------------------------------------------


def test_a_record_waits_a_day_for_an_asset_that_is_gone(home: Home) -> None:
    stored(home, "another")
    gone = stored(home, "gone")
    recorded(home, "download", gone, made=DAY - MINUTE)
    shutil.rmtree(AssetStore(home.assets).folder(gone))
    assert may_go(home) == []
    assert may_go(home, now=NOW + 2 * MINUTE) == [RemovalReason.ASSET_GONE]
    shutil.rmtree(home.assets)
    home.assets.mkdir()
    assert may_go(home, now=NOW + 2 * MINUTE) == [], "an empty store may be a disk that is away"
    assert may_go(home, now=NOW + 30 * DAY) == [RemovalReason.ASSET_GONE]


@pytest.mark.parametrize("text", ["", '{"metadata": {"sto', "[]", '{"result": "{}"}', '{"result": 3}'])
def test_a_torn_record_goes_after_an_hour_and_one_that_is_being_written_stays(text: str, home: Home) -> None:
    home.results.mkdir(parents=True)
    path = home.results / f"download-r1-{KEY}.json"
    path.write_text(text)
    age(path, HOUR - MINUTE)
    assert may_go(home) == []
    assert may_go(home, now=NOW + 2 * MINUTE) == [RemovalReason.UNREADABLE]


def test_records_that_name_no_asset_go_at_the_age_of_checkpoints_unless_a_folder_stands_on_them(
    home: Home, tmp_path: Path
) -> None:
    recorded(home, "probe", None, made=29 * DAY)
    recorded(home, "publish", None, made=29 * DAY, folder=str(tmp_path))
    assert may_go(home) == []
    assert may_go(home, now=NOW + 2 * DAY) == [RemovalReason.AGED]


def test_what_is_not_ours_in_our_folders_stays(home: Home) -> None:
    for name in ("results/notes.json", "scratch/notes/x.partial", "assets/photos/one.jpg", "assets/ab/readme"):
        (home.root / name).parent.mkdir(parents=True, exist_ok=True)
        (home.root / name).write_text("{}")
        age(home.root / name, 400 * DAY)
    assert may_go(home, NO_SPACE) == []


# --- the going --------------------------------------------------------------------------------------


def test_everything_that_goes_is_told_with_its_size_and_reason(home: Home) -> None:
    aged(home, "film")
    told: list[Event] = []
    removals = clear(home, all_of(home), nobody, told.append)
    notes = [event for event in told if isinstance(event, Note)]
    assert len(notes) == len(removals) == 2 and all(isinstance(one, Removed) for one in removals)
    for note, removal in zip(notes, removals, strict=True):
        assert note.level == "info" and str(removal.path) in note.message and str(removal.bytes) in note.message
        assert note.facts == {"path": str(removal.path), "why": note.facts["why"], "bytes": removal.bytes}
    assert [note.facts["why"] for note in notes] == ["floor", "asset_gone"]
    assert notes[0].message.endswith(RemovalReason.FLOOR.value)


def test_what_somebody_has_come_to_need_meanwhile_stays(home: Home) -> None:
    asset = aged(home, "film")
    scratch(home, KEY, changed=8 * DAY)
    asked: list[PlannedRemoval] = []

    def needed(one: PlannedRemoval) -> bool:
        asked.append(one)
        return one.work_key == KEY or one.address == asset.address

    planned = all_of(home)
    removals = clear(home, planned, needed, ignore_events)
    assert len(planned) == 3 and {one.path for one in asked} == {one.path for one in planned}
    assert {removal.refusal for removal in removals if isinstance(removal, NotRemoved)} == {RemovalRefusal.NEEDED}
    assert AssetStore(home.assets).whole(asset) and (home.root / "scratch" / KEY).exists()


def test_a_run_that_claims_the_work_between_the_two_questions_keeps_its_scratch(home: Home) -> None:
    scratch(home, KEY, changed=8 * DAY)
    answers = iter([False, True])
    [removal] = clear(home, all_of(home), lambda _: next(answers), ignore_events)
    assert isinstance(removal, NotRemoved) and removal.refusal is RemovalRefusal.NEEDED
    assert (home.root / "scratch" / KEY / "source" / "source.part").exists()
    assert not home.lock(KEY).exists()


def test_when_nobody_can_tell_what_is_needed_the_rest_stays(home: Home) -> None:
    for name in ("one", "two", "three"):
        aged(home, name)
    told: list[Event] = []
    answers = iter([False, False])

    def needed(_: PlannedRemoval) -> bool:
        try:
            return next(answers)
        except StopIteration:
            raise LedgerUnavailable("The ledger does not answer") from None

    removals = clear(home, all_of(home), needed, told.append)
    assert len(removals) == 2
    assert len(inventory(home).assets) == 2
    assert isinstance(told[-1], Note) and told[-1].level == "warning" and "does not answer" in told[-1].message


def test_an_asset_that_was_used_since_it_was_looked_at_stays_and_so_does_its_record(home: Home) -> None:
    asset = aged(home, "film")
    planned = all_of(home)
    touch(AssetStore(home.assets).folder(asset))
    changed, needed = clear(home, planned, nobody, ignore_events)
    assert isinstance(changed, NotRemoved) and changed.refusal is RemovalRefusal.CHANGED
    assert isinstance(needed, NotRemoved) and needed.refusal is RemovalRefusal.NEEDED
    assert AssetStore(home.assets).whole(asset) and len(list(home.results.iterdir())) == 1


def test_a_record_whose_asset_is_back_stays(home: Home) -> None:
    stored(home, "another")
    asset = stored(home, "film")
    recorded(home, "download", asset, made=2 * DAY)
    folder = AssetStore(home.assets).folder(asset)
    folder.rename(home.root / "away")
    planned = what_may_go(inventory(home), KEEP_ALL, frozenset(), frozenset(), PLENTY, NOW)
    (home.root / "away").rename(folder)
    [removal] = clear(home, planned, nobody, ignore_events)
    assert isinstance(removal, NotRemoved) and removal.refusal is RemovalRefusal.NEEDED


def test_a_record_that_a_run_writes_anew_stays(home: Home) -> None:
    stored(home, "another")
    asset = stored(home, "film")
    name = recorded(home, "download", asset, made=2 * DAY)
    shutil.rmtree(AssetStore(home.assets).folder(asset))
    planned = what_may_go(inventory(home), KEEP_ALL, frozenset(), frozenset(), PLENTY, NOW)
    (home.results / name).write_text("{")
    [removal] = clear(home, planned, nobody, ignore_events)
    assert isinstance(removal, NotRemoved) and removal.refusal is RemovalRefusal.CHANGED


def test_a_link_in_the_place_of_a_lock_leads_nowhere(home: Home, tmp_path: Path) -> None:
    scratch(home, KEY, changed=8 * DAY)
    home.lock(KEY).symlink_to(tmp_path / "made by following")
    [removal] = clear(home, all_of(home), nobody, ignore_events)
    assert isinstance(removal, NotRemoved) and removal.refusal is RemovalRefusal.FAILED
    assert not (tmp_path / "made by following").exists()


def test_a_full_disk_is_freed(home: Home, small_volume: Path) -> None:
    home.root.mkdir()
    (home.root / "scratch").symlink_to(small_volume)
    scratch(home, KEY, changed=8 * DAY)
    with (small_volume / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    [removal] = clear(home, all_of(home), nobody, ignore_events)
    assert isinstance(removal, Removed) and removal.bytes >= 32 * 1024
    assert [path.name for path in small_volume.iterdir()] == ["ballast"]


def test_a_disk_on_which_not_even_a_lock_fits_is_freed(home: Home, small_volume: Path) -> None:
    home.root.mkdir()
    (home.root / "scratch").symlink_to(small_volume)
    scratch(home, KEY, changed=8 * DAY)
    subprocess.run(["mount", "-o", "remount,nr_inodes=16", str(small_volume)], check=True)
    with contextlib.suppress(OSError):
        for number in range(17):
            (small_volume / str(number)).touch()
    with pytest.raises(OSError, match="No space"):
        home.lock(KEY).touch()
    [removal] = clear(home, all_of(home), nobody, ignore_events)
    assert isinstance(removal, Removed)
    assert not (small_volume / KEY).exists()


def test_clearing_may_die_anywhere_and_the_next_look_does_the_rest(home: Home) -> None:
    """Between two steps there is a `.tmp` folder, or a record whose asset is gone; no stage believes either."""
    stored(home, "another", used=timedelta())
    planned: list[PlannedRemoval] = []

    def prepare() -> None:
        look_again(home)
        scratch(home, KEY, changed=8 * DAY)
        aged(home, "film", used=9 * DAY)
        planned[:] = [one for one in all_of(home) if one.last_used is None or one.last_used < NOW - DAY]
        assert len(planned) == 3

    seen = set()
    for _ in crashes(lambda: clear(home, planned, nobody, ignore_events) and None, prepare):
        found = inventory(home)
        films = [asset for asset in found.assets if asset.last_used < NOW - DAY]
        assert all(asset.tracks and is_whole(home, asset) for asset in films), "half of an asset under its address"
        seen.add((len(found.scratch), len(films), len(found.records)))
    assert seen == {(1, 1, 1), (0, 1, 1), (0, 0, 1), (0, 0, 0)}, "scratch, then the asset, then its record"


def look_again(home: Home) -> None:
    """What later looks do, and that they leave nothing."""
    for _ in range(2):
        found = inventory(home)
        later = NOW + 2 * DAY
        there = frozenset(asset.address for asset in found.assets if asset.last_used > NOW - DAY)
        clear(home, what_may_go(found, NO_SPACE, frozenset(), there, 0, later), nobody, ignore_events)
    found = inventory(home)
    assert (len(found.assets), found.scratch, found.records, found.leftovers) == (1, (), (), ())
    assert leftovers(home.root, ("*.tmp", "*.lock")) == []


# --- through the real flow --------------------------------------------------------------------------


def test_what_a_real_run_left_is_understood_and_what_is_taken_from_it_is_made_again(
    command: Command, clips: Path
) -> None:
    home = Home(command.home / "tidegate")
    with Origin({"film.mp4": clip(clips)}) as origin:
        assert command.run(origin.url("film.mp4")).code == 0
        [folder] = command.published()
        video = (folder / "film.mp4").read_bytes()

        found = inventory(home, [folder])
        assert len(found.assets) == 3 and found.leftovers == () and found.scratch == () and found.notes == ()
        names = {record.path.name.partition("-")[0]: record for record in found.records}
        assert set(names) == {"probe", "download", "remux", "analyze", "publish"}
        assert all(record.readable for record in found.records) and names["publish"].stands
        by_track = {asset.tracks[0].name: asset.address for asset in found.assets}
        assert names["download"].names == {by_track["source"]} and names["remux"].names == {by_track["media.mp4"]}
        assert names["analyze"].names <= set(by_track.values()) and not names["probe"].names
        [report] = found.reports
        assert report.names == {by_track["source"]} and not report.digests

        # As a crash between the two would have it: the asset is gone, and its record is not.
        planned = what_may_go(found, NO_SPACE, frozenset(), frozenset(), 0, datetime.now(UTC))
        [asset] = [one for one in planned if one.address == by_track["media.mp4"] and one.why is RemovalReason.FLOOR]
        assert isinstance(clear(home, [asset], nobody, ignore_events)[0], Removed)
        again = command.run(origin.url("film.mp4"))
        assert again.code == 0 and made_now(again) == ["remux"], again.stderr

        shutil.rmtree(folder)
        found = inventory(home, [folder])
        planned = what_may_go(found, NO_SPACE, frozenset(), frozenset(), 0, datetime.now(UTC))
        assert len(planned) == 6
        assert all(isinstance(one, Removed) for one in clear(home, planned, nobody, ignore_events))
        assert inventory(home).assets == ()
        again = command.run(origin.url("film.mp4"))
        assert again.code == 0 and "download" in made_now(again), again.stderr
    assert (folder / "film.mp4").read_bytes() == video


# --- any inventory ----------------------------------------------------------------------------------

ADDRESSES = [f"blake3:{n:02x}" + "e" * 62 for n in range(8)]
AGES = st.sampled_from([timedelta(), SETTLED - MINUTE, SETTLED + MINUTE, 2 * DAY, 8 * DAY, 29 * DAY, 31 * DAY])
some_addresses = st.frozensets(st.sampled_from(ADDRESSES), max_size=3)


def a_weight(volume: int = 1) -> st.SearchStrategy[Weight]:
    shared = st.lists(st.tuples(st.integers(1, 3), st.just(1), st.just(2), st.just(50)), max_size=1).map(tuple)
    return st.builds(Weight, st.just(volume), st.integers(1, 100), shared)


def a_scratch(key: str, changed: timedelta, *, volume: int = 1, weight: Weight | None = None, **facts: Any) -> Scratch:
    return Scratch(key, Path("scratch", key), weight or Weight(volume, 10), NOW - changed, Stamp(0, 0), **facts)


@st.composite
def inventories(draw: st.DrawFn) -> Inventory:
    addresses = draw(st.lists(st.sampled_from(ADDRESSES), unique=True))
    keys = draw(st.lists(st.sampled_from([KEY, OTHER, "2" * 32]), unique=True))
    leftover = st.sampled_from([("scratch", KEY, "x.partial"), ("scratch", OTHER, "x.partial"), ("results", ".x.tmp")])
    return Inventory(
        assets=tuple(
            StoredAsset(
                address, Path("assets", address[7:9], address[7:]), draw(a_weight()), NOW - draw(AGES), Stamp(n, n)
            )
            for n, address in enumerate(addresses)
        ),
        scratch=tuple(
            a_scratch(key, draw(AGES), weight=draw(a_weight(draw(st.sampled_from([1, 2])))), names=draw(some_addresses))
            for key in keys
        ),
        records=tuple(
            StoredResult(
                Path("results", f"download-r1-{n:032x}.json"),
                Weight(1, 4),
                NOW - draw(AGES),
                Stamp(n, n),
                draw(some_addresses),
                readable=draw(st.booleans()),
            )
            for n in range(draw(st.integers(0, 6)))
        ),
        leftovers=tuple(
            Leftover(
                Path(*parts), Weight(1, 5), NOW - draw(AGES), Stamp(0, 0), parts[1] if parts[0] == "scratch" else None
            )
            for parts in draw(st.lists(leftover, unique=True))
        ),
        reports=tuple(
            Report(Path("/out", str(n)), draw(some_addresses)) for n in range(draw(st.integers(0, 2)))
        ),
        volume=1,
        assets_seen=draw(st.booleans()) or bool(addresses),
        records_seen=draw(st.booleans()),
    )  # fmt: skip


@given(
    found=inventories(),
    live=st.frozensets(st.sampled_from([KEY, OTHER])),
    live_assets=some_addresses,
    assets_bytes=st.none() | st.integers(1, 400),
    floor=st.integers(0, 400),
    free=st.integers(0, 400),
)
@settings(max_examples=400, deadline=None)
def test_no_decision_ever_takes_what_is_needed_or_more_than_it_must(
    found: Inventory, live: frozenset[str], live_assets: frozenset[str], assets_bytes: int | None, floor: int, free: int
) -> None:
    limits = SpaceSettings(assets_bytes=assets_bytes, free_bytes=floor)
    planned = what_may_go(found, limits, live, live_assets, free, NOW)
    assets = {asset.path: asset for asset in found.assets}
    going = [assets[one.path] for one in planned if one.path in assets]
    gone = {asset.address for asset in going}
    named = frozenset().union(*(one.names for one in (*found.records, *found.scratch)))

    # Nothing but what was found, each once, and nothing of a live run.
    everything = {one.path for one in (*found.assets, *found.scratch, *found.records, *found.leftovers)}
    paths = [one.path for one in planned]
    assert len(paths) == len(set(paths)) and everything.issuperset(paths)
    assert not any(one.work_key in live for one in planned)
    assert not any(inner in outer.parents for inner in paths for outer in paths)

    # Never an asset that is needed, nor one that may be in the making.
    needed = live_assets.union(
        *(one.names for one in found.scratch if one.work_key in live), *(one.names for one in found.reports)
    )
    assert gone.isdisjoint(needed)
    making = {a.address for a in found.assets if NOW - a.last_used <= SETTLED and a.address not in named}
    assert gone.isdisjoint(making)

    # The records of an asset go with it, and never before an asset that they name is gone.
    order = {path: place for place, path in enumerate(paths)}
    by_address = {asset.address: asset for asset in going}
    for record in found.records:
        if not record.names.isdisjoint(gone):
            reason = planned[order[record.path]].address
            assert reason is not None and order[record.path] > order[by_address[reason].path]

    assert_quota_kept(found, limits, planned, needed | making)
    assert_floor_kept(limits, planned, found, needed | making, live, free)


def assert_quota_kept(
    found: Inventory, limits: SpaceSettings, planned: Sequence[PlannedRemoval], kept: Collection[str]
) -> None:
    """The oldest first, none that a young checkpoint names, and not one more than the quota asks for."""
    by_quota = [one.address for one in planned if one.why is RemovalReason.QUOTA]
    if limits.assets_bytes is None:
        assert not by_quota
        return
    young = frozenset().union(
        *(one.names for one in found.records if NOW - one.made <= limits.checkpoint_age),
        *(one.names for one in found.scratch if NOW - one.changed <= limits.checkpoint_age),
    )
    before = {one.address for one in planned if one.why is RemovalReason.UNNAMED}
    eligible = [a for a in oldest_first(found) if a.address not in {*kept, *young, *before}]
    assert by_quota == [a.address for a in eligible[: len(by_quota)]]
    staying = sum(a.weight.bytes for a in found.assets if a.address not in {*before, *by_quota})
    assert staying <= limits.assets_bytes or len(by_quota) == len(eligible)
    if by_quota:
        last = next(a for a in found.assets if a.address == by_quota[-1])
        assert staying + last.weight.bytes > limits.assets_bytes


def assert_floor_kept(
    limits: SpaceSettings,
    planned: Sequence[PlannedRemoval],
    found: Inventory,
    kept: Collection[str],
    live: Collection[str],
    free: int,
) -> None:
    """Idle scratch first, then the oldest assets, and not one more than the floor and a tenth ask for."""
    by_floor = [one for one in planned if one.why is RemovalReason.FLOOR]
    if free >= limits.free_bytes:
        assert not by_floor
        return
    going = {one.path for one in planned}
    others = {one.address for one in planned if one.why in (RemovalReason.UNNAMED, RemovalReason.QUOTA)}
    eligible = [a.address for a in oldest_first(found) if a.address not in {*kept, *others}]
    idle = [s for s in found.scratch if s.weight.volume == found.volume and s.work_key not in live]
    assets = [one.address for one in by_floor if one.address]
    assert assets == eligible[: len(assets)]
    assert [one.address for one in by_floor] == [None] * (len(by_floor) - len(assets)) + assets, "scratch comes first"
    assert not assets or going.issuperset(one.path for one in idle), "all of it"
    wanted = limits.free_bytes * BEYOND_THE_FLOOR - free
    freed = sum(one.bytes for one in planned)
    if by_floor:
        stale = sum(one.bytes for one in planned if one.path.parts[0] == "results")
        assert freed - by_floor[-1].bytes - stale < wanted, "the last one was still wanted"
    if not (going.issuperset(one.path for one in idle) and assets == eligible):
        assert freed >= wanted, "there was more to take"


def oldest_first(found: Inventory) -> list[StoredAsset]:
    return sorted(found.assets, key=lambda asset: (asset.last_used, asset.address))


def test_the_order_of_the_inventory_does_not_matter() -> None:
    assets = tuple(
        StoredAsset(address, Path("assets", address), Weight(1, 10), NOW - n * DAY, Stamp(n, n))
        for n, address in enumerate(ADDRESSES)
    )
    found = Inventory(assets=assets, volume=1)
    backwards = replace(found, assets=assets[::-1])
    limits = SpaceSettings(assets_bytes=35)
    decisions = [what_may_go(one, limits, frozenset(), frozenset(), PLENTY, NOW) for one in (found, backwards)]
    assert decisions[0] == decisions[1] and len(decisions[0]) == 5


# --- a home to look at ------------------------------------------------------------------------------


def content(name: str) -> bytes:
    return name.encode().ljust(ASSET_BYTES, b".")


def stored(home: Home, name: str, *, used: timedelta = timedelta()) -> Asset:
    """An asset of `ASSET_BYTES`, put there by the store itself."""
    home.root.mkdir(parents=True, exist_ok=True)
    path = home.root / "made"
    path.write_bytes(content(name))
    asset = AssetStore(home.assets).put({"source": path})
    age(AssetStore(home.assets).folder(asset), used)
    return asset


def aged(home: Home, name: str, *, used: timedelta = 31 * DAY) -> Asset:
    """An asset whose checkpoint is too old to protect it."""
    asset = stored(home, name, used=used)
    recorded(home, "download", asset, made=31 * DAY)
    return asset


def recorded(home: Home, stage: str, asset: Asset | None, *, made: timedelta = timedelta(), **facts: str) -> str:
    """A stage record as Prefect writes one; returns its name."""
    home.results.mkdir(parents=True, exist_ok=True)
    data = {"asset": asset.model_dump() if asset else None, "recorded_at": (NOW - made).isoformat(), **facts}
    inner = json.dumps({"__class__": "tidegate.model.DownloadResult", "data": data})
    path = home.results / f"{stage}-r1-{asset.address[7:39] if asset else KEY}.json"
    path.write_text(json.dumps({"metadata": {"prefect_version": "3.8.8"}, "result": inner}))
    age(path, made)
    return path.name


def scratch(home: Home, key: str, *, changed: timedelta) -> None:
    folder = home.scratch(key, "source")
    (folder / "source.part").write_bytes(b"x" * 32 * 1024)
    (folder / "source.journal").write_text("{}")
    for path in (*folder.iterdir(), folder, folder.parent):
        age(path, changed)


def partial(home: Home, key: str, *, changed: timedelta) -> None:
    path = home.scratch(key, "output") / "media.mp4.partial"
    path.write_bytes(b"half a film")
    for one in (path, path.parent, path.parent.parent):
        age(one, changed)


def published(home: Home, folder: Path, source: Asset, output: Asset, *, status: str = "completed") -> Path:
    """A published folder with the fields of the report that matter here."""
    folder.mkdir()
    video = folder / "film.mp4"
    shutil.copyfile(AssetStore(home.assets).path(output), video)
    track = output.main
    told = {
        "status": status,
        "download": {"path": str(AssetStore(home.assets).path(source)), "digest": source.main.digest},
        "output": {"path": str(video), "size_bytes": track.size_bytes, "digest": track.digest},
    }
    (folder / "report.json").write_text(json.dumps(told))
    return folder


def age(path: Path, by: timedelta) -> None:
    os.utime(path, ((NOW - by).timestamp(),) * 2)


def move_and_link(path: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    path.rename(target)
    path.symlink_to(target)


def path_of(asset: Asset) -> str:
    name = asset.address.partition(":")[2]
    return f"assets/{name[:2]}/{name}"


def is_whole(home: Home, found: StoredAsset) -> bool:
    """Without the store, to which every look is a use."""
    folder = home.root / found.path
    return all(holds(folder / track.name, track) for track in found.tracks)


def all_of(home: Home) -> tuple[PlannedRemoval, ...]:
    """Everything that the worst shortage takes."""
    return what_may_go(inventory(home), NO_SPACE, frozenset(), frozenset(), 0, NOW)


def may_go(
    home: Home, limits: SpaceSettings = KEEP_ALL, *, live_assets: Collection[str] = (), now: datetime = NOW
) -> list[RemovalReason]:
    free = 0 if limits is NO_SPACE else PLENTY
    found = inventory(home)
    return [one.why for one in what_may_go(found, limits, frozenset(), frozenset(live_assets), free, now)]


def paths_to_go(
    home: Home, limits: SpaceSettings = KEEP_ALL, *, live: Collection[str] = (), now: datetime = NOW
) -> list[str]:
    free = 0 if limits is NO_SPACE else PLENTY
    return [str(one.path) for one in what_may_go(inventory(home), limits, frozenset(live), frozenset(), free, now)]


def assets_to_go(home: Home, limits: SpaceSettings, folders: Sequence[Path]) -> set[str]:
    planned = what_may_go(inventory(home, folders), limits, frozenset(), frozenset(), 0, NOW)
    return {one.address for one in planned if one.address and one.why is not RemovalReason.ASSET_GONE}


def cleared(home: Home) -> int:
    """How many things an ordinary pass removes."""
    planned = what_may_go(inventory(home), KEEP_ALL, frozenset(), frozenset(), PLENTY, NOW)
    return sum(isinstance(one, Removed) for one in clear(home, planned, nobody, ignore_events))


nobody: Callable[[PlannedRemoval], bool] = lambda _: False  # noqa: E731

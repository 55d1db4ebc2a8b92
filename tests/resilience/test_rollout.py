"""A switch that gives a share of the work to the full path: always the same works, on every host."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.errors import BadInput
from tidegate.resilience.rollout import path_of
from tidegate.settings import Settings

keys = st.text("0123456789abcdef", min_size=32, max_size=32)


@given(keys)
def test_a_named_path_is_taken_by_all(key: str) -> None:
    assert path_of("full", key) == "full"
    assert path_of("plain", key) == "plain"
    assert path_of("100%", key) == "full"
    assert path_of("0%", key) == "plain"


@given(keys, st.integers(0, 100), st.integers(0, 100))
def test_who_takes_the_full_path_at_a_small_share_takes_it_at_a_larger_one(key: str, one: int, other: int) -> None:
    small, large = sorted((one, other))
    if path_of(f"{small}%", key) == "full":
        assert path_of(f"{large}%", key) == "full"


@pytest.mark.parametrize("share", [1, 25, 50, 90])
def test_the_share_is_that_of_all_work(share: int) -> None:
    full = sum(path_of(f"{share}%", f"key {number}") == "full" for number in range(4000))
    assert full / 40 == pytest.approx(share, abs=3)


def test_a_work_keeps_its_path_from_release_to_release() -> None:
    """Recorded: a part that one path has begun would else be met by the other after an update."""
    taken = [path_of("25%", f"{number:032x}") for number in range(8)]
    assert [number for number, path in enumerate(taken) if path == "full"] == [0, 5]


@pytest.mark.parametrize("value", ["", "full", "plain", "0%", "7%", "25%", "100%"])
def test_what_may_be_set(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_TRANSFER_ENGINE", value)
    assert Settings.load().transfer.engine == (value or "full")


@pytest.mark.parametrize("value", ["fast", "101%", "-1%", "2.5%", "25", "%", "025%"])
def test_anything_else_is_refused_before_any_work(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_TRANSFER_ENGINE", value)
    with pytest.raises(BadInput, match="TIDEGATE_TRANSFER_ENGINE"):
        Settings.load()


def test_supervision_is_on_or_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_PROCESS_SUPERVISION", "off")
    assert Settings.load().process.supervision == "off"
    monkeypatch.setenv("TIDEGATE_PROCESS_SUPERVISION", "maybe")
    with pytest.raises(BadInput, match="TIDEGATE_PROCESS_SUPERVISION"):
        Settings.load()

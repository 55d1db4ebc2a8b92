"""What the environment may set, what the network presets set, and what is refused before any work."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from tidegate.errors import BadInput
from tidegate.settings import (
    NETWORK_PRESETS,
    ProcessSettings,
    Settings,
    StoreSettings,
    ToolSettings,
    TransferSettings,
    default_home,
)

PRESETS = {
    "fast": (10, 20, 2048, 2),
    "normal": (15, 30, 1024, 3),
    "slow": (30, 60, 512, 5),
}
"""DESIGN §5: request timeout, stall timeout, minimum speed, tries."""


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("TIDEGATE_")]:
        monkeypatch.delenv(name)


def told(transfer: TransferSettings) -> tuple[float, float, int, int]:
    return (
        transfer.request_timeout.total_seconds(),
        transfer.stall_timeout.total_seconds(),
        transfer.minimum_speed,
        transfer.tries,
    )


@pytest.mark.parametrize("network", PRESETS)
def test_a_network_preset_sets_the_limits_of_the_design(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_NETWORK", network)
    assert told(Settings.load().transfer) == PRESETS[network]


def test_without_any_environment_the_normal_preset_and_the_plain_defaults_hold() -> None:
    assert told(Settings.load().transfer) == PRESETS["normal"]
    assert Settings.load() == Settings()


def test_the_normal_preset_repeats_the_defaults_but_for_the_limit_of_small_sources() -> None:
    defaults = TransferSettings()
    differing = {name for name, value in NETWORK_PRESETS["normal"].items() if getattr(defaults, name) != value}
    assert differing == {"small_limit"} and defaults.small_limit is None


def test_every_preset_sets_the_same_limits() -> None:
    assert len({frozenset(preset) for preset in NETWORK_PRESETS.values()}) == 1


def test_a_value_set_on_its_own_wins_over_the_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_NETWORK", "slow")
    monkeypatch.setenv("TIDEGATE_TRANSFER_TRIES", "9")
    assert told(Settings.load().transfer) == (*PRESETS["slow"][:3], 9)


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_NETWORK", "slow")
    monkeypatch.setenv("TIDEGATE_TRANSFER_TRIES", "")
    assert told(Settings.load().transfer) == PRESETS["slow"]
    monkeypatch.setenv("TIDEGATE_NETWORK", "")
    assert told(Settings.load().transfer) == PRESETS["normal"]


def test_each_group_reads_its_own_part_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path))
    monkeypatch.setenv("TIDEGATE_UNVALIDATED_TRUST", "PT2M")
    monkeypatch.setenv("TIDEGATE_PROCESS_TICK", "0.5")
    monkeypatch.setenv("TIDEGATE_TOOLS_FFMPEG", "/usr/bin/ffmpeg")
    monkeypatch.setenv("TIDEGATE_TOOLS_THREADS", "3")
    settings = Settings.load()
    assert settings.store == StoreSettings(home=tmp_path, unvalidated_trust=timedelta(minutes=2))
    assert settings.process == ProcessSettings(tick=timedelta(seconds=0.5))
    assert settings.tools == ToolSettings(ffmpeg="/usr/bin/ffmpeg", threads=3)


def test_variables_that_only_look_like_a_group_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STORE", "PROCESS", "TRANSFER", "TOOLS", "TIDEGATE_UNHEARD_OF"):
        monkeypatch.setenv(name, "nonsense")
    assert Settings.load() == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TIDEGATE_NETWORK", "carrier-pigeon"),
        ("TIDEGATE_TRANSFER_TRIES", "many"),
        ("TIDEGATE_TRANSFER_TRIES", "0"),
        ("TIDEGATE_TRANSFER_TRIES", "-1"),
        ("TIDEGATE_TRANSFER_MINIMUM_SPEED", "0"),
        ("TIDEGATE_TRANSFER_REQUEST_TIMEOUT", "soon"),
        ("TIDEGATE_TRANSFER_REQUEST_TIMEOUT", "-5"),
        ("TIDEGATE_TRANSFER_STALL_TIMEOUT", "nan"),
        ("TIDEGATE_TRANSFER_DEADLINE", "inf"),
        ("TIDEGATE_TRANSFER_STALL_TICK", "0"),
        ("TIDEGATE_PROCESS_TICK", "0"),
        ("TIDEGATE_PROCESS_STALL_TIMEOUT", "1e99"),
        ("TIDEGATE_TOOLS_THREADS", "0"),
        ("TIDEGATE_UNVALIDATED_TRUST", "-1"),
    ],
)
def test_a_value_that_makes_no_sense_is_bad_input_that_names_the_setting(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInput) as caught:
        Settings.load()
    assert caught.value.message.startswith(f"{name} is ")
    assert "Settings" not in caught.value.message


def test_groups_are_frozen_and_know_no_other_names() -> None:
    with pytest.raises(ValidationError):
        TransferSettings().tries = 4  # type: ignore[misc]
    with pytest.raises(ValidationError):
        TransferSettings(retries=4)  # type: ignore[call-arg]


def test_the_default_home_is_the_user_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_home() == tmp_path / "data" / "tidegate" == Settings.load().store.home
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_home() == tmp_path / ".local" / "share" / "tidegate"

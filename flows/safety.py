"""The settings of Prefect under which a killed run is noticed, and a server that restarts loses nothing.

One table: each setting, its value, which process reads it, and why. `flows/server.py` and `deployments/` give it to the
processes that they start, `python -m flows.run` to itself before it imports Prefect, `prefect.yaml` to deployed runs;
doctor looks for what hurts. A setting that a person has made is theirs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from flows.configuration import is_given, look_up, variable

Reader = Literal["server", "worker", "run"]

HEARTBEAT_SECONDS = 30
"""What Prefect allows at the least."""
HEARTBEATS_MISSED = 5
"""After so many a run counts as dead. Three would do for a dead run; but a server that was away for a minute looks for
the dead before living runs have found it again."""

TRACKING = "DO_NOT_TRACK"
"""The variable by which one tells Prefect's client, and many other programs, to keep to itself how it is used."""


@dataclass(frozen=True)
class Setting:
    """One setting of Prefect."""

    path: str
    """As in `prefect.toml`: `flows.heartbeat_frequency`."""
    value: str
    readers: tuple[Reader, ...]
    why: str
    hurts: Callable[[str | None], bool]
    """Whether a value in force hurts; None: Prefect's own default is in force."""
    older: tuple[str, ...] = ()
    """Older names of the variable that Prefect still reads."""

    @property
    def name(self) -> str:
        """The environment variable."""
        return variable(self.path)


@dataclass(frozen=True)
class Hurtful:
    """A setting in force that hurts."""

    name: str
    value: str | None
    """None: not set."""
    why: str
    better: str


def _above(limit: float) -> Callable[[str | None], bool]:
    """Off, not a number, or more than `limit`; what is not set is Prefect's default, which is more."""
    return lambda value: not 0 < _number(value) <= limit


def _below(limit: float) -> Callable[[str | None], bool]:
    return lambda value: _number(value) < limit


def _number(value: str | None) -> float:
    try:
        return float(value or 0)
    except ValueError:
        return 0.0


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "flows.heartbeat_frequency",
        str(HEARTBEAT_SECONDS),
        ("run",),
        f"A run that was killed is set to Crashed after {HEARTBEATS_MISSED} missed heartbeats. Prefect's default of "
        "180 s makes that a quarter of an hour.",
        hurts=_above(60),
        older=("PREFECT_RUNNER_HEARTBEAT_FREQUENCY",),
    ),
    Setting(
        "server.concurrency.lease_storage",
        "flows.leases",
        ("server",),
        "In memory, the default, a server that restarts forgets who holds a slot: the slot of a killed run is never "
        "given back, and a living run is ended because its lease is unknown. Ours lie in "
        "`PREFECT_HOME/concurrency_leases`. A server where Tidegate is not installed takes "
        "`prefect.server.concurrency.lease_storage.filesystem`, several servers take Redis.",
        hurts=lambda value: not value or value.endswith(".memory"),
    ),
    Setting(
        "client.max_retries",
        "7",
        ("run", "worker"),
        "Pauses of 2, 4, 8 … 128 s: a run outlives a server that is away for 3 minutes. The default, 5, is 50 s at "
        "worst.",
        hurts=lambda value: value is None or _number(value) < 6,
    ),
    Setting(
        "events.worker_max_queue_size",
        "10000",
        ("run", "worker"),
        "Events that cannot be sent pile up in memory without bound; heartbeats and states are far fewer than this.",
        hurts=_above(1_000_000),
    ),
    Setting(
        "tasks.runner.thread_pool_max_workers",
        "16",
        ("run",),
        "A task that is submitted gets a thread of its own, without bound.",
        hurts=_above(256),
        older=("PREFECT_TASK_RUNNER_THREAD_POOL_MAX_WORKERS",),
    ),
    Setting(
        "server.ephemeral.startup_timeout_seconds",
        "180",
        ("run",),
        "Where Prefect itself starts a temporary server, a slow machine needs more than the default of 20 s.",
        hurts=_below(60),
    ),
    Setting(
        "server.analytics_enabled",
        "false",
        ("server",),
        "No telemetry: a server without a way out would try again and again.",
        hurts=lambda _: False,
    ),
)


def environment(reader: Reader) -> dict[str, str]:
    """The variables for a process of that kind, without those that a person has set."""
    ours = {setting.name: setting.value for setting in for_reader(reader) if not is_given(setting.path, setting.older)}
    return ours | do_not_track()


def do_not_track() -> dict[str, str]:
    """Keeps Prefect's client from telling how it is used, and from saying that it does so; `server.analytics_enabled`
    is for the server alone. Who has said anything about either is left alone."""
    is_decided = TRACKING in os.environ or is_given("server.analytics_enabled")
    return {} if is_decided else {TRACKING: "1"}


def effective(*readers: Reader) -> dict[str, str]:
    """What will be in force in processes of those kinds, by variable: what a person has said, else what we say."""
    configured = {setting.name: _value_of(setting) for setting in SETTINGS}
    ours = {setting.name: setting.value for reader in readers for setting in for_reader(reader)}
    return ours | {name: value for name, value in configured.items() if value is not None}


def _value_of(setting: Setting) -> str | None:
    configured = look_up(setting.path, setting.older)
    return None if configured is None else str(configured.value)


def for_reader(reader: Reader) -> Iterator[Setting]:
    """The settings that a process of that kind reads."""
    return (setting for setting in SETTINGS if reader in setting.readers)


def hurtful(effective: Mapping[str, str], reader: Reader | None = None) -> list[Hurtful]:
    """What of the settings in force hurts; `effective` has values by variable, and leaves out what is not set.

    Without a reader, all of them are looked at, as is right for a command that starts the server too.
    """
    looked_at = SETTINGS if reader is None else tuple(for_reader(reader))
    return [
        Hurtful(setting.name, value, setting.why, setting.value)
        for setting in looked_at
        if setting.hurts(value := _in_force(effective, setting))
    ]


def _in_force(effective: Mapping[str, str], setting: Setting) -> str | None:
    return next((effective[name] for name in (setting.name, *setting.older) if name in effective), None)

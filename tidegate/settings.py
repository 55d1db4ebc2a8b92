"""Every limit and path that can be set, in frozen groups.

`Settings.load()` reads `TIDEGATE_*` once at the start of a command or flow; everything below gets the values it
needs as arguments. A value that cannot be understood is `BadInput` before any work starts. `docs/settings.md` is
made from the docstrings here (`make docs`) and a test holds the two together.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tidegate.addresses import AddressPolicy, PolicyName, read_entries
from tidegate.errors import BadInput

NetworkSpeed = Literal["fast", "normal", "slow"]
EncoderName = Literal["auto", "software", "nvenc", "vaapi", "qsv", "videotoolbox", "v4l2m2m"]

NETWORK_PRESETS: dict[NetworkSpeed, dict[str, Any]] = {
    "fast": {
        "request_timeout": timedelta(seconds=10),
        "stall_timeout": timedelta(seconds=20),
        "tries": 2,
        "minimum_speed": 2048,
        "small_limit": timedelta(seconds=20),
    },
    "normal": {
        "request_timeout": timedelta(seconds=15),
        "stall_timeout": timedelta(seconds=30),
        "tries": 3,
        "minimum_speed": 1024,
        "small_limit": timedelta(seconds=30),
    },
    "slow": {
        "request_timeout": timedelta(seconds=30),
        "stall_timeout": timedelta(seconds=60),
        "tries": 5,
        "minimum_speed": 512,
        "small_limit": timedelta(seconds=60),
    },
}
"""What `TIDEGATE_NETWORK` sets (DESIGN §5); a value set on its own wins. Without the variable the defaults below hold:
`normal` repeats them, but for `small_limit`, and a test compares."""


def _from_seconds(value: object) -> object:
    try:
        return timedelta(seconds=float(value))  # type: ignore[arg-type]  # anything that is no number is tried next
    except (TypeError, ValueError, OverflowError):
        return value


Seconds = Annotated[timedelta, BeforeValidator(_from_seconds), Field(ge=timedelta(0))]
"""A duration; in the environment a number of seconds such as `2.5`, or ISO 8601 such as `PT2M`."""

Tick = Annotated[timedelta, BeforeValidator(_from_seconds), Field(gt=timedelta(0))]
"""A duration between two looks: with none between them a watch would do nothing else."""


def _split_list(value: object) -> object:
    return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value


def _origin(address: str) -> str:
    """As a browser writes it: no path, and no port that goes without saying."""
    parts = urlsplit(address.lower())
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.path not in ("", "/")
        or "@" in parts.netloc
    ):
        raise ValueError("an address is http:// or https:// and a name, with a port where it has one of its own")
    usual = {"http": ":80", "https": ":443"}[parts.scheme]
    return f"{parts.scheme}://{parts.netloc.removesuffix(usual)}"


WebOrigin = Annotated[str, AfterValidator(_origin)]
"""The address of a server without a path, such as `https://prefect.example.org`."""


class Group(BaseSettings):
    """Base of the groups: frozen, and an unknown name among the arguments is an error."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_ignore_empty=True)


class TransferSettings(Group):
    """Limits of one download. Environment: `TIDEGATE_TRANSFER_*`."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_TRANSFER_")

    request_timeout: Seconds = timedelta(seconds=15)
    """Seconds until a connection stands and headers are complete. In the body only the stall clock counts."""
    stall_timeout: Seconds = timedelta(seconds=30)
    """The window, in seconds, in which at least `minimum_speed` must be reached on average."""
    stall_tick: Tick = timedelta(seconds=5)
    """How often, in seconds, the stall clock looks. It runs on its own and does not wait for bytes."""
    minimum_speed: int = Field(default=1024, gt=0)
    """Bytes per second below which a transfer counts as stalled."""
    tries: int = Field(default=3, gt=0)
    """How many tries in a row may gain less than `gain_bytes` before the transfer fails."""
    gain_bytes: int = 256 * 1024
    """A try that gains at least this many bytes is no failure and sets the count of tries back to zero."""
    backoff_base: Seconds = timedelta(seconds=1)
    """First pause, in seconds, between tries; doubled each time, with full jitter."""
    backoff_cap: Seconds = timedelta(seconds=30)
    """Longest pause, in seconds, between tries."""
    throttle_budget: Seconds = timedelta(minutes=5)
    """How long, in seconds, one transfer may wait in all because the origin said `Retry-After`."""
    redirects: int = 10
    """How many redirects one request may follow."""
    deadline: Seconds = timedelta(minutes=30)
    """The least time, in seconds, that a download may take; without end while it is faster than the minimum speed."""
    checkpoint_bytes: int = 32 * 1024 * 1024
    """Bytes after which the part is synced and journaled; a crash costs about this much, and what is on its way. At
    full speed twice as often costs a tenth of the speed, half as often gains next to nothing."""
    checkpoint_interval: Seconds = timedelta(seconds=1)
    """Seconds after which the part is synced and journaled even if fewer bytes came."""
    connections: int = Field(default=6, gt=0)
    """How many connections one file may use at most, as many as a browser; more than one only where that is measurably
    faster."""
    largest: int | None = Field(default=None, gt=0)
    """The most bytes that a source may have. None: no limit."""
    limit: Tick | None = None
    """A hard end, in seconds, for the transfer of one source, however fast it is. None: no limit."""
    segments_at_once: int = Field(default=6, gt=0)
    """Segments of a playlist that are fetched at once; connections per origin bound it too."""
    segment_tries: int = Field(default=2, ge=0)
    """Extra tries of one segment before it counts as missing."""
    segment_bytes: int = Field(default=1024 * 1024 * 1024, gt=0)
    """The most bytes that one segment may have, unpacked."""
    playlist_bytes: int = Field(default=64 * 1024 * 1024, gt=0)
    """The most bytes that a playlist may have, unpacked."""
    playlist_memory: int = Field(default=512_000_000, gt=0)
    """The most memory, in bytes, that the process which reads a playlist may use; 200,000 segments take half of it."""
    playlist_timeout: Tick = timedelta(seconds=60)
    """Seconds that reading a playlist may take once it is here; 200,000 segments take 8 of a free processor's."""
    live_patience: Tick = timedelta(minutes=2)
    """Seconds without a new segment after which a live source that did not say that it ended is given up."""
    small_limit: Tick | None = None
    """A hard end, in seconds, for the transfer of a source of less than 10 MB. None: no limit, unless
    `TIDEGATE_NETWORK` is set."""
    transport: Literal["sockets", "httpx"] = "sockets"
    """How bytes travel. `httpx` is slower; it is also used wherever the environment names a proxy."""
    engine: Annotated[str, StringConstraints(pattern=r"^(full|plain|(100|[1-9]?[0-9])%)$")] = "full"
    """`plain` takes one connection and one segment at a time. A share such as `25%` is how much of all work, told by
    its key, takes the full path; the rest takes the plain one."""
    extract_timeout: Seconds = timedelta(minutes=2)
    """Seconds that yt-dlp may take to find the media of a page; it asks a site several times."""
    tool_stall_timeout: Seconds = timedelta(minutes=5)
    """Seconds without progress after which a downloader tool is ended; TwitchDownloaderCLI is silent while it
    finalizes."""
    tool_deadline: Seconds = timedelta(minutes=60)
    """Seconds that a downloader tool that cannot resume may take in all."""
    tool_threads: int = Field(default=4, gt=0)
    """Connections that a downloader tool opens at once."""


def _read_as_entries(text: str) -> str:
    read_entries(text)
    return text


class NetworkSettings(Group):
    """Where sources may lie. Environment: `TIDEGATE_NETWORK_*`; `TIDEGATE_NETWORK` itself is the preset of limits."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_NETWORK_")

    policy: PolicyName | None = None
    """To which addresses connections may be made: `open` (any), `public` (public ones, and what `allow` lists) or
    `allow-list` (only what it lists). It holds for links, redirects, segments, keys and mirrors, and for what tools
    connect to. None: `open` on the command line, `public` in runs of a deployment."""
    allow: Annotated[str, AfterValidator(_read_as_entries)] = ""
    """What may be reached besides, separated by commas: a host, `*.domain`, an address or a network, each with or
    without a port, such as `nas.lan:8080,*.cdn.example,192.168.1.0/24,[fd00::/8]:443`. List only names whose owners
    you trust: they say where a name leads."""

    @property
    def addresses(self) -> AddressPolicy:
        return AddressPolicy(self.policy or "open", read_entries(self.allow))


class ProcessSettings(Group):
    """Limits of a supervised child process. Environment: `TIDEGATE_PROCESS_*`."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_PROCESS_")

    startup_grace: Seconds = timedelta(seconds=30)
    """Seconds that a process may run before its first progress report. Opening a damaged input can take long."""
    stall_timeout: Seconds = timedelta(seconds=90)
    """Seconds without progress (out_time, size, frame, or growth of the output) after which a process is ended."""
    tick: Tick = timedelta(seconds=5)
    """How often, in seconds, the watch looks."""
    end_grace: Seconds = timedelta(seconds=10)
    """Seconds between TERM and KILL to the process group."""
    probe_timeout: Seconds = timedelta(seconds=60)
    """Seconds that reading headers may take."""
    base_timeout: Seconds = timedelta(minutes=20)
    """The least time, in seconds, that processing or analysis may take; one minute more for each 10^9 input bytes."""
    longest_timeout: Seconds = timedelta(hours=2)
    """The most time, in seconds, that processing or analysis may take."""
    chunk_seconds: Seconds = timedelta(minutes=1)
    """Seconds of film that a crash of a transcode may cost: films of three times that length and more are encoded in
    chunks of about it. 0: films are encoded whole."""
    chunk_workers: int | None = Field(default=None, gt=0)
    """Chunks encoded at once; they share the encoder's threads. None: one for every four threads."""
    chunk_cluster: str | None = None
    """Address of a Dask scheduler that gets the chunks, such as `tls://host:8786`; its workers need the same
    TIDEGATE_HOME. None: this host encodes them."""
    sample_every: Tick = timedelta(milliseconds=500)
    """How often, in seconds, memory is looked at where sampling alone enforces a memory cap; elsewhere every `tick`."""
    memory_cap: int | None = Field(default=None, gt=0)
    """The most memory, in bytes, that a tool and everything it starts may use; a rung's own cap counts where it is
    lower. None: the rung's cap only."""
    tool_memory_cap: int = Field(default=4_000_000_000, gt=0)
    """The most memory, in bytes, for a tool that no rung holds: the probe, yt-dlp, TwitchDownloaderCLI, joining. Never
    more than nine tenths of the machine's. The index of ten hours of film takes 300 MB, one 8K film 2 GB."""
    memory_guard: Literal["auto", "cgroup", "sampling"] = "auto"
    """Who enforces a memory cap: a control group of the kernel's where this process may make one (`auto`, `cgroup`),
    else the monitor, which samples and kills."""
    supervision: Literal["on", "off"] = "on"
    """`off` drops monitor, memory caps and stall clock; deadlines, drained pipes and the end of the group stay."""
    confine: Literal["on", "off"] = "on"
    """Whether the kernel holds tools to their files, and those that need no network to none (Landlock and seccomp, as
    far as the host has them). `off` starts them as they are."""
    allow: str = ""
    """Folders, with `:` between them, that every confined tool may use too: where an ffmpeg of your own keeps its
    libraries or writes a log."""
    environment: str = ""
    """Names of variables, with commas between them, that tools get beyond those of the list in docs/supervision.md; a
    `*` stands for any rest, as in `INTEL_*`."""
    verify: Literal["auto", "full", "sampled"] = "auto"
    """How a result is checked: `full` decodes every frame; `sampled` decodes its beginning, its end and samples between
    them, and counts every packet; `auto` is full up to `verify_full_below`."""
    verify_full_below: int = Field(default=8_000_000_000, gt=0)
    """Bytes beyond which `auto` decodes samples only: to decode 8 GB takes about as long as to fetch them again."""

    @field_validator("allow")
    @classmethod
    def _folders(cls, value: str) -> str:
        for folder in filter(None, value.split(os.pathsep)):
            if not folder.startswith("/") or folder.strip("/") == "":
                raise ValueError(f"{folder!r} is not the absolute path of a folder below /")
        return value

    @field_validator("environment")
    @classmethod
    def _variables(cls, value: str) -> str:
        for name in _names_in(value):
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*\*?", name):
                raise ValueError(f"{name!r} is not the name of a variable, nor its beginning with a * behind it")
        return value

    @property
    def allowed_folders(self) -> tuple[Path, ...]:
        """`allow`, taken apart."""
        return tuple(Path(folder) for folder in self.allow.split(os.pathsep) if folder)

    @property
    def more_names(self) -> tuple[str, ...]:
        """`environment`, taken apart."""
        return _names_in(self.environment)


class ToolSettings(Group):
    """Which external tools to use. Environment: `TIDEGATE_TOOLS_*`."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_TOOLS_")

    ffmpeg: str | None = None
    """Path of ffmpeg. None: the one on PATH, else the one inside the imageio-ffmpeg wheel."""
    threads: int | None = Field(default=None, gt=0)
    """Threads of an encoder. None: as the rung, the cores and the available memory allow, at most 8."""
    encoder: EncoderName = "software"
    """Which H.264 encoder: `software` (libx264), `nvenc`, `vaapi`, `qsv`, `videotoolbox`, `v4l2m2m`, or `auto` for the
    first of these that works. One that does not work here is replaced by libx264, and that is told."""
    twitch_downloader: str | None = None
    """Path of TwitchDownloaderCLI. None: the one on PATH."""


def _from_paths(value: object) -> object:
    return tuple(filter(None, value.split(os.pathsep))) if isinstance(value, str) else value


def _absolute(path: Path) -> Path:
    path = path.expanduser()
    if not path.is_absolute():
        raise ValueError(f"{path} is no absolute path")
    return path


def _possible(path: Path) -> Path:
    longest = max(len(os.fsencode(part)) for part in path.parts) if path.parts else 0
    if longest > LONGEST_NAME:
        raise ValueError(f"it holds a name of {longest} bytes, and a file system takes {LONGEST_NAME}")
    if len(os.fsencode(path)) > LONGEST_HOME:
        raise ValueError(f"it has {len(os.fsencode(path))} bytes, and no more than {LONGEST_HOME} can be used")
    return path


LONGEST_NAME = 255
"""Bytes of a file's or folder's name, on every usual file system."""
LONGEST_HOME = 3500
"""Bytes of the home's path: 4,095 are the system's limit, and our own names come behind it."""

Folder = Annotated[Path, AfterValidator(_absolute)]
"""An absolute path; `~` is the user's home."""


class RootSettings(Group):
    """Where deployed runs may read and publish. Environment: `TIDEGATE_*`."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_")

    roots: Annotated[tuple[Folder, ...], NoDecode, BeforeValidator(_from_paths)] = ()
    """Folders in which local sources and outputs of deployed runs may lie, separated by `:`. They are added to the
    folder where `make serve` was started, the home, and the folders that runs of this ledger have used. Runs by hand
    go wherever their user may."""
    roots_only: bool = False
    """Whether deployed runs may use what `roots` names and nothing else."""
    served_from: Folder | None = None
    """The folder where `make serve` was started, which tells its worker. None: the worker was started otherwise."""


class StoreSettings(Group):
    """Where things lie. Environment: `TIDEGATE_*`."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_")

    home: Annotated[Path, AfterValidator(_possible)] = Field(default_factory=lambda: default_home())
    """Folder of scratch, assets, results and secrets; its owner's alone. Default: the platform's user data folder."""
    output: Path | None = None
    """Folder that relative output folders of deployed runs lie in. None: `NAME-output` beside the home of that name;
    within the home where an earlier version has published there, and where the home is a volume of its own."""
    unvalidated_trust: Seconds = timedelta(hours=24)
    """How long, in seconds, a checkpoint of a source without ETag and Last-Modified is believed."""


class LedgerSettings(Group):
    """The database of attempts, and how long a lease lasts. Environment: `TIDEGATE_LEDGER_*`."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_LEDGER_")

    url: str | None = None
    """SQLAlchemy URL, such as `postgresql+psycopg://user@host/db` for several hosts. None: `ledger.db` in the home."""
    renew_every: Tick = timedelta(seconds=15)
    """How often, in seconds, an attempt renews its lease and tells how far it is."""
    lease: Tick = timedelta(minutes=5)
    """Seconds without renewal after which an attempt counts as orphaned, wherever its process may be."""
    give_up: Tick = timedelta(minutes=4)
    """Seconds without renewal after which an attempt ends itself; less than `lease`, so that two never work at once."""
    poll: Tick = timedelta(seconds=1)
    """How often, in seconds, an attempt that waits for another one, for a slot or for memory looks again."""
    busy_timeout: Seconds = timedelta(seconds=5)
    """Seconds that SQLite waits for another writer, and that a connection to PostgreSQL may take."""
    statement_timeout: Seconds = timedelta(seconds=10)
    """Seconds that one statement may take on PostgreSQL."""
    patience: Seconds = timedelta(minutes=2)
    """Seconds that a run tries again to reach the ledger where it cannot go on without it: at its beginning and end."""


class RecoverySettings(Group):
    """When a run counts as stuck, and how often it is taken up again. Environment: `TIDEGATE_RECOVERY_*`."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_RECOVERY_")

    stuck_after: Tick = timedelta(hours=2)
    """Seconds without progress, though the lease lives, after which a run becomes an error; also the limit for a run
    that stays in Pending or Cancelling."""
    unclaimed_after: Tick = timedelta(minutes=10)
    """Seconds after which a Prefect run in Pending or Running that never made an attempt is scheduled again."""
    settle: Seconds = timedelta(seconds=5)
    """Seconds between setting Crashed and scheduling again: a worker reports the crash twice, about 2 s apart."""
    most: int = Field(default=3, gt=0)
    """Consecutive recoveries without a new checkpoint after which a run is parked for a person."""
    backoff: Seconds = timedelta(minutes=2)
    """Pause, in seconds, before the second consecutive recovery without a new checkpoint; doubled for the next."""
    resume_within: Tick = timedelta(days=7)
    """Seconds for which an interrupted run that has no deployment can be resumed by hand; its secrets stay as long."""


class SpaceSettings(Group):
    """What maintenance keeps. Environment: `TIDEGATE_SPACE_*`."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_SPACE_")

    assets_bytes: int | None = Field(default=None, gt=0)
    """Size quota of the asset store, in bytes; the assets used longest ago go first. None: no quota."""
    free_bytes: int = Field(default=2 * 1000**3, ge=0)
    """Free-space floor of the store's volume, in bytes; below it everything that no live run needs may go."""
    checkpoint_age: Tick = timedelta(days=30)
    """Seconds for which a checkpoint protects the assets that it names."""
    scratch_age: Tick = timedelta(days=7)
    """Seconds after its last change when scratch of no live run goes."""
    ledger_age: Tick = timedelta(days=90)
    """Seconds after its end when an attempt's row goes."""
    origin_age: Tick = timedelta(days=30)
    """Seconds after the last request to an origin when what is known about it goes, unless somebody has isolated it."""


class AdmissionSettings(Group):
    """What must be there before heavy work begins. Environment: `TIDEGATE_ADMISSION_*`."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_ADMISSION_")

    slots: int = Field(default=2, gt=0)
    """Heavy processing (remux, transcode, analysis) at once on one host."""
    slot_idle: Tick = timedelta(minutes=2)
    """Seconds without progress after which a run no longer counts as holding its slot."""
    limit: Seconds = timedelta(minutes=30)
    """Seconds that a run waits for a slot, memory or disk before it fails."""


class GateSettings(Group):
    """How an origin may be asked, and when requests to it are paused. Environment: `TIDEGATE_GATE_*`."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_GATE_")

    connections: int = Field(default=20, gt=0)
    """Connections of this host at once, to all origins together."""
    kept_connections: int = Field(default=10, ge=0)
    """Idle connections that a run keeps open for its next requests."""
    connections_per_origin: int = Field(default=8, gt=0)
    """Connections to one origin at once, of all processes that share the ledger."""
    requests_per_second: float | None = Field(default=None, gt=0)
    """Requests a second to one origin, of all processes together. None: as many as connections allow."""
    spacing: Seconds = timedelta(0)
    """Least time, in seconds, between the beginnings of two requests to one origin."""
    failures: int = Field(default=5, gt=0)
    """Failures of an origin in a row that open its breaker. Calls that fail at the same time count once."""
    failure_rate: float = Field(default=0.75, gt=0, le=1)
    """Share of failed calls in the window that opens it; more than two of three, which retries still cure."""
    slow_after: Seconds = timedelta(seconds=10)
    """Seconds until the headers after which a call counts as slow. Bodies may take their time."""
    slow_rate: float = Field(default=0.8, gt=0, le=1)
    """Share of slow calls in the window that opens it."""
    window: Tick = timedelta(minutes=1)
    """The window, in seconds, of both rates."""
    least_calls: int = Field(default=20, gt=0)
    """Calls in the window below which no rate is judged."""
    open_for: Tick = timedelta(seconds=60)
    """Seconds that a breaker stays open the first time, and up to 20 % longer by chance; doubled each time that its
    probes fail."""
    open_at_most: Tick = timedelta(minutes=10)
    """The longest, in seconds, that a breaker stays open at a time, before the 20 %."""
    probes: int = Field(default=2, gt=0)
    """Calls that are let through at once after that; as many successes close the breaker."""
    lease: Tick = timedelta(seconds=60)
    """Seconds without a sign of life after which a process's connections and probes are free again."""
    poll: Tick = timedelta(seconds=1)
    """How often, in seconds, a run looks what others know of the origins that it uses."""


class ServeSettings(Group):
    """The server of `make serve`. Environment: `TIDEGATE_SERVE_*`."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_SERVE_")

    addresses: Annotated[tuple[WebOrigin, ...], NoDecode, BeforeValidator(_split_list)] = ()
    """Where people and workers reach the server beside loopback, with commas between them, such as
    `https://prefect.example.org` behind a reverse proxy. A request that calls it by another name, or comes from a page
    of another address, is refused."""


class Settings(BaseModel):
    """All groups. Not one itself: as such it would read variables named `STORE` or `PROCESS`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    transfer: TransferSettings = Field(default_factory=TransferSettings)
    network: NetworkSettings = Field(default_factory=NetworkSettings)
    process: ProcessSettings = Field(default_factory=ProcessSettings)
    tools: ToolSettings = Field(default_factory=ToolSettings)
    store: StoreSettings = Field(default_factory=StoreSettings)
    roots: RootSettings = Field(default_factory=RootSettings)
    ledger: LedgerSettings = Field(default_factory=LedgerSettings)
    recovery: RecoverySettings = Field(default_factory=RecoverySettings)
    space: SpaceSettings = Field(default_factory=SpaceSettings)
    admission: AdmissionSettings = Field(default_factory=AdmissionSettings)
    gate: GateSettings = Field(default_factory=GateSettings)
    serve: ServeSettings = Field(default_factory=ServeSettings)

    @classmethod
    def load(cls) -> Self:
        """Read the environment.

        Raises:
            BadInput: a `TIDEGATE_*` value cannot be understood.
        """
        try:
            return cls(transfer=TransferSettings(**_network_preset()))
        except ValidationError as error:
            first = error.errors()[0]
            raise BadInput(f"{_variable(error.title, first['loc'])} is not valid: {first['msg']}") from error


def _names_in(value: str) -> tuple[str, ...]:
    return tuple(name for part in value.split(",") if (name := part.strip()))


def _variable(group: str, place: tuple[int | str, ...]) -> str:
    """`TIDEGATE_TRANSFER_TRIES` for the field `tries` of `TransferSettings`."""
    prefixes = {kind.__name__: str(kind.model_config.get("env_prefix")) for kind in Group.__subclasses__()}
    return f"{prefixes.get(group, '')}{'.'.join(map(str, place)).upper()}"


def _network_preset() -> dict[str, Any]:
    chosen = os.environ.get("TIDEGATE_NETWORK")
    if not chosen:
        return {}
    if chosen not in NETWORK_PRESETS:
        raise BadInput(f"TIDEGATE_NETWORK is {chosen!r}; it must be one of {', '.join(NETWORK_PRESETS)}")
    preset = NETWORK_PRESETS[chosen]
    return {name: value for name, value in preset.items() if not os.environ.get(f"TIDEGATE_TRANSFER_{name.upper()}")}


def default_home() -> Path:
    """The platform's user data folder for Tidegate (XDG on Linux)."""
    base = os.environ.get("XDG_DATA_HOME")
    return Path(base) / "tidegate" if base else Path.home() / ".local" / "share" / "tidegate"

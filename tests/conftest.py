"""Fixtures that several layers share: folders for media, a Prefect server, PostgreSQL, the real command."""

from __future__ import annotations

import gc
import hashlib
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import server
from tests.support import postgres as postgresql
from tests.support import session_server
from tests.support.command import Command
from tests.support.leaks import MARK, marking
from tidegate.durable.home import Home
from tidegate.durable.ledger import Ledger
from tidegate.settings import LedgerSettings

ROOT = Path(__file__).resolve().parents[1]


LARGE = frozenset({"command", "site", "served", "world", "postgres"})
"""Fixtures behind which stand the real command, a whole site, a database server or a browser: seconds of CPU each."""


SECOND = frozenset({"httpx", "HttpxLine", "postgresql"})
"""Parameters with which a test runs again what it has shown already, with sockets or SQLite."""


def pytest_configure() -> None:
    """What runs in the background of a script inherits these ignored, and so would every process under test."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)
    os.environ["TIDEGATE_PROCESS_ENVIRONMENT"] = MARK  # by it a test finds whatever tools leave behind
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each command would compile all of our modules anew


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test its one home, which the Makefile chooses by these marks.

    - `make test`: everything without a mark. It answers in 8 minutes on 2 cores.
    - `make test-ci`: `ci`. What starts one of LARGE is there by itself, and what runs again with one of SECOND. What is
      marked `first` stays in `make test`: it goes through the real command once for each thing that Tidegate promises.
      Of a grid, which is one test with several parameters, a sample runs there: the square root of its size.
    - `make test-full`: `slow`, the long sweeps, and everything else.
    - `make bench`: speed and memory. No test judges by wall time.

    A line of an issue's "Done when" is held in one of them. Whoever adds a slow test makes another one faster.
    """
    grids: dict[str, list[pytest.Item]] = {}
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        parameters = set(item.callspec.id.split("-")) if hasattr(item, "callspec") else set()
        if fixtures & LARGE or parameters & SECOND:
            item.add_marker(pytest.mark.ci)
        marks = {mark.name for mark in item.iter_markers()}
        if parameters and "ci" in marks and not marks & {"first", "slow"}:
            grids.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for grid in grids.values():
        for item in sorted(grid, key=_lot)[math.ceil(math.sqrt(len(grid))) :]:
            item.add_marker(pytest.mark.slow)


def _lot(item: pytest.Item) -> bytes:
    """What decides which cases of a grid are its sample: nobody's choice, and the same on every machine."""
    return hashlib.blake2b(item.nodeid.encode()).digest()


def pytest_collection_finish() -> None:
    """Nothing of what was collected is garbage: looking through it for garbage costs a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """A command that was called in this process handles signals its own way; the next test does not inherit that."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """What a test, or a command that it calls in this process, says in the environment is not said to the next one."""
    before = dict(os.environ)
    yield
    for name in [*os.environ]:
        if name not in before:
            del os.environ[name]
    os.environ.update({name: text for name, text in before.items() if os.environ.get(name) != text})


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where clips are made; kept between sessions, because their names carry their recipe's hash."""
    folder = Path(os.environ.get("TIDEGATE_TEST_CLIPS", ROOT / ".cache" / "clips"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API address of a Prefect server with a database of its own, shared by all processes of this session."""
    folder = tmp_path_factory.getbasetemp()
    several = "PYTEST_XDIST_WORKER" in os.environ
    with session_server.shared((folder.parent if several else folder) / "prefect") as api:
        yield api


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgresql.Cluster]:
    """A PostgreSQL server of our own; skips visibly where there is none."""
    why = postgresql.missing()
    if why:
        pytest.skip(why)
    with postgresql.cluster() as cluster:
        yield cluster


@pytest.fixture
def command(tmp_path: Path, prefect_server: str) -> Iterator[Command]:
    """The real command, in a home of its own; what it leaves running is ended after the test."""
    home = tmp_path / "home"
    home.mkdir()
    with marking() as mark:
        environment = {"PREFECT_API_URL": prefect_server, "HOME": str(home), "PREFECT_HOME": str(home / "prefect")}
        yield Command(home, tmp_path / "out", environment, mark)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home of its own, where nobody has been."""
    return Home(tmp_path / "home")


@pytest.fixture
def ledger(home: Home) -> Iterator[Ledger]:
    """Its ledger, in SQLite."""
    opened = Ledger.open(LedgerSettings(), home)
    yield opened
    opened.close()


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home where no server is named, configured or recorded, and where none is at the usual address."""
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"):
        monkeypatch.setenv(name, "")  # so that what the test sets by itself is forgotten
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setattr(server, "DEFAULT_API", "http://127.0.0.1:9/api")
    monkeypatch.chdir(tmp_path)
    return tmp_path

"""Which child processes the current run has, told to whoever keeps the record.

The supervisor tells of every child that it starts and ends; a lease writes them into the ledger, so that recovery can
end what a killed run left. The kernel ends direct children of a killed run; grandchildren carry the mark.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol

from tidegate.model import Value

ATTEMPT_VARIABLE = "TIDEGATE_ATTEMPT"
"""The environment variable that every process below a run carries: the id of its attempt."""


class ProcessGroup(Value):
    """A child's process group."""

    group: int
    started: int
    """Start of its leader, as `Owner.started`."""
    name: str


class ChildRegistry(Protocol):
    """Who keeps the record of one run."""

    @property
    def mark(self) -> str:
        """The value of MARK."""

    def add_child(self, group: ProcessGroup) -> None: ...

    def remove_child(self, group: ProcessGroup) -> None: ...


_registry: ContextVar[ChildRegistry | None] = ContextVar("children", default=None)


@contextlib.contextmanager
def use_registry(record: ChildRegistry) -> Iterator[None]:
    """While it lasts, children that are started in this context are told to `record`."""
    token = _registry.set(record)
    try:
        yield
    finally:
        _registry.reset(token)


def mark_variable() -> dict[str, str]:
    """What a child's environment needs beyond ours."""
    record = _registry.get()
    return {ATTEMPT_VARIABLE: record.mark} if record else {}


def own_name(name: str) -> str:
    """The name of a folder for this attempt's children alone, where there is one.

    On another host, a tool of an attempt that has lost its work may go on writing for as long as it takes to notice.
    """
    return "-".join((name, *mark_variable().values()))


@contextlib.contextmanager
def register_child(group: ProcessGroup) -> Iterator[None]:
    """The life of one child."""
    record = _registry.get()
    if record is None:
        yield
        return
    record.add_child(group)
    try:
        yield
    finally:
        record.remove_child(group)

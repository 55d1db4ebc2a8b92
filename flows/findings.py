"""What a check of `python -m flows.doctor` has seen, and how bad it is."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from tidegate.model import Value


class Level(StrEnum):
    GREEN = "green"
    YELLOW = "yellow"
    """It works, but something is missing that somebody may count on."""
    RED = "red"


class Finding(Value):
    """What one check has seen."""

    level: Level
    subject: str
    message: str
    do: str = ""
    """What to do about it; empty when there is nothing to do."""


Findings = Iterator[Finding]


def good(subject: str, message: str) -> Finding:
    return Finding(level=Level.GREEN, subject=subject, message=message)


def odd(subject: str, message: str, do: str) -> Finding:
    return Finding(level=Level.YELLOW, subject=subject, message=message, do=do)


def bad(subject: str, message: str, do: str) -> Finding:
    return Finding(level=Level.RED, subject=subject, message=message, do=do)

"""What runs here runs supervised: the fixtures of tests/process serve these tests, too."""

from __future__ import annotations

from tests.process.conftest import _played_by_script, mark, nothing_left

__all__ = ["_played_by_script", "mark", "nothing_left"]

"""docs/security.md names a test for each attack: each of them is there, under that name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)))


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_each_test_that_the_page_names_is_there(file: str, test: str) -> None:
    source = (ROOT / file).read_text()
    assert not test or re.search(rf"^(async )?def {test}\b", source, re.MULTILINE)


def test_each_row_about_an_attack_names_a_test() -> None:
    header = "| attack or fault | what defends | test |"
    tables = [part.partition("\n\n")[0].splitlines()[2:] for part in PAGE.split(header)[1:]]
    rows = [row for table in tables for row in table]
    assert len(rows) > 50
    assert [row for row in rows if "`tests/" not in row.rsplit("|", 2)[1]] == []

"""docs/glossary.md: sorted terms, one sentence each, and every file that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "glossary.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")][
    1:
]


def test_every_file_that_the_glossary_names_is_there() -> None:
    named = {term: re.findall(r"`([\w/.]+)`", place) for term, _, place in ROWS}
    assert [term for term, files in named.items() if not files] == []
    assert [file for files in named.values() for file in files if not (ROOT / file).is_file()] == []


def test_terms_are_sorted_and_each_is_told_once_in_one_sentence() -> None:
    terms = [term for term, _, _ in ROWS]
    assert terms == sorted(set(terms)) and 20 <= len(terms) <= 30
    assert [term for term, sentence, _ in ROWS if not re.fullmatch(r"[^.]+(?:\.\w[^.]*)*\.", sentence)] == []


def test_readme_and_architecture_link_to_the_glossary() -> None:
    assert "(docs/glossary.md)" in (ROOT / "README.md").read_text()
    assert "(glossary.md)" in (ROOT / "docs" / "architecture.md").read_text()

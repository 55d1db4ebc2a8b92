"""The tables in docs/ say what the code does now."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_holds_the_tables_of_the_code(tables: ModuleType) -> None:
    pages = tables.pages()
    assert {"failures.md", "settings.md", "remux.md", "analyze.md"} <= {page.name for page in pages}
    for page in pages:
        assert page.read_text() == tables.rendered(page.read_text()), f"{page.name} is stale: run `make docs`"


def test_every_setting_has_a_docstring(tables: ModuleType) -> None:
    from tidegate.settings import ProcessSettings, StoreSettings, ToolSettings, TransferSettings

    for group in (StoreSettings, TransferSettings, ProcessSettings, ToolSettings):
        assert set(tables._field_docstrings(group)) == set(group.model_fields), group.__name__

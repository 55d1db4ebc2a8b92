"""What names promise over the whole tree: functions do or ask, and a name means one thing in its layer."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support.command import ROOT
from tests.test_architecture import MODULES


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text))


IRREGULAR = words(
    "made told said brought given kept held begun known seen sent shown taken written met paid built "
    "bought caught chosen done drawn driven fallen forgotten gone grown heard hidden laid led lost meant "
    "risen spent stood thrown"
)
NO_PARTICIPLES = words(
    "need feed seed speed embed exceed bring string ping ring during ceiling heading timing spacing "
    "encoding setting finding warning listing padding mapping binding rendering sibling"
)
"""Nouns and verbs that end as participles do."""
QUESTIONS = words("is has was are may can does must will were had")
PROPERTIES = frozenset({"property", "cached_property", "setter"})
OF_ASYNCIO = frozenset({"connection_made", "data_received", "pause_writing", "resume_writing", "connection_lost"})
"""Names that a `Protocol` of asyncio gives."""
SHARED_NAMES = {
    "main": "each command and each child's script has one",
    "read": "readers of several formats have one shape",
    "stage": "each module of tasks/ makes its task from one",
    "say": "two scripts of children that import nothing of ours say their lines alike",
}
"""Names that several modules of one layer define, and why; fewer than ten."""
TREES = {path: ast.parse((ROOT / path).read_text()) for path in MODULES}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_participle(word: str) -> bool:
    return word in IRREGULAR or (re.fullmatch(r"\w{2,}(ed|ing)", word) is not None and word not in NO_PARTICIPLES)


def is_property(function: Function) -> bool:
    return any(ast.unparse(decorator).rpartition(".")[2] in PROPERTIES for decorator in function.decorator_list)


def reads_as_participle(name: str) -> bool:
    first, *_, last = name.strip("_").split("_") * 2
    return first not in QUESTIONS and (is_participle(first) or is_participle(last))


def layer_of(path: Path) -> str:
    inner = path.parts[0] == "tidegate" and len(path.parts) > 2
    return "/".join(path.parts[: 2 if inner else 1])


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("told", True),
        ("_announced", True),
        ("paired_streams", True),
        ("bytes_left_reading", True),
        ("is_leased", False),
        ("speed", False),
        ("run_attempt", False),
    ],
)
def test_the_rule_finds_what_it_is_for(name: str, found: bool) -> None:
    assert reads_as_participle(name) is found


def test_functions_are_verbs_questions_or_nouns() -> None:
    found = [
        f"{path}:{node.lineno} {node.name}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, Function)
        and not node.name.startswith("__")
        and node.name not in OF_ASYNCIO
        and not is_property(node)
        and reads_as_participle(node.name)
    ]
    assert found == []


def test_a_name_means_one_thing_in_its_layer() -> None:
    homes: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for path, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, Function | ast.ClassDef):
                homes[layer_of(path), node.name].append(str(path))
    shared = {name: paths for (_, name), paths in homes.items() if len(paths) > 1}
    assert {name: paths for name, paths in shared.items() if name not in SHARED_NAMES} == {}
    assert set(SHARED_NAMES) <= set(shared), "a reason without its names"
    assert len(SHARED_NAMES) < 10


def test_docstrings_say_their_sentence() -> None:
    found = [
        f"{path}:{node.lineno} {node.name}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, Function | ast.ClassDef) and re.fullmatch(r"See \S.*\.", ast.get_docstring(node) or "")
    ]
    assert found == []

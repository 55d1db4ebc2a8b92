"""The failure table decides, and nobody beside it: read from the code itself, so that a new decision is seen."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest

from tidegate import errors
from tidegate.errors import (
    POLICIES,
    Category,
    Extra,
    Inside,
    Link,
    Mirror,
    OfSegment,
    Policy,
    TidegateError,
    snake_case,
)

ROOT = Path(__file__).resolve().parents[2]
ERRORS = "tidegate/errors.py"
BASE = TidegateError.__name__

ONLY_FOR_DOCS = {"label", "inside_words"}
"""Fields of the table that are words for its page."""

NOT_FAILURES = {f"tidegate/media/inspect_child/{name}.py" for name in ("__main__", "facts", "decoding")}
"""Where `.type` is that of a stream."""

HANDLERS = {
    # Somebody else decides over this run, or the work is in doubt.
    ("flows/ending.py", "Coordination"): "the work is somebody else's: nothing of it is touched any more",
    ("flows/ending.py", "Superseded"): "whoever took the work over speaks for it; this run leaves",
    # The ledger is away: those who only tell it something, or can do without its answer, go on.
    ("flows/arguments.py", "LedgerUnavailable"): "nobody can tell which folders are needed: nothing is swept",
    ("flows/attempts.py", "LedgerUnavailable"): "waits for the ledger; what cannot be asked is not claimed",
    ("flows/ending.py", "LedgerUnavailable"): "a count for people may not cost the run its end",
    ("tidegate/durable/ledger/database.py", "LedgerUnavailable"): "a damaged file is put aside: a repair",
    ("tidegate/durable/ledger/lease.py", "LedgerUnavailable"): "renewed until it counts as lost; then LeaseLost",
    ("tidegate/durable/ledger/ledger.py", "LedgerUnavailable"): "the ledger's own patience with its database",
    ("tidegate/transfer/gates/records.py", "LedgerUnavailable"): "the same, for the gates' records",
    # Translated: into another failure, an answer, or words.
    (
        "flows/arguments.py",
        "BadInput",
    ): "links without a file are collected; a refused command removes its folders",
    ("flows/doctor.py", "ServerUnavailable"): "becomes a line of the doctor's",
    ("flows/lines.py", "BadInput"): "gets the number of its line",
    ("flows/lines.py", "UsageError"): "collected, so that all wrong lines are told at once",
    ("flows/run.py", "BadInput"): "becomes the panel and the exit code",
    ("tidegate/stages/download.py", "WrongDigest"): "the answer no: what is in the store does not stand",
    ("tidegate/stages/outside.py", "ToolMissing"): "the answer none: a downloader then has no ffmpeg to start",
    ("tidegate/transfer/file/peek.py", "NotMedia"): "the answer that only the whole file can tell",
    ("tidegate/transfer/parsing.py", "MemoryExhausted"): "of the child, into one of the playlist",
    ("tidegate/transfer/parsing.py", "ProcessTimeout"): "of the child, into one of the playlist",
    ("tidegate/transfer/parsing.py", "StalledProcess"): "of the child, into one of the playlist",
    ("tidegate/transfer/playlists/parse_child.py", "NotMedia"): "into the words of the child's answer",
    ("tidegate/transfer/playlists/parse_child.py", "UnsupportedSource"): "into the words of the child's answer",
    ("tidegate/transfer/resolvers/site_extraction.py", "ProcessTimeout"): "of the child, into the site's",
    ("tidegate/transfer/resolvers/site_extraction.py", "StalledProcess"): "of the child, into the site's",
    ("tidegate/transfer/resolvers/twitch_tool.py", "NotMedia"): "what the tool left is no media: ToolFailed",
    ("tidegate/transfer/resolvers/twitch_tool.py", "ProcessTimeout"): "of the tool, into one of the transfer",
    ("tidegate/transfer/resolvers/twitch_tool.py", "StalledProcess"): "of the tool, into one of the transfer",
    ("tidegate/transfer/tool_proxy.py", "AddressRefused"): "into HTTP's 403, and in place of the tool's failure",
    ("tidegate/transfer/tool_proxy.py", "AvailabilityFailure"): "of the tool, into the AddressRefused behind it",
    ("tidegate/transfer/tool_proxy.py", "RequestTimeout"): "into HTTP's 504",
    ("tidegate/transfer/tool_proxy.py", "SourceFailure"): "of the tool, into the AddressRefused behind it",
    ("tidegate/transfer/tool_proxy.py", "Unknown"): "of the tool, into the AddressRefused behind it",
    ("tidegate/transfer/tool_proxy.py", "UsageError"): "of the tool, into the AddressRefused behind it",
    (
        "tidegate/transfer/transport/dial.py",
        "ConnectionFailed",
    ): "a name that only the proxy knows is judged as text",
    # One kind of failure that a resolver raises so that another one takes over.
    ("tidegate/stages/probe.py", "OtherKind"): "says which resolver knows the source",
    ("tidegate/transfer/resolvers/direct.py", "IsPlaylist"): "into OtherKind",
    ("tidegate/transfer/resolvers/local.py", "IsPlaylist"): "into UnsupportedSource",
    # Cleaned up, and raised on.
    ("tidegate/transfer/file/transfer.py", "WrongDigest"): "the part is emptied before it is raised on",
    ("tidegate/transfer/file/parallel.py", "RangeMismatch"): "noted that the origin's ranges are wrong, and raised on",
    ("tidegate/transfer/segments/session.py", "AvailabilityFailure"): "noted how much had come, and raised on",
    ("tidegate/transfer/transport/sockets.py", "ConnectionFailed"): "a kept connection was closed: a new one, once",
}
"""Handlers of concrete classes: where, of what, and why that is no decision beside the table."""


Nodes = Iterable[tuple[str, ast.AST]]
"""Parts of the code, each with its file."""


@cache
def modules() -> dict[str, ast.Module]:
    paths = [path for top in ("tidegate", "flows", "tasks") for path in sorted((ROOT / top).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in paths}


@cache
def everything() -> list[tuple[str, ast.AST]]:
    return [(path, node) for path, module in modules().items() for node in ast.walk(module)]


@cache
def others() -> list[tuple[str, ast.AST]]:
    """What stands outside errors.py."""
    return [(path, node) for path, node in everything() if path != ERRORS]


@cache
def failures() -> frozenset[str]:
    """The names of all failure classes, also of those outside errors.py, and of constants that group some."""
    definitions = [
        (name, names_in(node.value if isinstance(node, ast.Assign) else node))
        for _, node in everything()
        if isinstance(node, ast.Assign | ast.ClassDef)
        for name in names_given(node)
    ]
    found = {BASE}
    while more := {name for name, parts in definitions if parts & found} - found:
        found |= more
    return frozenset(found)


def names_given(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.ClassDef):
        yield node.name
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name) and target.id.isupper())


def names_in(node: ast.AST | None) -> set[str]:
    """The names that an expression holds, or that a class has as its bases."""
    if node is None:
        return set()
    parts = node.bases if isinstance(node, ast.ClassDef) else [node]
    inside = [inner for part in parts for inner in ast.walk(part)]
    return {inner.id for inner in inside if isinstance(inner, ast.Name)} | {
        inner.attr for inner in inside if isinstance(inner, ast.Attribute)
    }


def concrete(node: ast.AST | None) -> set[str]:
    return (names_in(node) & failures()) - {BASE}


def at(path: str, node: ast.AST) -> str:
    return f"{path}:{node.lineno}"  # type: ignore[attr-defined]


def questions_of_class(nodes: Nodes) -> list[str]:
    return [
        at(path, node)
        for path, node in nodes
        if (
            isinstance(node, ast.Call) and names_in(node.func) & {"isinstance", "issubclass"} and concrete(node.args[1])
        )
        or (isinstance(node, ast.MatchClass) and concrete(node.cls))
        or (
            isinstance(node, ast.Compare)
            and any(isinstance(side, ast.Name) and concrete(side) for side in (node.left, *node.comparators))
        )
    ]


def questions_of_name(nodes: Nodes) -> list[str]:
    public = {snake_case(name) for name in failures()}

    def is_name(node: ast.AST) -> bool:
        return isinstance(node, ast.Constant) and node.value in public

    return [
        at(path, node)
        for path, node in nodes
        if path not in NOT_FAILURES
        and (
            (
                isinstance(node, ast.Compare)
                and any(
                    is_name(side) or (isinstance(side, ast.Attribute) and side.attr == "type")
                    for side in (node.left, *node.comparators)
                )
            )
            or (isinstance(node, ast.Set | ast.Tuple | ast.List) and any(is_name(element) for element in node.elts))
        )
    ]


def handlers(nodes: Nodes) -> set[tuple[str, str]]:
    """Files, and the concrete failures that they catch; a constant is spelled out."""
    named = {(path, name) for path, node in nodes for caught in caught_by(node) for name in concrete(caught)}
    return {(path, member) for path, name in named for member in (members(path, name) if name.isupper() else {name})}


def test_nobody_asks_whether_a_failure_is_of_a_class() -> None:
    assert questions_of_class(others()) == []


def test_nobody_compares_a_failure_by_its_name() -> None:
    assert questions_of_name(others()) == []


def test_a_handler_of_a_concrete_failure_is_known_with_its_reason() -> None:
    assert handlers(others()) == set(HANDLERS), "decide by a field of its policy, or say why not"


@pytest.mark.parametrize(
    "code",
    [
        "isinstance(error, Throttled)",
        "isinstance(error, errors.DiskFull | errors.PathRefused)",
        "isinstance(error, _OF_THE_SOURCE)",
        "type(error) is Throttled",
        "match error:\n    case Throttled():\n        pass",
    ],
)
def test_a_question_of_class_would_be_found(code: str) -> None:
    assert questions_of_class([("flows/new.py", node) for node in ast.walk(ast.parse(code))]) != []


@pytest.mark.parametrize("code", ["failure.type == OPEN", "error.type in NAMES", 'NAMES = {"not_media", "throttled"}'])
def test_a_question_of_name_would_be_found(code: str) -> None:
    assert questions_of_name([("flows/new.py", node) for node in ast.walk(ast.parse(code))]) != []


@pytest.mark.parametrize("code", ["try:\n    act()\nexcept NotMedia:\n    pass", "with suppress(NotMedia):\n    act()"])
def test_a_new_handler_would_be_found(code: str) -> None:
    found = handlers([("flows/new.py", node) for node in ast.walk(ast.parse(code))])
    assert found == {("flows/new.py", "NotMedia")}


def caught_by(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.ExceptHandler) and node.type is not None:
        yield node.type
    if isinstance(node, ast.Call) and names_in(node.func) & {"suppress"}:
        yield from node.args


def members(path: str, constant: str) -> set[str]:
    """The classes that a module's constant groups; the constant itself, where another module made it."""
    for node in modules()[path].body:
        if isinstance(node, ast.Assign) and names_in(node.targets[0]) == {constant}:
            return concrete(node.value)
    return {constant}


def policies_read() -> set[str]:
    """Fields that are read from a policy outside errors.py."""
    return {
        node.attr
        for _, node in others()
        if isinstance(node, ast.Attribute) and names_in(node.value) & {"policy", "policy_by_name", "policy_of"}
    }


def test_every_field_of_the_table_is_read_by_somebody() -> None:
    through = {"of_segment"} if "leaves_out_track" in policies_read() else set()
    unread = {field.name for field in fields(Policy)} - ONLY_FOR_DOCS - policies_read() - through
    assert unread == set()


@pytest.mark.parametrize("values", [Inside, Mirror, OfSegment, Link, Extra])
def test_every_value_of_a_field_is_asked_for_but_one_which_is_the_rest(values: type[Inside]) -> None:
    asked = {
        node.attr
        for _, node in others()
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == values.__name__
    }
    assert len(set(values.__members__) - asked) <= 1


def test_no_row_says_what_cannot_be_read_of_it() -> None:
    """What holds between the columns."""
    for failure, policy in POLICIES.items():
        assert policy.another_resolver or not policy.another_rendition, failure
        assert policy.of_our_tools or not policy.smaller_picture, "nobody else knows how large the picture was"
        assert (policy.category is Category.USAGE) == issubclass(failure, errors.UsageError)
        assert policy.inside is Inside.AT_ONCE or not policy.refetch_once, failure


def test_the_columns_follow_the_families_of_the_tree() -> None:
    answers = {
        "of_our_tools": errors.ProcessFailure,
        "origin_answered": errors.SourceFailure,
    }
    for failure, policy in POLICIES.items():
        for column, family in answers.items():
            assert getattr(policy, column) == issubclass(failure, family), (failure, column)
        assert (policy.of_segment is OfSegment.ALWAYS) == issubclass(failure, errors.SourceFailure), failure
        assert (policy.mirror is Mirror.NEXT) == issubclass(failure, errors.UsageError), failure
        passing = (errors.AvailabilityFailure, errors.HttpRefused)
        assert (policy.mirror is Mirror.ALWAYS) == issubclass(failure, passing), failure
        ends = (errors.HostFailure, errors.SourceChanged, errors.LimitReached, errors.DownloadDeadline)
        assert policy.ends_the_try == issubclass(failure, ends), failure


def test_a_name_in_a_record_finds_its_row() -> None:
    for failure, policy in POLICIES.items():
        assert errors.policy_by_name(snake_case(failure.__name__)) is policy
    assert errors.policy_by_name("of a version to come") is POLICIES[errors.Unknown]

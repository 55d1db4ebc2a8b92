"""Writes the tables of the docs that stand in the code: failures, settings, the decision table.

`make docs` runs it; a test runs it too and fails when a page differs. It replaces what stands between the marks
`<!-- table NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from tidegate import settings
from tidegate.errors import POLICIES, Inside, Policy, TidegateError, snake_case
from tidegate.model import ProfileName
from tidegate.resilience.quality import MB, RUNGS
from tidegate.settings import Group, Settings
from tidegate.stages.decide import ALLOWED
from tidegate.stages.detectors import DETECTORS

DOCS = Path(__file__).resolve().parent


def failures() -> Iterator[str]:
    yield (
        "| `failure.type` | failure | retried inside | task retried | steps quality down | climbs remux ladder "
        "| counts against origin | category |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for failure, policy in POLICIES.items():
        yield _failure_row(failure, policy)


def _failure_row(failure: type[TidegateError], policy: Policy) -> str:
    retried = {0: "no", 1: "once", 2: "yes"}[policy.task_retries]
    inside = "–" if policy.inside is Inside.NO else policy.inside
    counts = "+1" if policy.counts_against_origin else "no"
    return (
        f"| `{snake_case(failure.__name__)}` | {policy.label} | {inside} | {retried} | {policy.steps_down} "
        f"| {policy.climbs} | {counts} | {policy.category} |"
    )


def messages() -> Iterator[str]:
    yield "| `failure.type` | what it means | what the person reads | what the person can do |"
    yield "|---|---|---|---|"
    for failure, policy in POLICIES.items():
        meaning = " ".join((failure.__doc__ or "").split("\n\n")[0].split())
        yield f"| `{snake_case(failure.__name__)}` | {meaning} | {policy.friendly} | {'; '.join(policy.actions)} |"


def all_settings() -> Iterator[str]:
    yield "| environment variable | default | meaning |"
    yield "|---|---|---|"
    for group in _groups():
        docstrings = _field_docstrings(group)
        prefix = str(group.model_config.get("env_prefix"))
        for name, field in group.model_fields.items():
            default = "see below" if field.default_factory else _shown(field.default)
            yield f"| `{prefix}{name.upper()}` | {default} | {docstrings[name]} |"


def _groups() -> list[type[Group]]:
    """Where things lie comes first; the rest as they stand in the code."""
    kinds = [field.annotation for field in Settings.model_fields.values() if field.annotation is not None]
    return sorted(kinds, key=lambda kind: kind.__name__ != "StoreSettings")


def profiles() -> Iterator[str]:
    yield "| profile | video copied | audio copied | deepest video | everything else |"
    yield "|---|---|---|---|---|"
    for name, allowed in ALLOWED.items():
        otherwise = "into Matroska, as it is" if name is ProfileName.ORIGINAL else "H.264 8-bit 4:2:0, AAC"
        yield (
            f"| `{name}` | {', '.join(sorted(allowed.video))} | {', '.join(sorted(allowed.audio))} "
            f"| {allowed.deepest_bits} bit (H.264: {8 if name is not ProfileName.ORIGINAL else 16}) | {otherwise} |"
        )


def rungs() -> Iterator[str]:
    yield "| rung | memory cap | wants | timeout × | threads | height after a step down |"
    yield "|---|---|---|---|---|---|"
    for rung in RUNGS:
        asked = "" if rung.recommended else " (only when asked for)"
        yield (
            f"| `{rung.quality}`{asked} | {rung.memory_cap_bytes // MB} MB | {rung.wanted_bytes // MB} MB "
            f"| {rung.timeout_factor} | {rung.threads} | {rung.height} |"
        )


def detectors() -> Iterator[str]:
    yield "| detector | looks at | ffmpeg filter |"
    yield "|---|---|---|"
    for detector in DETECTORS:
        yield f"| `{detector.name}` | {detector.kind} | `{detector.filter}` |"


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "failures": failures,
    "messages": messages,
    "settings": all_settings,
    "profiles": profiles,
    "rungs": rungs,
    "detectors": detectors,
}


def rendered(text: str) -> str:
    """A page with its tables as the code has them now."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- table {match[1]} -->\n" + "\n".join(TABLES[match[1]]()) + "\n<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def pages() -> list[Path]:
    return sorted(path for path in DOCS.rglob("*.md") if "<!-- table " in path.read_text())


def _field_docstrings(group: type[Group]) -> dict[str, str]:
    """The string under each field; pydantic does not keep it."""
    tree = ast.parse(inspect.getsource(settings))
    [node] = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == group.__name__]
    found: dict[str, str] = {}
    for field, after in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
            found[field.target.id] = " ".join(str(ast.literal_eval(after.value)).split())
    return found


def _shown(value: Any) -> str:
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g} s"
    return "–" if value is None else f"{value}"


def main() -> None:
    for page in pages():
        page.write_text(rendered(page.read_text()))


if __name__ == "__main__":
    main()

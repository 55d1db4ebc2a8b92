"""What holds for the whole tree: who imports whom, a word in every module on what it is for, no traces of a machine."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.command import ROOT

PACKAGES = ("flows", "tasks", "blocks", "tidegate", "deployments")
MODULES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LIGHT = ("tidegate", "tidegate.stages", "tidegate.report.html", "flows.run", "flows.request")
"""What a usage error or a library user imports; the seconds of `import prefect` are not theirs."""
PUBLIC_REGISTRIES = {"pypi.org", "files.pythonhosted.org"}


def ran(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120)


def python(code: str) -> str:
    done = ran(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse((ROOT / path).read_text())) or ""


@pytest.fixture(scope="module")
def tracked() -> dict[str, str]:
    """Every text file under version control, by name."""
    listed = ran("git", "ls-files", "-z")
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    return {name: (ROOT / name).read_text(errors="replace") for name in paths}


def test_the_layers_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = ran(str(linter))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout and "0 kept" not in done.stdout


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert docstring(path).strip(), f"{path} has no docstring"


@pytest.mark.parametrize("module", [m for m in MODULES if m.parts[0] == "tidegate"], ids=str)
def test_no_module_of_the_engine_names_prefect_in_an_import(module: Path) -> None:
    for node in ast.walk(ast.parse((ROOT / module).read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not [name for name in names if name.partition(".")[0] == "prefect"]


@pytest.mark.parametrize("module", LIGHT)
def test_prefect_is_not_imported_by(module: str) -> None:
    loaded = python(f"import sys, {module}; print('prefect' in sys.modules)")
    assert loaded == "False"


def test_the_guard_above_would_notice_prefect() -> None:
    assert python("import sys, tasks.probe; print('prefect' in sys.modules)") == "True"


def test_the_engine_works_where_prefect_cannot_be_imported() -> None:
    paths = [path for path in MODULES if path.parts[0] == "tidegate" and path.stem != "__main__"]  # those are programs
    modules = [".".join(path.with_suffix("").parts) for path in paths]
    names = ", ".join(name.removesuffix(".__init__") for name in modules)
    assert python(f"import sys; sys.modules['prefect'] = None\nimport {names}\nprint('fine')") == "fine"


def test_test_folders_named_like_our_packages_do_not_shadow_them() -> None:
    assert [name for name in PACKAGES if (ROOT / "tests" / name / "__init__.py").exists()] == []


def test_no_tracked_file_names_a_folder_of_one_machine(tracked: dict[str, str]) -> None:
    # Put together here, so that this file is clean too.
    folders = ["/" + "/".join((name, "")) for name in ("work", "root")] + [str(Path.home()) + "/"]
    found = {name: folder for name, text in tracked.items() for folder in folders if folder in text}
    assert found == {}


def test_no_tracked_file_names_the_package_registry_of_this_machine(tracked: dict[str, str]) -> None:
    places = registries()
    assert {name: place for name, text in tracked.items() for place in places if place in text} == {}
    flags = tuple("--" + flag for flag in ("index-url", "extra-index-url", "find-links", "trusted-host"))
    own = Path(__file__).resolve().relative_to(ROOT).as_posix()
    assert {name for name, text in tracked.items() if name != own and any(flag in text for flag in flags)} == set()


def registries() -> set[str]:
    """Hosts, and folders in place of hosts, from which pip installs here; public ones are nobody's secret."""
    places: set[str] = set()
    for line in ran(sys.executable, "-m", "pip", "config", "list").stdout.splitlines():
        name, _, value = line.partition("=")
        if name.rpartition(".")[2] in ("index-url", "extra-index-url", "find-links", "proxy", "trusted-host"):
            for url in value.strip("'\"").replace("\\n", " ").split():
                parts = urlsplit(url)
                places.add(parts.hostname or parts.path)
    return places - PUBLIC_REGISTRIES

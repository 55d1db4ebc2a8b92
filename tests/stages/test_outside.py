"""What a downloader tool is given by a stage: a folder, a way out, and no more; with real children."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio
import pytest

from tests.process.test_confine import listener
from tidegate.process.confine import kernel_features
from tidegate.settings import Settings
from tidegate.stages.outside import outside_of, reach_of
from tidegate.stages.workbench import Workbench

held = pytest.mark.skipif(not kernel_features().whole, reason="this kernel confines nothing")
PROXY = {"http_proxy": "http://somebody:secret@127.0.0.1:3128", "HTTPS_PROXY": "http://somebody:secret@127.0.0.1:3128"}


@pytest.mark.parametrize(
    ("environment", "reach"),
    [
        ({}, "any"),
        ({"NO_COLOR": "1"}, "any"),
        (PROXY | {"no_proxy": ""}, 3128),
        ({"https_proxy": "http://[::1]:3128"}, 3128),
        (PROXY | {"all_proxy": "http://127.0.0.1:1"}, "any"),
        ({"https_proxy": "http://192.0.2.1:3128"}, "any"),
        ({"https_proxy": "http://127.0.0.1:nothing"}, "any"),
    ],
)
def test_a_tool_that_is_led_to_a_proxy_of_ours_needs_that_port_only(
    environment: dict[str, str], reach: str | int
) -> None:
    assert reach_of(environment) == reach


def said(program: str, **told: object) -> dict[str, object]:
    """What a tool finds that a stage runs for a resolver."""
    run_tool = outside_of(Workbench(Settings.load()), "download").run_tool
    lines: list[str] = []

    async def main() -> int:
        argv = [sys.executable, "-I", "-c", f"import json, os, socket, sys, tempfile\n{program}"]
        end = await run_tool(name="it", argv=argv, deadline_seconds=60.0, on_stdout=lines.append, **told)  # type: ignore[arg-type]
        return end.exit_code

    assert anyio.run(main) == 0, lines
    found: dict[str, object] = json.loads(lines[-1])
    return found


@held
@pytest.mark.parametrize("own", [True, False])
def test_a_program_of_dotnet_can_unpack_its_libraries_and_they_are_gone_afterwards(own: bool, tmp_path: Path) -> None:
    """LiveStreamDVR and Ganymede met it in containers: without a folder to unpack into it does not even begin."""
    program = """
folder = os.environ["DOTNET_BUNDLE_EXTRACT_BASE_DIR"]
with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file: pass
print(json.dumps({"folder": folder, "temporary": tempfile.gettempdir(), "at": os.getcwd()}))
"""
    found = said(program, folder=tmp_path if own else None)
    assert found["folder"] == found["temporary"] == found["at"]
    assert (found["folder"] == str(tmp_path)) is own
    assert Path(str(found["folder"])).exists() is own


@held
def test_through_a_proxy_of_ours_it_reaches_that_and_nothing_else() -> None:
    program = """
found = {}
for name in ("proxy", "elsewhere"):
    try:
        socket.create_connection(("127.0.0.1", int(os.environ[name])), 5).close()
        found[name] = "reached"
    except OSError as error:
        found[name] = type(error).__name__
print(json.dumps(found))
"""
    with listener() as (proxy, came), listener() as (elsewhere, came_elsewhere):
        ports = {"proxy": str(proxy), "elsewhere": str(elsewhere)}
        found = said(program, environment={"https_proxy": f"http://127.0.0.1:{proxy}", **ports})
    assert found == {"proxy": "reached", "elsewhere": "PermissionError"}
    assert (len(came), came_elsewhere) == (1, [])


@held
def test_one_that_needs_no_network_can_be_given_none() -> None:
    program = """
try:
    socket.socket()
    print(json.dumps({"socket": "made"}))
except OSError as error:
    print(json.dumps({"socket": type(error).__name__}))
"""
    assert said(program, network="none") == {"socket": "PermissionError"}

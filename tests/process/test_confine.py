"""What a child cannot do, tried by real children under a real supervisor: connect, read what is not its own, write
elsewhere, reach into other processes, dump core; and what real tools must be able to do all the same.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from tests.support.clips import clip
from tidegate.durable.home import Home
from tidegate.errors import PermissionRefused
from tidegate.events import ignore_events
from tidegate.media.ffmpeg import Toolchain, base_arguments, file_url, files_in, run_ffmpeg
from tidegate.media.inspect import inspect
from tidegate.process import confine
from tidegate.process import rights as rights_module
from tidegate.process.confine import READS, Confinement, NetworkAccess, filter_of, kernel_features
from tidegate.process.job import Job
from tidegate.process.rights import private_folders, rights_of, without
from tidegate.process.supervise import JobResult, run
from tidegate.settings import ProcessSettings, ToolSettings

pytestmark = [
    pytest.mark.usefixtures("nothing_left"),
    pytest.mark.skipif(not kernel_features().whole, reason="this kernel confines nothing"),
]
CONFINED = ProcessSettings(allow="")

TRY = """
import ctypes, errno, json, os, resource, socket, sys
found = {}
def attempt(name, act):
    try:
        found[name] = act()
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
"""
"""The beginning of a program that tries things; `attempt` notes what came of each."""


def trying(*acts: str, limits: ProcessSettings = CONFINED, **job: object) -> dict[str, object]:
    """What became of each `name = expression` in a supervised child."""
    lines = [f"attempt({name.strip()!r}, lambda: {act.strip()})" for name, _, act in (a.partition("=") for a in acts)]
    program = "\n".join([TRY, *lines, "print(json.dumps(found, default=str))"])
    done: JobResult = anyio.run(run, Job("it", [sys.executable, "-I", "-c", program], 60.0, **job), limits)  # type: ignore[arg-type]
    assert done.exit_code == 0, done.stderr.tail
    found: dict[str, object] = json.loads(done.stdout.head)
    return found


@contextmanager
def listener() -> Iterator[tuple[int, list[object]]]:
    """A port of this host, and who came to it."""
    came: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            try:
                while True:
                    connection, peer = server.accept()
                    came.append(peer)
                    connection.close()
            except OSError:
                return

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1], came
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


# --- the network ----------------------------------------------------------------------------------


def connects(port: int, network: NetworkAccess, limits: ProcessSettings = CONFINED) -> dict[str, object]:
    return trying(
        f"tcp = socket.create_connection(('127.0.0.1', {port}), 5).close()",
        f"udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
        "netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()",
        "unix = socket.socket(socket.AF_UNIX).close()",
        "pair = [end.close() for end in socket.socketpair()] and None",
        limits=limits,
        network=network,
    )


def test_a_child_that_needs_no_network_has_none() -> None:
    with listener() as (port, came):
        found = connects(port, "none")
    assert came == []
    assert found == dict.fromkeys(("tcp", "udp", "netlink", "unix"), "EACCES") | {"pair": None}


def test_a_downloader_has_it() -> None:
    with listener() as (port, came):
        assert connects(port, "any")["tcp"] is None
    assert len(came) == 1


def test_a_downloader_that_is_led_through_a_proxy_reaches_nothing_else() -> None:
    with listener() as (proxy, came), listener() as (elsewhere, came_elsewhere):
        assert connects(proxy, proxy)["tcp"] is None
        found = connects(elsewhere, proxy)
    assert (len(came), came_elsewhere) == (1, [])
    assert (found["tcp"], found["udp"], found["netlink"]) == ("EACCES", "EACCES", "EACCES")


def test_what_a_child_starts_is_held_too() -> None:
    with listener() as (port, came):
        connect = f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)"
        found = trying(f"code = __import__('subprocess').run([sys.executable, '-I', '-c', {connect!r}]).returncode")
    assert (found, came) == ({"code": 1}, [])


def test_switched_off_it_starts_as_it_is() -> None:
    with listener() as (port, came):
        assert connects(port, "none", CONFINED.model_copy(update={"confine": "off"}))["tcp"] is None
    assert len(came) == 1


# --- files ----------------------------------------------------------------------------------------


def test_a_child_reads_and_writes_what_its_job_names_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, person = Home(tmp_path / "home"), tmp_path / "person"
    secrets = [home.secrets / "password", home.root / "ledger.sqlite", person / ".ssh" / "id", tmp_path / "other.mp4"]
    film, work = tmp_path / "film.mp4", tmp_path / "work"
    for path in (*secrets, film, work / "kept"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("bytes")
    monkeypatch.setenv("HOME", str(person))
    monkeypatch.setenv("TIDEGATE_HOME", str(home.root))
    found = trying(
        f"film = open({str(film)!r}).read()",
        *(f"{path.name} = open({str(path)!r}).read()" for path in secrets),
        "shadow = open('/etc/shadow').read()",
        f"listing = os.listdir({str(tmp_path)!r})",
        f"out = open({str(work / 'out')!r}, 'w').write('x')",
        f"over_the_film = open({str(film)!r}, 'w').write('x')",
        f"beside = open({str(tmp_path / 'beside')!r}, 'w').write('x')",
        f"removed = os.unlink({str(secrets[0])!r})",
        f"moved = os.rename({str(work / 'kept')!r}, {str(tmp_path / 'moved')!r})",
        f"linked = os.link({str(film)!r}, {str(work / 'linked')!r})",
        f"opened_up = os.chmod({str(secrets[2])!r}, 0o777)",
        f"given_away = os.chown({str(secrets[2])!r}, 65534, 65534)",
        f"started = os.posix_spawn({str(work / 'kept')!r}, ['x'], {{}})",
        reads=(film,),
        outputs=(work / "out",),
    )
    readable = {"film": "bytes", "out": 1}
    assert {name: what for name, what in found.items() if what not in ("EACCES", "EPERM", "EXDEV")} == readable
    assert [path.read_text() for path in secrets] == ["bytes"] * 4
    assert film.read_text() == "bytes"


def test_its_own_environment_is_all_that_it_sees_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even root may look into processes outside."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of our own")
    found = trying(
        "ours = open(f'/proc/{os.getppid()}/environ').read()",
        "memory = open(f'/proc/{os.getppid()}/mem', 'rb').read(1)",
        "descriptor = os.open(f'/proc/{os.getppid()}/fd/0', os.O_RDONLY)",
        "powers = {line.split()[1] for line in open('/proc/self/status') if line.startswith('CapEff')}",
        "its = 'of our own' in open('/proc/self/environ').read()",
    )
    powers = int(str(found.pop("powers")).strip("{}'"), 16)
    assert powers & ~confine._CAPABILITIES == 0
    assert found == {"ours": "EACCES", "memory": "EACCES", "descriptor": "EACCES", "its": False}


def test_a_folder_that_is_allowed_by_setting_may_be_used(tmp_path: Path) -> None:
    act = f"wrote = open({str(tmp_path / 'log')!r}, 'w').write('x')"
    assert trying(act) == {"wrote": "EACCES"}
    assert trying(act, limits=ProcessSettings(allow=str(tmp_path))) == {"wrote": 1}


# --- other processes, and the kernel --------------------------------------------------------------


def test_a_child_cannot_signal_us_nor_reach_into_others() -> None:
    call = "(lambda r: errno.errorcode[ctypes.get_errno()] if r < 0 else r)(ctypes.CDLL(None, use_errno=True).syscall"
    column = list(confine._ARCHITECTURES).index(confine._own_architecture() or "x86_64")
    names = ("ptrace", "io_uring_setup", "bpf", "unshare", "mount", "keyctl", "perf_event_open", "userfaultfd")
    numbers = {name: confine.FORBIDDEN[name][column] for name in names}
    found = trying(
        "signal = os.kill(os.getppid(), 0)",
        *(f"{name} = {call}({number}, 0, 0, 0, 0, 0))" for name, number in numbers.items()),
        f"clone3 = {call}(435, 0, 0))",
    )
    signalled = "EPERM" if kernel_features().landlock >= 6 else None
    assert found == {"signal": signalled, **dict.fromkeys(names, "EPERM"), "clone3": "ENOSYS"}


def test_a_crash_leaves_no_core_dump(tmp_path: Path) -> None:
    resources = trying("soft, hard = resource.getrlimit(resource.RLIMIT_CORE)".replace("soft, hard", "limits"))
    assert resources == {"limits": [0, 0]}
    program = "import os; os.abort()"
    done = anyio.run(run, Job("it", [sys.executable, "-I", "-c", program], 30.0, folder=tmp_path), CONFINED)
    assert done.exit_code == -6
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_a_program_of_32_bits_is_held_as_well(tmp_path: Path) -> None:
    source, tool = tmp_path / "tool.c", tmp_path / "tool"
    source.write_text("#include <sys/socket.h>\n#include <errno.h>\nint main(){return socket(2,1,0)<0?errno:0;}\n")
    built = subprocess.run(["cc", "-m32", "-static", "-o", tool, source], capture_output=True)
    if built.returncode:
        pytest.skip("it cannot build for 32 bits")
    assert anyio.run(run, Job("it", [str(tool)], 30.0), CONFINED).exit_code in (errno.EACCES, errno.EPERM)


def test_a_kernel_that_refuses_to_confine_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Confinement) -> None:
        raise OSError(errno.E2BIG, "too many layers")

    monkeypatch.setattr(Confinement, "put_on", refuse)
    with pytest.raises(PermissionRefused) as refused:
        trying("nothing = None")
    assert "TIDEGATE_PROCESS_CONFINE" in refused.value.hint


# --- what must work all the same ------------------------------------------------------------------


@pytest.fixture(params=["where it is", "in a person's folder", "by a link", "by a wrapper"])
def odd_ffmpeg(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The ffmpeg at hand, installed as people install it."""
    real = Toolchain.find(ToolSettings()).ffmpeg
    person = tmp_path / "person"
    place = person / "ffmpeg-9" / "bin" / "ffmpeg"
    place.parent.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(person))
    if request.param == "where it is":
        return real
    shutil.copy(real, place)
    if request.param == "in a person's folder":
        return place
    other = person / "bin" / "ffmpeg"
    other.parent.mkdir()
    if request.param == "by a link":
        other.symlink_to(place)
        return other
    other.write_text(f'#!/bin/sh\nexec {place} "$@"\n')
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place.parent}:{os.environ['PATH']}")
    return other


def test_an_ffmpeg_works_wherever_it_is_installed(odd_ffmpeg: Path, clips: Path, tmp_path: Path) -> None:
    film, out = clip(clips, "h264_aac_mp4", seconds=2), tmp_path / "work" / "out.mkv"
    out.parent.mkdir()

    async def main() -> None:
        argv = [*base_arguments(odd_ffmpeg, film), "-c", "copy", file_url(out)]
        await run_ffmpeg(
            argv, stage="remux", limits=CONFINED, deadline_seconds=60, media_seconds=2, observe=ignore_events
        )
        media = await inspect(out, "frames", CONFINED, 60, stage="remux", observe=ignore_events)
        assert media.video is not None
        assert media.video.frames

    anyio.run(main)


def test_what_a_command_reads_and_writes_is_seen_in_its_words(tmp_path: Path) -> None:
    argv = base_arguments(Path("ffmpeg"), tmp_path / "a b.mp4", tmp_path / "c.mka")
    argv += ["-map", "0", "-f", "null", "-", file_url(tmp_path / "x" / "out.mp4")]
    assert files_in(argv) == ((tmp_path / "a b.mp4", tmp_path / "c.mka"), (tmp_path / "x",))


def test_a_program_that_gets_rights_by_being_started_is_not_confined(tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    assert not rights_module.escapes_by_privilege(str(tool))
    tool.chmod(0o4755)
    assert rights_module.escapes_by_privilege(str(tool))


def test_what_is_hidden_is_cut_out_of_what_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service may keep its program, its environment and its home in one folder."""
    app = tmp_path / "app"
    for name in ("bin", "data/home", "data/public"):
        (app / name).mkdir(parents=True)
    hidden = (app / "data" / "home",)
    assert set(without(app, hidden)) == {app / "bin", app / "data" / "public"}
    assert list(without(app / "data" / "home", hidden)) == []
    assert list(without(app / "data" / "home" / "tools", hidden)) == [app / "data" / "home" / "tools"]
    monkeypatch.setenv("TIDEGATE_HOME", str(app / "data"))
    monkeypatch.setattr(rights_module, "SYSTEM_PATHS", (str(tmp_path),))
    rights_module.program_folders.cache_clear()
    rights = rights_of(Job("it", ["/bin/true"], 1.0), CONFINED, {"PATH": "/bin"})
    rights_module.program_folders.cache_clear()
    assert app / "data" in private_folders()
    assert rights[app / "bin"] == READS
    assert not [path for path in rights if path in (app, tmp_path, app / "data")]


# --- the filter itself, for processors that are not at hand ---------------------------------------


def verdict(program: list[tuple[int, int, int, int]], architecture: str, number: int, *arguments: int) -> int:
    """What the filter says, by a machine of our own that runs it."""
    data = {0: number, 4: confine._ARCHITECTURES.get(architecture, 0)}
    data |= {16 + 8 * place: value for place, value in enumerate(arguments)}
    at, held = 0, 0
    while True:
        code, yes, no, value = program[at]
        at += 1
        match code:
            case confine._LOAD:
                held = data.get(value, 0)
            case confine._AND:
                held &= value
            case confine._JUMP:
                at += value
            case confine._RETURN:
                return value
            case confine._EQUAL:
                at += yes if held == value else no
            case confine._AT_LEAST:
                at += yes if held >= value else no
            case confine._ANY_BIT:
                at += yes if held & value else no


FAILS, ALLOWED = confine._FAIL, confine._ALLOW


@pytest.mark.parametrize(("machine", "own"), [("x86_64", 0), ("x86_64", 1), ("aarch64", 2)])
@pytest.mark.parametrize("network", ["none", "any", 3128])
def test_the_filter_forbids_by_the_numbers_of_each_processor(
    machine: str, own: int, network: NetworkAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confine.platform, "machine", lambda: machine)
    architecture = list(confine._ARCHITECTURES)[own]
    program = filter_of(network)

    def said(number: int, *arguments: int) -> int:
        return verdict(program, architecture, number, *arguments)

    for numbers in confine.FORBIDDEN.values():
        if (number := numbers[own]) is not None:
            assert said(number) == FAILS | errno.EPERM
    for numbers in confine.FORBIDDEN_WITHOUT_NETWORK.values():
        if (number := numbers[own]) is not None and network == "any":
            assert said(number) == ALLOWED
    inet = said(confine._SOCKET[architecture], 2, 1 | 0o2000000)
    datagrams = said(confine._SOCKET[architecture], 2, 2)
    assert inet == (FAILS | errno.EACCES if network == "none" else ALLOWED)
    assert datagrams == (ALLOWED if network == "any" else FAILS | errno.EACCES)
    assert said(confine._CLONE[architecture], 0x10000000) == FAILS | errno.EPERM
    assert said(confine._CLONE[architecture], 0x01200011) == ALLOWED
    assert said(confine._CLONE3) == FAILS | errno.ENOSYS
    assert said(999) == ALLOWED
    assert verdict(program, "mips", 0) == confine._KILL_PROCESS


def test_calls_of_the_x32_interface_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confine.platform, "machine", lambda: "x86_64")
    assert verdict(filter_of("none"), "x86_64", 0x40000000 + 41, 2, 1) == FAILS | errno.ENOSYS

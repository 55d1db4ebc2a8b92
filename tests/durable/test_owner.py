"""Who a process is, and when it is provably gone: with real children, dead, stopped, undead and hidden."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import ROOT, wait_until
from tests.support.forked import Pipe, forked
from tidegate.durable.owner import INITIAL_NAMESPACE, Owner, is_provably_gone, start_of, this_process

NOBODY = 65534
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 1 << 14, 1 << 18
"""From linux/sched.h and linux/mount.h."""
HERE = Owner(host="here", boot="this boot", namespace=INITIAL_NAMESPACE, pid=100, started=5000)
CONTAINER = INITIAL_NAMESPACE + 17


def told(pipe: Pipe) -> None:
    pipe.say(this_process().model_dump_json())
    signal.pause()


def gone(change: dict[str, object], here: dict[str, object] | None = None, starts: int | None = 5000) -> bool:
    """For an owner like HERE but for `change`, where its number belongs to a process that began at `starts`."""
    owner, where = HERE.model_copy(update=change), HERE.model_copy(update=here or {})
    return is_provably_gone(owner, where, lambda pid: starts)


# --- the whole table -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "here", "starts", "expected"),
    [
        ({}, {}, 5000, False),  # it lives
        ({}, {}, None, True),  # it has ended
        ({}, {}, 5001, True),  # its number belongs to somebody else now
        ({"host": "away"}, {}, None, False),
        ({"host": "away", "boot": "another boot"}, {}, None, False),
        ({"boot": "the boot before"}, {}, 5000, True),  # a boot ends everything, whoever has its number now
        ({"boot": "the boot before", "namespace": CONTAINER}, {}, None, False),
        ({"boot": "the boot before"}, {"namespace": CONTAINER}, None, False),
        # Two containers that call themselves the same host may have the same namespace number on two machines.
        ({"boot": "another boot", "namespace": CONTAINER}, {"namespace": CONTAINER}, None, False),
        ({"boot": "the boot before", "namespace": 0}, {"namespace": 0}, 5000, True),  # no namespaces there
        ({"namespace": CONTAINER}, {}, None, False),
        ({}, {"namespace": CONTAINER}, None, False),
        ({"namespace": CONTAINER}, {"namespace": CONTAINER + 1}, None, False),
        ({"namespace": CONTAINER}, {"namespace": CONTAINER}, None, True),
        ({"namespace": CONTAINER}, {"namespace": CONTAINER}, 5000, False),
    ],
)
def test_only_what_is_certain_counts(
    change: dict[str, object], here: dict[str, object], starts: int | None, expected: bool
) -> None:
    assert gone(change, here, starts) is expected


# --- real processes --------------------------------------------------------------------------------


def test_we_are_not_gone_and_a_fork_is_somebody_else() -> None:
    here = this_process()
    assert not is_provably_gone(here, here)
    with forked(told) as child:
        other = Owner.model_validate_json(child.hear())
        assert (other.pid, other.host, other.boot, other.namespace) == (child.pid, here.host, here.boot, here.namespace)
        assert not is_provably_gone(other, here)
        assert is_provably_gone(other.model_copy(update={"started": other.started - 1}), here)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_was_ended_is_gone_even_before_it_is_reaped(end: signal.Signals) -> None:
    with forked(told) as child:
        owner = Owner.model_validate_json(child.hear())
        child.send(end)
        wait_until(lambda: start_of(child.pid) is None)
        assert Path(f"/proc/{child.pid}").exists(), "nobody has reaped it"
        assert is_provably_gone(owner, this_process())
        child.wait()
        assert is_provably_gone(owner, this_process())


def test_a_stopped_process_is_not_gone() -> None:
    with forked(told) as child:
        owner = Owner.model_validate_json(child.hear())
        child.send(signal.SIGSTOP)
        assert not is_provably_gone(owner, this_process())


def test_a_process_whose_name_looks_like_fields_is_read_rightly(tmp_path: Path) -> None:
    odd = tmp_path / ") Z 1 (x"
    shutil.copy("/bin/sleep", odd)
    process = subprocess.Popen([odd, "60"])
    try:
        wait_until(lambda: ") Z 1 (x" in Path(f"/proc/{process.pid}/comm").read_text())
        started = start_of(process.pid)
        assert started is not None and started >= (start_of(os.getpid()) or 0)
    finally:
        process.kill()
        process.wait()


def test_a_number_that_nobody_has_is_nobody() -> None:
    assert start_of(2**22 + 1) is None


def test_the_environment_names_host_and_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    here = this_process()
    assert here.host.startswith(platform.node())
    monkeypatch.setenv("TIDEGATE_HOST_ID", "told")
    monkeypatch.setenv("TIDEGATE_BOOT_ID", "another")
    other = this_process()
    assert (other.host, other.boot, other.pid) == ("told", "another", here.pid)
    assert not is_provably_gone(here, other)
    monkeypatch.delenv("TIDEGATE_HOST_ID")
    assert is_provably_gone(here, this_process()) == (here.namespace in (INITIAL_NAMESPACE, 0))


# --- containers and walls --------------------------------------------------------------------------

ASK = """
import sys
from tidegate.durable.owner import Owner, is_provably_gone, this_process
here = this_process()
print(here.model_dump_json())
print(is_provably_gone(Owner.model_validate_json(sys.argv[1]), here))
"""


def ask(owner: Owner, *before: str) -> tuple[Owner, bool]:
    """Who somebody else is, started as `before` says, and what he thinks of `owner`."""
    argv = [*before, sys.executable, "-c", ASK, owner.model_dump_json()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    if done.returncode:
        pytest.skip(f"not possible here: {done.stderr.strip().splitlines()[-1]}")
    told, verdict = done.stdout.splitlines()
    return Owner.model_validate_json(told), verdict == "True"


UNSHARED = ("unshare", "--pid", "--fork", "--mount-proc")


def test_a_container_sees_others_under_other_numbers_and_knows_nothing_of_them() -> None:
    with forked(told) as child:
        living = Owner.model_validate_json(child.hear())
        inside, verdict = ask(living, *UNSHARED)
        assert verdict is False, "the living process is not in its table, and not gone"
    assert inside.namespace != living.namespace and inside.boot == living.boot
    _, verdict = ask(living, *UNSHARED)
    assert verdict is False, "it has ended, and nobody in there can know"
    assert not is_provably_gone(inside, this_process()), "nor can we know of one in there"


BOTH = """
import os, subprocess, sys
first = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]], stdout=subprocess.PIPE, text=True)
told = first.communicate()[0].splitlines()[0]
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1], told])
"""


def test_inside_one_container_the_process_table_knows() -> None:
    argv = [*UNSHARED, sys.executable, "-c", BOTH, ASK, this_process().model_dump_json()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    if done.returncode:
        pytest.skip(f"not possible here: {done.stderr}")
    assert done.stdout.splitlines()[1] == "True", "one that ended, asked about by another in the same namespace"


def behind_hidepid() -> None:
    """Become another user, in a mount namespace whose /proc shows him his own processes only."""
    libc = ctypes.CDLL(None, use_errno=True)
    refused = libc.unshare(CLONE_NEWNS) or libc.mount(b"", b"/", None, MS_REC | MS_PRIVATE, None)
    if refused or libc.mount(b"proc", b"/proc", b"proc", 0, b"hidepid=2"):
        raise PermissionError(ctypes.get_errno())
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def test_a_living_process_that_is_hidden_from_us_is_not_gone() -> None:
    """A worker of one user and recovery of another, on a hardened host."""
    here = this_process()
    nobody_there = here.model_copy(update={"pid": 2**22 + 1})

    def look(pipe: Pipe) -> None:
        try:
            behind_hidepid()
        except PermissionError as error:
            pipe.say(f"skip {error}")
            return
        other = this_process()
        pipe.say(start_of(here.pid))
        pipe.say([is_provably_gone(owner, other) for owner in (here, nobody_there, other)])

    with forked(look) as child:
        seen = child.hear()
        if seen.startswith("skip"):
            pytest.skip(f"needs root and the right to mount: {seen}")
        assert seen == "None", "the wall works"
        assert child.hear() == "[False, True, False]"

"""`python -m flows.doctor`: is everything there that runs and their recovery need?

For people, before the first run and when something is odd; `--json` for monitoring. Each check looks at one thing, says
green, yellow or red, and what to do. It starts nothing, and changes nothing but a file that it writes and removes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from rich.console import Console
from rich.text import Text

from flows import access, health, safety, server
from flows.configuration import prefect_home
from flows.doctor_home import doors
from flows.findings import Finding, Findings, Level, bad, good, odd
from flows.site import AUTOMATION, POOL, UPKEEP_INTERVALS
from flows.streams import run_command
from tidegate.durable.home import Home
from tidegate.durable.ledger import Attempt, AttemptState, Ledger
from tidegate.durable.ledger.decide import holds_slot, is_orphaned, is_stuck
from tidegate.durable.owner import this_process
from tidegate.errors import ServerUnavailable, TidegateError
from tidegate.media.ffmpeg import VERSION_SECONDS, Toolchain, version_of
from tidegate.process.cgroup import own_group_folder
from tidegate.process.confine import kernel_features
from tidegate.process.rights import escapes_by_privilege
from tidegate.process.supervise import Job, run
from tidegate.redact import redact_url
from tidegate.report.units import human_size
from tidegate.resilience.breaker import BreakerState
from tidegate.settings import Settings

ENCODERS = ("libx264", "aac")
"""What a transcode needs."""
INTERVALS_MISSED = 3
"""How many intervals may go by without a run of recover or maintain before something is wrong."""
WORST_SKEW = timedelta(seconds=5)
API_SECONDS = 10.0


def main(argv: Sequence[str] | None = None) -> int:
    """Look at everything; 0 when nothing is red."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.doctor", description="Check that everything is there that runs and their recovery need."
    )
    parser.add_argument("--json", action="store_true", dest="as_json", help="one JSON document on stdout")
    words = parser.parse_args(argv)
    findings = list(examine())
    if words.as_json:
        document = {"level": worst(findings), "findings": [finding.model_dump() for finding in findings]}
        print(json.dumps(document, indent=2, ensure_ascii=False))  # noqa: T201
    else:
        Console().print(_render(findings), soft_wrap=True)
    return 1 if worst(findings) is Level.RED else 0


def examine() -> Findings:
    """Every check; one that cannot be made is a finding of its own."""
    try:
        settings = Settings.load()
    except TidegateError as error:
        yield bad("settings", error.message, "mend the variable")
        return
    yield from _run_check("tools", lambda: tools(settings))
    yield from _run_check("store", lambda: store(settings))
    yield from _run_check("doors", lambda: doors(settings))
    yield from _run_check("ledger", lambda: ledger_and_runs(settings))
    yield from _run_check("prefect", lambda: prefect(settings))


def worst(findings: Iterable[Finding]) -> Level:
    levels = {finding.level for finding in findings}
    return next((level for level in (Level.RED, Level.YELLOW) if level in levels), Level.GREEN)


def _run_check(subject: str, check: Callable[[], Findings]) -> Findings:
    try:
        yield from check()
    except TidegateError as error:
        yield bad(subject, error.message, "; ".join(error.policy.actions))
    except Exception as error:  # noqa: BLE001  # a check that fails is what a doctor is asked for
        yield bad(subject, f"{type(error).__name__}: {error}", "look into this first; other checks may depend on it")


def tools(settings: Settings) -> Findings:
    """ffmpeg, the encoders that a transcode needs, and the tools that only some sources need."""
    twitch = shutil.which(settings.tools.twitch_downloader or "TwitchDownloaderCLI")
    yield good(
        "twitch", twitch or "optional: TwitchDownloaderCLI is not installed, so videos of Twitch come through yt-dlp"
    )
    yield from _confinement(settings)
    yield good("memory", _who_holds_caps(settings))
    toolchain = Toolchain.find(settings.tools)
    try:
        build = asyncio.run(version_of(toolchain, settings.process))
    except TidegateError as error:
        yield from _check_without_confinement(toolchain, settings, error)
        return
    yield good("ffmpeg", f"{build} ({toolchain.ffmpeg})")
    if escapes_by_privilege(str(toolchain.ffmpeg)):
        yield odd(
            "confinement",
            f"{toolchain.ffmpeg} gets rights by being started (a snap, or setuid) and runs without confinement",
            "install another ffmpeg, or unset TIDEGATE_TOOLS_FFMPEG to use the bundled one",
        )
    for encoder in ENCODERS:
        if _has_encoder(toolchain, encoder, settings):
            yield good("encoder", encoder)
        else:
            yield bad(
                "encoder", f"this ffmpeg has no {encoder}", "install another ffmpeg, or set TIDEGATE_TOOLS_FFMPEG"
            )


def _confinement(settings: Settings) -> Findings:
    """What the kernel forbids tools, as far as it can, and by trying it."""
    features, subject = kernel_features(), "confinement"
    if settings.process.confine == "off":
        yield odd(subject, "tools may use every file and the network", "unset TIDEGATE_PROCESS_CONFINE")
        return
    if features.landlock or features.seccomp:
        nothing = [sys.executable, "-I", "-S", "-c", ""]
        asyncio.run(run(Job("Python", nothing, VERSION_SECONDS), settings.process))
    if features.whole:
        files = f"write only where they work, and read no home (Landlock {features.landlock})"
        yield good(subject, f"tools {files}; those that need no network have none (seccomp)")
        return
    lacking = [
        *([] if features.landlock else ["they may use every file (no Landlock)"]),
        *([] if features.seccomp else ["those that need no network have it (no seccomp)"]),
    ]
    cure = "Linux 5.13 or newer, with landlock among its LSMs; in a container, a newer engine or its seccomp profile"
    yield odd(subject, f"tools are confined in part: {', '.join(lacking)}", cure)


def _who_holds_caps(settings: Settings) -> str:
    if settings.process.memory_guard != "sampling" and (place := own_group_folder()):
        return f"the kernel holds tools to their memory caps (control groups, version {place.version})"
    every = settings.process.sample_every.total_seconds()
    return f"tools are held to their memory caps by a look every {every:g} s"


def _check_without_confinement(toolchain: Toolchain, settings: Settings, error: TidegateError) -> Findings:
    """An ffmpeg that does not run as it should: does it run without confinement?"""
    free = settings.process.model_copy(update={"confine": "off"})
    try:
        asyncio.run(version_of(toolchain, free))
    except TidegateError:
        yield bad("ffmpeg", error.message, "; ".join(error.policy.actions))
        return
    yield bad(
        "ffmpeg",
        f"{toolchain.ffmpeg} runs only without confinement",
        "set TIDEGATE_PROCESS_ALLOW to the folders of its libraries, or TIDEGATE_PROCESS_CONFINE=off",
    )


def _has_encoder(toolchain: Toolchain, encoder: str, settings: Settings) -> bool:
    words = [str(toolchain.ffmpeg), "-hide_banner", "-h", f"encoder={encoder}"]
    result = asyncio.run(run(Job("ffmpeg", words, VERSION_SECONDS), settings.process))
    return result.stdout.head.startswith(f"Encoder {encoder}")


def store(settings: Settings) -> Findings:
    """The home: can it be written, does it know hard links, is there room?"""
    home = Home(settings.store.home)
    try:
        home.make()
        with tempfile.TemporaryDirectory(dir=home.root, prefix=".doctor-") as folder:
            one = Path(folder, "one")
            one.write_bytes(b"x")
            Path(folder, "two").hardlink_to(one)
    except OSError as error:
        yield bad("store", f"{home.root}: {error}", "TIDEGATE_HOME must be writable and on a volume with hard links")
        return
    yield good("store", f"{home.root} can be written")
    free, floor = shutil.disk_usage(home.root).free, settings.space.free_bytes
    if free < floor:
        yield bad(
            "space",
            f"{human_size(free)} free, and {human_size(floor)} should be",
            "free space; `python -m flows.runs maintain`",
        )
    else:
        yield good("space", f"{human_size(free)} free")


def ledger_and_runs(settings: Settings) -> Findings:
    """The ledger: does it answer, does its clock agree, and is anything left that nobody sees to?"""
    ledger = Ledger.open(settings.ledger, Home(settings.store.home))
    before = time.time()
    now = ledger.now()
    took, skew = time.time() - before, abs(now - (before + time.time()) / 2)
    yield good("ledger", f"answers in {took * 1000:.0f} ms, its schema is up to date")
    if skew > WORST_SKEW.total_seconds():
        yield odd("clock", f"this host and the ledger disagree by {skew:.0f} s", "set the clock (NTP)")
    else:
        yield good("clock", f"agrees with the ledger's within {skew:.1f} s")
    yield from _runs(ledger.open_attempts(), now, settings)
    yield from _upkeep(ledger, now)
    yield from _origins(ledger, settings)


def _origins(ledger: Ledger, settings: Settings) -> Findings:
    """Breakers that are open, and those that somebody has opened and may have forgotten."""
    known = {one.record.origin: one.record.breaker.state for one in ledger.origins.all(this_process(), settings.gate)}
    isolated = [name for name, state in known.items() if state is BreakerState.ISOLATED]
    resting = [name for name, state in known.items() if state in (BreakerState.OPEN, BreakerState.HALF_OPEN)]
    if isolated:
        yield odd("origins", f"blocked by hand: {', '.join(isolated)}", "`python -m flows.origins reset ORIGIN`")
    if resting:
        yield odd("origins", f"paused after failures: {', '.join(resting)}", "`python -m flows.origins` says why")
    if not (isolated or resting):
        yield good("origins", f"{len(known)} known, requests to none of them are paused")


def _runs(attempts: Sequence[Attempt], now: float, settings: Settings) -> Findings:
    here = this_process()
    running = [one for one in attempts if one.state is AttemptState.RUNNING]
    lost = [one for one in running if is_orphaned(one, now, here, settings.ledger)]
    deployed = [one for one in lost if one.deployment is not None]
    if deployed:
        yield odd("runs", f"{len(deployed)} lost runs wait for recovery", "`python -m flows.runs recover`, or a worker")
    if len(lost) > len(deployed):
        count = len(lost) - len(deployed)
        yield odd(
            "runs", f"{count} runs by hand were cut short", "`python -m flows.run --resume`; `python -m flows.runs`"
        )
    late = [one for one in running if one not in lost and is_stuck(one, now, settings.recovery.stuck_after)]
    if late:
        yield bad("runs", f"{len(late)} runs get nowhere", "`python -m flows.runs maintain` ends them as errors")
    leaked = [one for one in lost if one.slot_at is not None and holds_slot(one, now, here, settings.admission)]
    if leaked:
        yield odd(
            "slots", f"{len(leaked)} processing slots are held by runs that are gone", "they free themselves in 2 min"
        )
    if not (lost or late):
        yield good("runs", f"{len(running)} at work, none of them lost or stuck")


def _upkeep(ledger: Ledger, now: float) -> Findings:
    """When recover and maintain last ran, by whoever started them."""
    recent = ledger.recent(timedelta(days=1).total_seconds())
    for name, interval in UPKEEP_INTERVALS.items():
        last = max((one.created_at for one in recent if one.kind == name), default=None)
        if last is None or now - last > INTERVALS_MISSED * interval.total_seconds():
            when = "has not run for 24 h" if last is None else f"last ran {timedelta(seconds=round(now - last))} ago"
            cure = "optional: `make serve`, or a worker on the pool `tidegate`"
            yield odd(name, f"{when} (normal without `make serve`)", cure)
        else:
            yield good(name, f"last ran {timedelta(seconds=round(now - last))} ago")


def prefect(settings: Settings) -> Findings:
    """The server, and what has to be on it for runs to be recovered."""
    home = settings.store.home
    try:
        found = server.found(home)
    except ServerUnavailable as error:
        yield from _settings_in_force(own_server=False)
        yield bad("server", error.message, error.hint)
        return
    yield from _settings_in_force(own_server=found is None)
    if found is None:
        yield odd(
            "server",
            "none is running: each command starts a temporary one, and killed runs are not resumed by themselves",
            "optional: `make serve`",
        )
        yield from _prefect_home()
        return
    yield good("server", f"{redact_url(found.api_url)} answers" + (f" ({found.where})" if found.where else ""))
    yield from _doors(found)
    with health.client(found.api_url, found.client, API_SECONDS) as api:
        _say_who_asks(api)
        yield from _version_and_clock(api)
        yield from _pool(api)
        for name in UPKEEP_INTERVALS:
            yield from _deployment(api, name)
        yield from _deployment(api, "ingest")
        yield from _automation(api)
        yield from _limits(api)


def _prefect_home() -> Findings:
    """A server of our own keeps its database there."""
    folder = prefect_home()
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        yield bad("prefect", f"PREFECT_HOME {folder} cannot be written: {error.strerror}", "set PREFECT_HOME")


def _doors(found: server.Server) -> Findings:
    """One of ours has a password; whoever reaches a server without one can run programs on its workers."""
    if not found.ours and access.stands_open(found.api_url):
        yield bad(
            "server",
            f"{redact_url(found.api_url)} stands open: whoever reaches it, any web page in a browser on its machine "
            "too, can run programs on its workers",
            "start it with PREFECT_SERVER_API_AUTH_STRING=user:password, and set PREFECT_API_AUTH_STRING to the same; "
            "a `make serve` from before it had a password: start it again",
        )


def _say_who_asks(api: httpx.Client) -> None:
    """A server that wants a token against forged requests gives it to who asks; Prefect's client does the same."""
    asker = str(uuid4())
    answer = api.get("csrf-token", params={"client": asker})
    if answer.status_code == httpx.codes.OK:
        api.headers.update({"Prefect-Csrf-Token": answer.json()["token"], "Prefect-Csrf-Client": asker})


def _settings_in_force(*, own_server: bool) -> Findings:
    """What Prefect is told on this host: by the environment, its files, or by us. A running server has settings of its
    own, which it does not tell."""
    readers: list[safety.Reader] = ["run", "worker", "server"] if own_server else ["run", "worker"]
    in_force = safety.effective(*readers)
    hurtful = {one.name: one for reader in readers for one in safety.hurtful(in_force, reader)}
    for one in hurtful.values():
        value = "not set" if one.value is None else one.value
        yield odd("setting", f"{one.name} is {value}. {one.why}", f"set it to {one.better}")
    if not hurtful:
        yield good("setting", "Prefect's settings are safe")


def _version_and_clock(api: httpx.Client) -> Findings:
    answer = api.get("admin/version")
    if answer.status_code == httpx.codes.OK and answer.json() != version("prefect"):  # Prefect Cloud does not tell
        yield odd("server", f"runs Prefect {answer.json()}, this is {version('prefect')}", "use one version everywhere")
    date = answer.headers.get("date")
    if date:
        skew = abs(time.time() - parsedate_to_datetime(date).timestamp())
        if skew > WORST_SKEW.total_seconds():
            yield odd("clock", f"this host and the server disagree by {skew:.0f} s", "set the clock (NTP)")


def _pool(api: httpx.Client) -> Findings:
    pool = api.get(f"work_pools/{POOL}")
    if pool.status_code == httpx.codes.NOT_FOUND:
        yield bad("pool", f"there is no work pool {POOL}", "`make serve`, or see docs/deploy.md")
        return
    if pool.json().get("is_paused"):
        yield bad("pool", f"the work pool {POOL} is paused", f"`prefect work-pool resume {POOL}`")
    workers = api.post(f"work_pools/{POOL}/workers/filter", json={}).raise_for_status().json()
    online = [worker["name"] for worker in workers if worker.get("status") == "ONLINE"]
    if online:
        yield good("worker", f"{len(online)} online: {', '.join(online)}")
    else:
        yield bad("worker", f"none is online on the pool {POOL}", f"`make serve`, or `prefect worker start -p {POOL}`")


def _deployment(api: httpx.Client, name: str) -> Findings:
    answer = api.get(f"deployments/name/{name}/{name}")
    if answer.status_code == httpx.codes.NOT_FOUND:
        yield bad(name, "is not deployed", "`make serve`, or `prefect deploy --all`")
        return
    deployment = answer.raise_for_status().json()
    if deployment.get("paused"):
        yield bad(name, "its deployment is paused", f"`prefect deployment resume {name}/{name}`")
    schedules: list[dict[str, Any]] = deployment.get("schedules", [])
    if name in UPKEEP_INTERVALS and not any(schedule.get("active") for schedule in schedules):
        yield bad(name, "has no active schedule", "switch its schedule on, in the UI or by `prefect deploy --all`")
    elif not deployment.get("paused"):
        yield good(name, "is deployed" + (" and scheduled" if name in UPKEEP_INTERVALS else ""))


def _automation(api: httpx.Client) -> Findings:
    query = {"automations": {"name": {"any_": [AUTOMATION]}}}
    found = api.post("automations/filter", json=query).raise_for_status().json()
    if any(automation["enabled"] for automation in found):
        yield good("automation", "runs without heartbeat are set to Crashed")
    else:
        state = "switched off" if found else "missing"
        yield odd("automation", f"the one that crashes runs without heartbeat is {state}", "`make serve` makes it")


def _limits(api: httpx.Client) -> Findings:
    """Slots that Prefect counts as taken though none of our runs is under way."""
    limits = api.post("v2/concurrency_limits/filter", json={}).raise_for_status().json()
    taken = {limit["name"]: limit["active_slots"] for limit in limits if limit["active_slots"]}
    states = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}}
    under_way = api.post("flow_runs/count", json=states).raise_for_status().json()
    if sum(taken.values()) > under_way:
        taken_slots = ", ".join(f"{name}: {slots}" for name, slots in taken.items())
        yield odd(
            "slots",
            f"more are taken than runs are under way ({taken_slots})",
            "they expire in 5 min; else reset the limit",
        )
    else:
        yield good("slots", "no slot is leaked")


def _render(findings: Sequence[Finding]) -> Text:
    lines = []
    for finding in findings:
        line = f"{finding.subject}: {finding.message}"
        lines.append(Text.assemble((f"● {finding.level:<7}", finding.level.value), line))
        if finding.do:
            lines.append(Text(f"            → {finding.do}", style="dim"))
    lines.append(_verdict(findings))
    return Text("\n").join(lines)


def _verdict(findings: Sequence[Finding]) -> Text:
    """The one line that answers the question."""
    level = worst(findings)
    number = sum(finding.level is level for finding in findings)
    points = f"{number} point{'s' if number > 1 else ''}"
    match level:
        case Level.RED:
            text = f"Not ready: {points} must be fixed (red)."
        case Level.YELLOW:
            text = f"Ready. {points} {'are' if number > 1 else 'is'} optional or worth a look (yellow)."
        case Level.GREEN:
            text = "Ready. Everything is in order."
    return Text(text, style=f"bold {level.value}")


if __name__ == "__main__":
    run_command(main)
